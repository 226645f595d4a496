//! That clocks do not go back, on any vCPU and from one to the other, and how late timers are.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Readings of each clock between two sleeps.
const BURST: u32 = 20;
/// How long each thread sleeps between them: a vCPU that is emulated has other things to do as well.
const PAUSE: Duration = Duration::from_millis(20);

/// What all threads have seen.
struct Seen {
    began: Instant,
    /// The latest readings, in nanoseconds: of the monotonic clock since `began`, and of the wall clock.
    monotonic: AtomicU64,
    wall: AtomicU64,
    /// How far the clocks went back at most.
    monotonic_back: AtomicU64,
    wall_back: AtomicU64,
    /// How late a sleeper woke at most.
    late: AtomicU64,
    reads: AtomicU64,
}

/// Checks until it is killed.
pub(crate) fn check(status: &Path) -> io::Result<()> {
    let seen = Arc::new(Seen {
        began: Instant::now(),
        monotonic: AtomicU64::new(0),
        wall: AtomicU64::new(0),
        monotonic_back: AtomicU64::new(0),
        wall_back: AtomicU64::new(0),
        late: AtomicU64::new(0),
        reads: AtomicU64::new(0),
    });
    let cpus = sched_getaffinity(None)?;
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)) {
        let seen = Arc::clone(&seen);
        thread::spawn(move || {
            let mut own = CpuSet::new();
            own.set(cpu);
            if let Err(error) = sched_setaffinity(None, &own) {
                eprintln!("checks: vCPU {cpu}: {error}");
                std::process::exit(1);
            }
            loop {
                seen.burst();
                seen.sleep();
            }
        });
    }
    loop {
        super::tell(status, &seen.status())?;
        thread::sleep(Duration::from_millis(200));
    }
}

/// The clocks now, in nanoseconds: monotonic and wall.
pub(crate) fn now() -> String {
    // What `Instant` counts from is the system's affair; this file says the same to a hundredth of a second.
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(' ').next().unwrap_or_default().to_owned();
    format!("uptime={uptime} wall_ns={}", wall())
}

/// Nanoseconds since the epoch.
fn wall() -> u64 {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    nanoseconds(wall)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Seen {
    /// Reads the clocks many times. What another vCPU has read before must not be later than what this one
    /// reads afterwards.
    fn burst(&self) {
        for _ in 0..BURST {
            let before = self.monotonic.load(Ordering::SeqCst);
            // `Instant` answers 0 for a time before `began`, which then is less than `before`.
            let now = nanoseconds(self.began.elapsed());
            self.monotonic_back
                .fetch_max(before.saturating_sub(now), Ordering::SeqCst);
            self.monotonic.fetch_max(now, Ordering::SeqCst);

            let before = self.wall.load(Ordering::SeqCst);
            let now = wall();
            self.wall_back
                .fetch_max(before.saturating_sub(now), Ordering::SeqCst);
            self.wall.fetch_max(now, Ordering::SeqCst);
        }
        self.reads
            .fetch_add(2 * u64::from(BURST), Ordering::Relaxed);
    }

    fn sleep(&self) {
        let before = Instant::now();
        thread::sleep(PAUSE);
        let late = nanoseconds(before.elapsed().saturating_sub(PAUSE));
        self.late.fetch_max(late, Ordering::SeqCst);
    }

    fn status(&self) -> String {
        let read = |value: &AtomicU64| value.load(Ordering::SeqCst);
        let (monotonic, wall) = (read(&self.monotonic_back), read(&self.wall_back));
        let verdict = if (monotonic, wall) == (0, 0) {
            "ok"
        } else {
            "BAD"
        };
        format!(
            "{verdict} reads={} monotonic_back_ns={monotonic} wall_back_ns={wall} late_us={}",
            read(&self.reads),
            read(&self.late) / 1000
        )
    }
}
