//! Two nodes as processes of their own, and a proxy between them that breaks what they say to each
//! other: whatever is lost, late, doubled or killed, at most one of them runs the VM.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

#[path = "faults/proxy.rs"]
mod proxy;
mod support;
