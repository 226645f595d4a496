//! The destination's side of post-copy: whoever needs a page that is still to come waits, and the source is
//! asked for it.
//!
//! A thread of its own hears who waits. It never touches the guest's memory, nor anything that somebody holds who
//! does: so it always comes to its turn.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::channel::{Header, Kind, MAX_RUNS, encode_runs, encode_set, violation};
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
    pub(super) fn new(ram: &Arc<GuestRam>) -> Result<Arc<Self>> {
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
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            if !ready[1].revents().is_empty() {
                return Ok(());
            }
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
        let ram = GuestRam::allocate(PAGES * PAGE_SIZE, Backing::Memfd).unwrap();
        let demand = match Demand::new(&ram) {
            Ok(demand) => demand,
            Err(error) => return crate::test_support::skipped("late memory", &error),
        };
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
}
