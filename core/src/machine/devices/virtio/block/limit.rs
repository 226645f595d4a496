//! A limit on the requests of a disk: a token bucket, kept as the time at which it is full again.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// How long a disk that was idle may make up for it: so many requests as belong to that time go at
/// once.
const BURST: Duration = Duration::from_millis(100);

/// The limit. The time is handed in.
#[derive(Debug)]
pub(super) struct Limit {
    /// The time that belongs to one request.
    interval: Duration,
    /// When all requests so far have had their time.
    paid: Instant,
}

impl Limit {
    /// So many requests in a second; `None` for 0, which is no limit.
    pub(super) fn new(per_second: u64, now: Instant) -> Option<Self> {
        let interval = Duration::from_nanos(1_000_000_000_u64.checked_div(per_second)?);
        Some(Self {
            interval,
            paid: now,
        })
    }

    /// How long the next request has to wait; `None`: it need not.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.paid.checked_duration_since(now + BURST)?;
        (!wait.is_zero()).then_some(wait)
    }

    /// A request goes. Of several workers that asked at the same time all go: that is paid back by
    /// those after them.
    pub(super) fn take(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets through what wants to go, at a made-up clock, and says how many went.
    fn run(limit: &mut Limit, start: Instant, time: Duration, step: Duration) -> u64 {
        let (mut now, mut went) = (start, 0);
        while now < start + time {
            while limit.wait(now).is_none() {
                limit.take(now);
                went += 1;
            }
            now += step;
        }
        went
    }

    #[test]
    fn no_limit_is_none() {
        assert!(Limit::new(0, Instant::now()).is_none());
    }

    #[test]
    fn a_waiting_request_goes_when_it_was_told_to() {
        let start = Instant::now();
        let mut limit = Limit::new(10, start).unwrap();
        limit.take(start);
        limit.take(start);
        let wait = limit.wait(start).unwrap();
        assert_eq!(wait, Duration::from_millis(100));
        assert!(limit.wait(start + wait - Duration::from_nanos(1)).is_some());
        assert_eq!(limit.wait(start + wait), None);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut limit = Limit::new(1000, start).unwrap();
        let hour = start + Duration::from_secs(3600);
        let mut went = 0;
        while limit.wait(hour).is_none() {
            limit.take(hour);
            went += 1;
        }
        assert_eq!(went, 101);
    }

    proptest! {
        #[test]
        fn the_rate_is_kept(per_second in 1_u64..20_000, step_us in 1_u64..50_000) {
            let start = Instant::now();
            let mut limit = Limit::new(per_second, start).unwrap();
            let went = run(&mut limit, start, Duration::from_secs(2), Duration::from_micros(step_us));
            // Two seconds, the burst, and the request that begins each.
            let most = per_second * 2 + per_second / 10 + 2;
            // An interval is whole nanoseconds, which at most adds this much.
            prop_assert!(went <= most + most / 10_000 + 1, "{went} of {most}");
            let least = (per_second * 2).saturating_sub(per_second * step_us / 1_000_000 + 1);
            prop_assert!(went >= least, "{went} of {least}");
        }
    }
}
