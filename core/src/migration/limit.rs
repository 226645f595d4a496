//! The hard limit on downtime: when it strikes, and nothing else.
//!
//! The limit counts from the moment at which the vCPUs are told to stop. Once it has passed, the
//! source takes the VM back if nothing was granted yet; after the grant it asks the destination to
//! refuse. It strikes once; what it costs to take the VM back comes on top.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The limit of one migration.
#[derive(Clone, Copy, Debug)]
pub(super) struct DowntimeLimit {
    /// `None`: the VM is paused while all of it is copied, as was asked for.
    limit: Option<Duration>,
    at: Option<Instant>,
}

impl DowntimeLimit {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, at: None }
    }

    /// The vCPUs are about to stop.
    pub(super) fn pausing(&mut self, now: Instant) {
        // A limit beyond what a clock can count is none.
        self.at = self.limit.and_then(|limit| now.checked_add(limit));
    }

    /// The VM is about to run here again, or runs there: it strikes no more.
    pub(super) fn over(&mut self) {
        self.at = None;
    }

    /// When it strikes, if it is still to strike: whoever waits looks again then.
    pub(super) fn next(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it strikes now. Once.
    pub(super) fn strikes(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A driver by a clock that only the test moves: it works for so long on what comes at these
    /// times after the pause (the messages of a link that is slow), and looks at the limit whenever
    /// it is free, as the real one does. When the limit was acted on.
    fn acts_at(arrivals: &[u64], work: Duration) -> Option<Duration> {
        let zero = Instant::now();
        let mut limit = DowntimeLimit::new(Some(LIMIT));
        limit.pausing(zero);
        let mut now = zero;
        let mut arrivals = arrivals.iter().map(|at| zero + ms(*at)).peekable();
        loop {
            if limit.strikes(now) {
                assert!(!limit.strikes(now + LIMIT), "it strikes once");
                return Some(now - zero);
            }
            let next = limit.next();
            match arrivals.next_if(|at| next.is_none_or(|next| *at <= next)) {
                Some(at) => now = now.max(at) + work,
                None => now = now.max(next?),
            }
        }
    }

    #[test]
    fn it_strikes_at_the_limit_and_not_before() {
        let zero = Instant::now();
        let mut limit = DowntimeLimit::new(Some(LIMIT));
        assert!(limit.next().is_none() && !limit.strikes(zero + LIMIT * 2));
        limit.pausing(zero);
        assert_eq!(limit.next(), Some(zero + LIMIT));
        assert!(!limit.strikes(zero + LIMIT - Duration::from_nanos(1)));
        assert!(limit.strikes(zero + LIMIT));
        assert!(!limit.strikes(zero + LIMIT * 2), "it strikes once");
        assert!(limit.next().is_none());
    }

    #[test]
    fn a_hundred_slow_links_are_given_up_within_a_fifth_of_the_limit() {
        for seed in 0..100_u64 {
            // Messages that come at odd times before and after the limit, each with some work.
            let arrivals: Vec<u64> = (1..40).map(|n| n * (seed % 37 + 3)).collect();
            let work = Duration::from_micros(seed * 997 % 9_000);
            let acted = acts_at(&arrivals, work).expect("it strikes");
            assert!(acted >= LIMIT, "{seed}: after {acted:?}");
            assert!(acted <= LIMIT.mul_f64(1.2), "{seed}: after {acted:?}");
        }
        // A link on which nothing comes any more.
        assert_eq!(acts_at(&[], Duration::ZERO), Some(LIMIT));
    }

    #[test]
    fn a_vm_that_runs_again_is_not_limited() {
        let zero = Instant::now();
        let mut limit = DowntimeLimit::new(Some(LIMIT));
        limit.pausing(zero);
        limit.over();
        assert!(!limit.strikes(zero + LIMIT * 2));
    }

    #[test]
    fn a_vm_that_is_copied_while_it_is_paused_is_not_limited() {
        let zero = Instant::now();
        let mut none = DowntimeLimit::new(None);
        none.pausing(zero);
        assert!(none.next().is_none() && !none.strikes(zero + LIMIT * 1000));
        let mut huge = DowntimeLimit::new(Some(Duration::MAX));
        huge.pausing(zero);
        assert!(huge.next().is_none());
    }
}
