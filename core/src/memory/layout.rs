//! Where RAM lies in the guest's physical address space.

use std::ops::Range;

use crate::error::{DWCPError, Result};

/// Size of a page, the unit of dirty tracking and of transfer.
pub(crate) const PAGE_SIZE: u64 = 4096;
/// The same, for lengths in memory.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Start of the range below 4 GiB that is kept free of RAM for devices: room for an ECAM window,
/// 32-bit MMIO, the I/O APIC (0xFEC0_0000) and the local APICs (0xFEE0_0000). Part of the saved
/// format: a VM keeps its layout wherever it moves.
const GAP_START: u64 = 0xC000_0000;
/// End of that range.
const GAP_END: u64 = 1 << 32;

/// A range of page numbers, counted from the start of RAM.
pub(crate) type PageRange = Range<u64>;

/// A contiguous piece of RAM in guest physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RamRegion {
    /// Guest physical address of its first byte.
    pub(crate) gpa: u64,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// Offset of its first byte from the start of RAM.
    pub(crate) offset: u64,
}

/// The layout of one VM's RAM: below the gap, and above 4 GiB what does not fit there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    regions: Vec<RamRegion>,
    size: u64,
}

impl Layout {
    /// The layout of `size` bytes of RAM.
    ///
    /// # Errors
    ///
    /// `invalid_config` when `size` is zero or not a whole number of pages.
    pub(crate) fn new(size: u64) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return Err(DWCPError::Config(format!(
                "memory: {size} bytes is not a positive multiple of {PAGE_SIZE}"
            )));
        }
        let low = size.min(GAP_START);
        let mut regions = vec![RamRegion {
            gpa: 0,
            size: low,
            offset: 0,
        }];
        if size > low {
            regions.push(RamRegion {
                gpa: GAP_END,
                size: size - low,
                offset: low,
            });
        }
        Ok(Self { regions, size })
    }

    /// RAM in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// RAM in pages.
    pub(crate) fn pages(&self) -> u64 {
        self.size / PAGE_SIZE
    }

    /// The pieces of RAM, lowest address first.
    pub(crate) fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// The guest physical address of a RAM offset.
    pub(crate) fn gpa_of(&self, offset: u64) -> Option<u64> {
        self.regions
            .iter()
            .find(|r| (r.offset..r.offset + r.size).contains(&offset))
            .map(|r| r.gpa + (offset - r.offset))
    }

    /// The RAM offset of `len` bytes at guest physical address `gpa`, if all of them are RAM of one
    /// region. This is the check every buffer of a guest passes.
    pub(crate) fn offset_at(&self, gpa: u64, len: u64) -> Option<u64> {
        let end = gpa.checked_add(len)?;
        self.regions
            .iter()
            .find(|r| gpa >= r.gpa && end <= r.gpa + r.size)
            .map(|r| r.offset + (gpa - r.gpa))
    }

    /// The pages of `len` bytes at guest physical address `gpa`, if both are whole pages and all of
    /// the range is RAM of one region. This is the check every length from a peer passes.
    pub(crate) fn pages_at(&self, gpa: u64, len: u64) -> Option<PageRange> {
        if len == 0 || !gpa.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let end = gpa.checked_add(len)?;
        let region = self
            .regions
            .iter()
            .find(|r| gpa >= r.gpa && end <= r.gpa + r.size)?;
        let first = (region.offset + (gpa - region.gpa)) / PAGE_SIZE;
        Some(first..first + len / PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_region() {
        let layout = Layout::new(16 << 20).unwrap();
        assert_eq!(layout.regions().len(), 1);
        assert_eq!(layout.gpa_of((16 << 20) - 1), Some((16 << 20) - 1));
        assert_eq!(layout.gpa_of(16 << 20), None);
    }

    #[test]
    fn large_memory_leaves_the_gap_free() {
        let layout = Layout::new(8 << 30).unwrap();
        assert_eq!(layout.regions().len(), 2);
        assert_eq!(layout.gpa_of(GAP_START - 1), Some(GAP_START - 1));
        assert_eq!(layout.gpa_of(GAP_START), Some(GAP_END));
        assert_eq!(
            layout.pages_at(GAP_END, 8192),
            Some(GAP_START / PAGE_SIZE..GAP_START / PAGE_SIZE + 2)
        );
    }

    #[test]
    fn ranges_outside_ram_are_refused() {
        let layout = Layout::new(8 << 30).unwrap();
        for (gpa, len) in [
            (0, 0),
            (1, PAGE_SIZE),
            (0, 1),
            (GAP_START, PAGE_SIZE),
            (GAP_START - PAGE_SIZE, 2 * PAGE_SIZE),
            (GAP_END - PAGE_SIZE, 2 * PAGE_SIZE),
            (GAP_END + (5 << 30), PAGE_SIZE),
            (0, 1 << 63),
            (u64::MAX - PAGE_SIZE + 1, PAGE_SIZE),
            (PAGE_SIZE, u64::MAX - PAGE_SIZE + 1),
        ] {
            assert_eq!(layout.pages_at(gpa, len), None, "{gpa:#x}+{len:#x}");
        }
    }

    #[test]
    fn buffers_lie_in_one_region() {
        let layout = Layout::new(8 << 30).unwrap();
        assert_eq!(layout.offset_at(5, 7), Some(5));
        assert_eq!(layout.offset_at(GAP_START - 3, 3), Some(GAP_START - 3));
        assert_eq!(layout.offset_at(GAP_END + 1, 1), Some(GAP_START + 1));
        for (gpa, len) in [
            (GAP_START - 3, 4),
            (GAP_START, 1),
            (GAP_END - 1, 2),
            (GAP_END + (5 << 30) - 1, 2),
            (u64::MAX, 1),
            (1, u64::MAX),
        ] {
            assert_eq!(layout.offset_at(gpa, len), None, "{gpa:#x}+{len:#x}");
        }
    }

    #[test]
    fn size_must_be_whole_pages() {
        assert!(Layout::new(0).is_err());
        assert!(Layout::new(4097).is_err());
    }
}
