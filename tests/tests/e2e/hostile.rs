//! Clients and peers that do not keep to the protocol: whoever can reach the node's ports can send anything.
//!
//! What is asked of the node is always the same: it goes on serving the others, a fetch with one honest source ends with
//! the right bytes, the evil one is named where something is proved against it, and a fetch from evil ones only ends in
//! time with a status that says what happened.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use ftx_proto::digest::Root;
use ftx_proto::wire::discovery::{Datagram, OfferedRoot, Query, Want};
use ftx_proto::wire::session::{Message, Refusal, RequestId, WhichHashes};
use ftx_tests::data::MIB;
use ftx_tests::evil::{Answers, Evil, PAUSE, Raw, Stranger};
use ftx_tests::share::copies;
use ftx_tests::{Content, Finished, Share, TestNet, net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const NAME: &str = "image.iso";

/// Whole pieces and a last chunk of one byte.
pub(crate) const SIZE: usize = 6 * MIB + 1;

/// How long a fetch waits that nobody feeds, and what it may take in all.
const TIMEOUT: &str = "3";
const IN_TIME: Duration = Duration::from_secs(3 + 12);

pub(crate) fn shared(net: &TestNet, seed: u64, flags: &[&str]) -> (Content, Share) {
    let content = Content::new(seed, SIZE);
    let share = net.share_with(&copies(net, 1, NAME, &content.bytes)[0], flags);
    share.wait_until_hashed(net, NAME);
    (content, share)
}

#[track_caller]
pub(crate) fn still_serves(net: &TestNet, content: &Content) {
    let target = net.folder().join(NAME);
    net.get(NAME, &target).run().done();
    content.expect_in(&target);
}

fn root(content: &Content) -> Root {
    content.root().parse().expect("a root")
}

fn request(number: u64, root: Root, first: u32, count: u32) -> Message {
    Message::Request { request: RequestId(number), root, first, count }
}

// ---------------------------------------------------------------------------------------------------------- clients

#[test]
fn garbage_instead_of_a_handshake() {
    let net = net!();
    let (content, share) = shared(&net, 1901, &["-v"]);
    let stranger = Stranger::new(share.port());
    // No TLS at all, TLS cut off in the middle of a record, a record longer than any, and nothing.
    let hellos: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 2, 0, 1, 0], &[22, 3, 3, 255, 255, 7, 7, 7], &[]];
    for bytes in hellos {
        stranger.does(async {
            let mut tcp = stranger.connect().await;
            tcp.write_all(bytes).await.expect("sent");
            tcp.shutdown().await.expect("finished");
            // An alert or nothing, and then the end.
            let mut rest = Vec::new();
            let _ = tcp.read_to_end(&mut rest).await;
        });
    }
    for protocols in [&[b"h2" as &[u8]][..], &[]] {
        stranger.does(async {
            let Ok(mut stream) = stranger.handshake(protocols).await else { return };
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "a peer that speaks something else is told something");
        });
    }
    still_serves(&net, &content);
    let log = share.process().stderr();
    assert!(log.contains("did not become a session"), "the log does not tell\n{log}");
}

#[test]
fn frames_that_are_none() {
    let net = net!();
    let (content, share) = shared(&net, 1902, &[]);
    let stranger = Stranger::new(share.port());
    let unknown = [0, 0, 0, 1, 0, 0, 0, 0, 200];
    let trailing = [0, 0, 0, 3, 0, 0, 0, 0, 12, 1, 1];
    let with_payload = [0, 0, 0, 2, 0, 0, 0, 4, 12, 1, 7, 7, 7, 7];
    for bytes in [
        &[255; 8][..],
        &[0, 1, 0, 1, 0, 0, 0, 0],
        &[0, 0, 0, 1, 0, 4, 0, 1],
        &unknown,
        &trailing,
        &with_payload,
    ] {
        stranger.does(async {
            let mut session = stranger.session().await;
            session.send(bytes).await;
            let reason = session.farewell().await;
            assert!(reason.is_some(), "no reason was given for {bytes:?}");
        });
    }
    // Cut off in the middle of a frame.
    stranger.does(async {
        let mut session = stranger.session().await;
        session.send(&[0, 0, 0, 9, 0]).await;
        session.finish().await;
        session.farewell().await;
    });
    still_serves(&net, &content);
    let log = share.process().stderr();
    assert_eq!(log.matches("session closed").count(), 6, "each is in the log with its reason\n{log}");
}

#[test]
fn messages_that_are_not_for_clients() {
    let net = net!();
    let (content, share) = shared(&net, 1903, &[]);
    let stranger = Stranger::new(share.port());
    let root = root(&content);
    let subscribe = Message::Subscribe { root };
    let which = WhichHashes::Leaves { piece: 7 };
    let hashes = Message::WantHashes { request: RequestId(1), root, which };
    let stories: [&[Message]; 8] = [
        &[Message::Have { root, pieces: vec![(0, 1)] }],
        &[Message::Pong(1)],
        &[subscribe.clone(), subscribe.clone()],
        &[subscribe.clone(), request(1, root, 385, 1)],
        &[subscribe.clone(), request(1, root, 384, 2)],
        &[subscribe.clone(), request(1, root, u32::MAX, u32::MAX)],
        &[subscribe.clone(), request(1, root, 0, 0)],
        &[subscribe.clone(), hashes],
    ];
    for story in stories {
        let reason = stranger.does(async {
            let mut session = stranger.session().await;
            for message in story {
                session.say(message).await;
            }
            session.farewell().await
        });
        assert!(reason.is_some(), "no reason was given for {story:?}");
    }
    still_serves(&net, &content);
}

#[test]
fn what_was_not_subscribed_to_is_refused_and_the_session_goes_on() {
    let net = net!();
    let (content, share) = shared(&net, 1904, &[]);
    let stranger = Stranger::new(share.port());
    stranger.does(async {
        let mut session = stranger.session().await;
        session.say(&request(1, root(&content), 0, 1)).await;
        let refused = session.hear().await;
        assert!(matches!(refused, Message::Refused { reason: Refusal::Unknown, .. }), "{refused:?}");
        session.say(&Message::Subscribe { root: Root([9; 32]) }).await;
        let refused = session.hear().await;
        assert!(
            matches!(refused, Message::Refused { request: None, reason: Refusal::Unknown, .. }),
            "{refused:?}"
        );
        session.say(&Message::Ping(5)).await;
        assert_eq!(session.hear().await, Message::Pong(5));
    });
}

#[test]
fn ten_thousand_requests_and_not_a_look_at_the_answers() {
    let net = net!();
    let (content, share) = shared(&net, 1905, &[]);
    let stranger = Stranger::new(share.port());
    let root = root(&content);
    let greedy = async |first_number: u64, same: bool| -> Raw {
        let mut session = stranger.session().await;
        session.say(&Message::Subscribe { root }).await;
        for number in 0..10_000 {
            let number = if same { first_number } else { first_number + number };
            if !session.try_say(&request(number, root, 0, 385)).await {
                break;
            }
        }
        session
    };
    let mut all_different = stranger.does(greedy(0, false));
    let mut all_the_same = stranger.does(greedy(7, true));
    still_serves(&net, &content);
    // Both are over: whoever now reads comes to an end.
    stranger.does(all_different.farewell());
    stranger.does(all_the_same.farewell());
    let log = share.process().stderr();
    assert_eq!(log.matches("too many requests at once").count(), 2, "{log}");
    still_serves(&net, &content);
}

#[test]
fn six_hundred_connections_that_say_nothing() {
    let net = net!();
    let (content, share) = shared(&net, 1906, &[]);
    let stranger = Stranger::new(share.port());
    let mut silent = Vec::new();
    stranger.does(async {
        for _ in 0..600 {
            silent.push(stranger.connect().await);
        }
    });
    still_serves(&net, &content);
}

#[test]
fn six_hundred_sessions_that_want_nothing() {
    let net = net!();
    let (content, share) = shared(&net, 1907, &[]);
    let stranger = Stranger::new(share.port());
    let mut idle = Vec::new();
    stranger.does(async {
        // As many as there are places: each is a real session.
        for _ in 0..512 {
            idle.push(stranger.session().await);
        }
    });
    still_serves(&net, &content);
}

#[test]
fn garbage_at_the_ports_of_discovery() {
    let net = net!();
    let (content, share) = shared(&net, 1908, &[]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.set_broadcast(true).expect("an option");
    let query =
        Datagram::Query(Query { nonce: 1, instance: ftx_proto::digest::Instance(1), want: Want::All })
            .encode();
    let noise = Content::new(1, 60_000).bytes;
    let mut trailing = query.clone();
    trailing.push(0);
    let mut padded = query.clone();
    padded[1199] = 1;
    let garbage: Vec<&[u8]> =
        vec![b"", b"F", b"FTX1", &noise[..1200], &noise, &query[..1199], &query[..40], &trailing, &padded];
    for _ in 0..200 {
        for datagram in &garbage {
            for to in [(Ipv4Addr::LOCALHOST, share.port()), (Ipv4Addr::new(127, 255, 255, 255), net.port())] {
                // A full buffer is no matter.
                let _ = socket.send_to(datagram, to);
            }
        }
    }
    still_serves(&net, &content);
}

// ------------------------------------------------------------------------------------------------------------ peers

/// A fetch from an evil source and an honest one that is slow enough for both to be asked.
pub(crate) fn with_an_honest_one(
    seed: u64,
    twist: impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static,
) -> (Finished, Evil, Share) {
    let net = net!();
    let (content, share) = shared(&net, seed, &["--max-upload", "3M"]);
    let evil = Evil::start(NAME, &content, |_| {}, twist);
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).args(["--peer", &evil.peer]).run();
    fetched.done();
    content.expect_in(&target);
    assert_eq!(fetched.of_source(share.node(), "bad"), 0, "an honest one is blamed\n{}", fetched.said());
    (fetched, evil, share)
}

/// A fetch for which there is nobody but an evil source.
fn alone(
    seed: u64,
    twist: impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static,
) -> Finished {
    let net = net!();
    let content = Content::new(seed, SIZE);
    let evil = Evil::start(NAME, &content, |_| {}, twist);
    let target = net.folder().join(NAME);
    let failed = net.get(NAME, &target).args(["--peer", &evil.peer, "--timeout", TIMEOUT]).run();
    failed.last("error");
    assert!(!target.exists(), "{}", failed.said());
    assert!(failed.elapsed < IN_TIME, "{}", failed.said());
    failed
}

#[track_caller]
pub(crate) fn expect_dropped(fetched: &Finished, evil: &Evil, why: &str) {
    let dropped = fetched.events.iter().any(|event| {
        event["event"] == "source"
            && event["state"] == "dropped"
            && event["node"] == evil.node[..]
            && event["reason"].as_str().is_some_and(|reason| reason.contains(why))
    });
    assert!(dropped, "the evil one was not dropped since '{why}'\n{}", fetched.said());
}

/// Changes the chunks that are sent.
fn chunks(
    change: impl Fn(&mut Message, &mut Vec<u8>) + Send + Sync + 'static,
) -> impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static {
    move |_, mut answers| {
        for (message, payload) in &mut answers {
            if matches!(message, Message::Chunks { .. }) {
                change(message, payload);
            }
        }
        Some(answers)
    }
}

/// Answers a `Subscribe` and then does something else.
fn after_describe(
    more: impl Fn(Root) -> Answers + Send + Sync + 'static,
) -> impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static {
    move |message, mut answers| {
        if let Message::Subscribe { root } = message {
            answers.extend(more(*root));
        }
        Some(answers)
    }
}

#[test]
fn chunks_that_nobody_asked_for() {
    let (fetched, evil, _share) = with_an_honest_one(
        1911,
        chunks(|message, _| {
            if let Message::Chunks { request, .. } = message {
                request.0 += 100_000;
            }
        }),
    );
    expect_dropped(&fetched, &evil, "nobody asked for");
}

#[test]
fn chunks_of_the_wrong_length() {
    let (fetched, evil, _share) = with_an_honest_one(
        1912,
        chunks(|_, payload| {
            payload.pop();
            if payload.is_empty() {
                payload.extend([7, 7]);
            }
        }),
    );
    expect_dropped(&fetched, &evil, "other chunks");
}

#[test]
fn other_chunks_than_those_asked_for() {
    let (fetched, evil, _share) = with_an_honest_one(
        1913,
        chunks(|message, _| {
            if let Message::Chunks { first, .. } = message {
                *first = if *first < 128 { 256 } else { 0 };
            }
        }),
    );
    expect_dropped(&fetched, &evil, "other chunks");
}

#[test]
fn chunks_that_come_again_and_again() {
    let (fetched, evil, _share) = with_an_honest_one(1914, |message, answers| {
        let times = if matches!(message, Message::Request { .. }) { 2 } else { 1 };
        Some(answers.into_iter().flat_map(|answer| std::iter::repeat_n(answer, times)).collect())
    });
    // Twice within a request, or once more after its end.
    expect_dropped(&fetched, &evil, "it sent chunks");
}

#[test]
fn a_wrong_byte_in_every_chunk() {
    let wrong = || chunks(|_, payload| payload.chunks_mut(16_384).for_each(|chunk| chunk[0] ^= 1));
    let (fetched, evil, _share) = with_an_honest_one(1915, wrong());
    expect_dropped(&fetched, &evil, "wrong bytes");
    assert!(fetched.of_source(&evil.node, "bad") > 0, "{}", fetched.said());
    alone(1916, wrong()).expect_error(7, "integrity");
}

#[test]
fn wrong_hashes() {
    let wrong = |of_layer: bool| {
        move |message: &Message, mut answers: Answers| {
            for (answer, payload) in &mut answers {
                let layer = matches!(message, Message::WantHashes { which: WhichHashes::PieceLayer, .. });
                match answer {
                    Message::Hashes { .. } if layer == of_layer => payload[0] ^= 1,
                    // So that somebody asks for leaves at all.
                    Message::Chunks { .. } => payload[0] ^= 1,
                    _ => {}
                }
            }
            Some(answers)
        }
    };
    alone(1917, wrong(true)).expect_error(7, "integrity");
    alone(1918, wrong(false)).expect_error(7, "integrity");
    with_an_honest_one(1919, wrong(true));
    with_an_honest_one(1920, wrong(false));
}

#[test]
fn hashes_that_nobody_asked_for() {
    let (fetched, evil, _share) = with_an_honest_one(
        1921,
        after_describe(|_| {
            let request = RequestId((1 << 63) | 3);
            vec![(Message::Hashes { request, first: 0, last: false }, vec![7; 32])]
        }),
    );
    expect_dropped(&fetched, &evil, "hashes that nobody asked for");
}

#[test]
fn another_size_in_the_session() {
    let twist = |_: &Message, mut answers: Answers| {
        for (message, _) in &mut answers {
            if let Message::Describe { size, .. } = message {
                *size += 1;
            }
        }
        Some(answers)
    };
    let (fetched, evil, _share) = with_an_honest_one(1922, twist);
    expect_dropped(&fetched, &evil, "bytes");
    alone(1923, twist).expect_error(12, "timeout");
}

#[test]
fn pieces_that_do_not_exist() {
    let (fetched, evil, _share) = with_an_honest_one(
        1924,
        after_describe(|root| vec![(Message::Have { root, pieces: vec![(0, u32::MAX); 4096] }, vec![])]),
    );
    expect_dropped(&fetched, &evil, "does not exist");
}

#[test]
fn a_flood_of_small_messages() {
    with_an_honest_one(
        1925,
        after_describe(|root| {
            let of_one_kind = |message: Message| std::iter::repeat_n((message, vec![]), 20_000);
            let refused = Message::Refused { request: Some(RequestId(5)), root, reason: Refusal::Missing };
            of_one_kind(Message::Have { root, pieces: vec![(0, 6)] })
                .chain(of_one_kind(Message::Ping(1)))
                .chain(of_one_kind(refused))
                .collect()
        }),
    );
}

#[test]
fn messages_that_are_not_for_servers() {
    let (fetched, evil, _share) =
        with_an_honest_one(1926, after_describe(|root| vec![(Message::Subscribe { root }, vec![])]));
    expect_dropped(&fetched, &evil, "only the asking side");
}

#[test]
fn requests_that_are_never_answered() {
    let silent = |message: &Message, answers: Answers| {
        Some(if matches!(message, Message::Request { .. }) { vec![] } else { answers })
    };
    with_an_honest_one(1927, silent);
    alone(1928, silent).expect_error(12, "timeout");
}

#[test]
fn a_peer_that_says_nothing_at_all() {
    with_an_honest_one(1929, |_, _| Some(vec![]));
    alone(1930, |_, _| Some(vec![])).expect_error(12, "timeout");
}

#[test]
fn a_peer_that_closes_whatever_it_is_asked() {
    let closing =
        |message: &Message, answers: Answers| matches!(message, Message::Subscribe { .. }).then_some(answers);
    with_an_honest_one(1931, closing);
    // It comes and goes as long as anybody lets it; that feeds nobody.
    alone(1932, closing).expect_error(12, "timeout");
}

#[test]
fn a_peer_that_answers_extremely_slowly() {
    with_an_honest_one(1935, |message, mut answers| {
        if matches!(message, Message::Request { .. }) {
            answers = answers.into_iter().flat_map(|answer| [PAUSE, answer]).collect();
        }
        Some(answers)
    });
}

#[test]
fn one_chunk_of_a_request_and_never_more() {
    let stingy = |message: &Message, mut answers: Answers| {
        if let (Message::Request { .. }, Some((_, payload))) = (message, answers.first_mut()) {
            payload.truncate(16_384);
            answers.truncate(1);
        }
        Some(answers)
    };
    with_an_honest_one(1933, stingy);
}

#[test]
fn peers_that_refuse_everything() {
    for (seed, reason) in [
        (1941, Refusal::Busy { retry_after_ms: u32::MAX }),
        (1943, Refusal::Missing),
        (1945, Refusal::Unknown),
    ] {
        let refusing = move |message: &Message, answers: Answers| match *message {
            Message::Request { request, root, .. } | Message::WantHashes { request, root, .. } => {
                Some(vec![(Message::Refused { request: Some(request), root, reason }, vec![])])
            }
            _ => Some(answers),
        };
        with_an_honest_one(seed, refusing);
        let failed = alone(seed + 1, refusing);
        assert!([10, 12].contains(&failed.status), "{}", failed.said());
    }
    let unknown = |message: &Message, answers: Answers| match *message {
        Message::Subscribe { root } => {
            Some(vec![(Message::Refused { request: None, root, reason: Refusal::Unknown }, vec![])])
        }
        _ => Some(answers),
    };
    with_an_honest_one(1947, unknown);
    alone(1948, unknown).expect_error(10, "refused");
}

#[test]
fn a_borrowed_identity_does_no_harm_to_its_owner() {
    let net = net!();
    let (content, share) = shared(&net, 1951, &["--max-upload", "3M"]);
    let owner = Stranger::new(share.port());
    let owner = owner.does(owner.announce());
    assert_eq!(owner.node.to_string(), share.node());
    // It announces the id and instance of the honest one at its own port, and lies about every chunk.
    let wrong = chunks(|_, payload| payload[0] ^= 1);
    let borrowed = move |offer: &mut ftx_proto::wire::discovery::Offer| {
        offer.from.node = owner.node;
        offer.from.instance = owner.instance;
    };
    let evil = Evil::start(NAME, &content, borrowed, wrong);
    let target = net.folder().join(NAME);

    let fetched = net.get(NAME, &target).args(["--peer", &evil.peer]).run();

    content.expect_in(&target);
    assert_eq!(fetched.of_source(share.node(), "bytes"), content.size(), "{}", fetched.said());
    assert_eq!(fetched.sources().len(), 1, "{}", fetched.said());
}

#[test]
fn an_offer_of_another_size_can_be_chosen_away() {
    let net = net!();
    let (content, share) = shared(&net, 1952, &[]);
    let evil = Evil::start(NAME, &content, |offer| offer.entries[0].size += 1, |_, answers| Some(answers));
    let target = net.folder().join(NAME);
    let get = || net.get(NAME, &target).args(["--peer", &evil.peer, "--timeout", TIMEOUT]);

    let ambiguous = get().run();
    assert!([0, 4].contains(&ambiguous.status), "{}", ambiguous.said());
    get().args(["--force", "--from", share.node()]).run().done();
    content.expect_in(&target);
}

#[test]
fn offers_of_nonsense() {
    let net = net!();
    let content = Content::new(1953, SIZE);
    // Nothing at all and more than there can be are contradictions; of one byte it may turn out.
    for size in [0, u64::MAX, 1] {
        let wrong = move |offer: &mut ftx_proto::wire::discovery::Offer| offer.entries[0].size = size;
        let evil = Evil::start(NAME, &content, wrong, |_, answers| Some(answers));
        let target = net.folder().join(NAME);
        let failed = net.get(NAME, &target).args(["--peer", &evil.peer, "--timeout", TIMEOUT]).run();
        let failed = if size == 1 { failed } else { failed.expect_error(3, "not_found") };
        failed.last("error");
        assert!(failed.elapsed < IN_TIME, "{}", failed.said());
        assert!(!target.exists(), "{}", failed.said());
    }
    let hashing = |offer: &mut ftx_proto::wire::discovery::Offer| {
        offer.entries[0].root = OfferedRoot::Hashing(u64::MAX);
    };
    let evil = Evil::start(NAME, &content, hashing, |_, answers| Some(answers));
    let target = net.folder().join(NAME);
    let failed = net.get(NAME, &target).args(["--peer", &evil.peer, "--timeout", TIMEOUT]).run();
    failed.last("error");
    assert!(failed.elapsed < IN_TIME, "{}", failed.said());
}
