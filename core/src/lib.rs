//! Run virtual machines on KVM and move them, live, between hosts.

pub mod error;
pub mod model;

pub mod action;

pub use error::{DWCPError, ErrorCode, Result};
