//! A driver asks a source of randomness for anything.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dwcp::fuzzing::virtio_rng(data));
