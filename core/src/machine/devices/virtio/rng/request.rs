//! A driver's request for randomness: buffers to fill.
#![forbid(unsafe_code)]

use super::super::chain::Chain;
use super::super::device::Handled;
use crate::memory::GuestRam;

/// Bytes of a request that are filled; drivers ask for some dozen, and take less than they asked for. A
/// pause waits for the request in flight.
const MAX_BYTES: u64 = 64 << 10;

/// Fills the start of a chain's buffers.
pub(super) fn carry_out(mut chain: Chain, ram: &GuestRam) -> Handled {
    if chain.writable.is_empty() {
        return Handled::Broken("a request for randomness has no room for any");
    }
    let mut room = chain.writable.take(MAX_BYTES);
    let (mut written, mut bytes) = (0, [0; 4096]);
    while !room.is_empty() {
        let len = usize::try_from(room.len()).map_or(bytes.len(), |len| len.min(bytes.len()));
        if let Err(error) = getrandom::fill(&mut bytes[..len]) {
            // Not after the host has booted. The driver asks again for what it did not get.
            tracing::warn!(%error, "the host gives no randomness");
            break;
        }
        written += room.write(ram, &bytes[..len]);
    }
    Handled::Used(written)
}
