//! TCP put, both sides against each other and against stand-ins, in virtual time.

use std::time::Duration;

use ftx_proto::interop::tcp_put::client::{self, ClientConfig, ClientSession, Failure};
use ftx_proto::interop::tcp_put::server::{self, Reason, ServerConfig, ServerSession};
use ftx_proto::interop::tcp_put::{LINE_SIZE_MAX, PAUSE};
use ftx_proto::time::Time;
use proptest::prelude::*;

/// A server session with a caller that does all at once.
struct Server {
    session: ServerSession,
    now: Time,
    opened: Option<(String, u64)>,
    stored: Vec<u8>,
    said: Vec<(Time, Vec<u8>)>,
    finished: bool,
    closed: Option<Reason>,
}

impl Server {
    fn new() -> Self {
        Server {
            session: ServerSession::new(Time::ZERO, ServerConfig::default()),
            now: Time::ZERO,
            opened: None,
            stored: Vec::new(),
            said: Vec::new(),
            finished: false,
            closed: None,
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.input(server::Input::Received(bytes), bytes);
        }
    }

    fn input(&mut self, input: server::Input<'_>, bytes: &[u8]) {
        self.session.handle(self.now, input);
        while let Some(output) = self.session.poll() {
            assert!(self.closed.is_none(), "nothing comes after the end: {output:?}");
            match output {
                server::Output::Open { name, size } => {
                    self.opened = Some((name.as_str().to_owned(), size));
                    self.session.handle(self.now, server::Input::Opened);
                }
                server::Output::Data(range) => self.stored.extend_from_slice(&bytes[range]),
                server::Output::Send(words) => self.said.push((self.now, words.to_vec())),
                server::Output::Finish => {
                    self.finished = true;
                    self.session.handle(self.now, server::Input::Finished);
                }
                server::Output::Close(reason) => self.closed = Some(reason),
            }
        }
    }

    /// Lets time pass until the session is over.
    fn run(&mut self) -> Reason {
        while self.closed.is_none() {
            self.now = self.session.deadline().expect("it waits for something");
            self.input(server::Input::Tick, &[]);
        }
        assert_eq!(self.session.deadline(), None);
        self.closed.expect("it is over")
    }

    fn words(&self) -> Vec<&[u8]> {
        self.said.iter().map(|(_, words)| words.as_slice()).collect()
    }
}

#[test]
fn an_empty_file_keeps_ready_and_ok_apart() {
    let mut server = Server::new();
    server.hear(b"a\n0\n");
    assert_eq!(server.words(), [b"READY"]);
    assert_eq!(server.run(), Reason::Stored);
    assert_eq!(server.words(), [&b"READY"[..], b"OK"]);
    assert_eq!(server.said[1].0.since(server.said[0].0), PAUSE);
}

#[test]
fn data_after_ready_are_confirmed_at_once() {
    let mut server = Server::new();
    server.hear(b"dir/../a b.txt\r\n");
    server.hear(b" 5 \r\n");
    assert_eq!(server.opened, Some(("a b.txt".into(), 5)));
    server.hear(b"12");
    server.hear(b"345 and more");
    assert_eq!((server.words(), server.closed), (vec![&b"READY"[..], b"OK"], Some(Reason::Stored)));
    assert_eq!(server.stored, b"12345");
    server.hear(b"and more");
}

#[test]
fn bad_lines_are_closed_without_a_word() {
    for (lines, ok) in [
        ("..\n1\n", false),
        ("\n1\n", false),
        ("a/\n1\n", false),
        ("a\0b\n1\n", false),
        ("C:\n1\n", false),
        ("a\n-1\n", false),
        ("a\n+1\n", false),
        ("a\n\n", false),
        ("a\n1x\n", false),
        ("a\n0x10\n", false),
        ("a\n99999999999999999999999999\n", false),
        ("a\n18446744073709551615\n", false),
        ("/etc/passwd\n1\n", true),
        ("..\\..\\x\n1\n", true),
        ("a\n00001\n", true),
    ] {
        let mut server = Server::new();
        server.hear(lines.as_bytes());
        assert_eq!((server.opened.is_some(), server.closed.is_none()), (ok, ok), "{lines:?}");
        assert_eq!(server.said.len(), usize::from(ok));
        assert!(server.opened.is_none_or(|(name, _)| ["passwd", "x", "a"].contains(&name.as_str())));
    }
    let mut server = Server::new();
    server.hear(b"\xff\n1\n");
    assert_eq!(server.closed, Some(Reason::NameEncoding));
}

#[test]
fn lines_without_end_are_cut() {
    for begin in [&b""[..], b"a\n"] {
        let mut server = Server::new();
        server.hear(begin);
        (0..LINE_SIZE_MAX / 64).for_each(|_| server.hear(&[b'1'; 64]));
        assert_eq!(server.closed, None);
        server.hear(b"1");
        assert_eq!(server.closed, Some(Reason::LineTooLong));
    }
}

#[test]
fn who_closes_early_or_is_silent_leaves_nothing() {
    for lines in ["", "a", "a\n", "a\n5", "a\n5\n", "a\n5\n1234"] {
        let mut server = Server::new();
        server.hear(lines.as_bytes());
        server.input(server::Input::Ended, &[]);
        assert!(matches!(server.closed, Some(Reason::CutShort { .. })) && !server.finished, "{lines:?}");
        let mut server = Server::new();
        server.hear(lines.as_bytes());
        assert_eq!(server.run(), Reason::Silent);
        assert!(!server.finished && server.now <= Time::from_origin(Duration::from_secs(60)));
    }
    let mut server = Server::new();
    server.hear(b"a\n0\n");
    server.input(server::Input::Ended, &[]);
    assert_eq!(server.run(), Reason::Stored);
}

#[test]
fn what_cannot_be_stored_is_closed() {
    let mut session = ServerSession::new(Time::ZERO, ServerConfig::default());
    session.handle(Time::ZERO, server::Input::Received(b"a\n3\nxyz"));
    assert!(matches!(session.poll(), Some(server::Output::Open { .. })));
    session.handle(Time::ZERO, server::Input::Failed);
    let rest: Vec<_> = std::iter::from_fn(|| session.poll()).collect();
    assert_eq!(rest, [server::Output::Data(4..7), server::Output::Close(Reason::NotStored)]);
}

#[test]
fn name_and_size_go_apart_after_a_pause() {
    let mut session = ClientSession::new(Time::ZERO, "a.bin", 7, ClientConfig::default()).expect("a name");
    for (ms, words) in [(100, &b"a.bin\n"[..]), (200, b"7\n")] {
        let due = Time::from_origin(Duration::from_millis(ms));
        assert_eq!((session.poll(), session.deadline()), (None, Some(due)));
        session.handle(due, client::Input::Tick);
        assert_eq!(session.poll(), Some(client::Output::Send(words.to_vec())));
    }
    for bad in ["", "a\nb", "a\r", "a\0", &"x".repeat(LINE_SIZE_MAX + 1)] {
        assert!(ClientSession::new(Time::ZERO, bad, 7, ClientConfig::default()).is_err());
    }
}

/// A session that has sent both lines.
fn asked(size: u64) -> (ClientSession, Time) {
    let mut session = ClientSession::new(Time::ZERO, "a", size, ClientConfig::default()).expect("a name");
    for _ in 0..2 {
        let due = session.deadline().expect("a pause");
        session.handle(due, client::Input::Tick);
        assert!(matches!(session.poll(), Some(client::Output::Send(_))));
    }
    (session, Time::from_origin(PAUSE * 2))
}

fn last(session: &mut ClientSession) -> Option<client::Output> {
    std::iter::from_fn(|| session.poll()).last()
}

#[test]
fn every_end_of_a_put_is_told_apart() {
    use client::{Input, Output};
    let failed = |failure| Some(Output::Failed(failure));
    let cases: [(&[Input<'_>], Option<Output>); 9] = [
        (&[Input::Received(b"READY"), Input::Sent, Input::Received(b"OK")], Some(Output::Stored)),
        (&[Input::Received(b"READYOK"), Input::Ended, Input::Sent], failed(Failure::Unexpected)),
        (&[Input::Received(b"READY"), Input::Received(b"OK"), Input::Sent], failed(Failure::Unexpected)),
        (&[Input::Received(b"READY\n"), Input::Sent, Input::Received(b"\nOK\n")], Some(Output::Stored)),
        (&[Input::Ended], failed(Failure::Refused)),
        (&[Input::Received(b"REA"), Input::Ended], failed(Failure::Refused)),
        (&[Input::Received(b"NO")], failed(Failure::Unexpected)),
        (&[Input::Received(b"READY"), Input::Ended], failed(Failure::NotConfirmed)),
        (
            &[Input::Received(b"READY"), Input::Sent, Input::Received(b"O"), Input::Ended],
            failed(Failure::NotConfirmed),
        ),
    ];
    for (inputs, end) in cases {
        let (mut session, now) = asked(3);
        inputs.iter().for_each(|&input| session.handle(now, input));
        assert_eq!(last(&mut session), end, "{inputs:?}");
    }
    // Of an empty file there is nothing more to be sent.
    let (mut session, now) = asked(0);
    let inputs = [Input::Received(b"READYOK"), Input::Ended, Input::Sent];
    inputs.iter().for_each(|&input| session.handle(now, input));
    assert_eq!(last(&mut session), Some(Output::Stored));
    let (mut session, _) = asked(3);
    let due = session.deadline().expect("patience has an end");
    session.handle(due, Input::Tick);
    assert_eq!((last(&mut session), session.deadline()), (failed(Failure::Silent), None));
}

proptest! {
    #[test]
    fn any_segmentation_stores_the_same(
        data in prop::collection::vec(any::<u8>(), 0..200),
        more in prop::collection::vec(any::<u8>(), 0..20),
        mut cuts in prop::collection::vec(0usize..230, 0..10),
    ) {
        let bytes = [format!("n\n{}\n", data.len()).as_bytes(), &data, &more].concat();
        cuts.retain(|&cut| cut < bytes.len());
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut server = Server::new();
        for pair in cuts.windows(2) {
            if server.closed.is_none() {
                server.hear(&bytes[pair[0]..pair[1]]);
            }
        }
        prop_assert_eq!(server.run(), Reason::Stored);
        prop_assert_eq!(server.stored, data);
        prop_assert_eq!(server.said.len(), 2);
    }

    #[test]
    fn the_words_of_a_server_may_be_cut_anywhere(cuts in prop::collection::vec(0usize..8, 0..4)) {
        let mut cuts = [cuts, vec![0, 7]].concat();
        cuts.sort_unstable();
        let (mut session, now) = asked(0);
        for pair in cuts.windows(2).filter(|pair| pair[0] < pair[1]) {
            session.handle(now, client::Input::Received(&b"READYOK"[pair[0]..pair[1]]));
        }
        session.handle(now, client::Input::Sent);
        prop_assert_eq!(last(&mut session), Some(client::Output::Stored));
    }

    #[test]
    fn garbage_is_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..20)) {
        let mut server = Server::new();
        let (mut session, now) = asked(9);
        for piece in &pieces {
            server.hear(piece);
            session.handle(now, client::Input::Received(piece));
        }
        prop_assert!(server.stored.len() <= pieces.concat().len());
    }
}
