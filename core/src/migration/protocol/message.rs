//! What the two nodes say to each other about one hand-over.
//!
//! In JSON a message is one flat object: `session`, `epoch`, `operation` and the operation's own
//! fields. Lengths are the wire's business: what arrives here has passed its limits.

use serde::{Deserialize, Serialize};

/// One message of a session.
///
/// Both sides drop what names another session or another epoch, so a message that was late by a
/// whole migration cannot be mistaken for one of this.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Message {
    /// The migration's id.
    pub(crate) session: String,
    /// The VM's epoch, burned durably for this session and never used again.
    pub(crate) epoch: u64,
    /// What is said.
    #[serde(flatten)]
    pub(crate) body: Body,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Body {
    /// Source: here is a VM; can you take it?
    Prepare(Box<Prepare>),
    /// Source: it is off, nothing was granted and nothing will be.
    Abort {
        /// Why, for people.
        reason: String,
    },
    /// Source: the VM is yours, durably; take it. Also its answer to [`Body::Resolve`].
    Commit,
    /// Source: refuse the VM unless you have taken it.
    Revoke,
    /// Source: your verdict is in my store; forget it.
    Done,
    /// Somebody has the VM under this epoch: stop it, if yours is lower. A source says so whose
    /// operator has taken the VM back by force, and a destination that has passed the VM on since.
    Superseded {
        /// The epoch, higher than the session's. Beside that it needs a name of its own.
        #[serde(rename = "by")]
        epoch: u64,
    },

    /// Destination: it fits and there is room.
    Prepared {
        /// The UUID of the destination's store: only its answers count from now on.
        node_uuid: String,
        /// Admits the bulk channels, in hexadecimal digits.
        token: String,
        /// How many bulk channels the destination accepts.
        channels: u32,
        /// It has the VM's memory itself, and wants only the state.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        handed: bool,
    },
    /// Destination: it does not fit, or no room could be made; nothing was kept.
    Unfit {
        /// Everything that does not fit.
        reasons: Vec<String>,
    },
    /// Destination, before [`Body::Ready`]: it went wrong here; nothing was kept.
    Failed {
        /// Why, for people.
        reason: String,
    },
    /// Destination: everything is loaded, nothing has run.
    Ready,
    /// Destination: taken, durably, and it runs.
    Running,
    /// Destination: taken, durably; it is too late to revoke.
    Taken,
    /// Destination: refused, durably; no commit of this epoch will be taken.
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// Destination's answer to [`Body::Resolve`]: no verdict yet.
    Pending,

    /// Either: what became of it?
    Resolve,
    /// Source's answer: it was never granted, or no longer is; drop the copy.
    Aborted,
    /// Source's answer: not decided; wait.
    Undecided,
}

/// The offer of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prepare {
    /// The VM's id.
    pub(crate) vm_id: String,
    /// The UUID of the source's store.
    pub(crate) source_uuid: String,
    /// The source's name.
    pub(crate) source_node: String,
    /// What only the drivers understand: config, CPU, memory map, options.
    pub(crate) payload: String,
}

impl Body {
    /// The operation's name on the wire.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Abort { .. } => "abort",
            Self::Commit => "commit",
            Self::Revoke => "revoke",
            Self::Done => "done",
            Self::Superseded { .. } => "superseded",
            Self::Prepared { .. } => "prepared",
            Self::Unfit { .. } => "unfit",
            Self::Failed { .. } => "failed",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Taken => "taken",
            Self::Refused { .. } => "refused",
            Self::Pending => "pending",
            Self::Resolve => "resolve",
            Self::Aborted => "aborted",
            Self::Undecided => "undecided",
        }
    }
}
