//! The journal of an upload to a STEP server.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ftx_node::fuzzing::step_upload_journal(data));
