//! What a peer sends in a migration is read.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dwcp::fuzzing::migration(data));
