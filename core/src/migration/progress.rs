//! How a migration goes: counters that the senders bump, and the status made of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::memory::PAGE_SIZE;
use crate::model::{MigrationState, MigrationStatus, RoundReport, Timestamp};

/// The progress of one migration. Senders only touch atomics; whoever asks for the status holds a
/// lock for microseconds, and never one that a sender waits for.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Bytes on the wire, headers included.
    sent: AtomicU64,
    data: AtomicU64,
    /// Of those that went compressed: bytes of the guest's memory.
    packed: AtomicU64,
    zero: AtomicU64,
    resent: AtomicU64,
    /// Of a disk that is taken along.
    disk: AtomicU64,
    /// Pages of the round being sent.
    round_pages: AtomicU64,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    status: MigrationStatus,
    /// Pages that the round being sent began with.
    round_total: u64,
    round_sent_before: u64,
    round_began: Instant,
}

impl Progress {
    pub(crate) fn new(status: MigrationStatus) -> Self {
        let now = Instant::now();
        Self {
            sent: AtomicU64::new(0),
            data: AtomicU64::new(0),
            packed: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            disk: AtomicU64::new(0),
            round_pages: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                status,
                round_total: 0,
                round_sent_before: 0,
                round_began: now,
            }),
            changed: watch::Sender::new(()),
        }
    }

    pub(super) fn sent_pages(&self, round: u64, bytes: u64, head: u64) {
        self.sent.fetch_add(bytes + head, Ordering::Relaxed);
        self.data.fetch_add(bytes, Ordering::Relaxed);
        self.count(round, bytes);
    }

    /// So many bytes of the guest's memory went in `wire` bytes.
    pub(super) fn sent_packed(&self, round: u64, bytes: u64, wire: u64) {
        self.sent.fetch_add(wire, Ordering::Relaxed);
        self.packed.fetch_add(bytes, Ordering::Relaxed);
        self.count(round, bytes);
    }

    fn count(&self, round: u64, bytes: u64) {
        if round > 1 {
            self.resent.fetch_add(bytes, Ordering::Relaxed);
        }
        self.round_pages
            .fetch_add(bytes / PAGE_SIZE, Ordering::Relaxed);
    }

    /// So many bytes of the disk went.
    pub(super) fn sent_disk(&self, round: u64, bytes: u64, head: u64) {
        self.sent.fetch_add(bytes + head, Ordering::Relaxed);
        self.disk.fetch_add(bytes, Ordering::Relaxed);
        self.count(round, bytes);
    }

    /// So many bytes of the disk turned out to be zeros.
    pub(super) fn looked_at_disk(&self, zeros: u64) {
        self.round_pages
            .fetch_add(zeros / PAGE_SIZE, Ordering::Relaxed);
    }

    /// So many bytes went that are none of the guest's memory.
    pub(super) fn sent_bytes(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent_zeros(&self, pages: u64) {
        self.zero.fetch_add(pages * PAGE_SIZE, Ordering::Relaxed);
        self.round_pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Bytes of the guest's memory and disk that were sent so far, compressed or not.
    pub(super) fn content_sent(&self) -> u64 {
        [&self.data, &self.packed, &self.disk]
            .map(|bytes| bytes.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// Bytes on the wire so far.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// A round of so many pages begins.
    pub(super) fn begin_round(&self, round: u64, pages: u64) {
        let mut inner = self.lock();
        inner.round_total = pages;
        inner.round_sent_before = self.bytes_sent();
        inner.round_began = Instant::now();
        self.round_pages.store(0, Ordering::Relaxed);
        inner.status.round = u32::try_from(round).unwrap_or(u32::MAX);
        drop(inner);
        self.notify();
    }

    /// The round is over.
    pub(super) fn end_round(&self) {
        let mut inner = self.lock();
        let seconds = inner.round_began.elapsed().as_secs_f64().max(1e-6);
        let bytes = self.bytes_sent() - inner.round_sent_before;
        let report = RoundReport {
            round: inner.status.round,
            pages: inner.round_total,
            bytes,
            duration_us: micros(seconds),
            throughput: whole(bytes as f64 / seconds),
            ..RoundReport::default()
        };
        tracing::debug!(?report, "a round was sent");
        inner.status.rounds.push(report);
        drop(inner);
        self.notify();
    }

    /// The guest wrote so many different pages between the beginnings of the last two looks.
    pub(super) fn dirtied(&self, pages: u64) {
        let mut inner = self.lock();
        if let Some(last) = inner.status.rounds.last_mut() {
            let seconds = last.duration_us.max(1) as f64 / 1e6;
            last.dirty_pages_per_second = pages as f64 / seconds;
            inner.status.dirty_rate = pages as f64 / seconds;
        }
    }

    /// Changes the status, and tells whoever follows it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut MigrationStatus)) {
        change(&mut self.lock().status);
        self.notify();
    }

    /// Ends the migration; what is said later changes nothing.
    pub(crate) fn finish(&self, state: MigrationState, error: Option<String>) {
        let mut inner = self.lock();
        if !inner.status.state.is_terminal() {
            let final_figures = self.snapshot(&inner);
            inner.status = final_figures;
            inner.status.state = state;
            inner.status.error = error;
            inner.status.time_left_us = None;
            inner.status.throughput = mean(&inner.status.rounds);
            inner.status.completed_at = Some(Timestamp::now());
            if state == MigrationState::Completed {
                inner.status.progress = 100.0;
                inner.status.bytes_total = inner.status.bytes_sent;
            }
        }
        drop(inner);
        self.notify();
    }

    /// The status now.
    pub(crate) fn status(&self) -> MigrationStatus {
        let inner = self.lock();
        if inner.status.state.is_terminal() {
            inner.status.clone()
        } else {
            self.snapshot(&inner)
        }
    }

    /// Follows the status: changes are seen through the receiver.
    pub(crate) fn follow(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn snapshot(&self, inner: &Inner) -> MigrationStatus {
        let mut status = inner.status.clone();
        let sent = self.bytes_sent();
        let pages = self
            .round_pages
            .load(Ordering::Relaxed)
            .min(inner.round_total);
        let left = (inner.round_total - pages) * PAGE_SIZE;
        status.bytes_sent = sent;
        status.bytes_total = sent + left;
        status.throughput = self.throughput(inner, sent);
        status.time_left_us = self.time_left(inner, pages);
        status.bytes.data = self.data.load(Ordering::Relaxed);
        status.bytes.compressed = self.packed.load(Ordering::Relaxed);
        status.bytes.zero = self.zero.load(Ordering::Relaxed);
        status.bytes.resent = self.resent.load(Ordering::Relaxed);
        status.bytes.disk = self.disk.load(Ordering::Relaxed);
        // The first round is most of the way; each later one halves what is left of the rest.
        let share = pages as f64 / inner.round_total.max(1) as f64;
        status.progress = match status.round {
            0 => 0.0,
            1 => 90.0 * share,
            n => 100.0 - 10.0 / f64::from(1 << (n.min(20) - 1)) * (2.0 - share),
        };
        status
    }

    /// Bytes per second, lately: in this round, or where that has hardly begun in the one before.
    fn throughput(&self, inner: &Inner, sent: u64) -> u64 {
        let round = inner.round_began.elapsed();
        match inner.status.rounds.last() {
            Some(last) if round < TELLING || last.round == inner.status.round => last.throughput,
            _ if inner.status.round == 0 => 0,
            _ => whole((sent - inner.round_sent_before) as f64 / round.as_secs_f64().max(1e-6)),
        }
    }

    /// Microseconds until the switch, if all goes on as in this round, of which so many pages are done:
    /// what is left of it, then what the guest writes meanwhile, what it writes while that is sent, and so
    /// on. `None` when that is no end, or when it is too early to tell.
    fn time_left(&self, inner: &Inner, pages: u64) -> Option<u64> {
        if inner.status.state != MigrationState::Running || inner.status.round == 0 {
            return None;
        }
        let passed = inner.round_began.elapsed();
        let before = inner.status.rounds.last();
        let rate = match before {
            _ if passed >= TELLING && pages > 0 => pages as f64 / passed.as_secs_f64(),
            Some(last) => last.pages as f64 / (last.duration_us.max(1) as f64 / 1e6),
            None => return None,
        };
        let whole_round = inner.round_total as f64 / rate.max(1.0);
        let this = inner.round_total.saturating_sub(pages) as f64 / rate.max(1.0);
        until_switch(this, whole_round, inner.status.dirty_rate / rate.max(1.0))
    }

    fn notify(&self) {
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes per second of rounds together.
fn mean(rounds: &[RoundReport]) -> u64 {
    let bytes: u64 = rounds.iter().map(|round| round.bytes).sum();
    let micros: u64 = rounds.iter().map(|round| round.duration_us).sum();
    whole(bytes as f64 / (micros.max(1) as f64 / 1e6))
}

/// Less time than this says more of how busy the processors are than of the link.
const TELLING: Duration = Duration::from_millis(50);

/// Microseconds of `this` and all later rounds, each of which takes `ratio` of the one before; the first was
/// `round` long. All in seconds.
fn until_switch(this: f64, round: f64, ratio: f64) -> Option<u64> {
    (ratio < 1.0).then(|| micros(this + round * ratio / (1.0 - ratio)))
}

/// Microseconds, rounded down.
fn micros(seconds: f64) -> u64 {
    whole(seconds * 1e6)
}

/// A figure as a whole number; saturates, and never negative here.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(figure: f64) -> u64 {
    figure as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_told_while_there_is_an_end() {
        // Half of a round of 8 s, then 4 s, 2 s, 1 s and so on.
        assert_eq!(until_switch(4.0, 8.0, 0.5), Some(12_000_000));
        assert_eq!(until_switch(4.0, 8.0, 0.0), Some(4_000_000));
        assert_eq!(until_switch(4.0, 8.0, 1.0), None, "the guest is as fast");
        let progress = Progress::new(MigrationStatus::default());
        assert_eq!(progress.status().time_left_us, None);
        progress.update(|s| s.state = MigrationState::Running);
        progress.begin_round(1, 100);
        progress.end_round();
        progress.begin_round(2, 100);
        assert!(progress.status().time_left_us.is_some());
        progress.finish(MigrationState::Completed, None);
        assert_eq!(progress.status().time_left_us, None);
    }

    #[test]
    fn progress_never_goes_back_and_ends_at_100() {
        let progress = Progress::new(MigrationStatus::default());
        let mut last = 0.0;
        for round in 1..8 {
            progress.begin_round(round, 100);
            for _ in 0..10 {
                progress.sent_pages(round, 10 * PAGE_SIZE, 64);
                let now = progress.status().progress;
                assert!(
                    now >= last && now < 100.0,
                    "{now} after {last} in round {round}"
                );
                last = now;
            }
            progress.end_round();
            progress.dirtied(50);
        }
        let status = progress.status();
        assert_eq!(status.rounds.len(), 7);
        assert_eq!(status.bytes.resent, 600 * PAGE_SIZE);
        progress.finish(MigrationState::Completed, None);
        progress.finish(MigrationState::Failed, Some("too late".into()));
        let status = progress.status();
        assert_eq!(
            (status.progress, status.state),
            (100.0, MigrationState::Completed)
        );
        assert_eq!(status.bytes_total, status.bytes_sent);
    }
}
