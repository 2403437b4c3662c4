//! Any bytes from a server that takes files: the client sends its name, its size and the file, in that order and once, and
//! believes only READY and OK.
#![no_main]

use std::time::Duration;

use ftx_proto::interop::tcp_put::client::{ClientConfig, ClientSession, Input, Output};
use ftx_proto::time::Time;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut session) = ClientSession::new(Time::ZERO, "name", 5, ClientConfig::default()) else { return };
    let (mut now, mut rest, mut over) = (Time::ZERO, data, false);
    let (mut sends, mut files, mut heard) = (0, 0, Vec::new());
    while let Some((operation, after)) = rest.split_first() {
        rest = after;
        let input = match operation % 8 {
            0 => Input::Ended,
            1 if files > 0 => Input::Sent,
            2 | 3 => {
                let (millis, after) = rest.split_first().unwrap_or((&0, &[]));
                rest = after;
                now = now + Duration::from_millis(u64::from(*millis) * 10);
                Input::Tick
            }
            _ => {
                let (bytes, after) = rest.split_at(usize::from(operation / 8).min(rest.len()));
                rest = after;
                if bytes.is_empty() {
                    continue;
                }
                // Line ends around the words do not count.
                heard.extend(bytes.iter().filter(|byte| !byte.is_ascii_whitespace()));
                Input::Received(bytes)
            }
        };
        session.handle(now, input);
        while let Some(output) = session.poll() {
            assert!(!over, "nothing comes after the end");
            match output {
                Output::Send(line) => {
                    assert_eq!(line, [&b"name\n"[..], b"5\n"][sends], "in its order, and once");
                    sends += 1;
                }
                Output::SendFile => {
                    assert!(sends == 2 && heard.starts_with(b"READY"));
                    files += 1;
                }
                Output::Stored => {
                    assert!(files == 1 && heard.starts_with(b"READYOK"));
                    over = true;
                }
                Output::Failed(_) => over = true,
            }
        }
        assert!(over || session.deadline().is_none_or(|deadline| deadline > now), "it would wake for ever");
    }
});
