//! The dirty log of a simulated VM.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{DWCPError, Result};
use crate::memory::{DirtyLog, GuestRam, PAGE_SIZE, PageRange};

/// One bit a page, set by simulated vCPUs after they wrote it.
pub(super) struct SimLog {
    on: AtomicBool,
    slots: Vec<(PageRange, Vec<AtomicU64>)>,
}

impl SimLog {
    pub(super) fn new(ram: &GuestRam) -> Self {
        let words = |pages: &PageRange| {
            let count = (pages.end - pages.start).div_ceil(64);
            (0..count).map(|_| AtomicU64::new(0)).collect()
        };
        Self {
            on: AtomicBool::new(false),
            slots: ram
                .slots()
                .map(|s| (s.pages(), words(&s.pages())))
                .collect(),
        }
    }

    /// A vCPU has written at this RAM offset.
    pub(super) fn wrote(&self, offset: u64) {
        let page = offset / PAGE_SIZE;
        if let Some((pages, words)) = self.slots.iter().find(|(p, _)| p.contains(&page)) {
            let bit = page - pages.start;
            words[word(bit)].fetch_or(1 << (bit % 64), Ordering::SeqCst);
        }
    }

    fn slot(&self, slot: u32) -> Result<&[AtomicU64]> {
        let found = self.slots.get(slot as usize);
        found
            .map(|(_, words)| words.as_slice())
            .ok_or_else(|| DWCPError::Internal(format!("no memory slot {slot}")))
    }
}

/// Bounded by the allocation of the words.
fn word(page: u64) -> usize {
    usize::try_from(page / 64).unwrap_or(usize::MAX)
}

impl DirtyLog for SimLog {
    fn set_logging(&self, on: bool) -> Result<()> {
        let was = self.on.swap(on, Ordering::SeqCst);
        if on && !was {
            // As KVM with INITIALLY_SET: a log that starts counts every page as changed.
            for (pages, words) in &self.slots {
                for (i, word) in (0u64..).zip(words) {
                    let left = (pages.end - pages.start) - i * 64;
                    let all = if left >= 64 {
                        u64::MAX
                    } else {
                        (1 << left) - 1
                    };
                    word.store(all, Ordering::SeqCst);
                }
            }
        }
        Ok(())
    }

    fn read(&self, slot: u32, words: &mut [u64]) -> Result<()> {
        for (out, own) in words.iter_mut().zip(self.slot(slot)?) {
            *out = own.load(Ordering::SeqCst);
        }
        Ok(())
    }

    fn clear(&self, slot: u32, first: u64, _pages: u64, words: &[u64]) -> Result<()> {
        for (own, clear) in self.slot(slot)?[word(first)..].iter().zip(words) {
            own.fetch_and(!clear, Ordering::SeqCst);
        }
        Ok(())
    }
}
