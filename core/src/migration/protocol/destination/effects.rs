//! Effects that more than one phase of the destination asks for.

use super::super::Ignored;
use super::super::message::{Body, Message};
use super::state::{Effects, Event, State};
use super::{Destination, DestinationEffect, DestinationOutcome, DiscardReason, Verdict};

impl Destination {
    pub(super) fn answer(&mut self, body: Body, out: &mut Effects) {
        self.answer = Some(body.clone());
        self.send(body, out);
    }

    pub(super) fn answer_again(&self, state: &State, out: &mut Effects) {
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

    pub(super) fn persist(&self, verdict: Verdict, out: &mut Effects) {
        out.push(DestinationEffect::Persist(verdict));
    }

    pub(super) fn send(&self, body: Body, out: &mut Effects) {
        if self.link {
            out.push(DestinationEffect::Send(Message {
                session: self.session.clone(),
                epoch: self.epoch,
                body,
            }));
        }
    }
}

pub(super) fn gone(why: DiscardReason, out: &mut Effects) -> State {
    let reason = format!("the copy was discarded: {why}");
    out.push(DestinationEffect::Finish(DestinationOutcome::Discarded {
        why,
    }));
    State::Gone { reason }
}

/// The verdict could not be removed: it is said again, and so DONE comes again.
pub(super) fn not_forgotten(out: &mut Effects) -> bool {
    out.push(DestinationEffect::AskLater);
    false
}

pub(super) fn ignore(event: &Event, out: &mut Effects) {
    out.push(DestinationEffect::Ignored(Ignored::OutOfPlace(
        event.name(),
    )));
}
