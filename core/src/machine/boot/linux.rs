//! What Linux's 64-bit entry needs: boot parameters, a descriptor table, and memory mapped one to one
//! (Linux `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol").
#![forbid(unsafe_code)]

use super::low;
use super::memory_map::{MemoryRange, memory_map};
use crate::error::Result;
use crate::hypervisor::{Entry, Writer};
use crate::memory::{GuestRam, PAGE_BYTES, PAGE_SIZE};

/// What a kernel is told, besides its command line, which lies at its fixed place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Address and length of the initial RAM disk.
    pub(super) initrd: Option<(u64, u64)>,
    /// Bytes of the command line.
    pub(super) cmdline: u32,
}

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// Most ranges that the boot parameters hold.
const RANGES_MAX: usize = 128;

// Offsets in the boot parameters (Linux `arch/x86/include/uapi/asm/bootparam.h`).
/// The setup header, which lies at the same offset in a bzImage.
pub(super) const HEADER: usize = 0x1f1;
const ACPI_ROOT: usize = 0x70;
const INITRD_HIGH: usize = 0xc0;
const INITRD_SIZE_HIGH: usize = 0xc4;
const CMDLINE_HIGH: usize = 0xc8;
const RANGES: usize = 0x1e8;
const LOADER: usize = 0x210;
const INITRD: usize = 0x218;
const INITRD_SIZE: usize = 0x21c;
const CMDLINE: usize = 0x228;
const CMDLINE_SIZE: usize = 0x238;
const RANGE_TABLE: usize = 0x2d0;
/// Bytes of an entry of that table.
const RANGE_SIZE: usize = 20;

/// Overwrites the field of a setup header that lies at `offset` in the boot parameters, if the header
/// reaches so far.
pub(super) fn patch(header: &mut [u8], offset: usize, value: &[u8]) {
    let field = header.get_mut(offset - HEADER..);
    if let Some(field) = field.and_then(|field| field.get_mut(..value.len())) {
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

fn boot_parameters(ram: &GuestRam, header: &[u8], told: &Told) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    let mut put = |at: usize, value: &[u8]| page[at..at + value.len()].copy_from_slice(value);
    put(HEADER, header);
    put(LOADER, &[LOADER_UNDEFINED]);
    put(ACPI_ROOT, &low::ACPI.to_le_bytes());
    put(CMDLINE_SIZE, &told.cmdline.to_le_bytes());
    let (initrd, size) = told.initrd.unwrap_or_default();
    // Numbers that once had 32 bits have their upper half elsewhere.
    for (lower, upper, value) in [
        (CMDLINE, CMDLINE_HIGH, low::CMDLINE),
        (INITRD, INITRD_HIGH, initrd),
        (INITRD_SIZE, INITRD_SIZE_HIGH, size),
    ] {
        let value = value.to_le_bytes();
        put(lower, &value[..4]);
        put(upper, &value[4..]);
    }
    let mut count = 0;
    let ranges = memory_map(ram.layout());
    debug_assert!(ranges.len() <= RANGES_MAX);
    for (index, range) in ranges.iter().take(RANGES_MAX).enumerate() {
        put(RANGE_TABLE + index * RANGE_SIZE, &e820(range));
        count += 1;
    }
    put(RANGES, &[count]);
    page
}

/// An entry of the table.
fn e820(range: &MemoryRange) -> [u8; RANGE_SIZE] {
    let mut out = [0; RANGE_SIZE];
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
    let mut tables = Writer::default();
    // The rest of both upper tables has to be empty, also after a kernel that ran before.
    let mut table = |entries: &[u64]| {
        for index in 0..512 {
            tables.u64(entries.get(index).copied().unwrap_or(0));
        }
    };
    table(&[upper | TABLE]);
    let all: Vec<u64> = (0..DIRECTORIES)
        .map(|index| (directories + index * PAGE_SIZE) | TABLE)
        .collect();
    table(&all);
    for page in 0..DIRECTORIES * 512 {
        tables.u64((page << 21) | LARGE_PAGE);
    }
    ram.write(low::PAGE_TABLES, &tables.0)
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
        const { assert!(low::PAGE_TABLES + 6 * PAGE_SIZE <= low::CMDLINE) };
    }
}
