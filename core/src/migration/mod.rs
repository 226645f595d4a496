//! Moving a machine from node to node while it runs.
//!
//! `protocol` holds the rules of the hand-over and nothing else: no I/O, no clock, no randomness.
//! What carries its effects out (channels, rounds, device state) lives beside it. The node calls
//! this; nothing below does.

#![forbid(unsafe_code)]

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "driven by the node from the next commit on")
)]
mod protocol;
