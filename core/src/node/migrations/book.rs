//! What a node keeps of migrations: those under way and those that were, and what the hand-over's
//! rules ask to be made durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::once::Once;
use super::super::store::{Flush, Loaded, Store, Write};
use crate::error::{DWCPError, Result};
use crate::migration::{
    EPOCH_MAX, Envelope, EpochError, Incoming, Ledger, Meeting, Outgoing, Progress, Record,
    Unresolved, Verdict,
};
use crate::model::{MigrationState, MigrationStatus, NodeLimits, Timestamp};
use crate::transport::Blocking;

/// Migrations that are over and remembered. Older ones are forgotten first.
const REMEMBERED_MAX: usize = 1024;
/// Migrations that come in at the same time, together with those that are over here and whose sources
/// do not answer: each is a thread.
const TALKING_MAX: usize = 512;
/// Verdicts that sources have not settled: each is a few hundred bytes.
const VERDICTS_MAX: usize = 65_536;
/// Verdicts that were settled last and are remembered while the node runs: what a source asked before it
/// settled one may come after.
const SETTLED_MAX: usize = 1024;

/// A migration that left, or leaves, from here.
#[derive(Debug)]
pub(crate) struct Job {
    pub(in crate::node) id: String,
    pub(super) vm_id: String,
    /// Its place among the others.
    position: u64,
    pub(in crate::node) progress: Arc<Progress>,
    /// Set once its thread runs; never, when the node was started again meanwhile.
    pub(super) outgoing: OnceLock<Outgoing>,
    /// It is known from before this node was started.
    recovered: bool,
    /// Held while somebody settles it without its thread: one at a time.
    settling: Mutex<()>,
}

impl Job {
    /// As it is stored.
    fn stored(&self) -> Write {
        Write::Migration {
            position: self.position,
            status: Box::new(self.progress.status()),
        }
    }

    /// Asks for an end without a move.
    pub(super) async fn cancel(&self) -> Result<()> {
        match self.outgoing.get() {
            Some(outgoing) => outgoing.cancel().await,
            None => Err(DWCPError::InvalidOperation(
                "the migration has not begun".into(),
            )),
        }
    }

    /// Takes the VM back without the destination's word.
    pub(super) async fn force(&self) -> Result<()> {
        match self.outgoing.get() {
            Some(outgoing) => outgoing.force().await,
            None => Err(DWCPError::InvalidOperation(
                "the migration has not begun".into(),
            )),
        }
    }

    /// A later offer of the VM was accepted here.
    pub(super) fn outlived(&self, epoch: u64) {
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.outlived(epoch);
        }
    }

    /// Asks the target now, if it is silent.
    pub(super) async fn ask(&self) {
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.ask().await;
        }
    }

    /// Hands over a control connection that the peer opened; gives it back where the migration's thread
    /// has ended.
    pub(super) fn adopt(&self, stream: Blocking, first: Envelope) -> Option<(Blocking, Envelope)> {
        match self.outgoing.get() {
            Some(outgoing) => outgoing.adopt(stream, first),
            // It begins at this moment: the connection is closed, and the peer asks again.
            None => None,
        }
    }

    /// Whether its thread ended with the process before this one.
    pub(super) fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Waits until nobody else settles it.
    pub(super) fn settle(&self) -> MutexGuard<'_, ()> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends its thread, wherever it is: the node is over, and its VMs with it.
    pub(super) fn abandon(&self) {
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.abandon();
        }
        self.join();
    }

    /// Waits for its thread, which is about to end. Until then the thread's stack is kept.
    pub(super) fn join(&self) {
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.join();
        }
    }
}

/// The migrations of a node.
#[derive(Debug)]
pub(crate) struct Migrations {
    inner: Mutex<Inner>,
    /// Those that were asked for with an idempotency key.
    pub(super) started: Once<Arc<Progress>>,
    /// Permits of those that leave.
    leaving: Arc<Semaphore>,
    limits: NodeLimits,
    store: Arc<Store>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: VecDeque<Arc<Job>>,
    /// Place of the next job among the others.
    next: u64,
    incoming: BTreeMap<String, Arc<Incoming>>,
    /// The epochs of each VM; outlives the VM.
    ledgers: HashMap<String, Ledger>,
    /// What the source's rules made durable, by migration.
    records: HashMap<String, Record>,
    /// What the destination's rules made durable, by migration, with the VM.
    verdicts: HashMap<String, (String, Verdict)>,
    /// Those that were forgotten last.
    settled: VecDeque<(String, (String, Verdict))>,
}

impl Migrations {
    /// Takes what was stored. A migration that was under way when the node ended is over now, or
    /// unresolved, as its record says.
    pub(in crate::node) fn new(
        store: Arc<Store>,
        limits: NodeLimits,
        loaded: &mut Loaded,
    ) -> Migrations {
        let epochs = std::mem::take(&mut loaded.epochs).into_iter();
        let mut inner = Inner {
            ledgers: epochs
                .map(|(vm, last)| (vm, Ledger::stored(last)))
                .collect(),
            records: std::mem::take(&mut loaded.records),
            verdicts: std::mem::take(&mut loaded.verdicts),
            ..Inner::default()
        };
        for (position, mut status) in loaded.migrations.drain(..) {
            inner.next = inner.next.max(position + 1);
            if !status.state.is_terminal() {
                let record = inner.records.get(&status.id);
                end(&mut status, record);
                let status = Box::new(status.clone());
                store.write([Write::Migration { position, status }]);
            }
            inner.jobs.push_back(Arc::new(Job {
                id: status.id.clone(),
                vm_id: status.vm_id.clone(),
                position,
                progress: Arc::new(Progress::new(status)),
                outgoing: OnceLock::new(),
                recovered: true,
                settling: Mutex::default(),
            }));
        }
        let started = Once::new("migrate", &loaded.answers, |id| {
            let found = inner.jobs.iter().find(|job| job.id == id);
            found.map(|job| Arc::clone(&job.progress))
        });
        Migrations {
            inner: Mutex::new(inner),
            started,
            leaving: Arc::new(Semaphore::new(limits.max_migrations_out as usize)),
            limits,
            store,
        }
    }

    /// A place among the migrations that leave at the same time, given back when it is dropped.
    ///
    /// # Errors
    ///
    /// `resource_limit` when there is none.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.leaving).try_acquire_owned().map_err(|_| {
            DWCPError::ResourceLimit(format!(
                "max_migrations_out: {} migrations leave this node already, which is its limit",
                self.limits.max_migrations_out
            ))
        })
    }

    /// Takes a new migration into the book; `answer` is stored together with it.
    pub(super) fn add(
        &self,
        vm_id: &str,
        progress: &Arc<Progress>,
        answer: Option<Write>,
    ) -> Arc<Job> {
        let mut inner = self.lock();
        while inner.jobs.len() >= REMEMBERED_MAX {
            let over = inner
                .jobs
                .iter()
                .position(|j| j.progress.status().state.is_terminal());
            match over.and_then(|at| inner.jobs.remove(at)) {
                Some(old) => {
                    inner.records.remove(&old.id);
                    self.store.write([Write::ForgetMigration(old.id.clone())]);
                }
                None => break,
            }
        }
        let job = Arc::new(Job {
            id: progress.status().id,
            vm_id: vm_id.to_owned(),
            position: inner.next,
            progress: Arc::clone(progress),
            outgoing: OnceLock::new(),
            recovered: false,
            settling: Mutex::default(),
        });
        inner.next += 1;
        self.store.write([job.stored()].into_iter().chain(answer));
        inner.jobs.push_back(Arc::clone(&job));
        job
    }

    /// Takes a migration into the book whose pages nobody moves.
    #[cfg(test)]
    pub(in crate::node) fn enter(&self, vm_id: &str, progress: &Arc<Progress>) {
        self.add(vm_id, progress, None);
    }

    /// A migration is over: how it ended is stored.
    pub(super) fn ended(&self, job: &Job) {
        // Under the lock, so that one that is forgotten meanwhile stays so.
        let inner = self.lock();
        if inner.jobs.iter().any(|known| known.id == job.id) {
            self.store.write([job.stored()]);
        }
    }

    /// What is known of the last migration of a VM that left, or was to leave, from here: the node
    /// it was to go to, and the record.
    pub(in crate::node) fn last_of(&self, vm_id: &str) -> Option<(String, Option<Record>)> {
        let (job, record) = self.last_job_of(vm_id)?;
        Some((job.progress.status().target_node, record))
    }

    /// The same, and the migration itself.
    pub(in crate::node) fn last_job_of(&self, vm_id: &str) -> Option<(Arc<Job>, Option<Record>)> {
        let inner = self.lock();
        let job = inner.jobs.iter().rev().find(|job| job.vm_id == vm_id)?;
        let record = inner.records.get(&job.id).cloned();
        Some((Arc::clone(job), record))
    }

    /// The migration under which a VM was granted to another node, while nobody can tell what that
    /// node did.
    pub(in crate::node) fn granted(&self, vm_id: &str) -> Option<Arc<Job>> {
        let (job, record) = self.last_job_of(vm_id)?;
        let open = !job.progress.status().state.is_terminal();
        (open && matches!(record, Some(Record::Granted { .. }))).then_some(job)
    }

    /// The last epoch of a VM that is known here; 0 for none.
    pub(in crate::node) fn last_epoch(&self, vm_id: &str) -> u64 {
        self.lock().ledgers.get(vm_id).map_or(0, Ledger::last)
    }

    /// Learns of an epoch from a peer, so that the next one that is taken here is higher. Durable when
    /// the store has been flushed.
    pub(in crate::node) fn learn_epoch(&self, vm_id: &str, epoch: u64) {
        let mut inner = self.lock();
        let ledger = inner.ledgers.entry(vm_id.to_owned()).or_default();
        if ledger.last() < epoch && epoch <= EPOCH_MAX {
            ledger.note(epoch);
            self.store_epoch(vm_id, epoch);
        }
    }

    /// What the source's rules made durable of a migration.
    pub(super) fn record_of(&self, migration: &str) -> Option<Record> {
        self.lock().records.get(migration).cloned()
    }

    /// Whether this node took a VM under the last epoch that it knows of.
    pub(in crate::node) fn has_taken(&self, vm_id: &str) -> bool {
        let inner = self.lock();
        let last = inner.ledgers.get(vm_id).map(Ledger::last);
        inner.verdicts.values().any(|(vm, verdict)| {
            vm == vm_id && matches!(verdict, Verdict::Taken { epoch } if Some(*epoch) == last)
        })
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

    /// Takes a new epoch for a VM that leaves. Durable when the store has been flushed.
    ///
    /// # Errors
    ///
    /// `migration` when there is none left.
    pub(super) fn burn_epoch(&self, vm_id: &str) -> Result<u64> {
        self.change(vm_id, Ledger::burn)
    }

    /// Accepts the epoch of a VM that arrives, if it is a new one. Durable when the store has been
    /// flushed.
    ///
    /// # Errors
    ///
    /// `migration` when it is not.
    pub(in crate::node) fn accept_epoch(&self, vm_id: &str, epoch: u64) -> Result<()> {
        self.change(vm_id, |ledger| ledger.accept(epoch))
    }

    /// Changes what is known of a VM's epochs, unless its rules refuse.
    fn change<T>(
        &self,
        vm_id: &str,
        rule: impl FnOnce(&mut Ledger) -> Result<T, EpochError>,
    ) -> Result<T> {
        let mut inner = self.lock();
        let mut ledger = inner.ledgers.get(vm_id).cloned().unwrap_or_default();
        let answer = rule(&mut ledger).map_err(|error| DWCPError::Migration(error.to_string()))?;
        self.store_epoch(vm_id, ledger.last());
        inner.ledgers.insert(vm_id.to_owned(), ledger);
        Ok(answer)
    }

    /// Somebody has the VM under this epoch.
    pub(super) fn meet(&self, vm_id: &str, epoch: u64) -> Meeting {
        let inner = self.lock();
        let ledger = inner.ledgers.get(vm_id).cloned().unwrap_or_default();
        ledger.meet(epoch)
    }

    fn store_epoch(&self, vm_id: &str, epoch: u64) {
        let vm_id = vm_id.to_owned();
        self.store.write([Write::Epoch { vm_id, epoch }]);
    }

    /// Notes an epoch that somebody has the VM under.
    fn note(&self, inner: &mut Inner, vm_id: &str, epoch: u64) {
        let ledger = inner.ledgers.entry(vm_id.to_owned()).or_default();
        ledger.note(epoch);
        let last = ledger.last();
        self.store_epoch(vm_id, last);
    }

    /// Reached when all that was changed up to now is durable.
    pub(super) fn flush(&self) -> Flush {
        self.store.flush()
    }

    /// Makes a record durable. Blocks until it is.
    ///
    /// # Errors
    ///
    /// Those of [`Flush::wait`]: the record may become durable nevertheless.
    pub(in crate::node) fn record(
        &self,
        migration: &str,
        vm_id: &str,
        record: &Record,
    ) -> Result<()> {
        {
            let mut inner = self.lock();
            if let Some(epoch) = record.own_epoch() {
                self.note(&mut inner, vm_id, epoch);
            }
            self.store.write([Write::Record {
                migration: migration.to_owned(),
                record: record.clone(),
            }]);
        }
        self.flush().wait()?;
        self.lock()
            .records
            .insert(migration.to_owned(), record.clone());
        Ok(())
    }

    /// Makes a verdict durable, or forgets it. Blocks until that is durable.
    ///
    /// # Errors
    ///
    /// Those of [`Flush::wait`]: the verdict may become durable nevertheless. `resource_limit` when
    /// peers ask for too many.
    pub(in crate::node) fn judge(
        &self,
        migration: &str,
        vm_id: &str,
        verdict: &Verdict,
    ) -> Result<()> {
        {
            let mut inner = self.lock();
            let full = inner.verdicts.len() >= VERDICTS_MAX;
            if full && *verdict != Verdict::Forget && !inner.verdicts.contains_key(migration) {
                return Err(DWCPError::ResourceLimit(format!(
                    "{VERDICTS_MAX} migrations to this node are not settled by their sources,                      which is its limit"
                )));
            }
            if let Verdict::Superseded { epoch } = verdict {
                self.note(&mut inner, vm_id, *epoch);
            }
            self.store.write([Write::Verdict {
                migration: migration.to_owned(),
                vm_id: vm_id.to_owned(),
                verdict: verdict.clone(),
            }]);
        }
        self.flush().wait()?;
        let mut inner = self.lock();
        if *verdict == Verdict::Forget {
            if let Some(settled) = inner.verdicts.remove(migration) {
                inner.settled.push_back((migration.to_owned(), settled));
                if inner.settled.len() > SETTLED_MAX {
                    inner.settled.pop_front();
                }
            }
        } else {
            let judged = (vm_id.to_owned(), verdict.clone());
            inner.verdicts.insert(migration.to_owned(), judged);
        }
        Ok(())
    }

    /// What this node's verdict of a migration to it is, and of which VM it was; or was, if it was settled
    /// a while ago: a question that comes late must not make another one.
    pub(super) fn judged(&self, migration: &str) -> Option<(String, Verdict)> {
        let inner = self.lock();
        let own = inner.verdicts.get(migration);
        let settled = || inner.settled.iter().rev().find(|(id, _)| id == migration);
        own.or_else(|| settled().map(|(_, own)| own)).cloned()
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
        let all = inner.incoming.values();
        let coming = all.filter(|incoming| !incoming.is_finished()).count();
        let limit = self.limits.max_migrations_in;
        if coming >= limit as usize {
            return Err(DWCPError::ResourceLimit(format!(
                "max_migrations_in: {coming} migrations come to this node already, and its limit is {limit}"
            )));
        }
        if inner.incoming.len() >= TALKING_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "{} migrations to this node are not settled by their sources, and its limit is \
                 {TALKING_MAX} with those that come",
                inner.incoming.len() - coming
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

/// Says of a migration that was under way when the node ended how it ended.
fn end(status: &mut MigrationStatus, record: Option<&Record>) {
    let (state, error) = match record {
        Some(Record::Released { .. }) => (MigrationState::Completed, None),
        // Nobody can tell here: it goes on.
        Some(Record::Granted { .. }) => {
            status.state = MigrationState::Completing;
            status.error = Some(Unresolved::Silent.text(&status.target_node, &status.id));
            return;
        }
        Some(Record::Mine { .. } | Record::Forced { .. } | Record::Aborted { .. }) | None => (
            MigrationState::Failed,
            Some("the node ended before the VM was moved".to_owned()),
        ),
    };
    (status.state, status.error) = (state, error);
    status.completed_at = Some(Timestamp::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(store: Store, mut loaded: Loaded) -> Migrations {
        Migrations::new(Arc::new(store), NodeLimits::default(), &mut loaded)
    }

    fn open(at: Option<&std::path::Path>) -> Migrations {
        let (store, loaded) = Store::open(at).unwrap();
        book(store, loaded)
    }

    fn verdict(book: &Migrations, migration: &str) -> Option<Verdict> {
        book.judged(migration).map(|(_, verdict)| verdict)
    }

    #[test]
    fn epochs_only_go_up() {
        let book = open(None);
        assert_eq!(book.burn_epoch("vm").unwrap(), 1);
        assert_eq!(book.burn_epoch("vm").unwrap(), 2);
        assert!(book.accept_epoch("vm", 2).is_err());
        book.accept_epoch("vm", 5).unwrap();
        assert!(book.accept_epoch("vm", 5).is_err());
        assert!(book.accept_epoch("vm", u64::MAX).is_err());
        book.record("m", "vm", &Record::Mine { epoch: 9 }).unwrap();
        assert_eq!(book.burn_epoch("vm").unwrap(), 10);
        assert_eq!(book.burn_epoch("other").unwrap(), 1);
    }

    #[test]
    fn everything_outlives_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let granted = Record::Granted {
            epoch: 10,
            destination_uuid: "there".into(),
        };
        let taken = Verdict::Taken { epoch: 3 };
        let progress = |id: &str| {
            Arc::new(Progress::new(MigrationStatus {
                id: id.into(),
                vm_id: "vm".into(),
                target_node: "node-02".into(),
                ..MigrationStatus::default()
            }))
        };
        let book = open(Some(dir.path()));
        book.accept_epoch("vm", 9).unwrap();
        book.accept_epoch("here", 3).unwrap();
        assert_eq!(book.burn_epoch("vm").unwrap(), 10);
        book.add("vm", &progress("failed"), None);
        let (ended, cancelled) = (progress("ended"), MigrationState::Cancelled);
        let job = book.add("vm", &ended, None);
        ended.finish(cancelled, None);
        book.ended(&job);
        book.add("vm", &progress("unresolved"), None);
        book.record("unresolved", "vm", &granted).unwrap();
        book.judge("in", "here", &taken).unwrap();
        book.judge("settled", "vm", &Verdict::Refused { epoch: 2 })
            .unwrap();
        book.judge("settled", "vm", &Verdict::Forget).unwrap();
        let late = Some(Verdict::Refused { epoch: 2 });
        assert_eq!(
            verdict(&book, "settled"),
            late,
            "it is said again as it was"
        );
        drop(book);

        let book = open(Some(dir.path()));
        let states: Vec<_> = book
            .all()
            .iter()
            .map(|job| (job.id.clone(), job.progress.status().state))
            .collect();
        let expected = [
            ("failed", MigrationState::Failed),
            ("ended", cancelled),
            ("unresolved", MigrationState::Completing),
        ];
        assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state)));
        assert_eq!(book.last_of("vm"), Some(("node-02".into(), Some(granted))));
        assert_eq!(verdict(&book, "in"), Some(taken));
        assert_eq!(verdict(&book, "settled"), None);
        assert!(book.has_taken("here") && !book.has_taken("vm"));
        assert!(book.accept_epoch("here", 3).is_err());
        assert_eq!(book.burn_epoch("vm").unwrap(), 11);
        book.accept_epoch("here", 4).unwrap();
        assert!(!book.has_taken("here"), "that was before");
    }

    #[test]
    fn a_force_and_its_epoch_outlive_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let forced = Record::Forced {
            epoch: 4,
            destination_uuid: "there".into(),
        };
        let superseded = Verdict::Superseded { epoch: 7 };
        let book = open(Some(dir.path()));
        book.accept_epoch("came", 6).unwrap();
        book.record("out", "left", &forced).unwrap();
        book.judge("in", "came", &Verdict::Taken { epoch: 6 })
            .unwrap();
        assert!(book.has_taken("came"));
        assert_eq!(book.meet("came", 7), Meeting::GiveWay);
        book.judge("in", "came", &superseded).unwrap();
        drop(book);

        let book = open(Some(dir.path()));
        assert_eq!(book.record_of("out"), Some(forced));
        assert_eq!(book.judged("in"), Some(("came".into(), superseded)));
        assert!(!book.has_taken("came"));
        assert_eq!(book.meet("came", 7), Meeting::Both { last: 7 });
        assert_eq!(book.meet("left", 3), Meeting::Stand { last: 4 });
        assert_eq!(book.burn_epoch("left").unwrap(), 5);
    }

    #[test]
    fn what_could_not_be_written_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let book = open(Some(dir.path()));
        book.store.break_down(true);
        let taken = Verdict::Taken { epoch: 1 };
        assert!(book.judge("in", "vm", &taken).is_err());
        assert_eq!(verdict(&book, "in"), None);
        let granted = Record::Granted {
            epoch: 1,
            destination_uuid: "there".into(),
        };
        assert!(book.record("out", "vm", &granted).is_err());
        book.store.break_down(false);
        let refused = Verdict::Refused { epoch: 1 };
        book.judge("in", "vm", &refused).unwrap();
        drop(book);
        assert_eq!(verdict(&open(Some(dir.path())), "in"), Some(refused));
    }
}
