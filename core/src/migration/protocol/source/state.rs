//! The source's rules.
//!
//! The happy path reads from top to bottom in [`Source::step`]; whatever else can happen before
//! the grant is decided in one place, [`Source::before_grant`], and ends with the VM running here.
//! After the grant each phase has its own function, and none of them ends in `Resume` but through
//! [`Source::take_back`] or a durable abort.

use std::mem;

use super::super::Ignored;
use super::super::message::{Body, Message, Prepare};
use super::{Record, Source, SourceEffect, SourceInput, SourceOutcome, Why};

#[cfg(test)]
use super::super::Mutant;

type Effects = Vec<SourceEffect>;

/// Where the source stands. The picture is in the documentation of the protocol's module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Not begun; holds what will be offered.
    Idle(Box<Prepare>),
    /// The offer is out.
    Preparing,
    /// Bulk channels are being opened. The VM runs here.
    Attaching { peer: String },
    /// Rounds of pre-copy. The VM runs here.
    Copying { peer: String },
    /// The vCPUs are being stopped.
    Pausing { peer: String },
    /// Last pages and state are on their way; `ready` when the answer overtook the report.
    Sending { peer: String, ready: bool },
    /// All is sent.
    AwaitingReady { peer: String },
    /// GRANT is being written. From here on only the destination can give the VM back.
    Granting(Granting),
    /// GRANT's write failed: granted or not, until ABORTED is durable.
    Doubtful(Doubtful),
    /// GRANT is durable.
    Granted(Granted),
    /// The destination has refused; MINE is being written.
    TakingBack(TakingBack),
    /// The destination has taken; RELEASED is being written.
    Releasing(Releasing),
    /// Not granted, or no more; the vCPUs are being started again.
    Undoing { peer: Option<String>, why: Why },
    /// The VM is this node's.
    Stayed { peer: Option<String> },
    /// The VM is the destination's.
    Moved { peer: String },
    /// Stands in while a step is computed.
    Stepping,
}

/// See [`State::Granting`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Granting {
    peer: String,
    /// The limit has passed: COMMIT will not be sent.
    revoking: bool,
    /// The destination's refusal, when it came while the store was writing.
    refused: Option<String>,
}

/// See [`State::Doubtful`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Doubtful {
    peer: String,
    revoking: bool,
    refused: Option<String>,
    /// Whether ABORTED is being written, or waits for the next time to try.
    writing: bool,
}

/// See [`State::Granted`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Granted {
    peer: String,
    /// The limit has passed: the destination is asked to refuse, not to take.
    revoking: bool,
}

/// See [`State::TakingBack`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TakingBack {
    peer: String,
    why: Why,
    /// Whether MINE is being written, or waits for the next time to try.
    writing: bool,
}

/// See [`State::Releasing`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Releasing {
    peer: String,
    /// Whether RELEASED is being written, or waits for the next time to try.
    writing: bool,
}

/// An input that was let in: of this session, from the right peer.
enum Event {
    Heard(Body),
    Did(SourceInput),
}

use Event::{Did, Heard};
use SourceInput as Input;

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Heard(body) => body.operation(),
            Did(input) => input.name(),
        }
    }
}

impl State {
    pub(super) fn recovered(record: Option<Record>) -> Self {
        match record {
            Some(Record::Granted {
                destination_uuid, ..
            }) => Self::Granted(Granted {
                peer: destination_uuid,
                revoking: false,
            }),
            Some(Record::Released { node_uuid, .. }) => Self::Moved { peer: node_uuid },
            Some(Record::Mine { .. } | Record::Aborted { .. }) | None => {
                Self::Stayed { peer: None }
            }
        }
    }

    /// The store whose messages count; nobody's is settled before PREPARED.
    fn peer(&self) -> Option<&str> {
        match self {
            Self::Idle(_) | Self::Preparing | Self::Stepping => None,
            Self::Undoing { peer, .. } | Self::Stayed { peer } => peer.as_deref(),
            Self::Attaching { peer }
            | Self::Copying { peer }
            | Self::Pausing { peer }
            | Self::Sending { peer, .. }
            | Self::AwaitingReady { peer }
            | Self::Granting(Granting { peer, .. })
            | Self::Doubtful(Doubtful { peer, .. })
            | Self::Granted(Granted { peer, .. })
            | Self::TakingBack(TakingBack { peer, .. })
            | Self::Releasing(Releasing { peer, .. })
            | Self::Moved { peer } => Some(peer),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Idle(_) => "a migration not begun",
            Self::Preparing => "preparing",
            Self::Attaching { .. } => "attaching",
            Self::Copying { .. } => "copying",
            Self::Pausing { .. } => "pausing",
            Self::Sending { .. } => "sending the state",
            Self::AwaitingReady { .. } => "awaiting ready",
            Self::Granting(_) => "granting",
            Self::Doubtful(_) => "a doubtful grant",
            Self::Granted(_) => "granted",
            Self::TakingBack(_) => "taking back",
            Self::Releasing(_) => "releasing",
            Self::Undoing { .. } => "undoing",
            Self::Stayed { .. } => "stayed",
            Self::Moved { .. } => "moved",
            Self::Stepping => "a step",
        }
    }

    /// Whether the vCPUs are stopped, or being stopped, and nothing is granted.
    fn pausing(&self) -> bool {
        matches!(
            self,
            Self::Pausing { .. } | Self::Sending { .. } | Self::AwaitingReady { .. }
        )
    }
}

impl Source {
    /// Takes one input and returns what is to be done about it, in order.
    pub(crate) fn handle(&mut self, input: SourceInput) -> Vec<SourceEffect> {
        let event = match self.admit(input) {
            Ok(event) => event,
            Err(ignored) => return vec![SourceEffect::Ignored(ignored)],
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
                }),
            ) => {
                out.push(SourceEffect::Attach { token, channels });
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
            (State::Granting(state), event) => self.granting(state, event, out),
            (State::Doubtful(state), event) => self.doubtful(state, event, out),
            (State::Granted(state), event) => self.granted(state, event, out),
            (State::TakingBack(state), event) => self.taking_back(state, event, out),
            (State::Releasing(state), event) => self.releasing(state, event, out),
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

    fn granting(&mut self, mut state: Granting, event: Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Persisted) => {
                if let Some(reason) = state.refused {
                    return self.take_back(state.peer, state.revoking, reason, out);
                }
                if !state.revoking {
                    out.push(SourceEffect::Unlock);
                    self.send(Body::Commit, out);
                }
                out.push(SourceEffect::AskLater);
                return State::Granted(Granted {
                    peer: state.peer,
                    revoking: state.revoking,
                });
            }
            Did(Input::PersistFailed) => {
                if let Some(reason) = state.refused {
                    return self.take_back(state.peer, state.revoking, reason, out);
                }
                self.persist_aborted(out);
                return State::Doubtful(Doubtful {
                    peer: state.peer,
                    revoking: state.revoking,
                    refused: None,
                    writing: true,
                });
            }
            Heard(Body::Refused { reason }) => state.refused = Some(reason),
            Heard(Body::Resolve) => self.send(undecided(state.revoking), out),
            Did(Input::LimitPassed) => self.revoke(&mut state.revoking, out),
            Did(Input::LinkUp) if state.revoking => self.send(Body::Revoke, out),
            Did(Input::LinkUp | Input::LinkLost) => {}
            Did(Input::Cancel) => out.push(SourceEffect::CancelRefused),
            other => ignore(&other, out),
        }
        State::Granting(state)
    }

    fn doubtful(&mut self, mut state: Doubtful, event: Event, out: &mut Effects) -> State {
        match event {
            // COMMIT was never sent and never will be: ABORTED settles it as well as a refusal.
            Did(Input::Persisted) if state.writing => {
                let why = match state.refused {
                    _ if state.revoking => Why::DowntimeLimit,
                    Some(reason) => Why::Refused(reason),
                    None => Why::Failed("the grant could not be written".into()),
                };
                out.push(SourceEffect::StopCopy);
                self.send(
                    Body::Abort {
                        reason: why.to_string(),
                    },
                    out,
                );
                out.push(SourceEffect::Resume);
                return State::Undoing {
                    peer: Some(state.peer),
                    why,
                };
            }
            Did(Input::PersistFailed) if state.writing => {
                if let Some(reason) = state.refused {
                    return self.take_back(state.peer, state.revoking, reason, out);
                }
                state.writing = false;
                self.tell_unresolved(out);
                out.push(SourceEffect::AskLater);
            }
            Heard(Body::Refused { reason }) => {
                if !state.writing {
                    return self.take_back(state.peer, state.revoking, reason, out);
                }
                state.refused = Some(reason);
            }
            Did(Input::Ask) => {
                if !state.writing {
                    state.writing = true;
                    self.persist_aborted(out);
                }
            }
            Heard(Body::Resolve) => self.send(undecided(state.revoking), out),
            Did(Input::LimitPassed) => self.revoke(&mut state.revoking, out),
            Did(Input::LinkUp) if state.revoking => self.send(Body::Revoke, out),
            Did(Input::LinkUp | Input::LinkLost) => {}
            Did(Input::Cancel) => out.push(SourceEffect::CancelRefused),
            other => ignore(&other, out),
        }
        State::Doubtful(state)
    }

    fn granted(&mut self, mut state: Granted, event: Event, out: &mut Effects) -> State {
        match event {
            Heard(Body::Running | Body::Taken) => {
                self.persist_released(&state.peer, out);
                return State::Releasing(Releasing {
                    peer: state.peer,
                    writing: true,
                });
            }
            Heard(Body::Refused { reason }) => {
                return self.take_back(state.peer, state.revoking, reason, out);
            }
            Heard(Body::Resolve | Body::Pending) if state.revoking => {
                self.send(Body::Revoke, out);
            }
            Heard(Body::Resolve | Body::Pending) => self.send(Body::Commit, out),
            Did(Input::LimitPassed) => {
                self.revoke(&mut state.revoking, out);
                #[cfg(test)]
                if self.mutant == Some(Mutant::ResumesOnRevoke) {
                    out.push(SourceEffect::Resume);
                    return State::Undoing {
                        peer: Some(state.peer),
                        why: Why::DowntimeLimit,
                    };
                }
            }
            Did(Input::LinkLost) => {
                #[cfg(test)]
                if self.mutant == Some(Mutant::ResumesOnLinkLost) {
                    out.push(SourceEffect::Resume);
                    return State::Undoing {
                        peer: Some(state.peer),
                        why: Why::Cancelled,
                    };
                }
                out.push(SourceEffect::AskLater);
            }
            Did(Input::LinkUp | Input::Ask) => {
                if self.link {
                    self.send(
                        if state.revoking {
                            Body::Revoke
                        } else {
                            Body::Resolve
                        },
                        out,
                    );
                } else {
                    self.tell_unresolved(out);
                }
                out.push(SourceEffect::AskLater);
            }
            Did(Input::Cancel) => out.push(SourceEffect::CancelRefused),
            other => ignore(&other, out),
        }
        State::Granted(state)
    }

    /// The only way back after the grant: the refusal is in hand, MINE is written next.
    fn take_back(
        &mut self,
        peer: String,
        revoking: bool,
        reason: String,
        out: &mut Effects,
    ) -> State {
        let why = if revoking {
            Why::DowntimeLimit
        } else {
            Why::Refused(reason)
        };
        #[cfg(test)]
        if self.mutant == Some(Mutant::ResumesBeforeMine) {
            out.push(SourceEffect::Resume);
            return State::Undoing {
                peer: Some(peer),
                why,
            };
        }
        self.persist_mine(out);
        State::TakingBack(TakingBack {
            peer,
            why,
            writing: true,
        })
    }

    fn taking_back(&mut self, mut state: TakingBack, event: Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Persisted) if state.writing => {
                let peer = Some(state.peer);
                if !self.alive {
                    self.send(Body::Done, out);
                    out.push(SourceEffect::Finish(SourceOutcome::Lost {
                        reason: format!(
                            "the source restarted in the hand-over, then {}",
                            state.why
                        ),
                    }));
                    return State::Stayed { peer };
                }
                out.push(SourceEffect::StopCopy);
                out.push(SourceEffect::Resume);
                self.send(Body::Done, out);
                return State::Undoing {
                    peer,
                    why: state.why,
                };
            }
            Did(Input::PersistFailed) if state.writing => {
                state.writing = false;
                self.tell_unresolved(out);
                out.push(SourceEffect::AskLater);
            }
            Did(Input::Ask) => {
                if !state.writing {
                    state.writing = true;
                    self.persist_mine(out);
                }
            }
            Did(Input::LinkUp | Input::LinkLost) => {}
            Did(Input::Cancel) => out.push(SourceEffect::CancelRefused),
            other => ignore(&other, out),
        }
        State::TakingBack(state)
    }

    fn releasing(&mut self, mut state: Releasing, event: Event, out: &mut Effects) -> State {
        match event {
            Did(Input::Persisted) if state.writing => {
                out.push(SourceEffect::Release);
                self.send(Body::Done, out);
                out.push(SourceEffect::Finish(SourceOutcome::Moved {
                    node_uuid: state.peer.clone(),
                }));
                return State::Moved { peer: state.peer };
            }
            Did(Input::PersistFailed) if state.writing => {
                state.writing = false;
                out.push(SourceEffect::AskLater);
            }
            Did(Input::Ask) => {
                if !state.writing {
                    state.writing = true;
                    self.persist_released(&state.peer, out);
                }
            }
            Did(Input::LinkUp | Input::LinkLost) => {}
            Did(Input::Cancel) => out.push(SourceEffect::CancelRefused),
            other => ignore(&other, out),
        }
        State::Releasing(state)
    }

    fn undoing(
        &mut self,
        peer: Option<String>,
        why: Why,
        event: Event,
        out: &mut Effects,
    ) -> State {
        match event {
            Did(Input::Resumed) => finish_here(peer, why, out),
            Did(Input::Failed(reason)) => {
                out.push(SourceEffect::Finish(SourceOutcome::Lost { reason }));
                State::Stayed { peer }
            }
            event => {
                self.stayed(&event, out);
                State::Undoing { peer, why }
            }
        }
    }

    /// What a source answers whose VM stayed.
    fn stayed(&self, event: &Event, out: &mut Effects) {
        match event {
            Heard(Body::Resolve) => self.send(Body::Aborted, out),
            Heard(Body::Refused { .. }) => self.send(Body::Done, out),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(other, out),
        }
    }

    /// What a source answers whose VM has gone. A refusal can only be of one who has forgotten.
    fn moved(&self, event: &Event, out: &mut Effects) {
        match event {
            Heard(Body::Resolve | Body::Running | Body::Taken | Body::Refused { .. }) => {
                self.send(Body::Done, out);
            }
            Did(Input::Cancel) => out.push(SourceEffect::CancelRefused),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(other, out),
        }
    }

    fn revoke(&mut self, revoking: &mut bool, out: &mut Effects) {
        *revoking = true;
        self.send(Body::Revoke, out);
        if !self.link {
            self.tell_unresolved(out);
        }
    }

    fn send(&self, body: Body, out: &mut Effects) {
        if self.link {
            out.push(SourceEffect::Send(Message {
                session: self.session.clone(),
                epoch: self.epoch,
                body,
            }));
        }
    }

    fn tell_unresolved(&mut self, out: &mut Effects) {
        if !self.told {
            self.told = true;
            out.push(SourceEffect::Finish(SourceOutcome::Unresolved));
        }
    }

    fn persist_aborted(&self, out: &mut Effects) {
        out.push(SourceEffect::Persist(Record::Aborted { epoch: self.epoch }));
    }

    fn persist_mine(&self, out: &mut Effects) {
        let epoch = self.epoch.saturating_add(1);
        out.push(SourceEffect::Persist(Record::Mine { epoch }));
    }

    fn persist_released(&self, peer: &str, out: &mut Effects) {
        out.push(SourceEffect::Persist(Record::Released {
            epoch: self.epoch,
            node_uuid: peer.to_owned(),
        }));
    }
}

/// What a destination that asks is told before the grant is durable.
fn undecided(revoking: bool) -> Body {
    if revoking {
        Body::Revoke
    } else {
        Body::Undecided
    }
}

fn finish_here(peer: Option<String>, why: Why, out: &mut Effects) -> State {
    out.push(SourceEffect::Finish(SourceOutcome::StayedHere { why }));
    State::Stayed { peer }
}

fn ignore(event: &Event, out: &mut Effects) {
    out.push(SourceEffect::Ignored(Ignored::OutOfPlace(event.name())));
}
