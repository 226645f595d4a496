//! Sessions of a node and of a client are given operations.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dwcp::fuzzing::sessions(data));
