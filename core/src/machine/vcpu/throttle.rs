//! Holding vCPUs back: a share of one processor, for one vCPU or for several together.
//!
//! A share is an account of CPU time: the wall clock pays in, what the vCPUs' threads use goes off.
//! A thread that finds it overdrawn rests outside the guest until it is not; a rest ends at once when
//! the vCPU is to park. Runs get a limit, so that a guest which never leaves its code is looked at too.
//! It needs no privilege, can be set and unset while the vCPUs run, and costs those without one load.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clock;

/// What a guest that did nothing for a while has saved up is its share of this long, no more: what it
/// may do beyond its share at once stays below what anybody notices.
const PERIOD: Duration = Duration::from_millis(10);

/// Longest run of a guest that computes. What it uses too much it rests for afterwards, so a shorter
/// one makes shorter rests; an exit more a millisecond costs less than a percent.
const BUSY_RUN: Duration = Duration::from_millis(1);

/// Longest run of a guest that does little: one that waits inside the kernel is woken for each look, at
/// the cost of its own share.
const IDLE_RUN: Duration = PERIOD;

/// A share of one processor's time, for all threads that are charged to it.
#[derive(Debug, Default)]
pub(in crate::machine) struct Throttle {
    /// In percent of one processor; 0: no bound.
    percent: AtomicU32,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// Nanoseconds that may be used; below zero: used too much.
    left: i64,
    /// When that was so; `None` before the first charge.
    at: Option<Instant>,
}

impl Throttle {
    /// Bounds what is charged to it, from now on, to so many percent of one processor; 0 lifts the
    /// bound. A vCPU that rests looks again when its rest is over.
    pub(in crate::machine) fn set(&self, percent: u32) {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        *account = Account::default();
        self.percent.store(percent, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.percent.load(Ordering::Relaxed) != 0
    }

    /// Charges what was used, and says how long to rest for it.
    fn charge(&self, used: Duration, now: Instant) -> Duration {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let percent = i64::from(self.percent.load(Ordering::Relaxed));
        if percent == 0 {
            return Duration::ZERO;
        }
        let share = |time: Duration| nanos(time).saturating_mul(percent) / 100;
        let most = share(PERIOD);
        account.left = match account.at {
            Some(at) => {
                let passed = now.saturating_duration_since(at);
                account.left.saturating_add(share(passed)).min(most)
            }
            None => most,
        };
        // Two threads may come here in another order than they looked at the clock.
        account.at = account.at.max(Some(now));
        account.left = account.left.saturating_sub(nanos(used));
        match u64::try_from(account.left) {
            Ok(_) => Duration::ZERO,
            Err(_) => {
                let owed = account.left.unsigned_abs();
                Duration::from_nanos(owed.saturating_mul(100).div_ceil(percent.unsigned_abs()))
            }
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// What a vCPU's own thread keeps of the throttle it is charged to.
pub(super) struct Pace {
    throttle: Arc<Throttle>,
    /// CPU time of the thread up to which it was charged; `None` while there is no bound.
    charged: Option<Duration>,
    /// When that was.
    looked: Instant,
    /// The thread rested since it ran guest code.
    rested: bool,
    limit: Duration,
}

impl Pace {
    pub(super) fn new(throttle: Arc<Throttle>) -> Self {
        Self {
            throttle,
            charged: None,
            looked: Instant::now(),
            rested: false,
            limit: BUSY_RUN,
        }
    }

    /// Called by the vCPU's thread before it enters the guest: how long it has to rest first.
    pub(super) fn due(&mut self) -> Option<Duration> {
        if !self.throttle.is_set() {
            self.charged = None;
            return None;
        }
        self.due_at(clock::of_this_thread(), Instant::now())
    }

    fn due_at(&mut self, cpu_time: Duration, now: Instant) -> Option<Duration> {
        let before = self.charged.replace(cpu_time);
        // What was used before there was a bound is nobody's.
        let used = before.map_or(Duration::ZERO, |before| cpu_time.saturating_sub(before));
        let passed = now.saturating_duration_since(self.looked);
        self.looked = now;
        if !std::mem::take(&mut self.rested) {
            // By the share of the time and not by its length: what computes may leave often as well.
            let computes = before.is_none() || used * 2 >= passed;
            self.limit = if computes { BUSY_RUN } else { IDLE_RUN };
        }
        let rest = self.throttle.charge(used, now);
        self.rested = !rest.is_zero();
        self.rested.then_some(rest)
    }

    /// The limit of the next run, where there is a bound.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.charged.map(|_| self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Wall-clock and CPU time that threads go through.
    struct World {
        now: Instant,
        cpu_time: Duration,
    }

    impl World {
        fn new() -> Self {
            Self {
                now: Instant::now(),
                cpu_time: MS(700),
            }
        }

        /// CPU time a guest that never rests by itself got in so much time, and its longest rest.
        fn spin(&mut self, pace: &mut Pace, time: Duration) -> (Duration, Duration) {
            let (began, end) = (self.cpu_time, self.now + time);
            let mut longest = Duration::ZERO;
            while self.now < end {
                if let Some(rest) = pace.due_at(self.cpu_time, self.now) {
                    self.now += rest;
                    longest = longest.max(rest);
                    continue;
                }
                let run = pace.limit().unwrap();
                self.now += run;
                self.cpu_time += run;
            }
            (self.cpu_time - began, longest)
        }
    }

    fn throttle(percent: u32) -> Arc<Throttle> {
        let throttle = Throttle::default();
        throttle.set(percent);
        Arc::new(throttle)
    }

    #[test]
    fn a_guest_that_computes_gets_its_share() {
        for percent in [1, 7, 50, 99] {
            let mut pace = Pace::new(throttle(percent));
            let (used, longest) = World::new().spin(&mut pace, MS(10_000));
            let share = MS(100) * percent;
            let most = share + MS(11) + BUSY_RUN;
            assert!((share..=most).contains(&used), "{percent} %: {used:?}");
            let rest = BUSY_RUN * 100 / percent;
            assert!(longest <= rest, "{percent} %: {longest:?}");
        }
    }

    #[test]
    fn two_vcpus_share_one_account() {
        let throttle = throttle(100);
        let now = Instant::now();
        assert_eq!(throttle.charge(MS(10), now), Duration::ZERO);
        assert_eq!(throttle.charge(MS(10), now), MS(10));
        // Each is told of all that is owed.
        assert_eq!(throttle.charge(MS(1), now + MS(1)), MS(10));
        assert_eq!(
            throttle.charge(Duration::ZERO, now + MS(11)),
            Duration::ZERO
        );
    }

    #[test]
    fn what_is_not_used_is_saved_up_for_one_period_only() {
        let throttle = throttle(50);
        let now = Instant::now();
        assert_eq!(throttle.charge(MS(5), now), Duration::ZERO);
        assert_eq!(throttle.charge(MS(5), now + MS(60_000)), Duration::ZERO);
        assert_eq!(throttle.charge(MS(5), now + MS(60_000)), MS(10));
    }

    #[test]
    fn a_guest_that_does_little_is_left_alone_for_longer() {
        let mut pace = Pace::new(throttle(1));
        let mut world = World::new();
        assert_eq!(pace.due_at(world.cpu_time, world.now), None);
        assert_eq!(pace.limit(), Some(BUSY_RUN));
        world.now += MS(1);
        assert_eq!(pace.due_at(world.cpu_time, world.now), None);
        assert_eq!(pace.limit(), Some(IDLE_RUN));
        // It begins to compute: one long run, for which it rests, then short ones.
        world.now += MS(10);
        world.cpu_time += MS(10);
        let rest = pace.due_at(world.cpu_time, world.now);
        assert!(rest.is_some_and(|rest| rest <= MS(1000)), "{rest:?}");
        world.now += MS(1000);
        assert_eq!(pace.due_at(world.cpu_time, world.now), None);
        assert_eq!(pace.limit(), Some(BUSY_RUN));
        // It leaves at once, having computed all the while.
        world.now += Duration::from_micros(10);
        world.cpu_time += Duration::from_micros(10);
        pace.due_at(world.cpu_time, world.now);
        assert_eq!(pace.limit(), Some(BUSY_RUN));
    }

    #[test]
    fn it_is_set_and_lifted_while_a_vcpu_runs() {
        let throttle = Arc::new(Throttle::default());
        let mut pace = Pace::new(Arc::clone(&throttle));
        assert_eq!((pace.due(), pace.limit()), (None, None));
        throttle.set(1);
        assert_eq!(pace.due(), None, "what was before is not charged");
        assert_eq!(pace.limit(), Some(BUSY_RUN));
        let later = clock::of_this_thread() + MS(50);
        assert!(pace.due_at(later, Instant::now()).is_some());
        throttle.set(0);
        assert_eq!((pace.due(), pace.limit()), (None, None));
        throttle.set(1);
        assert_eq!(pace.due(), None, "and owes nothing of the last time");
    }
}
