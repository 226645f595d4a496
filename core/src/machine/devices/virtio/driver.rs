//! A guest's side of a device, for tests and fuzzing: it finds the device, sets it up, and puts chains
//! into its queues, right ones and wrong ones.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]
#![cfg_attr(fuzzing, allow(dead_code, reason = "the tests use all of it"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_mmio::*;
use virtio_bindings::bindings::virtio_ring::*;

use super::core::Workers;
use super::device::Device;
use super::{MmioDevice, Place, Virtio};
use crate::error::Result;
use crate::hypervisor::{Section, Vm};
use crate::memory::{Backing, DirtyLog, GuestRam};

/// Status bits up to each step of a driver.
pub(super) const ACKNOWLEDGE: u32 = 1;
pub(super) const DRIVER: u32 = 3;
pub(super) const FEATURES_OK: u32 = 11;
pub(super) const DRIVER_OK: u32 = 15;
/// The device's own bit.
pub(super) const NEEDS_RESET: u32 = 64;

/// Features of the rings.
pub(super) const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
pub(super) const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// The memory of a guest here.
pub(super) const RAM: u64 = 4 << 20;
/// Where buffers are: above the rings.
pub(super) const BUFFERS: u64 = 1 << 20;

/// A VM that has nothing but interrupt lines, and counts what is sent.
#[derive(Debug, Default)]
pub(super) struct Lines(AtomicU32);

impl Lines {
    /// Interrupts since the last call.
    pub(super) fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl DirtyLog for Lines {
    fn set_logging(&self, _on: bool) -> Result<()> {
        Ok(())
    }
    fn read(&self, _slot: u32, _words: &mut [u64]) -> Result<()> {
        Ok(())
    }
    fn clear(&self, _slot: u32, _first: u64, _pages: u64, _words: &[u64]) -> Result<()> {
        Ok(())
    }
}

impl Vm for Lines {
    fn save(&self) -> Result<Vec<Section>> {
        Ok(Vec::new())
    }
    fn load(&self, _sections: &[Section]) -> Result<()> {
        Ok(())
    }
    fn load_clock(&self, _sections: &[Section]) -> Result<()> {
        Ok(())
    }
    fn interrupt(&self, gsi: u32) -> Result<()> {
        assert_eq!(gsi, GSI);
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn tsc_khz(&self) -> u32 {
        1
    }
}

const GSI: u32 = 6;

/// A descriptor that a test writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) gpa: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

/// A buffer for the device to read.
pub(super) fn out(gpa: u64, len: u32) -> Descriptor {
    Descriptor {
        gpa,
        len,
        flags: 0,
        next: 0,
    }
}

/// A buffer for the device to write.
pub(super) fn inward(gpa: u64, len: u32) -> Descriptor {
    Descriptor {
        flags: VRING_DESC_F_WRITE as u16,
        ..out(gpa, len)
    }
}

/// Where a queue lies, and how far its driver is.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub(super) size: u16,
    pub(super) table: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
}

/// A device with its driver.
#[derive(Clone)]
pub(super) struct Driver<D> {
    pub(super) device: Arc<Virtio<D>>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) lines: Arc<Lines>,
    pub(super) rings: Vec<Ring>,
}

impl<D: Device + 'static> Driver<D> {
    /// A device that runs, and whose driver has done nothing yet.
    pub(super) fn new(device: D, workers: Workers) -> Self {
        let driver = Self::paused(device, workers);
        driver.device.resume();
        driver
    }

    /// A device that was made and nothing else.
    pub(super) fn paused(device: D, workers: Workers) -> Self {
        let ram = GuestRam::allocate(RAM, Backing::Memfd).unwrap();
        Self::over(device, workers, ram)
    }

    /// The same over memory that is there.
    pub(super) fn over(device: D, workers: Workers, ram: Arc<GuestRam>) -> Self {
        let lines = Arc::new(Lines::default());
        let vm = Arc::clone(&lines) as Arc<dyn Vm>;
        let place = Place {
            instance: 3,
            gsi: GSI,
        };
        let device = Virtio::new("test", place, device, &ram, &vm, workers).unwrap();
        Self {
            device: Arc::new(device),
            ram,
            lines,
            rings: Vec::new(),
        }
    }

    pub(super) fn get(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.device.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn set(&self, register: u32, value: u32) {
        self.device.write(register.into(), &value.to_le_bytes());
    }

    pub(super) fn status(&self) -> u32 {
        self.get(VIRTIO_MMIO_STATUS)
    }

    pub(super) fn set_status(&self, value: u32) {
        self.set(VIRTIO_MMIO_STATUS, value);
    }

    pub(super) fn offered(&self) -> u64 {
        [1, 0].into_iter().fold(0, |all, half| {
            self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            all << 32 | u64::from(self.get(VIRTIO_MMIO_DEVICE_FEATURES))
        })
    }

    pub(super) fn accept(&self, features: u64) {
        for (half, bits) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, bits);
        }
    }

    /// Up to the features, which have to be accepted.
    pub(super) fn negotiate(&self, features: u64) {
        self.set_status(0);
        assert_eq!(self.status(), 0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(DRIVER);
        self.accept(features);
        self.set_status(FEATURES_OK);
        assert_eq!(self.status(), FEATURES_OK);
    }

    /// All that a driver does before its first request, with queues of that size.
    pub(super) fn start(&mut self, features: u64, size: u16) {
        self.negotiate(features | VERSION_1);
        self.rings.clear();
        while self.select(self.rings.len() as u32) > 0 {
            let ring = self.lay_out(self.rings.len() as u32, size);
            self.rings.push(ring);
        }
        self.set_status(DRIVER_OK);
        assert_eq!(self.status(), DRIVER_OK);
    }

    /// Selects a queue; its largest size.
    pub(super) fn select(&self, queue: u32) -> u32 {
        self.set(VIRTIO_MMIO_QUEUE_SEL, queue);
        self.get(VIRTIO_MMIO_QUEUE_NUM_MAX)
    }

    fn lay_out(&self, queue: u32, size: u16) -> Ring {
        let base = 0x1_0000 * (u64::from(queue) + 1);
        let ring = Ring {
            size,
            table: base,
            available: base + 0x2000,
            used: base + 0x4000,
            next_descriptor: 0,
            next_available: 0,
            next_used: 0,
        };
        self.ram.write(base, &[0; 0x6000]).unwrap();
        self.set_up(queue, &ring);
        assert_eq!(self.get(VIRTIO_MMIO_QUEUE_READY), 1);
        ring
    }

    pub(super) fn set_up(&self, queue: u32, ring: &Ring) {
        self.select(queue);
        self.set(VIRTIO_MMIO_QUEUE_NUM, ring.size.into());
        for (low, address) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, ring.table),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring.available),
            (VIRTIO_MMIO_QUEUE_USED_LOW, ring.used),
        ] {
            self.set(low, address as u32);
            self.set(low + 4, (address >> 32) as u32);
        }
        self.set(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// Writes a descriptor of a table.
    pub(super) fn write_descriptor(&self, table: u64, index: u16, d: Descriptor) {
        let mut bytes = d.gpa.to_le_bytes().to_vec();
        bytes.extend(d.len.to_le_bytes());
        bytes.extend(d.flags.to_le_bytes());
        bytes.extend(d.next.to_le_bytes());
        self.ram
            .write(table + u64::from(index) * 16, &bytes)
            .unwrap();
    }

    /// Makes a head available.
    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let at = ring.available + 4 + u64::from(ring.next_available % ring.size) * 2;
        self.ram.write(at, &head.to_le_bytes()).unwrap();
        ring.next_available = ring.next_available.wrapping_add(1);
        let index = ring.next_available.to_le_bytes();
        self.ram.write(ring.available + 2, &index).unwrap();
    }

    /// Puts a chain of these buffers into a queue; its head.
    pub(super) fn push(&mut self, queue: usize, buffers: &[Descriptor]) -> u16 {
        let (ring, mut head) = (self.rings[queue].clone(), None);
        let mut at = ring.next_descriptor;
        for (i, &buffer) in buffers.iter().enumerate() {
            let next = (at + 1) % ring.size;
            let mut descriptor = buffer;
            if i + 1 < buffers.len() {
                descriptor.flags |= VRING_DESC_F_NEXT as u16;
                descriptor.next = next;
            }
            self.write_descriptor(ring.table, at, descriptor);
            head.get_or_insert(at);
            at = next;
        }
        self.rings[queue].next_descriptor = at;
        let head = head.unwrap();
        self.offer(queue, head);
        head
    }

    pub(super) fn notify(&self, queue: usize) {
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
    }

    /// The next request that came back: its head, and how many bytes were written.
    pub(super) fn used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = &mut self.rings[queue];
        let mut index = [0; 2];
        self.ram.read(ring.used + 2, &mut index).unwrap();
        if u16::from_le_bytes(index) == ring.next_used {
            return None;
        }
        let at = ring.used + 4 + u64::from(ring.next_used % ring.size) * 8;
        ring.next_used = ring.next_used.wrapping_add(1);
        let [pair] = self.ram.read_words::<1>(at).unwrap();
        Some((pair as u32, (pair >> 32) as u32))
    }

    /// Writes a word of the rings: an index, an event, flags.
    pub(super) fn poke(&self, gpa: u64, value: u16) {
        self.ram.write(gpa, &value.to_le_bytes()).unwrap();
    }

    pub(super) fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(gpa, &mut bytes).unwrap();
        bytes
    }

    /// Acknowledges the interrupt; what it was for.
    pub(super) fn acknowledge(&self) -> u32 {
        let reasons = self.get(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.set(VIRTIO_MMIO_INTERRUPT_ACK, reasons);
        reasons
    }
}

impl Ring {
    /// Where the driver says from which request on it wants to be interrupted.
    pub(super) fn used_event(&self) -> u64 {
        self.available + 4 + u64::from(self.size) * 2
    }

    /// Where the device says from which request on it wants to be notified.
    pub(super) fn available_event(&self) -> u64 {
        self.used + 4 + u64::from(self.size) * 8
    }
}
