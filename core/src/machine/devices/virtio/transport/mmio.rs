//! virtio-mmio, the modern form (version 2): chapter 4.2 of the specification.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::bindings::virtio_mmio::*;

use super::super::core::{Core, Signals, Workers};
use super::super::device::Device;
use super::super::queue::Area;
use super::super::{body, body_of, refused};
use crate::error::Result;
use crate::hypervisor::{Kind, Section, Vm};
use crate::memory::GuestRam;

/// "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// Version 1 was the legacy form.
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"DWCP");

/// The reasons of an interrupt that there are.
const REASONS: u32 = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;

/// A device behind 4 KiB of registers and one interrupt line.
pub(in super::super) struct Mmio {
    core: Core,
    line: Arc<Line>,
    /// Which half of the offered features the driver reads.
    offered_half: AtomicU32,
    /// Which half of the accepted features it writes.
    accepted_half: AtomicU32,
    /// Which queue its registers are about.
    queue: AtomicU32,
}

/// The interrupt line, with the reasons that the driver has not acknowledged.
struct Line {
    vm: Arc<dyn Vm>,
    gsi: u32,
    reasons: AtomicU32,
}

impl Line {
    fn raise(&self, reason: u32) {
        self.reasons.fetch_or(reason, Ordering::SeqCst);
        self.send();
    }

    fn send(&self) {
        if let Err(error) = self.vm.interrupt(self.gsi) {
            // The driver waits for a request that is done: a defect of the host that should be seen.
            tracing::warn!(%error, gsi = self.gsi, "a device's interrupt was not delivered");
        }
    }
}

impl Signals for Line {
    fn used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    fn config_changed(&self) {
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn clear(&self) {
        self.reasons.store(0, Ordering::SeqCst);
    }

    fn repeat(&self) {
        if self.reasons.load(Ordering::SeqCst) != 0 {
            self.send();
        }
    }
}

impl Mmio {
    /// See [`Core::new`].
    pub(in super::super) fn new(
        name: &str,
        device: Arc<dyn Device>,
        ram: Arc<GuestRam>,
        vm: Arc<dyn Vm>,
        gsi: u32,
        workers: Workers,
    ) -> Result<Self> {
        let line = Arc::new(Line {
            vm,
            gsi,
            reasons: AtomicU32::new(0),
        });
        let signals = Arc::clone(&line) as Arc<dyn Signals>;
        Ok(Self {
            core: Core::new(name, device, ram, signals, workers)?,
            line,
            offered_half: AtomicU32::new(0),
            accepted_half: AtomicU32::new(0),
            queue: AtomicU32::new(0),
        })
    }

    pub(in super::super) fn core(&self) -> &Core {
        &self.core
    }

    /// A read. Registers are read four bytes at a time; what is none, or is read otherwise, reads as
    /// ones.
    pub(in super::super) fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            return self.core.read_config(offset, data);
        }
        data.fill(0xff);
        if let (Ok(data), Some(register)) = (<&mut [u8; 4]>::try_from(data), register(offset)) {
            *data = self.read_register(register).to_le_bytes();
        }
    }

    /// A write. What is no register, or is not written four bytes at a time, is not written.
    pub(in super::super) fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            return self.core.write_config(offset, data);
        }
        if let (Ok(data), Some(register)) = (<[u8; 4]>::try_from(data), register(offset)) {
            self.write_register(register, u32::from_le_bytes(data));
        }
    }

    fn read_register(&self, register: u32) -> u32 {
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.core.id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => match half(&self.offered_half) {
                Some(high) => half_of(self.core.offered(), high),
                None => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.core.max_size(self.queue()).into(),
            VIRTIO_MMIO_QUEUE_READY => self.core.is_ready(self.queue()).into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.line.reasons.load(Ordering::SeqCst),
            VIRTIO_MMIO_STATUS => self.core.status().into(),
            VIRTIO_MMIO_CONFIG_GENERATION => self.core.generation(),
            // Among them the length of shared memory, for which ones mean that there is none.
            _ => u32::MAX,
        }
    }

    fn write_register(&self, register: u32, value: u32) {
        let queue = self.queue();
        let address = |area, high| self.core.set_address(queue, area, high, value);
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.offered_half.store(value, Ordering::SeqCst),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.accepted_half.store(value, Ordering::SeqCst),
            VIRTIO_MMIO_DRIVER_FEATURES => {
                if let Some(high) = half(&self.accepted_half) {
                    self.core.accept(high, value);
                }
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue.store(value, Ordering::SeqCst),
            VIRTIO_MMIO_QUEUE_NUM => self.core.set_size(queue, value),
            VIRTIO_MMIO_QUEUE_READY => self.core.set_ready(queue, value == 1),
            VIRTIO_MMIO_QUEUE_NOTIFY => self.core.notify(value),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.line.reasons.fetch_and(!value, Ordering::SeqCst);
            }
            // Other bits than the eight are not known, and so not set.
            VIRTIO_MMIO_STATUS => self.core.set_status(value.to_le_bytes()[0]),
            VIRTIO_MMIO_QUEUE_DESC_LOW => address(Area::Descriptors, false),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => address(Area::Descriptors, true),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => address(Area::Available, false),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => address(Area::Available, true),
            VIRTIO_MMIO_QUEUE_USED_LOW => address(Area::Used, false),
            VIRTIO_MMIO_QUEUE_USED_HIGH => address(Area::Used, true),
            _ => {}
        }
    }

    fn queue(&self) -> u32 {
        self.queue.load(Ordering::SeqCst)
    }

    /// Puts the device into the state after power-on.
    pub(in super::super) fn reset(&self) {
        self.core.reset();
        for selector in [&self.offered_half, &self.accepted_half, &self.queue] {
            selector.store(0, Ordering::SeqCst);
        }
    }

    /// Saves a paused device, all of it.
    pub(in super::super) fn save(&self, instance: u32) -> Vec<Section> {
        let mut out = body();
        for register in [
            &self.line.reasons,
            &self.offered_half,
            &self.accepted_half,
            &self.queue,
        ] {
            out.u32(register.load(Ordering::SeqCst));
        }
        let mut sections = vec![Section::new(Kind::VirtioMmio, instance, out.0)];
        sections.extend(self.core.save(instance));
        sections
    }

    /// Loads what [`save`](Self::save) saved, into a device that has not run.
    ///
    /// # Errors
    ///
    /// See [`Core::load`].
    pub(in super::super) fn load(&self, instance: u32, sections: &[Section]) -> Result<()> {
        let mut reader = body_of(sections, Kind::VirtioMmio, instance)?;
        let reasons = reader.u32()?;
        if reasons & !REASONS != 0 {
            return Err(refused(&format!(
                "device {instance} interrupts for unknown reasons {reasons:#x}"
            )));
        }
        let selectors = [reader.u32()?, reader.u32()?, reader.u32()?];
        reader.finish()?;
        self.core.load(instance, sections)?;
        self.line.reasons.store(reasons, Ordering::SeqCst);
        for (register, value) in [&self.offered_half, &self.accepted_half, &self.queue]
            .into_iter()
            .zip(selectors)
        {
            register.store(value, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The register at that offset.
fn register(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|at| at.is_multiple_of(4))
}

/// Which half of the features a selector means: there are 64 bits of them.
fn half(selector: &AtomicU32) -> Option<bool> {
    match selector.load(Ordering::SeqCst) {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "half of the bits is wanted"
)]
fn half_of(features: u64, high: bool) -> u32 {
    match high {
        false => features as u32,
        true => (features >> 32) as u32,
    }
}
