//! Driving the source's side of a hand-over.
//!
//! One thread for each migration: it feeds the state machine and carries out what that returns.
//! What can take long (opening channels, copying) runs on a second thread, so that a cancel, a
//! message or the downtime limit is acted on at any moment.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::advice::{Unresolved, advice};
use super::converge::Throttle;
use super::copying::{Copying, Plan, Report, Work};
use super::engine::EngineOptions;
use super::limit::DowntimeLimit;
use super::link::{self, Dial, Envelope, Link};
use super::marks::{Marks, micros};
use super::offer::Offer;
use super::progress::Progress;
use super::protocol::message::{Body, Prepare};
use super::protocol::source::{Record, Source, SourceEffect, SourceInput, SourceOutcome, Why};
use super::same_host::{self, Handing};
use super::supply::Route;
use super::whereabouts;
use crate::error::{DWCPError, Result};
use crate::hypervisor::encode;
use crate::machine::{self, Machine, spawn, work_as};
use crate::model::{MigrationMode, MigrationOptions, MigrationState, OnTimeout, SameHost};
use crate::transport::Blocking;

/// The first wait before a destination that holds a granted VM is asked again; doubled each time.
const ASK_FIRST: Duration = Duration::from_millis(50);

/// How long the disk of a VM that stays is waited for: whoever was to have it gives it up in moments.
const DISK_PATIENCE: Duration = Duration::from_secs(2);

/// What the node does for a VM that leaves. Called from the migration's thread.
pub(crate) trait SourceHost: Send + Sync {
    /// Makes a record durable.
    fn persist(&self, record: &Record) -> Result<()>;
    /// The VM has gone: drop what is left of it, remember where it went.
    fn release(&self);
    /// How it ended; again after `Unresolved`.
    fn finished(&self, outcome: &SourceOutcome);
    /// Why it is unresolved, for people: after that outcome, and again when more is known.
    fn unresolved(&self, _why: &str) {}
}

/// A VM about to leave.
pub(crate) struct Leaving {
    /// The migration's id.
    pub(crate) session: String,
    /// Burned for this migration.
    pub(crate) epoch: u64,
    /// `None`: the VM is stopped, and only its record moves.
    pub(crate) machine: Option<Arc<Machine>>,
    pub(crate) offer: Offer,
    pub(crate) options: MigrationOptions,
    /// How the destination is reached, by all connections of the migration.
    pub(crate) dial: Dial,
    /// This node.
    pub(crate) node_uuid: String,
    pub(crate) node_name: String,
    pub(crate) progress: Arc<Progress>,
    pub(crate) host: Arc<dyn SourceHost>,
    /// What can slow the guest down, where something can.
    pub(crate) throttle: Option<Arc<dyn Throttle>>,
    #[cfg(test)]
    pub(crate) faults: super::faults::Faults,
}

/// A migration under way, as the node holds it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    events: mpsc::Sender<Event>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What reaches the driver.
enum Event {
    Input(SourceInput),
    /// What is sent after the switch was all sent, or why not.
    Served(Result<()>),
    /// A message, or the end, of the control connection of that number.
    Heard(u64, Option<Box<Envelope>>),
    /// The peer opened a new control connection, with this as its first message.
    Linked(Blocking, Box<Envelope>),
    Cancel(oneshot::Sender<Result<()>>),
    /// Somebody wants a destination that is silent asked now.
    Ask(oneshot::Sender<()>),
    /// An operator wants the VM here.
    Force(oneshot::Sender<Result<()>>),
    /// The node is over.
    Abandon,
}

impl Outgoing {
    /// Starts the migration's thread.
    ///
    /// # Errors
    ///
    /// `unsupported` where memory is required to be handed over, and cannot be.
    pub(crate) fn start(mut leaving: Leaving) -> Result<Self> {
        let (events, inbox) = mpsc::channel();
        let handing = same_host::offer(
            leaving.options.same_host,
            leaving.machine.as_ref(),
            &mut leaving.offer,
            #[cfg(test)]
            &leaving.faults,
        )?;
        let driver = Driver::new(leaving, handing, events.clone());
        let thread = spawn("dwcp-migrate", move || driver.live(&inbox))?;
        Ok(Self {
            events,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Asks for an end without a move.
    ///
    /// # Errors
    ///
    /// `invalid_operation` once the destination may have the VM, or when the migration is over.
    pub(crate) async fn cancel(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let over = || DWCPError::InvalidOperation("the migration is over".into());
        self.events
            .send(Event::Cancel(answer))
            .map_err(|_| over())?;
        answered.await.map_err(|_| over())?
    }

    /// Asks a destination that is silent at once, in place of at the end of the wait; returns when it was
    /// asked, or is over. Does nothing where nobody waits to ask.
    pub(crate) async fn ask(&self) {
        let (answer, answered) = oneshot::channel();
        // A driver that is gone has nothing to ask any more.
        if self.events.send(Event::Ask(answer)).is_ok() {
            let _ = answered.await;
        }
    }

    /// Takes the VM back without the destination's word, which may have it: for an operator who knows
    /// that it will never answer. Returns when that is durable and the VM was told to run, or why not.
    ///
    /// # Errors
    ///
    /// `invalid_operation` while the peer answers, before the grant, or when the migration is over.
    pub(crate) async fn force(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let over = || DWCPError::InvalidOperation("the migration is over".into());
        self.events.send(Event::Force(answer)).map_err(|_| over())?;
        answered.await.map_err(|_| over())?
    }

    /// A later offer of this VM was accepted here.
    pub(crate) fn outlived(&self, epoch: u64) {
        // A driver that is gone has settled it.
        let _ = self
            .events
            .send(Event::Input(SourceInput::Outlived { epoch }));
    }

    /// Hands over a control connection that the peer opened; gives it back when the migration's thread
    /// has ended.
    pub(crate) fn adopt(&self, stream: Blocking, first: Envelope) -> Option<(Blocking, Envelope)> {
        let sent = self.events.send(Event::Linked(stream, Box::new(first)));
        match sent {
            Err(mpsc::SendError(Event::Linked(stream, first))) => Some((stream, *first)),
            _ => None,
        }
    }

    /// Ends the migration's thread wherever it is: the node is over, and so is the VM.
    pub(crate) fn abandon(&self) {
        // A driver that is gone has ended.
        let _ = self.events.send(Event::Abandon);
    }

    /// Waits for the migration's thread, which has been told to end or is about to. Whoever comes second
    /// waits as well.
    pub(crate) fn join(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a migration's thread panicked");
        }
    }
}

struct Driver {
    leaving: Leaving,
    /// Hands the memory over until the destination has answered.
    handing: Option<Handing>,
    /// The destination has the memory itself.
    handed: bool,
    state: Source,
    events: mpsc::Sender<Event>,
    /// Inputs that arose here, before what waits in the inbox.
    own: VecDeque<SourceInput>,
    link: Option<Link>,
    link_number: u64,
    /// The link before, with its number, and still listened to: where both sides open one at the same
    /// time, what either says arrives.
    older: Option<(u64, Link)>,
    copying: Option<Copying>,
    /// Copying that was told to stop, and whose threads have yet to end.
    stopping: Option<Copying>,
    /// The guest runs at the destination, and this is written when all of its memory is there.
    serving: Option<Record>,
    /// How sending after the switch ended, once it has.
    served: Option<Result<()>>,
    marks: Marks,
    /// The destination did not answer by then.
    patience: Option<(Instant, String)>,
    /// By when the VM has to be about to switch, where a migration that takes longer is to end.
    time_out: Option<Instant>,
    limit: DowntimeLimit,
    /// The store that the VM was granted to.
    granted_to: Option<String>,
    /// Why whoever answers in its place does not count.
    stranger: Option<String>,
    ask: Option<Instant>,
    ask_delay: Duration,
    /// An operator who waits for the VM.
    forcing: Option<oneshot::Sender<Result<()>>>,
    /// The VM is taken back by force.
    forced: bool,
    finished: bool,
}

impl Driver {
    fn new(leaving: Leaving, handing: Option<Handing>, events: mpsc::Sender<Event>) -> Self {
        // Encoding plain data does not fail; if it did, the offer would be empty, which the destination
        // refuses by name.
        let prepare = Prepare {
            vm_id: leaving.offer.vm.id.clone(),
            source_uuid: leaving.node_uuid.clone(),
            source_node: leaving.node_name.clone(),
            payload: leaving.offer.encode().unwrap_or_default(),
        };
        let limit = leaving
            .options
            .live
            .then(|| leaving.options.downtime_limit());
        let time_limit = leaving.options.time_limit();
        let time_limit = time_limit.filter(|_| leaving.options.on_timeout == OnTimeout::Cancel);
        Self {
            state: Source::new(leaving.session.clone(), leaving.epoch, prepare),
            leaving,
            handing,
            handed: false,
            events,
            own: VecDeque::new(),
            link: None,
            link_number: 0,
            older: None,
            copying: None,
            stopping: None,
            serving: None,
            served: None,
            marks: Marks::default(),
            patience: None,
            // A limit beyond what a clock can count is none.
            time_out: time_limit.and_then(|limit| Instant::now().checked_add(limit)),
            limit: DowntimeLimit::new(limit),
            granted_to: None,
            stranger: None,
            ask: None,
            ask_delay: ASK_FIRST,
            forcing: None,
            forced: false,
            finished: false,
        }
    }

    fn live(mut self, inbox: &mpsc::Receiver<Event>) {
        work_as(machine::Work::Control);
        if let Some(machine) = &self.leaving.machine {
            machine.measure_stalls();
        }
        match self.connect() {
            Ok(()) => {
                let limit = self.leaving.dial.patience.work();
                let why = format!("the target did not answer within {limit:?}");
                self.patience = Some((Instant::now() + limit, why));
                self.feed(SourceInput::Start);
            }
            Err(error) => self.feed(SourceInput::Failed(error.to_string())),
        }
        while !self.finished {
            let next = [
                self.limit.next(),
                self.ask,
                self.patience.as_ref().map(|p| p.0),
                self.time_out,
            ];
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
        if let Some(machine) = &self.leaving.machine {
            machine.stop_measuring();
        }
        self.handing = None;
        self.stop_copying();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Input(input) => {
                if input == SourceInput::StateSent && !self.leaving.options.live {
                    self.await_ready();
                }
                self.feed(input);
            }
            Event::Served(result) => {
                let failed = result.as_ref().err().map(ToString::to_string);
                self.served = Some(result);
                if let Some(why) = failed.filter(|_| self.marks.sent.is_none()) {
                    // Nothing is granted yet, and the guest is whole here.
                    return self.feed(SourceInput::Failed(why));
                }
                if let Some(record) = self.serving.take() {
                    let input = self.persist(&record);
                    self.feed(input);
                }
            }
            Event::Heard(number, heard) if number != self.link_number => {
                if self.older.as_ref().is_some_and(|(own, _)| *own == number) {
                    match heard {
                        Some(envelope) => self.heard(number, *envelope),
                        None => self.older = None,
                    }
                }
            }
            Event::Heard(_, None) => {
                let refusal = self.link.take().and_then(|link| link.refusal());
                self.feed(match refusal {
                    // It is no other side of a hand-over that says so, but its node: nothing began.
                    Some(error) if self.marks.sent.is_none() => {
                        SourceInput::Failed(error.to_string())
                    }
                    _ => SourceInput::LinkLost,
                });
            }
            Event::Heard(number, Some(envelope)) => self.heard(number, *envelope),
            Event::Linked(stream, first) => {
                if self.take_link(stream) {
                    self.feed(SourceInput::LinkUp);
                    self.heard(self.link_number, *first);
                }
            }
            Event::Ask(answer) => {
                if self.ask.is_some() {
                    self.ask = Some(Instant::now());
                    self.ask_delay = ASK_FIRST;
                    self.timers();
                }
                // Whoever wanted it may be gone.
                let _ = answer.send(());
            }
            Event::Abandon => {
                self.feed(SourceInput::Cancel);
                self.finished = true;
            }
            Event::Force(answer) => {
                // A peer that can be reached is asked first; if it is not who was granted the VM, the
                // next force is obeyed.
                if self.link.is_none() && self.connect().is_ok() {
                    self.feed(SourceInput::LinkUp);
                }
                self.forcing = Some(answer);
                self.feed(SourceInput::Force);
            }
            Event::Cancel(answer) => {
                let effects = self.state.handle(SourceInput::Cancel);
                let refused = effects.contains(&SourceEffect::CancelRefused);
                let _ = answer.send(if refused {
                    Err(DWCPError::InvalidOperation(
                        "too late to cancel: the target may already have the VM".into(),
                    ))
                } else {
                    Ok(())
                });
                self.carry_out(effects);
                self.settle();
            }
        }
    }

    /// No limit on downtime says so, and still the VM is not held for ever.
    fn await_ready(&mut self) {
        let limit = self.leaving.dial.patience.work();
        let why = format!("the target was not ready within {limit:?}");
        self.patience = Some((Instant::now() + limit, why));
    }

    /// A message came over the link of that number.
    fn heard(&mut self, number: u64, envelope: Envelope) {
        let Envelope {
            from,
            timing,
            message,
            ..
        } = envelope;
        if matches!(message.body, Body::Running | Body::Taken) {
            let ran_at = timing.and_then(|timing| timing.ran_at);
            self.marks.running.get_or_insert_with(|| {
                // The message may have come late to a busy processor; but no clock is better known than
                // that it ran after the grant and before it said so.
                let older = self.older.as_ref().filter(|(own, _)| *own == number);
                let link = older.map(|(_, link)| link).or(self.link.as_ref());
                let told = link.zip(ran_at);
                let at = told.and_then(|(link, at)| link.moment(at));
                let now = Instant::now();
                let (at, granted) = (at.unwrap_or(now), self.marks.sent.unwrap_or(now));
                at.clamp(granted, now)
            });
        }
        if let Some(timing) = timing {
            self.marks.told(timing);
        }
        self.feed(SourceInput::Received { from, message });
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.limit.strikes(now) {
            self.feed(SourceInput::LimitPassed);
        }
        if let Some((_, why)) = self.patience.take_if(|(at, _)| *at <= now) {
            self.feed(SourceInput::Failed(why));
        }
        if self.time_out.take_if(|at| *at <= now).is_some() {
            let limit = self.leaving.options.time_limit().unwrap_or_default();
            self.feed(SourceInput::Failed(format!("not moved within {limit:?}")));
        }
        if self.ask.is_some_and(|at| at <= now) {
            self.ask = None;
            if self.link.is_none() && self.reconnect().is_ok() {
                self.feed(SourceInput::LinkUp);
            } else {
                self.feed(SourceInput::Ask);
            }
        }
    }

    /// Opens the control connection again, if who answers is the one that the VM was granted to.
    fn reconnect(&mut self) -> Result<()> {
        if let Some(uuid) = &self.granted_to {
            let vm = &self.leaving.offer.vm.id;
            let found = whereabouts::recognise(&self.leaving.dial, vm, uuid, self.leaving.epoch)?;
            if let Some(why) = found {
                if self.stranger.as_ref() != Some(&why) {
                    self.stranger = Some(why.clone());
                    self.tell_unresolved();
                }
                return Err(DWCPError::Migration(why));
            }
            self.stranger = None;
        }
        self.connect()
    }

    /// Feeds an input, and those that follow from it.
    fn feed(&mut self, input: SourceInput) {
        let effects = self.state.handle(input);
        self.carry_out(effects);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(input) = self.own.pop_front() {
            let effects = self.state.handle(input);
            self.carry_out(effects);
        }
    }

    fn carry_out(&mut self, effects: Vec<SourceEffect>) {
        for effect in effects {
            let report = match effect {
                SourceEffect::Send(message) => {
                    let sent = self.link.as_mut().map(|l| l.send(message, None));
                    if let Some(Err(error)) = sent {
                        tracing::debug!(%error, "the control connection broke");
                        self.link = None;
                        self.own.push_back(SourceInput::LinkLost);
                    }
                    continue;
                }
                SourceEffect::Attach {
                    token,
                    channels,
                    handed,
                } => self.attach(token, channels, handed),
                SourceEffect::Copy => {
                    self.leaving
                        .progress
                        .update(|s| s.state = MigrationState::Running);
                    self.work(Work::Copy)
                }
                // Its threads give way to others, so they may take their time to end: the guest, which may
                // be paused, does not wait for them.
                SourceEffect::StopCopy => {
                    if let Some(copying) = self.copying.take() {
                        copying.interrupt();
                        self.stopping = Some(copying);
                    }
                    continue;
                }
                SourceEffect::Pause => self.pause(),
                SourceEffect::SendState => self.send_state(),
                // The guest runs at the destination, and what it lacks is here: until it has all of it, this
                // node does not let go.
                SourceEffect::Persist(record)
                    if matches!(record, Record::Released { .. }) && self.begin_serving() =>
                {
                    self.serving = Some(record);
                    continue;
                }
                SourceEffect::Persist(record) => {
                    let report = self.persist(&record);
                    self.own.push_back(report);
                    continue;
                }
                // What the guest wrote was flushed when it was paused.
                SourceEffect::Unlock => {
                    if let Some(machine) = &self.leaving.machine {
                        machine.unlock_disk();
                    }
                    continue;
                }
                SourceEffect::Lock => Ok(Some(self.lock())),
                SourceEffect::Halt { epoch } => {
                    tracing::warn!(epoch, session = self.leaving.session, "gives way");
                    if let Some(machine) = &self.leaving.machine {
                        machine.pause();
                    }
                    continue;
                }
                SourceEffect::ForceRefused(why) => {
                    self.forced(Err(DWCPError::InvalidOperation(why.to_string())));
                    continue;
                }
                SourceEffect::Resume => {
                    self.limit.over();
                    (self.patience, self.time_out) = (None, None);
                    self.resume()
                }
                SourceEffect::Release => {
                    self.leaving.host.release();
                    continue;
                }
                SourceEffect::AskLater => {
                    self.ask = Some(Instant::now() + self.ask_delay);
                    let longest = self.leaving.dial.patience.silence();
                    self.ask_delay = (self.ask_delay * 2).min(longest);
                    continue;
                }
                SourceEffect::CancelRefused => continue,
                SourceEffect::Ignored(why) => {
                    tracing::debug!(?why, session = self.leaving.session, "ignored");
                    continue;
                }
                SourceEffect::Finish(outcome) => {
                    self.finish(&outcome);
                    continue;
                }
            };
            match report {
                Ok(Some(input)) => self.own.push_back(input),
                Ok(None) => {}
                Err(error) => self.own.push_back(SourceInput::Failed(error.to_string())),
            }
        }
    }

    /// Opens the control connection.
    fn connect(&mut self) -> Result<()> {
        let stream = link::connect(&self.leaving.dial)?;
        if self.take_link(stream) {
            Ok(())
        } else {
            Err(DWCPError::ResourceLimit(
                "no thread for the control connection".into(),
            ))
        }
    }

    fn take_link(&mut self, stream: Blocking) -> bool {
        let (number, events) = (self.link_number + 1, self.events.clone());
        let patience = self.leaving.dial.patience;
        let link = Link::start(stream, &self.leaving.node_uuid, patience, move |heard| {
            // The driver may be gone: then nobody wants to hear.
            let _ = events.send(Event::Heard(number, heard.map(Box::new)));
        });
        let Ok(link) = link else { return false };
        self.older = self.link.replace(link).map(|old| (self.link_number, old));
        self.link_number = number;
        true
    }

    fn attach(
        &mut self,
        token: String,
        channels: u32,
        handed: bool,
    ) -> Result<Option<SourceInput>> {
        self.patience = None;
        self.take_in_handed(handed)?;
        let leaving = &self.leaving;
        #[cfg(test)]
        super::begin(&leaving.faults, super::Phase::Attach)?;
        let Some(machine) = &leaving.machine else {
            return Ok(Some(SourceInput::Attached));
        };
        let wanted = match handed {
            true => 1,
            false => leaving.offer.channels.min(channels).max(1),
        };
        leaving.progress.update(|s| match handed {
            // The one is for the state.
            true => s.mode = MigrationMode::SameHost,
            false => s.channels = wanted,
        });
        let plan = Plan {
            route: Route {
                dial: leaving.dial.clone(),
                session: leaving.session.clone(),
                token,
            },
            channels: wanted,
            handed,
            post_copy: leaving.options.post_copy,
            options: EngineOptions {
                bandwidth: leaving.options.bandwidth,
                compression: leaving.options.compression,
                checksum: leaving.options.verify_checksum,
                max_downtime: leaving.options.downtime_limit(),
                live: leaving.options.live && leaving.offer.is_running(),
                with_disks: leaving.offer.disk_copied.is_some(),
                throttle: leaving
                    .throttle
                    .clone()
                    .filter(|_| leaving.options.auto_converge),
                post_copy: None,
                #[cfg(test)]
                faults: leaving.faults.clone(),
            },
            machine: Arc::clone(machine),
            progress: Arc::clone(&leaving.progress),
        };
        let events = self.events.clone();
        self.copying = Some(Copying::start(plan, move |report| {
            // The driver may be gone: then nobody wants to know.
            let _ = events.send(match report {
                Report::Input(input) => Event::Input(input),
                Report::Served(result) => Event::Served(result),
            });
        })?);
        Ok(None)
    }

    /// The destination has said whether the memory was handed to it.
    fn take_in_handed(&mut self, handed: bool) -> Result<()> {
        let gone = self.handing.take().is_some_and(Handing::end);
        if handed && !gone {
            // All of it would be lost.
            return Err(DWCPError::Migration(
                "the target says that it was handed the memory, and it was not".into(),
            ));
        }
        if !handed && self.leaving.options.same_host == SameHost::Require {
            return Err(DWCPError::Migration(
                "same_host: the target took the VM without its memory, which is required".into(),
            ));
        }
        self.handed = handed;
        Ok(())
    }

    fn work(&mut self, work: Work) -> Result<Option<SourceInput>> {
        match &self.copying {
            Some(copying) => copying.work(work)?,
            // Nothing of it is in memory.
            None if self.leaving.machine.is_none() => return Ok(Some(SourceInput::Converged)),
            None => return Err(DWCPError::Internal("nothing is being copied".into())),
        }
        Ok(None)
    }

    /// Sends all that is left to a guest that runs at the destination; whether it has not been sent by now.
    fn begin_serving(&self) -> bool {
        let serves = self.copying.as_ref().is_some_and(Copying::push);
        serves && self.served.is_none()
    }

    /// Ends all copying, and waits for that.
    fn stop_copying(&mut self) {
        for copying in self.copying.take().into_iter().chain(self.stopping.take()) {
            copying.stop();
        }
    }

    fn pause(&mut self) -> Result<Option<SourceInput>> {
        self.patience = None;
        if self.leaving.options.live && self.leaving.machine.is_some() {
            // The limit on the downtime takes over.
            self.time_out = None;
        }
        self.leaving
            .progress
            .update(|s| s.state = MigrationState::Completing);
        let Some(machine) = &self.leaving.machine else {
            #[cfg(test)]
            super::begin(&self.leaving.faults, super::Phase::Pause)?;
            return Ok(Some(SourceInput::Paused));
        };
        let now = Instant::now();
        self.marks.pause = Some(now);
        self.limit.pausing(now);
        #[cfg(test)]
        super::begin(&self.leaving.faults, super::Phase::Pause)?;
        machine.pause();
        machine.flush_disk()?;
        self.marks.stalls = machine.stalls();
        self.marks.paused = Some(Instant::now());
        if let Some(end) = machine.ended() {
            // It is dealt with where it happened.
            return Err(DWCPError::Migration(format!(
                "the guest came to an end while it was moved: {end:?}"
            )));
        }
        Ok(Some(SourceInput::Paused))
    }

    fn send_state(&mut self) -> Result<Option<SourceInput>> {
        #[cfg(test)]
        super::begin(&self.leaving.faults, super::Phase::Save)?;
        let Some(machine) = &self.leaving.machine else {
            self.await_ready();
            return Ok(Some(SourceInput::StateSent));
        };
        let state = encode(&machine.save()?);
        self.marks.saved = Some(Instant::now());
        self.work(Work::Finish(state))
    }

    fn lock(&mut self) -> SourceInput {
        #[cfg(test)]
        if let Err(error) = super::begin(&self.leaving.faults, super::Phase::Lock) {
            return SourceInput::LockFailed(error.to_string());
        }
        let machine = self.leaving.machine.as_ref();
        match machine.map_or(Ok(()), |own| own.lock_disk(DISK_PATIENCE)) {
            Ok(()) => SourceInput::Locked,
            Err(error) => SourceInput::LockFailed(error.to_string()),
        }
    }

    /// Tells an operator who waits what became of the force.
    fn forced(&mut self, result: Result<()>) {
        if let Some(answer) = self.forcing.take() {
            // Who asked may have gone.
            let _ = answer.send(result);
        }
    }

    fn resume(&mut self) -> Result<Option<SourceInput>> {
        if self.handed && self.forced {
            // Nobody can tell. The state of the pause does not belong to what a guest made of the memory since.
            return Err(DWCPError::Migration(
                "its memory was handed over, and the guest may have run in it at the target".into(),
            ));
        }
        // It may have been given up for a target that then refused the VM.
        if let Some(machine) = &self.leaving.machine {
            machine.lock_disk(DISK_PATIENCE)?;
            if self.leaving.offer.is_running() {
                machine.resume()?;
            }
        }
        Ok(Some(SourceInput::Resumed))
    }

    fn persist(&mut self, record: &Record) -> SourceInput {
        if let Record::Granted {
            destination_uuid, ..
        } = record
        {
            self.marks.sent = Some(Instant::now());
            (self.patience, self.time_out) = (None, None);
            self.granted_to = Some(destination_uuid.clone());
        }
        self.forced |= matches!(record, Record::Forced { .. });
        let began = Instant::now();
        #[cfg(test)]
        let injected = super::begin(&self.leaving.faults, super::Phase::Persist);
        #[cfg(not(test))]
        let injected = Ok::<(), DWCPError>(());
        let result = injected.and_then(|()| self.leaving.host.persist(record));
        self.marks.grant_us = micros(began.elapsed());
        match result {
            Ok(()) => SourceInput::Persisted,
            Err(error) => {
                tracing::error!(%error, ?record, "a record of a hand-over was not written");
                SourceInput::PersistFailed
            }
        }
    }

    fn finish(&mut self, outcome: &SourceOutcome) {
        if matches!(outcome, SourceOutcome::Moved { .. }) {
            self.marks.report(&self.leaving.progress);
            work_as(machine::Work::CleanUp);
        }
        // Everything of this migration ends before the node is told, so that the next one finds the
        // machine as it was; and the node before whoever follows the migration, who may ask it next.
        if *outcome != SourceOutcome::Unresolved {
            self.stop_copying();
            self.finished = true;
        }
        self.leaving.host.finished(outcome);
        let progress = &self.leaving.progress;
        match outcome {
            SourceOutcome::Moved { .. } => match &self.served {
                Some(Err(error)) => {
                    progress.finish(MigrationState::Failed, Some(unserved(error)));
                }
                _ => progress.finish(MigrationState::Completed, None),
            },
            SourceOutcome::StayedHere {
                why: Why::Cancelled,
            } => progress.finish(MigrationState::Cancelled, None),
            SourceOutcome::StayedHere { why } => {
                progress.finish(MigrationState::Failed, Some(advice(why)));
            }
            SourceOutcome::Lost { reason } => {
                progress.finish(MigrationState::Failed, Some(reason.clone()));
            }
            SourceOutcome::Unresolved => {
                self.tell_unresolved();
            }
        }
        // Who is answered finds all of it done.
        match outcome {
            SourceOutcome::StayedHere { .. } => self.forced(Ok(())),
            SourceOutcome::Lost { reason } => {
                self.forced(Err(DWCPError::Migration(reason.clone())));
            }
            SourceOutcome::Moved { .. } | SourceOutcome::Unresolved => {}
        }
    }

    fn tell_unresolved(&self) {
        let why = match &self.stranger {
            Some(stranger) => Unresolved::Stranger(stranger),
            // It answers, so it is this node that cannot go on.
            None if self.link.is_some() => Unresolved::NotWritten,
            None => Unresolved::Silent,
        };
        let progress = &self.leaving.progress;
        let text = why.text(&progress.status().target_node, &self.leaving.session);
        // Whoever is woken by the VM's event finds the same in the status.
        progress.update(|s| s.error = Some(text.clone()));
        self.leaving.host.unresolved(&text);
    }
}

/// What became of a VM whose memory could not all be sent after the switch.
fn unserved(error: &DWCPError) -> String {
    format!(
        "the VM was switched to the target before all of its memory was there (post-copy), and the rest could not \
         be sent: {error}. The target has the VM, as failed unless all had come by then; restore a snapshot of it, or \
         start it anew there"
    )
}
