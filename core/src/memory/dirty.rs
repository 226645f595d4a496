//! The dirty harvest: which pages changed since a consumer last asked.
//!
//! A guest's memory has two kinds of writers: the guest and KVM, whose writes KVM logs, and this
//! process (device emulation, loading an image), whose writes [`GuestRam`] records. The harvester
//! reads both and gives every consumer (a migration, an incremental snapshot) a set of its own, so
//! that none takes pages away from another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{GuestRam, PageBitmap, PageRange};
use crate::error::Result;

/// The hypervisor's log of guest writes, one bitmap a slot.
///
/// Reading it clears nothing. Clearing a page's bit also write-protects the page again, so a write
/// after the clearing sets the bit again: whoever clears first and then looks at the page loses
/// nothing.
pub(crate) trait DirtyLog: Send + Sync {
    /// Turns logging on or off for all slots.
    fn set_logging(&self, on: bool) -> Result<()>;
    /// Reads the log of `slot` into `words`, one bit a page.
    fn read(&self, slot: u32, words: &mut [u64]) -> Result<()>;
    /// Clears the bits that are set in `words`, whose first is page `first` of the slot (a multiple
    /// of 64); `pages` is a multiple of 64 or reaches the end of the slot.
    fn clear(&self, slot: u32, first: u64, pages: u64, words: &[u64]) -> Result<()>;
}

/// Reads the two records of changed pages and keeps one set for each consumer.
pub(crate) struct Harvester {
    ram: Arc<GuestRam>,
    log: Arc<dyn DirtyLog>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    consumers: BTreeMap<u32, PageBitmap>,
    next: u32,
    /// Reused for each slot's log.
    words: Vec<u64>,
}

/// What a harvest brought.
#[derive(Debug)]
pub(crate) struct Harvest {
    /// The pages to look at: everything that changed since this consumer's last harvest.
    pub(crate) pages: PageBitmap,
    /// The bits that stood in the hypervisor's log, to be cleared before the pages are looked at.
    pub(crate) logged: PageBitmap,
}

impl Harvester {
    pub(crate) fn new(ram: Arc<GuestRam>, log: Arc<dyn DirtyLog>) -> Arc<Self> {
        Arc::new(Self {
            ram,
            log,
            inner: Mutex::default(),
        })
    }

    /// Adds a consumer, for whom all pages have changed. The first one starts the log.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Result<Consumer> {
        let mut inner = self.lock();
        if inner.consumers.is_empty() {
            self.log.set_logging(true)?;
        }
        let id = inner.next;
        inner.next += 1;
        let all = PageBitmap::full(self.ram.layout().pages());
        inner.consumers.insert(id, all);
        Ok(Consumer {
            harvester: Arc::clone(self),
            id,
        })
    }

    /// Whether anybody follows the changes of this memory.
    #[cfg(test)]
    pub(crate) fn is_logging(&self) -> bool {
        !self.lock().consumers.is_empty()
    }

    fn harvest(&self, id: u32) -> Result<Harvest> {
        let mut inner = self.lock();
        let Inner {
            consumers, words, ..
        } = &mut *inner;
        let pages = self.ram.layout().pages();
        let mut logged = PageBitmap::new(pages);
        for slot in self.ram.slots() {
            let len =
                usize::try_from((slot.size / super::PAGE_SIZE).div_ceil(64)).unwrap_or(usize::MAX);
            words.clear();
            words.resize(len, 0);
            self.log.read(slot.index, words)?;
            logged.merge_words(slot.first_page, words);
            let own = self.ram.take_changed(slot.index as usize);
            for set in consumers.values_mut() {
                set.merge_words(slot.first_page, words);
                set.merge_words(slot.first_page, &own);
            }
        }
        let mut harvest = PageBitmap::new(pages);
        if let Some(set) = consumers.get_mut(&id) {
            std::mem::swap(set, &mut harvest);
        }
        Ok(Harvest {
            pages: harvest,
            logged,
        })
    }

    fn clear(&self, id: u32, logged: &PageBitmap, pages: &PageRange) -> Result<()> {
        if !logged.any_in(pages) {
            return Ok(());
        }
        let mut inner = self.lock();
        let Inner {
            consumers, words, ..
        } = &mut *inner;
        for slot in self.ram.slots() {
            let first = pages.start.max(slot.pages().start);
            let end = pages.end.min(slot.pages().end);
            if first >= end {
                continue;
            }
            let mut wanted = logged.words(&(first..end)).to_vec();
            if consumers.len() > 1 {
                // What stood in the log at this consumer's harvest may have been cleared by another since,
                // who then looked at the page, and have come again: it is told of the write that is wiped
                // out here. What is not in the log by now stays as it is, for it may come at this moment.
                let len = usize::try_from((slot.size / super::PAGE_SIZE).div_ceil(64))
                    .unwrap_or(usize::MAX);
                words.clear();
                words.resize(len, 0);
                self.log.read(slot.index, words)?;
                let at = usize::try_from((first - slot.first_page) / 64).unwrap_or(usize::MAX);
                for (word, now) in wanted.iter_mut().zip(&words[at..]) {
                    *word &= now;
                }
                for (_, set) in consumers.iter_mut().filter(|(other, _)| **other != id) {
                    set.merge_words(first, &wanted);
                }
            }
            self.log
                .clear(slot.index, first - slot.first_page, end - first, &wanted)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave a set half merged in a way that loses pages: sets only grow.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Harvester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Harvester").finish_non_exhaustive()
    }
}

/// A consumer of the harvest. Dropping the last one stops the log.
#[derive(Debug)]
pub(crate) struct Consumer {
    harvester: Arc<Harvester>,
    id: u32,
}

impl Consumer {
    /// Everything that changed since the last call (the first time: all pages). Clears nothing in
    /// the hypervisor's log; see [`clear`](Self::clear).
    pub(crate) fn harvest(&self) -> Result<Harvest> {
        self.harvester.harvest(self.id)
    }

    /// Clears the part `pages` (64-page aligned) of what stood in the log at a harvest. To be called
    /// before any of these pages is looked at.
    pub(crate) fn clear(&self, logged: &PageBitmap, pages: &PageRange) -> Result<()> {
        self.harvester.clear(self.id, logged, pages)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut inner = self.harvester.lock();
        inner.consumers.remove(&self.id);
        if inner.consumers.is_empty()
            && let Err(error) = self.harvester.log.set_logging(false)
        {
            // The guest runs on, only slower than it need be.
            tracing::warn!(%error, "could not stop the dirty log");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::memory::{Backing, PAGE_SIZE};

    /// A log whose bits the test sets.
    struct ScriptedLog {
        on: AtomicBool,
        slots: Mutex<Vec<Vec<u64>>>,
    }

    impl ScriptedLog {
        fn new(slots: &[u64]) -> Arc<Self> {
            let words = slots.iter().map(|p| vec![0; p.div_ceil(64) as usize]);
            Arc::new(Self {
                on: AtomicBool::new(false),
                slots: Mutex::new(words.collect()),
            })
        }

        fn set(&self, slot: usize, page: u64) {
            self.slots.lock().unwrap()[slot][(page / 64) as usize] |= 1 << (page % 64);
        }
    }

    impl DirtyLog for ScriptedLog {
        fn set_logging(&self, on: bool) -> Result<()> {
            self.on.store(on, Ordering::Relaxed);
            Ok(())
        }
        fn read(&self, slot: u32, words: &mut [u64]) -> Result<()> {
            words.copy_from_slice(&self.slots.lock().unwrap()[slot as usize]);
            Ok(())
        }
        fn clear(&self, slot: u32, first: u64, pages: u64, words: &[u64]) -> Result<()> {
            assert_eq!(first % 64, 0);
            assert_eq!(words.len() as u64, pages.div_ceil(64));
            let mut slots = self.slots.lock().unwrap();
            let own = &mut slots[slot as usize][(first / 64) as usize..];
            for (own, clear) in own.iter_mut().zip(words) {
                *own &= !clear;
            }
            Ok(())
        }
    }

    fn pages(set: &PageBitmap) -> Vec<u64> {
        set.runs(0..set.pages()).flatten().collect()
    }

    #[test]
    fn both_writers_are_seen_by_every_consumer_once() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let log = ScriptedLog::new(&[256]);
        let harvester = Harvester::new(Arc::clone(&ram), Arc::clone(&log) as Arc<dyn DirtyLog>);
        let migration = harvester.subscribe().unwrap();
        assert!(log.on.load(Ordering::Relaxed));
        let increments = harvester.subscribe().unwrap();
        assert_eq!(migration.harvest().unwrap().pages.count(), 256);

        log.set(0, 70);
        ram.write(3 * PAGE_SIZE, &[1]).unwrap();
        let harvest = migration.harvest().unwrap();
        assert_eq!(pages(&harvest.pages), [3, 70]);
        assert_eq!(pages(&harvest.logged), [70]);

        // Not cleared yet: the page comes again, which costs a copy but loses nothing.
        assert_eq!(pages(&migration.harvest().unwrap().pages), [70]);
        migration.clear(&harvest.logged, &(64..128)).unwrap();
        assert_eq!(pages(&migration.harvest().unwrap().pages), [0; 0]);

        assert_eq!(increments.harvest().unwrap().pages.count(), 256);
        log.set(0, 9);
        assert_eq!(pages(&migration.harvest().unwrap().pages), [9]);
        assert_eq!(pages(&increments.harvest().unwrap().pages), [9]);

        drop(migration);
        assert!(log.on.load(Ordering::Relaxed));
        drop(increments);
        assert!(!log.on.load(Ordering::Relaxed));
        assert!(!harvester.is_logging());
    }

    #[test]
    fn a_write_that_one_wipes_out_of_the_log_is_told_to_the_others() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let log = ScriptedLog::new(&[256]);
        let harvester = Harvester::new(ram, Arc::clone(&log) as Arc<dyn DirtyLog>);
        let (migration, watcher) = (
            harvester.subscribe().unwrap(),
            harvester.subscribe().unwrap(),
        );
        migration.harvest().unwrap();
        watcher.harvest().unwrap();
        log.set(0, 5);
        // Both find the page. One clears it and looks at it; then the guest writes it again.
        let slow = watcher.harvest().unwrap();
        let fast = migration.harvest().unwrap();
        migration.clear(&fast.logged, &(0..64)).unwrap();
        log.set(0, 5);
        // The other clears what it found then.
        watcher.clear(&slow.logged, &(0..64)).unwrap();
        assert_eq!(pages(&migration.harvest().unwrap().pages), [5]);
    }

    #[test]
    fn who_clears_does_not_find_its_own_clearing() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let log = ScriptedLog::new(&[256]);
        let harvester = Harvester::new(ram, Arc::clone(&log) as Arc<dyn DirtyLog>);
        let (one, other) = (
            harvester.subscribe().unwrap(),
            harvester.subscribe().unwrap(),
        );
        one.harvest().unwrap();
        other.harvest().unwrap();
        log.set(0, 9);
        let found = one.harvest().unwrap();
        one.clear(&found.logged, &(0..64)).unwrap();
        assert_eq!(pages(&one.harvest().unwrap().pages), [0; 0]);
        assert_eq!(pages(&other.harvest().unwrap().pages), [9]);
    }

    #[test]
    fn clearing_leaves_bits_that_were_not_harvested() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let log = ScriptedLog::new(&[256]);
        let harvester = Harvester::new(ram, Arc::clone(&log) as Arc<dyn DirtyLog>);
        let consumer = harvester.subscribe().unwrap();
        consumer.harvest().unwrap();
        log.set(0, 1);
        let harvest = consumer.harvest().unwrap();
        log.set(0, 2);
        consumer.clear(&harvest.logged, &(0..256)).unwrap();
        assert_eq!(pages(&consumer.harvest().unwrap().pages), [2]);
    }

    #[test]
    fn slots_above_the_gap_are_counted_from_the_start_of_ram() {
        let edge = (3 << 30) / PAGE_SIZE;
        let ram = GuestRam::allocate((3 << 30) + (1 << 20), Backing::Memfd).unwrap();
        let log = ScriptedLog::new(&[edge, 256]);
        let harvester = Harvester::new(Arc::clone(&ram), Arc::clone(&log) as Arc<dyn DirtyLog>);
        let consumer = harvester.subscribe().unwrap();
        consumer.harvest().unwrap();
        log.set(1, 5);
        ram.write(1 << 32, &[1]).unwrap();
        let harvest = consumer.harvest().unwrap();
        assert_eq!(pages(&harvest.pages), [edge, edge + 5]);
        consumer
            .clear(&harvest.logged, &(edge - 64..edge + 64))
            .unwrap();
        assert_eq!(consumer.harvest().unwrap().pages.count(), 0);
    }
}
