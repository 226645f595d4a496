//! What a node keeps of migrations: those under way and those that were, and what the hand-over's
//! rules ask to be made durable. In memory in this version; the store will take the same calls.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::super::once::Once;
use crate::error::{DWCPError, Result};
use crate::migration::{Envelope, Incoming, Outgoing, Progress, Record, Verdict};
use crate::model::MigrationOptions;
use crate::transport::Blocking;

/// Migrations that are over and remembered. Older ones are forgotten first.
const REMEMBERED_MAX: usize = 1024;
/// Migrations that come in at the same time: each holds a VM's memory, within the node's limits, and
/// a handful of threads.
const INCOMING_MAX: usize = 64;

/// A migration that left, or leaves, from here.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) id: String,
    pub(super) vm_id: String,
    pub(super) progress: Arc<Progress>,
    /// Set once its thread runs.
    pub(super) outgoing: OnceLock<Outgoing>,
}

impl Job {
    /// Asks for an end without a move.
    pub(super) async fn cancel(&self) -> Result<()> {
        match self.outgoing.get() {
            Some(outgoing) => outgoing.cancel().await,
            None => Err(DWCPError::InvalidOperation(
                "the migration has not begun".into(),
            )),
        }
    }

    /// Hands over a control connection that the peer opened.
    pub(super) fn adopt(&self, stream: Blocking, first: Envelope) {
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.adopt(stream, first);
        }
    }

    /// Ends its thread, wherever it is: the node is over, and its VMs with it.
    pub(super) fn abandon(&self) {
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.abandon();
            outgoing.join();
        }
    }
}

/// The migrations of a node.
#[derive(Debug, Default)]
pub(crate) struct Migrations {
    inner: Mutex<Inner>,
    /// Those that were asked for with an idempotency key.
    pub(super) started: Once<(String, String, MigrationOptions), Arc<Progress>>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: VecDeque<Arc<Job>>,
    incoming: BTreeMap<String, Arc<Incoming>>,
    /// The last epoch of each VM; outlives the VM.
    epochs: HashMap<String, u64>,
    /// What the source's rules made durable, by migration.
    records: HashMap<String, Record>,
    /// What the destination's rules made durable, by migration.
    verdicts: HashMap<String, Verdict>,
}

impl Migrations {
    /// Takes a new migration into the book.
    pub(super) fn add(&self, job: Arc<Job>) {
        let mut inner = self.lock();
        while inner.jobs.len() >= REMEMBERED_MAX {
            let over = inner
                .jobs
                .iter()
                .position(|j| j.progress.status().state.is_terminal());
            match over.and_then(|at| inner.jobs.remove(at)) {
                Some(old) => {
                    inner.records.remove(&old.id);
                }
                None => break,
            }
        }
        inner.jobs.push_back(job);
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Job>> {
        let inner = self.lock();
        let found = inner.jobs.iter().find(|job| job.id == id);
        found
            .cloned()
            .ok_or_else(|| DWCPError::NotFound(format!("migration {id}")))
    }

    /// The migration that holds a VM.
    pub(super) fn of_vm(&self, vm_id: &str) -> Option<Arc<Job>> {
        let inner = self.lock();
        let mut found = inner.jobs.iter().rev().filter(|job| job.vm_id == vm_id);
        found
            .find(|job| !job.progress.status().state.is_terminal())
            .cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.lock().jobs.iter().cloned().collect()
    }

    /// Takes a new epoch for a VM that leaves.
    pub(super) fn burn_epoch(&self, vm_id: &str) -> u64 {
        let mut inner = self.lock();
        let epoch = inner.epochs.entry(vm_id.to_owned()).or_default();
        *epoch += 1;
        *epoch
    }

    /// Accepts the epoch of a VM that arrives, if it is a new one.
    pub(super) fn accept_epoch(&self, vm_id: &str, epoch: u64) -> Result<()> {
        let mut inner = self.lock();
        let last = inner.epochs.entry(vm_id.to_owned()).or_default();
        if epoch <= *last {
            return Err(DWCPError::Migration(format!(
                "epoch {epoch} of the VM is over: {last} was seen here"
            )));
        }
        *last = epoch;
        Ok(())
    }

    pub(super) fn record(&self, migration: &str, vm_id: &str, record: &Record) {
        let mut inner = self.lock();
        if let Record::Mine { epoch } = record {
            let last = inner.epochs.entry(vm_id.to_owned()).or_default();
            *last = (*last).max(*epoch);
        }
        inner.records.insert(migration.to_owned(), record.clone());
    }

    pub(super) fn judge(&self, migration: &str, verdict: &Verdict) {
        let mut inner = self.lock();
        if *verdict == Verdict::Forget {
            inner.verdicts.remove(migration);
        } else {
            inner.verdicts.insert(migration.to_owned(), verdict.clone());
        }
    }

    pub(super) fn verdict(&self, migration: &str) -> Option<Verdict> {
        self.lock().verdicts.get(migration).cloned()
    }

    pub(super) fn incoming(&self, migration: &str) -> Option<Arc<Incoming>> {
        self.lock().incoming.get(migration).cloned()
    }

    /// Takes a migration that comes in into the book, which `start` starts.
    pub(super) fn add_incoming(
        &self,
        migration: &str,
        start: impl FnOnce() -> Result<Incoming>,
    ) -> Result<()> {
        // Under the lock: its end, which takes it out, must not come before.
        let mut inner = self.lock();
        if inner.incoming.len() >= INCOMING_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "{INCOMING_MAX} migrations come in already, which is this node's limit"
            )));
        }
        let incoming = start()?;
        inner
            .incoming
            .insert(migration.to_owned(), Arc::new(incoming));
        Ok(())
    }

    pub(super) fn remove_incoming(&self, migration: &str) {
        let removed = self.lock().incoming.remove(migration);
        // Dropped without the lock.
        drop(removed);
    }

    pub(super) fn all_incoming(&self) -> Vec<Arc<Incoming>> {
        self.lock().incoming.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_only_go_up() {
        let book = Migrations::default();
        assert_eq!((book.burn_epoch("vm"), book.burn_epoch("vm")), (1, 2));
        assert!(book.accept_epoch("vm", 2).is_err());
        book.accept_epoch("vm", 5).unwrap();
        assert!(book.accept_epoch("vm", 5).is_err());
        book.record("m", "vm", &Record::Mine { epoch: 9 });
        assert_eq!(book.burn_epoch("vm"), 10);
        assert_eq!(book.burn_epoch("other"), 1);
    }
}
