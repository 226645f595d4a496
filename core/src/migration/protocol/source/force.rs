//! Decided by an operator: the destination will never answer, and the VM is to run here.
//!
//! That may be wrong. So it takes a higher epoch, and whoever has the VM under the session's stops
//! when it hears of it; and a destination that has passed the VM on since says so, and this copy
//! stops. Until FORCED is durable the destination's word that it has the VM comes first.

use super::super::message::Body;
use super::effects::ignore;
use super::state::Event::{self, Did, Heard};
use super::state::{Effects, ForceStep, Forced, Forcing, Granted, Guest, Releasing, State};
use super::{ForceRefusal, Record, Source, SourceEffect, SourceInput as Input, SourceOutcome, Why};

#[cfg(test)]
use super::super::Mutant;

impl Source {
    /// Begins, where the VM is granted and the peer does not answer.
    pub(super) fn force(&mut self, state: State, out: &mut Effects) -> State {
        let refusal = match state {
            State::Granted(Granted { peer, revoking }) if !self.link || self.stranger => {
                out.push(SourceEffect::Lock);
                return State::Forcing(Forcing {
                    peer,
                    revoking,
                    step: ForceStep::Locking,
                    taken: false,
                });
            }
            State::Granted(_) => ForceRefusal::PeerAnswers,
            // Before the grant the VM is here anyway; a grant whose write failed was told to nobody,
            // and only this node's store keeps it from being taken back; the rest is settled.
            _ => ForceRefusal::Decided(state.name()),
        };
        out.push(SourceEffect::ForceRefused(refusal));
        state
    }

    pub(super) fn forcing(&mut self, mut state: Forcing, event: Event, out: &mut Effects) -> State {
        match (state.step, event) {
            (ForceStep::Locking, Did(Input::Locked)) => {
                if state.taken {
                    return self.let_go(state.peer, true, out);
                }
                state.step = ForceStep::Writing;
                self.persist_forced(&state.peer, out);
            }
            (ForceStep::Locking, Did(Input::LockFailed(reason))) => {
                if state.taken {
                    return self.let_go(state.peer, false, out);
                }
                out.push(SourceEffect::ForceRefused(ForceRefusal::Locks(reason)));
                out.push(SourceEffect::AskLater);
                return State::Granted(Granted {
                    peer: state.peer,
                    revoking: state.revoking,
                });
            }
            (ForceStep::Writing, Did(Input::Persisted | Input::PersistFailed)) if state.taken => {
                return self.let_go(state.peer, true, out);
            }
            (ForceStep::Writing, Did(Input::Persisted)) => return self.run_here(state.peer, out),
            (ForceStep::Writing, Did(Input::PersistFailed)) => {
                state.step = ForceStep::Waiting;
                self.tell_unresolved(out);
                out.push(SourceEffect::AskLater);
            }
            (ForceStep::Waiting, Did(Input::Ask)) => {
                state.step = ForceStep::Writing;
                self.persist_forced(&state.peer, out);
            }
            (step, Heard(Body::Running | Body::Taken) | Did(Input::Outlived { .. })) => {
                if step == ForceStep::Waiting {
                    return self.let_go(state.peer, true, out);
                }
                state.taken = true;
            }
            (_, Heard(Body::Resolve)) => self.send(Body::Undecided, out),
            // It says so again, and is answered once the VM is this node's.
            (_, Heard(Body::Refused { .. } | Body::Pending)) => {}
            (_, Did(Input::LinkUp | Input::LinkLost | Input::Ask | Input::LimitPassed)) => {}
            (_, Did(Input::Cancel)) => out.push(SourceEffect::CancelRefused),
            (_, other) => ignore(&other, out),
        }
        State::Forcing(state)
    }

    /// The destination has the VM after all, and nothing has run here.
    fn let_go(&mut self, peer: String, locked: bool, out: &mut Effects) -> State {
        if locked {
            out.push(SourceEffect::Unlock);
        }
        out.push(SourceEffect::ForceRefused(ForceRefusal::Taken));
        self.persist_released(&peer, out);
        State::Releasing(Releasing {
            peer,
            writing: true,
        })
    }

    /// FORCED is durable.
    fn run_here(&mut self, peer: String, out: &mut Effects) -> State {
        let guest = if self.alive {
            out.push(SourceEffect::StopCopy);
            out.push(SourceEffect::Resume);
            Guest::Starting
        } else {
            out.push(SourceEffect::Finish(SourceOutcome::Lost {
                reason:
                    "it was forced to stay here, where its memory is lost: the source restarted \
                         in the hand-over"
                        .into(),
            }));
            Guest::Stopped
        };
        let epoch = self.forced_epoch();
        self.send(Body::Superseded { epoch }, out);
        out.push(SourceEffect::AskLater);
        State::Forced(Forced {
            peer,
            epoch,
            guest,
            settled: false,
        })
    }

    pub(super) fn forced(&mut self, mut state: Forced, event: Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Resumed) if state.guest == Guest::Starting => {
                state.guest = Guest::Running;
                out.push(SourceEffect::Finish(SourceOutcome::StayedHere {
                    why: Why::Forced,
                }));
            }
            Did(Input::Failed(reason)) if state.guest == Guest::Starting => {
                state.guest = Guest::Stopped;
                out.push(SourceEffect::Finish(SourceOutcome::Lost { reason }));
            }
            Heard(Body::Running | Body::Taken | Body::Ready | Body::Pending | Body::Resolve) => {
                let epoch = state.epoch;
                self.send(
                    if state.settled {
                        Body::Done
                    } else {
                        Body::Superseded { epoch }
                    },
                    out,
                );
            }
            Heard(Body::Refused { .. }) => {
                state.settled = true;
                self.send(Body::Done, out);
            }
            Heard(Body::Superseded { epoch }) if epoch >= state.epoch => {
                give_way(&mut state, epoch, out);
                state.settled = true;
                self.send(Body::Done, out);
            }
            Did(Input::Outlived { epoch }) if epoch > state.epoch => {
                give_way(&mut state, epoch, out);
            }
            Did(Input::LinkUp | Input::Ask) => {
                if !state.settled {
                    let epoch = state.epoch;
                    self.send(Body::Superseded { epoch }, out);
                    out.push(SourceEffect::AskLater);
                }
            }
            Did(Input::LinkLost) => {}
            other => ignore(&other, out),
        }
        State::Forced(state)
    }

    /// The epoch that a force takes.
    fn forced_epoch(&self) -> u64 {
        #[cfg(test)]
        if self.mutant == Some(Mutant::ForcesWithoutEpoch) {
            return self.epoch;
        }
        self.epoch.saturating_add(1)
    }

    fn persist_forced(&self, peer: &str, out: &mut Effects) {
        out.push(SourceEffect::Persist(Record::Forced {
            epoch: self.forced_epoch(),
            destination_uuid: peer.to_owned(),
        }));
    }
}

/// Who was believed gone was not, and the VM has gone on from there.
fn give_way(state: &mut Forced, epoch: u64, out: &mut Effects) {
    if state.guest == Guest::Stopped {
        return;
    }
    state.guest = Guest::Stopped;
    out.push(SourceEffect::Halt { epoch });
    out.push(SourceEffect::Finish(SourceOutcome::Lost {
        reason: format!(
            "it was forced to stay here under epoch {}, but lives on elsewhere under epoch {epoch}",
            state.epoch
        ),
    }));
}
