//! What comes by a balloon's queues.
#![forbid(unsafe_code)]

use super::super::chain::Chain;
use super::super::device::Handled;
use super::super::refused;
use super::Balloon;
use crate::error::Result;
use crate::hypervisor::{Reader, Writer};
use crate::memory::{GuestRam, PAGE_SIZE};

/// Pages of a request that are given back. Linux sends 256 at a time; what is beyond this stays where
/// it is, which a driver cannot tell. A pause waits for the request in flight.
const MAX_PAGES: u32 = 16 << 10;
/// Pages that are looked at together, so that those beside each other are given back by one call.
const BATCH: usize = 256;

/// Gives the pages of a request back to the host: numbers of 4 KiB pages, four bytes each.
pub(super) fn inflate(device: &Balloon, mut chain: Chain, ram: &GuestRam) -> Handled {
    let mut batch = Vec::with_capacity(BATCH);
    for _ in 0..MAX_PAGES {
        let Some(number) = chain.readable.read::<4>(ram) else {
            break;
        };
        let gpa = u64::from(u32::from_le_bytes(number)) * PAGE_SIZE;
        // A page that is no RAM takes no memory either.
        if let Some(page) = ram.layout().pages_at(gpa, PAGE_SIZE) {
            batch.push(page.start);
        }
        if batch.len() == BATCH {
            give_back(device, ram, &mut batch);
        }
    }
    give_back(device, ram, &mut batch);
    Handled::Used(0)
}

/// Gives pages back, run by run, and forgets them.
fn give_back(device: &Balloon, ram: &GuestRam, pages: &mut Vec<u64>) {
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|one, next| one + 1 == *next) {
        if let (Some(first), Some(last)) = (run.first(), run.last())
            && let Err(error) = ram.give_back(&(*first..last + 1))
        {
            device.complain(&error);
        }
    }
    pages.clear();
}

/// What a guest says of its memory, in bytes; what it did not say is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::machine) struct Statistics {
    /// How often it said something since its driver began.
    pub(in crate::machine) reports: u64,
    /// Memory that nothing is in.
    pub(in crate::machine) free: Option<u64>,
    /// All memory, without what the guest's kernel keeps from the start.
    pub(in crate::machine) total: Option<u64>,
    /// Memory that programs could get without swapping.
    pub(in crate::machine) available: Option<u64>,
}

// `linux/virtio_balloon.h`; the crate of bindings does not have them.
const TAG_FREE: u16 = 4;
const TAG_TOTAL: u16 = 5;
const TAG_AVAILABLE: u16 = 6;

/// Figures of a request that are read; there are less than 20 kinds.
const MAX_FIGURES: u32 = 64;

/// Reads the figures of a request: a tag of two bytes and a value of eight each.
pub(super) fn statistics(mut chain: Chain, ram: &GuestRam) -> Statistics {
    let mut statistics = Statistics::default();
    for _ in 0..MAX_FIGURES {
        let Some([tag @ .., a, b, c, d, e, f, g, h]) = chain.readable.read::<10>(ram) else {
            break;
        };
        let value = Some(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        match u16::from_le_bytes(tag) {
            TAG_FREE => statistics.free = value,
            TAG_TOTAL => statistics.total = value,
            TAG_AVAILABLE => statistics.available = value,
            _ => {}
        }
    }
    statistics
}

impl Statistics {
    pub(super) fn save(&self, out: &mut Writer) {
        out.u64(self.reports);
        for figure in [self.free, self.total, self.available] {
            out.u8(u8::from(figure.is_some()));
            out.u64(figure.unwrap_or(0));
        }
    }

    pub(super) fn load(reader: &mut Reader<'_>) -> Result<Self> {
        let reports = reader.u64()?;
        let mut figure = || match (reader.u8()?, reader.u64()?) {
            (0, 0) => Ok(None),
            (1, value) => Ok(Some(value)),
            (is_there, _) => Err(refused(&format!(
                "a figure about memory is marked by {is_there}"
            ))),
        };
        Ok(Self {
            reports,
            free: figure()?,
            total: figure()?,
            available: figure()?,
        })
    }
}
