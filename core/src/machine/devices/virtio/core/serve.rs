//! Taking requests out of the queues, and giving them back.
#![forbid(unsafe_code)]

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::super::chain::Chain;
use super::super::device::Handled;
use super::super::queue::Broken;
use super::Shared;
use super::state::State;

/// What there is to do.
enum Next {
    /// A request of a queue; it counts as in flight.
    Request(usize, Chain),
    /// Nothing before that time has passed, unless something happens.
    Later(Duration),
    /// Nothing before something happens.
    Nothing,
}

impl Shared {
    /// A worker: does what there is to do, until the end.
    pub(super) fn live(&self) {
        let mut state = self.lock();
        while !state.quit {
            state = match self.next(&mut state) {
                Next::Request(queue, chain) => {
                    // A worker that sleeps may take the next one.
                    let more = state.sleeping > 0
                        && state
                            .queue_mut(queue)
                            .is_some_and(|queue| queue.has_more(&self.ram));
                    drop(state);
                    if more {
                        self.work.notify_one();
                    }
                    self.carry_out(queue, chain);
                    self.lock()
                }
                Next::Later(time) => self.sleep(state, Some(time)),
                Next::Nothing => self.sleep(state, None),
            };
        }
    }

    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.sleeping += 1;
        let mut state = match time {
            Some(time) => {
                let waited = self.work.wait_timeout(state, time);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.work.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        state.sleeping -= 1;
        state
    }

    /// Lets somebody work after a change of the state: a worker, or the caller where there is none.
    pub(super) fn wake<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if !self.inline {
            let asleep = state.sleeping > 0;
            drop(state);
            // Those that are awake look for work before they sleep.
            if asleep {
                self.work.notify_one();
            }
            return;
        }
        while let Next::Request(queue, chain) = self.next(&mut state) {
            drop(state);
            self.carry_out(queue, chain);
            state = self.lock();
        }
    }

    /// Has all queues looked at, as if the driver had notified each.
    pub(super) fn look_at_all<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        state.notify_all();
        self.wake(state);
    }

    fn next(&self, state: &mut State) -> Next {
        while let Some(index) = state.pending() {
            if let Some(time) = self.device.hold_back(index) {
                return Next::Later(time);
            }
            let Some(queue) = state.queue_mut(index) else {
                return Next::Nothing; // excluded: only queues that are there get pending
            };
            match queue.pop(&self.ram) {
                Ok(Some(chain)) => {
                    state.in_flight += 1;
                    return Next::Request(index, chain);
                }
                Ok(None) => match queue.await_notification(&self.ram) {
                    Ok(true) => {}
                    Ok(false) => state.looked_at(index),
                    Err(broken) => self.stop(state, broken),
                },
                Err(broken) => self.stop(state, broken),
            }
        }
        Next::Nothing
    }

    /// Carries out a request that was taken, and gives it back.
    fn carry_out(&self, queue: usize, chain: Chain) {
        let head = chain.head;
        let handled = self.device.handle(queue, chain, &self.ram);
        let mut state = self.lock();
        state.in_flight -= 1;
        if state.takes_back() {
            match handled {
                Handled::Used(written) => self.give_back(&mut state, queue, head, written),
                Handled::Kept => {
                    if let Some(queue) = state.queue_mut(queue) {
                        queue.put_back();
                    }
                    state.looked_at(queue);
                }
                Handled::Broken(why) => self.stop(&mut state, Broken(why)),
            }
        }
        self.finish_reset(&mut state);
        if state.in_flight == 0 {
            drop(state);
            self.idle.notify_all();
        }
    }

    fn give_back(&self, state: &mut State, queue: usize, head: u16, written: u32) {
        let Some(queue) = state.queue_mut(queue) else {
            return;
        };
        match queue.complete(&self.ram, head, written) {
            Ok(true) => self.signals.used(),
            Ok(false) => {}
            Err(broken) => self.stop(state, broken),
        }
    }

    /// See [`Core::complete_kept`](super::Core::complete_kept).
    pub(super) fn complete_kept<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        queue: u32,
    ) -> bool {
        let index = queue as usize;
        if !state.serves() || state.in_flight > 0 {
            return false;
        }
        let Some(kept) = state.queue_mut(index) else {
            return false;
        };
        let completed = match kept.pop(&self.ram) {
            Ok(Some(chain)) => {
                self.give_back(&mut state, index, chain.head, 0);
                true
            }
            Ok(None) => false,
            Err(broken) => {
                self.stop(&mut state, broken);
                false
            }
        };
        // So that the driver is asked to notify of the next one.
        state.notify(queue);
        self.wake(state);
        completed
    }

    /// The driver did what none does: the device stops until it is reset.
    pub(super) fn stop(&self, state: &mut State, broken: Broken) {
        if state.needs_reset() {
            // Once for each reset, so a guest cannot fill a log faster than it can reset.
            tracing::debug!(device = self.device.id(), why = broken.0, "device stopped");
            self.signals.config_changed();
        }
    }

    /// Ends a reset that waited for requests in flight, when there are none any more.
    pub(super) fn finish_reset(&self, state: &mut State) {
        if state.finish_reset() {
            self.device.reset();
            self.signals.clear();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the bookkeeping of a request half done: it calls nothing that
        // panics between its steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
