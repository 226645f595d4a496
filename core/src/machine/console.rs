//! What a guest printed on its serial port.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Output that is kept for readers that come later or are slow.
const KEPT: usize = 64 << 10;

/// The last 64 KiB of output; any number of readers, each at a place of its own. A clone is the same
/// console.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<u8>,
    /// Bytes printed so far, the kept ones included.
    total: u64,
    closed: bool,
}

impl Console {
    /// Takes output; never blocks.
    pub(crate) fn print(&self, bytes: &[u8]) {
        let mut ring = self.lock();
        let skip = bytes.len().saturating_sub(KEPT);
        let over = (ring.kept.len() + bytes.len() - skip).saturating_sub(KEPT);
        ring.kept.drain(..over);
        ring.kept.extend(&bytes[skip..]);
        ring.total += bytes.len() as u64;
        drop(ring);
        self.0.more.notify_waiters();
    }

    /// What was printed since `from` (a count of bytes), as far as it is kept, and where to go on.
    /// Waits while there is nothing; `None` when there never will be.
    pub(crate) async fn read(&self, from: u64) -> Option<(Bytes, u64)> {
        loop {
            let more = self.0.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            {
                let ring = self.lock();
                let first = ring.total - ring.kept.len() as u64;
                let skip = usize::try_from(from.max(first) - first).unwrap_or(usize::MAX);
                if skip < ring.kept.len() {
                    let bytes = ring.kept.iter().skip(skip).copied().collect();
                    return Some((bytes, ring.total));
                }
                if ring.closed {
                    return None;
                }
            }
            more.await;
        }
    }

    /// All that is kept.
    pub(crate) fn kept(&self) -> Vec<u8> {
        self.lock().kept.iter().copied().collect()
    }

    /// There will be no more output: readers end.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.0.more.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.print(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_have_places_of_their_own() {
        let console = Console::default();
        console.print(b"one");
        let (bytes, next) = console.read(0).await.unwrap();
        assert_eq!((&bytes[..], next), (&b"one"[..], 3));
        let writer = console.clone();
        let later = tokio::spawn(async move { writer.print(b"two") });
        assert_eq!(&console.read(next).await.unwrap().0[..], b"two");
        later.await.unwrap();
        assert_eq!(&console.read(1).await.unwrap().0[..], b"netwo");
        console.close();
        assert_eq!(console.read(6).await, None);
    }

    #[tokio::test]
    async fn only_the_last_64_kib_are_kept() {
        let console = Console::default();
        for _ in 0..5 {
            console.print(&[b'a'; 30 << 10]);
        }
        console.print(&[b'b'; 100 << 10]);
        let (bytes, next) = console.read(0).await.unwrap();
        assert_eq!((bytes.len(), next), (KEPT, 250 << 10));
        assert!(bytes.iter().all(|&b| b == b'b'));
    }
}
