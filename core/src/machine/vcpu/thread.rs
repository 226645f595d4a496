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
