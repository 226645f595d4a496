//! A stream of bytes is cut into frames.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dwcp::fuzzing::frames(data));
