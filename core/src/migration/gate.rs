//! The destination's bulk channels: who is let in, and a thread for each that places pages.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::demand::{Demand, Writer};
use super::link::{self, Attach, Attached};
use super::mirror::Copy;
use super::patience::Patience;
use super::receiver::{Arrival, Receiver};
use super::token::is_token;
use crate::error::{DWCPError, Result};
use crate::machine::{Work, spawn, work_as};
use crate::memory::{GuestRam, PageBitmap};
use crate::transport::Blocking;

/// What the channels tell the driver.
#[derive(Debug)]
pub(super) enum News {
    /// The machine's state came.
    State(Vec<u8>),
    /// All pages that came after the switch are here.
    Complete,
    /// A channel ended, or cannot go on.
    Lost(String),
    /// All channels are open again.
    AllOpen,
}

/// Tells the driver; whether it is still there.
type Tell = Arc<dyn Fn(News) -> bool + Send + Sync>;

/// Admits bulk channels while it is open.
pub(super) struct Gate {
    tell: Tell,
    patience: Patience,
    open: Mutex<Option<Open>>,
}

struct Open {
    token: String,
    channels: u32,
    ram: Arc<GuestRam>,
    /// Where pages may come after the switch.
    demand: Option<Arc<Demand>>,
    /// The disk that comes along.
    disk: Option<Arc<Copy>>,
    receivers: BTreeMap<u32, (Blocking, JoinHandle<()>)>,
    stopped: Arc<AtomicBool>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// Closed, at first. `tell` is called from the channels' threads; it is to say whether anybody hears.
    pub(super) fn new(
        patience: Patience,
        tell: impl Fn(News) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            tell: Arc::new(tell),
            patience,
            open: Mutex::default(),
        }
    }

    /// Admits so many channels that know the token, for pages of this memory and parts of that disk.
    pub(super) fn open(
        &self,
        token: String,
        channels: u32,
        ram: Arc<GuestRam>,
        demand: Option<Arc<Demand>>,
        disk: Option<Arc<Copy>>,
    ) {
        *self.lock() = Some(Open {
            token,
            channels,
            ram,
            demand,
            disk,
            receivers: BTreeMap::new(),
            stopped: Arc::default(),
        });
    }

    /// Takes a bulk channel from a peer that knows the token: once for each number, and anew once pages come after
    /// the switch. `answer` tells the peer, before pages are read.
    ///
    /// # Errors
    ///
    /// `permission_denied` for one that is not admitted; those of the channel.
    pub(super) fn attach(
        &self,
        request: &Attach,
        mut stream: Blocking,
        answer: impl FnOnce(&mut Blocking, Attached) -> Result<()>,
    ) -> Result<()> {
        let refused = |why: &str| {
            Err(DWCPError::PermissionDenied(format!(
                "a bulk channel: {why}"
            )))
        };
        let mut gate = self.lock();
        let Some(open) = gate.as_mut() else {
            return refused("this migration takes none now");
        };
        if !is_token(request.token.as_bytes(), &open.token) {
            return refused("the token is not right");
        }
        let again = open.demand.as_ref().is_some_and(|own| own.is_used());
        if request.channel >= open.channels
            || (!again && open.receivers.contains_key(&request.channel))
        {
            return refused("there is no such channel, or it is open already");
        }
        if let Some(old) = open.receivers.remove(&request.channel) {
            // The source has lost it, and this side need not have noticed.
            end_channel(old);
        }
        link::tune(&stream)?;
        let post_copy = open.demand.is_some();
        answer(&mut stream, Attached { post_copy })?;
        stream.set_write_timeout(Some(self.patience.work()))?;
        let spare = stream.try_clone()?;
        let writer: Writer = Arc::new(Mutex::new(stream.try_clone()?));
        if let Some(demand) = &open.demand {
            demand.opened(request.channel, &writer)?;
        }
        let demand = open.demand.clone();
        let receiver = Receiver::new(stream, writer, Arc::clone(&open.ram), demand.clone())
            .with_disk(open.disk.clone());
        let (tell, stopped) = (Arc::clone(&self.tell), Arc::clone(&open.stopped));
        let thread = spawn("dwcp-receive", move || {
            work_as(Work::Copy);
            receive(receiver, demand.as_ref(), &tell, &stopped);
        })?;
        open.receivers.insert(request.channel, (spare, thread));
        if again && open.is_whole() {
            // When the driver is gone, nothing is awaited any more.
            let _ = (self.tell)(News::AllOpen);
        }
        Ok(())
    }

    /// Ends all channels and waits for their threads: afterwards nothing writes the memory.
    pub(super) fn close(&self) {
        let Some(open) = self.lock().take() else {
            return;
        };
        open.stopped.store(true, Ordering::SeqCst);
        for (socket, _) in open.receivers.values() {
            // It fails only when the peer was faster.
            let _ = socket.shutdown();
        }
        for receiver in open.receivers.into_values() {
            end_channel(receiver);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Whether all channels are there and none has ended.
    fn is_whole(&self) -> bool {
        let mut threads = self.receivers.values();
        self.receivers.len() as u64 == u64::from(self.channels)
            && threads.all(|(_, thread)| !thread.is_finished())
    }
}

/// Ends a channel, and waits for its thread.
fn end_channel((socket, thread): (Blocking, JoinHandle<()>)) {
    // It fails only when the peer was faster.
    let _ = socket.shutdown();
    if thread.join().is_err() {
        tracing::error!("a channel's thread panicked");
    }
}

/// A channel's thread: places pages, and tells of the rest, until the channel ends.
fn receive(
    mut receiver: Receiver,
    demand: Option<&Arc<Demand>>,
    tell: &Tell,
    stopped: &AtomicBool,
) {
    loop {
        let arrival = receiver.receive();
        if stopped.load(Ordering::SeqCst) {
            return;
        }
        let news = match arrival {
            // Channels stay open until the VM runs somewhere.
            Ok(Arrival::Closed) => News::Lost("the source closed a bulk channel".into()),
            Ok(Arrival::State(state)) => News::State(state),
            Ok(Arrival::Missing(pages)) => match expect(demand, &pages, tell) {
                Ok(()) => continue,
                Err(error) => News::Lost(error.to_string()),
            },
            Ok(Arrival::Complete) => News::Complete,
            Err(error) => News::Lost(error.to_string()),
        };
        let over = matches!(news, News::Lost(_));
        if over {
            // So that the source finds out as well, which may only be writing.
            receiver.shut_down();
        }
        if !tell(news) || over {
            return;
        }
    }
}

/// Pages come after the switch: whoever needs one waits from now on.
fn expect(demand: Option<&Arc<Demand>>, pages: &PageBitmap, tell: &Tell) -> Result<()> {
    let refused = || DWCPError::Migration("pages are to come late, which was not agreed".into());
    let tell = Arc::clone(tell);
    demand.ok_or_else(refused)?.expect(pages, move |error| {
        // When the driver is gone, so is the guest that waits.
        let _ = tell(News::Lost(format!(
            "who waits for pages was not heard: {error}"
        )));
    })
}
