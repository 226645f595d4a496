//! The DWCP/3 wire protocol: bytes in, frames out, and back. No I/O, no clock.
//!
//! `frame` is the outer form of everything on a connection. What the frames say, and the session that
//! they belong to, come with the server; so far the only connections are those between two nodes.
#![forbid(unsafe_code)]

pub(crate) mod frame;
#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "for the session")
)]
pub(crate) mod message;
