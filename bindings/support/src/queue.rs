//! What has ended, for whoever takes it in a loop of his own.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A queue between the runtime and another language: a batch at a time, and one wake-up for all that
/// came since the last one.
///
/// Who waits does so here, or for a descriptor that is readable while there is something. It holds what
/// was started and not yet taken, so its length is for those who start things to limit.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    /// Whoever has a loop sleeps at the first end; a byte is written to the second.
    bell: (UnixStream, UnixStream),
}

struct State<T> {
    ended: VecDeque<T>,
    closed: bool,
}

/// What came of waiting.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// What has ended, in that order: at least one.
    Items(Vec<T>),
    /// Nothing has, in that time.
    TimedOut,
    /// Nothing has, and the queue was closed.
    Closed,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Queue")
            .field("ended", &state.ended.len())
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// An empty queue.
    ///
    /// # Errors
    ///
    /// Where the process has no descriptors left.
    pub fn new() -> io::Result<Queue<T>> {
        let bell = UnixStream::pair()?;
        bell.0.set_nonblocking(true)?;
        bell.1.set_nonblocking(true)?;
        Ok(Queue {
            state: Mutex::new(State {
                ended: VecDeque::new(),
                closed: false,
            }),
            filled: Condvar::new(),
            bell,
        })
    }

    /// Readable while something can be taken, or the queue was closed; now and then a little longer.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.bell.0.as_raw_fd()
    }

    /// Adds one at the end.
    pub fn push(&self, item: T) {
        let mut state = self.state();
        let was_empty = state.ended.is_empty();
        state.ended.push_back(item);
        drop(state);
        if was_empty {
            self.wake();
        }
    }

    /// Takes up to `max` from the front; waits for the first, for as long as `timeout` says or without an
    /// end.
    pub fn take(&self, max: usize, timeout: Option<Duration>) -> Taken<T> {
        // A time that is too long to be told from no end is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state();
        loop {
            if !state.ended.is_empty() {
                let count = state.ended.len().min(max);
                let items = state.ended.drain(..count).collect();
                if !state.ended.is_empty() {
                    // Only the first of them woke somebody.
                    self.filled.notify_one();
                } else if !state.closed {
                    // Within the lock: whoever pushes from now on rings again.
                    self.silence();
                }
                return Taken::Items(items);
            }
            if state.closed {
                return Taken::Closed;
            }
            state = match deadline {
                None => self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        self.silence();
                        return Taken::TimedOut;
                    }
                    let waited = self.filled.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Wakes all who wait, now and later, once it is empty.
    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
        self.ring();
    }

    fn wake(&self) {
        self.filled.notify_one();
        self.ring();
    }

    fn ring(&self) {
        // When it is full, somebody has been woken often enough.
        let _ = (&self.bell.1).write(&[1]);
    }

    fn silence(&self) {
        let mut bytes = [0; 64];
        // Until nothing is left, or the read says why there is nothing.
        while matches!((&self.bell.0).read(&mut bytes), Ok(read) if read == bytes.len()) {}
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn is_readable(queue: &Queue<u32>) -> bool {
        let mut byte = [0; 1];
        let mut copy = queue.bell.0.try_clone().unwrap();
        let read = copy.read(&mut byte);
        if read.is_ok() {
            queue.ring();
        }
        read.is_ok()
    }

    #[test]
    fn it_is_taken_in_order_and_in_batches() {
        let queue = Queue::new().unwrap();
        assert!(!is_readable(&queue));
        assert_eq!(queue.take(2, Some(Duration::ZERO)), Taken::TimedOut);
        (0..3).for_each(|item| queue.push(item));
        assert!(is_readable(&queue));
        assert_eq!(queue.take(2, None), Taken::Items(vec![0, 1]));
        assert!(is_readable(&queue), "one is left");
        assert_eq!(queue.take(2, None), Taken::Items(vec![2]));
        assert!(!is_readable(&queue));
        queue.push(3);
        queue.close();
        assert_eq!(queue.take(2, None), Taken::Items(vec![3]));
        assert_eq!(queue.take(2, None), Taken::Closed);
        assert!(is_readable(&queue), "whoever sleeps there is woken");
    }

    #[test]
    fn who_waits_is_woken_and_nothing_is_lost() {
        const EACH: u32 = 10_000;
        let queue = Arc::new(Queue::new().unwrap());
        let pushers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || (0..EACH).for_each(|item| queue.push(item)))
            })
            .collect();
        let mut taken = 0;
        while taken < 4 * EACH as usize {
            match queue.take(256, Some(Duration::from_secs(10))) {
                Taken::Items(items) => taken += items.len(),
                other => panic!("{other:?}"),
            }
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        assert_eq!(queue.take(1, Some(Duration::ZERO)), Taken::TimedOut);
        assert!(!is_readable(&queue), "who is woken for nothing is so once");
    }
}
