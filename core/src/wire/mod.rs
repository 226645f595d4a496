//! The DWCP/3 wire protocol: bytes in, frames out, and back. No I/O, no clock.
//!
//! `frame` is the outer form of everything on a connection, `message` what the frames say, `session`
//! the rules of one connection for either side.
#![forbid(unsafe_code)]

pub(crate) mod frame;
pub(crate) mod message;
pub(crate) mod session;
