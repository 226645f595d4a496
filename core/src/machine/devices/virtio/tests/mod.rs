//! What all devices have in common, tried with a device that only counts.

mod chains;
mod registers;
mod saved;
mod threads;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::chain::Chain;
use super::core::Workers;
use super::device::{Device, Handled, read_bytes};
use super::driver::*;
use crate::error::Result;
use crate::hypervisor::{Kind, Reader, Writer};
use crate::memory::GuestRam;

/// A device of two queues that gives every request back, and says how much could be written.
#[derive(Debug, Default)]
struct Echo {
    features: u64,
    /// Requests of each queue.
    handled: [AtomicU32; 2],
    /// Lengths of the last request's buffers, to read and to write.
    last: Mutex<(u64, u64)>,
    activated: Mutex<Option<u64>>,
    resets: AtomicU32,
    breaks: AtomicBool,
}

impl Device for Echo {
    fn id(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        self.features
    }
    fn queues(&self) -> &'static [u16] {
        &[256, 16]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&[1, 2, 3, 4, 5], offset, data);
    }
    fn activate(&self, features: u64) {
        *self.activated.lock().unwrap() = Some(features);
    }
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
    fn handle(&self, queue: usize, chain: Chain, _ram: &GuestRam) -> Handled {
        self.handled[queue].fetch_add(1, Ordering::SeqCst);
        *self.last.lock().unwrap() = (chain.readable.len(), chain.writable.len());
        match self.breaks.load(Ordering::SeqCst) {
            true => Handled::Broken("it was told to"),
            false => Handled::Used(chain.writable.len() as u32),
        }
    }
    fn kind(&self) -> Kind {
        Kind::VirtioRng
    }
    fn save(&self, _out: &mut Writer) {}
    fn load(&self, _reader: &mut Reader<'_>) -> Result<()> {
        Ok(())
    }
}

impl Driver<Echo> {
    fn echo() -> Self {
        Self::new(Echo::default(), Workers::Caller)
    }

    fn started(features: u64, size: u16) -> Self {
        let mut driver = Self::echo();
        driver.start(features, size);
        driver
    }

    fn handled(&self, queue: usize) -> u32 {
        self.device.device.handled[queue].load(Ordering::SeqCst)
    }

    fn last(&self) -> (u64, u64) {
        *self.device.device.last.lock().unwrap()
    }
}

/// The same driver in front of another device over the same memory.
fn moved(driver: &Driver<Echo>, to: Echo) -> Driver<Echo> {
    let mut next = Driver::over(to, Workers::Caller, Arc::clone(&driver.ram));
    next.rings.clone_from(&driver.rings);
    next
}
