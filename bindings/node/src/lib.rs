//! The native part of `@novacron/dwcp-sdk`; `ts/` is what a program sees.
//!
//! Every operation is started with a tag and ends once: at once, as what the call gives back or throws,
//! or later in the `bridge::Bridge`, which wakes JavaScript once for all that have ended. Requests and
//! answers are JSON; an answer's keys are already those of TypeScript (`case`).

#![allow(
    missing_docs,
    reason = "the macros make public items; what JavaScript sees is documented in ts/"
)]
#![allow(
    clippy::unnecessary_wraps,
    reason = "a Result is how an exported function throws"
)]

mod answer;
mod bridge;
mod case;
mod client;
mod node;
mod stream;
mod write;
