//! A timer that ends `KVM_RUN`: it sends the signal of a kick to the thread that runs the vCPU.

use std::io;
use std::time::Duration;

use super::kick::signal;

/// Belongs to the thread that made it.
pub(super) struct Alarm {
    timer: libc::timer_t,
}

// SAFETY: the number of a timer, which the whole process may use.
unsafe impl Send for Alarm {}

impl Alarm {
    /// An alarm for the calling thread, in which the signal must be blocked.
    pub(super) fn new() -> io::Result<Self> {
        let mut timer = std::ptr::null_mut();
        // SAFETY: `event` is plain data, for which zero bytes are a value; `timer` is written on
        // success. gettid takes nothing and cannot fail.
        let status = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal();
            event.sigev_notify_thread_id = libc::gettid();
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer)
        };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { timer })
    }

    /// Rings once, so long from now; a ring that was due before is forgotten.
    pub(super) fn set(&self, after: Duration) {
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let time = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: after.as_secs().cast_signed(),
                tv_nsec: i64::from(after.subsec_nanos()),
            },
        };
        // SAFETY: the timer lives as long as `self`; the old time is not asked for. It cannot fail
        // for a timer that exists and a time within its bounds, which a Duration of seconds keeps.
        unsafe { libc::timer_settime(self.timer, 0, &time, std::ptr::null_mut()) };
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: made in `new`, deleted once. A ring that is pending ends one run early.
        unsafe { libc::timer_delete(self.timer) };
    }
}
