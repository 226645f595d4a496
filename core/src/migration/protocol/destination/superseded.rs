//! The VM was taken, and somebody has it under a higher epoch: an operator forced it to stay on the
//! source.
//!
//! The vCPUs stop before anything else is done. Only this node's ledger knows whether the VM has had
//! a later epoch since, by a hand-over of its own; then the source is told that, and stops.

use super::super::message::Body;
use super::effects::ignore;
use super::state::Event::{self, Did, Heard};
use super::state::{Effects, Guest, Refused, State, Taken, YieldStep, Yielding, superseded};
use super::{
    Destination, DestinationEffect, DestinationInput as Input, DestinationOutcome, Verdict,
};

impl Destination {
    pub(super) fn yield_to(&mut self, by: u64, was: Taken, out: &mut Effects) -> State {
        out.push(DestinationEffect::Pause { epoch: by });
        State::Yielding(Yielding {
            by,
            was,
            step: YieldStep::Pausing,
        })
    }

    pub(super) fn yielding(
        &mut self,
        mut state: Yielding,
        event: &Event,
        out: &mut Effects,
    ) -> State {
        match (state.step, event) {
            (YieldStep::Pausing, Did(Input::Halted)) => {
                state.step = YieldStep::Writing;
                self.persist_superseded(state.by, out);
            }
            (YieldStep::Pausing, Did(Input::Later { last })) => {
                self.send(Body::Superseded { epoch: *last }, out);
                if state.was.guest == Guest::Starting {
                    state.was.guest = Guest::Failed;
                    out.push(DestinationEffect::Finish(DestinationOutcome::Lost {
                        reason: format!("it had a later epoch here, {last}, before it ran"),
                    }));
                }
                if !state.was.settled {
                    out.push(DestinationEffect::AskLater);
                }
                return State::Taken(state.was);
            }
            (YieldStep::Writing, Did(Input::Persisted)) => {
                let reason = superseded(state.by);
                out.push(DestinationEffect::Finish(DestinationOutcome::Superseded {
                    epoch: state.by,
                }));
                self.send(
                    Body::Refused {
                        reason: reason.clone(),
                    },
                    out,
                );
                out.push(DestinationEffect::AskLater);
                return State::Refused(Refused {
                    reason,
                    settled: false,
                });
            }
            (YieldStep::Writing, Did(Input::PersistFailed)) => {
                state.step = YieldStep::Waiting;
                out.push(DestinationEffect::AskLater);
            }
            (YieldStep::Waiting, Did(Input::Ask)) => {
                state.step = YieldStep::Writing;
                self.persist_superseded(state.by, out);
            }
            // Late reports of a run that was undone; the source says it again until it is answered.
            (_, Did(Input::Ran | Input::RunFailed(_))) => {}
            (_, Heard(Body::Superseded { .. })) => {}
            (_, Did(Input::LinkUp | Input::LinkLost | Input::Ask | Input::Shutdown)) => {}
            (_, other) => ignore(other, out),
        }
        State::Yielding(state)
    }

    fn persist_superseded(&self, epoch: u64, out: &mut Effects) {
        self.persist(Verdict::Superseded { epoch }, out);
    }
}
