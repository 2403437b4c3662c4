//! What a peer seals in a session.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ftx_node::fuzzing::frames(data));
