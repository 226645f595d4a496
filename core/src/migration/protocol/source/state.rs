//! Where the source can stand, and what that holds.

use super::super::message::{Body, Prepare};
use super::{Record, SourceEffect, SourceInput, Why};

pub(super) type Effects = Vec<SourceEffect>;

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
    /// An operator wants the VM here, without the destination's word.
    Forcing(Forcing),
    /// The VM is this node's by force.
    Forced(Forced),
    /// The VM is the destination's.
    Moved { peer: String },
    /// Stands in while a step is computed.
    Stepping,
}

/// See [`State::Granting`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Granting {
    pub(super) peer: String,
    /// The limit has passed: COMMIT will not be sent.
    pub(super) revoking: bool,
    /// The destination's refusal, when it came while the store was writing.
    pub(super) refused: Option<String>,
}

/// See [`State::Doubtful`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Doubtful {
    pub(super) peer: String,
    pub(super) revoking: bool,
    pub(super) refused: Option<String>,
    /// Whether ABORTED is being written, or waits for the next time to try.
    pub(super) writing: bool,
}

/// See [`State::Granted`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Granted {
    pub(super) peer: String,
    /// The limit has passed: the destination is asked to refuse, not to take.
    pub(super) revoking: bool,
}

/// See [`State::TakingBack`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TakingBack {
    pub(super) peer: String,
    pub(super) why: Why,
    /// Whether MINE is being written, or waits for the next time to try.
    pub(super) writing: bool,
}

/// See [`State::Releasing`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Releasing {
    pub(super) peer: String,
    /// Whether RELEASED is being written, or waits for the next time to try.
    pub(super) writing: bool,
}

/// See [`State::Forcing`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Forcing {
    pub(super) peer: String,
    /// The limit had passed.
    pub(super) revoking: bool,
    pub(super) step: ForceStep,
    /// The destination says, meanwhile, that it has the VM: the force is off.
    pub(super) taken: bool,
}

/// See [`Forcing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ForceStep {
    /// The disks are being locked.
    Locking,
    /// FORCED is being written.
    Writing,
    /// That failed, and waits for the next time to try.
    Waiting,
}

/// See [`State::Forced`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Forced {
    pub(super) peer: String,
    /// The epoch it was forced under.
    pub(super) epoch: u64,
    pub(super) guest: Guest,
    /// The destination knows.
    pub(super) settled: bool,
}

/// What became of a VM that was forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Guest {
    Starting,
    Running,
    /// It did not start, or its memory is lost, or it gave way.
    Stopped,
}

/// An input that was let in: of this session, from the right peer.
pub(super) enum Event {
    Heard(Body),
    Did(SourceInput),
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
    pub(super) fn recovered(record: Option<Record>) -> Self {
        match record {
            Some(Record::Granted {
                destination_uuid, ..
            }) => Self::Granted(Granted {
                peer: destination_uuid,
                revoking: false,
            }),
            Some(Record::Forced {
                epoch,
                destination_uuid,
            }) => Self::Forced(Forced {
                peer: destination_uuid,
                epoch,
                guest: Guest::Stopped,
                settled: false,
            }),
            Some(Record::Released { node_uuid, .. }) => Self::Moved { peer: node_uuid },
            Some(Record::Mine { .. } | Record::Aborted { .. }) | None => {
                Self::Stayed { peer: None }
            }
        }
    }

    /// The store whose messages count; nobody's is settled before PREPARED.
    pub(super) fn peer(&self) -> Option<&str> {
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
            | Self::Forcing(Forcing { peer, .. })
            | Self::Forced(Forced { peer, .. })
            | Self::Moved { peer } => Some(peer),
        }
    }

    pub(super) fn name(&self) -> &'static str {
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
            Self::Forcing(_) => "being forced",
            Self::Forced(_) => "forced",
            Self::Moved { .. } => "moved",
            Self::Stepping => "a step",
        }
    }

    /// Whether the vCPUs are stopped, or being stopped, and nothing is granted.
    pub(super) fn pausing(&self) -> bool {
        matches!(
            self,
            Self::Pausing { .. } | Self::Sending { .. } | Self::AwaitingReady { .. }
        )
    }
}
