//! Up to the grant: the VM runs here, or will again.
//!
//! The happy path reads from top to bottom in [`Source::step`]; whatever else can happen before
//! the grant is decided in one place, [`Source::before_grant`], and ends with the VM running here.

use std::mem;

use super::super::Ignored;
use super::super::message::Body;
use super::effects::{finish_here, ignore};
use super::state::Event::{self, Did, Heard};
use super::state::{Effects, Granting, State};
use super::{Record, Source, SourceEffect, SourceInput, SourceInput as Input, Why};

#[cfg(test)]
use super::super::Mutant;

impl Source {
    /// Takes one input and returns what is to be done about it, in order.
    pub(crate) fn handle(&mut self, input: SourceInput) -> Vec<SourceEffect> {
        let event = match self.admit(input) {
            Ok(event) => event,
            Err(ignored) => {
                self.stranger |= ignored == Ignored::Stranger;
                return vec![SourceEffect::Ignored(ignored)];
            }
        };
        match event {
            Did(Input::LinkLost) => (self.link, self.stranger) = (false, false),
            Did(Input::LinkUp) => (self.link, self.stranger) = (true, false),
            Heard(_) => self.stranger = false,
            Did(_) => {}
        }
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Stepping);
        self.state = self.step(state, event, &mut out);
        out
    }

    /// Lets in what is of this session and from the peer that answered.
    fn admit(&self, input: SourceInput) -> Result<Event, Ignored> {
        let Input::Received { from, message } = input else {
            return Ok(Did(input));
        };
        if message.session != self.session || message.epoch != self.epoch {
            return Err(Ignored::OtherSession);
        }
        if self.state.peer().is_some_and(|peer| peer != from) {
            return Err(Ignored::Stranger);
        }
        match message.body {
            Body::Prepared { ref node_uuid, .. } if *node_uuid != from => Err(Ignored::Stranger),
            body => Ok(Heard(body)),
        }
    }

    fn step(&mut self, state: State, event: Event, out: &mut Effects) -> State {
        match (state, event) {
            (State::Idle(prepare), Did(Input::Start)) => {
                self.send(Body::Prepare(prepare), out);
                State::Preparing
            }
            (
                State::Preparing,
                Heard(Body::Prepared {
                    node_uuid,
                    token,
                    channels,
                    handed,
                }),
            ) => {
                out.push(SourceEffect::Attach {
                    token,
                    channels,
                    handed,
                });
                State::Attaching { peer: node_uuid }
            }
            (State::Preparing, Heard(Body::Unfit { reasons })) => {
                finish_here(None, Why::Unfit(reasons), out)
            }
            (State::Attaching { peer }, Did(Input::Attached)) => {
                out.push(SourceEffect::Copy);
                State::Copying { peer }
            }
            (State::Copying { peer }, Did(Input::Converged)) => {
                out.push(SourceEffect::Pause);
                State::Pausing { peer }
            }
            (State::Pausing { peer }, Did(Input::Paused)) => {
                out.push(SourceEffect::SendState);
                #[cfg(test)]
                if self.mutant == Some(Mutant::GrantsBeforeReady) {
                    return State::Sending { peer, ready: true };
                }
                State::Sending { peer, ready: false }
            }
            (State::Sending { peer, .. }, Heard(Body::Ready)) => {
                State::Sending { peer, ready: true }
            }
            (State::Sending { peer, ready: false }, Did(Input::StateSent)) => {
                State::AwaitingReady { peer }
            }
            (State::Sending { peer, ready: true }, Did(Input::StateSent))
            | (State::AwaitingReady { peer }, Heard(Body::Ready)) => self.grant(peer, out),
            (state, Did(Input::Force)) => self.force(state, out),
            (State::Granting(state), event) => self.granting(state, event, out),
            (State::Doubtful(state), event) => self.doubtful(state, event, out),
            (State::Granted(state), event) => self.granted(state, event, out),
            (State::TakingBack(state), event) => self.taking_back(state, event, out),
            (State::Releasing(state), event) => self.releasing(state, event, out),
            (State::Forcing(state), event) => self.forcing(state, event, out),
            (State::Forced(state), event) => self.forced(state, event, out),
            (State::Undoing { peer, why }, event) => self.undoing(peer, why, event, out),
            (State::Stayed { peer }, event) => {
                self.stayed(&event, out);
                State::Stayed { peer }
            }
            (State::Moved { peer }, event) => {
                self.moved(&event, out);
                State::Moved { peer }
            }
            (state, event) => self.before_grant(state, event, out),
        }
    }

    /// Everything that is not the next step, before the grant: the VM goes on running here.
    fn before_grant(&mut self, state: State, event: Event, out: &mut Effects) -> State {
        let why = match event {
            Heard(Body::Resolve) => {
                self.send(Body::Undecided, out);
                return state;
            }
            // Delivered twice.
            Heard(Body::Prepared { .. }) if state.peer().is_some() => {
                ignore(&event, out);
                return state;
            }
            Did(Input::LinkUp) => return state,
            // Whoever offers it, this copy is not given up before it is granted.
            Did(Input::Outlived { .. }) => {
                ignore(&event, out);
                return state;
            }
            Did(Input::Cancel) => Why::Cancelled,
            Did(Input::LimitPassed) if state.pausing() => Why::DowntimeLimit,
            Did(Input::LinkLost) => Why::Failed("the link to the destination was lost".into()),
            Did(Input::Failed(reason)) | Heard(Body::Failed { reason }) => Why::Failed(reason),
            Heard(Body::Refused { reason }) => Why::Refused(reason),
            violation => Why::Failed(format!(
                "protocol violation: `{}` does not belong to {}",
                violation.name(),
                state.name()
            )),
        };
        if !matches!(state, State::Idle(_) | State::Preparing) {
            out.push(SourceEffect::StopCopy);
        }
        if !matches!(state, State::Idle(_)) {
            self.send(
                Body::Abort {
                    reason: why.to_string(),
                },
                out,
            );
        }
        let peer = state.peer().map(str::to_owned);
        if state.pausing() {
            out.push(SourceEffect::Resume);
            State::Undoing { peer, why }
        } else {
            finish_here(peer, why, out)
        }
    }

    /// The point after which this node never resumes the VM on its own word.
    fn grant(&mut self, peer: String, out: &mut Effects) -> State {
        out.push(SourceEffect::Persist(Record::Granted {
            epoch: self.epoch,
            destination_uuid: peer.clone(),
        }));
        #[cfg(test)]
        if self.mutant == Some(Mutant::CommitsBeforeDurable) {
            self.send(Body::Commit, out);
        }
        State::Granting(Granting {
            peer,
            revoking: false,
            refused: None,
        })
    }
}
