//! How long a vCPU stood still although its guest had something to do.
//!
//! What passes between an exit and the next entry is a stall, but for the sleep that the guest asked
//! for. A run is given a limit of time, by which a vCPU that runs guest code is out again, whatever
//! that code does: one that takes longer is a stall as well, whether the thread waited for a processor,
//! the kernel worked on its memory, or the host of this host had other things to do. Other runs
//! stall as long as their thread was in a run queue.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::hypervisor::Vcpu;

/// Longest run of guest code while stalls are measured: an exit more a millisecond costs the guest
/// less than a percent.
const LIMIT: Duration = Duration::from_millis(1);
/// The same where leaving and entering a guest is slow, as on a host that is itself a guest.
const LIMIT_MAX: Duration = Duration::from_millis(16);
/// So many times as long as the way out and in again a run may be at least.
const LIMIT_PER_EXIT: u32 = 50;
/// Of so many ways the shortest counts: the others were held up by something.
const EXITS: usize = 16;

/// Of a run that takes longer than this for each millisecond of its limit, nobody knows that the guest got any.
const OVERRUN: Duration = Duration::from_micros(1500);

/// A guest that got less time than this between two stalls has not shown itself: they count as one.
const NOTICED: Duration = Duration::from_micros(100);

/// The stalls of one vCPU, while they are measured.
#[derive(Debug, Default)]
pub(in crate::machine) struct StallMeter {
    on: AtomicBool,
    since: Mutex<Option<Instant>>,
    total: AtomicU64,
    longest: AtomicU64,
}

impl StallMeter {
    /// Begins to measure, from zero.
    pub(in crate::machine) fn start(&self) {
        self.total.store(0, Ordering::Relaxed);
        self.longest.store(0, Ordering::Relaxed);
        // The vCPU may stand still just now; its thread sees that when it is over.
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.on.store(true, Ordering::Release);
    }

    pub(in crate::machine) fn stop(&self) {
        self.on.store(false, Ordering::Release);
    }

    /// All stalls together, and the longest.
    pub(in crate::machine) fn read(&self) -> (Duration, Duration) {
        let nanos = |figure: &AtomicU64| Duration::from_nanos(figure.load(Ordering::Relaxed));
        (nanos(&self.total), nanos(&self.longest))
    }

    /// One more stall, and what it comes to with those right before it.
    fn add(&self, stall: Duration, together: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.total.fetch_add(nanos(stall), Ordering::Relaxed);
        self.longest.fetch_max(nanos(together), Ordering::Relaxed);
    }

    fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a vCPU's own thread keeps.
#[derive(Default)]
pub(super) struct StallReader {
    /// Opened when somebody first wants to know.
    schedstat: Option<File>,
    /// The last look, while somebody wants to know.
    last: Option<Look>,
    /// The sleep that the guest last asked for: from, to.
    asked: Option<(Instant, Instant)>,
    /// Stalls that count as one, and the guest's own time since the first of them.
    silence: Duration,
    progress: Duration,
    /// The limit of runs that was asked for, and whether runs have it.
    limit: Option<Duration>,
    limited: bool,
    /// How long the last ways out and in again took, and the place of the next.
    exits: [Duration; EXITS],
    exit: usize,
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    /// What the thread has waited in run queues in its life, where the kernel says so.
    waited: Option<Duration>,
}

impl StallReader {
    /// The guest asks to sleep for so long, from now; or its owner wants it to rest, which is no stall
    /// of the host's making either.
    pub(super) fn asked(&mut self, time: Duration) {
        let now = Instant::now();
        // Of a sleep and a rest right after it, both.
        let from = self.asked.map_or(now, |(from, _)| from);
        self.asked = Some((from, now + time));
    }

    /// Called by the vCPU's thread before it enters the guest, with the limit of runs that others
    /// want.
    pub(super) fn entering(
        &mut self,
        meter: &StallMeter,
        vcpu: &mut dyn Vcpu,
        limit: Option<Duration>,
    ) {
        let asked = self.asked.take();
        if !meter.on.load(Ordering::Acquire) {
            if self.last.take().is_some() {
                *self = Self {
                    schedstat: self.schedstat.take(),
                    limit: self.limit,
                    limited: self.limited,
                    ..Self::default()
                };
            }
            self.limit_runs(vcpu, limit);
            return;
        }
        let own = self.own_limit();
        let limit = limit.map_or(own, |limit| limit.min(own));
        self.limit_runs(vcpu, Some(limit));
        let now = self.look();
        self.enters(meter, now, asked);
    }

    /// The limit that the measure wants.
    fn own_limit(&self) -> Duration {
        let shortest = self.exits.iter().min().copied().unwrap_or_default();
        (shortest * LIMIT_PER_EXIT).clamp(LIMIT, LIMIT_MAX)
    }

    fn limit_runs(&mut self, vcpu: &mut dyn Vcpu, limit: Option<Duration>) {
        if limit != self.limit {
            self.limit = limit;
            self.limited = vcpu.limit_run(limit);
            if limit.is_some() && !self.limited {
                tracing::warn!(
                    "a vCPU's runs have no limit: a guest that computes may get too much"
                );
            }
        }
    }

    /// Called by the vCPU's thread after each exit.
    pub(super) fn exited(&mut self, meter: &StallMeter) {
        if meter.on.load(Ordering::Acquire) {
            let now = self.look();
            self.left(meter, now);
        }
    }

    fn enters(&mut self, meter: &StallMeter, now: Look, asked: Option<(Instant, Instant)>) {
        // Outside the guest when the measure began: the stall goes back to that moment.
        let last = self.last.map(|last| last.at).or_else(|| meter.since());
        let stall = last.map_or(Duration::ZERO, |last| {
            let passed = now.at.saturating_duration_since(last);
            let slept = asked.map_or(Duration::ZERO, |(from, to)| {
                to.min(now.at).saturating_duration_since(from.max(last))
            });
            passed.saturating_sub(slept)
        });
        if self.last.is_some() {
            self.exits[self.exit] = stall;
            self.exit = (self.exit + 1) % EXITS;
        }
        self.account(meter, now, stall);
    }

    fn left(&mut self, meter: &StallMeter, now: Look) {
        // In the guest when the measure began: what it did there is not known.
        let stall = self.last.map_or(Duration::ZERO, |last| {
            let queued = match (last.waited, now.waited) {
                (Some(before), Some(after)) => after.saturating_sub(before),
                _ => Duration::ZERO,
            };
            let passed = now.at.saturating_duration_since(last.at);
            let limit = self.limit.unwrap_or(LIMIT).max(LIMIT);
            let overrun = OVERRUN.mul_f64(limit.as_secs_f64() / LIMIT.as_secs_f64());
            if self.limited && passed > overrun {
                passed
            } else {
                queued
            }
        });
        self.account(meter, now, stall);
    }

    /// A stall from the last look to this one.
    fn account(&mut self, meter: &StallMeter, now: Look, stall: Duration) {
        let passed = self
            .last
            .map_or(stall, |last| now.at.saturating_duration_since(last.at));
        self.progress += passed.saturating_sub(stall);
        if self.progress >= NOTICED {
            (self.silence, self.progress) = (Duration::ZERO, Duration::ZERO);
        }
        self.silence += stall;
        meter.add(stall, self.silence);
        self.last = Some(now);
    }

    fn look(&mut self) -> Look {
        Look {
            at: Instant::now(),
            waited: self.waited(),
        }
    }

    /// The second figure of `/proc/thread-self/schedstat` (Linux
    /// `Documentation/scheduler/sched-stats.rst`), in nanoseconds there.
    fn waited(&mut self) -> Option<Duration> {
        if self.schedstat.is_none() {
            self.schedstat = File::open("/proc/thread-self/schedstat").ok();
        }
        let mut text = [0; 64];
        let length = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        let nanos = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::Result;
    use crate::hypervisor::{Entry, Exit, Kick, Section};

    /// A vCPU that only keeps its limit.
    #[derive(Default)]
    struct Limited(Option<Duration>);

    impl Vcpu for Limited {
        fn limit_run(&mut self, limit: Option<Duration>) -> bool {
            self.0 = limit;
            true
        }
        fn attach(&mut self) -> Result<()> {
            unreachable!()
        }
        fn detach(&mut self) {}
        fn enter(&mut self, _: &Entry) -> Result<()> {
            unreachable!()
        }
        fn run(&mut self) -> Result<Exit> {
            unreachable!()
        }
        fn finish(&mut self) -> Result<Option<Exit>> {
            unreachable!()
        }
        fn data(&mut self) -> &mut [u8] {
            unreachable!()
        }
        fn kick(&self) -> Arc<dyn Kick> {
            unreachable!()
        }
        fn save(&mut self) -> Result<Vec<Section>> {
            unreachable!()
        }
        fn load(&mut self, _: &[Section]) -> Result<()> {
            unreachable!()
        }
        fn resume(&mut self) -> Result<()> {
            unreachable!()
        }
    }

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A reader in the middle of its work, whose last look was so long before the moment returned,
    /// with so much time in run queues.
    fn reader(limited: bool) -> (StallMeter, StallReader, Look) {
        let meter = StallMeter::default();
        meter.start();
        let at = Instant::now();
        let last = Look {
            at,
            waited: Some(MS(100)),
        };
        let reader = StallReader {
            last: Some(last),
            limited,
            ..StallReader::default()
        };
        (meter, reader, last)
    }

    fn later(look: Look, time: u64, waited: u64) -> Look {
        Look {
            at: look.at + MS(time),
            waited: look.waited.map(|before| before + MS(waited)),
        }
    }

    #[test]
    fn a_run_stalls_in_the_queue_or_when_it_outlives_its_limit() {
        for (limited, time, waited, stall) in [
            (true, 1, 0, 0),
            (true, 5, 0, 5),
            (true, 5, 5, 5),
            (true, 1, 1, 1),
            // A guest that computes, on a hypervisor without limits.
            (false, 500, 2, 2),
        ] {
            let (meter, mut reader, last) = reader(limited);
            reader.left(&meter, later(last, time, waited));
            assert_eq!(meter.read(), (MS(stall), MS(stall)), "{time} {waited}");
        }
    }

    #[test]
    fn outside_the_guest_all_but_the_sleep_it_asked_for_is_a_stall() {
        for (slept, time, stall) in [(None, 3, 3), (Some(2), 3, 1), (Some(9), 3, 0)] {
            let (meter, mut reader, last) = reader(true);
            let asked = slept.map(|slept| (last.at, last.at + MS(slept)));
            reader.enters(&meter, later(last, time, 0), asked);
            assert_eq!(meter.read().0, MS(stall), "{slept:?}");
        }
    }

    #[test]
    fn stalls_are_one_silence_until_the_guest_got_some_time() {
        let (meter, mut reader, last) = reader(true);
        let entry = later(last, 3, 0);
        reader.enters(&meter, entry, None);
        let exit = later(entry, 2, 2);
        reader.left(&meter, exit);
        assert_eq!(meter.read(), (MS(5), MS(5)));
        // A millisecond of its own, then another one of waiting.
        let exit = later(exit, 1, 0);
        reader.left(&meter, exit);
        reader.left(&meter, later(exit, 1, 1));
        assert_eq!(meter.read(), (MS(6), MS(5)));
    }

    #[test]
    fn it_measures_while_it_is_asked_to() {
        let (meter, mut reader) = (StallMeter::default(), StallReader::default());
        let mut vcpu = Limited::default();
        let limit = |vcpu: &Limited| vcpu.0;
        reader.entering(&meter, &mut vcpu, None);
        reader.exited(&meter);
        assert!(
            reader.last.is_none() && limit(&vcpu).is_none(),
            "nobody wants to know"
        );
        // It is outside the guest, with a sleep it asked for, when the measure begins.
        reader.asked(Duration::from_secs(60));
        meter.start();
        reader.entering(&meter, &mut vcpu, None);
        assert_eq!(limit(&vcpu), Some(LIMIT));
        assert_eq!(
            meter.read().0,
            Duration::ZERO,
            "the guest asked for all of it"
        );
        assert!(
            reader.last.is_some_and(|look| look.waited.is_some()),
            "this kernel says so"
        );
        meter.stop();
        reader.exited(&meter);
        reader.entering(&meter, &mut vcpu, None);
        assert!(reader.last.is_none() && limit(&vcpu).is_none());
        // In the guest when it begins: a run that was not limited is not judged.
        meter.start();
        reader.exited(&meter);
        assert!(reader.last.is_some());
        assert_eq!(meter.read(), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn runs_are_longer_where_exits_are_slow() {
        let (meter, mut reader) = (StallMeter::default(), StallReader::default());
        let start = Instant::now();
        let mut now = start;
        let look = |at| Look { at, waited: None };
        let mut exits = |reader: &mut StallReader, time: Duration, count: usize| {
            for _ in 0..count {
                reader.left(&meter, look(now));
                now += time;
                reader.enters(&meter, look(now), None);
            }
            reader.own_limit()
        };
        assert_eq!(exits(&mut reader, Duration::from_micros(3), 1), LIMIT);
        // One that was held up is no reason, and one slow host is.
        assert_eq!(exits(&mut reader, MS(5), 1), LIMIT);
        let slow = Duration::from_micros(100);
        assert_eq!(exits(&mut reader, slow, EXITS), MS(5));
        assert_eq!(exits(&mut reader, MS(1), EXITS), LIMIT_MAX);
        // And it is short again as soon as exits are.
        assert_eq!(exits(&mut reader, Duration::from_micros(3), 1), LIMIT);
    }

    #[test]
    fn the_shortest_limit_that_is_wanted_holds() {
        let (meter, mut reader) = (StallMeter::default(), StallReader::default());
        let mut vcpu = Limited::default();
        for (measures, wanted, set) in [
            (false, Some(MS(10)), Some(MS(10))),
            (true, Some(MS(10)), Some(LIMIT)),
            (true, Some(LIMIT / 2), Some(LIMIT / 2)),
            (true, None, Some(LIMIT)),
            (false, Some(MS(10)), Some(MS(10))),
            (false, None, None),
        ] {
            if measures {
                meter.start();
            } else {
                meter.stop();
            }
            reader.entering(&meter, &mut vcpu, wanted);
            assert_eq!(vcpu.0, set, "{measures} {wanted:?}");
        }
    }

    #[test]
    fn a_rest_after_a_sleep_is_asked_for_too() {
        let (meter, mut reader, last) = reader(true);
        reader.asked(MS(60_000));
        reader.asked(MS(120_000));
        let asked = reader.asked.take();
        reader.enters(&meter, later(last, 90_000, 0), asked);
        // All but the moment between the reader's last look and the sleep.
        assert!(meter.read().0 < MS(60_000), "{:?}", meter.read());
    }
}
