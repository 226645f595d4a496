//! The thread that writes: everything that waits becomes one transaction.

#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Notify, oneshot};

use super::write::{Write, apply};
use super::{Flush, Waiting, closed, lock};
use crate::error::{DWCPError, Result};

/// Time between two tries to write what could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// Most writes kept while nothing can be written. Nothing new is begun then, so these are the ends
/// of what was under way; beyond, the store stays behind for good, and says so.
const BACKLOG_MAX: usize = 1 << 18;
/// Writes between two checkpoints: a few MiB of log.
const CHECKPOINT_EVERY: usize = 1000;
/// Pages of 4 KiB in the log at which a checkpoint may hold the writer up, so that the log begins
/// anew: under a load that never pauses, it would grow without end.
const LOG_PAGES_MAX: i64 = 16_384;

/// What the writer shares with the store.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// Rung when there is something to do.
    bell: Condvar,
    durable_seq: AtomicU64,
    pub(super) news: Notify,
    #[cfg(test)]
    breaks: AtomicBool,
    #[cfg(test)]
    commits: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    writes: Vec<Write>,
    waiting: Vec<oneshot::Sender<Result<()>>>,
    #[cfg(test)]
    held: bool,
    /// Whether the writer is at work on what it took.
    busy: bool,
    /// Why nothing can be written at present.
    trouble: Option<String>,
    /// Something came when it was closed already.
    late: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// There is no file.
    Forgetful,
    #[default]
    Open,
    /// What is queued is written, nothing more is taken.
    Closing,
    Closed,
}

/// What the writer takes at once.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    waiting: Vec<oneshot::Sender<Result<()>>>,
    /// Nothing comes after it.
    last: bool,
}

impl Shared {
    /// Of a store whose last event has this number.
    pub(super) fn new(durable_seq: u64) -> Arc<Shared> {
        Arc::new(Shared {
            queue: Mutex::default(),
            bell: Condvar::new(),
            durable_seq: AtomicU64::new(durable_seq),
            news: Notify::new(),
            #[cfg(test)]
            breaks: AtomicBool::new(false),
            #[cfg(test)]
            commits: AtomicU64::new(0),
        })
    }

    /// Of a store that keeps nothing.
    pub(super) fn forgetful() -> Arc<Shared> {
        let shared = Shared::new(0);
        shared.lock().phase = Phase::Forgetful;
        shared
    }

    pub(super) fn queue(&self, writes: impl IntoIterator<Item = Write>) {
        let mut queue = self.lock();
        match queue.phase {
            Phase::Open => queue.writes.extend(writes),
            Phase::Forgetful => {
                drop(queue);
                let writes: Vec<_> = writes.into_iter().collect();
                return self.advance(&writes);
            }
            Phase::Closing | Phase::Closed => {
                // Who did this is told by `flush`.
                queue.late |= writes.into_iter().next().is_some();
                return;
            }
        }
        drop(queue);
        self.bell.notify_one();
    }

    pub(super) fn flush(&self) -> Flush {
        let mut queue = self.lock();
        let over = match queue.phase {
            Phase::Forgetful => Some(Ok(())),
            Phase::Closed if queue.late || queue.trouble.is_some() => Some(Err(closed())),
            Phase::Closed => Some(Ok(())),
            Phase::Open | Phase::Closing => {
                let idle = queue.writes.is_empty() && !queue.busy && queue.trouble.is_none();
                idle.then_some(Ok(()))
            }
        };
        if let Some(result) = over {
            return Flush(Waiting::Over(result));
        }
        let (sender, receiver) = oneshot::channel();
        queue.waiting.push(sender);
        drop(queue);
        self.bell.notify_one();
        Flush(Waiting::For(receiver))
    }

    pub(super) fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Acquire)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    pub(super) fn is_durable(&self) -> bool {
        self.lock().phase != Phase::Forgetful
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().phase == Phase::Closed
    }

    /// Has the writer end after what is queued.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        if queue.phase == Phase::Open {
            queue.phase = Phase::Closing;
        }
        drop(queue);
        self.bell.notify_all();
    }

    /// The writer has ended: nothing more becomes durable. Whether all did that was queued.
    pub(super) fn finish(&self, trouble: Option<String>) -> Result<()> {
        let mut queue = self.lock();
        let waiting = std::mem::take(&mut queue.waiting);
        if trouble.is_some() {
            queue.trouble = trouble;
        }
        // Those who come to a store that keeps nothing lose nothing.
        if queue.phase != Phase::Forgetful {
            queue.phase = Phase::Closed;
        }
        let result = match &queue.trouble {
            Some(why) => Err(unwritten(why)),
            None => Ok(()),
        };
        let late = queue.late;
        drop(queue);
        for one in waiting {
            let answer = if late { Err(closed()) } else { result.clone() };
            // Whoever went away wants no answer.
            let _ = one.send(answer);
        }
        result
    }

    #[cfg(test)]
    pub(super) fn break_down(&self, broken: bool) {
        self.breaks.store(broken, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn hold(&self, held: bool) {
        self.lock().held = held;
        self.bell.notify_all();
    }

    #[cfg(test)]
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// These writes are durable.
    fn advance(&self, writes: &[Write]) {
        let seqs = writes.iter().filter_map(|write| match write {
            Write::Event { event, .. } => Some(event.seq),
            _ => None,
        });
        if let Some(last) = seqs.max() {
            self.durable_seq.fetch_max(last, Ordering::Release);
            self.news.notify_waiters();
        }
    }

    /// Waits for something to do; where something is left over, not for long.
    fn take(&self, left_over: bool) -> Batch {
        let mut queue = self.lock();
        queue.busy = false;
        let nothing = |queue: &mut Queue| {
            #[cfg(test)]
            if queue.held {
                return true;
            }
            queue.writes.is_empty() && queue.waiting.is_empty() && queue.phase == Phase::Open
        };
        let mut queue = if left_over {
            let waited = self.bell.wait_timeout_while(queue, RETRY, nothing);
            waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
        } else {
            let waited = self.bell.wait_while(queue, nothing);
            waited.unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        queue.busy = true;
        Batch {
            writes: std::mem::take(&mut queue.writes),
            waiting: std::mem::take(&mut queue.waiting),
            last: queue.phase == Phase::Closing,
        }
    }

    /// Says whether writing works.
    fn report(&self, result: &Result<(), String>) {
        let mut queue = self.lock();
        match result {
            Ok(()) => {
                if queue.trouble.take().is_some() {
                    tracing::info!("the store is written again");
                }
            }
            Err(why) => {
                if queue.trouble.replace(why.clone()).is_none() {
                    tracing::error!(why, "the store cannot be written");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

fn unwritten(why: &str) -> DWCPError {
    DWCPError::Internal(format!(
        "the node's store cannot be written, so this may be forgotten when the node ends: {why}"
    ))
}

/// The thread's own.
pub(super) struct Writer {
    connection: Connection,
    /// Keeps the directory for this node as long as the thread lives.
    _lock: Connection,
    shared: Arc<Shared>,
    /// Rings the checkpointer.
    checkpoints: SyncSender<()>,
    written: usize,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        lock: Connection,
        shared: Arc<Shared>,
        checkpoints: SyncSender<()>,
    ) -> Writer {
        Writer {
            connection,
            _lock: lock,
            shared,
            checkpoints,
            written: 0,
        }
    }

    /// Writes until the store is closed.
    pub(super) fn live(mut self) {
        let mut backlog: Vec<Write> = Vec::new();
        let mut lost = None;
        loop {
            let batch = self.shared.take(!backlog.is_empty());
            if lost.is_none() {
                backlog.extend(batch.writes);
            }
            let result = match &lost {
                Some(why) => Err(String::clone(why)),
                None => self.commit(&backlog),
            };
            if result.is_ok() {
                self.shared.advance(&backlog);
                self.written += backlog.len();
                backlog.clear();
            } else if backlog.len() > BACKLOG_MAX {
                let why = format!("more than {BACKLOG_MAX} changes could not be written");
                lost = Some(why);
                backlog = Vec::new();
            }
            self.shared.report(&result);
            for waiting in batch.waiting {
                // Whoever went away wants no answer.
                let _ = waiting.send(result.clone().map_err(|why| unwritten(&why)));
            }
            if batch.last {
                return;
            }
            if self.written >= CHECKPOINT_EVERY {
                self.written = 0;
                // One that is under way, or has been rung for, is enough.
                let _ = self.checkpoints.try_send(());
            }
        }
    }

    /// Writes all of it, or nothing, and has it on disk.
    fn commit(&mut self, writes: &[Write]) -> Result<(), String> {
        if writes.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        if self.shared.breaks.load(Ordering::Relaxed) {
            return Err("a test wants it so".into());
        }
        #[cfg(test)]
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        let mut work = || {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            apply(&transaction, writes)?;
            transaction.commit()
        };
        work().map_err(|error: rusqlite::Error| error.to_string())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // So that nobody waits for it.
            let _ = self.shared.finish(Some("its thread panicked".into()));
        }
    }
}

/// Brings what is in the log into the file, beside the writer, which does not wait for it.
pub(super) struct Checkpointer(Connection);

impl Checkpointer {
    pub(super) fn new(connection: Connection) -> Checkpointer {
        Checkpointer(connection)
    }

    /// Works until the writer has ended.
    pub(super) fn live(self, bell: &Receiver<()>) {
        while bell.recv().is_ok() {
            match self.checkpoint("PASSIVE") {
                Ok(pages) if pages > LOG_PAGES_MAX => {
                    if let Err(error) = self.checkpoint("RESTART") {
                        tracing::warn!(%error, "the store's log was not begun anew");
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a checkpoint of the store failed"),
            }
        }
    }

    /// Pages in the log.
    fn checkpoint(&self, mode: &str) -> rusqlite::Result<i64> {
        let query = format!("PRAGMA wal_checkpoint({mode})");
        self.0.query_row(&query, [], |row| row.get(1))
    }
}
