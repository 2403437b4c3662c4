//! Lies about a content, at the levels where nothing else has lied yet, and answers that were right once or elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ftx_proto::wire::session::{DatagramsAt, Message, Refusal, WhichHashes};
use ftx_tests::data::MIB;
use ftx_tests::evil::{Answers, Evil};
use ftx_tests::share::put;
use ftx_tests::{Content, Finished, net};

use super::{NAME, SIZE, expect_dropped, with_an_honest_one};

/// A fetch for which there is nobody else.
fn alone(
    seed: u64,
    twist: impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static,
) -> (Finished, Evil) {
    let net = net!();
    let content = Content::new(seed, SIZE);
    let evil = Evil::start(NAME, &content, |_| {}, twist);
    let target = net.folder().join(NAME);
    let ended = net.get(NAME, &target).args(["--peer", &evil.peer, "--timeout", "3"]).run();
    match ended.status {
        0 => content.expect_in(&target),
        _ => assert!(!target.exists(), "{}", ended.said()),
    }
    (ended, evil)
}

/// Changes the answers to questions for the hashes of pieces.
fn layer(
    change: impl Fn(&mut Vec<u8>) + Send + Sync + Copy + 'static,
) -> impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + Copy + 'static {
    move |message, mut answers| {
        if matches!(message, Message::WantHashes { which: WhichHashes::PieceLayer, .. }) {
            answers.iter_mut().for_each(|(_, payload)| change(payload));
        }
        Some(answers)
    }
}

#[test]
fn hashes_of_pieces_that_are_too_few_too_many_or_in_another_order() {
    let few = layer(|hashes| hashes.truncate(32));
    let many = layer(|hashes| hashes.extend([7; 64]));
    let turned = layer(|hashes| hashes.rotate_left(32));
    let same = layer(|hashes| {
        let first = hashes[..32].to_vec();
        hashes[32..64].copy_from_slice(&first);
    });
    with_an_honest_one(3301, few);
    with_an_honest_one(3302, many);
    let (ended, evil) = alone(3317, many);
    expect_dropped(&ended, &evil, "too many");
    with_an_honest_one(3303, turned);
    alone(3304, few).0.expect_error(7, "integrity");
    alone(3305, turned).0.expect_error(7, "integrity");
    alone(3306, same).0.expect_error(7, "integrity");
}

#[test]
fn hashes_of_pieces_that_never_end() {
    let endless = |message: &Message, mut answers: Answers| {
        if matches!(message, Message::WantHashes { .. }) {
            for (answer, payload) in &mut answers {
                if let Message::Hashes { last, .. } = answer {
                    *last = false;
                    payload.clear();
                }
            }
            let again = answers.clone();
            answers.extend(again);
        }
        Some(answers)
    };
    // The honest one may be asked for them first.
    with_an_honest_one(3307, endless);
    let (ended, evil) = alone(3316, endless);
    expect_dropped(&ended, &evil, "empty frames");
}

#[test]
fn zeros_where_there_are_none() {
    let zeros = |message: &Message, answers: Answers| match *message {
        Message::Request { request, first, count, .. } => {
            // Of each frame of chunks that was asked for, that all of it is zeros.
            let run = |skip: u32| {
                let count = (count - skip).min(16);
                (Message::Zeros { request, first: first + skip, count }, vec![])
            };
            Some((0..count).step_by(16).map(run).collect())
        }
        _ => Some(answers),
    };
    let (fetched, evil, _share) = with_an_honest_one(3308, zeros);
    expect_dropped(&fetched, &evil, "wrong bytes");
    alone(3309, zeros).0.expect_error(7, "integrity");
}

#[test]
fn more_zeros_than_were_asked_for() {
    let zeros = |message: &Message, answers: Answers| match *message {
        Message::Request { request, first, .. } => {
            Some(vec![(Message::Zeros { request, first, count: u32::MAX }, vec![])])
        }
        _ => Some(answers),
    };
    let (fetched, evil, _share) = with_an_honest_one(3310, zeros);
    expect_dropped(&fetched, &evil, "beyond its limit");
}

#[test]
fn a_second_description_with_another_size() {
    let again = |message: &Message, mut answers: Answers| {
        if let Message::Request { root, .. } = *message {
            let describe = Message::Describe { root, size: 5, mtime: (0, 0), executable: true, whole: true };
            answers.insert(0, (describe, vec![]));
        }
        Some(answers)
    };
    // Nobody asked for it; that is no reason to believe it.
    with_an_honest_one(3311, again);
    alone(3312, again);
}

#[test]
fn pieces_that_it_had_once() {
    let forgetful = |message: &Message, mut answers: Answers| {
        match *message {
            Message::Subscribe { root } => {
                for (answer, _) in &mut answers {
                    if let Message::Describe { whole, .. } = answer {
                        *whole = false;
                    }
                }
                answers.push((Message::Have { root, pieces: vec![(0, 7)] }, vec![]));
            }
            Message::Request { request, root, .. } => {
                let reason = Refusal::Missing;
                // It says again that it has them, and again not to.
                return Some(vec![
                    (Message::Refused { request: Some(request), root, reason }, vec![]),
                    (Message::Have { root, pieces: vec![(0, 7)] }, vec![]),
                ]);
            }
            _ => {}
        }
        Some(answers)
    };
    with_an_honest_one(3313, forgetful);
    let (failed, _evil) = alone(3314, forgetful);
    assert!([10, 12].contains(&failed.status), "{}", failed.said());
}

#[test]
fn answers_to_the_request_before() {
    // Right bytes, proved by their hashes, but each time those of the question before.
    let last = Arc::new(std::sync::Mutex::new(Answers::new()));
    let replaying = move |message: &Message, answers: Answers| {
        if !matches!(message, Message::Request { .. }) {
            return Some(answers);
        }
        let mut last = last.lock().expect("nobody panics");
        Some(std::mem::replace(&mut *last, answers))
    };
    with_an_honest_one(3315, replaying);
}

#[test]
fn a_way_for_datagrams_that_leads_elsewhere() {
    let net = net!();
    let content = Content::new(3316, SIZE);
    // Somebody who did not ask to be sent anything.
    let victim = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    victim.set_nonblocking(true).expect("an option");
    let port = victim.local_addr().expect("bound").port();
    let misleading = move |message: &Message, mut answers: Answers| {
        if let Message::OpenDatagrams { root } = *message {
            let at = Some(DatagramsAt { port, connection: 5 });
            answers.push((Message::Datagrams { root, at }, vec![]));
        }
        Some(answers)
    };
    let evil = Evil::start(NAME, &content, |_| {}, misleading);
    let target = net.folder().join(NAME);
    let get = net.get(NAME, &target).args(["--lane", "datagram", "--peer", &evil.peer]);
    get.run().done();
    content.expect_in(&target);
    let (mut count, mut bytes) = (0, [0; 2000]);
    while victim.recv_from(&mut bytes).is_ok() {
        count += 1;
    }
    assert!(count < 200, "{count} datagrams to somebody who never answered");
}

#[test]
fn wrong_hashes_of_a_large_file_in_a_folder() {
    let net = net!();
    let files = [("large", Content::new(3317, 5 * MIB + 1)), ("small", Content::new(3318, 1000))];
    let lies = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&lies);
    let lying = move |message: &Message, mut answers: Answers| {
        if matches!(message, Message::WantHashes { .. }) {
            for (_, payload) in answers.iter_mut().filter(|(_, payload)| payload.len() > 64) {
                payload[40] ^= 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        Some(answers)
    };
    let evil = Evil::of_folder("tree", &files, &[], |_| {}, |_| {}, lying);
    let target = net.folder().join("tree");
    let get = || net.get("tree", &target).args(["--peer", &evil.peer, "--timeout", "2"]).run();
    let failed = get();
    assert!([7, 11].contains(&failed.status), "{}", failed.said());
    assert!(!target.exists(), "{}", failed.said());
    assert!(lies.load(Ordering::Relaxed) > 0, "nobody asked\n{}", failed.said());

    let folder = net.folder();
    for (name, content) in &files {
        put(&folder.join("tree"), name, &content.bytes);
    }
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, "tree");
    get().done();
    for (name, content) in &files {
        content.expect_in(&target.join(name));
    }
}
