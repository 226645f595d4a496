//! CPU time of a thread, read from outside and by itself.

use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The CPU-time clock of a thread.
pub(super) struct CpuClock {
    id: Option<libc::clockid_t>,
    /// What was read last: the answer once the thread has ended.
    last: AtomicU64,
}

impl CpuClock {
    pub(super) fn of<T>(thread: &JoinHandle<T>) -> Self {
        let mut id = 0;
        // SAFETY: the thread has not been joined, so its handle is valid; `id` is written on success.
        let status = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &mut id) };
        Self {
            id: (status == 0).then_some(id),
            last: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> Duration {
        // The clock of a thread that has ended cannot be read; a number that another thread took over
        // since is of no harm: the figure would be that thread's until the machine, which is over, is
        // dropped.
        if let Some(nanos) = self.id.and_then(nanos) {
            self.last.store(nanos, Ordering::Relaxed);
        }
        Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

/// CPU time that the calling thread used so far.
pub(super) fn of_this_thread() -> Duration {
    // Every thread has this clock.
    Duration::from_nanos(nanos(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0))
}

fn nanos(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec, or fails and writes nothing.
    let status = unsafe { libc::clock_gettime(clock, &mut time) };
    (status == 0)
        .then(|| time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}
