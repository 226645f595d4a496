//! Threads of the library: they take no signals of the host program.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Stack of a thread. Nothing here recurses or keeps large values on the stack; what is not touched
/// costs no memory.
const STACK: usize = 512 << 10;

/// Starts a thread with all signals blocked from its first instruction, so that none of the host
/// program's is ever delivered to it. `name` is cut to what the kernel keeps.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let name: String = name.chars().filter(char::is_ascii).take(15).collect();
    let old = block_all();
    let thread = Builder::new().name(name).stack_size(STACK).spawn(body);
    restore(&old);
    thread
}

/// Blocks all signals in this thread, which a thread it starts inherits; returns the old mask.
fn block_all() -> libc::sigset_t {
    // SAFETY: both sets are plain data; `all` is initialised by sigfillset, `old` by the call that
    // writes it. Only this thread's mask changes.
    unsafe {
        let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        old
    }
}

fn restore(old: &libc::sigset_t) {
    // SAFETY: `old` came from `block_all`; the mask before the new one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
}

/// Time slice, in nanoseconds, that the threads of a migration ask for: the shortest there is. They take
/// turns with a vCPU in steps that a heartbeat of 1 kHz does not notice, where the default is 3 ms;
/// and one that has something to answer gets the processor soon, also from a guest that never rests.
const SHORT_SLICE: u64 = 100_000;

/// What a thread of a migration does, which decides how it shares processors with guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Drives the hand-over: little to do, and somebody waits for it, in the pause the guest itself.
    Control,
    /// Copies pages: a guest's vCPU has about three times the weight of one such thread, so that it waits
    /// little for it; what the guests leave is enough for the copy, and on a host that they fill it
    /// still goes on.
    Copy,
    /// Frees what a VM that moved leaves behind: nobody waits for it.
    CleanUp,
}

/// Tells the kernel what the calling thread does. It only ever gets less important, which needs no
/// privilege. Kernels before 6.12 do not know of short turns, and only that is lost.
pub(crate) fn work_as(work: Work) {
    /// `struct sched_attr` of Linux `include/uapi/linux/sched/types.h`, in its first version.
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const VERSION_0: u32 = 48;
    const _: () = assert!(size_of::<SchedAttr>() == VERSION_0 as usize);
    let attr = SchedAttr {
        size: VERSION_0,
        policy: libc::SCHED_OTHER.cast_unsigned(),
        flags: 0,
        nice: match work {
            Work::Control => 0,
            Work::Copy => 5,
            Work::CleanUp => 15,
        },
        priority: 0,
        runtime: SHORT_SLICE,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes, which `attr` has; 0 is the calling thread.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if status != 0 {
        // A host program that runs at a nice value of its own has `Control` refused, rightly.
        let error = io::Error::last_os_error();
        tracing::debug!(%error, ?work, "the thread keeps its scheduling");
    }
}
