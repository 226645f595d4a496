//! The side that takes the VM: what its driver tells it and is told by it.
//!
//! The rules are in `before_ready`, `after_ready` and `superseded`. Only the driver of a migration, and the node on restart, call this.

mod after_ready;
mod before_ready;
mod effects;
mod state;
mod superseded;

use std::fmt;

use super::Ignored;
use super::message::{Body, Message, Prepare};
use state::State;

#[cfg(test)]
use super::Mutant;

/// The destination's side of one hand-over.
///
/// Feed every event to [`Destination::handle`] and carry out what it returns, in order, before
/// the next event is fed. Effects that take time are begun in that order and report back by the
/// input that each names; at most one [`DestinationEffect::Persist`] of a verdict is under way at
/// any time.
///
/// Keep it after a [`DestinationEffect::Finish`] for as long as the source may ask, or make it
/// anew by [`Destination::recovered`]: it still answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    session: String,
    epoch: u64,
    /// This node's store.
    node_uuid: String,
    /// The source's store: only its messages count.
    source_uuid: String,
    /// The first answer to PREPARE, given again to a repeated one.
    answer: Option<Body>,
    state: State,
    /// Whether messages can be sent.
    link: bool,
    #[cfg(test)]
    pub(super) mutant: Option<Mutant>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DestinationInput {
    /// A message came.
    Received {
        /// The sender's UUID, authenticated by the driver.
        from: String,
        /// The message.
        message: Message,
    },
    /// [`DestinationEffect::Build`] is done.
    Built {
        /// Admits the bulk channels, in hexadecimal digits.
        token: String,
        /// How many are accepted.
        channels: u32,
        /// The memory is the source's own, which holds all pages already. None of it is written before
        /// [`DestinationEffect::Run`].
        handed: bool,
    },
    /// [`DestinationEffect::Build`] found that the VM does not fit; nothing was kept.
    Unfit(Vec<String>),
    /// [`DestinationEffect::Receive`] is done: all pages and the state are here.
    StateReceived,
    /// [`DestinationEffect::Receive`] failed.
    ReceiveFailed(String),
    /// [`DestinationEffect::Load`] is done.
    Loaded,
    /// [`DestinationEffect::Load`] failed.
    LoadFailed(String),
    /// [`DestinationEffect::Lock`] is done.
    Locked,
    /// [`DestinationEffect::Lock`] failed, or took too long.
    LockFailed(String),
    /// [`DestinationEffect::Persist`] is done: the verdict is durable.
    Persisted,
    /// [`DestinationEffect::Persist`] failed: the verdict may be durable or not.
    PersistFailed,
    /// [`DestinationEffect::Run`] is done.
    Ran,
    /// [`DestinationEffect::Run`] failed.
    RunFailed(String),
    /// The connection broke, or the peer was silent for too long.
    LinkLost,
    /// There is a connection again, to the same peer.
    LinkUp,
    /// The time asked for by [`DestinationEffect::AskLater`] has come.
    Ask,
    /// This node is being shut down.
    Shutdown,
    /// [`DestinationEffect::Pause`] is done: nothing of the VM runs here.
    Halted,
    /// [`DestinationEffect::Pause`] was not, or not only, for this node: the VM has had a later epoch
    /// here, and the other is to stop.
    Later {
        /// The last epoch that was seen here.
        last: u64,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DestinationEffect {
    /// Send this; nothing reports back.
    Send(Message),
    /// Burn the epoch durably, check the fit, create VM, devices and memory:
    /// [`DestinationInput::Built`] or [`DestinationInput::Unfit`].
    Build(Box<Prepare>),
    /// Accept the bulk channels and what comes through them:
    /// [`DestinationInput::StateReceived`] or [`DestinationInput::ReceiveFailed`].
    Receive,
    /// Load the state: [`DestinationInput::Loaded`] or [`DestinationInput::LoadFailed`].
    Load,
    /// Lock the disks, reopen or invalidate them: [`DestinationInput::Locked`] or
    /// [`DestinationInput::LockFailed`].
    Lock,
    /// Make the verdict durable, or forget it: [`DestinationInput::Persisted`] or
    /// [`DestinationInput::PersistFailed`].
    Persist(Verdict),
    /// Run the vCPUs, announce the VM on the network: [`DestinationInput::Ran`] or
    /// [`DestinationInput::RunFailed`].
    Run,
    /// Somebody has the VM under this epoch. Ask the ledger: where that is the higher one, stop the
    /// vCPUs at once, a `Run` under way undone, and report [`DestinationInput::Halted`]; where it is
    /// not, [`DestinationInput::Later`], and where they are equal stop what runs here all the same.
    Pause {
        /// The epoch.
        epoch: u64,
    },
    /// Drop the VM and its disk locks, before the next effect, and whatever of `Build`,
    /// `Receive`, `Load`, `Lock` is under way. No report; late reports are harmless.
    Discard,
    /// Report [`DestinationInput::Ask`] after a back-off. Replaces one that is waiting.
    AskLater,
    /// An input changed nothing. Count it.
    Ignored(Ignored),
    /// Tell how it ended. Comes once, except that `Superseded` may follow what was told of a VM that
    /// was taken.
    Finish(DestinationOutcome),
}

/// What the destination's store says of one epoch of a VM. The first that was reported durable
/// wins: none is asked for after that, but to forget it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The VM is this node's.
    Taken {
        /// The session's epoch.
        epoch: u64,
    },
    /// The VM is not and will not be taken under this epoch. Replaces a `Taken` whose write
    /// failed.
    Refused {
        /// The session's epoch.
        epoch: u64,
    },
    /// It was taken, and somebody has it under a higher epoch since: it is not run here again.
    Superseded {
        /// The higher one.
        epoch: u64,
    },
    /// The source has settled it too: the verdict may go, the last epoch stays.
    Forget,
}

/// How it ended for the destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DestinationOutcome {
    /// The VM runs here.
    Running,
    /// Nothing of the VM is here.
    Discarded {
        /// Why.
        why: DiscardReason,
    },
    /// The VM belongs to this node and does not run: it is `failed`.
    Lost {
        /// Why, for people.
        reason: String,
    },
    /// The VM ran here, or was about to, and somebody has it under a higher epoch: it stands still
    /// here, and does not belong to this node any more.
    Superseded {
        /// The higher epoch.
        epoch: u64,
    },
}

/// Why a destination has nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DiscardReason {
    /// It does not fit.
    Unfit(Vec<String>),
    /// Something broke here, or the link did.
    Failed(String),
    /// The source called it off.
    Aborted(String),
    /// It was ready, and refused.
    Refused(String),
    /// This node is being shut down.
    Shutdown,
}

impl Destination {
    /// A session that a source is about to open; the link is up.
    ///
    /// The driver has seen that `epoch` is higher than the last it has stored for the VM.
    pub(crate) fn new(session: String, epoch: u64, node_uuid: String, source_uuid: String) -> Self {
        Self::with(session, epoch, node_uuid, source_uuid, State::Idle, true)
    }

    /// The session after a restart of this node, from the verdict in its store; `None` where there
    /// is none, or where the session is unknown: the copy is gone, and so it will be refused.
    ///
    /// The link is down until [`DestinationInput::LinkUp`].
    pub(crate) fn recovered(
        session: String,
        epoch: u64,
        node_uuid: String,
        source_uuid: String,
        verdict: Option<&Verdict>,
    ) -> Self {
        let state = State::recovered(verdict);
        Self::with(session, epoch, node_uuid, source_uuid, state, false)
    }

    fn with(
        session: String,
        epoch: u64,
        node_uuid: String,
        source_uuid: String,
        state: State,
        link: bool,
    ) -> Self {
        Self {
            session,
            epoch,
            node_uuid,
            source_uuid,
            answer: None,
            state,
            link,
            #[cfg(test)]
            mutant: None,
        }
    }
}

impl DestinationInput {
    /// A name for the reason of a violation.
    fn name(&self) -> &'static str {
        match self {
            Self::Received { message, .. } => message.body.operation(),
            Self::Built { .. } => "built",
            Self::Unfit(_) => "unfit here",
            Self::StateReceived => "state received",
            Self::ReceiveFailed(_) => "receive failed",
            Self::Loaded => "loaded",
            Self::LoadFailed(_) => "load failed",
            Self::Locked => "locked",
            Self::LockFailed(_) => "lock failed",
            Self::Persisted => "persisted",
            Self::PersistFailed => "persist failed",
            Self::Ran => "ran",
            Self::RunFailed(_) => "run failed",
            Self::LinkLost => "link lost",
            Self::LinkUp => "link up",
            Self::Ask => "ask",
            Self::Shutdown => "shutdown",
            Self::Halted => "halted",
            Self::Later { .. } => "later",
        }
    }
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(reasons) => write!(f, "it does not fit: {}", reasons.join("; ")),
            Self::Failed(reason) => write!(f, "the destination failed: {reason}"),
            Self::Aborted(reason) => write!(f, "the source aborted: {reason}"),
            Self::Refused(reason) => write!(f, "the destination refused: {reason}"),
            Self::Shutdown => f.write_str("the destination is shutting down"),
        }
    }
}
