//! The hand-over of a VM from one node to another, as two state machines without I/O.
//!
//! [`source::Source`] and [`destination::Destination`] are plain data. A driver tells them what
//! happened (`handle(input)`) and carries out what they return (effects). They know no clock, no
//! socket and no store: time, loss and durability are inputs, and so the same types run in both
//! nodes and under a model checker that tries every order of events (`tests/model`).
//! [`ledger::Ledger`] is what each node knows of a VM's epochs, in both places too.
//!
//! # What holds
//!
//! * At most one node runs the VM. Where nobody can tell, nobody runs, and the source says so.
//! * Before GRANT is handed to the store, every failure leaves the VM running on the source.
//! * After that the source resumes only with the destination's REFUSED in hand and its own MINE
//!   durable, or, where GRANT's write failed, with ABORTED durable: COMMIT was never sent then; or
//!   because an operator forces it, with the disks locked and FORCED durable.
//! * The destination runs only with TAKEN durable, and writes it only after COMMIT and with the
//!   disks locked. It has one verdict per epoch; the first wins and is repeated until DONE. Only
//!   SUPERSEDED takes TAKEN's place.
//! * After a force two may run until they have heard of each other: the one with the lower epoch
//!   stops at once, and with equal ones both do. Epochs only go up and are never used again.
//!
//! # The source
//!
//! ```text
//!  phase           guarantee           next on
//!  ─────────────── ─────────────────── ──────────────────────────────────────────────────────────
//!  idle            runs here           Start → PREPARE
//!  preparing       runs here           PREPARED → Attach            UNFIT → stayed
//!  attaching       runs here           Attached → Copy
//!  copying         runs here           Converged → Pause
//!  pausing         paused on success,  Paused → SendState
//!  sending           running on        StateSent
//!  awaiting ready    failure           READY → Persist(Granted)
//!  ─ the grant ─────────────────────────────────────────────────────────────────────────────────
//!  granting        paused              Persisted → Unlock, COMMIT   PersistFailed → doubtful
//!  doubtful        paused              ABORTED durable → undoing    REFUSED → taking back
//!  granted         paused              RUNNING, TAKEN → releasing   REFUSED → taking back
//!  taking back     paused              MINE durable → Resume → undoing
//!  forcing         paused              Locked → FORCED durable → Resume → forced
//!  releasing       runs there          RELEASED durable → Release, DONE → moved
//!  ──────────────────────────────────────────────────────────────────────────────────────────────
//!  undoing         about to run here   Resumed → stayed
//!  stayed          runs here           answers RESOLVE by ABORTED, REFUSED by DONE
//!  forced          runs here, and may  says SUPERSEDED until REFUSED; SUPERSEDED → Halt
//!                  run there
//!  moved           runs there          answers everything by DONE
//! ```
//!
//! Before the grant whatever is not the next step goes to undoing, or straight to stayed where
//! nothing was paused: failure, cancel, the limit, a lost link, a violation. After it a lost link
//! makes the source ask, and the limit makes it send REVOKE instead of COMMIT and RESOLVE.
//!
//! Only what is granted can be forced, and only while the peer does not answer, or a stranger in its
//! place does. Until FORCED is durable the destination's RUNNING or TAKEN comes first: it leads to
//! releasing. A later offer that this node accepts (`Outlived`) says as much as RUNNING.
//!
//! # The destination
//!
//! ```text
//!  phase      guarantee                next on
//!  ────────── ──────────────────────── ─────────────────────────────────────────────────────────
//!  idle       nothing here             PREPARE → Build
//!  building   nothing has run          Built → Receive, PREPARED    Unfit → UNFIT, gone
//!  receiving  nothing has run          StateReceived → Load
//!  loading    nothing has run          Loaded → READY
//!  ready      nothing has run          COMMIT → Lock    REVOKE → refusing    ABORT(ED) → gone
//!  locking    nothing has run          Locked → taking  REVOKE, LockFailed → refusing
//!  taking     nothing has run          Persisted → Run → taken      PersistFailed → refusing
//!  taken      ours: runs, or failed    RUNNING or TAKEN, repeated until DONE
//!                                      SUPERSEDED → Pause → yielding
//!  yielding   stopped                  Halted → Persist → refused    Later → SUPERSEDED, taken
//!  refusing   never runs               Persisted → Discard, REFUSED → refused
//!  refused    nothing here             REFUSED, repeated until DONE
//!  gone       nothing here, unjudged   COMMIT, REVOKE, RESOLVE → refusing
//! ```
//!
//! SUPERSEDED for a copy that is not taken is REVOKE. `Pause` asks the node's ledger: where the VM has
//! had a later epoch here, because it has gone on, the source hears of that one and halts.
//!
//! Before READY whatever is not the next step goes to gone, and the source is told where it can
//! be. A source asks and revokes only after READY and the grant; so a destination that is asked
//! without having said READY has lost the copy that was granted, and refuses.

pub(crate) mod destination;
pub(crate) mod ledger;
pub(crate) mod message;
pub(crate) mod source;

#[cfg(test)]
mod tests;

/// Why an input changed nothing. The driver counts these: few are normal where messages are
/// delivered twice or late, many are a peer that misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ignored {
    /// The message is of another session or another epoch.
    OtherSession,
    /// The sender is not the peer of this session.
    Stranger,
    /// The input, named here, does not belong to where the session stands.
    OutOfPlace(&'static str),
}

/// A rule broken on purpose, to see that the tests would notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mutant {
    /// The source resumes when the link breaks after the grant.
    ResumesOnLinkLost,
    /// The source resumes when it revokes, without waiting for the answer.
    ResumesOnRevoke,
    /// The source resumes on a refusal before it is durable that the VM is its own.
    ResumesBeforeMine,
    /// The source commits while the grant is still being written.
    CommitsBeforeDurable,
    /// The destination takes what it has refused.
    ForgetsItsRefusal,
    /// The destination runs while its verdict is still being written.
    RunsBeforeTaken,
    /// The destination takes the VM without its disks.
    TakesWithoutLock,
    /// The destination says that it has refused, and has not written it down.
    RefusesWithoutFence,
    /// The destination forgets its verdict as soon as the VM runs.
    ForgetsItsVerdict,
    /// The source grants before it has heard READY.
    GrantsBeforeReady,
    /// The source commits, and gives the disks up after that.
    UnlocksAfterCommit,
    /// The source takes RUNNING for a failure.
    RunningIsFailure,
    /// A force takes no higher epoch.
    ForcesWithoutEpoch,
    /// An epoch that was seen is accepted once more.
    EpochReused,
}
