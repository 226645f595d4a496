//! A driver does anything to a device's registers and rings.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dwcp::fuzzing::virtio_mmio(data));
