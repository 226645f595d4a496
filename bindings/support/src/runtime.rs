//! One Tokio runtime for the process, made when it is first needed and never dropped.
//!
//! fork() copies only the thread that calls it: a child that touched its parent's runtime would wait
//! for threads that are not there. So each process counts how often it came from a fork since the
//! library was loaded; what was made under another count is refused, and left alone when it is dropped.
//! What is made anew works, on a runtime of the child's own.

#![allow(unsafe_code, reason = "a home of unsafe code: fork and signals")]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::failure::{Failure, Result};

/// Most threads that drive tasks: they hand bytes on, and what works or waits long has its own.
const WORKERS_MAX: usize = 4;

/// How many forks this process is away from the one that loaded the library.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// The runtime, with the generation that made it. Never freed once it is here.
static CURRENT: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
/// Whether forks are counted.
static COUNTED: AtomicBool = AtomicBool::new(false);

struct Slot {
    generation: u32,
    runtime: Runtime,
}

/// Runs in the child, where nothing but atomics may be touched.
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

fn generation() -> u32 {
    if !COUNTED.load(Ordering::Acquire) {
        // SAFETY: the function is of the right type, lives as long as the library, which is not unloaded,
        // and does only what is allowed in a child of a process with threads. Two threads that come here
        // at once register it twice, which counts a fork twice: no number comes back.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // Without memory for it nothing else works either; the next call tries again.
        COUNTED.store(failed == 0, Ordering::Release);
    }
    GENERATION.load(Ordering::Relaxed)
}

/// The runtime of this process.
///
/// # Errors
///
/// `io` where its threads cannot be made.
pub fn get() -> Result<&'static Runtime> {
    let generation = generation();
    let found = CURRENT.load(Ordering::Acquire);
    // SAFETY: what the pointer has led to is a slot that was leaked, and none is ever freed.
    if let Some(slot) = unsafe { found.as_ref() }
        && slot.generation == generation
    {
        return Ok(&slot.runtime);
    }
    let slot = Slot {
        generation,
        runtime: build()?,
    };
    let made = Box::into_raw(Box::new(slot));
    match CURRENT.compare_exchange(found, made, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: it was just made from a box, and from here on nobody frees it.
        Ok(_) => Ok(unsafe { &(*made).runtime }),
        Err(other) => {
            // SAFETY: `made` came from a box and nobody else has seen it.
            let ours = *unsafe { Box::from_raw(made) };
            ours.runtime.shutdown_background();
            // SAFETY: as above; whoever was faster leaked it, in this process, for the generation of a
            // process does not change while it runs.
            Ok(unsafe { &(*other).runtime })
        }
    }
}

fn build() -> Result<Runtime> {
    let workers =
        std::thread::available_parallelism().map_or(2, |count| count.get().min(WORKERS_MAX));
    let built = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("dwcp")
        .on_thread_start(block_signals)
        .enable_all()
        .build();
    built.map_err(|error| dwcp::DWCPError::from(error).into())
}

/// Signals are for the threads of the host program.
fn block_signals() {
    // SAFETY: both calls write only to the set, which lives here, and read it.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// Runs a future to its end on this thread.
///
/// # Errors
///
/// `invalid_operation` on a thread of the runtime, where waiting would be a deadlock: a callback must not
/// block. Those of [`get`].
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    if Handle::try_current().is_ok() {
        return Err(dwcp::DWCPError::InvalidOperation(
            "a blocking call from a callback or a thread of the runtime, which it would stop"
                .into(),
        )
        .into());
    }
    Ok(get()?.block_on(future))
}

/// Gives something so long to end.
///
/// # Errors
///
/// Its own; `timeout` when it has not ended by then. It is taken back.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let ended = tokio::time::timeout(limit, work).await;
    ended.unwrap_or_else(|_| {
        let text = format!("no end within {}", dwcp::model::duration::format(limit));
        Err(dwcp::DWCPError::Timeout(text).into())
    })
}

/// Something of this process: a process that was forked from it cannot use it.
pub struct Local<T> {
    value: Option<T>,
    generation: u32,
}

impl<T> Local<T> {
    /// Keeps a value.
    pub fn new(value: T) -> Local<T> {
        Local {
            value: Some(value),
            generation: generation(),
        }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// `forked` in another process than the one that made it.
    pub fn get(&self) -> Result<&T> {
        match &self.value {
            Some(value) if self.generation == generation() => Ok(value),
            _ => Err(Failure::forked()),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Local<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Ok(value) => value.fmt(f),
            Err(failure) => failure.fmt(f),
        }
    }
}

impl<T> Drop for Local<T> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else {
            return;
        };
        if self.generation != generation() {
            // Its end would wait for threads that this process does not have.
            std::mem::forget(value);
            return;
        }
        // What is dropped may have to tell its tasks.
        let _inside = get().map(Runtime::enter);
        drop(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_runtime_whoever_is_first() {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| std::ptr::from_ref(get().unwrap()) as usize))
            .collect();
        let mut seen: Vec<usize> = threads.into_iter().map(|one| one.join().unwrap()).collect();
        seen.dedup();
        assert_eq!(seen.len(), 1);
        assert_eq!(block_on(async { 7 }), Ok(7));
    }

    #[test]
    fn waiting_on_a_thread_of_the_runtime_is_refused() {
        let inside = block_on(async { block_on(async {}) }).unwrap();
        assert!(inside.unwrap_err().message.contains("blocking"));
    }

    #[test]
    fn a_child_of_a_fork_gets_its_own() {
        let local = Local::new(7);
        assert_eq!(local.get(), Ok(&7));
        let parents = std::ptr::from_ref(get().unwrap());
        // SAFETY: the child runs only this library's code, whose claim is that this is possible in a
        // process with threads, and ends without running anybody else's.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let own = get().is_ok_and(|own| !std::ptr::eq(own, parents));
            let works = block_on(async {
                let sleep = std::time::Duration::from_millis(1);
                tokio::spawn(tokio::time::sleep(sleep)).await.is_ok()
            });
            let refused = local.get() == Err(Failure::forked());
            drop(local);
            let code = i32::from(!(own && works == Ok(true) && refused));
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: writes the status to a variable of this function.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((ended, status), (child, 0));
        assert_eq!(local.get(), Ok(&7));
    }
}
