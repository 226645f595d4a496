//! One queue: where its rings lie, and how requests come out of it and go back.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue as Rings, QueueOwnedT, QueueState, QueueT};
use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

use super::chain::Chain;
use crate::error::Result;
use crate::hypervisor::{Reader, Writer};
use crate::memory::GuestRam;

/// The largest queue that a device here offers, and so the longest chain.
pub(in crate::machine) const MAX_QUEUE_SIZE: u16 = 256;

/// Guest memory as the rings take it.
pub(super) type Memory = GuestMemoryMmap<AtomicBitmap>;

/// Why a device can go on only after a reset: what the driver, or who overwrote its rings, did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// One of the three parts of a queue in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// The table of descriptors.
    Descriptors,
    /// The ring that the driver writes.
    Available,
    /// The ring that the device writes.
    Used,
}

/// A queue. Its registers can be set until it is ready; then its rings are used.
#[derive(Debug)]
pub(super) struct Queue {
    /// What the driver has set.
    registers: QueueState,
    /// The rings of a queue that is ready.
    rings: Option<Rings>,
}

impl Queue {
    pub(super) fn new(max_size: u16) -> Self {
        let registers = QueueState {
            max_size,
            size: max_size,
            ..QueueState::default()
        };
        Self {
            registers,
            rings: None,
        }
    }

    pub(super) fn max_size(&self) -> u16 {
        self.registers.max_size
    }

    pub(super) fn is_ready(&self) -> bool {
        self.rings.is_some()
    }

    /// Sets its size. One that cannot be is kept, and found when the queue is made ready.
    pub(super) fn set_size(&mut self, size: u32) {
        if !self.is_ready() {
            self.registers.size = u16::try_from(size).unwrap_or(0);
        }
    }

    /// Sets the low or high half of where a part of it lies.
    pub(super) fn set_address(&mut self, area: Area, high: bool, value: u32) {
        if self.is_ready() {
            return;
        }
        let address = match area {
            Area::Descriptors => &mut self.registers.desc_table,
            Area::Available => &mut self.registers.avail_ring,
            Area::Used => &mut self.registers.used_ring,
        };
        let value = u64::from(value);
        *address = match high {
            false => *address & !0xffff_ffff | value,
            true => *address & 0xffff_ffff | value << 32,
        };
    }

    /// Makes it ready with what is set, or takes it out of use.
    pub(super) fn set_ready(&mut self, ready: bool, event_idx: bool) -> Result<(), Broken> {
        if !ready {
            self.rings = None;
        } else if self.rings.is_none() {
            self.registers.ready = true;
            self.registers.event_idx_enabled = event_idx;
            let rings = Rings::try_from(self.registers);
            self.rings = Some(rings.map_err(|_| Broken("a queue has no size or place"))?);
        }
        Ok(())
    }

    /// The next request; `None` when the driver has made no other available.
    pub(super) fn pop(&mut self, ram: &GuestRam) -> Result<Option<Chain>, Broken> {
        let Some(rings) = &mut self.rings else {
            return Ok(None);
        };
        let memory = ram.memory();
        rings.disable_notification(memory).map_err(outside)?;
        let available = rings.avail_idx(memory, Ordering::Acquire);
        if available.map_err(outside)?.0 == rings.next_avail() {
            return Ok(None);
        }
        let mut heads = rings
            .iter(memory)
            .map_err(|_| Broken("more requests are available than the queue holds"))?;
        let descriptors = heads.next().ok_or(Broken(OUTSIDE))?;
        Chain::read(ram, descriptors).map(Some)
    }

    /// Puts the last request back into the ring, as if it had not been taken.
    pub(super) fn put_back(&mut self) {
        if let Some(rings) = &mut self.rings {
            rings.go_to_previous_position();
        }
    }

    /// Whether there is another request, without taking it.
    pub(super) fn has_more(&self, ram: &GuestRam) -> bool {
        self.rings.as_ref().is_some_and(|rings| {
            let available = rings.avail_idx(ram.memory(), Ordering::Relaxed);
            available.is_ok_and(|index| index.0 != rings.next_avail())
        })
    }

    /// Asks the driver to notify again; true when a request came just before, without a notification.
    pub(super) fn await_notification(&mut self, ram: &GuestRam) -> Result<bool, Broken> {
        match &mut self.rings {
            Some(rings) => rings.enable_notification(ram.memory()).map_err(outside),
            None => Ok(false),
        }
    }

    /// Gives a request back, with `written` bytes in its buffers; whether the driver wants to be
    /// interrupted.
    pub(super) fn complete(
        &mut self,
        ram: &GuestRam,
        head: u16,
        written: u32,
    ) -> Result<bool, Broken> {
        let Some(rings) = &mut self.rings else {
            return Ok(false);
        };
        let memory = ram.memory();
        rings.add_used(memory, head, written).map_err(outside)?;
        rings.needs_notification(memory).map_err(outside)
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.registers.max_size);
    }

    /// Saves it; nothing of it is in flight.
    pub(super) fn save(&self, out: &mut Writer) {
        let state = self.rings.as_ref().map_or(self.registers, Rings::state);
        out.u16(state.max_size);
        out.u16(state.size);
        out.u8(u8::from(self.is_ready()));
        out.u64(state.desc_table);
        out.u64(state.avail_ring);
        out.u64(state.used_ring);
        out.u16(state.next_avail);
        out.u16(state.next_used);
    }

    /// Loads what [`save`](Self::save) saved.
    pub(super) fn load(reader: &mut Reader<'_>, event_idx: bool) -> Result<Self> {
        let (max_size, size) = (reader.u16()?, reader.u16()?);
        let ready = match reader.u8()? {
            0 => false,
            1 => true,
            other => return Err(super::refused(&format!("a queue's readiness is {other}"))),
        };
        let registers = QueueState {
            max_size,
            size,
            ready,
            event_idx_enabled: event_idx,
            desc_table: reader.u64()?,
            avail_ring: reader.u64()?,
            used_ring: reader.u64()?,
            next_avail: reader.u16()?,
            next_used: reader.u16()?,
        };
        let rings = match ready {
            true => Some(
                Rings::try_from(registers)
                    .map_err(|error| super::refused(&format!("a queue: {error}")))?,
            ),
            false => None,
        };
        // A queue that is not ready is where it was after the reset, but for its registers.
        let registers = QueueState {
            next_avail: 0,
            next_used: 0,
            ..registers
        };
        Ok(Self { registers, rings })
    }
}

const OUTSIDE: &str = "a ring lies outside RAM";

fn outside(_: impl Display) -> Broken {
    Broken(OUTSIDE)
}
