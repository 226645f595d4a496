//! A virtio device without its transport: status, features, queues, and the work in flight.
//!
//! `state` is what the driver has made of the device, `serve` takes requests out of the queues and
//! gives them back, on threads of the device's own, `saved` is the saved form. The functions here are
//! those of a transport's registers and of the machine.
//!
//! A vCPU that notifies only marks its queue and wakes a worker. The lock is held for the bookkeeping
//! of one request, never while a request is carried out.
#![forbid(unsafe_code)]

mod saved;
mod serve;
mod state;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

use self::state::State;
use super::device::Device;
use super::queue::{Area, Queue};
use crate::error::{DWCPError, Result};
use crate::machine::vcpu::spawn;
use crate::memory::GuestRam;

/// What every device offers: it is no legacy device, takes indirect descriptors, and lets driver and
/// device tell each other how many notifications they need.
const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// How long a vCPU waits for requests in flight when its guest resets the device. A driver is to poll
/// until the status is 0, but that of Linux for virtio-mmio does not: so nearly all resets end within
/// the write that asks for them. What takes longer, on a disk that hangs, ends by itself.
const RESET_PATIENCE: Duration = Duration::from_millis(100);

/// How a device tells its driver something; a part of its transport. Called with the core's lock held.
pub(super) trait Signals: Send + Sync {
    /// There are requests in the used ring.
    fn used(&self);
    /// The configuration space or the status changed.
    fn config_changed(&self);
    /// Forgets what the driver has not taken notice of.
    fn clear(&self);
    /// Tells again what the driver has not taken notice of.
    fn repeat(&self);
}

/// Who carries out requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) enum Workers {
    /// So many threads, at least one.
    Threads(u8),
    /// Whoever notifies: for tests and fuzzing, which want the same order each time.
    #[cfg(any(test, fuzzing))]
    Caller,
}

/// A device, its queues, and the threads that serve them. Dropping it ends the threads.
///
/// It is made paused: nothing is taken from a queue before the first [`resume`](Self::resume).
pub(super) struct Core {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads work with.
struct Shared {
    device: Arc<dyn Device>,
    ram: Arc<GuestRam>,
    signals: Arc<dyn Signals>,
    state: Mutex<State>,
    /// There may be something to do, or the end has come.
    work: Condvar,
    /// The last request in flight has ended.
    idle: Condvar,
    /// No threads: the caller works.
    inline: bool,
}

impl Core {
    /// A device after power-on; its threads are called `name` and a number.
    ///
    /// # Errors
    ///
    /// `resource_limit` when a thread cannot be started.
    pub(super) fn new(
        name: &str,
        device: Arc<dyn Device>,
        ram: Arc<GuestRam>,
        signals: Arc<dyn Signals>,
        workers: Workers,
    ) -> Result<Self> {
        let queues = device.queues().iter().map(|&size| Queue::new(size));
        let state = State::new(queues.collect());
        let count = match workers {
            Workers::Threads(count) => count.max(1),
            #[cfg(any(test, fuzzing))]
            Workers::Caller => 0,
        };
        let mut core = Self {
            shared: Arc::new(Shared {
                device,
                ram,
                signals,
                state: Mutex::new(state),
                work: Condvar::new(),
                idle: Condvar::new(),
                inline: count == 0,
            }),
            threads: Vec::new(),
        };
        for index in 0..count {
            let shared = Arc::clone(&core.shared);
            // When one cannot be started, dropping the core ends those that were.
            let thread = spawn(&format!("{name}/{index}"), move || shared.live());
            core.threads.push(thread.map_err(|error| {
                DWCPError::ResourceLimit(format!("a thread of the device {name}: {error}"))
            })?);
        }
        Ok(core)
    }

    // ---- the registers ----

    /// The device's number in the specification.
    pub(super) fn id(&self) -> u32 {
        self.shared.device.id()
    }

    /// The feature bits it offers.
    pub(super) fn offered(&self) -> u64 {
        COMMON_FEATURES | self.shared.device.features()
    }

    /// The driver accepts features: the low or the high half of the bits.
    pub(super) fn accept(&self, high: bool, bits: u32) {
        self.lock().accept(high, bits);
    }

    /// The status as the driver sees it. While a reset waits for requests in flight it is the old one,
    /// and this waits a moment for that to end.
    pub(super) fn status(&self) -> u8 {
        self.settle(self.lock()).status()
    }

    /// The driver sets status bits, or 0 to reset the device.
    pub(super) fn set_status(&self, value: u8) {
        let mut state = self.lock();
        if value == 0 {
            state.begin_reset();
            self.shared.finish_reset(&mut state);
            drop(self.settle(state));
        } else {
            let began = state.add_status(value, self.offered());
            if began {
                self.shared.device.activate(state.features());
                self.shared.look_at_all(state);
            }
        }
    }

    /// The largest size of a queue; 0: there is no such queue.
    pub(super) fn max_size(&self, queue: u32) -> u16 {
        self.lock().queue(queue).map_or(0, Queue::max_size)
    }

    /// Whether a queue is in use.
    pub(super) fn is_ready(&self, queue: u32) -> bool {
        self.lock().queue(queue).is_some_and(Queue::is_ready)
    }

    /// The driver sets the size of a queue.
    pub(super) fn set_size(&self, queue: u32, size: u32) {
        if let Some(queue) = self.lock().queue_to_set(queue) {
            queue.set_size(size);
        }
    }

    /// The driver sets half of where a part of a queue lies.
    pub(super) fn set_address(&self, queue: u32, area: Area, high: bool, value: u32) {
        if let Some(queue) = self.lock().queue_to_set(queue) {
            queue.set_address(area, high, value);
        }
    }

    /// The driver puts a queue into use, or takes it out of use.
    pub(super) fn set_ready(&self, queue: u32, ready: bool) {
        let mut state = self.lock();
        if let Err(broken) = state.set_ready(queue, ready) {
            self.shared.stop(&mut state, broken);
        }
    }

    /// The driver says that there are requests in a queue.
    pub(super) fn notify(&self, queue: u32) {
        let mut state = self.lock();
        state.notify(queue);
        self.shared.wake(state);
    }

    /// Counts the changes of the configuration space.
    pub(super) fn generation(&self) -> u32 {
        self.lock().generation
    }

    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.shared.device.read_config(offset, data);
    }

    pub(super) fn write_config(&self, offset: u64, data: &[u8]) {
        self.shared.device.write_config(offset, data);
    }

    // ---- the machine ----

    /// Changes the configuration space by `change`, and tells the driver. Whoever reads it meanwhile
    /// sees by its generation that it has to read again.
    pub(super) fn change_config(&self, change: impl FnOnce()) {
        let mut state = self.lock();
        change();
        state.generation = state.generation.wrapping_add(1);
        if state.is_driven() {
            self.shared.signals.config_changed();
        }
    }

    /// Completes a request that was looked at and [kept](super::device::Handled::Kept), with nothing
    /// written; whether there was one.
    pub(super) fn complete_kept(&self, queue: u32) -> bool {
        self.shared.complete_kept(self.lock(), queue)
    }

    /// All work in flight ends, none begins.
    pub(super) fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        drop(self.wait_idle(state));
    }

    /// Whether it is paused, or about to be.
    #[cfg(test)]
    pub(super) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Workers that wait for something to do.
    #[cfg(test)]
    pub(super) fn sleeping(&self) -> usize {
        self.lock().sleeping
    }

    /// Work goes on: every queue is looked at, and what the driver has not taken notice of is told
    /// again.
    pub(super) fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        self.shared.signals.repeat();
        self.shared.look_at_all(state);
    }

    /// Puts the device into the state after power-on. Waits for work in flight.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.begin_reset();
        let mut state = self.wait_idle(state);
        self.shared.finish_reset(&mut state);
    }

    fn wait_idle<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.shared
            .idle
            .wait_while(state, |state| state.in_flight > 0)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, for a bounded time, for a reset that is under way.
    fn settle<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self
            .shared
            .idle
            .wait_timeout_while(state, RESET_PATIENCE, |state| state.is_resetting());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.lock().quit = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a device's thread panicked");
            }
        }
    }
}
