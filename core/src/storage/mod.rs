//! Files of the host that hold disks: copies that keep their holes, what was written meanwhile,
//! and locks.
#![forbid(unsafe_code)]

mod copy;
mod lock;
mod written;

pub(crate) use self::copy::{copy, next_data, punch, sum};
pub(crate) use self::lock::DiskLock;
pub(crate) use self::written::{CLUSTER, Written};
