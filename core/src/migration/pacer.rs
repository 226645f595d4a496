//! The bandwidth limit: one bucket of tokens for all channels of a migration.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{DWCPError, Result};

/// What may be sent at once after a pause, as time at the set rate.
const BURST: Duration = Duration::from_millis(20);

/// Spreads sending over time, and ends it when the migration is stopped.
pub(super) struct Pacer {
    /// Bytes per second; 0: no limit.
    rate: u64,
    /// The moment up to which what was sent is paid for.
    paid: Mutex<Instant>,
    stopped: AtomicBool,
    wake: Condvar,
}

impl Pacer {
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate,
            paid: Mutex::new(Instant::now()),
            stopped: AtomicBool::new(false),
            wake: Condvar::new(),
        }
    }

    /// Waits until `bytes` may be sent.
    ///
    /// # Errors
    ///
    /// `cancelled` once sending has been stopped.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        if self.rate > 0 {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = (*paid).max(now.checked_sub(BURST).unwrap_or(now));
            *paid = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            // Others add to the debt while this one waits for its own share.
            while !self.stopped.load(Ordering::SeqCst) {
                let left = from.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let waited = self.wake.wait_timeout(paid, left);
                paid = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        if self.stopped.load(Ordering::SeqCst) {
            return Err(DWCPError::Cancelled(
                "the migration is being stopped".into(),
            ));
        }
        Ok(())
    }

    /// Makes every sender end soon.
    pub(super) fn stop(&self) {
        let _paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::SeqCst);
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_never_waits_and_a_stop_ends_a_wait() {
        Pacer::new(0).take(u64::MAX).unwrap();
        let pacer = Pacer::new(1);
        pacer.take(1_000_000).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pacer.take(1));
            pacer.stop();
            assert!(waiting.join().unwrap().is_err());
        });
    }

    #[test]
    fn the_rate_is_kept_over_several_senders() {
        let pacer = Pacer::new(10_000_000);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..10).for_each(|_| pacer.take(100_000).unwrap()));
            }
        });
        // 2 MB at 10 MB/s, less the burst and the last message: at least 0.15 s, however busy the
        // host is.
        assert!(
            start.elapsed() >= Duration::from_millis(150),
            "{:?}",
            start.elapsed()
        );
    }
}
