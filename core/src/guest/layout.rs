//! What the built-in guest and its host agree on: addresses, ports, and the contents of a page.
//!
//! The guest sees its RAM without the hole below 4 GiB: virtual address = RAM offset. Its first
//! 4 MiB hold the code, the vCPUs' blocks and the page tables; the memory it fills follows.
//!
//! A filled page holds 512 words. Word `j` of page `p` is `(512 p + j) × GOLDEN` modulo 2^64, which is
//! different for every word of memory, so a page in the wrong place is noticed as well as a wrong
//! one. Words 0 and 1 of a page are its stamp: how often the guest wrote the page, and the word that
//! would stand at 1, plus that number times `STAMP`.

/// Fractional part of the golden ratio: an odd number with well spread bits.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Another odd number, that ties a page's check word to its count of writes.
pub(crate) const STAMP: u64 = 0xd6e8_feb8_6659_fd93;

/// Where the code lies.
pub(crate) const CODE: u64 = 0x8000;
/// Where the blocks of the vCPUs lie, one after the other.
pub(crate) const BLOCKS: u64 = 0x1_0000;
/// Size of a vCPU's block.
pub(crate) const BLOCK_SIZE: u64 = 256;
/// Where the page tables begin.
pub(crate) const PAGE_TABLES: u64 = 0x10_0000;
/// First byte of the memory that is filled, with up to 1 TiB of RAM to map.
pub(crate) const fn fill_start(ram: u64) -> u64 {
    // One page directory a GiB, and two tables above them.
    let tables = PAGE_TABLES + (2 + ram.div_ceil(1 << 30)) * 4096;
    let four_mib = 4 << 20;
    if tables > four_mib {
        tables.next_multiple_of(2 << 20)
    } else {
        four_mib
    }
}

/// Written by the guest: something happened. The value is a [`Doorbell`].
pub(crate) const PORT_DOORBELL: u16 = 0x5d0;
/// Read by the guest at each beat: the number of the check it is asked for, or [`COMMAND_OFF`].
pub(crate) const PORT_COMMAND: u16 = 0x5d4;
/// Written by the guest: it has nothing to do for so many ticks of its TSC.
pub(crate) const PORT_WAIT: u16 = 0x5d8;

/// The first serial port's data register.
pub(crate) const PORT_SERIAL: u16 = 0x3f8;
/// What the first vCPU prints there: when it starts, and when its part of the memory is filled.
pub(crate) const TEXTS: [&str; 2] = ["dwcp/pulse: started\r\n", "dwcp/pulse: memory filled\r\n"];

/// The command "power off".
pub(crate) const COMMAND_OFF: u32 = u32::MAX;

/// Why the guest rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Doorbell {
    /// A beat.
    Beat = 1,
    /// All its memory is filled.
    Filled = 2,
    /// The check it was asked for is done.
    Checked = 3,
    /// The first page that does not hold what it should.
    Fault = 4,
    /// It was asked to power off, and stops here.
    Off = 5,
}

impl Doorbell {
    /// The reason for a value that the guest wrote, if it is one.
    pub(crate) fn from_value(value: u32) -> Option<Self> {
        [
            Self::Beat,
            Self::Filled,
            Self::Checked,
            Self::Fault,
            Self::Off,
        ]
        .into_iter()
        .find(|&d| d as u32 == value)
    }
}

/// Offsets in a vCPU's block. The host writes the first six before the start; the others are the
/// guest's own figures.
pub(crate) mod words {
    /// First page of this vCPU's part of the filled memory.
    pub(crate) const FIRST: usize = 0x00;
    /// One past its last page.
    pub(crate) const END: usize = 0x08;
    /// One past the last page of its working set, which starts at `FIRST`.
    pub(crate) const WORKING_END: usize = 0x10;
    /// TSC ticks between two writes; 0: no pause between them.
    pub(crate) const TICKS_PER_PAGE: usize = 0x18;
    /// TSC ticks between two beats.
    pub(crate) const TICKS_PER_BEAT: usize = 0x20;
    /// 1: stay on the CPU between deeds; 0: leave it by the wait port.
    pub(crate) const SPIN: usize = 0x28;
    /// Beats so far.
    pub(crate) const BEATS: usize = 0x40;
    /// Writes of working-set pages so far.
    pub(crate) const WRITTEN: usize = 0x48;
    /// Background laps of the check over all it owns.
    pub(crate) const LAPS: usize = 0x50;
    /// Number of the last check it was asked for and did.
    pub(crate) const CHECKED: usize = 0x58;
    /// Pages found not to hold what they should.
    pub(crate) const FAULTS: usize = 0x60;
    /// The first of them.
    pub(crate) const FIRST_FAULT: usize = 0x68;
    /// Pages filled so far.
    pub(crate) const FILLED: usize = 0x70;
}

/// The block of vCPU `index`.
pub(crate) struct Block(pub(crate) u32);

impl Block {
    /// Its address, which is the same for guest and host: the low RAM is mapped one to one.
    pub(crate) fn address(&self) -> u64 {
        BLOCKS + u64::from(self.0) * BLOCK_SIZE
    }
}

/// How a vCPU spends its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Pages of this vCPU's part.
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) working_end: u64,
    pub(crate) ticks_per_page: u64,
    pub(crate) ticks_per_beat: u64,
    pub(crate) spin: bool,
}
