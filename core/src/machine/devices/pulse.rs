//! The built-in guest's own ports, and what it reports through them.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::super::vcpu::End;
use super::{Then, saved};
use crate::error::Result;
use crate::guest::{Block, COMMAND_OFF, Doorbell, PORT_COMMAND, PORT_DOORBELL, PORT_WAIT, words};
use crate::hypervisor::{Kind, Section};
use crate::memory::GuestRam;
use crate::model::{GuestReport, Timestamp};

/// Version of the section's body.
const VERSION: u16 = 1;

/// Called from a vCPU's thread when something happened that is worth an event; must not block.
pub(crate) type OnNews = Box<dyn Fn(News) + Send + Sync>;

/// What the guest says that is worth an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// All its memory is filled.
    Filled,
    /// A page does not hold what it should; the first one found, by its guest physical address.
    Fault(u64),
}

/// The device.
pub(crate) struct Pulse {
    ram: Arc<GuestRam>,
    cpus: u32,
    on_news: OnNews,
    inner: Mutex<Inner>,
    checked: Notify,
}

#[derive(Default)]
struct Inner {
    /// Number of the check the guest is asked for, or the command to power off.
    command: u32,
    /// vCPUs that have filled their part.
    filled: u32,
    last_beat: Option<Instant>,
    longest_gap: Duration,
    /// Loaded from another machine's state, and silent since.
    arrived: bool,
    /// The silence between the last beat there and the first one here.
    switch_gap: Option<Duration>,
    /// When figures were taken last, and the writes there were: for the rate between two reports.
    sampled: Option<(Instant, u64)>,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").finish_non_exhaustive()
    }
}

impl Pulse {
    pub(crate) fn new(ram: Arc<GuestRam>, cpus: u32, on_news: OnNews) -> Self {
        Self {
            ram,
            cpus,
            on_news,
            inner: Mutex::default(),
            checked: Notify::new(),
        }
    }

    pub(super) fn write(&self, vcpu: u32, port: u16, value: u32) -> Then {
        match (port, Doorbell::from_value(value)) {
            (PORT_WAIT, _) => return Then::Wait(value),
            (PORT_DOORBELL, Some(Doorbell::Beat)) if vcpu == 0 => self.beat(),
            (PORT_DOORBELL, Some(Doorbell::Filled)) => {
                let mut inner = self.lock();
                inner.filled += 1;
                if inner.filled == self.cpus {
                    drop(inner);
                    (self.on_news)(News::Filled);
                }
            }
            (PORT_DOORBELL, Some(Doorbell::Checked)) => self.checked.notify_waiters(),
            (PORT_DOORBELL, Some(Doorbell::Fault)) => {
                let page = self.block_word(vcpu, words::FIRST_FAULT);
                let gpa = self.ram.layout().gpa_of(page.saturating_mul(4096));
                (self.on_news)(News::Fault(gpa.unwrap_or(u64::MAX)));
            }
            (PORT_DOORBELL, Some(Doorbell::Off)) => return Then::End(End::PoweredOff),
            _ => {}
        }
        Then::Continue
    }

    pub(super) fn read(&self, port: u16) -> u32 {
        match port {
            PORT_COMMAND => self.lock().command,
            _ => u32::MAX,
        }
    }

    fn beat(&self) {
        let now = Instant::now();
        let mut inner = self.lock();
        if let Some(last) = inner.last_beat {
            inner.longest_gap = inner.longest_gap.max(now - last);
            if std::mem::take(&mut inner.arrived) {
                inner.switch_gap = Some(now - last);
            }
        }
        inner.last_beat = Some(now);
    }

    /// Asks the guest to check all its memory; the number of the check, for
    /// [`wait_checked`](Self::wait_checked).
    pub(crate) fn ask_check(&self) -> u32 {
        let mut inner = self.lock();
        if inner.command != COMMAND_OFF {
            // 0 means "none", and the number after the last one is the command to power off.
            inner.command = (inner.command + 1) % COMMAND_OFF;
            inner.command = inner.command.max(1);
        }
        inner.command
    }

    /// Waits until all vCPUs did that check, or a later one.
    pub(crate) async fn wait_checked(&self, number: u32) {
        loop {
            let again = self.checked.notified();
            tokio::pin!(again);
            again.as_mut().enable();
            let done = |vcpu| self.block_word(vcpu, words::CHECKED) >= u64::from(number);
            if (0..self.cpus).all(done) {
                return;
            }
            again.await;
        }
    }

    /// Asks the guest to power off.
    pub(crate) fn ask_off(&self) {
        self.lock().command = COMMAND_OFF;
    }

    /// Starts the measure of the longest silence anew.
    pub(crate) fn forget_longest_gap(&self) {
        self.lock().longest_gap = Duration::ZERO;
    }

    /// Writes of working-set pages so far.
    pub(crate) fn pages_written(&self) -> u64 {
        (0..self.cpus)
            .map(|v| self.block_word(v, words::WRITTEN))
            .sum()
    }

    /// What the guest says of itself. Its figures are read while it runs, one after the other.
    pub(crate) fn report(&self, vm_id: &str) -> GuestReport {
        let sum = |at| (0..self.cpus).map(|v| self.block_word(v, at)).sum::<u64>();
        let first_fault = (0..self.cpus)
            .find(|&v| self.block_word(v, words::FAULTS) > 0)
            .map(|v| self.block_word(v, words::FIRST_FAULT).saturating_mul(4096))
            .map(|offset| self.ram.layout().gpa_of(offset).unwrap_or(u64::MAX));
        let laps = (0..self.cpus)
            .map(|v| self.block_word(v, words::LAPS))
            .min();
        let written = sum(words::WRITTEN);
        let mut inner = self.lock();
        let now = Instant::now();
        let rate = inner.sampled.map_or(0.0, |(then, before)| {
            let seconds = (now - then).as_secs_f64();
            written.saturating_sub(before) as f64 / seconds.max(1e-6)
        });
        inner.sampled = Some((now, written));
        GuestReport {
            vm_id: vm_id.to_owned(),
            beats: self.block_word(0, words::BEATS),
            pages_written: written,
            pages_filled: sum(words::FILLED),
            laps: laps.unwrap_or(0),
            faults: sum(words::FAULTS),
            first_fault,
            longest_beat_gap_us: u64::try_from(inner.longest_gap.as_micros()).unwrap_or(u64::MAX),
            switch_gap_us: inner.switch_gap.map(|gap| nanos(gap) / 1000),
            pages_written_per_second: rate,
            timestamp: Timestamp::now(),
            ..GuestReport::default()
        }
    }

    fn block_word(&self, vcpu: u32, at: usize) -> u64 {
        // The blocks lie in the lowest RAM, which every VM has.
        let word = self.ram.look_at_word(Block(vcpu).address() + at as u64);
        word.unwrap_or(0)
    }

    pub(super) fn reset(&self) {
        *self.lock() = Inner::default();
    }

    /// The last beat is saved as wall-clock time, so that the silence of a move between two machines
    /// is measured as well, as exactly as their clocks agree.
    pub(super) fn save(&self) -> Section {
        let inner = self.lock();
        let mut out = saved::body(VERSION);
        out.u32(inner.command);
        out.u32(inner.filled);
        out.u64(
            inner
                .last_beat
                .map_or(0, |at| unix_nanos().saturating_sub(nanos(at.elapsed()))),
        );
        out.u64(nanos(inner.longest_gap));
        Section::new(Kind::Pulse, 0, out.0)
    }

    pub(super) fn load(&self, sections: &[Section]) -> Result<()> {
        let mut reader = saved::body_of(sections, Kind::Pulse, 0, VERSION)?;
        let (command, filled) = (reader.u32()?, reader.u32()?);
        let (last_beat, longest_gap) = (reader.u64()?, reader.u64()?);
        reader.finish()?;
        let silence = Duration::from_nanos(unix_nanos().saturating_sub(last_beat));
        *self.lock() = Inner {
            command,
            filled,
            last_beat: Instant::now()
                .checked_sub(silence)
                .filter(|_| last_beat != 0),
            longest_gap: Duration::from_nanos(longest_gap),
            arrived: true,
            ..Inner::default()
        };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn unix_nanos() -> u64 {
    nanos(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
