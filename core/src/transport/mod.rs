//! Byte streams between a client and a node, and between nodes.
//!
//! `address` says where one leads, `connect` and `listener` make them, `stream` is what everything
//! asynchronous reads and writes, `blocking` what the threads of a hand-over do. `tls` holds what both
//! sides need for TLS 1.3, and says in words what went wrong; `unix` is Unix sockets, and how a file is
//! handed to another process. Nothing here knows what the bytes mean.

mod address;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod blocking;
mod connect;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod duplex;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod listener;
mod stream;
#[cfg(test)]
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod tests;
mod tls;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod unix;

pub(crate) use address::Address;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub(crate) use blocking::Blocking;
pub(crate) use connect::connect;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub(crate) use listener::{Listener, Pending};
pub(crate) use stream::Stream;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub(crate) use tls::ServerTls;
pub(crate) use tls::{ClientTls, TlsOptions, is_tls_record, lost};
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub(crate) use unix::{HandSocket, HandStream};
