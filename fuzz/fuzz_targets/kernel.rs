//! A kernel's file is looked at before it is loaded.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dwcp::fuzzing::kernel(data));
