//! One connection as either side sees it: who the peer is, which ids are in use, how much either may
//! send, and when a silent peer is given up.
//!
//! [`ServerSession`] and [`ClientSession`] are driven, and do nothing by themselves. A driver
//!
//! 1. gives them what arrived (`receive`, `receive_end`) and wakes them at `timeout` (`handle_timeout`);
//! 2. tells them what its side wants (`reply`, `item`, `call`, …);
//! 3. after any of these, and after it took bytes from `transmit`, takes events from `poll_event` until
//!    there is none, and then sends what is in `transmit`;
//! 4. reads from the connection only while `wants_input`.
//!
//! So the bytes of many calls leave in one write. No call fails because of what a peer does: a peer's
//! mistake is answered, and if the connection cannot go on after it, the last event is `Close`. The
//! driver then sends what is left, half-closes, drains for a while so that the peer can read why, and
//! closes. After `Close` a session takes nothing in and gives nothing out.
//!
//! What a peer can make a session hold: an incomplete frame and what arrived with it, requests of
//! [`REQUEST_BYTES_MAX`], an entry per live id up to the limits, and `outbound_max` of answers, and
//! beyond that what was under way when they were reached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::action::Item;
use crate::model::VMEventType;

mod client;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod keep_alive;
mod limit;
mod live;
mod output;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use client::{ClientEvent, ClientSession, ClientSessionConfig};
#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::{fuzz_frames, fuzz_session};
pub(crate) use server::{Accepted, ServerConfig, ServerEvent, ServerSession};

/// A request's id as its peer wrote it.
pub(crate) type Id = Arc<str>;

/// Largest frame before AUTH succeeded, where it is required.
const UNKNOWN_PEER_FRAME_MAX: usize = 64 << 10;
/// Payload bytes of requests that are being answered. Beyond it nothing further is read: as values
/// they take a multiple of it.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Bytes that may be on their way to a console, granted when its stream opens.
const DATA_WINDOW: u32 = 64 << 10;
/// Longest payload of a PING: whatever it says is sent back.
const PING_PAYLOAD_MAX: usize = 64;
/// Time for the rest of a frame that has begun, once the peer is known.
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);
/// Time in which a peer that has too much to read has to read some of it.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Unanswered PINGs after which the peer is gone.
const PINGS_MAX: u32 = 2;

/// The earlier of two times at which something is due.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Whether an item takes no credit: that others were lost has to be said without any.
fn is_free(item: &Item) -> bool {
    matches!(item, Item::Event(event) if event.event_type == VMEventType::Lost)
}
