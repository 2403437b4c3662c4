//! Whatever a striped server does, the client's order of events holds: stripes never overlap, what is complete is whole,
//! and after the end nothing comes.
#![no_main]

use std::time::Duration;

use ftx_proto::interop::striped::Threads;
use ftx_proto::interop::striped::download::{DownloadConfig, DownloadEngine, Input, Output, StripeEnd};
use ftx_proto::interop::striped::reply::{ReplyError, ReplyParser};
use ftx_proto::time::Time;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&count, mut rest)) = data.split_first() else { return };
    let Ok(threads) = Threads::new(u64::from(count % 9)) else { return };
    let mut engine = DownloadEngine::new(Time::ZERO, threads, DownloadConfig::default());
    let (mut now, mut over, mut reading) = (Time::ZERO, false, [None; 9]);
    drain(&mut engine, &mut over, &mut reading);
    while let Some((operation, after)) = rest.split_first() {
        rest = after;
        let mut byte = || {
            let (first, after) = rest.split_first().unwrap_or((&0, &[]));
            rest = after;
            *first
        };
        let input = match operation % 8 {
            0 => Input::Replied(reply(byte(), byte())),
            1 | 2 => Input::Connected { stripe: byte() },
            3 => Input::ConnectFailed { stripe: byte() },
            4 | 5 => {
                let stripe = byte();
                // The caller reads only what it was told to, and no more than it may.
                let Some(Some((skip, len_max))) = reading.get(usize::from(stripe)).copied() else { continue };
                let end = [StripeEnd::Closed, StripeEnd::Broken, StripeEnd::TooLong][usize::from(byte() % 3)];
                let len = skip.max(len_max.min(u64::from(byte()) << (byte() % 20)));
                reading[usize::from(stripe)] = None;
                Input::Ended { stripe, len, end }
            }
            _ => {
                now = now + Duration::from_millis(u64::from(byte()) * 50);
                Input::Tick
            }
        };
        engine.handle(now, input);
        drain(&mut engine, &mut over, &mut reading);
        assert!(over || engine.deadline().is_none_or(|deadline| deadline > now), "it would wake for ever");
    }
});

fn drain(engine: &mut DownloadEngine, over: &mut bool, reading: &mut [Option<(u64, u64)>; 9]) {
    while let Some(output) = engine.poll() {
        assert!(!*over, "nothing comes after the end");
        match output {
            Output::Read { stripe, at, skip, len_max } => {
                assert!(skip <= len_max && at.checked_add(len_max).is_some());
                let place = reading.get_mut(usize::from(stripe)).expect("one of them");
                assert!(place.replace((skip, len_max)).is_none(), "one reads it already");
            }
            Output::Abandon => *reading = [None; 9],
            Output::Complete { size, .. } => {
                assert!(size <= DownloadConfig::default().size_max);
                *over = true;
            }
            Output::Failed(_) => *over = true,
            Output::Ask | Output::Connect { .. } | Output::SendId { .. } | Output::Close { .. } => {}
        }
    }
}

/// A reply as one comes, or an error.
fn reply(which: u8, port: u8) -> Result<ftx_proto::interop::striped::reply::Reply, ReplyError> {
    if which % 8 == 0 {
        return Err(ReplyError::Refused { status: 404 });
    }
    let body = format!("{},{}", "0123456789abcdef".repeat(2), 1000 + u16::from(port));
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut parser = ReplyParser::new();
    parser.push(text.as_bytes()).unwrap_or_else(|| parser.end())
}
