//! Trouble with an inbox: nodes that put what cannot be, ask for room and give nothing, or want all there is; a full disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ftx_proto::digest::Root;
use ftx_proto::wire::session::{Message, PutRefusal};
use ftx_tests::data::MIB;
use ftx_tests::evil::{Evil, Raw, Stranger};
use ftx_tests::inside::{self, Namespaces};
use ftx_tests::share::put;
use ftx_tests::{Content, Invocation, Share, TestNet, listing, net};

use crate::disk::{expect_error, small_disk};

/// A node called `office` that takes files from everybody, at most 3 MiB of each.
fn office(net: &TestNet, inbox: &Path) -> Share {
    let inbox = inbox.to_str().expect("text");
    let flags = ["--name", "office", "--inbox", inbox, "--inbox-from", "anyone", "--inbox-quota", "3MiB"];
    net.share_with(&net.folder(), &flags)
}

/// Asks for room for 2 MiB that nobody gives.
fn empty_promise(name: &str) -> Message {
    // Nobody takes sessions at this port.
    Message::Put { name: name.parse().expect("a name"), size: 2 * MIB as u64, root: Root([7; 32]), port: 1 }
}

/// What the node says to a put: its last word, or that it has begun to fetch.
async fn answer(raw: &mut Raw) -> Result<u64, PutRefusal> {
    loop {
        match raw.hear().await {
            Message::Putting { bytes } => return Ok(bytes),
            Message::PutRefused { why, .. } => return Err(why),
            _ => {}
        }
    }
}

#[track_caller]
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn putting(net: &TestNet, file: &Path, to: &str) -> Invocation {
    net.node(["put"]).arg(file).args([to, "--json"]).deadline(Duration::from_secs(180))
}

/// Somebody who says what `honest` says of itself, but is at another port: its own, or this one. It counts what is put.
fn impostor(honest: &str, port: Option<u16>) -> (Evil, Arc<AtomicUsize>) {
    let puts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&puts);
    let node = honest.parse().expect("an id");
    let evil = Evil::start(
        "bait",
        &Content::new(2221, 1000),
        move |offer| {
            // Among addresses of IPv4 the last that is heard of is the first that is tried.
            std::thread::sleep(Duration::from_millis(50));
            offer.from.node = node;
            offer.from.name = "office".to_owned();
            offer.from.port = port.unwrap_or(offer.from.port);
        },
        move |message, answers| {
            let Message::Put { name, root, .. } = message else { return Some(answers) };
            counted.fetch_add(1, Ordering::Relaxed);
            Some(vec![(Message::HavePut { root: *root, name: name.clone(), before: true }, vec![])])
        },
    );
    (evil, puts)
}

#[test]
fn who_says_to_be_another_node_gets_nothing() {
    let net = net!();
    let inbox = net.folder();
    let office = office(&net, &inbox);
    let content = Content::new(2222, MIB);
    let file = put(&net.folder(), "report.pdf", &content.bytes);
    let id = office.node().to_owned();
    let (evil, puts) = impostor(&id, None);
    // Nobody takes sessions at this port.
    let (stale, _) = impostor(&id, Some(1));
    let to = |to: &str| {
        putting(&net, &file, to).args(["--peer", &evil.peer, "--peer", &stale.peer, "--timeout", "3"]).run()
    };
    for by in ["office", &id, &id[..12]] {
        let done = to(&format!("ftx://{by}"));
        assert_eq!(done.done()["node"], id, "{}", done.said());
        content.expect_in(&inbox.join(done.done()["name"].as_str().expect("its name")));
    }
    office.stop();
    for by in ["office", &id, &id[..12]] {
        let failed = to(&format!("ftx://{by}"));
        assert_ne!(failed.status, 0, "{}", failed.said());
        assert!(failed.said().contains("it gets nothing"), "{}", failed.said());
    }
    assert_eq!(puts.load(Ordering::Relaxed), 0, "nobody said what there is to an impostor");
}

#[test]
fn names_that_lead_elsewhere_end_the_session_and_names_of_the_node_are_refused() {
    let net = net!();
    let above = net.folder();
    let inbox = above.join("inbox");
    let office = office(&net, &inbox);
    let stranger = Stranger::new(office.port());
    // Names of the same length take the place of these once they are bytes.
    for (good, evil) in [
        ("zz", ".."),
        ("z", "."),
        ("zz/file", "../file"),
        ("zz/file", "zz/file"),
        ("zabsolute", "/absolute"),
        ("back-slash", "back\\slash"),
        ("nul-byte", "nul\0byte"),
        ("z-drive", "c:drive"),
    ] {
        let bytes = empty_promise(good).encode(0);
        let at =
            bytes.windows(good.len()).position(|window| window == good.as_bytes()).expect("it is in there");
        let bytes = [&bytes[..at], evil.as_bytes(), &bytes[at + good.len()..]].concat();
        let farewell = stranger.does(async {
            let mut raw = stranger.session().await;
            raw.send(&bytes).await;
            raw.farewell().await
        });
        assert!(farewell.is_some(), "{evil:?} is against the protocol");
    }
    for name in [".ftx-step", ".x.ftx-part", ".x.ftx-journal"] {
        let refused = stranger.does(async {
            let mut raw = stranger.session().await;
            raw.say(&empty_promise(name)).await;
            answer(&mut raw).await
        });
        assert_eq!(refused, Err(PutRefusal::NotAllowed), "{name}");
    }
    assert_eq!(listing(&above), ["inbox"]);
    assert_eq!(listing(&inbox), [""; 0]);
}

#[test]
fn who_promises_and_gives_nothing_takes_no_room() {
    let net = net!();
    let inbox = net.folder();
    let office = office(&net, &inbox);
    let stranger = Stranger::new(office.port());
    let folder = inbox.join(&stranger.node()[..16]);
    // Gone at once, and once it is being fetched.
    for round in 0..4 {
        stranger.does(async {
            let mut raw = stranger.session().await;
            raw.say(&empty_promise("plan.pdf")).await;
            if round % 2 == 1 {
                assert_eq!(answer(&mut raw).await, Ok(0));
                assert!(folder.join(".plan.pdf.ftx-part").exists(), "it has begun");
            }
        });
        eventually("what nobody gave stays", || listing(&inbox).is_empty());
    }
    // Whoever stays has nothing more from it; and the room is there again.
    let refused = stranger.does(async {
        let mut raw = stranger.session().await;
        raw.say(&empty_promise("other.pdf")).await;
        assert_eq!(answer(&mut raw).await, Ok(0));
        loop {
            if let Message::PutRefused { why, .. } = raw.hear().await {
                return why;
            }
        }
    });
    assert_eq!(refused, PutRefusal::Unreachable);
    eventually("what nobody gave stays", || listing(&inbox).is_empty());
}

#[test]
fn nobody_takes_all_places_or_puts_one_file_twice_at_once_or_more_at_once_than_the_quota() {
    let net = net!();
    let inbox = net.folder();
    let office = office(&net, &inbox);
    let stranger = Stranger::new(office.port());
    let open = |name: String, size: u64| {
        let stranger = &stranger;
        async move {
            let mut raw = stranger.session().await;
            let put =
                Message::Put { name: name.parse().expect("a name"), size, root: Root([7; 32]), port: 1 };
            raw.say(&put).await;
            let said = answer(&mut raw).await;
            (raw, said)
        }
    };
    let first = stranger.does(open("first".to_owned(), 2 * MIB as u64));
    assert_eq!(first.1, Ok(0));
    assert_eq!(stranger.does(open("first".to_owned(), 2 * MIB as u64)).1, Err(PutRefusal::Busy));
    assert_eq!(stranger.does(open("second".to_owned(), 2 * MIB as u64)).1, Err(PutRefusal::Full));

    let mut sessions = vec![first];
    while sessions.last().is_some_and(|(_, said)| said.is_ok()) {
        sessions.push(stranger.does(open(format!("file-{}", sessions.len()), 1000)));
    }
    assert_eq!(sessions.last().expect("one is").1, Err(PutRefusal::Busy));
    assert!(sessions.len() > 4, "several files at once are fine: {}", sessions.len());
    // The others have their places.
    let content = Content::new(2201, MIB);
    let file = put(&net.folder(), "report.pdf", &content.bytes);
    let done = putting(&net, &file, "ftx://office").run();
    content.expect_in(&inbox.join(done.done()["name"].as_str().expect("its name")));
}

#[test]
fn a_disk_that_is_too_small_for_what_is_put_is_told_and_a_larger_one_takes_it() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let content = Content::new(2211, 12 * MIB);
        let file = put(&net.folder(), "report.pdf", &content.bytes);
        let inbox = small_disk(&net, 8);
        let place = inbox.to_str().expect("text");
        let flags = ["--name", "office", "--inbox", place, "--inbox-from", "anyone"];
        let _office = net.share_with(&net.folder(), &flags);
        let state = net.folder();
        let to = || putting(&net, &file, "ftx://office").with_state(&state);
        expect_error(to().run(), 8, "disk_full", &["its disk has no room"]);
        eventually("nothing is left", || listing(&inbox).is_empty());

        // Somebody else fills it in the middle.
        inside::mount(&["-o", "remount,size=16m"], &inbox);
        let mut first = to().args(["--max-upload", "4MB/s"]).start();
        first.wait_for("some of it was there", |event| {
            event["phase"] == "transferring" && event["bytes"].as_u64().unwrap_or(0) > 2 * MIB as u64
        });
        assert!(std::fs::write(inbox.join("greedy"), vec![1; 16 * MIB]).is_err(), "it takes all there is");
        expect_error(first.finish(), 8, "disk_full", &["its disk has no room"]);
        std::fs::remove_file(inbox.join("greedy")).expect("it was there");

        let done = to().run();
        assert!(done.done()["resumed"].as_u64().expect("a number") > 0, "{}", done.said());
        content.expect_in(&inbox.join(done.done()["name"].as_str().expect("its name")));
    });
}
