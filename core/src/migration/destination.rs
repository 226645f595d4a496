//! Driving the destination's side of a hand-over.
//!
//! One thread for each migration: it feeds the state machine and carries out what that returns. `gate` has the
//! bulk channels, each with a thread that places pages.

use std::collections::VecDeque;
use std::ops::RangeTo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::demand::Demand;
use super::gate::{Gate, News};
use super::link::{self, Attach, Attached, Dial, Envelope, Link, Timing};
use super::marks::micros;
use super::mirror;
use super::offer::Offer;
use super::patience::Patience;
use super::protocol::destination::{
    Destination, DestinationEffect, DestinationInput, DestinationOutcome, DiscardReason, Verdict,
};
use super::protocol::message::{Body, Message, Prepare};
use super::token::new_token;
use crate::error::{DWCPError, Result};
use crate::hypervisor::decode;
use crate::machine::{Machine, Work, spawn, work_as};
use crate::transport::Blocking;
use crate::wire::frame::FrameType;

/// The first wait before a source that fell silent is asked; doubled each time.
const ASK_FIRST: Duration = Duration::from_millis(50);

/// How long the disk is waited for: the source gave it up before it let the VM be taken. The guest stands
/// still meanwhile.
const DISK_PATIENCE: Duration = Duration::from_millis(500);

/// What the node does for a VM that arrives. Called from the migration's thread.
pub(crate) trait DestinationHost: Send + Sync {
    /// Checks the fit, makes room, builds the machine over fresh memory or that which is handed over
    /// ([`take_memory`](super::take_memory)), unless the VM is stopped; or everything that does not fit, and nothing is
    /// kept.
    fn admit(&self, epoch: u64, offer: &Offer) -> Result<Option<Arc<Machine>>, Vec<String>>;
    /// Makes a verdict durable, or forgets it.
    fn persist(&self, verdict: &Verdict) -> Result<()>;
    /// The VM is this node's, and its vCPUs run (or are held, or there are none, where it was so).
    fn started(&self);
    /// Drop what there is of the VM.
    fn discard(&self);
    /// The VM was taken, and a part of its memory will not come: it is to run no more. Its vCPUs were told to stop, and
    /// nobody waits for that part any more.
    fn memory_lost(&self, reason: &str);
    /// Somebody has the VM under this epoch: where that is higher than all that this node has seen of
    /// the VM, stops it at once, before it returns `None`; or the last epoch that was seen here.
    fn meet(&self, epoch: u64) -> Option<u64>;
    /// How it ended.
    fn finished(&self, outcome: &DestinationOutcome);
    /// Nothing more comes of this migration; its thread ends.
    fn over(&self);
    /// How the source is reached, if that is known here.
    fn source_address(&self, source_node: &str) -> Option<Dial>;
}

/// A VM about to arrive.
pub(crate) struct Arriving {
    /// The source's first message, an offer.
    pub(crate) first: Envelope,
    /// The connection it came over.
    pub(crate) stream: Blocking,
    /// This node.
    pub(crate) node_uuid: String,
    pub(crate) host: Arc<dyn DestinationHost>,
    /// How long the source may be silent.
    pub(crate) patience: Patience,
    #[cfg(test)]
    pub(crate) faults: super::faults::Faults,
}

/// A migration under way, as the node holds it.
#[derive(Debug)]
pub(crate) struct Incoming {
    vm_id: String,
    epoch: u64,
    patience: Patience,
    /// The VM is here for good, or gone; only the source is still talked to.
    finished: Arc<AtomicBool>,
    /// The VM runs here, and some of its memory is still to come.
    awaiting: Arc<AtomicBool>,
    events: mpsc::Sender<Event>,
    gate: Arc<Gate>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What reaches the driver.
#[derive(Debug)]
enum Event {
    Input(DestinationInput),
    /// A message, or the end, of the control connection of that number.
    Heard(u64, Option<Box<Envelope>>),
    /// The peer opened a new control connection, with this as its first message.
    Linked(Blocking, Box<Envelope>),
    /// Of the bulk channels.
    Channels(News),
    /// The VM is offered anew; told when what there is of this copy is gone, if it can go.
    Superseded(mpsc::Sender<()>),
}

impl Incoming {
    /// Starts the migration's thread.
    pub(crate) fn start(arriving: Arriving) -> Result<Self> {
        let (events, inbox) = mpsc::channel();
        let patience = arriving.patience;
        let told = events.clone();
        let gate = Arc::new(Gate::new(patience, move |news| {
            told.send(Event::Channels(news)).is_ok()
        }));
        let epoch = arriving.first.message.epoch;
        let vm_id = match &arriving.first.message.body {
            Body::Prepare(prepare) => prepare.vm_id.clone(),
            // Refused below.
            _ => String::new(),
        };
        let driver = Driver::new(arriving, events.clone(), Arc::clone(&gate))?;
        let finished = Arc::clone(&driver.finished);
        let awaiting = Arc::clone(&driver.awaiting);
        let thread = spawn("dwcp-arrive", move || driver.live(&inbox))?;
        Ok(Self {
            vm_id,
            epoch,
            patience,
            finished,
            awaiting,
            events,
            gate,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Hands over a control connection that the peer opened.
    pub(crate) fn adopt(&self, stream: Blocking, first: Envelope) {
        // When the driver is gone, the connection is closed and the peer asks again.
        let _ = self.events.send(Event::Linked(stream, Box::new(first)));
    }

    /// Takes a bulk channel; see [`Gate::attach`].
    pub(crate) fn attach(
        &self,
        request: &Attach,
        stream: Blocking,
        answer: impl FnOnce(&mut Blocking, Attached) -> Result<()>,
    ) -> Result<()> {
        self.gate.attach(request, stream, answer)
    }

    /// Whether the VM runs here and some of its memory is still to come.
    pub(crate) fn is_awaiting(&self) -> bool {
        self.awaiting.load(Ordering::SeqCst)
    }

    /// Whether nothing comes here any more, and only the source is still talked to.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::SeqCst)
    }

    /// Whether it brings that VM, under one of those epochs.
    pub(crate) fn brings(&self, vm_id: &str, epochs: RangeTo<u64>) -> bool {
        self.vm_id == vm_id && epochs.contains(&self.epoch)
    }

    /// The VM is offered anew, under a higher epoch: so this copy was never granted, or no longer is.
    /// Waits until it is dropped; one that was taken, or is about to be, stays.
    pub(crate) fn supersede(&self) {
        let (done, dropped) = mpsc::channel();
        // A driver that is gone has nothing left to drop; one that has gone meanwhile answers nobody.
        if self.events.send(Event::Superseded(done)).is_ok() {
            let _ = dropped.recv_timeout(self.patience.silence());
        }
    }

    /// Tells the driver that this node is being shut down.
    pub(crate) fn shut_down(&self) {
        // A driver that is gone has nothing left to shut down.
        let _ = self.events.send(Event::Input(DestinationInput::Shutdown));
    }

    /// Waits for the migration's thread, which has been told to end or is about to.
    pub(crate) fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("a migration's thread panicked");
        }
    }
}

/// Whether a peer's first message offers a VM.
pub(crate) fn is_offer(first: &Envelope) -> bool {
    matches!(first.message.body, Body::Prepare(_))
}

/// Tells a peer that its bulk channel is open.
pub(crate) fn accept_channel(stream: &mut Blocking, attached: Attached) -> Result<()> {
    link::write_frame(stream, FrameType::Ok, serde_json::to_vec(&attached)?)
}

/// Answers a source that asks about a migration which nobody here drives any more, from the verdict in
/// the store: what was not taken is refused, durably, from now on. Waits for the source to settle it too, as
/// long as it may be silent, so that the verdict can be forgotten. `meet` is that of a [`DestinationHost`].
pub(crate) fn answer_about(
    first: Envelope,
    stream: Blocking,
    node_uuid: &str,
    verdict: Option<&Verdict>,
    patience: Patience,
    mut persist: impl FnMut(&Verdict) -> Result<()>,
    meet: impl Fn(u64) -> Option<u64>,
) -> Result<()> {
    let (session, epoch) = (first.message.session.clone(), first.message.epoch);
    let source = first.from.clone();
    let own = node_uuid.to_owned();
    let mut state = Destination::recovered(session, epoch, own, source, verdict);
    let mut stream = stream;
    let mut inputs = VecDeque::from([DestinationInput::LinkUp, received(first)]);
    let mut settled = false;
    loop {
        let Some(input) = inputs.pop_front() else {
            if settled {
                return Ok(());
            }
            match link::next_message(&mut stream, patience.silence())? {
                Some(envelope) => inputs.push_back(received(envelope)),
                None => return Ok(()),
            }
            continue;
        };
        for effect in state.handle(input) {
            match effect {
                DestinationEffect::Persist(verdict) => {
                    persist(&verdict)?;
                    settled = verdict == Verdict::Forget;
                    inputs.push_back(DestinationInput::Persisted);
                }
                DestinationEffect::Send(message) => {
                    let envelope = Envelope {
                        from: node_uuid.to_owned(),
                        stamp: None,
                        timing: None,
                        message,
                    };
                    let payload = serde_json::to_vec(&envelope)?;
                    link::write_frame(&mut stream, FrameType::Migration, payload)?;
                }
                DestinationEffect::Pause { epoch } => inputs.push_back(met(meet(epoch))),
                // There is no machine, and nobody to tell: the source will ask again.
                _ => {}
            }
        }
    }
}

fn met(last: Option<u64>) -> DestinationInput {
    last.map_or(DestinationInput::Halted, |last| DestinationInput::Later {
        last,
    })
}

struct Driver {
    arriving: Arc<dyn DestinationHost>,
    node_uuid: String,
    source_node: String,
    source_uuid: String,
    session: String,
    epoch: u64,
    state: Destination,
    events: mpsc::Sender<Event>,
    gate: Arc<Gate>,
    own: VecDeque<DestinationInput>,
    link: Option<Link>,
    link_number: u64,
    /// The link before, with its number, and still listened to: where both sides open one at the same
    /// time, what either says arrives.
    older: Option<(u64, Link)>,
    machine: Option<Arc<Machine>>,
    /// The node's machine, of which some of the memory is to come.
    late: Weak<Machine>,
    offer: Option<Offer>,
    saved: Option<Vec<u8>>,
    timing: Timing,
    patience: Patience,
    /// Where pages may come after the switch.
    demand: Option<Arc<Demand>>,
    awaiting: Arc<AtomicBool>,
    /// A bulk channel is lost over which pages were to come: by then it has to be open again.
    channels_lost: Option<(Instant, String)>,
    /// The source is silent, and pages are to come: by then some have to have come of so many.
    link_lost: Option<(Instant, u64)>,
    ask: Option<Instant>,
    ask_delay: Duration,
    /// The session is settled; the thread ends then at the latest.
    settled: Option<Instant>,
    finished: Arc<AtomicBool>,
    over: bool,
    #[cfg(test)]
    faults: super::faults::Faults,
}

impl Driver {
    fn new(arriving: Arriving, events: mpsc::Sender<Event>, gate: Arc<Gate>) -> Result<Self> {
        let first = &arriving.first;
        let Body::Prepare(prepare) = &first.message.body else {
            return Err(DWCPError::Protocol(
                "a migration begins with `prepare`".into(),
            ));
        };
        let mut driver = Self {
            arriving: arriving.host,
            state: Destination::new(
                first.message.session.clone(),
                first.message.epoch,
                arriving.node_uuid.clone(),
                first.from.clone(),
            ),
            node_uuid: arriving.node_uuid,
            source_node: prepare.source_node.clone(),
            source_uuid: first.from.clone(),
            session: first.message.session.clone(),
            epoch: first.message.epoch,
            events,
            gate,
            own: VecDeque::new(),
            link: None,
            link_number: 0,
            older: None,
            machine: None,
            late: Weak::new(),
            offer: None,
            saved: None,
            timing: Timing::default(),
            patience: arriving.patience,
            demand: None,
            awaiting: Arc::default(),
            channels_lost: None,
            link_lost: None,
            ask: None,
            ask_delay: ASK_FIRST,
            settled: None,
            finished: Arc::default(),
            over: false,
            #[cfg(test)]
            faults: arriving.faults,
        };
        if !driver.take_link(arriving.stream) {
            return Err(DWCPError::ResourceLimit(
                "no thread for the control connection".into(),
            ));
        }
        driver.own.push_back(received(arriving.first));
        Ok(driver)
    }

    fn live(mut self, inbox: &mpsc::Receiver<Event>) {
        work_as(Work::Control);
        self.settle();
        while !self.over {
            // Before the VM runs here nothing is lost with them.
            let awaits = self.awaiting.load(Ordering::SeqCst);
            let lost = self.channels_lost.as_ref().filter(|_| awaits);
            let lost = lost.map(|(at, _)| *at);
            let silent = self.link_lost.filter(|_| awaits).map(|(at, _)| at);
            let next = [self.ask, self.settled, lost, silent];
            let next = next.into_iter().flatten().min();
            let wait = next.map_or(Duration::from_secs(3600), |at| {
                at.saturating_duration_since(Instant::now())
            });
            match inbox.recv_timeout(wait) {
                Ok(event) => self.event(event),
                Err(RecvTimeoutError::Timeout) => self.timers(),
                // The driver holds a sender itself.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.gate.close();
        self.end_demand();
        self.machine = None;
        self.arriving.over();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Input(input) => {
                let shutdown = input == DestinationInput::Shutdown;
                if shutdown && self.awaiting.load(Ordering::SeqCst) {
                    self.lose_memory("this node was shut down");
                }
                self.feed(input);
                // The verdict is in the store, for a source that asks after the next start.
                self.over |= shutdown && self.settled.is_some();
            }
            Event::Heard(number, heard) if number != self.link_number => {
                if self.older.as_ref().is_some_and(|(own, _)| *own == number) {
                    match heard {
                        Some(envelope) => self.feed(received(*envelope)),
                        None => self.older = None,
                    }
                }
            }
            Event::Heard(_, None) => {
                if self.link.take().is_some_and(|link| link.is_met()) {
                    self.link_lost = None;
                }
                self.link_silent();
                self.feed(DestinationInput::LinkLost);
                self.end_if_idle();
            }
            Event::Heard(_, Some(envelope)) => self.feed(received(*envelope)),
            Event::Linked(stream, first) => {
                if self.take_link(stream) {
                    self.feed(DestinationInput::LinkUp);
                    self.feed(received(*first));
                }
            }
            Event::Superseded(done) => {
                // What its source says by a new offer.
                self.feed(DestinationInput::Received {
                    from: self.source_uuid.clone(),
                    message: Message {
                        session: self.session.clone(),
                        epoch: self.epoch,
                        body: Body::Aborted,
                    },
                });
                // Whoever offers it anew may have given up.
                let _ = done.send(());
            }
            Event::Channels(News::Complete) => self.complete(),
            Event::Channels(News::Lost(why)) => {
                if self.is_missing_pages() && self.channels_lost.is_none() {
                    self.channels_lost = Some((Instant::now() + self.patience.work(), why.clone()));
                }
                self.feed(DestinationInput::ReceiveFailed(why));
            }
            Event::Channels(News::AllOpen) => self.channels_lost = None,
            Event::Channels(News::State(state)) => {
                self.saved = Some(state);
                self.feed(DestinationInput::StateReceived);
            }
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        self.over = self.settled.is_some_and(|at| at <= now);
        if self.awaiting.load(Ordering::SeqCst) {
            self.lose_if_late(now);
        }
        if self.ask.is_some_and(|at| at <= now) {
            self.ask = None;
            if self.link.is_none() && self.connect() {
                self.feed(DestinationInput::LinkUp);
            } else {
                self.feed(DestinationInput::Ask);
            }
        }
    }

    /// Ends the waiting for pages whose time has come.
    fn lose_if_late(&mut self, now: Instant) {
        if let Some((_, why)) = self.channels_lost.take_if(|(at, _)| *at <= now) {
            return self.lose_memory(&why);
        }
        let Some((_, left)) = self.link_lost.take_if(|(at, _)| *at <= now) else {
            return;
        };
        if self.link.as_ref().is_some_and(Link::is_met) {
            return;
        }
        if self.missing_pages() < left {
            self.link_silent();
        } else {
            self.lose_memory("nothing is heard of the source");
        }
    }

    /// Ends a settled session that has nobody to talk to and nothing to say. A source that asks later
    /// is answered from the verdict in the store.
    fn end_if_idle(&mut self) {
        self.over |= self.settled.is_some() && self.link.is_none() && self.ask.is_none();
    }

    /// Feeds an input, and those that follow from it.
    fn feed(&mut self, input: DestinationInput) {
        self.own.push_back(input);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(input) = self.own.pop_front() {
            let effects = self.state.handle(input);
            self.carry_out(effects);
        }
    }

    fn carry_out(&mut self, effects: Vec<DestinationEffect>) {
        for effect in effects {
            let report = match effect {
                DestinationEffect::Send(message) => {
                    let timing = matches!(message.body, Body::Ready | Body::Running);
                    let timing = timing.then_some(self.timing);
                    let sent = self.link.as_mut().map(|l| l.send(message, timing));
                    if let Some(Err(error)) = sent {
                        tracing::debug!(%error, "the control connection broke");
                        self.link = None;
                        self.own.push_back(DestinationInput::LinkLost);
                    }
                    continue;
                }
                DestinationEffect::Build(prepare) => self.build(&prepare),
                // The gate is open since `build`: channels come when the source has the token.
                DestinationEffect::Receive => {
                    #[cfg(test)]
                    if let Err(error) = super::begin(&self.faults, super::Phase::Receive) {
                        self.own
                            .push_back(DestinationInput::ReceiveFailed(error.to_string()));
                        continue;
                    }
                    // All there is of a VM that is stopped was in its offer.
                    if self.is_stopped() {
                        self.own.push_back(DestinationInput::StateReceived);
                    }
                    continue;
                }
                DestinationEffect::Load => self.load(),
                DestinationEffect::Lock => self.lock(),
                DestinationEffect::Persist(verdict) => self.persist(&verdict),
                DestinationEffect::Run => self.run(),
                DestinationEffect::Pause { epoch } => met(self.arriving.meet(epoch)),
                DestinationEffect::Discard => {
                    self.gate.close();
                    self.end_demand();
                    self.machine = None;
                    self.arriving.discard();
                    continue;
                }
                DestinationEffect::AskLater => {
                    self.ask = Some(Instant::now() + self.ask_delay);
                    self.ask_delay = (self.ask_delay * 2).min(self.patience.silence());
                    continue;
                }
                DestinationEffect::Ignored(why) => {
                    tracing::debug!(?why, "ignored");
                    continue;
                }
                DestinationEffect::Finish(outcome) => {
                    self.finish(&outcome);
                    continue;
                }
            };
            self.own.push_back(report);
        }
    }

    fn finish(&mut self, outcome: &DestinationOutcome) {
        let used = self.demand.as_ref().is_some_and(|own| own.is_used());
        let late = *outcome == DestinationOutcome::Running && used;
        let awaits = late && self.is_missing_pages();
        if !late {
            self.gate.close();
            self.end_demand();
        }
        // The node has it from now on, or nobody.
        let machine = self.machine.take();
        self.late = machine
            .filter(|_| awaits)
            .as_ref()
            .map_or_else(Weak::new, Arc::downgrade);
        self.awaiting.store(awaits, Ordering::SeqCst);
        self.arriving.finished(outcome);
        if awaits {
            return;
        }
        // A verdict is said until the source has it in its store too; where there is none, there is nothing to
        // ask for any more.
        let verdict = match outcome {
            DestinationOutcome::Discarded { why } => {
                matches!(why, DiscardReason::Refused(_))
            }
            _ => true,
        };
        if !verdict {
            self.ask = None;
        }
        self.linger(verdict);
    }

    /// Nothing comes here any more: only the source is still talked to, for a time.
    fn linger(&mut self, verdict: bool) {
        let linger = if verdict {
            self.patience.verdict()
        } else {
            self.patience.silence()
        };
        self.settled = Some(Instant::now() + linger);
        self.finished.store(true, Ordering::SeqCst);
        self.end_if_idle();
    }

    /// Whether pages are still to come after the switch.
    fn is_missing_pages(&self) -> bool {
        self.missing_pages() > 0
    }

    fn missing_pages(&self) -> u64 {
        self.demand.as_ref().map_or(0, |own| own.late().left())
    }

    /// Nothing is heard of the source; its pages may still come.
    fn link_silent(&mut self) {
        let left = self.missing_pages();
        if left > 0 && self.link_lost.is_none() {
            self.link_lost = Some((Instant::now() + self.patience.work(), left));
        }
    }

    /// All pages are here. The channels stay until the source has settled it, which may open one once more to
    /// hear that.
    fn complete(&mut self) {
        if self.is_missing_pages() {
            // More were announced since.
            return;
        }
        (self.channels_lost, self.link_lost) = (None, None);
        if let Some(demand) = &self.demand {
            demand.end();
        }
        if self.awaiting.swap(false, Ordering::SeqCst) {
            self.linger(true);
        }
    }

    fn end_demand(&mut self) {
        if let Some(demand) = self.demand.take() {
            demand.end();
        }
    }

    /// What is missing does not come any more: the VM is lost.
    fn lose_memory(&mut self, why: &str) {
        let reason = format!(
            "a part of its memory was still on the node {} when it was switched to this one (post-copy), and did not \
             come: {why}",
            self.source_node
        );
        tracing::error!(reason, session = self.session, "a VM is lost");
        self.gate.close();
        // In this order: who waits for a page may hold what the node needs for the rest, and no vCPU goes on when it
        // is let go.
        if let Some(machine) = self.late.upgrade() {
            machine.ask_to_pause();
        }
        self.end_demand();
        self.arriving.memory_lost(&reason);
        self.awaiting.store(false, Ordering::SeqCst);
        (self.channels_lost, self.link_lost) = (None, None);
        self.linger(true);
    }

    fn connect(&mut self) -> bool {
        let dial = self.arriving.source_address(&self.source_node);
        let stream = dial.and_then(|dial| match link::connect(&dial) {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "the source cannot be asked");
                None
            }
        });
        stream.is_some_and(|stream| self.take_link(stream))
    }

    fn take_link(&mut self, stream: Blocking) -> bool {
        let (number, events) = (self.link_number + 1, self.events.clone());
        let link = Link::start(stream, &self.node_uuid, self.patience, move |heard| {
            // The driver may be gone: then nobody wants to hear.
            let _ = events.send(Event::Heard(number, heard.map(Box::new)));
        });
        let Ok(link) = link else { return false };
        self.older = self.link.replace(link).map(|old| (self.link_number, old));
        self.link_number = number;
        true
    }

    fn build(&mut self, prepare: &Prepare) -> DestinationInput {
        #[cfg(test)]
        if let Err(error) = super::begin(&self.faults, super::Phase::Build) {
            return DestinationInput::Unfit(vec![error.to_string()]);
        }
        let offer = match Offer::decode(&prepare.payload) {
            Ok(offer) if offer.vm.id == prepare.vm_id => offer,
            Ok(_) => return DestinationInput::Unfit(vec!["the offer is of another VM".into()]),
            Err(error) => return DestinationInput::Unfit(vec![error.to_string()]),
        };
        let machine = match self.arriving.admit(self.epoch, &offer) {
            Ok(machine) => machine,
            Err(reasons) => return DestinationInput::Unfit(reasons),
        };
        let token = new_token();
        let handed = machine.as_ref().is_some_and(|own| own.ram().is_handed());
        // Only the state is to come then.
        let channels = if handed { 1 } else { offer.channels };
        if let Some(machine) = &machine {
            let ram = Arc::clone(machine.ram());
            let late = offer.post_copy && !handed;
            self.demand = late
                .then(|| Demand::new(&ram, self.patience))
                .and_then(|made| {
                    // It is a permission: without it all pages come first.
                    made.inspect_err(|error| tracing::info!(%error, "no post-copy here"))
                        .ok()
                });
            let disk = match mirror::target(machine, &offer) {
                Ok(disk) => disk,
                Err(error) => {
                    self.arriving.discard();
                    return DestinationInput::Unfit(vec![error.to_string()]);
                }
            };
            self.gate
                .open(token.clone(), channels, ram, self.demand.clone(), disk);
        }
        self.machine = machine;
        self.offer = Some(offer);
        DestinationInput::Built {
            token,
            channels,
            handed,
        }
    }

    fn load(&mut self) -> DestinationInput {
        let began = Instant::now();
        let loaded = (|| {
            #[cfg(test)]
            super::begin(&self.faults, super::Phase::Load)?;
            if self.is_stopped() {
                return Ok(());
            }
            let state = self.saved.take().unwrap_or_default();
            let (machine, state) = (self.machine()?, decode(&state)?);
            self.hold();
            let loaded = machine.load(state);
            self.let_go().and(loaded)
        })();
        self.timing.load_us = micros(began.elapsed());
        match loaded {
            Ok(()) => DestinationInput::Loaded,
            Err(error) => DestinationInput::LoadFailed(error.to_string()),
        }
    }

    fn lock(&mut self) -> DestinationInput {
        #[cfg(test)]
        if let Err(error) = super::begin(&self.faults, super::Phase::Lock) {
            return DestinationInput::LockFailed(error.to_string());
        }
        if self.is_stopped() {
            // Who starts it locks its disk.
            return DestinationInput::Locked;
        }
        let locked = self
            .machine()
            .and_then(|own| own.take_over_disk(DISK_PATIENCE));
        match locked {
            Ok(()) => DestinationInput::Locked,
            Err(error) => DestinationInput::LockFailed(error.to_string()),
        }
    }

    fn persist(&mut self, verdict: &Verdict) -> DestinationInput {
        let began = Instant::now();
        #[cfg(test)]
        let injected = super::begin(&self.faults, super::Phase::Decide);
        #[cfg(not(test))]
        let injected = Ok::<(), DWCPError>(());
        let result = injected.and_then(|()| self.arriving.persist(verdict));
        if matches!(verdict, Verdict::Taken { .. }) {
            self.timing.commit_us = micros(began.elapsed());
        }
        match result {
            Ok(()) => {
                if *verdict == Verdict::Forget {
                    if self.awaiting.load(Ordering::SeqCst) && self.is_missing_pages() {
                        self.lose_memory("the source has no more of it, or could not send it");
                    }
                    // The source has settled it too: nothing is left to say.
                    self.over = true;
                }
                DestinationInput::Persisted
            }
            Err(error) => {
                tracing::error!(%error, ?verdict, "a verdict was not written");
                DestinationInput::PersistFailed
            }
        }
    }

    fn run(&mut self) -> DestinationInput {
        let began = Instant::now();
        let running = self.offer.as_ref().is_some_and(Offer::is_running);
        let ran: Result<Instant> = (|| {
            #[cfg(test)]
            super::begin(&self.faults, super::Phase::Run)?;
            #[cfg(test)]
            let running = running && !self.faults.stand_still;
            if !running {
                return Ok(began);
            }
            let machine = self.machine()?;
            self.hold();
            machine.resume_if(|| self.let_go())?;
            // A vCPU may keep this thread from the processor once it runs: the time is its own.
            Ok(machine.wait_running().unwrap_or_else(Instant::now))
        })();
        match ran {
            Ok(at) => {
                self.timing.resume_us = micros(at.saturating_duration_since(began));
                self.timing.ran_at = self.link.as_ref().map(|link| link.tell(at));
                // Before anybody can ask for it, who may not have it while some of its memory is to come.
                let awaits = self.is_missing_pages();
                self.awaiting.store(awaits, Ordering::SeqCst);
                self.arriving.started();
                DestinationInput::Ran
            }
            Err(error) => DestinationInput::RunFailed(error.to_string()),
        }
    }

    /// This thread is about to touch the guest's memory: see [`Demand::hold`].
    fn hold(&self) {
        if let Some(demand) = &self.demand {
            demand.hold();
        }
    }

    fn let_go(&self) -> Result<()> {
        self.demand.as_ref().map_or(Ok(()), |own| own.let_go())
    }

    fn is_stopped(&self) -> bool {
        self.offer.as_ref().is_some_and(Offer::is_stopped)
    }

    fn machine(&self) -> Result<&Arc<Machine>> {
        let machine = self.machine.as_ref();
        machine.ok_or_else(|| DWCPError::Internal("the arriving machine is gone".into()))
    }
}

fn received(envelope: Envelope) -> DestinationInput {
    DestinationInput::Received {
        from: envelope.from,
        message: envelope.message,
    }
}
