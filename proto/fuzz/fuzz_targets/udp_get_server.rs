//! Any datagrams from anybody: the server looks up names that are such, reads only what there is, answers nobody who is not
//! on the link, and keeps within its bounds.
//!
//! The input is read as operations: a byte that says which, and its arguments.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use ftx_proto::digest::Digest;
use ftx_proto::engine::serve::ContentKey;
use ftx_proto::interop::udp_get::server::{
    Input, LookupToken, Output, ServedFile, ServerConfig, ServerEngine,
};
use ftx_proto::time::Time;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&seed, mut rest)) = data.split_first() else { return };
    let total_rate = (seed % 2 == 0).then_some(1_000_000 * (u64::from(seed) + 1));
    let config = ServerConfig { total_rate, bursts_max: 5, ..ServerConfig::default() };
    let (mut engine, mut now) = (ServerEngine::new(config, seed.into()), Time::ZERO);
    let mut lookups: Vec<LookupToken> = Vec::new();
    let size = 3_000 * u64::from(seed);
    while let Some((operation, after)) = rest.split_first() {
        rest = after;
        let mut byte = || {
            let (first, after) = rest.split_first().unwrap_or((&0, &[]));
            rest = after;
            *first
        };
        match operation % 8 {
            0..=2 => {
                let (from, len) = (byte(), usize::from(byte()));
                let (bytes, after) = rest.split_at(len.min(rest.len()));
                rest = after;
                let mut datagram = if len % 2 == 0 { b"get ".to_vec() } else { Vec::new() };
                datagram.extend_from_slice(bytes);
                let (from, on_link) = (address(from), from < 200);
                engine.handle(now, Input::Received { from, on_link, bytes: &datagram });
            }
            3 | 4 => {
                let file = ServedFile { content: ContentKey(1), size, sha256: Digest([7; 32]) };
                let file = (byte() % 4 != 0).then_some(file);
                if let Some(token) = lookups.pop() {
                    engine.handle(now, Input::Found { token, file });
                }
            }
            5 => engine.handle(now, Input::Stopped { to: address(byte()) }),
            _ => {
                let end = now + Duration::from_micros(u64::from(byte()) * 50);
                for _ in 0..2000 {
                    let Some(deadline) = engine.deadline().filter(|deadline| *deadline <= end) else { break };
                    now = now.max(deadline);
                    engine.handle(now, Input::Tick);
                    drain(&mut engine, &mut lookups, size);
                }
                now = end;
                engine.handle(now, Input::Tick);
            }
        }
        drain(&mut engine, &mut lookups, size);
        assert!(engine.burst_count() <= 5);
        assert!(engine.deadline().is_none_or(|deadline| deadline > now), "it would wake for ever");
    }
});

fn drain(engine: &mut ServerEngine, lookups: &mut Vec<LookupToken>, size: u64) {
    while let Some(output) = engine.poll() {
        match output {
            Output::Lookup { token, name } => {
                assert!(name.parts().count() > 0);
                lookups.push(token);
            }
            Output::Send { to, datagram } => assert!(is_near(to) && datagram.len() <= 1500),
            Output::SendChunk { to, offset, len, .. } => {
                assert!(is_near(to) && offset + u64::from(len) <= size, "only what there is");
            }
        }
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, number], 4000))
}

fn is_near(addr: SocketAddr) -> bool {
    matches!(addr, SocketAddr::V4(addr) if addr.ip().octets()[3] < 200)
}
