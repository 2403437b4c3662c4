//! The journal of an upload that a client of STEP makes here.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ftx_node::fuzzing::step_store_journal(data));
