//! Up to READY: nothing has run and nothing need be kept.
//!
//! The happy path reads from top to bottom in [`Destination::step`]; whatever else can happen
//! before READY is decided in one place, [`Destination::before_ready`], and ends with nothing kept.

use std::mem;

use super::super::Ignored;
use super::super::message::Body;
use super::effects::gone;
use super::state::Event::{self, Did, Heard};
use super::state::{Effects, State, Taking};
use super::{
    Destination, DestinationEffect, DestinationInput, DestinationInput as Input, DiscardReason,
    Verdict,
};

#[cfg(test)]
use super::super::Mutant;

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
            (
                State::Building,
                Did(Input::Built {
                    token,
                    channels,
                    handed,
                }),
            ) => {
                out.push(DestinationEffect::Receive);
                self.answer(
                    Body::Prepared {
                        node_uuid: self.node_uuid.clone(),
                        token,
                        channels,
                        handed,
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
                    return State::Taking(Taking::default());
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
                State::Taking(Taking::default())
            }
            (State::Taking(state), event) => self.taking(state, &event, out),
            (State::Yielding(state), event) => self.yielding(state, &event, out),
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
            Heard(Body::Commit | Body::Revoke | Body::Resolve | Body::Superseded { .. }) => {
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
}
