//! Any datagrams from any servers: the client writes only what is verified, at its place within the content.
//!
//! The input is read as datagrams: who sends it, its length, its bytes.
#![no_main]

use std::net::SocketAddr;

use ftx_proto::interop::udp_get::client::{ClientConfig, ClientEngine, Input, Output};
use ftx_proto::time::Time;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let name = "file".parse().expect("a safe name");
    let mut engine = ClientEngine::new(Time::ZERO, &name, ClientConfig::default()).expect("no space in it");
    let mut rest = data;
    while let Some(([from, high, low], after)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at(len);
        rest = after;
        let from = SocketAddr::from(([10, 77, 0, *from], 10526));
        engine.handle(Time::ZERO, Input::Received { from, bytes });
        while let Some(output) = engine.poll() {
            if let Output::Write { data, .. } = output {
                assert!(bytes.get(data).is_some(), "a part of what was handed in");
            }
        }
    }
});
