//! Who runs the guest, as its own stamps say: the counter of its beats, in the memory that each node
//! holds of it. No node is asked; a stopped or killed one has memory like any other.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the built-in guest's first vCPU counts its beats, from the start of its memory. A test compares
/// it with what the guest reports.
const BEATS: u64 = 0x1_0000 + 0x40;
/// The time between two looks: half a beat.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// How often the destination's copy of the counter can change because a page of it came: once for each
/// round, and there are fewer rounds. A guest that runs changes it a thousand times a second.
const COPIES_MAX: usize = 32;

/// A guest's memory in a process.
#[derive(Debug)]
pub(crate) struct Memory(File);

impl Memory {
    /// The memory of the guest that a process holds; one that has just left may still be there, and has
    /// not beaten as often.
    pub(crate) fn of(process: u32) -> Option<Memory> {
        Memory::all(process).into_iter().max_by_key(Memory::beats)
    }

    /// All guests' memories in a process.
    fn all(process: u32) -> Vec<Memory> {
        let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else {
            return Vec::new();
        };
        let is_one = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("dwcp-guest-memory"))
        };
        let paths = entries.flatten().map(|entry| entry.path()).filter(is_one);
        // It may be closed at this moment.
        let files = paths.filter_map(|path| File::open(path).ok());
        files.map(Memory).collect()
    }

    /// What tells it from others, while it is open.
    fn inode(&self) -> u64 {
        self.0.metadata().unwrap().ino()
    }

    /// The guest's beats so far; 0 while the memory is being made.
    pub(crate) fn beats(&self) -> u64 {
        let mut word = [0; 8];
        match self.0.read_exact_at(&mut word, BEATS) {
            Ok(()) => u64::from_le_bytes(word),
            Err(_) => 0,
        }
    }
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The last counter of the source, and of the destination.
    pub(crate) source: u64,
    pub(crate) destination: u64,
    /// Beats beyond the source's were seen at the destination: it ran there.
    pub(crate) ran_there: bool,
    /// How often the destination's counter changed before.
    pub(crate) copies: usize,
    /// The source's counter when it first had run there.
    pub(crate) cut: u64,
    /// How long the source's vCPUs had run when the destination's first had.
    time_cut: Option<Duration>,
    pub(crate) looks: u64,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

/// Looks at both memories until it is told to end.
pub(crate) struct Stamps {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Stamps {
    /// The source holds the guest's memory; the destination will, perhaps.
    pub(crate) fn watch(source: u32, destination: u32) -> Stamps {
        Stamps::watch_both(source, destination, None)
    }

    /// The same where memory may come after the switch. Until the counter's page has come, the destination's copy
    /// of it is an old one, whether the guest runs there or not: meanwhile who runs is seen by the time that the
    /// vCPUs of each get.
    pub(crate) fn watch_late(source: u32, destination: u32) -> Stamps {
        Stamps::watch_both(source, destination, Some(Times::new(source, destination)))
    }

    fn watch_both(source: u32, destination: u32, mut times: Option<Times>) -> Stamps {
        let here = Memory::of(source).unwrap();
        // What it held before is not what comes; kept open, so that the numbers stay theirs.
        let old = Memory::all(destination);
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut there = None;
            let mut seen = Seen::default();
            while !ends.load(Ordering::SeqCst) {
                there = there.or_else(|| {
                    let mut all = Memory::all(destination).into_iter();
                    all.find(|one| old.iter().all(|old| old.inode() != one.inode()))
                });
                seen.look(&here, there.as_ref());
                if let Some(times) = &mut times
                    && seen.looks.is_multiple_of(TIMES_EVERY)
                {
                    times.look();
                    seen.look_at_times(times.here.total, times.there.total);
                }
                std::thread::sleep(LOOK_EVERY);
            }
            seen
        });
        Stamps { over, thread }
    }

    pub(crate) fn end(self) -> Seen {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// CPU time after which vCPUs are said to have run: more than it takes to make their threads, to stop and to
/// end them, and less than the guest uses in the time in which it is watched.
const RAN: Duration = Duration::from_millis(4);
/// Looks at counters, for one at times, which costs more.
const TIMES_EVERY: u64 = 16;

/// The CPU time that the vCPUs of a process have had so far, for all that is there to be seen.
fn vcpu_time(process: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Duration::ZERO;
    };
    let of = |task: PathBuf| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let figures = fs::read_to_string(task.join("schedstat")).ok()?;
        let nanos = figures.split(' ').next()?.parse().ok()?;
        name.contains("/vcpu").then(|| Duration::from_nanos(nanos))
    };
    tasks.flatten().filter_map(|task| of(task.path())).sum()
}

/// How long the vCPUs of a process were seen to run.
#[derive(Debug, Default)]
struct Ran {
    last: Duration,
    total: Duration,
}

impl Ran {
    fn look(&mut self, now: Duration) {
        // Threads that have ended take their time with them.
        self.total += now.saturating_sub(self.last);
        self.last = now;
    }
}

/// How long the vCPUs of both nodes ran since it was made.
struct Times {
    processes: [u32; 2],
    here: Ran,
    there: Ran,
}

impl Times {
    fn new(source: u32, destination: u32) -> Times {
        Times {
            processes: [source, destination],
            here: Ran::default(),
            there: Ran {
                last: vcpu_time(destination),
                ..Ran::default()
            },
        }
    }

    fn look(&mut self) {
        let [source, destination] = self.processes;
        self.there.look(vcpu_time(destination));
        self.here.look(vcpu_time(source));
    }
}

impl Stamps {
    /// The same, where both nodes have one memory: there is one counter, and who runs is seen by the time that
    /// the vCPUs of each get.
    pub(crate) fn watch_one(source: u32, destination: u32) -> Stamps {
        let memory = Memory::of(source).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let mut times = Times::new(source, destination);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !ends.load(Ordering::SeqCst) {
                times.look();
                seen.look_at_one(memory.beats(), times.here.total, times.there.total);
                std::thread::sleep(LOOK_EVERY);
            }
            seen
        });
        Stamps { over, thread }
    }
}

impl Seen {
    /// One counter, and how long the vCPUs of the source and of the destination have run.
    fn look_at_one(&mut self, beats: u64, here: Duration, there: Duration) {
        self.looks += 1;
        if beats < self.source {
            let was = self.source;
            self.wrong
                .push(format!("the guest went back from {was} to {beats}"));
        }
        (self.source, self.destination) = (beats, beats);
        self.look_at_times(here, there);
        self.ran_there = self.time_cut.is_some();
    }

    /// How long the vCPUs of the source and of the destination have run.
    fn look_at_times(&mut self, here: Duration, there: Duration) {
        let Some(cut) = self.time_cut else {
            self.time_cut = (there >= RAN).then_some(here);
            return;
        };
        if here > cut + RAN {
            self.wrong.push(format!(
                "the source ran for {here:?} in all, {cut:?} of that before the destination, which ran for \
                 {there:?}"
            ));
            self.time_cut = Some(here);
        }
    }

    fn look(&mut self, here: &Memory, there: Option<&Memory>) {
        // In this order: what came from the source by then, the source still has.
        let destination = there.map_or(0, Memory::beats);
        let source = here.beats();
        self.looks += 1;
        for (what, was, is) in [
            ("source", self.source, source),
            ("destination", self.destination, destination),
        ] {
            if is < was {
                self.wrong
                    .push(format!("the {what} went back from {was} to {is}"));
            }
        }
        if self.ran_there && source != self.cut {
            self.wrong.push(format!(
                "the source ran from {} to {source} while the destination had {destination}",
                self.cut
            ));
            self.cut = source;
        }
        if !self.ran_there && destination > source {
            (self.ran_there, self.cut) = (true, source);
        } else if !self.ran_there && destination != self.destination {
            self.copies += 1;
            if self.copies == COPIES_MAX {
                self.wrong.push(format!(
                    "the destination counted up to {destination} while the source ran, at {source}"
                ));
            }
        }
        (self.source, self.destination) = (source, destination);
    }
}

/// Waits until a guest has got on by so many beats.
pub(crate) fn wait_beats(memory: &Memory, more: u64, limit: Duration) {
    let (from, end) = (memory.beats(), Instant::now() + limit);
    while memory.beats() < from + more {
        assert!(
            Instant::now() < end,
            "the guest stands still at {} for {limit:?}",
            memory.beats()
        );
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Two counters that a test sets in place of guests.
struct Fake([Memory; 2]);

impl Fake {
    fn new() -> Fake {
        Fake([0, 1].map(|_| Memory(tempfile::tempfile().unwrap())))
    }

    /// The source's counter and the destination's, each looked at.
    fn counts(&self, all: impl IntoIterator<Item = (u64, u64)>) -> Seen {
        let mut seen = Seen::default();
        for (source, destination) in all {
            for (memory, beats) in self.0.iter().zip([source, destination]) {
                memory.0.write_all_at(&beats.to_le_bytes(), BEATS).unwrap();
            }
            seen.look(&self.0[0], Some(&self.0[1]));
        }
        seen
    }
}

#[test]
fn stamps_of_a_move_and_of_a_stay_are_right() {
    let moved = Fake::new().counts([(5, 0), (8, 5), (10, 8), (10, 10), (10, 11), (10, 15)]);
    assert!(moved.wrong.is_empty() && moved.ran_there, "{moved:?}");
    assert_eq!((moved.cut, moved.copies), (10, 3));
    let stayed = Fake::new().counts([(5, 0), (8, 5), (10, 10), (10, 10), (11, 10), (20, 10)]);
    assert!(stayed.wrong.is_empty() && !stayed.ran_there, "{stayed:?}");
}

#[test]
fn two_runners_in_one_memory_are_seen() {
    let watch = |all: &[(u64, u64, u64)]| {
        let mut seen = Seen::default();
        for &(beats, here, there) in all {
            let [here, there] = [here, there].map(Duration::from_millis);
            seen.look_at_one(beats, here, there);
        }
        seen
    };
    let moved = watch(&[(1, 5, 0), (2, 20, 1), (3, 20, 4), (4, 21, 100)]);
    assert!(moved.wrong.is_empty() && moved.ran_there, "{moved:?}");
    let stayed = watch(&[(1, 5, 0), (2, 20, 1), (3, 400, 1)]);
    assert!(stayed.wrong.is_empty() && !stayed.ran_there, "{stayed:?}");
    let both = watch(&[(1, 5, 0), (2, 20, 5), (3, 30, 10)]);
    assert!(both.wrong[0].contains("the source ran"), "{both:?}");
    let back = watch(&[(3, 5, 0), (2, 5, 0)]);
    assert!(back.wrong[0].contains("went back"), "{back:?}");
}

#[test]
fn two_runners_are_seen_before_the_counter_has_come() {
    let memories = Fake::new();
    let mut seen = memories.counts([(10, 8), (10, 8)]);
    let millis = Duration::from_millis;
    seen.look_at_times(millis(50), millis(5));
    seen.look_at_times(millis(52), millis(90));
    assert!(seen.wrong.is_empty() && !seen.ran_there, "{seen:?}");
    seen.look_at_times(millis(60), millis(90));
    assert!(seen.wrong[0].contains("the source ran"), "{seen:?}");
}

#[test]
fn stamps_of_two_runners_are_wrong() {
    // The destination began first.
    let first = Fake::new().counts([(10, 10), (10, 12), (11, 13)]);
    assert!(first.wrong[0].contains("the source ran"), "{first:?}");
    // The source is ahead all the time.
    let behind = Fake::new().counts((10..100).map(|beat| (beat + 5, beat)));
    assert!(
        behind.wrong[0].contains("while the source ran"),
        "{behind:?}"
    );
    // One of them goes back to what it was.
    let back = Fake::new().counts([(10, 10), (9, 10)]);
    assert!(back.wrong[0].contains("went back"), "{back:?}");
}
