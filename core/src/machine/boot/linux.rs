//! What Linux's 64-bit entry needs: boot parameters, a descriptor table, and memory mapped one to one
//! (Linux `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol").
#![forbid(unsafe_code)]

use super::bzimage::HEADER;
use super::low;
use super::memory_map::{MemoryRange, memory_map};
use crate::error::Result;
use crate::hypervisor::Entry;
use crate::memory::{GuestRam, PAGE_SIZE};

/// What a kernel is told, besides its command line, which lies at its fixed place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Address and length of the initial RAM disk.
    pub(super) initrd: Option<(u64, u64)>,
    /// Bytes of the command line.
    pub(super) cmdline: usize,
}

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// Most ranges that the boot parameters hold.
const RANGES_MAX: usize = 128;

// Offsets in the boot parameters (Linux `arch/x86/include/uapi/asm/bootparam.h`).
const ACPI_ROOT: u64 = 0x70;
const INITRD_HIGH: u64 = 0xc0;
const INITRD_SIZE_HIGH: u64 = 0xc4;
const RANGES: u64 = 0x1e8;
const LOADER: u64 = 0x210;
const INITRD: u64 = 0x218;
const INITRD_SIZE: u64 = 0x21c;
const CMDLINE: u64 = 0x228;
const CMDLINE_SIZE: u64 = 0x238;
const RANGE_TABLE: u64 = 0x2d0;

/// Overwrites the field of a setup header that lies at `offset` in the boot parameters, if the header
/// reaches so far.
pub(super) fn patch(header: &mut [u8], offset: u64, value: &[u8]) {
    let at = usize::try_from(offset - HEADER).unwrap_or(usize::MAX);
    let field = header.get_mut(at..).and_then(|f| f.get_mut(..value.len()));
    if let Some(field) = field {
        field.copy_from_slice(value);
    }
}

/// A setup header for a kernel that brings none: an ELF file.
pub(super) fn bare_header() -> Vec<u8> {
    let mut header = vec![0; 0x268 - 0x1f1];
    patch(&mut header, 0x1fe, &0xaa55u16.to_le_bytes());
    patch(&mut header, 0x202, b"HdrS");
    patch(&mut header, 0x206, &0x020fu16.to_le_bytes());
    patch(&mut header, 0x211, &[1]);
    patch(&mut header, 0x230, &0x100_0000u32.to_le_bytes());
    header
}

/// Writes all of it; where the first vCPU begins.
pub(super) fn write(ram: &GuestRam, entry: u64, header: &[u8], told: &Told) -> Result<Entry> {
    ram.write(low::ZERO_PAGE, &boot_parameters(ram, header, told))?;
    write_descriptors(ram)?;
    write_page_tables(ram)?;
    Ok(Entry::Kernel64 {
        entry,
        boot_params: low::ZERO_PAGE,
        stack: low::STACK,
        page_table: low::PAGE_TABLES,
        descriptors: low::DESCRIPTORS,
    })
}

fn boot_parameters(ram: &GuestRam, header: &[u8], told: &Told) -> [u8; PAGE_SIZE as usize] {
    let mut page = [0; PAGE_SIZE as usize];
    let mut put = |offset: u64, value: &[u8]| {
        let at = offset as usize;
        page[at..at + value.len()].copy_from_slice(value);
    };
    put(HEADER, header);
    put(LOADER, &[LOADER_UNDEFINED]);
    put(ACPI_ROOT, &low::ACPI.to_le_bytes());
    put(CMDLINE, &(low::CMDLINE as u32).to_le_bytes());
    put(CMDLINE_SIZE, &(told.cmdline as u32).to_le_bytes());
    let (address, size) = told.initrd.unwrap_or_default();
    let halves = |value: u64| {
        (
            (value as u32).to_le_bytes(),
            ((value >> 32) as u32).to_le_bytes(),
        )
    };
    let ((address_low, address_high), (size_low, size_high)) = (halves(address), halves(size));
    put(INITRD, &address_low);
    put(INITRD_HIGH, &address_high);
    put(INITRD_SIZE, &size_low);
    put(INITRD_SIZE_HIGH, &size_high);
    let ranges = memory_map(ram.layout());
    debug_assert!(ranges.len() <= RANGES_MAX);
    put(RANGES, &[ranges.len().min(RANGES_MAX) as u8]);
    for (index, range) in (0u64..).zip(ranges.iter().take(RANGES_MAX)) {
        put(RANGE_TABLE + index * 20, &e820(range));
    }
    page
}

/// An entry of the table: 20 bytes.
fn e820(range: &MemoryRange) -> [u8; 20] {
    let mut out = [0; 20];
    out[..8].copy_from_slice(&range.start.to_le_bytes());
    out[8..16].copy_from_slice(&range.size.to_le_bytes());
    out[16..].copy_from_slice(&(range.kind as u32).to_le_bytes());
    out
}

/// The table with the segments that the protocol names: code 0x10, data 0x18, both flat.
fn write_descriptors(ram: &GuestRam) -> Result<()> {
    const CODE: u64 = 0x00af_9b00_0000_ffff; // long mode, read and execute, accessed
    const DATA: u64 = 0x00cf_9300_0000_ffff; // read and write, accessed
    for (index, descriptor) in (0u64..).zip([0, 0, CODE, DATA]) {
        ram.write(low::DESCRIPTORS + index * 8, &descriptor.to_le_bytes())?;
    }
    Ok(())
}

/// Maps the first 4 GiB one to one, in pages of 2 MiB.
fn write_page_tables(ram: &GuestRam) -> Result<()> {
    const TABLE: u64 = 0x03; // writable, present
    const LARGE_PAGE: u64 = 0x83; // large, writable, present
    const DIRECTORIES: u64 = 4;
    let upper = low::PAGE_TABLES + PAGE_SIZE;
    let directories = upper + PAGE_SIZE;
    // The rest of both upper tables has to be empty, also after a kernel that ran before.
    let mut tables = vec![0; 2 * PAGE_SIZE as usize];
    tables[..8].copy_from_slice(&(upper | TABLE).to_le_bytes());
    for index in 0..DIRECTORIES {
        let at = (PAGE_SIZE + index * 8) as usize;
        let directory = (directories + index * PAGE_SIZE) | TABLE;
        tables[at..at + 8].copy_from_slice(&directory.to_le_bytes());
    }
    for page in 0..DIRECTORIES * 512 {
        tables.extend_from_slice(&((page << 21) | LARGE_PAGE).to_le_bytes());
    }
    ram.write(low::PAGE_TABLES, &tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    fn number<const N: usize>(ram: &GuestRam, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        ram.read(gpa, &mut bytes[..N]).unwrap();
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn the_boot_parameters_say_where_everything_is() {
        let ram = GuestRam::allocate(256 << 20, Backing::Memfd).unwrap();
        ram.write(low::ZERO_PAGE, &[0xff; 4096]).unwrap();
        let told = Told {
            initrd: Some((0x0fff_f000, 77)),
            cmdline: 23,
        };
        let entry = write(&ram, 0x100_0200, &bare_header(), &told).unwrap();
        assert!(matches!(
            entry,
            Entry::Kernel64 {
                entry: 0x100_0200,
                boot_params: 0x7000,
                ..
            }
        ));
        let at = |offset: u64| low::ZERO_PAGE + offset;
        assert_eq!(number::<8>(&ram, at(0x70)), 0xe_0000);
        assert_eq!(
            number::<4>(&ram, at(0x202)),
            u64::from(u32::from_le_bytes(*b"HdrS"))
        );
        assert_eq!(number::<1>(&ram, at(0x210)), 0xff);
        assert_eq!(number::<4>(&ram, at(0x218)), 0x0fff_f000);
        assert_eq!(number::<4>(&ram, at(0x21c)), 77);
        assert_eq!(number::<4>(&ram, at(0x228)), 0x2_0000);
        assert_eq!(number::<4>(&ram, at(0x238)), 23);
        assert_eq!(number::<4>(&ram, at(0xc0)), 0);
        // RAM, reserved, RAM, and two ranges of devices.
        assert_eq!(number::<1>(&ram, at(0x1e8)), 5);
        assert_eq!(number::<8>(&ram, at(0x2d0 + 40)), 0x10_0000);
        assert_eq!(number::<8>(&ram, at(0x2d0 + 48)), 255 << 20);
        assert_eq!(number::<4>(&ram, at(0x2d0 + 56)), 1);
        assert_eq!(
            number::<8>(&ram, at(0x2d0 + 100)),
            0,
            "what was there before"
        );
    }

    #[test]
    fn four_gib_are_mapped_one_to_one() {
        let ram = GuestRam::allocate(2 << 20, Backing::Memfd).unwrap();
        write_page_tables(&ram).unwrap();
        let step = |table: u64, index: u64| number::<8>(&ram, table + index * 8);
        for address in [0u64, 0x20_0000, 0x1234_5678, 0xffff_ffff] {
            let upper = step(low::PAGE_TABLES, 0) & !0xfff;
            let directory = step(upper, address >> 30) & !0xfff;
            let entry = step(directory, address >> 21 & 511);
            assert_eq!(entry & !0xff, address & !0x1f_ffff);
            assert_eq!(entry & 0xff, 0x83);
        }
        assert_eq!(step(low::PAGE_TABLES, 1), 0);
        assert_eq!(step(low::PAGE_TABLES + 4096, 4), 0);
        assert!(low::PAGE_TABLES + 6 * 4096 <= low::CMDLINE);
    }
}
