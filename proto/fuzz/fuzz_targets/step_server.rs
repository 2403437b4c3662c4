//! Any bytes from a client, however they are cut: the session goes on or closes, its backlog stays bounded, and the
//! cut makes no difference to what it answers.
#![no_main]

use ftx_proto::interop::step::server::{Input, Output, ServerSession};
use ftx_proto::interop::step::store::{Denial, StoreAnswer};
use ftx_proto::interop::step::token::Authenticator;
use ftx_proto::interop::step::value::{LocalTime, WallTime};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = outputs(bytes, bytes.len().max(1));
    let in_parts = outputs(bytes, usize::from(*cut).max(1));
    assert_eq!(whole, in_parts);
});

/// What the session says to `bytes`, fed in parts of `len`, with a store that does nothing.
fn outputs(bytes: &[u8], len: usize) -> Vec<Output> {
    let local = LocalTime { year: 2026, month: 11, day: 21, hour: 20, minute: 38, second: 0 };
    let now = WallTime { unix_seconds: 1_795_293_480, local };
    let mut session = ServerSession::new(Authenticator::Classic, [7; 32], now);
    let mut said = Vec::new();
    for part in bytes.chunks(len) {
        let mut part = part;
        while !part.is_empty() {
            let (now_fed, later) = part.split_at(part.len().min(64 * 1024));
            part = later;
            session.handle(now, Input::Received(now_fed));
            while let Some(output) = session.poll() {
                let answer = match &output {
                    Output::Store(_) => Some(Input::StoreDone(StoreAnswer::Denied(Denial::Busy))),
                    Output::VerifyPassword { .. } => Some(Input::PasswordVerified(false)),
                    Output::Send(_) | Output::Close(_) => None,
                };
                said.push(output);
                if let Some(answer) = answer {
                    session.handle(now, answer);
                }
            }
        }
    }
    said
}
