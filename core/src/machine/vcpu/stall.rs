//! How long a vCPU was ready to run and did not, because its processor did something else.
//!
//! The kernel adds up the time that a thread waits in a run queue. A vCPU's thread looks at that sum
//! between its exits while somebody wants to know: what was added from one exit to the next is about
//! what a guest, and whoever waits for its answers, notices as one gap.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The waits of one vCPU, while they are measured.
#[derive(Debug, Default)]
pub(in crate::machine) struct StallMeter {
    on: AtomicBool,
    total: AtomicU64,
    longest: AtomicU64,
}

impl StallMeter {
    /// Begins to measure, from zero.
    pub(in crate::machine) fn start(&self) {
        self.total.store(0, Ordering::Relaxed);
        self.longest.store(0, Ordering::Relaxed);
        self.on.store(true, Ordering::Release);
    }

    pub(in crate::machine) fn stop(&self) {
        self.on.store(false, Ordering::Release);
    }

    /// All waits together, and the longest.
    pub(in crate::machine) fn read(&self) -> (Duration, Duration) {
        let nanos = |figure: &AtomicU64| Duration::from_nanos(figure.load(Ordering::Relaxed));
        (nanos(&self.total), nanos(&self.longest))
    }
}

/// What a vCPU's own thread reads. The file is opened when somebody first wants to know.
#[derive(Default)]
pub(super) struct StallReader {
    file: Option<File>,
    last: Option<u64>,
}

impl StallReader {
    /// Called by the vCPU's thread after each exit.
    pub(super) fn exited(&mut self, meter: &StallMeter) {
        if !meter.on.load(Ordering::Acquire) {
            self.last = None;
            return;
        }
        // A kernel without scheduler statistics measures no waits, and says so with no file.
        let Some(waited) = self.waited() else { return };
        self.account(meter, waited);
    }

    /// The thread has waited so many nanoseconds in its life.
    fn account(&mut self, meter: &StallMeter, waited: u64) {
        if let Some(last) = self.last {
            let stall = waited.saturating_sub(last);
            meter.total.fetch_add(stall, Ordering::Relaxed);
            meter.longest.fetch_max(stall, Ordering::Relaxed);
        }
        self.last = Some(waited);
    }

    /// Nanoseconds that this thread has waited for a processor: the second figure of
    /// `/proc/thread-self/schedstat` (Linux `Documentation/scheduler/sched-stats.rst`).
    fn waited(&mut self) -> Option<u64> {
        if self.file.is_none() {
            self.file = File::open("/proc/thread-self/schedstat").ok();
        }
        let mut text = [0; 64];
        let length = self.file.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_added_while_it_measures_counts() {
        let (meter, mut reader) = (StallMeter::default(), StallReader::default());
        let ms = Duration::from_millis;
        reader.exited(&meter);
        assert_eq!(reader.last, None, "nobody wants to know");
        meter.start();
        reader.exited(&meter);
        assert!(reader.last.is_some(), "this kernel keeps the figure");
        assert_eq!(
            meter.read().0,
            Duration::ZERO,
            "the first look is the start"
        );
        reader.last = Some(5_000_000);
        for waited in [12, 12, 14] {
            reader.account(&meter, waited * 1_000_000);
        }
        assert_eq!(meter.read(), (ms(9), ms(7)));
        meter.stop();
        reader.exited(&meter);
        assert_eq!(meter.read(), (ms(9), ms(7)), "kept until the next start");
        assert_eq!(reader.last, None);
        meter.start();
        assert_eq!(meter.read(), (ms(0), ms(0)));
    }
}
