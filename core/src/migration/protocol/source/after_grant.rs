//! From the grant on: only the destination can give the VM back.
//!
//! Each phase has its own function, and none of them ends in `Resume` but [`Source::taking_back`],
//! with MINE durable, and [`Source::doubtful`], with ABORTED durable.

use super::super::message::Body;
use super::effects::{finish_here, ignore, undecided};
use super::state::Event::{self, Did, Heard};
use super::state::{Doubtful, Effects, Granted, Granting, Releasing, State, TakingBack};
use super::{Source, SourceEffect, SourceInput as Input, SourceOutcome, Why};

#[cfg(test)]
use super::super::Mutant;

impl Source {
    pub(super) fn granting(
        &mut self,
        mut state: Granting,
        event: Event,
        out: &mut Effects,
    ) -> State {
        match event {
            Did(Input::Persisted) => {
                if let Some(reason) = state.refused {
                    return self.take_back(state.peer, state.revoking, reason, out);
                }
                #[cfg(test)]
                if self.mutant == Some(Mutant::UnlocksAfterCommit) && !state.revoking {
                    self.send(Body::Commit, out);
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

    pub(super) fn doubtful(
        &mut self,
        mut state: Doubtful,
        event: Event,
        out: &mut Effects,
    ) -> State {
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

    pub(super) fn granted(&mut self, mut state: Granted, event: Event, out: &mut Effects) -> State {
        match event {
            #[cfg(test)]
            Heard(Body::Running) if self.mutant == Some(Mutant::RunningIsFailure) => {
                return self.take_back(state.peer, state.revoking, "it runs".into(), out);
            }
            // Whoever offers the VM under a later epoch has had it.
            Heard(Body::Running | Body::Taken) | Did(Input::Outlived { .. }) => {
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

    pub(super) fn taking_back(
        &mut self,
        mut state: TakingBack,
        event: Event,
        out: &mut Effects,
    ) -> State {
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

    pub(super) fn releasing(
        &mut self,
        mut state: Releasing,
        event: Event,
        out: &mut Effects,
    ) -> State {
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

    pub(super) fn undoing(
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
    pub(super) fn stayed(&self, event: &Event, out: &mut Effects) {
        match event {
            Heard(Body::Resolve) => self.send(Body::Aborted, out),
            Heard(Body::Refused { .. }) => self.send(Body::Done, out),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(other, out),
        }
    }

    /// What a source answers whose VM has gone. A refusal can only be of one who has forgotten.
    pub(super) fn moved(&self, event: &Event, out: &mut Effects) {
        match event {
            Heard(Body::Resolve | Body::Running | Body::Taken | Body::Refused { .. }) => {
                self.send(Body::Done, out);
            }
            Did(Input::Outlived { .. }) => {}
            Did(Input::Cancel) => out.push(SourceEffect::CancelRefused),
            Did(Input::LinkUp | Input::LinkLost | Input::Ask) => {}
            other => ignore(other, out),
        }
    }
}
