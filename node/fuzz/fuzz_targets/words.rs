//! Places, addresses, quantities.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ftx_node::fuzzing::words(data));
