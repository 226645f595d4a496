//! Effects that more than one phase of the source asks for.

use super::super::Ignored;
use super::super::message::{Body, Message};
use super::state::{Effects, Event, State};
use super::{Record, Source, SourceEffect, SourceOutcome, Why};

impl Source {
    pub(super) fn revoke(&mut self, revoking: &mut bool, out: &mut Effects) {
        *revoking = true;
        self.send(Body::Revoke, out);
        if !self.link {
            self.tell_unresolved(out);
        }
    }

    pub(super) fn send(&self, body: Body, out: &mut Effects) {
        if self.link {
            out.push(SourceEffect::Send(Message {
                session: self.session.clone(),
                epoch: self.epoch,
                body,
            }));
        }
    }

    pub(super) fn tell_unresolved(&mut self, out: &mut Effects) {
        if !self.told {
            self.told = true;
            out.push(SourceEffect::Finish(SourceOutcome::Unresolved));
        }
    }

    pub(super) fn persist_aborted(&self, out: &mut Effects) {
        out.push(SourceEffect::Persist(Record::Aborted { epoch: self.epoch }));
    }

    pub(super) fn persist_mine(&self, out: &mut Effects) {
        let epoch = self.epoch.saturating_add(1);
        out.push(SourceEffect::Persist(Record::Mine { epoch }));
    }

    pub(super) fn persist_released(&self, peer: &str, out: &mut Effects) {
        out.push(SourceEffect::Persist(Record::Released {
            epoch: self.epoch,
            node_uuid: peer.to_owned(),
        }));
    }
}

/// What a destination that asks is told before the grant is durable.
pub(super) fn undecided(revoking: bool) -> Body {
    if revoking {
        Body::Revoke
    } else {
        Body::Undecided
    }
}

pub(super) fn finish_here(peer: Option<String>, why: Why, out: &mut Effects) -> State {
    out.push(SourceEffect::Finish(SourceOutcome::StayedHere { why }));
    State::Stayed { peer }
}

pub(super) fn ignore(event: &Event, out: &mut Effects) {
    out.push(SourceEffect::Ignored(Ignored::OutOfPlace(event.name())));
}
