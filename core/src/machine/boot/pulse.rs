//! The built-in guest.
#![forbid(unsafe_code)]

use super::Hardware;
use crate::error::Result;
use crate::guest::{self, Block, PulseOptions};
use crate::hypervisor::Entry;
use crate::memory::GuestRam;

/// Loads it; all its vCPUs begin at once, each with a block of its own.
pub(super) fn load(
    ram: &GuestRam,
    hardware: &Hardware<'_>,
    options: &PulseOptions,
) -> Result<Vec<Entry>> {
    let loaded = guest::load(ram, hardware.cpus, hardware.tsc_khz, options)?;
    let entries = (0..hardware.cpus).map(|index| Entry::User64 {
        entry: loaded.entry,
        argument: Block(index).address(),
        page_table: loaded.page_table,
    });
    Ok(entries.collect())
}
