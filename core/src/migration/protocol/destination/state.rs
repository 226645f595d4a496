//! The destination's rules.
//!
//! The happy path reads from top to bottom in [`Destination::step`]; whatever else can happen
//! before READY is decided in one place, [`Destination::before_ready`], and ends with nothing kept.
//! After READY the VM waits for the source's word, and leaves only by one of two durable verdicts
//! or by the source's word that nothing was granted.

use std::mem;

use super::super::Ignored;
use super::super::message::{Body, Message};
use super::{
    Destination, DestinationEffect, DestinationInput, DestinationOutcome, DiscardReason, Verdict,
};

#[cfg(test)]
use super::super::Mutant;

type Effects = Vec<DestinationEffect>;

/// Where the destination stands. The picture is in the documentation of the protocol's module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// No offer yet.
    Idle,
    /// The fit is being checked, the VM created.
    Building,
    /// Pages and state are coming in.
    Receiving,
    /// The state is being loaded.
    Loading,
    /// READY is said. Nothing has run, nothing is locked.
    Ready,
    /// The source has granted; disks are being locked.
    Locking,
    /// TAKEN is being written. `asked` when a REVOKE came meanwhile.
    Taking { asked: bool },
    /// TAKEN is durable.
    Taken(Taken),
    /// REFUSED is being written.
    Refusing(Refusing),
    /// REFUSED is durable, or was and is forgotten.
    Refused(Refused),
    /// There is nothing here and no verdict: nothing was granted, as far as is known here.
    Gone { reason: String },
    /// Stands in while a step is computed.
    Stepping,
}

/// See [`State::Taken`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Taken {
    guest: Guest,
    /// The source has it in its store too: DONE.
    settled: bool,
}

/// What became of a VM that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guest {
    Starting,
    Running,
    /// It did not start, or this node was restarted.
    Failed,
}

/// See [`State::Refusing`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refusing {
    reason: String,
    /// Whether there is a VM to be discarded.
    vm: bool,
    /// Whether REFUSED is being written, or waits for the next time to try.
    writing: bool,
}

/// See [`State::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refused {
    reason: String,
    /// The source has it in its store too: DONE.
    settled: bool,
}

/// An input that was let in: of this session, from its source.
enum Event {
    Heard(Body),
    Did(DestinationInput),
}

use DestinationInput as Input;
use Event::{Did, Heard};

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Heard(body) => body.operation(),
            Did(input) => input.name(),
        }
    }
}

impl State {
    pub(super) fn recovered(verdict: Option<&Verdict>) -> Self {
        match verdict {
            Some(Verdict::Taken { .. }) => Self::Taken(Taken {
                guest: Guest::Failed,
                settled: false,
            }),
            Some(Verdict::Refused { .. }) => Self::Refused(Refused {
                reason: "it was refused before the destination restarted".into(),
                settled: false,
            }),
            Some(Verdict::Forget) | None => Self::Gone {
                reason: "the destination knows no such VM any more".into(),
            },
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Idle => "a session not begun",
            Self::Building => "building",
            Self::Receiving => "receiving",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Locking => "locking",
            Self::Taking { .. } => "taking",
            Self::Taken(_) => "taken",
            Self::Refusing(_) => "refusing",
            Self::Refused(_) => "refused",
            Self::Gone { .. } => "a discarded VM",
            Self::Stepping => "a step",
        }
    }
}

impl Destination {
    /// Takes one input and returns what is to be done about it, in order.
    pub(crate) fn handle(&mut self, input: DestinationInput) -> Vec<DestinationEffect> {
        let event = match self.admit(input) {
            Ok(event) => event,
            Err(ignored) => return vec![DestinationEffect::Ignored(ignored)],
        };
        match event {
            Did(Input::LinkLost) => self.link = false,
            Did(Input::LinkUp) => self.link = true,
            _ => {}
        }
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Stepping);
        self.state = self.step(state, event, &mut out);
        out
    }

    /// Lets in what is of this session and from its source.
    fn admit(&self, input: DestinationInput) -> Result<Event, Ignored> {
        let Input::Received { from, message } = input else {
            return Ok(Did(input));
        };
        if message.session != self.session || message.epoch != self.epoch {
            return Err(Ignored::OtherSession);
        }
        if from != self.source_uuid {
            return Err(Ignored::Stranger);
        }
        match message.body {
            Body::Prepare(ref offer) if offer.source_uuid != from => Err(Ignored::Stranger),
            body => Ok(Heard(body)),
        }
    }

    fn step(&mut self, state: State, event: Event, out: &mut Effects) -> State {
        match (state, event) {
            (State::Idle, Heard(Body::Prepare(offer))) => {
                out.push(DestinationEffect::Build(offer));
                State::Building
            }
            // A repeated offer gets its first answer, whatever has become of the VM since.
            (state, Heard(Body::Prepare(_))) => {
                self.answer_again(&state, out);
                state
            }
            (State::Building, Did(Input::Built { token, channels })) => {
                out.push(DestinationEffect::Receive);
                self.answer(
                    Body::Prepared {
                        node_uuid: self.node_uuid.clone(),
                        token,
                        channels,
                    },
                    out,
                );
                State::Receiving
            }
            (State::Building, Did(Input::Unfit(reasons))) => {
                self.answer(
                    Body::Unfit {
                        reasons: reasons.clone(),
                    },
                    out,
                );
                gone(DiscardReason::Unfit(reasons), out)
            }
            (State::Receiving, Did(Input::StateReceived)) => {
                out.push(DestinationEffect::Load);
                State::Loading
            }
            (State::Loading, Did(Input::Loaded)) => {
                self.send(Body::Ready, out);
                out.push(DestinationEffect::AskLater);
                State::Ready
            }
            (State::Ready, Heard(Body::Commit)) => {
                #[cfg(test)]
                if self.mutant == Some(Mutant::TakesWithoutLock) {
                    self.persist(Verdict::Taken { epoch: self.epoch }, out);
                    return State::Taking { asked: false };
                }
                out.push(DestinationEffect::Lock);
                State::Locking
            }
            (State::Locking, Did(Input::Locked)) => {
                self.persist(Verdict::Taken { epoch: self.epoch }, out);
                #[cfg(test)]
                if self.mutant == Some(Mutant::RunsBeforeTaken) {
                    out.push(DestinationEffect::Run);
                }
                State::Taking { asked: false }
            }
            (State::Taking { asked }, event) => self.taking(asked, &event, out),
            (State::Taken(state), event) => self.taken(state, event, out),
            (State::Ready, event) => self.ready(event, out),
            (State::Locking, event) => self.locking(event, out),
            (State::Refusing(state), event) => self.refusing(state, &event, out),
            (State::Refused(state), event) => self.refused(state, &event, out),
            (State::Gone { reason }, event) => self.gone(reason, &event, out),
            (state, event) => self.before_ready(&state, event, out),
        }
    }

    /// Everything that is not the next step, before READY: nothing is kept.
    fn before_ready(&mut self, state: &State, event: Event, out: &mut Effects) -> State {
        let vm = !matches!(state, State::Idle);
        let (why, told) = match event {
            // Only who has granted says these, and who has granted had READY: so that copy was
            // lost, and this is another.
            Heard(Body::Commit | Body::Revoke | Body::Resolve) => {
                return self.refuse("the copy that was ready is lost".into(), vm, out);
            }
            Did(Input::LinkUp) => return state.clone(),
            Heard(Body::Abort { reason }) => (DiscardReason::Aborted(reason), None),
            Heard(Body::Aborted) => (DiscardReason::Aborted("never granted".into()), None),
            Did(Input::LinkLost) => (
                DiscardReason::Failed("the link to the source was lost".into()),
                None,
            ),
            Did(Input::Shutdown) => (
                DiscardReason::Shutdown,
                Some("the destination is shutting down".into()),
            ),
            Did(Input::ReceiveFailed(reason) | Input::LoadFailed(reason)) => {
                (DiscardReason::Failed(reason.clone()), Some(reason))
            }
            violation => {
                let reason = format!(
                    "protocol violation: `{}` does not belong to {}",
                    violation.name(),
                    state.name()
                );
                (DiscardReason::Failed(reason.clone()), Some(reason))
            }
        };
        if vm {
            out.push(DestinationEffect::Discard);
        }
        if let Some(reason) = told {
            let body = Body::Failed { reason };
            if self.answer.is_none() {
                self.answer(body, out);
            } else {
                self.send(body, out);
            }
        }
        gone(why, out)
    }

    /// Loaded, and waiting for the source's word.
    fn ready(&mut self, event: Event, out: &mut Effects) -> State {
        match event {
            Heard(Body::Resolve) => self.send(Body::Pending, out),
            Heard(Body::Revoke) => {
                return self.refuse("the source revoked the grant".into(), true, out);
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
    fn locking(&mut self, event: Event, out: &mut Effects) -> State {
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
            Did(Input::Shutdown) => {
                return self.refuse("the destination is shutting down".into(), true, out);
            }
            Heard(Body::Resolve) => self.send(Body::Pending, out),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(&other, out),
        }
        State::Locking
    }

    fn taking(&mut self, asked: bool, event: &Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Persisted) => {
                if asked {
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
            Heard(Body::Revoke) => return State::Taking { asked: true },
            Heard(Body::Resolve) => self.send(Body::Pending, out),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(other, out),
        }
        State::Taking { asked }
    }

    fn taken(&mut self, mut state: Taken, event: Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Ran) if state.guest == Guest::Starting => {
                state.guest = Guest::Running;
                out.push(DestinationEffect::Finish(DestinationOutcome::Running));
                self.repeat(&state, out);
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

    fn refuse(&mut self, reason: String, vm: bool, out: &mut Effects) -> State {
        self.persist(Verdict::Refused { epoch: self.epoch }, out);
        State::Refusing(Refusing {
            reason,
            vm,
            writing: true,
        })
    }

    fn refusing(&mut self, mut state: Refusing, event: &Event, out: &mut Effects) -> State {
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

    fn refused(&mut self, mut state: Refused, event: &Event, out: &mut Effects) -> State {
        match event {
            Heard(Body::Commit | Body::Revoke | Body::Resolve) => {
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
    fn gone(&mut self, reason: String, event: &Event, out: &mut Effects) -> State {
        match event {
            Heard(Body::Commit | Body::Revoke | Body::Resolve) => {
                return self.refuse(reason, false, out);
            }
            Did(Input::LinkUp | Input::LinkLost | Input::Ask | Input::Shutdown) => {}
            other => ignore(other, out),
        }
        State::Gone { reason }
    }

    fn answer(&mut self, body: Body, out: &mut Effects) {
        self.answer = Some(body.clone());
        self.send(body, out);
    }

    fn answer_again(&self, state: &State, out: &mut Effects) {
        match (&self.answer, state) {
            (Some(answer), _) => self.send(answer.clone(), out),
            // The answer is on its way.
            (None, State::Building) => {}
            (None, _) => self.send(
                Body::Failed {
                    reason: "this epoch was used before".into(),
                },
                out,
            ),
        }
    }

    fn persist(&self, verdict: Verdict, out: &mut Effects) {
        out.push(DestinationEffect::Persist(verdict));
    }

    fn send(&self, body: Body, out: &mut Effects) {
        if self.link {
            out.push(DestinationEffect::Send(Message {
                session: self.session.clone(),
                epoch: self.epoch,
                body,
            }));
        }
    }
}

impl Guest {
    /// What the source is told of it.
    fn verdict(self) -> Body {
        match self {
            Self::Running => Body::Running,
            Self::Starting | Self::Failed => Body::Taken,
        }
    }
}

fn gone(why: DiscardReason, out: &mut Effects) -> State {
    let reason = format!("the copy was discarded: {why}");
    out.push(DestinationEffect::Finish(DestinationOutcome::Discarded {
        why,
    }));
    State::Gone { reason }
}

/// The verdict could not be removed: it is said again, and so DONE comes again.
fn not_forgotten(out: &mut Effects) -> bool {
    out.push(DestinationEffect::AskLater);
    false
}

fn ignore(event: &Event, out: &mut Effects) {
    out.push(DestinationEffect::Ignored(Ignored::OutOfPlace(
        event.name(),
    )));
}
