//! Making a vCPU leave guest code, without a signal handler.
//!
//! The vCPU's thread blocks all signals, always. KVM unblocks one real-time signal, but only while
//! the thread is inside `KVM_RUN`: there it ends the call with EINTR and stays pending, for it is
//! blocked again before the thread is back in user space, and no handler or default action ever
//! runs. `immediate_exit` covers the moment before the call.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_ioctls::VcpuFd;

use super::ioctl;
use crate::hypervisor::Kick;

/// The signal that ends `KVM_RUN`. Any real-time signal would do; a high one is unlikely to be sent
/// to the whole process by the host program.
pub(super) fn signal() -> libc::c_int {
    libc::SIGRTMAX() - 1
}

/// The set of just that signal.
fn our_signal() -> libc::sigset_t {
    // SAFETY: the set is initialised by sigemptyset before anything reads it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal());
        set
    }
}

/// Kicks one vCPU.
pub(super) struct Kicker {
    run: *mut kvm_bindings::kvm_run,
    run_size: usize,
    /// The thread that runs the vCPU, while there is one: a signal must never go to a thread that
    /// took over the number of one that ended.
    thread: Mutex<Option<libc::pid_t>>,
}

// SAFETY: the mapping belongs to no thread; only its `immediate_exit` byte is touched, atomically.
unsafe impl Send for Kicker {}
// SAFETY: as above.
unsafe impl Sync for Kicker {}

impl Kicker {
    pub(super) fn new(vcpu: &VcpuFd, run_size: usize) -> io::Result<Self> {
        Ok(Self {
            run: ioctl::map_run(vcpu, run_size)?,
            run_size,
            thread: Mutex::new(None),
        })
    }

    /// Binds the vCPU to the calling thread.
    pub(super) fn attach(&self, vcpu: &VcpuFd) -> io::Result<()> {
        let set = our_signal();
        // SAFETY: blocks one signal in the calling thread; the old mask is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        let all_but_ours = !(1u64 << (signal() - 1));
        ioctl::set_signal_mask(vcpu, all_but_ours)?;
        // SAFETY: takes no arguments and cannot fail.
        let thread = unsafe { libc::gettid() };
        *self.lock() = Some(thread);
        Ok(())
    }

    /// The calling thread will not run the vCPU again.
    pub(super) fn detach(&self) {
        *self.lock() = None;
    }

    /// Takes the signal that ended `KVM_RUN`, if one did.
    pub(super) fn consume(&self) {
        let set = our_signal();
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a zero time-out makes the call return at once; the information about the signal is
        // not asked for.
        unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &now) };
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: `run` is mapped until `self` is dropped; `immediate_exit` is a byte that KVM reads
        // once at the start of KVM_RUN and never writes; all access of ours is through atomics.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.run).immediate_exit) }
    }

    /// Sets or clears `immediate_exit`.
    pub(super) fn set_immediate_exit(&self, on: bool) {
        self.immediate_exit().store(u8::from(on), Ordering::SeqCst);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<libc::pid_t>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        self.set_immediate_exit(true);
        if let Some(thread) = *self.lock() {
            // SAFETY: a signal to a thread of this process that is alive, for it detaches under the
            // lock held here before it ends. The signal is blocked there, so no action is taken.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }

    fn rearm(&self) {
        self.set_immediate_exit(false);
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size and nobody else has its address.
        unsafe { libc::munmap(self.run.cast(), self.run_size) };
    }
}
