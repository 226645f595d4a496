//! The destination's side of post-copy: whoever needs a page that is still to come waits, and the source is
//! asked for it.
//!
//! A thread of its own hears who waits. It never touches the guest's memory, nor anything that somebody holds who
//! does: so it always comes to its turn.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::channel::{Header, Kind, MAX_RUNS, encode_runs, encode_set, violation};
use super::patience::Patience;
use super::sender::lost;
use crate::error::{DWCPError, Result};
use crate::machine::{Work, spawn, work_as};
use crate::memory::{GuestRam, LateRam, PageBitmap};
use crate::transport::Blocking;

/// The writing side of a channel, which its receiver and the asking thread share.
pub(super) type Writer = Arc<Mutex<Blocking>>;

/// A guest's memory of which pages are still to come, and the thread that asks for them, which ends by
/// [`end`](Self::end) alone.
#[derive(Debug)]
pub(super) struct Demand {
    late: LateRam,
    ram: Arc<GuestRam>,
    asking: Mutex<Asking>,
    stop: OwnedFd,
    life: Mutex<Life>,
    patience: Patience,
    /// A thread may be waiting for a page that has to do other work: since when, and how many were to come.
    held: Mutex<Option<(Instant, u64)>>,
    /// Who was waiting so was let go without the page.
    given_up: AtomicBool,
}

#[derive(Debug, Default)]
enum Life {
    #[default]
    Unused,
    Asking(JoinHandle<()>),
    Over,
}

#[derive(Debug)]
struct Asking {
    /// Pages that somebody waits for, as far as is known; those that have come may be among them.
    wanted: PageBitmap,
    /// Where wishes go; `None` while there is no such channel.
    channel: Option<Writer>,
}

impl Demand {
    /// Prepares it.
    ///
    /// # Errors
    ///
    /// Those of [`LateRam::new`].
    pub(super) fn new(ram: &Arc<GuestRam>, patience: Patience) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            late: LateRam::new(ram)?,
            ram: Arc::clone(ram),
            asking: Mutex::new(Asking {
                wanted: PageBitmap::new(ram.layout().pages()),
                channel: None,
            }),
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(std::io::Error::from)?,
            life: Mutex::default(),
            patience,
            held: Mutex::default(),
            given_up: AtomicBool::new(false),
        }))
    }

    /// Memory as channels fill it.
    pub(super) fn late(&self) -> &LateRam {
        &self.late
    }

    /// These pages are to come. The first time, starts the thread; `failed` is called from there when it
    /// cannot go on, which it then does not.
    pub(super) fn expect(
        self: &Arc<Self>,
        pages: &PageBitmap,
        failed: impl FnOnce(DWCPError) + Send + 'static,
    ) -> Result<()> {
        let mut life = self.life();
        match &*life {
            Life::Unused => {
                self.late.expect(pages)?;
                let own = Arc::clone(self);
                *life = Life::Asking(spawn("dwcp-demand", move || {
                    work_as(Work::Control);
                    if let Err(error) = own.hear() {
                        failed(error);
                    }
                })?);
                Ok(())
            }
            Life::Asking(_) => self.late.expect(pages),
            Life::Over => Err(violation("pages that come late, when all had come")),
        }
    }

    /// Whether pages were to come, ever.
    pub(super) fn is_used(&self) -> bool {
        !matches!(*self.life(), Life::Unused)
    }

    /// The calling thread is about to touch the guest's memory, and is needed for other things: from now on, until
    /// [`let_go`](Self::let_go), it waits for a page only as long as the source may take for its work, if none comes
    /// meanwhile.
    pub(super) fn hold(&self) {
        *self.held() = Some((Instant::now(), self.late.left()));
    }

    /// Ends that.
    ///
    /// # Errors
    ///
    /// `migration` where a page did not come: what was read is not the guest's memory, which must not run.
    pub(super) fn let_go(&self) -> Result<()> {
        *self.held() = None;
        if self.given_up.load(Ordering::SeqCst) {
            return Err(DWCPError::Migration(format!(
                "a part of its memory is still on the other node (post-copy), and did not come within {:?}",
                self.patience.work()
            )));
        }
        Ok(())
    }

    /// A channel was opened: the first one takes wishes. Where pages were to come already, it is told which still
    /// are, which may be none any more, and what is waited for is asked for once more: it may have been on its way
    /// over a channel that was lost.
    pub(super) fn opened(&self, channel: u32, writer: &Writer) -> Result<()> {
        let again = self.is_used();
        let mut asking = self.lock();
        if channel == 0 {
            asking.channel = Some(Arc::clone(writer));
        }
        if !again {
            return Ok(());
        }
        let missing = self.late.missing();
        let (header, set) = encode_set(&missing);
        write(writer, &[&header.encode()[..], &set].concat())?;
        let wanted = asking.wanted.runs(0..missing.pages()).flatten();
        let pages: Vec<u64> = wanted.filter(|&page| missing.contains(page)).collect();
        self.ask(&mut asking, &pages);
        Ok(())
    }

    /// Ends the thread, for good, and all waiting, see [`LateRam::release`].
    pub(super) fn end(&self) {
        if let Err(error) = self.late.release() {
            tracing::error!(%error, "late memory was not released");
        }
        // It is written once, so it does not overflow.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let life = std::mem::replace(&mut *self.life(), Life::Over);
        if let Life::Asking(thread) = life
            && thread.join().is_err()
        {
            tracing::error!("the thread that asks for pages panicked");
        }
    }

    fn hear(&self) -> Result<()> {
        let mut needed = Vec::new();
        loop {
            let late = self.late.as_fd();
            let mut ready = [
                PollFd::new(&late, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            let moment = self.patience.moment();
            let limit = Timespec {
                tv_sec: i64::try_from(moment.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: moment.subsec_nanos().into(),
            };
            match poll(&mut ready, Some(&limit)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            if !ready[1].revents().is_empty() {
                return Ok(());
            }
            self.give_up_if_late()?;
            needed.clear();
            self.late.serve(&mut needed)?;
            let mut asking = self.lock();
            needed.retain(|&page| {
                let new = !asking.wanted.contains(page);
                asking.wanted.set_run(&(page..page + 1), true);
                new
            });
            self.ask(&mut asking, &needed);
        }
    }

    /// Lets the thread go that is needed elsewhere, where no page has come for too long.
    fn give_up_if_late(&self) -> Result<()> {
        let mut held = self.held();
        let Some((since, left)) = held.as_mut() else {
            return Ok(());
        };
        let now = self.late.left();
        if now < *left {
            (*since, *left) = (Instant::now(), now);
        }
        if since.elapsed() < self.patience.work() {
            return Ok(());
        }
        self.given_up.store(true, Ordering::SeqCst);
        self.late.release()
    }

    /// Asks for pages. Where the channel is lost, they are asked for when there is one again.
    fn ask(&self, asking: &mut Asking, pages: &[u64]) {
        for some in pages.chunks(MAX_RUNS as usize) {
            let Some(channel) = &asking.channel else {
                return;
            };
            let runs: Vec<_> = some.iter().map(|&page| page..page + 1).collect();
            let header = Header {
                runs: u32::try_from(runs.len()).unwrap_or(u32::MAX),
                ..Header::bare(Kind::Want, 0)
            };
            let mut message = header.encode().to_vec();
            let asked = encode_runs(self.ram.layout(), &runs, &mut message)
                .and_then(|()| write(channel, &message));
            if let Err(error) = asked {
                tracing::debug!(%error, "pages that are waited for could not be asked for");
                asking.channel = None;
            }
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Option<(Instant, u64)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(channel: &Writer, message: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
    channel.write_all(message).map_err(lost)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::super::channel::{HEADER, decode_set, set_length};
    use super::*;
    use crate::memory::{Backing, PAGE_BYTES, PAGE_SIZE};

    const PAGES: u64 = 256;

    fn demand() -> Option<(Arc<GuestRam>, Arc<Demand>)> {
        let ram = GuestRam::allocate(PAGES * PAGE_SIZE, Backing::Memfd).unwrap();
        match Demand::new(&ram, Patience::new(Patience::MIN)) {
            Ok(demand) => Some((ram, demand)),
            Err(error) => {
                crate::test_support::skipped("memory that is asked for", &error);
                None
            }
        }
    }

    /// What the source reads of a channel that is opened, if it is told anything.
    fn told(demand: &Demand, channel: u32) -> Option<PageBitmap> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut source = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let writer = Arc::new(Mutex::new(listener.accept().unwrap().0.into()));
        demand.opened(channel, &writer).unwrap();
        demand.lock().channel = None;
        drop(writer);
        let mut bytes = [0; HEADER];
        source.read_exact(&mut bytes).ok()?;
        let header = Header::decode(&bytes).unwrap();
        assert_eq!(header.kind, Kind::Missing);
        let layout = demand.ram.layout();
        let mut words = vec![0; set_length(layout, &header).unwrap()];
        source.read_exact(&mut words).unwrap();
        Some(decode_set(layout, &header, &words).unwrap())
    }

    #[test]
    fn a_channel_that_is_opened_again_is_told_what_is_missing_even_if_it_is_nothing() {
        let Some((_, demand)) = demand() else { return };
        assert!(told(&demand, 0).is_none(), "nothing is to come late yet");
        let mut pages = PageBitmap::new(PAGES);
        pages.set_run(&(3..5), true);
        demand.expect(&pages, |error| panic!("{error}")).unwrap();
        for channel in [0, 1] {
            assert_eq!(told(&demand, channel), Some(pages.clone()));
        }
        let parts = demand.late().claim(&(3..5)).unwrap();
        let contents = [7; 2 * PAGE_BYTES];
        demand.late().write(&(3..5), &contents).unwrap();
        assert_eq!(demand.late().place(&parts).unwrap(), 0);
        // The last channel was lost after the last page, and before the source heard that it is there.
        demand.end();
        for channel in [0, 1] {
            assert_eq!(told(&demand, channel), Some(PageBitmap::new(PAGES)));
        }
    }

    #[test]
    fn who_is_needed_elsewhere_does_not_wait_for_a_page_for_ever() {
        let Some((ram, demand)) = demand() else {
            return;
        };
        let mut missing = PageBitmap::new(PAGES);
        missing.insert(3);
        demand.expect(&missing, |error| panic!("{error}")).unwrap();
        let mut byte = [0];
        demand.hold();
        ram.read(4 * PAGE_SIZE, &mut byte).unwrap();
        demand.let_go().unwrap();
        demand.hold();
        ram.read(3 * PAGE_SIZE, &mut byte).unwrap();
        let error = demand.let_go().unwrap_err().to_string();
        assert!(error.contains("did not come"), "{error}");
        demand.end();
    }
}
