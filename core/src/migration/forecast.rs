//! What a migration would be like: how fast a guest writes, measured while it runs, and the rounds that
//! would follow from that and from the link, played through by the rule that decides in earnest.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::switch::SwitchRule;
use crate::error::Result;
use crate::memory::{Harvester, PAGE_SIZE};

/// How long the guest is watched: to a first look, and to the second. A guest that wrote hardly more pages
/// by the second has a working set that it writes again and again.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const SECOND_LOOK: Duration = Duration::from_millis(400);
/// Pages whose log is cleared at a time: others want the harvester in between.
const SLICE: usize = 1 << 15;
/// Rounds after which a migration that goes on is called one that does not end.
const ROUNDS_MAX: u32 = 64;

/// How a guest writes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Dirtying {
    /// Different pages written per second, over all that was watched.
    pub(crate) pages_per_second: f64,
    /// Pages it writes again and again; `None`: no end of them was seen.
    working_set: Option<f64>,
    /// Share of the working set that is not written within a second.
    untouched: f64,
}

impl Dirtying {
    /// From the different pages that were written up to two moments.
    fn of(first: (f64, Duration), second: (f64, Duration)) -> Self {
        let ((few, early), (many, late)) = (first, second);
        let pages_per_second = many / late.as_secs_f64().max(1e-6);
        let steady = Self {
            pages_per_second,
            ..Self::default()
        };
        let times = late.as_secs_f64() / early.as_secs_f64().max(1e-6);
        // Pages at random of a working set of n: after a time t, n × (1 − xᵗ) different ones were written.
        // The ratio of two such figures gives x, for it falls from `times` to 1 as x falls from 1 to 0.
        let ratio = many / few;
        if !ratio.is_finite() || ratio >= times * 0.98 {
            return steady;
        }
        let (mut low, mut high) = (0.0_f64, 1.0_f64);
        for _ in 0..60 {
            let x = f64::midpoint(low, high);
            if (1.0 - x.powf(times)) / (1.0 - x) < ratio {
                low = x;
            } else {
                high = x;
            }
        }
        Self {
            working_set: Some(few / (1.0 - low)),
            untouched: low.powf(1.0 / early.as_secs_f64().max(1e-6)),
            ..steady
        }
    }

    /// Bytes of different pages that the guest writes in that time.
    fn bytes_in(&self, time: Duration) -> f64 {
        let seconds = time.as_secs_f64();
        let pages = match self.working_set {
            Some(pages) => pages * (1.0 - self.untouched.powf(seconds)),
            None => self.pages_per_second * seconds,
        };
        pages * PAGE_SIZE as f64
    }
}

/// Watches how a guest writes, as a consumer of the harvest beside others. Blocks for less than a second;
/// the guest runs on, and pays for it with a fault for each page that it writes, once.
///
/// # Errors
///
/// Those of the log.
pub(crate) fn watch(harvester: &Arc<Harvester>) -> Result<Dirtying> {
    let consumer = harvester.subscribe()?;
    let all = consumer.harvest()?;
    for first in (0..all.pages.pages()).step_by(SLICE) {
        let end = (first + SLICE as u64).min(all.pages.pages());
        consumer.clear(&all.logged, &(first..end))?;
    }
    let began = Instant::now();
    // What was written while others were cleared is not of this time.
    let before = consumer.harvest()?.pages.count();
    let look = |at: Duration| -> Result<(f64, Duration)> {
        thread::sleep(at.saturating_sub(began.elapsed()));
        // Nothing is cleared, so what was found comes again.
        let found = consumer.harvest()?.pages.count().saturating_sub(before);
        Ok((found as f64, began.elapsed()))
    };
    Ok(Dirtying::of(look(FIRST_LOOK)?, look(SECOND_LOOK)?))
}

/// What is to be moved, and by what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    /// Bytes of memory that have something in them.
    pub(crate) memory: u64,
    pub(crate) dirtying: Dirtying,
    /// Bytes per second that the link takes.
    pub(crate) link: f64,
    /// Whether the guest runs meanwhile.
    pub(crate) live: bool,
    pub(crate) max_downtime: Duration,
}

/// How long it would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forecast {
    pub(crate) total: Duration,
    pub(crate) downtime: Duration,
}

impl Task {
    /// Plays it through. A downtime above the limit means that it would not get there.
    pub(crate) fn forecast(&self) -> Forecast {
        let mut rule = SwitchRule::new(self.max_downtime);
        let (mut left, mut copied) = (self.memory, Duration::ZERO);
        if !self.live {
            rule.round_sent(self.memory.max(1), self.time(self.memory.max(1)));
            let downtime = rule.decide(self.memory).expected;
            return Forecast {
                total: downtime,
                downtime,
            };
        }
        let mut downtime = Duration::MAX;
        for _ in 0..ROUNDS_MAX {
            let decision = rule.decide(left);
            downtime = decision.expected;
            if decision.switch || decision.hopeless {
                break;
            }
            let time = self.time(left);
            rule.round_sent(left.max(1), time);
            copied = copied.saturating_add(time);
            left = whole(self.dirtying.bytes_in(time)).min(self.memory);
        }
        Forecast {
            total: copied.saturating_add(downtime),
            downtime,
        }
    }

    fn time(&self, bytes: u64) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 / self.link.max(1.0)).unwrap_or(Duration::MAX)
    }
}

/// A number of bytes; saturates, and never negative here.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn task(dirtying: Dirtying) -> Task {
        Task {
            memory: 1024 * MIB,
            dirtying,
            link: (1024 * MIB) as f64,
            live: true,
            max_downtime: Duration::from_millis(100),
        }
    }

    fn steady(pages_per_second: f64) -> Dirtying {
        Dirtying {
            pages_per_second,
            ..Dirtying::default()
        }
    }

    /// What is seen of a guest that writes pages at random of a working set.
    fn seen(pages: f64, writes_per_second: f64, at: Duration) -> (f64, Duration) {
        let writes = writes_per_second * at.as_secs_f64();
        (pages * (1.0 - (-writes / pages).exp()), at)
    }

    #[test]
    fn a_working_set_is_found_and_an_endless_one_left_so() {
        let small = Dirtying::of(
            seen(1_000.0, 10_000.0, FIRST_LOOK),
            seen(1_000.0, 10_000.0, SECOND_LOOK),
        );
        let found = small.working_set.unwrap();
        assert!((990.0..1_010.0).contains(&found), "{small:?}");
        let bytes = small.bytes_in(Duration::from_secs(10)) / PAGE_SIZE as f64;
        assert!((990.0..1_010.0).contains(&bytes), "{bytes}");
        let endless = Dirtying::of((100.0, FIRST_LOOK), (400.0, SECOND_LOOK));
        assert_eq!(endless, steady(1_000.0));
        assert_eq!(endless.bytes_in(Duration::from_secs(2)), 2_000.0 * 4096.0);
        let idle = Dirtying::of((0.0, FIRST_LOOK), (0.0, SECOND_LOOK));
        assert_eq!(idle, steady(0.0));
    }

    #[test]
    fn an_idle_guest_takes_one_round_and_a_paused_one_is_down_for_all_of_it() {
        let idle = task(steady(0.0));
        let forecast = idle.forecast();
        assert!(
            forecast.total < Duration::from_millis(1_010),
            "{forecast:?}"
        );
        assert!(forecast.downtime < Duration::from_millis(5), "{forecast:?}");
        let paused = Task {
            live: false,
            ..idle
        };
        let forecast = paused.forecast();
        assert_eq!(forecast.total, forecast.downtime);
        assert!(forecast.total >= Duration::from_secs(1), "{forecast:?}");
    }

    #[test]
    fn what_writes_more_takes_longer_and_what_cannot_converge_shows_it() {
        // 100 MB/s and 400 MB/s, of 1 GiB/s.
        let (slow, fast) = (task(steady(25_000.0)), task(steady(100_000.0)));
        let (slow, fast) = (slow.forecast(), fast.forecast());
        assert!(slow.total < fast.total, "{slow:?} {fast:?}");
        assert!(fast.downtime <= Duration::from_millis(100), "{fast:?}");
        let never = task(steady(1_000_000.0)).forecast();
        assert!(never.downtime > Duration::from_millis(100), "{never:?}");
    }

    #[test]
    fn no_link_is_no_panic() {
        let task = Task {
            link: 0.0,
            memory: u64::MAX,
            ..task(steady(1.0))
        };
        assert!(task.forecast().downtime > Duration::from_secs(1 << 30));
    }
}
