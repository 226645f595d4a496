//! Payloads of frames are read, written, and read again.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dwcp::fuzzing::messages(data));
