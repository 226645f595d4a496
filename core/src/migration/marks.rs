//! When the steps of the switch were done, and what follows from that: the downtime, and what it went into.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::link::Timing;
use super::progress::Progress;

/// When the steps of the switch were done, as the source knows it.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) pause: Option<Instant>,
    pub(super) paused: Option<Instant>,
    pub(super) saved: Option<Instant>,
    pub(super) sent: Option<Instant>,
    /// The vCPUs ran, as the destination says.
    pub(super) running: Option<Instant>,
    pub(super) grant_us: u64,
    timing: Timing,
    /// What the vCPUs stood still before the pause: all together, and the longest.
    pub(super) stalls: (Duration, Duration),
}

impl Marks {
    /// The destination says how long its steps took, again and again as more are done.
    pub(super) fn told(&mut self, timing: Timing) {
        let own = &mut self.timing;
        own.load_us = own.load_us.max(timing.load_us);
        own.commit_us = own.commit_us.max(timing.commit_us);
        own.resume_us = own.resume_us.max(timing.resume_us);
    }

    /// Reports the downtime: from the first vCPU's stop until all ran at the destination. Where copying kept a
    /// vCPU from the processors for longer, that was the longest silence that others noticed.
    pub(super) fn report(&self, progress: &Progress) {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => micros(to.saturating_duration_since(from)),
            _ => 0,
        };
        let total = between(self.pause, self.running);
        let (stall, longest) = self.stalls;
        let downtime = total.max(micros(longest));
        progress.update(|status| {
            status.downtime_us = downtime;
            status.downtime = downtime.div_ceil(1000);
            status.stall_us = micros(stall);
            let breakdown = &mut status.breakdown;
            breakdown.stop_vcpus_us = between(self.pause, self.paused);
            breakdown.save_state_us = between(self.paused, self.saved);
            breakdown.load_state_us = self.timing.load_us;
            breakdown.last_pages_us =
                between(self.saved, self.sent).saturating_sub(self.timing.load_us);
            breakdown.grant_us = self.grant_us;
            breakdown.commit_us = self.timing.commit_us;
            breakdown.resume_us = self.timing.resume_us;
            breakdown.total_us = total;
        });
    }
}

/// A time in whole microseconds.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
