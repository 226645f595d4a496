//! Running, parking and ending the vCPUs of a machine together.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why a machine's guest came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It powered itself off.
    PoweredOff,
    /// It asked to be started anew, which a reset of the machine does.
    Reset,
    /// It crashed, through its own fault.
    Crashed(String),
    /// The hypervisor or this library could not go on with it.
    Failed(String),
}

/// What the vCPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Wanted {
    Park,
    Run,
    Quit,
}

/// Shared by a machine and the threads of its vCPUs.
///
/// A vCPU's thread looks at `wanted` before each run; whoever changes it kicks the vCPUs afterwards.
/// All waiting is on condition variables, so that parking many vCPUs takes no longer than the
/// slowest of them.
pub(crate) struct Control {
    wanted: AtomicU8,
    inner: Mutex<Inner>,
    /// Wakes vCPU threads: `wanted` changed.
    go: Condvar,
    /// Wakes controllers: a vCPU parked, or all run.
    parked: Condvar,
    /// Told when the guest comes to an end; must not block.
    on_end: Box<dyn Fn() + Send + Sync>,
}

struct Inner {
    threads: usize,
    running: usize,
    /// When the last of them began to run.
    ran_at: Option<Instant>,
    end: Option<End>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(on_end: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            wanted: AtomicU8::new(Wanted::Park as u8),
            inner: Mutex::new(Inner {
                threads: 0,
                running: 0,
                ran_at: None,
                end: None,
            }),
            go: Condvar::new(),
            parked: Condvar::new(),
            on_end,
        }
    }

    /// One more thread. It counts as running until it has parked for the first time, so that none is
    /// told to run before.
    pub(super) fn add(&self) {
        let mut inner = self.lock();
        inner.threads += 1;
        inner.running += 1;
    }

    /// A thread that could not be started after all.
    pub(super) fn remove(&self) {
        let mut inner = self.lock();
        inner.threads -= 1;
        inner.running -= 1;
    }

    // ---- a vCPU's thread ----

    /// Whether to go on running guest code.
    pub(super) fn wants_run(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) == Wanted::Run as u8
    }

    /// Parks until the vCPU is to run. False: the thread is to end.
    pub(super) fn wait_for_run(&self) -> bool {
        let mut inner = self.lock();
        inner.running -= 1;
        self.parked.notify_all();
        loop {
            match self.wanted.load(Ordering::SeqCst) {
                w if w == Wanted::Run as u8 && inner.end.is_none() => {
                    inner.running += 1;
                    if inner.running == inner.threads {
                        inner.ran_at = Some(Instant::now());
                        self.parked.notify_all();
                    }
                    return true;
                }
                w if w == Wanted::Quit as u8 => return false,
                _ => inner = self.go.wait(inner).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The guest has nothing to do for so long: sleeps, but not past the moment at which the vCPU is
    /// to park.
    pub(super) fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut inner = self.lock();
        while self.wants_run() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let (guard, _) = self
                .go
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner);
            inner = guard;
        }
    }

    /// The guest came to an end. The first reason stays; all vCPUs park.
    pub(in crate::machine) fn end(&self, end: End) {
        let mut inner = self.lock();
        if inner.end.is_none() {
            inner.end = Some(end);
        }
        self.want(Wanted::Park);
        drop(inner);
        (self.on_end)();
    }

    // ---- the machine ----

    /// Lets all vCPUs run. They must be parked.
    pub(crate) fn run(&self) {
        let _inner = self.lock();
        self.want(Wanted::Run);
    }

    /// Tells all vCPUs to park; `kick` makes them look.
    pub(crate) fn park(&self, kick: impl Fn()) {
        let inner = self.lock();
        self.want(Wanted::Park);
        drop(inner);
        kick();
    }

    /// Waits until all vCPUs have parked.
    pub(crate) fn wait_parked(&self) {
        let mut inner = self.lock();
        while inner.running > 0 {
            inner = self
                .parked
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all vCPUs run, and says since when. `None` when they are not to, or no longer.
    pub(crate) fn wait_running(&self) -> Option<Instant> {
        let mut inner = self.lock();
        while inner.running < inner.threads {
            if !self.wants_run() || inner.end.is_some() {
                return None;
            }
            inner = self
                .parked
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inner.ran_at
    }

    /// Tells all threads to end.
    pub(crate) fn quit(&self, kick: impl Fn()) {
        let inner = self.lock();
        self.want(Wanted::Quit);
        drop(inner);
        kick();
    }

    /// Why the guest came to an end, if it did.
    pub(crate) fn ended(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// Forgets an end, for a machine that starts anew.
    pub(crate) fn clear_end(&self) {
        self.lock().end = None;
    }

    /// Sets what is wanted, under the lock. Threads that were told to end are told nothing else any more: a guest
    /// may come to its end in the same moment.
    fn want(&self, wanted: Wanted) {
        if self.wanted.load(Ordering::SeqCst) == Wanted::Quit as u8 {
            return;
        }
        self.wanted.store(wanted as u8, Ordering::SeqCst);
        self.go.notify_all();
        self.parked.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_not_parked_yet_is_waited_for() {
        let control = Control::new(Box::new(|| {}));
        control.add();
        control.add();
        assert_eq!(control.lock().running, 2, "both are on their way");
        // The first parks, and ends at once: only the second is left to wait for.
        control.quit(|| {});
        assert!(!control.wait_for_run());
        assert_eq!(control.lock().running, 1);
        assert!(!control.wait_for_run());
        control.wait_parked();
    }

    #[test]
    fn threads_that_are_to_end_do_whatever_the_guest_does() {
        let control = Control::new(Box::new(|| {}));
        control.add();
        control.run();
        control.quit(|| {});
        control.end(End::Reset);
        control.park(|| {});
        assert!(!control.wait_for_run());
    }
}
