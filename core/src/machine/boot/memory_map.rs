//! The memory map that a kernel is given: what is RAM, and what it must leave alone.
#![forbid(unsafe_code)]

use super::super::devices::map;
use super::low;
use crate::memory::Layout;

/// What a range is. The numbers are those of E820 (ACPI 6.5, table 15.5), which PVH has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum RangeKind {
    Ram = 1,
    Reserved = 2,
}

/// A range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryRange {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: RangeKind,
}

/// The ranges, lowest first. What none of them covers is free for devices.
pub(super) fn memory_map(layout: &Layout) -> Vec<MemoryRange> {
    let range = |start, end, kind| MemoryRange {
        start,
        size: end - start,
        kind,
    };
    let mut out = vec![
        range(0, low::RAM_END, RangeKind::Ram),
        range(low::RAM_END, low::HIGH, RangeKind::Reserved),
    ];
    let mut regions = layout.regions().iter();
    if let Some(first) = regions.next()
        && first.size > low::HIGH
    {
        out.push(range(low::HIGH, first.size, RangeKind::Ram));
    }
    // Linux uses a configuration space only where the map or ACPI says that it is reserved.
    for reserved in [map::ECAM, map::KVM_PAGES] {
        out.push(range(reserved.start, reserved.end, RangeKind::Reserved));
    }
    for region in regions {
        out.push(range(region.gpa, region.gpa + region.size, RangeKind::Ram));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(layout: &Layout) -> u64 {
        let map = memory_map(layout);
        let ram = map.iter().filter(|r| r.kind == RangeKind::Ram);
        ram.map(|r| r.size).sum()
    }

    #[test]
    fn a_small_vm() {
        let layout = Layout::new(64 << 20).unwrap();
        let map = memory_map(&layout);
        let seen: Vec<_> = map.iter().map(|r| (r.start, r.size, r.kind)).collect();
        assert_eq!(
            seen,
            [
                (0, 0x9_fc00, RangeKind::Ram),
                (0x9_fc00, 0x6_0400, RangeKind::Reserved),
                (0x10_0000, 63 << 20, RangeKind::Ram),
                (0xe000_0000, 0x1000_0000, RangeKind::Reserved),
                (0xfffb_c000, 0x4000, RangeKind::Reserved),
            ]
        );
    }

    #[test]
    fn ranges_are_in_order_apart_and_hold_all_ram_but_the_legacy_hole() {
        for size in [2 << 20, 3 << 30, (3 << 30) + 4096, 64 << 30] {
            let layout = Layout::new(size).unwrap();
            let map = memory_map(&layout);
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].size <= pair[1].start, "{pair:?}");
            }
            assert_eq!(ram(&layout), size - (low::HIGH - low::RAM_END));
        }
    }
}
