//! What may come next in a world, and how it comes.

use super::super::super::destination::{DestinationInput, Verdict};
use super::super::super::message::Body;
use super::super::super::source::{Record, SourceInput, SourceOutcome};
use super::world::{Broken, End, Job, Seat, Side, World, hold, wire};

/// What may come next. The first number is the session's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::migration::protocol::tests) enum Move {
    Deliver(usize),
    Duplicate(usize),
    Drop(usize),
    Finish(usize, Side, usize, End),
    Timer(usize, Side),
    /// All timers, so that none waits for ever for another.
    Timers,
    /// A wire breaks, and loses what is on it or brings it later.
    Cut {
        wire: usize,
        lose: bool,
    },
    Heal(usize),
    Notice(usize, Side),
    Up(usize, Side),
    /// An operator asks for the next migration.
    Migrate,
    Cancel(usize),
    Limit(usize),
    Shutdown(usize),
    Force(usize),
    /// An operator stops or destroys the VM at that node.
    Destroy(usize),
    /// The process dies and comes back. Of what its sessions were writing, in their order, the bits
    /// say what is durable.
    Crash(usize, u8),
}

impl Move {
    /// Whether this is trouble, of which a search allows so much, or the ordinary course.
    pub(super) fn is_trouble(&self) -> bool {
        match self {
            Self::Deliver(_)
            | Self::Timer(..)
            | Self::Timers
            | Self::Heal(_)
            | Self::Notice(..)
            | Self::Up(..)
            | Self::Migrate
            | Self::Force(_) => false,
            Self::Finish(_, _, _, end) => *end != End::Done,
            _ => true,
        }
    }
}

const SIDES: [Side; 2] = [Side::Source, Side::Destination];

impl World {
    /// Everything that may happen next.
    pub(super) fn moves(&self, moves: &mut Vec<Move>) {
        if self.config.brisk
            && let Some(step) = self.hurried()
        {
            moves.push(step);
            return;
        }
        for (k, session) in self.sessions.iter().enumerate() {
            let wire = self.wires[wire(session.from, session.to)];
            for side in SIDES {
                let seat = session.seat(side);
                for (index, (job, stopped)) in seat.jobs.iter().enumerate() {
                    if self.can_finish(k, job, *stopped) {
                        moves.push(Move::Finish(k, side, index, End::Done));
                    }
                    if !stopped && self.can_fail(k, job) {
                        moves.push(Move::Finish(k, side, index, End::Failed));
                        if matches!(job, Job::Record(_) | Job::Verdict(_)) {
                            moves.push(Move::Finish(k, side, index, End::FailedButWritten));
                        }
                    }
                }
                if seat.timer {
                    moves.push(Move::Timer(k, side));
                }
                if seat.up && !wire {
                    moves.push(Move::Notice(k, side));
                }
                let somebody = side == Side::Source || session.destination.is_some();
                if !seat.up && wire && somebody {
                    moves.push(Move::Up(k, side));
                }
            }
            if !session.over && session.s_end.is_none() {
                moves.push(Move::Cancel(k));
                let node = &self.nodes[session.from];
                if node.copy.is_some() && !node.runs {
                    moves.push(Move::Limit(k));
                }
            }
            if !session.over && !session.s.up && !self.nodes[session.from].runs {
                moves.push(Move::Force(k));
            }
            if session.d_end.is_none() && session.destination.is_some() {
                moves.push(Move::Shutdown(k));
            }
        }
        for index in 0..self.net.len() {
            moves.push(Move::Deliver(index));
            moves.push(Move::Duplicate(index));
            moves.push(Move::Drop(index));
        }
        for (number, up) in self.wires.iter().enumerate() {
            let of = |k: usize| {
                let session = &self.sessions[k];
                wire(session.from, session.to) == number
            };
            if !(0..self.sessions.len()).any(of) {
                continue;
            }
            if *up {
                moves.push(Move::Cut {
                    wire: number,
                    lose: false,
                });
                if self.net.iter().any(|packet| of(packet.session)) {
                    moves.push(Move::Cut {
                        wire: number,
                        lose: true,
                    });
                }
            } else {
                moves.push(Move::Heal(number));
            }
        }
        if self.can_migrate() {
            moves.push(Move::Migrate);
        }
        for node in 0..self.nodes.len() {
            if self.can_destroy(node) {
                moves.push(Move::Destroy(node));
            }
            if self.has_begun(node) {
                let writes = self.writes(node);
                moves.extend((0..1 << writes).map(|bits| Move::Crash(node, bits)));
            }
        }
    }

    /// The step before READY that is done at once.
    fn hurried(&self) -> Option<Move> {
        for (k, session) in self.sessions.iter().enumerate() {
            for side in SIDES {
                for (index, (job, stopped)) in session.seat(side).jobs.iter().enumerate() {
                    let early = match job {
                        Job::Attach
                        | Job::Copy
                        | Job::Pause
                        | Job::SendState
                        | Job::Receive
                        | Job::Load => true,
                        // It waits for an older copy that is being given up, or fails.
                        Job::Build(_) => self.can_finish(k, job, *stopped),
                        _ => *stopped,
                    };
                    if early && self.can_finish(k, job, *stopped) {
                        return Some(Move::Finish(k, side, index, End::Done));
                    }
                }
            }
        }
        None
    }

    /// Whether the work can be done now.
    pub(super) fn can_finish(&self, k: usize, job: &Job, stopped: bool) -> bool {
        let session = &self.sessions[k];
        let others_lock = |own: usize| {
            let mut others = self.nodes.iter().enumerate();
            others.any(|(node, other)| node != own && other.locked)
        };
        stopped
            || match job {
                Job::Receive => session.state_sent,
                // A VM of that id is here until it has been given up.
                Job::Build(accepted) => {
                    *accepted && self.nodes[session.to].copy.is_none() && self.is_free(session.to)
                }
                Job::Lock => !others_lock(session.to),
                Job::Relock => !others_lock(session.from),
                _ => true,
            }
    }

    /// Whether the work may fail: brisk worlds leave out what fails before READY, where it can be done.
    fn can_fail(&self, k: usize, job: &Job) -> bool {
        let early = matches!(
            job,
            Job::Attach
                | Job::Copy
                | Job::Pause
                | Job::SendState
                | Job::Receive
                | Job::Load
                | Job::Build(_)
        );
        !(self.config.brisk && early && self.can_finish(k, job, false))
    }

    /// Whether anything of this node would be lost in a crash.
    fn has_begun(&self, node: usize) -> bool {
        let mut sessions = self.sessions.iter();
        sessions.any(|s| s.from == node || (s.to == node && (s.built || s.destination.is_some())))
    }

    fn writes(&self, node: usize) -> usize {
        let mut writes = 0;
        for session in &self.sessions {
            for (side, at) in [
                (Side::Source, session.from),
                (Side::Destination, session.to),
            ] {
                if at == node {
                    let jobs = session.seat(side).jobs.iter();
                    writes += jobs
                        .filter(|(job, stopped)| !stopped && job.writes())
                        .count();
                }
            }
        }
        writes
    }

    fn can_destroy(&self, node: usize) -> bool {
        let leaving = |s: &&super::world::Session| s.from == node && !s.over;
        self.is_ready(node) && !self.sessions.iter().filter(leaving).any(|s| s.doomed)
    }

    pub(in crate::migration::protocol::tests) fn apply(
        &mut self,
        step: &Move,
    ) -> Result<(), Broken> {
        match step {
            Move::Deliver(index) => {
                let packet = self.net.remove(*index);
                self.deliver(packet.session, packet.to, packet.body)
            }
            Move::Duplicate(index) => {
                let packet = self.net[*index].clone();
                self.deliver(packet.session, packet.to, packet.body)
            }
            Move::Drop(index) => {
                self.net.remove(*index);
                Ok(())
            }
            Move::Finish(k, side, index, end) => {
                let (job, stopped) = self.seat(*k, *side).jobs.remove(*index);
                self.end_job(*k, job, stopped, *end)
            }
            Move::Timer(k, side) => {
                self.seat(*k, *side).timer = false;
                self.tell(*k, *side, SourceInput::Ask, DestinationInput::Ask)
            }
            Move::Timers => {
                for k in 0..self.sessions.len() {
                    for side in SIDES {
                        if self.seat(k, side).timer {
                            self.apply(&Move::Timer(k, side))?;
                        }
                    }
                }
                Ok(())
            }
            Move::Cut { wire: cut, lose } => {
                self.wires[*cut] = false;
                if *lose {
                    let sessions = &self.sessions;
                    self.net.retain(|packet| {
                        let session = &sessions[packet.session];
                        wire(session.from, session.to) != *cut
                    });
                }
                Ok(())
            }
            Move::Heal(wire) => {
                self.wires[*wire] = true;
                Ok(())
            }
            Move::Notice(k, side) => {
                self.seat(*k, *side).up = false;
                self.tell(*k, *side, SourceInput::LinkLost, DestinationInput::LinkLost)
            }
            Move::Up(k, side) => {
                self.seat(*k, *side).up = true;
                self.tell(*k, *side, SourceInput::LinkUp, DestinationInput::LinkUp)
            }
            Move::Migrate => self.migrate(),
            Move::Cancel(k) => self.tell_source(*k, SourceInput::Cancel),
            Move::Limit(k) => self.tell_source(*k, SourceInput::LimitPassed),
            Move::Shutdown(k) => self.tell_destination(*k, DestinationInput::Shutdown),
            Move::Force(k) => self.tell_source(*k, SourceInput::Force),
            Move::Destroy(node) => self.destroy(*node),
            Move::Crash(node, bits) => {
                self.crash(*node, *bits);
                Ok(())
            }
        }
    }

    fn deliver(&mut self, k: usize, to: Side, body: Body) -> Result<(), Broken> {
        let message = self.message(k, body);
        let session = &self.sessions[k];
        match to {
            Side::Source => {
                let from = Self::uuid(session.to);
                self.tell_source(k, SourceInput::Received { from, message })
            }
            Side::Destination => {
                let from = Self::uuid(session.from);
                if session.destination.is_none() {
                    // As the node does: what was judged is not begun anew.
                    let new = matches!(message.body, Body::Prepare(_)) && session.verdict.is_none();
                    let destination = self.destination(k, new);
                    self.sessions[k].destination = Some(destination);
                    self.sessions[k].d.up = true;
                    if !new {
                        self.tell_destination(k, DestinationInput::LinkUp)?;
                    }
                }
                self.tell_destination(k, DestinationInput::Received { from, message })
            }
        }
    }

    fn tell(
        &mut self,
        k: usize,
        side: Side,
        source: SourceInput,
        destination: DestinationInput,
    ) -> Result<(), Broken> {
        match side {
            Side::Source => self.tell_source(k, source),
            Side::Destination => self.tell_destination(k, destination),
        }
    }

    fn end_job(&mut self, k: usize, job: Job, stopped: bool, end: End) -> Result<(), Broken> {
        let done = end == End::Done;
        if !stopped {
            self.take_effect(k, &job, end)?;
        }
        let why = || "broken".to_owned();
        match job {
            Job::Record(_) if done => self.tell_source(k, SourceInput::Persisted),
            Job::Record(_) => self.tell_source(k, SourceInput::PersistFailed),
            Job::Verdict(_) if done => self.tell_destination(k, DestinationInput::Persisted),
            Job::Verdict(_) => self.tell_destination(k, DestinationInput::PersistFailed),
            Job::Attach if done => self.tell_source(k, SourceInput::Attached),
            Job::Copy if done => self.tell_source(k, SourceInput::Converged),
            Job::Pause if done => self.tell_source(k, SourceInput::Paused),
            Job::SendState if done => self.tell_source(k, SourceInput::StateSent),
            Job::Relock if done => self.tell_source(k, SourceInput::Locked),
            Job::Relock => self.tell_source(k, SourceInput::LockFailed(why())),
            Job::Resume if done => self.tell_source(k, SourceInput::Resumed),
            Job::Attach | Job::Copy | Job::Pause | Job::SendState | Job::Resume => {
                self.tell_source(k, SourceInput::Failed(why()))
            }
            Job::Build(_) if done => self.tell_destination(
                k,
                DestinationInput::Built {
                    token: "00ff".into(),
                    channels: 4,
                    handed: false,
                },
            ),
            Job::Build(_) => self.tell_destination(k, DestinationInput::Unfit(vec![why()])),
            Job::Receive if done => self.tell_destination(k, DestinationInput::StateReceived),
            Job::Receive => self.tell_destination(k, DestinationInput::ReceiveFailed(why())),
            Job::Load if done => self.tell_destination(k, DestinationInput::Loaded),
            Job::Load => self.tell_destination(k, DestinationInput::LoadFailed(why())),
            Job::Lock if done => self.tell_destination(k, DestinationInput::Locked),
            Job::Lock => self.tell_destination(k, DestinationInput::LockFailed(why())),
            Job::Run if done => self.tell_destination(k, DestinationInput::Ran),
            Job::Run => self.tell_destination(k, DestinationInput::RunFailed(why())),
        }
    }

    /// What a job that nobody stopped does to its node.
    fn take_effect(&mut self, k: usize, job: &Job, end: End) -> Result<(), Broken> {
        let (from, to) = (self.sessions[k].from, self.sessions[k].to);
        let (done, disks) = (end == End::Done, self.config.disks);
        match job {
            Job::Record(_) | Job::Verdict(_) if end != End::Failed => self.write(k, job, done),
            // The epoch is accepted before it is looked whether there is room.
            Job::Build(true) => {
                self.write(k, job, done);
                if done {
                    self.nodes[to].copy = Some(k + 1);
                }
            }
            Job::Pause if done => self.nodes[from].runs = false,
            Job::Lock if done => self.nodes[to].locked = disks,
            Job::Lock => {
                let source = &self.nodes[from];
                hold!(
                    self,
                    Locks,
                    self.relocked || !source.locked,
                    "the destination asks for disks that the source holds"
                );
            }
            Job::Relock if done => self.nodes[from].locked = disks,
            Job::Resume if !done => {
                let node = &mut self.nodes[from];
                (node.runs, node.copy, node.locked) = (false, None, false);
            }
            Job::Run if !done => self.nodes[to].runs = false,
            _ => {}
        }
        Ok(())
    }

    /// Makes durable what a job writes; the node knows of it or does not.
    fn write(&mut self, k: usize, job: &Job, known: bool) {
        let session = &mut self.sessions[k];
        match job {
            Job::Record(record) => {
                session.record = Some(record.clone());
                session.record_known = known;
                if let Some(epoch) = record.own_epoch() {
                    let node = &mut self.nodes[session.from];
                    node.ledger.note(epoch);
                    node.stored.note(epoch);
                }
            }
            Job::Verdict(Verdict::Forget) => {
                let verdict = session.verdict.take();
                session.forgot = verdict.or(session.forgot.take());
            }
            Job::Verdict(verdict) => {
                session.verdict = Some(verdict.clone());
                session.verdict_known = known;
                if let Verdict::Superseded { epoch } = verdict {
                    let node = &mut self.nodes[session.to];
                    node.ledger.note(*epoch);
                    node.stored.note(*epoch);
                }
            }
            Job::Build(true) => {
                session.built = true;
                self.nodes[session.to].stored.note(session.epoch);
            }
            _ => {}
        }
    }

    fn destroy(&mut self, node: usize) -> Result<(), Broken> {
        let leaving = |s: &super::world::Session| s.from == node && !s.over;
        let Some(k) = self.sessions.iter().position(leaving) else {
            self.end_guest(node);
            return Ok(());
        };
        // Before the grant it cancels first; after that the VM does not run here.
        self.sessions[k].doomed = true;
        self.tell_source(k, SourceInput::Cancel)
    }

    /// The VM is destroyed here, by who may.
    pub(super) fn end_guest(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        (node.runs, node.copy, node.locked) = (false, None, false);
        self.excused = true;
        self.destroyed = true;
    }

    /// The process ends; what it held is gone, and its connections with it.
    fn crash(&mut self, node: usize, bits: u8) {
        let mut bit = 0;
        for k in 0..self.sessions.len() {
            for side in SIDES {
                let session = &self.sessions[k];
                let at = match side {
                    Side::Source => session.from,
                    Side::Destination => session.to,
                };
                if at != node {
                    continue;
                }
                self.wires[wire(session.from, session.to)] = false;
                let seat = std::mem::take(self.seat(k, side));
                for (job, stopped) in seat.jobs {
                    if !stopped && job.writes() {
                        if bits >> bit & 1 == 1 {
                            self.write(k, &job, true);
                        }
                        bit += 1;
                    }
                }
            }
        }
        self.excused |= self.owns(node);
        let here = &mut self.nodes[node];
        (here.copy, here.runs, here.locked) = (None, false, false);
        here.ledger = here.stored.clone();
        for k in 0..self.sessions.len() {
            if self.sessions[k].from == node {
                let source = self.recovered_source(k);
                let session = &mut self.sessions[k];
                self.excused |= matches!(session.s_end, Some(SourceOutcome::Lost { .. }));
                session.source = source;
                session.s_end = None;
                session.record_known = true;
                session.over = !matches!(session.record, Some(Record::Granted { .. }));
            }
            if self.sessions[k].to == node {
                // Who has a verdict says it; who has none waits to be asked.
                let verdict = self.sessions[k].verdict.is_some();
                let destination = verdict.then(|| self.destination(k, false));
                let session = &mut self.sessions[k];
                session.destination = destination;
                session.d_end = None;
                session.verdict_known = true;
            }
        }
    }
}

impl super::world::Session {
    pub(super) fn seat(&self, side: Side) -> &Seat {
        match side {
            Side::Source => &self.s,
            Side::Destination => &self.d,
        }
    }
}
