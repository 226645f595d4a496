//! What the fuzzers run.

pub(crate) fn fuzz_frames(_data: &[u8]) {}
pub(crate) fn fuzz_session(_data: &[u8]) {}
