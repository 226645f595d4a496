//! Two nodes, two stores, two disks' locks and a wire between them, as plain data.
//!
//! The world carries effects out, offers every event that may come next as a [`Move`], and holds
//! the invariants at every effect. Scripts pick the moves by hand, the search tries them all.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::Mutant;
use super::super::destination::{
    Destination, DestinationEffect, DestinationInput, DestinationOutcome, Verdict,
};
use super::super::message::Body;
use super::super::source::{Record, Source, SourceEffect, SourceInput, SourceOutcome};
use super::{D, EPOCH, S, message, offer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Side {
    Source,
    Destination,
}

/// An effect that takes time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Job {
    Attach,
    Copy,
    Pause,
    SendState,
    Record(Record),
    Resume,
    Build,
    Receive,
    Load,
    Lock,
    Verdict(Verdict),
    Run,
}

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    Done,
    Failed,
    /// Reported as failed, yet the store has it.
    FailedButWritten,
}

/// What may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Deliver(usize),
    Duplicate(usize),
    Drop(usize),
    Finish(Side, usize, End),
    Timer(Side),
    /// Both timers, so that neither waits for ever for the other.
    Timers,
    /// The wire breaks, and loses what is on it or brings it later.
    Cut {
        lose: bool,
    },
    Heal,
    Notice(Side),
    Up(Side),
    Cancel,
    Limit,
    Shutdown,
    /// The process dies and comes back; a record that was being written is durable or not.
    Crash(Side, End),
}

impl Move {
    /// Whether this is trouble, of which a search allows so much, or the ordinary course.
    pub(super) fn is_trouble(&self) -> bool {
        match self {
            Self::Deliver(_) | Self::Timer(_) | Self::Heal | Self::Notice(_) | Self::Up(_) => false,
            Self::Finish(_, _, end) => *end != End::Done,
            _ => true,
        }
    }
}

/// What a node consists of besides its state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Node {
    /// Jobs under way; those that were told to stop may still report.
    pub(super) jobs: Vec<(Job, bool)>,
    pub(super) timer: bool,
    /// What the node thinks of the wire.
    pub(super) up: bool,
    /// Whether the VM's memory is here.
    pub(super) memory: bool,
    pub(super) runs: bool,
    pub(super) locked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) source: Source,
    pub(super) destination: Destination,
    pub(super) s: Node,
    pub(super) d: Node,
    /// What is on the wire, in the order of the first field, which only makes worlds comparable.
    pub(super) net: Vec<(u64, Side, Body)>,
    pub(super) wire: bool,
    pub(super) state_sent: bool,
    pub(super) record: Option<Record>,
    pub(super) verdict: Option<Verdict>,
    /// Whether the nodes were told that what their stores hold is durable.
    pub(super) record_known: bool,
    pub(super) verdict_known: bool,
    /// The verdict that was forgotten.
    pub(super) forgot: Option<Verdict>,
    pub(super) burned: bool,
    pub(super) s_end: Option<SourceOutcome>,
    pub(super) d_end: Option<DestinationOutcome>,
    /// A crash left the VM to a node that will find it `failed` in its own records, or came after it
    /// was told lost.
    pub(super) excused: bool,
    pub(super) mutant: Option<Mutant>,
}

pub(super) type Broken = String;

macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

impl World {
    /// A VM runs at the source, and its migration has just begun.
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        let mut world = Self {
            source: Source::new("m".into(), EPOCH, offer()),
            destination: Destination::new("m".into(), EPOCH, D.into(), S.into()),
            s: Node {
                up: true,
                memory: true,
                runs: true,
                locked: true,
                ..Node::default()
            },
            d: Node {
                up: true,
                ..Node::default()
            },
            net: Vec::new(),
            wire: true,
            state_sent: false,
            record: None,
            verdict: None,
            record_known: false,
            verdict_known: false,
            forgot: None,
            burned: false,
            s_end: None,
            d_end: None,
            excused: false,
            mutant,
        };
        world.arm();
        world.tell_source(SourceInput::Start).unwrap();
        world
    }

    fn arm(&mut self) {
        self.source.mutant = self.mutant;
        self.destination.mutant = self.mutant;
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::Source => &mut self.s,
            Side::Destination => &mut self.d,
        }
    }

    /// Everything that may happen next.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (side, node) in [(Side::Source, &self.s), (Side::Destination, &self.d)] {
            for (index, (job, stopped)) in node.jobs.iter().enumerate() {
                if !self.can_finish(job, *stopped) {
                    continue;
                }
                moves.push(Move::Finish(side, index, End::Done));
                if !stopped {
                    moves.push(Move::Finish(side, index, End::Failed));
                    if matches!(job, Job::Record(_) | Job::Verdict(_)) {
                        moves.push(Move::Finish(side, index, End::FailedButWritten));
                    }
                }
            }
            if node.timer {
                moves.push(Move::Timer(side));
            }
            if node.up && !self.wire {
                moves.push(Move::Notice(side));
            }
            if !node.up && self.wire {
                moves.push(Move::Up(side));
            }
        }
        for index in 0..self.net.len() {
            moves.push(Move::Deliver(index));
            moves.push(Move::Duplicate(index));
            moves.push(Move::Drop(index));
        }
        if self.wire {
            moves.push(Move::Cut { lose: false });
            if !self.net.is_empty() {
                moves.push(Move::Cut { lose: true });
            }
        } else {
            moves.push(Move::Heal);
        }
        if self.s_end.is_none() {
            moves.push(Move::Cancel);
            if self.s.memory && !self.s.runs {
                moves.push(Move::Limit);
            }
        }
        if self.d_end.is_none() && self.burned {
            moves.push(Move::Shutdown);
        }
        for (side, node) in [(Side::Source, &self.s), (Side::Destination, &self.d)] {
            if side == Side::Destination && !self.burned {
                continue;
            }
            moves.push(Move::Crash(side, End::Failed));
            if node
                .jobs
                .iter()
                .any(|(job, _)| matches!(job, Job::Record(_) | Job::Verdict(_)))
            {
                moves.push(Move::Crash(side, End::FailedButWritten));
            }
        }
        moves
    }

    pub(super) fn can_finish(&self, job: &Job, stopped: bool) -> bool {
        stopped || *job != Job::Receive || self.state_sent
    }

    pub(super) fn apply(&mut self, step: &Move) -> Result<(), Broken> {
        match step {
            Move::Deliver(index) => {
                let (_, to, body) = self.net.remove(*index);
                self.deliver(to, body)
            }
            Move::Duplicate(index) => {
                let (_, to, body) = self.net[*index].clone();
                self.deliver(to, body)
            }
            Move::Drop(index) => {
                self.net.remove(*index);
                Ok(())
            }
            Move::Finish(side, index, end) => {
                let (job, stopped) = self.node(*side).jobs.remove(*index);
                self.end_job(job, stopped, *end)
            }
            Move::Timer(side) => {
                self.node(*side).timer = false;
                self.tell(*side, SourceInput::Ask, DestinationInput::Ask)
            }
            Move::Timers => {
                for side in [Side::Source, Side::Destination] {
                    if self.node(side).timer {
                        self.apply(&Move::Timer(side))?;
                    }
                }
                Ok(())
            }
            Move::Cut { lose } => {
                self.wire = false;
                if *lose {
                    self.net.clear();
                }
                Ok(())
            }
            Move::Heal => {
                self.wire = true;
                Ok(())
            }
            Move::Notice(side) => {
                self.node(*side).up = false;
                self.tell(*side, SourceInput::LinkLost, DestinationInput::LinkLost)
            }
            Move::Up(side) => {
                self.node(*side).up = true;
                self.tell(*side, SourceInput::LinkUp, DestinationInput::LinkUp)
            }
            Move::Cancel => self.tell_source(SourceInput::Cancel),
            Move::Limit => self.tell_source(SourceInput::LimitPassed),
            Move::Shutdown => self.tell_destination(DestinationInput::Shutdown),
            Move::Crash(side, end) => {
                self.crash(*side, *end);
                Ok(())
            }
        }
    }

    fn deliver(&mut self, to: Side, body: Body) -> Result<(), Broken> {
        let message = message(body);
        match to {
            Side::Source => self.tell_source(SourceInput::Received {
                from: D.into(),
                message,
            }),
            Side::Destination => self.tell_destination(DestinationInput::Received {
                from: S.into(),
                message,
            }),
        }
    }

    fn tell(
        &mut self,
        side: Side,
        source: SourceInput,
        destination: DestinationInput,
    ) -> Result<(), Broken> {
        match side {
            Side::Source => self.tell_source(source),
            Side::Destination => self.tell_destination(destination),
        }
    }

    fn end_job(&mut self, job: Job, stopped: bool, end: End) -> Result<(), Broken> {
        let done = end == End::Done;
        let why = || "broken".to_owned();
        if !stopped && end != End::Failed {
            match &job {
                Job::Record(record) => {
                    self.record = Some(record.clone());
                    self.record_known = done;
                }
                Job::Verdict(Verdict::Forget) => self.forget(),
                Job::Verdict(verdict) => {
                    self.verdict = Some(verdict.clone());
                    self.verdict_known = done;
                }
                Job::Pause => self.s.runs = false,
                Job::Build => self.d.memory = true,
                Job::Lock => {
                    hold!(
                        !self.s.locked,
                        "the destination locks disks that the source holds"
                    );
                    self.d.locked = true;
                }
                _ => {}
            }
        }
        match job {
            Job::Record(_) if done => self.tell_source(SourceInput::Persisted),
            Job::Record(_) => self.tell_source(SourceInput::PersistFailed),
            Job::Verdict(_) if done => self.tell_destination(DestinationInput::Persisted),
            Job::Verdict(_) => self.tell_destination(DestinationInput::PersistFailed),
            Job::Attach if done => self.tell_source(SourceInput::Attached),
            Job::Copy if done => self.tell_source(SourceInput::Converged),
            Job::Pause if done => self.tell_source(SourceInput::Paused),
            Job::SendState if done => self.tell_source(SourceInput::StateSent),
            Job::Resume if done => self.tell_source(SourceInput::Resumed),
            Job::Resume => {
                self.s.runs = false;
                self.s.memory = false;
                self.s.locked = false;
                self.tell_source(SourceInput::Failed(why()))
            }
            Job::Attach | Job::Copy | Job::Pause | Job::SendState => {
                self.tell_source(SourceInput::Failed(why()))
            }
            Job::Build if done => self.tell_destination(DestinationInput::Built {
                token: "00ff".into(),
                channels: 4,
            }),
            Job::Build => self.tell_destination(DestinationInput::Unfit(vec![why()])),
            Job::Receive if done => self.tell_destination(DestinationInput::StateReceived),
            Job::Receive => self.tell_destination(DestinationInput::ReceiveFailed(why())),
            Job::Load if done => self.tell_destination(DestinationInput::Loaded),
            Job::Load => self.tell_destination(DestinationInput::LoadFailed(why())),
            Job::Lock if done => self.tell_destination(DestinationInput::Locked),
            Job::Lock => self.tell_destination(DestinationInput::LockFailed(why())),
            Job::Run if done => self.tell_destination(DestinationInput::Ran),
            Job::Run => {
                self.d.runs = false;
                self.tell_destination(DestinationInput::RunFailed(why()))
            }
        }
    }

    fn crash(&mut self, side: Side, end: End) {
        self.wire = false;
        let node = std::mem::take(self.node(side));
        let written = node
            .jobs
            .into_iter()
            .filter(|_| end == End::FailedButWritten);
        for (job, _) in written {
            match job {
                Job::Record(record) => self.record = Some(record),
                Job::Verdict(Verdict::Forget) => self.forget(),
                Job::Verdict(verdict) => self.verdict = Some(verdict),
                _ => {}
            }
        }
        match side {
            Side::Source => {
                let gone = matches!(
                    self.record,
                    Some(Record::Granted { .. } | Record::Released { .. })
                );
                self.excused |= !gone;
                self.excused |= matches!(self.s_end, Some(SourceOutcome::Lost { .. }));
                self.s_end = None;
                self.record_known = true;
                self.source = Source::recovered("m".into(), EPOCH, self.record.clone());
            }
            Side::Destination => {
                let taken = Verdict::Taken { epoch: EPOCH };
                self.excused |= [&self.verdict, &self.forgot].contains(&&Some(taken));
                self.d_end = None;
                self.verdict_known = true;
                self.destination = Destination::recovered(
                    "m".into(),
                    EPOCH,
                    D.into(),
                    S.into(),
                    self.verdict.as_ref(),
                );
            }
        }
        self.arm();
    }

    fn forget(&mut self) {
        let verdict = self.verdict.take();
        self.forgot = verdict.or(self.forgot.take());
    }

    pub(super) fn tell_source(&mut self, input: SourceInput) -> Result<(), Broken> {
        for effect in self.source.handle(input) {
            self.do_for_source(effect)?;
            self.check()?;
        }
        self.check()
    }

    pub(super) fn tell_destination(&mut self, input: DestinationInput) -> Result<(), Broken> {
        for effect in self.destination.handle(input) {
            self.do_for_destination(effect)?;
            self.check()?;
        }
        self.check()
    }

    fn do_for_source(&mut self, effect: SourceEffect) -> Result<(), Broken> {
        let granted = matches!(self.record, Some(Record::Granted { .. }));
        match effect {
            SourceEffect::Send(message) => {
                match &message.body {
                    Body::Commit => {
                        hold!(
                            granted && self.record_known,
                            "COMMIT without a durable grant"
                        );
                        hold!(!self.s.locked, "COMMIT with the disks locked");
                    }
                    Body::Done | Body::Abort { .. } | Body::Aborted => {
                        hold!(!granted, "{} while granted", message.body.operation());
                    }
                    _ => {}
                }
                self.send(Side::Destination, message.body);
            }
            SourceEffect::Attach { .. } => self.s.jobs.push((Job::Attach, false)),
            SourceEffect::Copy => self.s.jobs.push((Job::Copy, false)),
            SourceEffect::StopCopy => {
                self.s.stop(&[Job::Attach, Job::Copy, Job::SendState]);
            }
            SourceEffect::Pause => self.s.jobs.push((Job::Pause, false)),
            SourceEffect::SendState => {
                hold!(!self.s.runs, "state is saved while the VM runs");
                self.state_sent = true;
                self.s.jobs.push((Job::SendState, false));
            }
            SourceEffect::Persist(record) => {
                hold!(!self.s.runs, "{record:?} while the VM runs here");
                hold!(
                    !self
                        .s
                        .jobs
                        .iter()
                        .any(|(job, _)| matches!(job, Job::Record(_))),
                    "two records at a time"
                );
                self.s.jobs.push((Job::Record(record), false));
            }
            SourceEffect::Unlock => self.s.locked = false,
            SourceEffect::Resume => {
                hold!(self.s.memory, "resumed without memory");
                hold!(!granted, "resumed while granted");
                hold!(
                    !self.d.locked,
                    "resumed while the destination holds the disks"
                );
                self.s.stop(&[Job::Pause]);
                self.s.locked = true;
                self.s.runs = true;
                self.s.jobs.push((Job::Resume, false));
            }
            SourceEffect::Release => {
                hold!(!self.s.runs, "released while the VM runs here");
                self.s.memory = false;
                self.s.locked = false;
            }
            SourceEffect::AskLater => self.s.timer = true,
            SourceEffect::CancelRefused | SourceEffect::Ignored(_) => {}
            SourceEffect::Finish(outcome) => {
                hold!(
                    matches!(self.s_end, None | Some(SourceOutcome::Unresolved)),
                    "the source ended twice: {:?}, {outcome:?}",
                    self.s_end
                );
                match &outcome {
                    SourceOutcome::StayedHere { .. } => hold!(self.s.runs, "stayed, but stands"),
                    SourceOutcome::Moved { .. } => hold!(!self.s.memory, "moved, but is here"),
                    SourceOutcome::Unresolved => hold!(!self.s.runs, "unresolved, but runs"),
                    SourceOutcome::Lost { .. } => {}
                }
                self.s_end = Some(outcome);
            }
        }
        Ok(())
    }

    fn do_for_destination(&mut self, effect: DestinationEffect) -> Result<(), Broken> {
        let has = |verdict: Verdict| {
            let verdict = Some(verdict);
            (self.verdict == verdict && self.verdict_known) || self.forgot == verdict
        };
        let taken = has(Verdict::Taken { epoch: EPOCH });
        let refused = has(Verdict::Refused { epoch: EPOCH });
        match effect {
            DestinationEffect::Send(message) => {
                match &message.body {
                    Body::Ready => hold!(
                        self.d.memory && !self.d.runs && !self.d.locked,
                        "READY, but is not"
                    ),
                    Body::Taken => hold!(taken, "TAKEN before it is durable"),
                    Body::Running => hold!(taken && self.d.runs, "RUNNING, but is not"),
                    Body::Refused { .. } => hold!(refused, "REFUSED before it is durable"),
                    _ => {}
                }
                self.send(Side::Source, message.body);
            }
            DestinationEffect::Build(_) => {
                hold!(!self.burned, "an epoch used twice");
                self.burned = true;
                self.d.jobs.push((Job::Build, false));
            }
            DestinationEffect::Receive => self.d.jobs.push((Job::Receive, false)),
            DestinationEffect::Load => self.d.jobs.push((Job::Load, false)),
            DestinationEffect::Lock => self.d.jobs.push((Job::Lock, false)),
            DestinationEffect::Persist(verdict) => {
                hold!(
                    !self
                        .d
                        .jobs
                        .iter()
                        .any(|(job, _)| matches!(job, Job::Verdict(_))),
                    "two verdicts at a time"
                );
                hold!(
                    !refused || !matches!(verdict, Verdict::Taken { .. }),
                    "takes what it has refused"
                );
                let stands =
                    self.verdict_known && self.verdict == Some(Verdict::Taken { epoch: EPOCH });
                hold!(
                    !stands || verdict == Verdict::Forget,
                    "replaces TAKEN by {verdict:?}"
                );
                self.d.jobs.push((Job::Verdict(verdict), false));
            }
            DestinationEffect::Run => {
                hold!(self.d.memory && !self.d.runs, "nothing to run");
                hold!(taken, "runs before TAKEN is durable");
                hold!(self.d.locked, "runs without its disks");
                self.d.runs = true;
                self.d.jobs.push((Job::Run, false));
            }
            DestinationEffect::Discard => {
                hold!(!self.d.runs, "a running VM is discarded");
                self.d
                    .stop(&[Job::Build, Job::Receive, Job::Load, Job::Lock]);
                self.d.memory = false;
                self.d.locked = false;
            }
            DestinationEffect::AskLater => self.d.timer = true,
            DestinationEffect::Ignored(_) => {}
            DestinationEffect::Finish(outcome) => {
                hold!(
                    self.d_end.is_none(),
                    "the destination ended twice: {:?}, {outcome:?}",
                    self.d_end
                );
                let right = match &outcome {
                    DestinationOutcome::Running => self.d.runs,
                    DestinationOutcome::Discarded { .. } => !self.d.memory,
                    DestinationOutcome::Lost { .. } => !self.d.runs,
                };
                hold!(right, "{outcome:?} is not so");
                self.d_end = Some(outcome);
            }
        }
        Ok(())
    }

    /// Puts a message on the wire. One that is there already is as good as two: what the second
    /// could do, a duplicate of the first does.
    fn send(&mut self, to: Side, body: Body) {
        if !self.wire {
            return;
        }
        let mut hasher = DefaultHasher::new();
        (to, &body).hash(&mut hasher);
        let key = hasher.finish();
        if let Err(index) = self.net.binary_search_by_key(&key, |(key, ..)| *key) {
            self.net.insert(index, (key, to, body));
        }
    }

    /// What holds at every moment.
    fn check(&self) -> Result<(), Broken> {
        hold!(!(self.s.runs && self.d.runs), "two runners");
        hold!(
            !self.s.runs || self.s.locked,
            "the source runs without its disks"
        );
        hold!(!(self.s.locked && self.d.locked), "two hold the disks");
        Ok(())
    }

    /// The move that a world without further trouble makes next; none when all is quiet.
    pub(super) fn calm(&self) -> Option<Move> {
        for (side, node) in [(Side::Source, &self.s), (Side::Destination, &self.d)] {
            let ready = |(job, stopped): &(Job, bool)| self.can_finish(job, *stopped);
            if let Some(index) = node.jobs.iter().position(ready) {
                return Some(Move::Finish(side, index, End::Done));
            }
        }
        if !self.net.is_empty() {
            return Some(Move::Deliver(0));
        }
        for (side, node) in [(Side::Source, &self.s), (Side::Destination, &self.d)] {
            if node.up && !self.wire {
                return Some(Move::Notice(side));
            }
            if !node.up && self.wire {
                return Some(Move::Up(side));
            }
        }
        if !self.wire {
            return Some(Move::Heal);
        }
        if self.s.timer || self.d.timer {
            return Some(Move::Timers);
        }
        // A driver that hears nothing more gives the connection up.
        let waits = self.destination_waits() || (self.s_end.is_none() && self.s.runs);
        let waits = waits || self.source_waits();
        waits.then_some(Move::Cut { lose: true })
    }

    fn destination_waits(&self) -> bool {
        self.d.memory && self.d_end.is_none()
    }

    fn source_waits(&self) -> bool {
        self.s.memory && !self.s.runs && self.s_end.is_none()
    }

    /// What holds when all is quiet: somebody runs, or it was said why nobody does.
    pub(super) fn at_rest(&self) -> Result<(), Broken> {
        let lost = matches!(self.s_end, Some(SourceOutcome::Lost { .. }))
            || matches!(self.d_end, Some(DestinationOutcome::Lost { .. }));
        hold!(
            self.s.runs || self.d.runs || lost || self.excused,
            "nobody runs, and nobody said so"
        );
        hold!(
            self.s_end != Some(SourceOutcome::Unresolved),
            "unresolved for ever"
        );
        hold!(
            self.s.runs || !self.s.memory,
            "the source keeps a VM that does not run"
        );
        hold!(
            self.d.runs || !self.d.memory || lost,
            "the destination keeps a VM that does not run"
        );
        hold!(
            self.verdict.is_none(),
            "{:?} is never forgotten",
            self.verdict
        );
        let granted = matches!(self.record, Some(Record::Granted { .. }));
        hold!(!granted, "granted for ever");
        Ok(())
    }
}

impl Node {
    fn stop(&mut self, which: &[Job]) {
        for (job, stopped) in &mut self.jobs {
            *stopped |= which.contains(job);
        }
    }
}
