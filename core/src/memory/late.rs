//! Memory whose pages arrive while its guest runs.
//!
//! An access through the mapping, which the guest, KVM and the devices use, to a page that is still to come waits
//! (`userfault`); pages are written into the file behind it, and mapped when they are whole. A page that came early
//! and is stale by now is only unmapped: nothing is freed, and nothing punched while the guest is paused.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::userfault::Userfault;
use super::{Backing, GuestRam, PAGE_BYTES, PAGE_SIZE, PageBitmap, PageRange};
use crate::error::{DWCPError, Result};

/// See the module. Dropping it lets everybody go who waits: the guest must not run then, unless all
/// pages have come.
#[derive(Debug)]
pub(crate) struct LateRam {
    ram: Arc<GuestRam>,
    fault: Userfault,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Accesses to unmapped pages wait.
    watching: bool,
    missing: PageBitmap,
    /// Of these, those that are being read from a channel.
    claimed: PageBitmap,
    left: u64,
}

/// A part of a run of pages that a channel brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) pages: PageRange,
    /// It is this channel's to place; else it is there already or on another channel, and not looked at.
    pub(crate) claimed: bool,
}

impl LateRam {
    /// Prepares it; nothing changes for the guest before [`expect`](Self::expect).
    ///
    /// # Errors
    ///
    /// `unsupported` for memory that is private to a mapping, and where there is no userfaultfd for
    /// accesses by the kernel.
    pub(crate) fn new(ram: &Arc<GuestRam>) -> Result<Self> {
        let refused =
            |why: String| DWCPError::Unsupported(format!("memory that arrives late: {why}"));
        if ram.backing() != Backing::Memfd {
            return Err(refused("this memory has no file, for it is private".into()));
        }
        let fault = Userfault::open().map_err(|error| {
            refused(format!(
                "userfaultfd (root, CAP_SYS_PTRACE, access to /dev/userfaultfd, or \
                 vm.unprivileged_userfaultfd=1 lets a process have one): {error}"
            ))
        })?;
        let pages = ram.layout().pages();
        Ok(Self {
            ram: Arc::clone(ram),
            fault,
            inner: Mutex::new(Inner {
                watching: false,
                missing: PageBitmap::new(pages),
                claimed: PageBitmap::new(pages),
                left: 0,
            }),
        })
    }

    /// These pages are to come, whatever came of them before: from now on, who needs one waits.
    pub(crate) fn expect(&self, pages: &PageBitmap) -> Result<()> {
        let mut inner = self.lock();
        if !inner.watching {
            let (start, len) = self.whole();
            self.fault.register(start, len)?;
            inner.watching = true;
            self.ram.set_late(true);
        }
        inner.missing.merge(pages);
        inner.left = inner.missing.count();
        for run in pages.runs(0..pages.pages()) {
            self.ram.unmap(&run)?;
        }
        Ok(())
    }

    /// How many pages are to come.
    pub(crate) fn left(&self) -> u64 {
        self.lock().left
    }

    /// The pages that are to come.
    pub(crate) fn missing(&self) -> PageBitmap {
        self.lock().missing.clone()
    }

    /// Takes what is needed of a run that a channel brings: nobody else places it until it is placed or
    /// given up.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for pages that there are not.
    pub(crate) fn claim(&self, run: &PageRange) -> io::Result<Vec<Part>> {
        self.ram.host_range(run)?;
        let mut inner = self.lock();
        let mut parts: Vec<Part> = Vec::new();
        for page in run.clone() {
            let claimed = inner.missing.contains(page) && !inner.claimed.contains(page);
            match parts.last_mut() {
                Some(last) if last.claimed == claimed => last.pages.end = page + 1,
                _ => parts.push(Part {
                    pages: page..page + 1,
                    claimed,
                }),
            }
        }
        for part in parts.iter().filter(|part| part.claimed) {
            inner.claimed.set_run(&part.pages, true);
        }
        Ok(parts)
    }

    /// What was claimed is not going to be placed.
    pub(crate) fn give_up(&self, parts: &[Part]) {
        let mut inner = self.lock();
        for part in parts.iter().filter(|part| part.claimed) {
            inner.claimed.set_run(&part.pages, false);
        }
    }

    /// What was claimed has been written: the guest may have it. Returns how many
    /// pages are still to come.
    ///
    /// # Errors
    ///
    /// Those of the host; pages that were not claimed are ignored.
    pub(crate) fn place(&self, parts: &[Part]) -> Result<u64> {
        let own = || parts.iter().filter(|part| part.claimed);
        let left = {
            let mut inner = self.lock();
            for part in own() {
                inner.missing.set_run(&part.pages, false);
                inner.claimed.set_run(&part.pages, false);
                inner.left = inner.left.saturating_sub(part.pages.end - part.pages.start);
            }
            inner.left
        };
        // Only now: who is let go finds nothing missing.
        for part in own() {
            let (start, len) = self.ram.host_range(&part.pages)?;
            self.fault.map(start as u64, len as u64)?;
        }
        Ok(left)
    }

    /// Writes claimed pages, where the guest does not see them yet.
    pub(crate) fn write(&self, pages: &PageRange, contents: &[u8]) -> Result<()> {
        self.ram.fill(pages, contents)
    }

    /// Fills claimed pages with zeros.
    pub(crate) fn clear(&self, pages: &PageRange) -> Result<()> {
        let mut pages = pages.clone();
        pages.try_for_each(|page| self.ram.fill(&(page..page + 1), &[0; PAGE_BYTES]))
    }

    /// Deals with those who wait, as far as that can be done at once: whoever needs a page that is here, or that
    /// was never written, goes on. Appends the pages that are to come. Does not wait.
    pub(crate) fn serve(&self, needed: &mut Vec<u64>) -> Result<()> {
        let mut addresses = Vec::new();
        self.fault.read(&mut addresses)?;
        let (first, len) = self.whole();
        for address in addresses {
            let Some(offset) = address.checked_sub(first).filter(|&o| o < len) else {
                return Err(DWCPError::Internal(format!(
                    "a fault at {address:#x}, which is no guest memory"
                )));
            };
            let page = offset / PAGE_SIZE;
            if self.lock().missing.contains(page) {
                needed.push(page);
                continue;
            }
            let at = first + page * PAGE_SIZE;
            match self.fault.map(at, PAGE_SIZE) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.fault.map_zero(at, PAGE_SIZE)?;
                }
                mapped => mapped?,
            }
        }
        Ok(())
    }

    /// Ends all waiting, now and later. Who waits for a page that is missing gets what there is: the guest must
    /// not go on, unless all have come.
    pub(crate) fn release(&self) -> Result<()> {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.watching) {
            let (start, len) = self.whole();
            self.fault.unregister(start, len)?;
            self.ram.set_late(false);
        }
        Ok(())
    }

    /// Where the guest's mapping lies.
    fn whole(&self) -> (u64, u64) {
        let start = self.ram.slots().next().map_or(0, |slot| slot.host_address);
        (start, self.ram.size())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is missing is only ever taken out after it was placed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readable when somebody waits.
impl AsFd for LateRam {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fault.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::{Backing, PAGE_BYTES};

    const PAGES: u64 = 256;

    fn late(contents: u8) -> Option<(Arc<GuestRam>, LateRam)> {
        let ram = GuestRam::allocate(PAGES * PAGE_SIZE, Backing::Memfd).unwrap();
        for page in 0..PAGES / 2 {
            ram.write(page * PAGE_SIZE, &[contents; PAGE_BYTES])
                .unwrap();
        }
        match LateRam::new(&ram) {
            Ok(late) => Some((ram, late)),
            Err(error) => {
                crate::test_support::skipped("memory that arrives late", &error);
                None
            }
        }
    }

    fn set(runs: &[(u64, u64)]) -> PageBitmap {
        let mut set = PageBitmap::new(PAGES);
        for &(start, end) in runs {
            set.set_run(&(start..end), true);
        }
        set
    }

    fn first_byte(ram: &GuestRam, page: u64) -> u8 {
        let mut byte = [0];
        ram.read(page * PAGE_SIZE, &mut byte).unwrap();
        byte[0]
    }

    /// Serves faults until a page is needed that is to come.
    fn needed(late: &LateRam) -> Vec<u64> {
        let mut pages = Vec::new();
        while pages.is_empty() {
            late.serve(&mut pages).unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
        pages
    }

    fn bring(late: &LateRam, run: &PageRange, contents: u8) -> u64 {
        let parts = late.claim(run).unwrap();
        for part in parts.iter().filter(|part| part.claimed) {
            let len = usize::try_from(part.pages.end - part.pages.start).unwrap();
            late.write(&part.pages, &vec![contents; len * PAGE_BYTES])
                .unwrap();
        }
        late.place(&parts).unwrap()
    }

    #[test]
    fn a_page_that_is_to_come_is_waited_for() {
        let Some((ram, late)) = late(1) else { return };
        late.expect(&set(&[(3, 5), (200, 201)])).unwrap();
        assert_eq!(late.left(), 3);
        assert_eq!(first_byte(&ram, 2), 1, "what came before is there");
        for page in [3, 200] {
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| first_byte(&ram, page));
                assert_eq!(needed(&late), [page]);
                assert!(!reader.is_finished());
                // Whoever only looks does not wait, and sees what came before.
                let before = ram.look_at_word(page * PAGE_SIZE).unwrap();
                assert_eq!(before & 0xff, u64::from(page == 3));
                bring(&late, &(page..page + 1), 7);
                assert_eq!(reader.join().unwrap(), 7);
            });
        }
        assert_eq!(bring(&late, &(4..5), 7), 0);
        late.release().unwrap();
        assert_eq!((first_byte(&ram, 4), first_byte(&ram, 255)), (7, 0));
    }

    #[test]
    fn a_page_that_is_not_to_come_is_had_at_once() {
        let Some((ram, late)) = late(1) else { return };
        late.expect(&set(&[(3, 4)])).unwrap();
        std::thread::scope(|scope| {
            // One that was never written, and then one that is to come.
            let reader = scope.spawn(|| (first_byte(&ram, 222), first_byte(&ram, 3)));
            assert_eq!(needed(&late), [3]);
            bring(&late, &(3..4), 9);
            assert_eq!(reader.join().unwrap(), (0, 9));
        });
    }

    #[test]
    fn a_page_is_placed_once() {
        let Some((ram, late)) = late(1) else { return };
        late.expect(&set(&[(10, 20)])).unwrap();
        let first = late.claim(&(12..14)).unwrap();
        let second = late.claim(&(10..20)).unwrap();
        let claimed: Vec<bool> = second.iter().map(|part| part.claimed).collect();
        assert_eq!(claimed, [true, false, true]);
        assert_eq!(second[1].pages, 12..14);
        // The first is lost on its way; it is not missing for ever.
        late.give_up(&first);
        late.write(&(10..12), &[5; 2 * PAGE_BYTES]).unwrap();
        late.clear(&(14..20)).unwrap();
        assert_eq!(late.place(&second).unwrap(), 2);
        assert_eq!(late.missing(), set(&[(12, 14)]));
        assert_eq!(bring(&late, &(0..30), 6), 0);
        let bytes: Vec<u8> = [9, 10, 12, 14, 20]
            .map(|page| first_byte(&ram, page))
            .into();
        assert_eq!(
            bytes,
            [1, 5, 6, 0, 1],
            "what was there is not written again"
        );
    }

    #[test]
    fn who_waits_is_let_go_at_the_end() {
        let Some((ram, late)) = late(1) else { return };
        late.expect(&set(&[(3, 4)])).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| first_byte(&ram, 3));
            assert_eq!(needed(&late), [3]);
            late.release().unwrap();
            assert_eq!(reader.join().unwrap(), 1);
        });
    }

    #[test]
    fn private_memory_cannot_be_late() {
        let ram = GuestRam::allocate(4 << 20, Backing::AnonymousHuge).unwrap();
        let error = LateRam::new(&ram).unwrap_err().to_string();
        assert!(error.contains("has no file"), "{error}");
    }
}
