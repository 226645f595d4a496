//! One connection: who writes, who reads, and who is told.
//!
//! The session's rules are in `wire::session`; here are its socket, its clock and those who wait.
//! All of it is behind one lock that is held for microseconds and never across an await. A task, the
//! `Driver`, reads: one wake-up serves all replies that have come, and who waits for them is told when
//! the lock is free again. Writing is nobody's in particular: a request that is alone on the
//! connection is written by its caller at once, which saves the way through the driver; when there
//! are several, the driver is woken and sends all that has gathered in one write.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::feed::{End, Feed, Route};
use super::retry::Failure;
use crate::action::{Action, Item, Outcome, Subscription};
use crate::client::counters::{Counters, FrameCount};
use crate::error::DWCPError;
use crate::transport::Stream;
use crate::wire::message::{AuthReply, EXTENDED};
use crate::wire::session::{ClientEvent, ClientSession, ClientSessionConfig};

/// Items of a stream that a node may send before some were taken.
pub(super) const WINDOW: u32 = 256;
/// Reads in one turn of the driver: other tasks of its thread have to have theirs.
const READS: usize = 16;
/// Time for the last bytes when the connection is closed by this side.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a call ends with.
pub(super) type Answer = Result<Outcome, Failure>;
/// Calls that have ended, to be told when the lock is free.
type Answered = Vec<(oneshot::Sender<Answer>, Answer)>;

/// A connection that was accepted by its node.
pub(super) struct Connection {
    core: Mutex<Core>,
    /// Calls and streams it carries.
    load: AtomicUsize,
    /// Whether new requests may go over it.
    usable: AtomicBool,
    /// Whether the driver has ended, and the socket with it.
    over: watch::Sender<bool>,
    /// What the node said of itself.
    reply: std::sync::OnceLock<AuthReply>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("usable", &self.is_usable())
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

/// Whether the connection goes on.
#[derive(Debug)]
enum Phase {
    Open,
    /// The node takes no more requests: those under way are finished.
    GoingAway,
    /// What is still to be sent has until then.
    Closing(Instant),
    /// Why it is over.
    Closed(DWCPError),
}

struct Core {
    session: ClientSession,
    /// `None` when it is over.
    stream: Option<Stream>,
    /// Wakes the driver. Who writes in its place leaves it with the socket, so that it is the driver
    /// who goes on when the socket takes no more.
    driver: Option<Waker>,
    phase: Phase,
    /// Whoever waits for the node's consent.
    ready: Option<oneshot::Sender<Result<AuthReply, DWCPError>>>,
    /// Those that nobody waits for any more included: their ids are in use until the node has answered.
    calls: HashMap<u64, Option<oneshot::Sender<Answer>>>,
    streams: HashMap<u64, Route>,
    /// Requests under way that the node allows; those beyond wait here.
    inflight_max: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
    /// The node will send nothing more.
    ended: bool,
    unflushed: bool,
    counters: Arc<Counters>,
    written: FrameCount,
    received: FrameCount,
}

impl Connection {
    /// Introduces itself over a stream that is connected; returns when the node has consented. Dropping
    /// the future closes the stream.
    pub(super) async fn open(
        stream: Stream,
        config: ClientSessionConfig,
        buffer_size: usize,
        counters: Arc<Counters>,
    ) -> Result<Arc<Connection>, DWCPError> {
        let (sender, ready) = oneshot::channel();
        let connection = Arc::new(Connection {
            core: Mutex::new(Core {
                session: ClientSession::new(config, Instant::now().into_std()),
                stream: Some(stream),
                driver: None,
                phase: Phase::Open,
                ready: Some(sender),
                calls: HashMap::new(),
                streams: HashMap::new(),
                inflight_max: usize::MAX,
                waiting: VecDeque::new(),
                ended: false,
                unflushed: false,
                counters,
                written: FrameCount::default(),
                received: FrameCount::default(),
            }),
            load: AtomicUsize::new(0),
            usable: AtomicBool::new(true),
            over: watch::Sender::new(false),
            reply: std::sync::OnceLock::new(),
        });
        let closer = Closer(Some(Arc::clone(&connection)));
        tokio::spawn(Driver {
            connection: Arc::clone(&connection),
            buffer: vec![0; buffer_size].into_boxed_slice(),
            answered: Vec::new(),
            timer: None,
        });
        let reply = ready.await.unwrap_or_else(|_| Err(ended()))?;
        let _ = connection.reply.set(reply);
        closer.keep();
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new requests may go over it.
    pub(super) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    /// Calls and streams it carries.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether the node speaks the extended profile, in which idempotency keys count.
    fn is_extended(&self) -> bool {
        let features = self.reply.get().map(|reply| reply.features.as_slice());
        features.is_some_and(|features| features.iter().any(|name| name == EXTENDED))
    }

    /// UUID of the node's store, where it names one.
    pub(super) fn store(&self) -> Option<String> {
        let node = self.reply.get()?.node.as_ref()?;
        Some(node.uuid.clone()).filter(|uuid| !uuid.is_empty())
    }

    /// Asks, and waits for the answer until `deadline`. The node is told of one that is a little
    /// earlier, so that its own word about a request that took too long can still be heard. Dropping
    /// the future takes the request back.
    pub(super) async fn call(self: &Arc<Self>, action: &Action, deadline: Instant) -> Answer {
        let answer = self.ask(action, deadline).await;
        answer.map_err(|failure| Failure {
            // A node of the base profile does not know keys, and would do it twice.
            last: failure.executed && !action.is_read_only() && !self.is_extended(),
            ..failure
        })
    }

    async fn ask(self: &Arc<Self>, action: &Action, deadline: Instant) -> Answer {
        loop {
            let turn = {
                let mut core = self.lock();
                core.check()?;
                if core.calls.len() < core.inflight_max {
                    let id = core
                        .session
                        .call(action, Some(allowed(deadline)))
                        .map_err(Failure::never)?;
                    let (sender, answer) = oneshot::channel();
                    core.calls.insert(id, Some(sender));
                    core.push();
                    Ok((id, answer))
                } else {
                    let (sender, turn) = oneshot::channel();
                    core.waiting.push_back(sender);
                    Err(turn)
                }
            };
            match turn {
                Ok((id, answer)) => {
                    let call = Call::new(self, id);
                    let answer = tokio::time::timeout_at(deadline, answer).await;
                    return match answer {
                        Ok(answer) => {
                            call.answered();
                            answer.unwrap_or_else(|_| Err(Failure::perhaps(ended())))
                        }
                        Err(_) => Err(Failure::perhaps(late(action.name()))),
                    };
                }
                // Either way there may be room now, or the connection is over.
                Err(turn) => match tokio::time::timeout_at(deadline, turn).await {
                    Ok(_) => {}
                    Err(_) => return Err(Failure::never(late(action.name()))),
                },
            }
        }
    }

    /// Opens a stream, and waits for the node's consent until `deadline`.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        subscription: &Subscription,
        deadline: Instant,
    ) -> Result<Feed, Failure> {
        let (route, opened, items, end) = Route::new();
        let id = {
            let mut core = self.lock();
            core.check()?;
            let id = core
                .session
                .subscribe(subscription)
                .map_err(Failure::never)?;
            core.streams.insert(id, route);
            core.push();
            id
        };
        // From here on dropping it takes the stream back.
        let feed = Feed::new(self, id, items, end);
        match tokio::time::timeout_at(deadline, opened).await {
            Ok(opened) => opened.unwrap_or_else(|_| Err(Failure::perhaps(ended())))?,
            Err(_) => return Err(Failure::perhaps(late(subscription.name()))),
        }
        Ok(feed)
    }

    /// One more call or stream.
    pub(super) fn loaded(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; `cancel` when nobody waits for its end any more.
    pub(super) fn unloaded(&self, id: u64, cancel: bool) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        if !cancel {
            return;
        }
        let mut core = self.lock();
        let call = core.calls.get_mut(&id).and_then(Option::take).is_some();
        if call || core.streams.remove(&id).is_some() {
            core.session.cancel(id);
            core.push();
        }
    }

    /// Some items of a stream were taken.
    pub(super) fn consumed(&self, id: u64, items: u32) {
        let mut core = self.lock();
        if core.streams.contains_key(&id) {
            core.session.consumed(id, items);
            if !core.session.transmit().is_empty() {
                core.push();
            }
        }
    }

    /// Ends it: what is under way ends with `Connection` and this text.
    pub(super) fn close(&self, why: &str) {
        self.usable.store(false, Ordering::Release);
        let mut core = self.lock();
        if matches!(core.phase, Phase::Open | Phase::GoingAway) {
            core.abandon(&DWCPError::Connection(why.to_owned()));
            core.phase = Phase::Closing(Instant::now() + GOODBYE);
            core.wake();
        }
    }

    /// Waits until the socket is closed.
    pub(super) async fn over(&self) {
        // An error would mean that it is gone altogether.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}

/// How long the node is allowed for a request.
fn allowed(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left - (left / 10).min(Duration::from_millis(500))
}

/// The end of a runtime, and of all tasks on it.
fn ended() -> DWCPError {
    DWCPError::Connection("the task that serves the connection was ended".into())
}

pub(super) fn late(what: &str) -> DWCPError {
    DWCPError::Timeout(format!("{what}: no answer within the time for a request"))
}

/// Closes a connection that nobody waits for.
struct Closer(Option<Arc<Connection>>);

impl Closer {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.close("the connection was given up");
        }
    }
}

/// A call under way.
struct Call<'a> {
    connection: &'a Arc<Connection>,
    id: u64,
    cancel: bool,
}

impl<'a> Call<'a> {
    fn new(connection: &'a Arc<Connection>, id: u64) -> Call<'a> {
        connection.loaded();
        Call {
            connection,
            id,
            cancel: true,
        }
    }

    fn answered(mut self) {
        self.cancel = false;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.connection.unloaded(self.id, self.cancel);
    }
}

impl Core {
    /// Whether requests may be made.
    fn check(&self) -> Result<(), Failure> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::GoingAway => Err(Failure::never(DWCPError::Unavailable(
                "the node takes no more requests over this connection".into(),
            ))),
            Phase::Closing(_) => Err(Failure::never(DWCPError::Connection(
                "the connection is being closed".into(),
            ))),
            Phase::Closed(error) => Err(Failure::never(error.clone())),
        }
    }

    fn wake(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// Sees to it that what was queued is sent.
    fn push(&mut self) {
        let Some(driver) = self.driver.clone() else {
            // The driver has not begun, and begins with writing.
            return;
        };
        if self.calls.len() > 1 {
            driver.wake();
        } else if let Err(error) = self.write(&mut Context::from_waker(&driver)) {
            self.fail(&lost(&error));
            driver.wake();
        }
    }

    /// Writes what is queued, as far as the socket takes it.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let queued = self.session.transmit();
        while !queued.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, queued)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    let frames = self.written.advance(&queued[..count]);
                    self.counters.wrote(count, frames);
                    queued.advance(count);
                    self.unflushed = true;
                }
                Poll::Pending => return Ok(()),
            }
        }
        if self.unflushed && Pin::new(stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }

    /// Reads what has come, and takes it in. Whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], answered: &mut Answered) -> bool {
        for _ in 0..READS {
            if self.ended || !self.session.wants_input() {
                return false;
            }
            let Some(stream) = &mut self.stream else {
                return false;
            };
            let mut filled = ReadBuf::new(buffer);
            match Pin::new(stream).poll_read(cx, &mut filled) {
                Poll::Pending => return false,
                Poll::Ready(Err(error)) => {
                    self.fail(&lost(&error));
                    return false;
                }
                Poll::Ready(Ok(())) if filled.filled().is_empty() => {
                    self.ended = true;
                    self.session.receive_end(Instant::now().into_std());
                    self.dispatch(answered);
                    // Nothing can be answered any more.
                    self.fail(&DWCPError::Connection(
                        "the node closed the connection".into(),
                    ));
                    return false;
                }
                Poll::Ready(Ok(())) => {
                    let bytes = filled.filled();
                    let frames = self.received.advance(bytes);
                    self.counters.read(bytes.len(), frames);
                    self.session.receive(bytes, Instant::now().into_std());
                    self.dispatch(answered);
                }
            }
        }
        true
    }

    /// Tells everybody what the session found.
    fn dispatch(&mut self, answered: &mut Answered) {
        while let Some(event) = self.session.poll_event() {
            match event {
                ClientEvent::Ready(reply) => {
                    let limit = reply
                        .limits
                        .as_ref()
                        .map_or(0, |limits| limits.max_inflight);
                    if limit > 0 {
                        self.inflight_max = usize::try_from(limit).unwrap_or(usize::MAX);
                    }
                    if let Some(ready) = self.ready.take() {
                        // Who no longer waits closes the connection.
                        let _ = ready.send(Ok(reply));
                    }
                }
                ClientEvent::Refused(error) => {
                    if let Some(ready) = self.ready.take() {
                        let _ = ready.send(Err(error.clone()));
                    }
                    self.fail(&error);
                }
                ClientEvent::Reply { id, result } => self.reply(id, result, answered),
                ClientEvent::Opened { id } => {
                    if let Some(route) = self.streams.get_mut(&id) {
                        route.opened();
                    }
                }
                ClientEvent::Item { id, item } => self.item(id, item),
                ClientEvent::Ended { id, error } => {
                    let draining = matches!(self.phase, Phase::GoingAway);
                    if let Some(route) = self.streams.remove(&id) {
                        route.end(End::Said { error, draining });
                    }
                }
                ClientEvent::GoAway { .. } => {
                    if matches!(self.phase, Phase::Open) {
                        self.phase = Phase::GoingAway;
                    }
                    self.waiting.clear();
                }
                ClientEvent::Close { reason } => self.fail(&reason),
            }
        }
    }

    fn reply(&mut self, id: u64, result: Result<Outcome, DWCPError>, answered: &mut Answered) {
        // A node that goes away says `unavailable` to what it has not begun.
        let going = matches!(self.phase, Phase::GoingAway);
        let result = result.map_err(|error| Failure {
            executed: !(going && matches!(error, DWCPError::Unavailable(_))),
            ..Failure::perhaps(error)
        });
        if let Some(call) = self.calls.remove(&id) {
            answered.extend(call.map(|call| (call, result)));
            self.let_in();
        } else if let (Some(route), Err(failure)) = (self.streams.remove(&id), result) {
            route.refuse(failure);
        }
    }

    fn item(&mut self, id: u64, item: Item) {
        let Some(route) = self.streams.get(&id) else {
            return;
        };
        // Who has dropped the stream has cancelled it too.
        if let Err(mpsc::error::TrySendError::Full(_)) = route.item(item) {
            self.fail(&DWCPError::Protocol(format!(
                "the node sent more items of a stream than the {WINDOW} it was allowed"
            )));
        }
    }

    /// Lets in the next request that waits for room.
    fn let_in(&mut self) {
        while self.calls.len() < self.inflight_max
            && let Some(next) = self.waiting.pop_front()
        {
            if next.send(()).is_ok() {
                return;
            }
        }
    }

    /// Ends everything.
    fn fail(&mut self, error: &DWCPError) {
        if matches!(self.phase, Phase::Closed(_)) {
            return;
        }
        if matches!(self.phase, Phase::Open | Phase::GoingAway) {
            self.counters.failed();
        }
        self.abandon(error);
        self.phase = Phase::Closed(error.clone());
        self.stream = None;
    }

    /// Tells all who wait that nothing more comes.
    fn abandon(&mut self, error: &DWCPError) {
        // Whoever waits has to know that it was the connection which ended, not their own request.
        let error = match error {
            DWCPError::Connection(_) => error.clone(),
            other => DWCPError::Connection(other.to_string()),
        };
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(error.clone()));
        }
        for call in self.calls.drain().filter_map(|(_, call)| call) {
            let _ = call.send(Err(Failure::perhaps(error.clone())));
        }
        for (_, route) in self.streams.drain() {
            route.end(End::Broken(error.clone()));
        }
        self.waiting.clear();
    }
}

fn lost(error: &io::Error) -> DWCPError {
    DWCPError::Connection(format!("the connection was lost: {error}"))
}

/// The task of a connection: reads, writes what others left, keeps the session's time.
struct Driver {
    connection: Arc<Connection>,
    buffer: Box<[u8]>,
    answered: Answered,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let mut core = this.connection.lock();
            if core
                .driver
                .as_ref()
                .is_none_or(|driver| !driver.will_wake(cx.waker()))
            {
                core.driver = Some(cx.waker().clone());
            }
            let more = core.read(cx, &mut this.buffer, &mut this.answered);
            if let Err(error) = core.write(cx) {
                core.fail(&lost(&error));
            }
            let closed = core.is_closed(cx);
            let timeout = core.timeout();
            if !matches!(core.phase, Phase::Open) {
                this.connection.usable.store(false, Ordering::Release);
            }
            drop(core);
            for (call, answer) in this.answered.drain(..) {
                // Who dropped the call has cancelled it.
                let _ = call.send(answer);
            }
            if closed {
                return Poll::Ready(());
            }
            if more {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(this.poll_timer(timeout, cx));
            let mut core = this.connection.lock();
            let now = Instant::now();
            if matches!(core.phase, Phase::Closing(until) if now >= until) {
                core.fail(&DWCPError::Connection("the connection was closed".into()));
            }
            core.session.handle_timeout(now.into_std());
            core.dispatch(&mut this.answered);
        }
    }
}

impl Driver {
    /// Ready when the time has come.
    fn poll_timer(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        // A later time is seen when the earlier one has come: moving the timer costs more.
        if at < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }
}

impl Core {
    /// When the driver has something to do, whatever comes.
    fn timeout(&mut self) -> Option<Instant> {
        let session = self.session.timeout().map(Instant::from_std);
        match self.phase {
            Phase::Closing(until) => Some(session.map_or(until, |session| session.min(until))),
            _ => session,
        }
    }

    /// Whether it is over, ending it where nothing is left to do.
    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(self.phase, Phase::GoingAway)
            && self.calls.is_empty()
            && self.streams.is_empty()
        {
            self.phase = Phase::Closing(Instant::now() + GOODBYE);
        }
        if matches!(self.phase, Phase::Closing(_))
            && self.session.transmit().is_empty()
            && let Some(stream) = &mut self.stream
            && Pin::new(stream).poll_shutdown(cx).is_ready()
        {
            self.fail(&DWCPError::Connection("the connection was closed".into()));
        }
        matches!(self.phase, Phase::Closed(_))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connection.usable.store(false, Ordering::Release);
        // Where the runtime was shut down, nobody else tells those who wait.
        self.connection.lock().fail(&ended());
        self.connection.over.send_replace(true);
    }
}
