//! What the nodes of a world do when their state machines say so, and what must hold then.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::super::destination::{
    DestinationEffect, DestinationInput, DestinationOutcome, Verdict,
};
use super::super::super::ledger::Meeting;
use super::super::super::message::Body;
use super::super::super::source::{Record, SourceEffect, SourceInput, SourceOutcome, Why};
use super::world::{Broken, Job, Packet, Side, World, hold, wire};

impl World {
    pub(in crate::migration::protocol::tests) fn tell_source(
        &mut self,
        k: usize,
        input: SourceInput,
    ) -> Result<(), Broken> {
        for effect in self.sessions[k].source.handle(input) {
            self.do_for_source(k, effect)?;
            self.check()?;
        }
        self.check()
    }

    pub(in crate::migration::protocol::tests) fn tell_destination(
        &mut self,
        k: usize,
        input: DestinationInput,
    ) -> Result<(), Broken> {
        // Who is not there any more is not told.
        let Some(destination) = &mut self.sessions[k].destination else {
            return Ok(());
        };
        for effect in destination.handle(input) {
            self.do_for_destination(k, effect)?;
            self.check()?;
        }
        self.check()
    }

    fn do_for_source(&mut self, k: usize, effect: SourceEffect) -> Result<(), Broken> {
        let disks = self.config.disks;
        let session = &mut self.sessions[k];
        let node = &mut self.nodes[session.from];
        let granted = matches!(session.record, Some(Record::Granted { .. }));
        let by_force = matches!(session.record, Some(Record::Forced { .. }));
        match effect {
            SourceEffect::Send(message) => {
                match &message.body {
                    Body::Commit => {
                        hold!(
                            self,
                            Said,
                            granted && session.record_known,
                            "COMMIT without a durable grant"
                        );
                        hold!(self, Locks, !node.locked, "COMMIT with the disks locked");
                    }
                    Body::Done | Body::Abort { .. } | Body::Aborted => {
                        let what = message.body.operation();
                        hold!(self, Said, !granted, "{what} while granted");
                    }
                    Body::Superseded { .. } => {
                        hold!(self, Said, by_force, "SUPERSEDED, but was not forced");
                    }
                    _ => {}
                }
                self.send(k, Side::Destination, message.body);
            }
            SourceEffect::Attach { .. } => session.s.jobs.push((Job::Attach, false)),
            SourceEffect::Copy => session.s.jobs.push((Job::Copy, false)),
            SourceEffect::StopCopy => session
                .s
                .stop(|job| matches!(job, Job::Attach | Job::Copy | Job::SendState)),
            SourceEffect::Pause => session.s.jobs.push((Job::Pause, false)),
            SourceEffect::SendState => {
                hold!(self, Said, !node.runs, "state is saved while the VM runs");
                session.state_sent = true;
                session.s.jobs.push((Job::SendState, false));
            }
            SourceEffect::Persist(record) => {
                hold!(self, Once, !node.runs, "{record:?} while the VM runs here");
                let mut jobs = session.s.jobs.iter();
                hold!(
                    self,
                    Once,
                    !jobs.any(|(job, _)| matches!(job, Job::Record(_))),
                    "two records at a time"
                );
                hold!(
                    self,
                    Said,
                    session.ready || !matches!(record, Record::Granted { .. }),
                    "granted to who is not ready"
                );
                session.s.jobs.push((Job::Record(record), false));
            }
            SourceEffect::Unlock => node.locked = false,
            SourceEffect::Lock => {
                self.relocked = true;
                session.s.jobs.push((Job::Relock, false));
            }
            SourceEffect::Resume => {
                hold!(self, Said, node.copy.is_some(), "resumed without memory");
                hold!(self, OneRunner, !granted, "resumed while granted");
                hold!(
                    self,
                    NeverBack,
                    by_force || !session.ran,
                    "resumed what has run elsewhere"
                );
                let destination = &self.nodes[session.to];
                hold!(
                    self,
                    Locks,
                    !destination.locked,
                    "resumed while the destination holds the disks"
                );
                session.s.stop(|job| *job == Job::Pause);
                session.resumed = true;
                self.forced |= by_force;
                let node = &mut self.nodes[session.from];
                (node.runs, node.locked) = (true, disks);
                session.s.jobs.push((Job::Resume, false));
            }
            SourceEffect::Release => {
                hold!(self, Said, !node.runs, "released while the VM runs here");
                (node.copy, node.locked) = (None, false);
            }
            SourceEffect::Halt { .. } => {
                (node.runs, node.locked) = (false, false);
                session.s.stop(|job| *job == Job::Resume);
            }
            SourceEffect::AskLater => session.s.timer = true,
            // What was to be destroyed is not.
            SourceEffect::CancelRefused => session.doomed = false,
            SourceEffect::ForceRefused(_) | SourceEffect::Ignored(_) => {}
            SourceEffect::Finish(outcome) => return self.source_ends(k, outcome),
        }
        Ok(())
    }

    fn source_ends(&mut self, k: usize, outcome: SourceOutcome) -> Result<(), Broken> {
        let session = &mut self.sessions[k];
        let node = &self.nodes[session.from];
        let forced = SourceOutcome::StayedHere { why: Why::Forced };
        let open = match &session.s_end {
            None | Some(SourceOutcome::Unresolved) => true,
            // It gave way, or was told lost by the restart before.
            Some(end) => *end == forced && matches!(outcome, SourceOutcome::Lost { .. }),
        };
        hold!(
            self,
            Said,
            open,
            "the source ended twice: {:?}, {outcome:?}",
            session.s_end
        );
        let right = match &outcome {
            SourceOutcome::StayedHere { .. } => node.runs,
            SourceOutcome::Moved { .. } => node.copy.is_none(),
            SourceOutcome::Unresolved | SourceOutcome::Lost { .. } => !node.runs,
        };
        hold!(self, Said, right, "{outcome:?} is not so");
        session.over = outcome != SourceOutcome::Unresolved;
        let doomed = session.doomed && matches!(outcome, SourceOutcome::StayedHere { .. });
        session.s_end = Some(outcome);
        if doomed {
            let from = session.from;
            self.end_guest(from);
        }
        Ok(())
    }

    fn do_for_destination(&mut self, k: usize, effect: DestinationEffect) -> Result<(), Broken> {
        let disks = self.config.disks;
        let session = &mut self.sessions[k];
        let node = &mut self.nodes[session.to];
        let epoch = session.epoch;
        let has = |verdict: Verdict| {
            let verdict = Some(verdict);
            (session.verdict == verdict && session.verdict_known) || session.forgot == verdict
        };
        let (taken, refused) = (
            has(Verdict::Taken { epoch }),
            has(Verdict::Refused { epoch }),
        );
        let superseded =
            |verdict: &Option<Verdict>| matches!(verdict, Some(Verdict::Superseded { .. }));
        let superseded = superseded(&session.verdict) || superseded(&session.forgot);
        match effect {
            DestinationEffect::Send(message) => {
                let own = node.copy == Some(k + 1);
                match &message.body {
                    Body::Ready => {
                        hold!(
                            self,
                            Said,
                            own && !node.runs && !node.locked,
                            "READY, but is not"
                        );
                        session.ready = true;
                    }
                    Body::Taken => hold!(self, Said, taken, "TAKEN before it is durable"),
                    Body::Running => {
                        // Who has destroyed it, or passed it on, has run it.
                        hold!(self, Said, taken && session.ran, "RUNNING, but did not");
                    }
                    Body::Refused { .. } => {
                        hold!(
                            self,
                            Said,
                            refused || superseded,
                            "REFUSED before it is durable"
                        );
                    }
                    _ => {}
                }
                self.send(k, Side::Source, message.body);
            }
            DestinationEffect::Build(_) => return self.build(k),
            DestinationEffect::Receive => session.d.jobs.push((Job::Receive, false)),
            DestinationEffect::Load => session.d.jobs.push((Job::Load, false)),
            DestinationEffect::Lock => session.d.jobs.push((Job::Lock, false)),
            DestinationEffect::Persist(verdict) => {
                let mut jobs = session.d.jobs.iter();
                hold!(
                    self,
                    Once,
                    !jobs.any(|(job, _)| matches!(job, Job::Verdict(_))),
                    "two verdicts at a time"
                );
                let takes = matches!(verdict, Verdict::Taken { .. });
                hold!(self, Once, !refused || !takes, "takes what it has refused");
                let stands =
                    session.verdict_known && session.verdict == Some(Verdict::Taken { epoch });
                let may = matches!(verdict, Verdict::Forget | Verdict::Superseded { .. });
                hold!(self, Once, !stands || may, "replaces TAKEN by {verdict:?}");
                session.d.jobs.push((Job::Verdict(verdict), false));
            }
            DestinationEffect::Run => {
                hold!(
                    self,
                    Said,
                    node.copy == Some(k + 1) && !node.runs,
                    "nothing to run"
                );
                hold!(self, Said, taken, "runs before TAKEN is durable");
                hold!(self, Locks, node.locked || !disks, "runs without its disks");
                hold!(self, Force, !superseded, "runs what it gave up");
                let stayed = matches!(session.s_end, Some(SourceOutcome::StayedHere { .. }));
                hold!(
                    self,
                    NeverBack,
                    self.forced || !(session.resumed || stayed),
                    "runs what the source has gone on with"
                );
                session.ran = true;
                node.runs = true;
                session.d.jobs.push((Job::Run, false));
            }
            DestinationEffect::Pause { epoch } => {
                let last = self.meet(k, epoch);
                let input = last.map_or(DestinationInput::Halted, |last| DestinationInput::Later {
                    last,
                });
                self.tell_destination(k, input)?;
            }
            DestinationEffect::Discard => {
                let own = node.copy == Some(k + 1);
                hold!(self, Said, !(own && node.runs), "a running VM is discarded");
                session.d.stop(|job| {
                    matches!(job, Job::Build(_) | Job::Receive | Job::Load | Job::Lock)
                });
                if own {
                    (node.copy, node.locked) = (None, false);
                }
            }
            DestinationEffect::AskLater => session.d.timer = true,
            DestinationEffect::Ignored(_) => {}
            DestinationEffect::Finish(outcome) => return self.destination_ends(k, outcome),
        }
        Ok(())
    }

    /// The offer's epoch is asked for in the ledger, and settles what is older.
    fn build(&mut self, k: usize) -> Result<(), Broken> {
        let (to, epoch) = (self.sessions[k].to, self.sessions[k].epoch);
        let accepted = self.nodes[to].ledger.accept(epoch).is_ok();
        self.sessions[k].d.jobs.push((Job::Build(accepted), false));
        if !accepted {
            return Ok(());
        }
        let session = &mut self.sessions[k];
        hold!(self, Once, !session.built, "an epoch is used twice");
        for older in 0..self.sessions.len() {
            let session = &self.sessions[older];
            // A restarted node knows no better than one that was not answered.
            let unresolved = !session.over
                && (session.s_end == Some(SourceOutcome::Unresolved)
                    || self.nodes[to].copy.is_none());
            let forced = matches!(session.record, Some(Record::Forced { .. }));
            if older != k && session.from == to && (unresolved || forced) {
                self.sessions[older].outlived = true;
                self.tell_source(older, SourceInput::Outlived { epoch })?;
            }
        }
        Ok(())
    }

    /// Somebody has the VM under this epoch; what this node's ledger says to that.
    fn meet(&mut self, k: usize, epoch: u64) -> Option<u64> {
        let to = self.sessions[k].to;
        let (stops, answer) = match self.nodes[to].ledger.meet(epoch) {
            Meeting::GiveWay => (true, None),
            Meeting::Both { last } => (self.is_free(to), Some(last)),
            Meeting::Stand { last } => (false, Some(last)),
        };
        if stops {
            let node = &mut self.nodes[to];
            (node.runs, node.locked) = (false, false);
            self.sessions[k].d.stop(|job| *job == Job::Run);
        }
        answer
    }

    fn destination_ends(&mut self, k: usize, outcome: DestinationOutcome) -> Result<(), Broken> {
        let session = &mut self.sessions[k];
        let node = &self.nodes[session.to];
        let own = node.copy == Some(k + 1);
        let open =
            session.d_end.is_none() || matches!(outcome, DestinationOutcome::Superseded { .. });
        hold!(
            self,
            Said,
            open,
            "the destination ended twice: {:?}, {outcome:?}",
            session.d_end
        );
        let right = match &outcome {
            DestinationOutcome::Running => own && node.runs,
            DestinationOutcome::Discarded { .. } => !own,
            DestinationOutcome::Lost { .. } | DestinationOutcome::Superseded { .. } => {
                !(own && node.runs)
            }
        };
        hold!(self, Said, right, "{outcome:?} is not so");
        session.d_end = Some(outcome);
        Ok(())
    }

    /// Puts a message on the wire. One that is there already is as good as two: what the second
    /// could do, a duplicate of the first does.
    fn send(&mut self, k: usize, to: Side, body: Body) {
        let session = &self.sessions[k];
        if !self.wires[wire(session.from, session.to)] {
            return;
        }
        let mut hasher = DefaultHasher::new();
        (k, to, &body).hash(&mut hasher);
        let key = hasher.finish();
        if let Err(index) = self.net.binary_search_by_key(&key, |packet| packet.key) {
            let packet = Packet {
                key,
                session: k,
                to,
                body,
            };
            self.net.insert(index, packet);
        }
    }
}
