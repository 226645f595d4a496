//! How a driver reaches a device, and the device its driver.
//!
//! A transport has registers over the [`Core`](super::core::Core), and implements its
//! [`Signals`](super::core::Signals). `mmio` is the one there is; what a device is behind it knows of
//! none, so that another can take its place.
#![forbid(unsafe_code)]

mod mmio;

pub(super) use self::mmio::Mmio;
