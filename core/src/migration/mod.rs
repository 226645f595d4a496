//! Moving a machine from node to node while it runs.
//!
//! `protocol` holds the rules of the hand-over and nothing else: no I/O, no clock, no randomness.
//! `source` and `destination` drive it, mirror images of each other: they carry its effects out and feed
//! it what happened. Between them go control messages (`link`, `offer`; `patience` notices a peer that
//! falls silent) and, from the source's second thread (`copying`), over bulk connections (`channel`), pages.
//!
//! `engine` sends rounds of them by its `sender`s until `switch` says that it is time; the `receiver`s behind the
//! `gate` place them. `compression` makes them less where that pays, `converge` slows a guest down that writes
//! faster, `mirror` is a disk that is taken along. Where the switch comes first, `supply` sends the rest, as `demand`
//! asks for it. Within one host the memory is handed over and not copied (`same_host`); `token` is what is shown there
//! and at the gate.
//!
//! `recovered` settles what a source was started again in the middle of, `whereabouts` is what nodes ask each other
//! about VMs, `probe` and `forecast` what a migration would be like, `limit` is the rule of the downtime, `marks` its
//! account, `advice` the words for an operator. `progress` is what a user sees of all that. The node calls this;
//! nothing below does.
#![forbid(unsafe_code)]

mod advice;
mod channel;
mod clock;
mod compression;
mod converge;
mod copying;
mod demand;
mod destination;
mod engine;
#[cfg(test)]
pub(crate) mod faults;
mod forecast;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod gate;
mod limit;
mod link;
mod marks;
mod mirror;
mod offer;
mod pacer;
mod patience;
mod probe;
mod progress;
mod protocol;
mod receiver;
mod recovered;
mod same_host;
mod sender;
mod source;
mod supply;
mod switch;
#[cfg(test)]
mod tests;
mod token;
pub(crate) mod whereabouts;

pub(crate) use advice::{Unresolved, advice};
pub(crate) use converge::Throttle;
pub(crate) use destination::{
    Arriving, DestinationHost, Incoming, accept_channel, answer_about, is_offer,
};
pub(crate) use forecast::{Dirtying, Task, watch};
#[cfg(fuzzing)]
pub(crate) use fuzz::fuzz_migration;
pub(crate) use link::{Attach, Dial, Envelope, FRAME_MAX, Greeting};
pub(crate) use offer::{DiskFacts, Offer};
pub(crate) use patience::Patience;
pub(crate) use probe::{Probe, probe, serve};
pub(crate) use progress::Progress;
pub(crate) use protocol::destination::{DestinationOutcome, Verdict};
pub(crate) use protocol::ledger::{EPOCH_MAX, EpochError, Ledger, Meeting};
pub(crate) use protocol::source::{Record, SourceOutcome, Why};
pub(crate) use recovered::Recovered;
pub(crate) use same_host::{could_take_memory, plan_hand_over, take_memory};
pub(crate) use source::{Leaving, Outgoing, SourceHost};

/// The steps of a migration that take time, or can fail, outside the state machines: where tests put
/// faults.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Source: opening the bulk channels.
    Attach,
    /// Source: rounds of pages.
    Copy,
    /// Source: stopping the vCPUs.
    Pause,
    /// Source: saving the machine's state.
    Save,
    /// Source: the last pages and the state.
    SendState,
    /// Source: making a record durable.
    Persist,
    /// Destination: checking the fit and making the machine.
    Build,
    /// Destination: placing pages.
    Receive,
    /// Destination: loading the machine's state.
    Load,
    /// Either: locking the disks.
    Lock,
    /// Destination: making a verdict durable.
    Decide,
    /// Destination: running the vCPUs.
    Run,
}

/// Where a phase begins: a place for tests to make it fail.
#[cfg(test)]
fn begin(faults: &faults::Faults, phase: Phase) -> crate::error::Result<()> {
    faults.at(phase)
}
