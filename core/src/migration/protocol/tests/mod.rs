//! Scripts for each side alone, scripts for the pair, and a model that tries every order of events.

mod destination;
mod force;
mod message;
mod model;
mod pair;
mod source;

use super::message::{Body, Message, Prepare};

/// The source's and the destination's store.
const S: &str = "s";
const D: &str = "d";
const EPOCH: u64 = 7;

fn offer() -> Prepare {
    Prepare {
        vm_id: "vm".into(),
        source_uuid: S.into(),
        source_node: "node-01".into(),
        payload: "{}".into(),
    }
}

fn message(body: Body) -> Message {
    Message {
        session: "m".into(),
        epoch: EPOCH,
        body,
    }
}

fn prepared() -> Body {
    Body::Prepared {
        node_uuid: D.into(),
        token: "00ff".into(),
        channels: 4,
        handed: false,
    }
}

fn refused(reason: &str) -> Body {
    Body::Refused {
        reason: reason.into(),
    }
}

fn abort(reason: &str) -> Body {
    Body::Abort {
        reason: reason.into(),
    }
}

fn failed(reason: &str) -> Body {
    Body::Failed {
        reason: reason.into(),
    }
}
