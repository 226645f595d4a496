//! The source's side of post-copy: what is left of a machine's memory goes to a guest that runs elsewhere.
//!
//! Each channel's thread serves: what the guest waits for first, then the rest in order. Where there are
//! several channels the first one carries nothing but what is waited for, so that no page waits behind others in
//! a buffer. A channel that is lost is opened anew, and the destination says what it is missing; the source's
//! memory stays as it is until all of it has come.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::channel::{
    DESCRIPTOR, HEADER, Header, Kind, decode_runs, decode_set, set_length, violation,
};
use super::link::{self, Dial};
use super::sender::{Pass, Sender, lost};
use crate::error::{DWCPError, Result};
use crate::machine::{Work, spawn, work_as};
use crate::memory::{GuestRam, PageBitmap, PageRange};
use crate::transport::Blocking;

/// Pages that are sent with one that is waited for, which is likely not the last of them: 64 KiB.
const NEIGHBOURS: u64 = 16;
/// Pages that are sent at a time where something that is waited for may come between: 256 KiB.
const PIECE_SHARED: u64 = 64;
/// Where nothing comes between: 1 MiB.
const PIECE: u64 = 256;
/// Pages that may be waited for at a time; a guest's vCPUs and devices wait for one each.
const WANTED_MAX: usize = 1 << 16;
/// The first wait before a lost channel is opened again; doubled each time.
const REOPEN_FIRST: Duration = Duration::from_millis(20);

/// How the destination's channels are opened.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) dial: Dial,
    pub(super) session: String,
    pub(super) token: String,
}

/// What is left, for all channels.
pub(super) struct Supply {
    ram: Arc<GuestRam>,
    /// One bit a page that is to be sent.
    left: Vec<AtomicU64>,
    state: Mutex<State>,
    changed: Condvar,
    route: Route,
    /// Number of the round that this is.
    round: u64,
    channels: u32,
}

#[derive(Default)]
struct State {
    wanted: VecDeque<u64>,
    /// The guest runs: the rest is sent too.
    pushing: bool,
    stopped: bool,
    /// First page of the next piece: behind what was waited for last, which is likely to be waited for next.
    cursor: u64,
    /// Channels that push: are neither lost nor done.
    pushers: u32,
    /// Of the first channel: what its listener heard last.
    heard: Heard,
    /// The channels that are open, to be ended.
    sockets: BTreeMap<u32, Blocking>,
}

/// What a channel's listener heard.
#[derive(Default)]
enum Heard {
    #[default]
    Nothing,
    Placed,
    Lost(DWCPError),
}

/// What a channel does next.
enum Next {
    Urgent(Vec<PageRange>),
    Push(Vec<PageRange>),
    /// All was sent.
    End,
}

impl Supply {
    /// These pages are left, of memory that nobody writes any more.
    pub(super) fn new(
        ram: &Arc<GuestRam>,
        left: &PageBitmap,
        route: Route,
        round: u64,
        channels: u32,
    ) -> Arc<Self> {
        let words = left.words(&(0..left.pages())).iter();
        Arc::new(Self {
            ram: Arc::clone(ram),
            left: words.map(|&word| AtomicU64::new(word)).collect(),
            state: Mutex::new(State {
                pushers: channels - u32::from(channels > 1),
                ..State::default()
            }),
            changed: Condvar::new(),
            route,
            round,
            channels,
        })
    }

    /// The guest runs: what it does not wait for is sent too.
    pub(super) fn push(&self) {
        self.lock().pushing = true;
        self.changed.notify_all();
    }

    /// Ends it, whatever its channels wait for.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        for socket in std::mem::take(&mut state.sockets).into_values() {
            // It fails only when the peer was faster.
            let _ = socket.shutdown();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Serves over one channel until everything was sent and placed.
    ///
    /// # Errors
    ///
    /// When the channel is lost and cannot be opened again within the time that a peer is given to come back, or
    /// is refused.
    pub(super) fn serve(self: &Arc<Self>, channel: u32, sender: &mut Sender) -> Result<()> {
        loop {
            let Err(error) = self.serve_over(channel, sender) else {
                return Ok(());
            };
            if self.lock().stopped {
                return Err(error);
            }
            tracing::warn!(%error, channel, session = self.route.session, "opened again");
            sender.go_on_over(self.reopen(channel)?);
        }
    }

    fn serve_over(self: &Arc<Self>, channel: u32, sender: &mut Sender) -> Result<()> {
        if channel == 0 {
            let socket = self.open_for_stop(channel, sender)?;
            let listener = Listener::start(self, socket)?;
            self.send(channel, sender)?;
            self.wait_placed()?;
            listener.join();
            return Ok(());
        }
        let sent = self
            .open_for_stop(channel, sender)
            .and_then(|_| self.send(channel, sender));
        // However it ended: from now on the first one pushes, where this was the last.
        self.lock().pushers -= 1;
        self.changed.notify_all();
        sent?;
        sender.wait_placed(self.round)
    }

    /// Another handle to a sender's channel, which [`stop`](Self::stop) ends too.
    fn open_for_stop(&self, channel: u32, sender: &Sender) -> Result<Blocking> {
        let socket = sender.channel()?;
        self.lock().sockets.insert(channel, socket.try_clone()?);
        Ok(socket)
    }

    /// Sends until nothing is left.
    fn send(&self, channel: u32, sender: &mut Sender) -> Result<()> {
        loop {
            match self.next(channel)? {
                Next::Urgent(runs) => sender.send_runs(self.pass(true), &runs)?,
                Next::Push(runs) => sender.send_runs(self.pass(false), &runs)?,
                Next::End => return sender.end_round(self.round),
            }
        }
    }

    fn pass(&self, urgent: bool) -> Pass {
        Pass {
            number: self.round,
            fresh: false,
            urgent,
        }
    }

    /// Waits for something to do.
    fn next(&self, channel: u32) -> Result<Next> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Err(DWCPError::Cancelled("sending was stopped".into()));
            }
            if channel == 0 {
                if let Heard::Lost(error) = std::mem::take(&mut state.heard) {
                    return Err(error);
                }
                while let Some(page) = state.wanted.pop_front() {
                    let runs = self.around(page);
                    if let Some(last) = runs.last() {
                        state.cursor = last.end;
                        return Ok(Next::Urgent(runs));
                    }
                }
            }
            let pushes = channel != 0 || self.channels == 1 || state.pushers == 0;
            if state.pushing && pushes {
                if let Some(runs) = self.take_next(&mut state) {
                    return Ok(Next::Push(runs));
                }
                return Ok(Next::End);
            }
            state = self.wait(state);
        }
    }

    /// What is left of the page and its neighbours, the page first.
    fn around(&self, page: u64) -> Vec<PageRange> {
        let mut runs = self.take(&(page..page + 1));
        if runs.is_empty() {
            return runs;
        }
        let first = page / NEIGHBOURS * NEIGHBOURS;
        let end = (first + NEIGHBOURS).min(self.ram.layout().pages());
        runs.extend(self.take(&(first..end)));
        runs
    }

    /// The next piece with anything left: from the cursor on, and then from the first page.
    fn take_next(&self, state: &mut State) -> Option<Vec<PageRange>> {
        let pages = self.ram.layout().pages();
        let piece = match self.channels {
            1 => PIECE_SHARED,
            _ => PIECE,
        };
        let mut ends = [pages, state.cursor.min(pages)].into_iter();
        let mut end = ends.next()?;
        loop {
            if state.cursor >= end {
                end = ends.next()?;
                state.cursor = 0;
                continue;
            }
            // To where pieces begin, wherever the cursor was set.
            let range = state.cursor..((state.cursor / piece + 1) * piece).min(end);
            state.cursor = range.end;
            let runs = self.take(&range);
            if !runs.is_empty() {
                return Some(runs);
            }
        }
    }

    /// Takes what is left of a range. No run spans the hole in the guest's addresses: that begins at a multiple of
    /// all pieces' sizes.
    fn take(&self, range: &PageRange) -> Vec<PageRange> {
        let mut runs: Vec<PageRange> = Vec::new();
        let mut page = range.start;
        while page < range.end {
            let end = (page / 64 + 1) * 64;
            let bits = u64::MAX >> (64 - (end.min(range.end) - page)) << (page % 64);
            let Some(word) = usize::try_from(page / 64)
                .ok()
                .and_then(|at| self.left.get(at))
            else {
                break;
            };
            let taken = word.fetch_and(!bits, Ordering::SeqCst) & bits;
            for bit in (0..64).filter(|bit| taken >> bit & 1 == 1) {
                let at = page / 64 * 64 + bit;
                match runs.last_mut() {
                    Some(last) if last.end == at => last.end = at + 1,
                    _ => runs.push(at..at + 1),
                }
            }
            page = end;
        }
        runs
    }

    /// What the destination misses, in all: what was on its way over a lost channel is among it, and what is on its
    /// way over another may be sent twice.
    fn again(&self, missing: &PageBitmap) {
        let words = missing.words(&(0..missing.pages()));
        for (own, new) in self.left.iter().zip(words) {
            own.fetch_or(*new, Ordering::SeqCst);
        }
        self.lock().cursor = 0;
        self.changed.notify_all();
    }

    fn want(&self, runs: &[PageRange]) -> Result<()> {
        let mut state = self.lock();
        if state.wanted.len() >= WANTED_MAX {
            return Err(violation("more wishes than a guest can have"));
        }
        state.wanted.extend(runs.iter().map(|run| run.start));
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until the destination has placed what was sent over the first channel.
    fn wait_placed(&self) -> Result<()> {
        let patience = self.route.dial.patience.work();
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            match std::mem::take(&mut state.heard) {
                Heard::Placed => return Ok(()),
                Heard::Lost(error) => return Err(error),
                Heard::Nothing => {}
            }
            // It was asked for before all was known to be on its way.
            state.wanted.clear();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.stopped {
                return Err(lost(std::io::ErrorKind::WouldBlock.into()));
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// Opens a channel that was lost, and learns what the destination misses.
    fn reopen(&self, channel: u32) -> Result<Blocking> {
        let Route {
            dial,
            session,
            token,
        } = &self.route;
        let deadline = Instant::now() + dial.patience.work();
        let mut delay = REOPEN_FIRST;
        loop {
            let opened = link::attach(dial, session, token, channel);
            let error = match opened.map(|(socket, _)| self.learn(socket)) {
                Ok(Ok(socket)) => {
                    let mut state = self.lock();
                    match channel {
                        0 => state.heard = Heard::Nothing,
                        _ => state.pushers += 1,
                    }
                    return Ok(socket);
                }
                Ok(Err(error)) => error,
                // It is there, and has no use for the channel.
                Err(error @ DWCPError::Migration(_)) => return Err(error),
                Err(error) => error,
            };
            if Instant::now() + delay > deadline {
                return Err(error);
            }
            let state = self.lock();
            let waited = self
                .changed
                .wait_timeout_while(state, delay, |s| !s.stopped);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.stopped {
                return Err(error);
            }
            delay = (delay * 2).min(dial.patience.moment());
        }
    }

    fn learn(&self, mut socket: Blocking) -> Result<Blocking> {
        let patience = self.route.dial.patience;
        // It is said at once. Time is left for another channel then.
        socket.set_read_timeout(Some(patience.silence()))?;
        let header = read_header(&mut socket)?;
        let layout = self.ram.layout();
        if header.kind != Kind::Missing {
            return Err(violation(&format!(
                "{header:?} in place of what is missing"
            )));
        }
        let mut words = vec![0; set_length(layout, &header)?];
        socket.read_exact(&mut words).map_err(lost)?;
        self.again(&decode_set(layout, &header, &words)?);
        socket.set_read_timeout(Some(patience.work()))?;
        Ok(socket)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever panicked, pages are taken and given back as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that hears what the destination says on the first channel.
struct Listener {
    socket: Blocking,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(supply: &Arc<Supply>, socket: Blocking) -> Result<Self> {
        // It says something only when its guest waits.
        socket.set_read_timeout(None)?;
        let (own, supply) = (socket.try_clone()?, Arc::clone(supply));
        let thread = spawn("dwcp-wanted", move || {
            work_as(Work::Control);
            let mut socket = socket;
            let heard = match listen(&supply, &mut socket) {
                Ok(()) => Heard::Placed,
                Err(error) => Heard::Lost(error),
            };
            supply.lock().heard = heard;
            supply.changed.notify_all();
        })?;
        Ok(Self {
            socket: own,
            thread: Some(thread),
        })
    }
}

impl Listener {
    /// All was placed, so it has ended. The channel stays open.
    fn join(mut self) {
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a listener's thread panicked");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Its channel was lost, or is to be ended.
            let _ = self.socket.shutdown();
        }
        self.wait();
    }
}

/// Hears wishes until everything was placed.
fn listen(supply: &Supply, socket: &mut Blocking) -> Result<()> {
    let layout = supply.ram.layout();
    let mut descriptors = Vec::new();
    loop {
        let header = read_header(socket)?;
        match header.kind {
            Kind::Want => {
                descriptors.resize(header.runs as usize * DESCRIPTOR, 0);
                socket.read_exact(&mut descriptors).map_err(lost)?;
                supply.want(&decode_runs(layout, &header, &descriptors)?)?;
            }
            Kind::Ack if header.sequence == supply.round => return Ok(()),
            _ => return Err(violation(&format!("{header:?} in place of a wish"))),
        }
    }
}

fn read_header(socket: &mut Blocking) -> Result<Header> {
    let mut bytes = [0; HEADER];
    socket.read_exact(&mut bytes).map_err(lost)?;
    Header::decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, PAGE_SIZE};
    use crate::migration::Patience;
    use crate::transport::Address;

    const PAGES: u64 = 1024;

    /// With these pages left, over so many channels, to a guest that runs.
    fn supply(runs: &[(u64, u64)], channels: u32) -> Arc<Supply> {
        let ram = GuestRam::allocate(PAGES * PAGE_SIZE, Backing::Memfd).unwrap();
        let mut left = PageBitmap::new(PAGES);
        for &(start, end) in runs {
            left.set_run(&(start..end), true);
        }
        let route = Route {
            dial: Dial {
                address: Address::parse("127.0.0.1:1", 0).unwrap(),
                tls: None,
                credential: None,
                patience: Patience::default(),
            },
            session: String::new(),
            token: String::new(),
        };
        let supply = Supply::new(&ram, &left, route, 2, channels);
        supply.push();
        supply
    }

    /// Whether it is urgent, and its runs, from and to; none at the end.
    fn next(supply: &Supply, channel: u32) -> (bool, Vec<(u64, u64)>) {
        let (urgent, runs) = match supply.next(channel).unwrap() {
            Next::Urgent(runs) => (true, runs),
            Next::Push(runs) => (false, runs),
            Next::End => (false, Vec::new()),
        };
        (
            urgent,
            runs.iter().map(|run| (run.start, run.end)).collect(),
        )
    }

    #[test]
    fn what_lies_behind_a_page_that_was_waited_for_goes_next() {
        let supply = supply(&[(0, 300), (600, 1000)], 2);
        assert_eq!(next(&supply, 1), (false, vec![(0, 256)]));
        supply.want(std::slice::from_ref(&(610..611))).unwrap();
        assert_eq!(
            next(&supply, 0),
            (true, vec![(610, 611), (608, 610), (611, 624)])
        );
        let rest = std::iter::from_fn(|| {
            let (urgent, runs) = next(&supply, 1);
            assert!(!urgent);
            (!runs.is_empty()).then_some(runs)
        });
        let rest: Vec<(u64, u64)> = rest.flatten().collect();
        assert_eq!(rest, [(624, 768), (768, 1000), (256, 300), (600, 608)]);
    }

    #[test]
    fn what_was_lost_goes_again_from_the_first_page() {
        let supply = supply(&[(0, 10), (1000, 1024)], 1);
        assert_eq!(next(&supply, 0).1, [(0, 10)]);
        supply.want(std::slice::from_ref(&(1000..1001))).unwrap();
        assert_eq!(next(&supply, 0), (true, vec![(1000, 1001), (1001, 1008)]));
        let mut missing = PageBitmap::new(PAGES);
        missing.set_run(&(5..8), true);
        supply.again(&missing);
        assert_eq!(next(&supply, 0).1, [(5, 8)]);
        assert_eq!(next(&supply, 0).1, [(1008, 1024)]);
        assert_eq!(next(&supply, 0).1, []);
    }
}
