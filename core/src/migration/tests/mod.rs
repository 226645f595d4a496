//! Whole migrations between two machines of this process, over loopback TCP with and without TLS,
//! without a node.
//!
//! `support` is the two nodes' part, as little as will do; each other file is a row of tests.

mod disks;
mod faults;
mod limit;
mod permissions;
mod postcopy;
mod same_host;
mod secure;
mod stopped;
mod story;
mod support;
