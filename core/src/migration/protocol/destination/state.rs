//! Where the destination can stand, and what that holds.

use super::super::message::Body;
use super::{DestinationEffect, DestinationInput, Verdict};

pub(super) type Effects = Vec<DestinationEffect>;

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
    /// TAKEN is being written.
    Taking(Taking),
    /// TAKEN is durable.
    Taken(Taken),
    /// It was taken, and somebody has it under a higher epoch.
    Yielding(Yielding),
    /// REFUSED is being written.
    Refusing(Refusing),
    /// REFUSED is durable, or was and is forgotten.
    Refused(Refused),
    /// There is nothing here and no verdict: nothing was granted, as far as is known here.
    Gone { reason: String },
    /// Stands in while a step is computed.
    Stepping,
}

/// See [`State::Taking`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Taking {
    /// A REVOKE came meanwhile.
    pub(super) asked: bool,
    /// The source was forced meanwhile, under this epoch.
    pub(super) superseded: Option<u64>,
}

/// See [`State::Yielding`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Yielding {
    /// The higher epoch.
    pub(super) by: u64,
    pub(super) was: Taken,
    pub(super) step: YieldStep,
}

/// See [`Yielding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum YieldStep {
    /// The vCPUs are being stopped, if the other is right.
    Pausing,
    /// SUPERSEDED is being written.
    Writing,
    /// That failed, and waits for the next time to try.
    Waiting,
}

/// See [`State::Taken`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Taken {
    pub(super) guest: Guest,
    /// The source has it in its store too: DONE.
    pub(super) settled: bool,
}

/// What became of a VM that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Guest {
    Starting,
    Running,
    /// It did not start, or this node was restarted.
    Failed,
}

/// See [`State::Refusing`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refusing {
    pub(super) reason: String,
    /// Whether there is a VM to be discarded.
    pub(super) vm: bool,
    /// Whether REFUSED is being written, or waits for the next time to try.
    pub(super) writing: bool,
}

/// See [`State::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refused {
    pub(super) reason: String,
    /// The source has it in its store too: DONE.
    pub(super) settled: bool,
}

/// An input that was let in: of this session, from its source.
pub(super) enum Event {
    Heard(Body),
    Did(DestinationInput),
}

impl Event {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Heard(body) => body.operation(),
            Self::Did(input) => input.name(),
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
            Some(Verdict::Superseded { epoch }) => Self::Refused(Refused {
                reason: superseded(*epoch),
                settled: false,
            }),
            Some(Verdict::Forget) | None => Self::Gone {
                reason: "the destination knows no such VM any more".into(),
            },
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Idle => "a session not begun",
            Self::Building => "building",
            Self::Receiving => "receiving",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Locking => "locking",
            Self::Taking(_) => "taking",
            Self::Yielding(_) => "yielding",
            Self::Taken(_) => "taken",
            Self::Refusing(_) => "refusing",
            Self::Refused(_) => "refused",
            Self::Gone { .. } => "a discarded VM",
            Self::Stepping => "a step",
        }
    }
}

/// What a source is told that was forced.
pub(super) fn superseded(by: u64) -> String {
    format!("it was taken, and stopped: somebody has it under the higher epoch {by}")
}

impl Guest {
    /// What the source is told of it.
    pub(super) fn verdict(self) -> Body {
        match self {
            Self::Running => Body::Running,
            Self::Starting | Self::Failed => Body::Taken,
        }
    }
}
