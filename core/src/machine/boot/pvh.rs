//! What a PVH entry needs: the start info, with the memory map and the modules (Xen
//! `xen/include/public/arch-x86/hvm/start_info.h`, version 1).
#![forbid(unsafe_code)]

use super::linux::Told;
use super::low;
use super::memory_map::memory_map;
use crate::error::Result;
use crate::hypervisor::{Entry, Writer};
use crate::memory::GuestRam;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// Writes all of it; where the first vCPU begins.
pub(super) fn write(ram: &GuestRam, entry: u32, told: &Told) -> Result<Entry> {
    let ranges = memory_map(ram.layout());
    let mut map = Writer::default();
    for range in &ranges {
        map.u64(range.start);
        map.u64(range.size);
        map.u32(range.kind as u32);
        map.u32(0);
    }
    debug_assert!(low::PVH_MEMORY_MAP + map.0.len() as u64 <= low::ZERO_PAGE);
    ram.write(low::PVH_MEMORY_MAP, &map.0)?;

    let mut modules = Writer::default();
    if let Some((address, size)) = told.initrd {
        for field in [address, size, 0, 0] {
            modules.u64(field);
        }
    }
    ram.write(low::MODULES, &modules.0)?;

    let mut info = Writer::default();
    for field in [MAGIC, VERSION, 0, u32::from(told.initrd.is_some())] {
        info.u32(field);
    }
    for field in [low::MODULES, low::CMDLINE, low::ACPI, low::PVH_MEMORY_MAP] {
        info.u64(field);
    }
    // A handful, whatever the size of the memory.
    info.u32(u32::try_from(ranges.len()).unwrap_or(0));
    info.u32(0);
    debug_assert!(low::START_INFO + info.0.len() as u64 <= low::MODULES);
    ram.write(low::START_INFO, &info.0)?;
    Ok(Entry::Pvh {
        entry,
        start_info: low::START_INFO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    fn read(ram: &GuestRam, gpa: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        ram.read(gpa, &mut out).unwrap();
        out
    }

    #[test]
    fn the_start_info_says_where_everything_is() {
        let ram = GuestRam::allocate(5 << 30, Backing::Memfd).unwrap();
        let told = Told {
            initrd: Some((0x1234_5000, 0x678)),
            cmdline: 3,
        };
        let entry = write(&ram, 0x100_0000, &told).unwrap();
        let pvh = Entry::Pvh {
            entry: 0x100_0000,
            start_info: 0x6000,
        };
        assert_eq!(entry, pvh);
        let info = read(&ram, 0x6000, 56);
        let u32_at = |at: usize| u32::from_le_bytes(info[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
        assert_eq!((u32_at(0), u32_at(4), u32_at(12)), (0x336e_c578, 1, 1));
        assert_eq!((u64_at(24), u64_at(32)), (0x2_0000, 0xe_0000));
        assert_eq!(
            ram.read_words::<2>(u64_at(16)),
            Ok([0x1234_5000, 0x678]),
            "the module"
        );
        assert_eq!(u32_at(48), 6);
        let last = ram.read_words::<3>(u64_at(40) + 5 * 24);
        assert_eq!(last, Ok([1 << 32, 2 << 30, 1]), "RAM above the gap");
        write(&ram, 0x100_0000, &Told::default()).unwrap();
        assert_eq!(read(&ram, 0x600c, 4), [0; 4], "no module");
    }
}
