//! Devices of the virtio specification (version 1.2), for guests that bring drivers for them.
//!
//! `core` is what all devices do, `transport` how a driver reaches it, `device` what a kind of device
//! has to be; `block`, `rng` and `balloon` are the kinds. `queue` and `chain` read what a driver wrote:
//! nothing of it is believed before it was checked. The machine holds each as a [`Virtio`].
#![forbid(unsafe_code)]

mod balloon;
mod block;
mod chain;
mod core;
mod device;
mod queue;
mod rng;
mod transport;

#[cfg(any(test, fuzzing))]
mod driver;
#[cfg(any(test, fuzzing))]
mod fuzz;
#[cfg(test)]
mod tests;

use std::sync::Arc;

#[cfg(fuzzing)]
pub(crate) use self::fuzz::{fuzz_balloon, fuzz_block, fuzz_registers, fuzz_rng};

pub(in crate::machine) use self::core::Workers;
use self::device::Device;
use self::transport::Mmio;
pub(in crate::machine) use self::{
    balloon::Balloon,
    block::{Block, BlockConfig, FileDisk},
    rng::Rng,
};
use super::saved::{self, refused};
use crate::error::Result;
use crate::hypervisor::{Kind, Reader, Section, Vm, Writer};
use crate::memory::GuestRam;

/// What the machine needs of every device behind MMIO.
pub(in crate::machine) trait MmioDevice: Send + Sync {
    /// A vCPU reads at `offset` of the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// A vCPU writes at `offset` of the device's range.
    fn write(&self, offset: u64, data: &[u8]);
    /// All work in flight ends, none begins; the vCPUs are parked already. Again changes nothing.
    fn pause(&self);
    /// Work goes on: every queue is looked at as if it had been notified, and an interrupt that was
    /// pending is sent again. A device is paused when it is made.
    fn resume(&self);
    /// The state after power-on.
    fn reset(&self);
    /// Saves a paused device.
    fn save(&self) -> Vec<Section>;
    /// Loads what [`save`](Self::save) saved, before the device ever ran.
    fn load(&self, sections: &[Section]) -> Result<()>;
}

/// Where a device is in its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) struct Place {
    /// Its number among the devices, by which it is saved.
    pub(in crate::machine) instance: u32,
    /// Its interrupt line.
    pub(in crate::machine) gsi: u32,
}

/// A virtio device as its machine holds it: a [`MmioDevice`], and beside it what only its kind can do.
pub(in crate::machine) struct Virtio<D> {
    device: Arc<D>,
    mmio: Mmio,
    instance: u32,
}

impl<D: Device + 'static> Virtio<D> {
    /// Puts `device` into a machine. It is paused, and its threads are named after `name`.
    ///
    /// # Errors
    ///
    /// `resource_limit` when a thread cannot be started.
    pub(in crate::machine) fn new(
        name: &str,
        place: Place,
        device: D,
        ram: &Arc<GuestRam>,
        vm: &Arc<dyn Vm>,
        workers: Workers,
    ) -> Result<Self> {
        let device = Arc::new(device);
        let mmio = Mmio::new(
            name,
            Arc::clone(&device) as Arc<dyn Device>,
            Arc::clone(ram),
            Arc::clone(vm),
            place.gsi,
            workers,
        )?;
        Ok(Self {
            device,
            mmio,
            instance: place.instance,
        })
    }
}

impl<D: Device> MmioDevice for Virtio<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.mmio.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.mmio.write(offset, data);
    }

    fn pause(&self) {
        self.mmio.core().pause();
    }

    fn resume(&self) {
        self.mmio.core().resume();
    }

    fn reset(&self) {
        self.mmio.reset();
    }

    fn save(&self) -> Vec<Section> {
        self.mmio.save(self.instance)
    }

    fn load(&self, sections: &[Section]) -> Result<()> {
        self.mmio.load(self.instance, sections)
    }
}

impl<D> std::fmt::Debug for Virtio<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Virtio[{}]", self.instance)
    }
}

/// The version of all bodies that these devices are saved in.
const VERSION: u16 = 1;

/// The start of a section's body.
fn body() -> Writer {
    saved::body(VERSION)
}

/// The rest of a section's body.
fn body_of(sections: &[Section], kind: Kind, instance: u32) -> Result<Reader<'_>> {
    saved::body_of(sections, kind, instance, VERSION)
}
