//! What a driver reads of a disk: feature bits and the configuration space.
#![forbid(unsafe_code)]

use virtio_bindings::bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::super::queue::MAX_QUEUE_SIZE;
use crate::hypervisor::Writer;

pub(super) const ID: u32 = VIRTIO_ID_BLOCK;

/// Buffers of data in a request: those of the longest chain, without the header and the status.
const MAX_SEGMENTS: u32 = MAX_QUEUE_SIZE as u32 - 2;
/// Bytes of such a buffer.
const MAX_SEGMENT: u32 = 64 << 10;
/// Bytes of a request: just below 16 MiB. A pause waits for the requests in flight, so they are not
/// to take long.
pub(super) const MAX_DATA: u64 = MAX_SEGMENTS as u64 * MAX_SEGMENT as u64;

/// Ranges of a request that gives sectors back.
pub(super) const MAX_DISCARDS: u32 = 16;
/// Sectors of such a range: 1 GiB, some milliseconds of a file system's work.
pub(super) const MAX_DISCARD: u32 = 2 << 20;
/// Ranges of a request that writes zeros.
pub(super) const MAX_ZEROES: u32 = 1;
/// Sectors of such a range: 16 MiB, for on some file systems it is written out.
pub(super) const MAX_ZERO: u32 = 32 << 10;

/// Bytes of a block: what disks of 512 bytes sectors have, and what every guest can boot from.
const BLOCK_SIZE: u32 = 512;
/// The host's files are best written in pages: 2³ blocks.
const PAGE_EXPONENT: u8 = 3;

pub(super) fn features(read_only: bool) -> u64 {
    let always = 1 << VIRTIO_BLK_F_SIZE_MAX
        | 1 << VIRTIO_BLK_F_SEG_MAX
        | 1 << VIRTIO_BLK_F_BLK_SIZE
        | 1 << VIRTIO_BLK_F_TOPOLOGY
        | 1 << VIRTIO_BLK_F_FLUSH;
    always
        | match read_only {
            true => 1 << VIRTIO_BLK_F_RO,
            false => 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
        }
}

/// Whether a driver that accepted these features has its writes made durable by flushes.
pub(super) fn driver_flushes(features: u64) -> bool {
    features & 1 << VIRTIO_BLK_F_FLUSH != 0
}

/// The configuration space of a disk of so many sectors: `struct virtio_blk_config`, in version 1.2 of
/// the specification up to what its features make known.
pub(super) fn space(capacity: u64) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(capacity);
    out.u32(MAX_SEGMENT);
    out.u32(MAX_SEGMENTS);
    out.u32(0); // geometry: none
    out.u32(BLOCK_SIZE);
    out.u8(PAGE_EXPONENT);
    out.u8(0); // of the first aligned block
    out.u16(1 << PAGE_EXPONENT); // least
    out.u32(0); // and best blocks of a request: nothing to tell
    out.u8(0); // write-back: not the driver's to choose
    out.u8(0);
    out.u16(1); // queues
    out.u32(MAX_DISCARD);
    out.u32(MAX_DISCARDS);
    out.u32(1 << PAGE_EXPONENT); // sectors that discards are best aligned to
    out.u32(MAX_ZERO);
    out.u32(MAX_ZEROES);
    out.u8(1); // zeros may give sectors back
    out.bytes(&[0; 3]);
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_is_laid_out_as_the_specification_says() {
        // `linux/virtio_blk.h`: the fields of 1.2 up to `unused1`.
        let space = space(0x0102_0304_0506_0708);
        assert_eq!(space.len(), 60);
        let word = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
        assert_eq!(space[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!((word(8), word(12)), (64 << 10, 254));
        assert_eq!(word(20), 512);
        assert_eq!(space[24], 3);
        assert_eq!(space[34..36], [1, 0]);
        assert_eq!((word(36), word(40)), (2 << 20, 16));
        assert_eq!((word(48), word(52), space[56]), (32 << 10, 1, 1));
    }
}
