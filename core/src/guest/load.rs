//! Putting the built-in guest into a VM's memory.

use super::layout::{Block, CODE, PAGE_TABLES, words};
use super::options::PulseOptions;
use super::program;
use crate::error::Result;
use crate::memory::{GuestRam, PAGE_SIZE};

/// Where its vCPUs begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Address of the first instruction, the same for all vCPUs.
    pub(crate) entry: u64,
    /// Guest physical address of the top page table.
    pub(crate) page_table: u64,
}

/// Writes code, page tables and the vCPUs' blocks. The memory to be filled is not touched.
pub(crate) fn load(
    ram: &GuestRam,
    cpus: u32,
    tsc_khz: u32,
    options: &PulseOptions,
) -> Result<Loaded> {
    ram.write(CODE, program::code())?;
    let paces = options.paces(ram.size(), cpus, tsc_khz);
    for (index, pace) in (0u32..).zip(&paces) {
        let mut block = [0; words::FILLED + 8];
        let mut put = |at: usize, value: u64| {
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        put(words::FIRST, pace.first);
        put(words::END, pace.end);
        put(words::WORKING_END, pace.working_end);
        put(words::TICKS_PER_PAGE, pace.ticks_per_page);
        put(words::TICKS_PER_BEAT, pace.ticks_per_beat);
        put(words::SPIN, u64::from(pace.spin));
        ram.write(Block(index).address(), &block)?;
    }
    write_page_tables(ram)?;
    Ok(Loaded {
        entry: CODE,
        page_table: PAGE_TABLES,
    })
}

/// Maps RAM, without the hole below 4 GiB, from virtual address 0 on, in pages of 2 MiB that ring 3
/// may read and write. Accessed and dirty bits are set from the start: the processor never has to
/// write these tables, so they are not dirtied.
fn write_page_tables(ram: &GuestRam) -> Result<()> {
    const TABLE: u64 = 0x27; // accessed, user, writable, present
    const LARGE_PAGE: u64 = 0xe7; // large, dirty, accessed, user, writable, present
    const LARGE: u64 = 2 << 20;
    let upper = PAGE_TABLES + PAGE_SIZE;
    let directories = upper + PAGE_SIZE;
    let entry = |at: u64, value: u64| ram.write(at, &value.to_le_bytes());
    entry(PAGE_TABLES, upper | TABLE)?;
    for index in 0..ram.size().div_ceil(1 << 30) {
        entry(upper + index * 8, (directories + index * PAGE_SIZE) | TABLE)?;
    }
    for index in 0..ram.size().div_ceil(LARGE) {
        if let Some(gpa) = ram.layout().gpa_of(index * LARGE) {
            entry(directories + index * 8, gpa | LARGE_PAGE)?;
        }
    }
    Ok(())
}
