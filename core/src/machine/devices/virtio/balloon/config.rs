//! What driver and device tell each other by a balloon's configuration space.
#![forbid(unsafe_code)]

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

pub(super) const ID: u32 = VIRTIO_ID_BALLOON;

// `linux/virtio_balloon.h`; the crate of bindings does not have them.
/// The driver tells figures about the guest's memory.
const F_STATS_VQ: u64 = 1 << 1;
/// The driver takes pages out of the balloon before the guest runs out of memory.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;

/// What is offered. Not that the host must be told before a page is used again: it need not know.
pub(super) const FEATURES: u64 = F_STATS_VQ | F_DEFLATE_ON_OOM;

/// Where the driver writes how many pages it lends.
const ACTUAL: u64 = 4;

/// The space: pages that are wanted, pages that are lent.
pub(super) fn space(target: u32, actual: u32) -> [u8; 8] {
    (u64::from(actual) << 32 | u64::from(target)).to_le_bytes()
}

/// What the driver says it lends, if that is what it wrote: the field is written whole.
pub(super) fn written(offset: u64, data: &[u8]) -> Option<u32> {
    let data = <[u8; 4]>::try_from(data).ok()?;
    (offset == ACTUAL).then(|| u32::from_le_bytes(data))
}
