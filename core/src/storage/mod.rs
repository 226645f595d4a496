//! Files of the host that hold disks: copies that keep their holes, and locks.
#![forbid(unsafe_code)]

mod copy;
mod lock;

pub(crate) use self::copy::{copy, sum};
pub(crate) use self::lock::DiskLock;
