//! Attacks by what is said: names and reasons that want to write to the terminal, or to forge lines of a log.

use ftx_proto::wire::session::Message;
use ftx_tests::evil::{Answers, Evil};
use ftx_tests::{Content, Finished, net};

use super::NAME;

/// What ends a line, begins another, and moves the cursor.
const FORGED: &str = "me\r\nERROR forged\x1b[2J\x07\u{9b}1A";

/// Fails if anything but text was written, or a line by somebody else.
#[track_caller]
fn expect_text(ended: &Finished) {
    for text in [&ended.stderr, &String::from_utf8_lossy(&ended.stdout).into_owned()] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("ERROR")), "{text:?}");
    }
}

fn named(name: &str, content: &Content, twist: fn(&Message, Answers) -> Option<Answers>) -> Evil {
    Evil::start(name, content, |offer| offer.from.name = FORGED.to_owned(), twist)
}

#[test]
fn a_name_of_a_node_does_not_write_to_the_terminal() {
    let net = net!();
    let content = Content::new(3201, 100_000);
    let evil = named(NAME, &content, |_, answers| Some(answers));
    for verbose in ["-q", "-v", "-vvv"] {
        let target = net.folder().join(NAME);
        let get = net.node(["get", NAME, verbose, "-o"]).arg(&target).args(["--peer", &evil.peer]);
        let fetched = get.run().expect_status(0);
        expect_text(&fetched);
        content.expect_in(&target);
    }
    for look in [&["ls"][..], &["peers"]] {
        let seen = net.node(look).args(["--peer", &evil.peer, "--timeout", "1"]).run();
        assert!(seen.said().contains("forged"), "{}", seen.said());
        expect_text(&seen);
    }
}

#[test]
fn a_reason_does_not_write_to_the_terminal() {
    let net = net!();
    let content = Content::new(3202, 100_000);
    let leaving = |message: &Message, mut answers: Answers| {
        if matches!(message, Message::Request { .. }) {
            answers = vec![(Message::Goodbye(FORGED.to_owned()), vec![])];
        }
        Some(answers)
    };
    let lying = |_: &Message, mut answers: Answers| {
        for (_, payload) in &mut answers {
            payload.iter_mut().take(1).for_each(|byte| *byte ^= 1);
        }
        Some(answers)
    };
    let refusing_the_way_in =
        |_: &Message, _: Answers| Some(vec![(Message::Goodbye(FORGED.to_owned()), vec![])]);
    let twists: [fn(&Message, Answers) -> Option<Answers>; 3] = [leaving, lying, refusing_the_way_in];
    for twist in twists {
        let evil = named(NAME, &content, twist);
        let target = net.folder().join(NAME);
        let get = net.node(["get", NAME, "-vvv", "--timeout", "1", "-o"]).arg(&target);
        let failed = get.args(["--peer", &evil.peer]).run();
        assert_ne!(failed.status, 0, "{}", failed.said());
        expect_text(&failed);
    }
}

#[test]
fn names_in_a_folder_do_not_write_to_the_terminal() {
    let net = net!();
    let name = format!("a{FORGED}");
    let files = [(&name[..], Content::new(3203, 20_000)), ("plain", Content::new(3204, 300))];
    let link = format!("link{FORGED}");
    let links = [(&link[..], "/etc/passwd")];
    let evil =
        Evil::of_folder(&format!("tree{FORGED}"), &files, &links, |_| {}, |_| {}, |_, answers| Some(answers));
    let target = net.folder().join("tree");
    let get = || {
        let get = net.node(["get", &format!("tree{FORGED}"), "-vvv", "--force", "--delete", "-o"]);
        get.arg(&target).args(["--peer", &evil.peer])
    };
    let fetched = get().run().expect_status(0);
    expect_text(&fetched);
    assert!(fetched.stderr.contains("link may lead out"), "{}", fetched.said());
    files[0].1.expect_in(&target.join(&name));
    // What is in the way and what goes is named too.
    std::fs::remove_file(target.join(&name)).expect("it is there");
    std::fs::create_dir(target.join(&name)).expect("made");
    std::fs::write(target.join(format!("more{FORGED}")), "x").expect("written");
    expect_text(&get().run());
}

#[test]
fn names_that_are_pushed_do_not_write_to_the_log() {
    let net = net!();
    let inbox = net.folder();
    let share = ftx_tests::Share::start(
        net.node(["--json", "-vvv", "--tcp-put=127.0.0.1:0", "--striped=127.0.0.1:0", "--inbox"]).arg(&inbox),
    );
    for (service, text) in [
        ("tcp_put", "evil\x1b[2J\x07\u{9b}1A.bin 5\nhello"),
        ("tcp_put", "../\x1b[2J\x07 5\nhello"),
        ("tcp_put", "\x1b[2J\n"),
        ("striped", "GET \x1b[2J\x07\u{9b}1A\r\n\r\n"),
        ("striped", "\x1b[2J\r\n\r\n"),
    ] {
        use std::io::{Read, Write};
        let mut tcp = std::net::TcpStream::connect(share.service(service)).expect("it listens");
        tcp.write_all(text.as_bytes()).expect("sent");
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        let _ = tcp.read_to_end(&mut Vec::new());
    }
    let ended = share.stop();
    assert!(!ended.stderr.contains(|c: char| c.is_control() && c != '\n'), "{:?}", ended.stderr);
}

#[test]
fn a_path_of_our_own_is_one_line_in_the_log() {
    let net = net!();
    let folder = net.folder();
    let state = net.folder().join(format!("state{FORGED}"));
    std::fs::create_dir(&state).expect("made");
    std::fs::write(state.join("hashes.redb"), "this is no database").expect("written");
    ftx_tests::share::put(&folder, NAME, b"something");
    let share = ftx_tests::Share::start(net.node(["--json", "--share"]).arg(&folder).with_state(&state));
    // It looks for what it knows before it hashes.
    share.wait_until_hashed(&net, NAME);
    let ended = share.stop();
    assert!(ended.stderr.contains("damaged"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(|c: char| c.is_control() && c != '\n'), "{:?}", ended.stderr);
    assert!(!ended.stderr.lines().any(|line| line.starts_with("ERROR")), "{}", ended.stderr);
}
