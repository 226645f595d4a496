//! From READY on: the VM waits for the source's word.
//!
//! It leaves only by one of two durable verdicts, or by the source's word that nothing was granted.

use super::super::message::Body;
use super::effects::{gone, ignore, not_forgotten};
use super::state::Event::{self, Did, Heard};
use super::state::{Effects, Guest, Refused, Refusing, State, Taken, Taking};
use super::{
    Destination, DestinationEffect, DestinationInput as Input, DestinationOutcome, DiscardReason,
    Verdict,
};

#[cfg(test)]
use super::super::Mutant;

/// Why a copy is refused whose source was forced.
const FORCED: &str = "an operator forced the VM to stay on the source";
/// A VM that was taken and did not run.
const NOT_STARTED: Taken = Taken {
    guest: Guest::Starting,
    settled: false,
};

impl Destination {
    /// Loaded, and waiting for the source's word.
    pub(super) fn ready(&mut self, event: Event, out: &mut Effects) -> State {
        match event {
            Heard(Body::Resolve) => self.send(Body::Pending, out),
            Heard(Body::Revoke) => {
                #[cfg(test)]
                if self.mutant == Some(Mutant::RefusesWithoutFence) {
                    let reason = "the source revoked the grant".into();
                    self.send(Body::Refused { reason }, out);
                    return State::Ready;
                }
                return self.refuse("the source revoked the grant".into(), true, out);
            }
            Heard(Body::Superseded { .. }) => {
                return self.refuse(FORCED.into(), true, out);
            }
            Did(Input::Shutdown) => {
                return self.refuse("the destination is shutting down".into(), true, out);
            }
            Heard(Body::Abort { reason }) => {
                out.push(DestinationEffect::Discard);
                return gone(DiscardReason::Aborted(reason), out);
            }
            Heard(Body::Aborted) => {
                out.push(DestinationEffect::Discard);
                return gone(DiscardReason::Aborted("never granted".into()), out);
            }
            // Our READY may have been lost.
            Heard(Body::Undecided) => self.send(Body::Ready, out),
            Did(Input::LinkLost) => out.push(DestinationEffect::AskLater),
            Did(Input::LinkUp | Input::Ask) => {
                self.send(Body::Resolve, out);
                out.push(DestinationEffect::AskLater);
            }
            other => ignore(&other, out),
        }
        State::Ready
    }

    /// Granted to us; no verdict yet, and so either may still come first.
    pub(super) fn locking(&mut self, event: Event, out: &mut Effects) -> State {
        match event {
            Did(Input::LockFailed(reason)) => {
                return self.refuse(
                    format!("the disks could not be locked: {reason}"),
                    true,
                    out,
                );
            }
            Heard(Body::Revoke) => {
                return self.refuse("the source revoked the grant".into(), true, out);
            }
            Heard(Body::Superseded { .. }) => {
                return self.refuse(FORCED.into(), true, out);
            }
            Did(Input::Shutdown) => {
                return self.refuse("the destination is shutting down".into(), true, out);
            }
            Heard(Body::Resolve) => self.send(Body::Pending, out),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(&other, out),
        }
        State::Locking
    }

    pub(super) fn taking(&mut self, mut state: Taking, event: &Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Persisted) => {
                if let Some(by) = state.superseded {
                    return self.yield_to(by, NOT_STARTED, out);
                }
                if state.asked {
                    self.send(Body::Taken, out);
                }
                #[cfg(test)]
                if self.mutant == Some(Mutant::RunsBeforeTaken) {
                    return State::Taken(Taken {
                        guest: Guest::Starting,
                        settled: false,
                    });
                }
                out.push(DestinationEffect::Run);
                return State::Taken(Taken {
                    guest: Guest::Starting,
                    settled: false,
                });
            }
            // Nothing has run: the VM goes back, if at least that can be written.
            Did(Input::PersistFailed) => {
                return self.refuse("the verdict could not be written".into(), true, out);
            }
            Heard(Body::Revoke) => state.asked = true,
            Heard(Body::Superseded { epoch }) if *epoch > self.epoch => {
                state.superseded = Some(*epoch);
            }
            Heard(Body::Resolve) => self.send(Body::Pending, out),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(other, out),
        }
        State::Taking(state)
    }

    pub(super) fn taken(&mut self, mut state: Taken, event: Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Ran) if state.guest == Guest::Starting => {
                state.guest = Guest::Running;
                out.push(DestinationEffect::Finish(DestinationOutcome::Running));
                self.repeat(&state, out);
                #[cfg(test)]
                if self.mutant == Some(Mutant::ForgetsItsVerdict) {
                    state.settled = true;
                    self.persist(Verdict::Forget, out);
                }
            }
            Did(Input::RunFailed(reason)) if state.guest == Guest::Starting => {
                state.guest = Guest::Failed;
                out.push(DestinationEffect::Finish(DestinationOutcome::Lost {
                    reason,
                }));
                self.repeat(&state, out);
            }
            Heard(Body::Commit | Body::Revoke | Body::Resolve) => {
                self.send(state.guest.verdict(), out);
            }
            // Only a higher epoch takes a VM away.
            Heard(Body::Superseded { epoch }) if epoch > self.epoch => {
                return self.yield_to(epoch, state, out);
            }
            Heard(Body::Done) if !state.settled => {
                state.settled = true;
                self.persist(Verdict::Forget, out);
            }
            Did(Input::LinkUp | Input::Ask) => {
                if state.guest != Guest::Starting {
                    self.repeat(&state, out);
                }
            }
            Did(Input::LinkLost) => {}
            Did(Input::Persisted) if state.settled => {}
            Did(Input::PersistFailed) if state.settled => {
                state.settled = not_forgotten(out);
            }
            other => ignore(&other, out),
        }
        State::Taken(state)
    }

    /// Says the verdict until DONE.
    fn repeat(&self, state: &Taken, out: &mut Effects) {
        if !state.settled {
            self.send(state.guest.verdict(), out);
            out.push(DestinationEffect::AskLater);
        }
    }

    pub(super) fn refuse(&mut self, reason: String, vm: bool, out: &mut Effects) -> State {
        self.persist(Verdict::Refused { epoch: self.epoch }, out);
        State::Refusing(Refusing {
            reason,
            vm,
            writing: true,
        })
    }

    pub(super) fn refusing(
        &mut self,
        mut state: Refusing,
        event: &Event,
        out: &mut Effects,
    ) -> State {
        match event {
            Did(Input::Persisted) if state.writing => {
                #[cfg(test)]
                if self.mutant == Some(Mutant::ForgetsItsRefusal) {
                    self.send(
                        Body::Refused {
                            reason: state.reason,
                        },
                        out,
                    );
                    return State::Ready;
                }
                if state.vm {
                    out.push(DestinationEffect::Discard);
                }
                self.send(
                    Body::Refused {
                        reason: state.reason.clone(),
                    },
                    out,
                );
                out.push(DestinationEffect::AskLater);
                if state.vm {
                    out.push(DestinationEffect::Finish(DestinationOutcome::Discarded {
                        why: DiscardReason::Refused(state.reason.clone()),
                    }));
                }
                return State::Refused(Refused {
                    reason: state.reason,
                    settled: false,
                });
            }
            Did(Input::PersistFailed) if state.writing => {
                state.writing = false;
                out.push(DestinationEffect::AskLater);
            }
            Did(Input::Ask) => {
                if !state.writing {
                    state.writing = true;
                    self.persist(Verdict::Refused { epoch: self.epoch }, out);
                }
            }
            Heard(Body::Resolve) => self.send(Body::Pending, out),
            Did(Input::LinkUp | Input::LinkLost) => {}
            other => ignore(other, out),
        }
        State::Refusing(state)
    }

    pub(super) fn refused(
        &mut self,
        mut state: Refused,
        event: &Event,
        out: &mut Effects,
    ) -> State {
        match event {
            Heard(Body::Commit | Body::Revoke | Body::Resolve | Body::Superseded { .. }) => {
                self.send(
                    Body::Refused {
                        reason: state.reason.clone(),
                    },
                    out,
                );
            }
            Heard(Body::Done) if !state.settled => {
                state.settled = true;
                self.persist(Verdict::Forget, out);
            }
            Did(Input::LinkUp | Input::Ask) => {
                if !state.settled {
                    self.send(
                        Body::Refused {
                            reason: state.reason.clone(),
                        },
                        out,
                    );
                    out.push(DestinationEffect::AskLater);
                }
            }
            Did(Input::LinkLost) => {}
            Did(Input::Persisted) if state.settled => {}
            Did(Input::PersistFailed) if state.settled => {
                state.settled = not_forgotten(out);
            }
            other => ignore(other, out),
        }
        State::Refused(state)
    }

    /// Nothing is here. Who asks has granted what this node lost, and is told so, durably.
    pub(super) fn gone(&mut self, reason: String, event: &Event, out: &mut Effects) -> State {
        match event {
            Heard(Body::Commit | Body::Revoke | Body::Resolve | Body::Superseded { .. }) => {
                return self.refuse(reason, false, out);
            }
            Did(Input::LinkUp | Input::LinkLost | Input::Ask | Input::Shutdown) => {}
            other => ignore(other, out),
        }
        State::Gone { reason }
    }
}
