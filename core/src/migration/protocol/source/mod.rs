//! The side that gives the VM away: what its driver tells it and is told by it.
//!
//! The rules are in `before_grant`, `after_grant` and `force`. Only the driver of a migration, and the node on restart, call this.

mod after_grant;
mod before_grant;
mod effects;
mod force;
mod state;

use std::fmt;

use super::Ignored;
use super::message::{Message, Prepare};
use state::State;

#[cfg(test)]
use super::Mutant;

/// The source's side of one hand-over.
///
/// Feed every event to [`Source::handle`] and carry out what it returns, in order, before the
/// next event is fed. Effects that take time are begun in that order and report back by the input
/// that each names; at most one [`SourceEffect::Persist`] is under way at any time.
///
/// Keep it after a [`SourceEffect::Finish`] for as long as the destination may ask, or make it
/// anew by [`Source::recovered`]: it still answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    session: String,
    epoch: u64,
    state: State,
    /// Whether messages can be sent.
    link: bool,
    /// Whether the VM's memory is in this process; it is not after a restart.
    alive: bool,
    /// Whether [`SourceOutcome::Unresolved`] has been told.
    told: bool,
    /// Who answers over this link is not the peer, but somebody in its place.
    stranger: bool,
    #[cfg(test)]
    pub(super) mutant: Option<Mutant>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SourceInput {
    /// The migration begins; the epoch is burned and the link is up.
    Start,
    /// A message came.
    Received {
        /// The sender's UUID, authenticated by the driver.
        from: String,
        /// The message.
        message: Message,
    },
    /// [`SourceEffect::Attach`] is done.
    Attached,
    /// [`SourceEffect::Copy`] says: switch now.
    Converged,
    /// [`SourceEffect::Pause`] is done.
    Paused,
    /// [`SourceEffect::SendState`] is done.
    StateSent,
    /// [`SourceEffect::Persist`] is done: the record is durable.
    Persisted,
    /// [`SourceEffect::Persist`] failed: the record may be durable or not.
    PersistFailed,
    /// [`SourceEffect::Resume`] is done.
    Resumed,
    /// Attaching, copying, pausing, sending or resuming failed here.
    Failed(String),
    /// Somebody wants the migration stopped.
    Cancel,
    /// An operator says that the destination will never answer, and that the VM is to run here.
    Force,
    /// [`SourceEffect::Lock`] is done.
    Locked,
    /// [`SourceEffect::Lock`] failed: somebody else has the disks.
    LockFailed(String),
    /// A later offer of this VM was accepted here: whoever made it has had the VM.
    Outlived {
        /// The offer's epoch.
        epoch: u64,
    },
    /// The connection broke, or the peer was silent for too long.
    LinkLost,
    /// There is a connection again, to the same peer.
    LinkUp,
    /// The limit on downtime has passed.
    LimitPassed,
    /// The time asked for by [`SourceEffect::AskLater`] has come.
    Ask,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SourceEffect {
    /// Send this; nothing reports back.
    Send(Message),
    /// Open the bulk channels: [`SourceInput::Attached`] or [`SourceInput::Failed`].
    Attach {
        /// The destination's token.
        token: String,
        /// How many channels it accepts.
        channels: u32,
        /// It has the memory itself: there is nothing to copy.
        handed: bool,
    },
    /// Run rounds of pre-copy until they converge: [`SourceInput::Converged`] or
    /// [`SourceInput::Failed`].
    Copy,
    /// Stop whatever of `Attach`, `Copy`, `SendState` is under way, close the channels, undo
    /// throttle and dirty log. No report; late reports of what was stopped are harmless.
    StopCopy,
    /// Stop the vCPUs, drain and flush the devices: [`SourceInput::Paused`] or
    /// [`SourceInput::Failed`].
    Pause,
    /// Save all state, send the last pages and the state: [`SourceInput::StateSent`] or
    /// [`SourceInput::Failed`].
    SendState,
    /// Make the record durable: [`SourceInput::Persisted`] or [`SourceInput::PersistFailed`].
    Persist(Record),
    /// Give the disk locks up, before the next effect. No report.
    Unlock,
    /// Take the disk locks back, which were given up: [`SourceInput::Locked`] or
    /// [`SourceInput::LockFailed`].
    Lock,
    /// Run the vCPUs here again, devices and locks as before, a `Pause` under way undone:
    /// [`SourceInput::Resumed`] or [`SourceInput::Failed`].
    Resume,
    /// The VM has gone: drop what is left of it here, remember where it went. No report.
    Release,
    /// The VM lives on elsewhere, though it was forced here: stop the vCPUs at once. No report.
    Halt {
        /// The epoch it lives on under.
        epoch: u64,
    },
    /// Report [`SourceInput::Ask`] after a back-off. Replaces one that is waiting.
    AskLater,
    /// A [`SourceInput::Cancel`] came too late.
    CancelRefused,
    /// A [`SourceInput::Force`] is not obeyed.
    ForceRefused(ForceRefusal),
    /// An input changed nothing. Count it.
    Ignored(Ignored),
    /// Tell how it ended. Comes once, except that another end may follow
    /// [`SourceOutcome::Unresolved`], and `Lost` a VM that stayed by [`Why::Forced`].
    Finish(SourceOutcome),
}

/// What the source's store says of a VM's hand-over. Each replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    /// The destination may take the VM: from here on this node never resumes it on its own word.
    Granted {
        /// The session's epoch.
        epoch: u64,
        /// The store that may take it.
        destination_uuid: String,
    },
    /// The destination has refused; the VM is this node's under a new epoch.
    Mine {
        /// The new epoch.
        epoch: u64,
    },
    /// An operator has taken the VM back, without the destination's word.
    Forced {
        /// The new epoch.
        epoch: u64,
        /// The store that may have taken it, and is to hear of this.
        destination_uuid: String,
    },
    /// The grant is void: its write had failed, and it was never told to anybody.
    Aborted {
        /// The session's epoch.
        epoch: u64,
    },
    /// The destination has taken the VM.
    Released {
        /// The session's epoch.
        epoch: u64,
        /// Where it went.
        node_uuid: String,
    },
}

impl Record {
    /// The epoch of the session that it is of.
    pub(crate) fn session_epoch(&self) -> u64 {
        match self {
            Self::Granted { epoch, .. }
            | Self::Released { epoch, .. }
            | Self::Aborted { epoch } => *epoch,
            // It was taken back under the next one.
            Self::Mine { epoch } | Self::Forced { epoch, .. } => epoch.saturating_sub(1),
        }
    }

    /// The epoch that this node has the VM under by it.
    pub(crate) fn own_epoch(&self) -> Option<u64> {
        match self {
            Self::Mine { epoch } | Self::Forced { epoch, .. } => Some(*epoch),
            Self::Granted { .. } | Self::Released { .. } | Self::Aborted { .. } => None,
        }
    }
}

/// How it ended for the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SourceOutcome {
    /// The VM belongs to the destination, which runs it or says why not.
    Moved {
        /// The store that has it.
        node_uuid: String,
    },
    /// The VM runs here, as before.
    StayedHere {
        /// Why it did not move.
        why: Why,
    },
    /// The VM belongs to this node and cannot run: it is `failed`.
    Lost {
        /// Why, for people.
        reason: String,
    },
    /// Nobody can tell yet who has the VM, or this node's store cannot write it down. It is
    /// paused here; the machine goes on asking.
    Unresolved,
}

/// Why a VM stayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    /// It does not fit the destination.
    Unfit(Vec<String>),
    /// Something broke, here or there.
    Failed(String),
    /// Somebody cancelled it.
    Cancelled,
    /// The limit on downtime passed.
    DowntimeLimit,
    /// The destination refused to take it.
    Refused(String),
    /// An operator forced it to.
    Forced,
}

/// Why a force is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ForceRefusal {
    /// Nothing is to be decided by hand: the hand-over stands here.
    Decided(&'static str),
    /// The peer answers, and knows.
    PeerAnswers,
    /// The destination said meanwhile that it has the VM.
    Taken,
    /// The disks could not be locked.
    Locks(String),
}

impl Source {
    /// A migration that has not begun. The link is up and the VM runs here.
    pub(crate) fn new(session: String, epoch: u64, prepare: Prepare) -> Self {
        Self::with(session, epoch, State::Idle(Box::new(prepare)), true)
    }

    /// The session after a restart of this node, from what its store says; `None` where it says
    /// nothing, which means that nothing was ever granted. Unless the record is `Granted` or
    /// `Released`, the VM is this node's and failed with the process: that is the node's to say.
    ///
    /// The link is down until [`SourceInput::LinkUp`], and the VM's memory is gone with the
    /// process that held it.
    pub(crate) fn recovered(session: String, epoch: u64, record: Option<Record>) -> Self {
        Self::with(session, epoch, State::recovered(record), false)
    }

    /// Whether the VM was forced to stay and the destination knows.
    pub(crate) fn is_heard(&self) -> bool {
        matches!(&self.state, State::Forced(forced) if forced.settled)
    }

    fn with(session: String, epoch: u64, state: State, fresh: bool) -> Self {
        Self {
            session,
            epoch,
            state,
            link: fresh,
            alive: fresh,
            told: !fresh,
            stranger: false,
            #[cfg(test)]
            mutant: None,
        }
    }
}

impl SourceInput {
    /// A name for the reason of a violation.
    fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Received { message, .. } => message.body.operation(),
            Self::Attached => "attached",
            Self::Converged => "converged",
            Self::Paused => "paused",
            Self::StateSent => "state sent",
            Self::Persisted => "persisted",
            Self::PersistFailed => "persist failed",
            Self::Resumed => "resumed",
            Self::Failed(_) => "failed here",
            Self::Cancel => "cancel",
            Self::Force => "force",
            Self::Locked => "locked",
            Self::LockFailed(_) => "lock failed",
            Self::Outlived { .. } => "outlived",
            Self::LinkLost => "link lost",
            Self::LinkUp => "link up",
            Self::LimitPassed => "limit passed",
            Self::Ask => "ask",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(reasons) => write!(f, "it does not fit: {}", reasons.join("; ")),
            Self::Failed(reason) => f.write_str(reason),
            Self::Cancelled => f.write_str("it was cancelled"),
            Self::DowntimeLimit => f.write_str("the limit on downtime passed"),
            Self::Refused(reason) => write!(f, "the destination refused: {reason}"),
            Self::Forced => f.write_str("an operator forced it to stay"),
        }
    }
}

impl fmt::Display for ForceRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided(phase) => {
                write!(
                    f,
                    "nothing is to be decided by force: the hand-over is {phase}"
                )
            }
            Self::PeerAnswers => f.write_str("the peer answers"),
            Self::Taken => f.write_str("the destination says that it has taken the VM"),
            Self::Locks(reason) => write!(f, "the disks could not be locked: {reason}"),
        }
    }
}
