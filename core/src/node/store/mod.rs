//! What outlives a node: one SQLite file in its data directory.
//!
//! `schema` opens the file and knows its tables, `load` reads all of it at the start, `write` says
//! what can be written and how, `writer` is the thread that does. The rest of the node keeps
//! everything in memory and never reads here again.
//!
//! Writes are queued, in order and without waiting, and the thread puts all that is queued into one
//! transaction: whoever needs a write to be durable waits with [`Store::flush`], off every lock, and
//! a thousand of them share one `fsync`. A node without a data directory has a store that keeps
//! nothing: what is queued there is done at once.

#![forbid(unsafe_code)]

mod keys;
mod load;
mod schema;
#[cfg(test)]
mod tests;
mod write;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{Notify, oneshot};

pub(crate) use self::keys::ApiKey;
pub(super) use self::load::Loaded;
pub(super) use self::write::{Answer, Digest, Write};
use self::writer::{Checkpointer, Shared, Writer};
use crate::error::{DWCPError, Result};
use crate::machine::spawn;
use crate::model::new_uuid;

/// The store of a node.
pub(crate) struct Store {
    shared: Arc<Shared>,
    /// The threads; `None` without a data directory, and once it is closed.
    threads: Mutex<Option<Threads>>,
    keys: Mutex<Vec<ApiKey>>,
}

struct Threads {
    writer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("durable", &self.is_durable())
            .field("trouble", &self.trouble())
            .finish_non_exhaustive()
    }
}

/// A point in the queue: reached when all that was queued before it is durable.
#[derive(Debug)]
#[must_use = "what is queued is not durable before this says so"]
pub(crate) struct Flush(Waiting);

#[derive(Debug)]
enum Waiting {
    Over(Result<()>),
    For(oneshot::Receiver<Result<()>>),
}

impl Flush {
    /// Waits until it is reached.
    ///
    /// # Errors
    ///
    /// `internal` when something queued before it could not be written; it happened nevertheless, and
    /// is written as soon as that is possible again. `unavailable` when the node is over.
    pub(crate) async fn done(self) -> Result<()> {
        match self.0 {
            Waiting::Over(result) => result,
            Waiting::For(answer) => answer.await.unwrap_or_else(|_| Err(closed())),
        }
    }

    /// The same for a thread that may block, which those of the async runtime may not.
    ///
    /// # Errors
    ///
    /// Those of [`done`](Self::done).
    pub(crate) fn wait(self) -> Result<()> {
        match self.0 {
            Waiting::Over(result) => result,
            Waiting::For(answer) => answer.blocking_recv().unwrap_or_else(|_| Err(closed())),
        }
    }
}

impl Store {
    /// Opens the store in a directory, which is made where it is missing; without one, a store that
    /// keeps nothing. What was in it comes with it. Blocks.
    ///
    /// # Errors
    ///
    /// `invalid_config` for a directory that cannot be used, `already_exists` for one that another
    /// node has open, `unsupported` for a store of a newer version, `internal` for one that cannot be
    /// read.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<(Store, Loaded)> {
        let Some(data_dir) = data_dir else {
            let loaded = Loaded::new(new_uuid());
            return Ok((Store::with(Shared::forgetful(), None, Vec::new()), loaded));
        };
        let files = schema::open(data_dir)?;
        let (loaded, keys) = load::load(&files.connection)?;
        let shared = Shared::new(loaded.last_seq());
        let (ring, bell) = std::sync::mpsc::sync_channel(1);
        let checkpointer = Checkpointer::new(files.second);
        let checkpointer = spawn("dwcp-checkpoint", move || checkpointer.live(&bell))?;
        let writer = Writer::new(files.connection, files.lock, Arc::clone(&shared), ring);
        let writer = spawn("dwcp-store", move || writer.live())?;
        let threads = Threads {
            writer,
            checkpointer,
        };
        Ok((Store::with(shared, Some(threads), keys), loaded))
    }

    fn with(shared: Arc<Shared>, threads: Option<Threads>, keys: Vec<ApiKey>) -> Store {
        Store {
            shared,
            threads: Mutex::new(threads),
            keys: Mutex::new(keys),
        }
    }

    /// Queues writes, which become durable together, after all that were queued before. Waits for
    /// nothing, so it may be called under a lock, which then says the order.
    pub(super) fn write(&self, writes: impl IntoIterator<Item = Write>) {
        self.shared.queue(writes);
    }

    /// The present end of the queue.
    pub(crate) fn flush(&self) -> Flush {
        self.shared.flush()
    }

    /// Number of the last event that is durable; 0 before the first.
    pub(super) fn durable_seq(&self) -> u64 {
        self.shared.durable_seq()
    }

    /// Wakes who waits for events: more of them are durable, or the store is closed.
    pub(super) fn news(&self) -> &Notify {
        &self.shared.news
    }

    /// Why it cannot be written at present.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.trouble()
    }

    /// Fails while it cannot be written: nothing new is begun then.
    ///
    /// # Errors
    ///
    /// `unavailable` with the reason.
    pub(super) fn check(&self) -> Result<()> {
        match self.trouble() {
            None => Ok(()),
            Some(why) => Err(DWCPError::Unavailable(format!(
                "the node's store cannot be written: {why}"
            ))),
        }
    }

    /// Whether anything is kept.
    pub(super) fn is_durable(&self) -> bool {
        self.shared.is_durable()
    }

    /// Whether it was closed: nothing more becomes durable.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Writes what is queued and closes the file, so that the directory can be opened again. Blocks.
    /// Calling it again does nothing.
    ///
    /// # Errors
    ///
    /// `internal` when something could not be written.
    pub(super) fn close(&self) -> Result<()> {
        let threads = lock(&self.threads).take();
        self.shared.close();
        if let Some(threads) = threads {
            let ended = threads.writer.join().and(threads.checkpointer.join());
            if ended.is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        let finished = self.shared.finish(None);
        self.news().notify_waiters();
        finished
    }

    /// Makes every write fail, or succeed again.
    #[cfg(test)]
    pub(super) fn break_down(&self, broken: bool) {
        self.shared.break_down(broken);
    }

    /// Has the writer wait, or go on.
    #[cfg(test)]
    fn hold(&self, held: bool) {
        self.shared.hold(held);
    }

    /// Transactions so far.
    #[cfg(test)]
    fn commits(&self) -> u64 {
        self.shared.commits()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the store was closed with something unwritten");
        }
    }
}

/// The error once the store is closed.
fn closed() -> DWCPError {
    DWCPError::Unavailable("the node was shut down".into())
}

/// An error of SQLite, about `what`.
fn broken(what: &str) -> impl Fn(rusqlite::Error) -> DWCPError {
    move |error| DWCPError::Internal(format!("the node's store: {what}: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
