//! The file of the users of STEP.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ftx_node::fuzzing::step_users(data));
