//! Figures of running VMs.
//!
//! One task of the node reads every running VM once a second into a ring of five minutes; what is
//! asked for is the difference between a fresh reading and one of these.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::Shared;
use super::registry::VmEntry;
use crate::error::Result;
use crate::machine::Machine;
use crate::memory::Backing;
use crate::model::{Timestamp, VM, VMMetrics};

/// Time between two readings.
const PERIOD: Duration = Duration::from_secs(1);
/// Readings kept of a VM: five minutes, and the one they are compared with.
const KEPT: usize = 301;
/// The window of the figures in answers to `get` and `list`: long enough to be calm, short enough to
/// say what the VM does now.
pub(super) const GLANCE: Duration = Duration::from_secs(5);

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    at: Instant,
    cpu_time: Duration,
    exits: u64,
    resident: u64,
    /// Bytes that the guest says it could still use.
    available: Option<u64>,
    /// Bytes of its disk: read, written.
    disk: (u64, u64),
    /// Pages written, where the guest tells.
    written: Option<u64>,
}

impl Sample {
    /// Reads a machine. Does not stop the guest.
    pub(super) fn of(machine: &Machine) -> Sample {
        let usage = machine.usage();
        Sample {
            at: Instant::now(),
            cpu_time: usage.cpu_time,
            exits: usage.exits,
            resident: usage.resident,
            available: usage.available,
            disk: (usage.disk.read, usage.disk.written),
            written: machine.pulse().map(|pulse| pulse.pages_written()),
        }
    }
}

/// The readings of one run, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

impl Samples {
    pub(super) fn add(&self, sample: Sample) {
        let mut samples = self.lock();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The reading that a window which ends with `now` begins with: the last one before it, or the
    /// first there is.
    fn before(&self, now: &Sample, window: Duration) -> Sample {
        let samples = self.lock();
        let begins = samples
            .iter()
            .rev()
            .find(|sample| now.at.saturating_duration_since(sample.at) >= window);
        begins.or(samples.front()).copied().unwrap_or(*now)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happened between two readings of a VM.
fn between(first: &Sample, last: &Sample, vm: &VM) -> VMMetrics {
    let time = last.at.saturating_duration_since(first.at).as_secs_f64();
    let rate = |amount: f64| if time > 0.0 { amount / time } else { 0.0 };
    let cpu_time = last.cpu_time.saturating_sub(first.cpu_time);
    // What the guest says is closer to what people mean than what its host gave it; but nobody can say
    // that it is true.
    let memory_used = match last.available {
        Some(available) => vm.config.memory.saturating_sub(available),
        None => last.resident.min(vm.config.memory),
    };
    let written = first.written.zip(last.written);
    VMMetrics {
        // A reading takes time itself, so that short windows would show a little more than there is.
        cpu_usage: (rate(cpu_time.as_secs_f64()) * 100.0).min(f64::from(vm.config.cpus) * 100.0),
        memory_used,
        memory_available: vm.config.memory - memory_used,
        dirty_pages_per_second: written
            // The count starts anew when the guest does; what it has then was written since.
            .map(|(before, now)| rate(now.checked_sub(before).unwrap_or(now) as f64)),
        disk_read: last.disk.0,
        disk_write: last.disk.1,
        vm_exits: last.exits,
        timestamp: Timestamp::now(),
        ..VMMetrics::default()
    }
}

impl Shared {
    /// The figures of a VM over a window; `None` when it has no machine.
    pub(super) async fn figures(
        &self,
        entry: &Arc<VmEntry>,
        vm: &VM,
        window: Duration,
    ) -> Result<Option<VMMetrics>> {
        let Some((now, run)) = self.reading(entry).await? else {
            return Ok(None);
        };
        Ok(Some(between(&run.samples.before(&now, window), &now, vm)))
    }

    /// The figures of a VM since an earlier reading, or since its start, and the reading they end
    /// with.
    pub(super) async fn figures_since(
        &self,
        entry: &Arc<VmEntry>,
        vm: &VM,
        earlier: Option<Sample>,
    ) -> Result<Option<(VMMetrics, Sample)>> {
        let Some((now, run)) = self.reading(entry).await? else {
            return Ok(None);
        };
        let earlier = earlier.unwrap_or_else(|| run.samples.before(&now, Duration::MAX));
        Ok(Some((between(&earlier, &now, vm), now)))
    }

    /// A fresh reading.
    pub(super) async fn reading(
        &self,
        entry: &Arc<VmEntry>,
    ) -> Result<Option<(Sample, Arc<super::run::Run>)>> {
        let read = |entry: &VmEntry| {
            entry.with_machine(|machine, run| (Sample::of(machine), Arc::clone(run)))
        };
        // Counting the pages of anonymous memory takes time in proportion to it; what a memfd holds
        // is one system call.
        let slow = entry.with_machine(|machine, _| machine.ram().backing() != Backing::Memfd);
        match slow {
            None => Ok(None),
            Some(false) => Ok(read(entry)),
            Some(true) => {
                let entry = Arc::clone(entry);
                self.blocking(move || Ok(read(&entry))).await
            }
        }
    }

    /// Reads all machines once a second, until the node ends.
    pub(super) async fn sample(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let entries = self.registry.active();
            if entries.is_empty() {
                continue;
            }
            let read = move || {
                for entry in entries {
                    entry.with_machine(|machine, run| {
                        run.samples.add(Sample::of(machine));
                        // For the next reading.
                        machine.ask_memory();
                    });
                }
                Ok(())
            };
            if let Err(error) = self.blocking(read).await {
                tracing::warn!(%error, "the figures of this second are missing");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VMConfig;

    fn vm() -> VM {
        let config = VMConfig {
            memory: 32 << 20,
            cpus: 2,
            ..VMConfig::default()
        };
        VM::new("id", "node", config)
    }

    fn sample(start: Instant, at: u64, cpu: u64, written: u64) -> Sample {
        Sample {
            at: start + Duration::from_secs(at),
            cpu_time: Duration::from_secs(cpu),
            exits: at * 10,
            resident: at << 20,
            available: None,
            disk: (at, at),
            written: Some(written),
        }
    }

    #[test]
    fn means_are_taken_over_the_window_or_what_there_is() {
        let start = Instant::now();
        let samples = Samples::default();
        for at in 0..10 {
            // Idle at first, one CPU later.
            samples.add(sample(start, at, at.saturating_sub(5), at * 100));
        }
        let now = sample(start, 10, 5, 1000);
        let usage = |secs| {
            let first = samples.before(&now, Duration::from_secs(secs));
            between(&first, &now, &vm()).cpu_usage
        };
        assert_eq!(usage(1), 100.0);
        assert_eq!(usage(5), 100.0);
        assert_eq!(usage(10), 50.0);
        assert_eq!(usage(3600), 50.0);
        assert_eq!(usage(0), 100.0, "the last reading at least");
        let metrics = between(&samples.before(&now, Duration::MAX), &now, &vm());
        assert_eq!(metrics.dirty_pages_per_second, Some(100.0));
        assert_eq!(metrics.vm_exits, 100);
        assert_eq!(
            (metrics.memory_used, metrics.memory_available),
            (10 << 20, 22 << 20)
        );
    }

    #[test]
    fn odd_readings_give_sound_figures() {
        let start = Instant::now();
        let empty = Samples::default();
        let now = sample(start, 40, 500, 7);
        let alone = between(&empty.before(&now, Duration::MAX), &now, &vm());
        assert_eq!((alone.cpu_usage, alone.memory_available), (0.0, 0));
        // After a reset the count of pages is smaller; the CPU time of a reading can overlap.
        let metrics = between(&sample(start, 39, 1, 900), &now, &vm());
        assert_eq!(metrics.dirty_pages_per_second, Some(7.0));
        assert_eq!(metrics.cpu_usage, 200.0);
        let none = Sample {
            written: None,
            ..now
        };
        assert_eq!(between(&none, &now, &vm()).dirty_pages_per_second, None);
        // What a guest says of its memory goes before what the host gave it, and may be anything.
        for (says, used) in [(0, 32 << 20), (30 << 20, 2 << 20), (u64::MAX, 0)] {
            let told = Sample {
                available: Some(says),
                ..now
            };
            let metrics = between(&now, &told, &vm());
            assert_eq!(metrics.memory_used, used);
            assert_eq!(metrics.memory_used + metrics.memory_available, 32 << 20);
        }
    }

    #[test]
    fn five_minutes_are_kept() {
        let start = Instant::now();
        let samples = Samples::default();
        for at in 0..1000 {
            samples.add(sample(start, at, 0, 0));
        }
        assert_eq!(samples.lock().len(), KEPT);
        let now = sample(start, 1000, 0, 0);
        let first = samples.before(&now, Duration::from_secs(3600));
        assert_eq!(now.at - first.at, Duration::from_secs(301));
    }
}
