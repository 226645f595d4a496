//! What a driver has made of a device: the rules of the status register, chapter 3.1 of the
//! specification.
#![forbid(unsafe_code)]

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::super::queue::{Broken, Queue};

/// Status bits, of a register that is wider than they are.
#[allow(
    clippy::cast_possible_truncation,
    reason = "they are constants below 256"
)]
pub(super) mod status {
    use super::*;

    pub(in super::super) const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
    pub(in super::super) const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
    pub(in super::super) const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
    pub(in super::super) const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
    pub(in super::super) const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
    pub(in super::super) const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;
}

use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};

/// The bits a driver can set.
const SETTABLE: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED;

/// The state of a device.
#[derive(Debug)]
pub(super) struct State {
    status: u8,
    /// The features that the driver accepts; fixed once FEATURES_OK is set.
    features: u64,
    queues: Vec<Queue>,
    /// Counts the changes of the configuration space.
    pub(super) generation: u32,
    /// One bit for each queue that has to be looked at.
    pending: u64,
    /// Requests that were taken and not given back.
    pub(super) in_flight: usize,
    /// The machine does not run.
    pub(super) paused: bool,
    /// A reset waits for requests in flight.
    resetting: bool,
    /// Workers that wait for something to do.
    pub(super) sleeping: usize,
    /// The device is being dropped.
    pub(super) quit: bool,
}

/// Whether with these features the rings tell how many notifications are needed.
pub(super) fn uses_event_idx(features: u64) -> bool {
    features & 1 << VIRTIO_RING_F_EVENT_IDX != 0
}

impl State {
    pub(super) fn new(queues: Vec<Queue>) -> Self {
        debug_assert!(queues.len() <= 64, "one bit for each");
        Self {
            status: 0,
            features: 0,
            queues,
            generation: 0,
            pending: 0,
            in_flight: 0,
            paused: true,
            resetting: false,
            sleeping: 0,
            quit: false,
        }
    }

    /// Whether a device can be in such a state, or what is wrong with it.
    pub(super) fn check(status: u8, queues: &[Queue]) -> Result<(), &'static str> {
        if status & !(SETTABLE | NEEDS_RESET) != 0 {
            return Err("its status has unknown bits");
        }
        let in_use = status & DRIVER_OK != 0 || queues.iter().any(Queue::is_ready);
        if status & FEATURES_OK == 0 && in_use {
            return Err("its driver runs without features");
        }
        Ok(())
    }

    /// Takes over what a driver has made of another device, which was checked. What the workers do
    /// here stays as it is.
    pub(super) fn restore(
        &mut self,
        status: u8,
        features: u64,
        generation: u32,
        queues: Vec<Queue>,
    ) {
        self.status = status;
        self.features = features;
        self.generation = generation;
        self.queues = queues;
    }

    pub(super) fn status(&self) -> u8 {
        self.status
    }

    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// Whether the rings tell how many notifications are needed.
    fn event_idx(&self) -> bool {
        uses_event_idx(self.features)
    }

    pub(super) fn is_resetting(&self) -> bool {
        self.resetting
    }

    /// Whether a driver is there that takes notice of changes.
    pub(super) fn is_driven(&self) -> bool {
        self.status & DRIVER_OK != 0 && !self.resetting
    }

    /// Whether requests are taken from the queues.
    pub(super) fn serves(&self) -> bool {
        self.is_driven() && !self.paused && self.status & (NEEDS_RESET | FAILED) == 0
    }

    /// Whether requests are given back to the queues, also by a machine that pauses.
    pub(super) fn takes_back(&self) -> bool {
        self.is_driven() && self.status & NEEDS_RESET == 0
    }

    // ---- what the driver does ----

    pub(super) fn accept(&mut self, high: bool, bits: u32) {
        if self.status & FEATURES_OK == 0 && self.status & DRIVER != 0 {
            let bits = u64::from(bits);
            self.features = match high {
                false => self.features & !0xffff_ffff | bits,
                true => self.features & 0xffff_ffff | bits << 32,
            };
        }
    }

    /// Sets the bits of `value` that may be set now; none is ever cleared. Whether the driver begins
    /// by it.
    pub(super) fn add_status(&mut self, value: u8, offered: u64) -> bool {
        if self.resetting {
            return false;
        }
        let mut new = value & SETTABLE & !self.status;
        let with = |new: u8, wanted: u8| (self.status | new) & wanted == wanted;
        let modern = self.features & 1 << VIRTIO_F_VERSION_1 != 0;
        let offered = self.features & !offered == 0;
        if !with(new, ACKNOWLEDGE | DRIVER) || !modern || !offered {
            new &= !FEATURES_OK;
        }
        if !with(new, FEATURES_OK) {
            new &= !DRIVER_OK;
        }
        self.status |= new;
        new & DRIVER_OK != 0
    }

    pub(super) fn queues(&self) -> &[Queue] {
        &self.queues
    }

    pub(super) fn queue(&self, index: u32) -> Option<&Queue> {
        self.queues.get(index as usize)
    }

    pub(super) fn queue_mut(&mut self, index: usize) -> Option<&mut Queue> {
        self.queues.get_mut(index)
    }

    /// A queue while its registers can be set: after the features, before the driver begins.
    pub(super) fn queue_to_set(&mut self, index: u32) -> Option<&mut Queue> {
        let settable = self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK && !self.resetting;
        self.queues.get_mut(index as usize).filter(|_| settable)
    }

    /// A queue can be taken out of use at any time, and comes back into use with the next reset: so a
    /// request in flight never comes back to other rings than it was taken from.
    pub(super) fn set_ready(&mut self, index: u32, ready: bool) -> Result<(), Broken> {
        let event_idx = self.event_idx();
        let queue = match ready {
            true => self.queue_to_set(index),
            false if self.resetting => None,
            false => self.queues.get_mut(index as usize),
        };
        queue.map_or(Ok(()), |queue| queue.set_ready(ready, event_idx))
    }

    /// A queue is to be looked at.
    pub(super) fn notify(&mut self, index: u32) {
        if self.queue(index).is_some_and(Queue::is_ready) {
            self.pending |= 1 << index;
        }
    }

    /// All queues are to be looked at.
    pub(super) fn notify_all(&mut self) {
        for index in (0..).take(self.queues.len()) {
            self.notify(index);
        }
    }

    // ---- what the device does ----

    /// A queue to look at now.
    pub(super) fn pending(&self) -> Option<usize> {
        (self.serves() && self.pending != 0).then(|| self.pending.trailing_zeros() as usize)
    }

    /// A queue has been looked at.
    pub(super) fn looked_at(&mut self, index: usize) {
        self.pending &= !(1 << index);
    }

    /// The device can go on only after a reset; whether a driver wants to know.
    pub(super) fn needs_reset(&mut self) -> bool {
        let news = self.status & NEEDS_RESET == 0 && self.is_driven();
        self.status |= NEEDS_RESET;
        news
    }

    /// No request is taken any more; those in flight still have to end.
    pub(super) fn begin_reset(&mut self) {
        self.resetting = true;
        self.pending = 0;
    }

    /// The state after power-on, if nothing stands in the way of a reset; whether it came to that.
    pub(super) fn finish_reset(&mut self) -> bool {
        let done = self.resetting && self.in_flight == 0;
        if done {
            self.resetting = false;
            self.status = 0;
            self.features = 0;
            self.queues.iter_mut().for_each(Queue::reset);
        }
        done
    }
}
