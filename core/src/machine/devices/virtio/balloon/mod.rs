//! A balloon: memory that the guest lends to the host. Chapter 5.5 of the specification.
//!
//! `config` is what driver and device tell each other by the configuration space, `request` what comes
//! by the queues: pages that go into the balloon and out of it, and figures about the guest's memory.
//! Pages in the balloon take no host memory and read as zeros; nobody may need what they held.
//!
//! Reporting of free pages, and hints about them, are not offered.
#![forbid(unsafe_code)]

mod config;
mod request;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(in crate::machine) use self::request::Statistics;
use super::Virtio;
use super::chain::Chain;
use super::device::{Device, Handled, read_bytes};
use super::queue::MAX_QUEUE_SIZE;
use crate::error::Result;
use crate::hypervisor::{Kind, Reader, Writer};
use crate::memory::{GuestRam, PAGE_SIZE};

/// Its queues, by their numbers.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: u32 = 2;

/// The device.
#[derive(Debug, Default)]
pub(in crate::machine) struct Balloon {
    inner: Mutex<Inner>,
    /// The host's first failure has been told.
    complained: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    /// Pages that the guest is asked to lend. Survives a reset: it is the host's wish.
    target: u32,
    /// Pages that its driver says it lends.
    actual: u32,
    statistics: Statistics,
}

impl Balloon {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages could not be given back: the guest goes on, and the host keeps what they take.
    fn complain(&self, error: &dyn std::fmt::Display) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "a balloon's pages were not given back; told only this once");
        }
    }
}

impl Device for Balloon {
    fn id(&self) -> u32 {
        config::ID
    }

    fn features(&self) -> u64 {
        config::FEATURES
    }

    fn queues(&self) -> &'static [u16] {
        &[MAX_QUEUE_SIZE, MAX_QUEUE_SIZE, MAX_QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let inner = self.lock();
        read_bytes(&config::space(inner.target, inner.actual), offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if let Some(actual) = config::written(offset, data) {
            self.lock().actual = actual;
        }
    }

    fn reset(&self) {
        let mut inner = self.lock();
        *inner = Inner {
            target: inner.target,
            ..Inner::default()
        };
    }

    fn handle(&self, queue: usize, chain: Chain, ram: &GuestRam) -> Handled {
        match queue {
            INFLATE => request::inflate(self, chain, ram),
            // The pages are filled again when the guest touches them.
            DEFLATE => Handled::Used(0),
            _ => {
                let statistics = request::statistics(chain, ram);
                let mut inner = self.lock();
                let reports = inner.statistics.reports.wrapping_add(1);
                inner.statistics = Statistics {
                    reports,
                    ..statistics
                };
                // It stays with us until new ones are wanted.
                Handled::Kept
            }
        }
    }

    fn kind(&self) -> Kind {
        Kind::VirtioBalloon
    }

    fn save(&self, out: &mut Writer) {
        let inner = self.lock();
        out.u32(inner.target);
        out.u32(inner.actual);
        inner.statistics.save(out);
    }

    fn load(&self, reader: &mut Reader<'_>) -> Result<()> {
        *self.lock() = Inner {
            target: reader.u32()?,
            actual: reader.u32()?,
            statistics: Statistics::load(reader)?,
        };
        Ok(())
    }
}

impl Virtio<Balloon> {
    /// Asks the guest to lend so many bytes, in whole pages. It does as far as it can, and when; never
    /// waits for it.
    pub(in crate::machine) fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        self.mmio
            .core()
            .change_config(|| self.device.lock().target = pages);
    }

    /// Bytes that the guest says it lends now.
    #[cfg(test)]
    pub(in crate::machine) fn lent(&self) -> u64 {
        u64::from(self.device.lock().actual) * PAGE_SIZE
    }

    /// The figures that the guest told last. It is a guest that says so: none of them need be true.
    pub(in crate::machine) fn statistics(&self) -> Statistics {
        self.device.lock().statistics
    }

    /// Asks the guest for new figures; they are there when [`Statistics::reports`] has grown. False: it
    /// cannot be asked now, because it has no driver for that, has not answered yet, or does not run.
    pub(in crate::machine) fn ask_statistics(&self) -> bool {
        self.mmio.core().complete_kept(STATISTICS)
    }
}
