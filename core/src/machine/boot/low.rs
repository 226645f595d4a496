//! Where in low memory lies what a kernel is told.
//!
//! Below 640 KiB is RAM that a kernel may use once it has read these; from there to 1 MiB the memory
//! map says "reserved", so the ACPI tables stay. Kernels themselves are loaded from 1 MiB on.
#![forbid(unsafe_code)]

/// The descriptor table that the 64-bit entry needs.
pub(super) const DESCRIPTORS: u64 = 0x500;
/// PVH: the start info, then the module list and the memory map.
pub(super) const START_INFO: u64 = 0x6000;
/// PVH: the module list.
pub(super) const MODULES: u64 = 0x6040;
/// PVH: the memory map, up to the zero page.
pub(super) const PVH_MEMORY_MAP: u64 = 0x6080;
/// Linux's boot parameters, called the zero page for where they once lay.
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// The stack that the 64-bit entry begins with; grows down to the zero page.
pub(super) const STACK: u64 = 0x8ff0;
/// The identity map: one table, one above each, then a directory for each GiB.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The command line, and its end.
pub(super) const CMDLINE: u64 = 0x2_0000;
/// End of the RAM below 1 MiB: where a BIOS would keep its data (EBDA).
pub(super) const RAM_END: u64 = 0x9_fc00;
/// The ACPI root pointer, in the range that is searched for it, then the tables.
pub(super) const ACPI: u64 = 0xe_0000;
/// Where a processor in real mode begins after a reset; ACPI tables end before it.
pub(super) const RESET_VECTOR: u64 = 0xf_fff0;
/// Where RAM goes on, and kernels may be loaded.
pub(super) const HIGH: u64 = 0x10_0000;
