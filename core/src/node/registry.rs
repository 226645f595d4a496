//! The VMs of a node: what each is, and what happened to it.
//!
//! One lock guards the VMs' public state together with the event log, and one function changes
//! either, so that they cannot disagree and a watcher's first look and its cursor belong to the same
//! moment. The lock is held for microseconds: states are shared, not copied, and nothing waits under
//! it. What takes time (starting, stopping, …) is serialised by a lock of each VM's own.
//!
//! Changes are queued to the store under the lock, so in their order, and are durable some time after
//! it was let go: watchers read only what is, and whoever acknowledges a change waits for
//! [`Registry::flush`] before.

mod entry;
mod handover;
mod moved;
mod pages;
mod recover;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::entry::Standing;
pub(crate) use self::entry::{Running, VmEntry};
pub(super) use self::handover::Departure;
use self::moved::Moved;
pub(super) use self::recover::{Fate, Recovered};
use super::events::{EventLog, Logged, Read};
use super::store::{Flush, Loaded, Store, Write};
use crate::action::Action;
use crate::error::{DWCPError, Result};
use crate::machine::Machine;
use crate::model::{Filters, NodeLimits, Timestamp, VM, VMEventType, VMState};

/// What a node does with requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// It serves all.
    #[default]
    Open,
    /// It starts nothing new.
    Draining,
    /// It is over.
    Closed,
}

/// The VMs of a node.
#[derive(Debug)]
pub(crate) struct Registry {
    node: String,
    limits: NodeLimits,
    book: Mutex<Book>,
    pub(super) store: Arc<Store>,
}

#[derive(Debug)]
struct Book {
    phase: Phase,
    /// No change comes any more.
    over: bool,
    vms: HashMap<String, Record>,
    /// Order in which the next VM came.
    next: u64,
    log: EventLog,
    moved: Moved,
}

/// A VM in the book.
#[derive(Debug)]
struct Record {
    vm: Arc<VM>,
    entry: Arc<VmEntry>,
    order: u64,
    /// The node it is arriving from: everything is refused until it is here.
    arriving: Option<String>,
    /// It ran when the node was asked to end, and has not been started since.
    interrupted: bool,
}

impl Record {
    /// As it is stored.
    fn stored(&self) -> Write {
        Write::Vm {
            vm: Arc::clone(&self.vm),
            position: self.order,
            arriving: self.arriving.clone(),
            interrupted: self.interrupted,
        }
    }
}

/// What happens to a VM: the state after it, and how it is told.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) state: VMState,
    pub(crate) event: VMEventType,
    pub(crate) message: String,
    /// Why it is failed, paused, waiting or stopped.
    pub(crate) reason: Option<String>,
}

impl Change {
    pub(crate) fn new(state: VMState, event: VMEventType, message: impl Into<String>) -> Change {
        Change {
            state,
            event,
            message: message.into(),
            reason: None,
        }
    }

    /// The same, with the message as the reason.
    pub(crate) fn because(mut self) -> Change {
        self.reason = Some(self.message.clone());
        self
    }
}

/// What a watcher begins with.
#[derive(Debug)]
pub(super) struct Look {
    /// The VMs that match, oldest first.
    pub(super) vms: Vec<Arc<VM>>,
    /// Number of the first event after this look.
    pub(super) next: u64,
}

impl Registry {
    /// `limits` has no zeros. Takes the VMs, the events and where VMs went from what was stored;
    /// [`recover`](Self::recover) says what became of the VMs.
    pub(super) fn new(
        node: &str,
        limits: NodeLimits,
        kept_events: usize,
        store: Arc<Store>,
        loaded: &mut Loaded,
    ) -> Registry {
        let mut moved = Moved::default();
        for (id, node) in loaded.moved.drain(..) {
            moved.remember(&id, &node);
        }
        let mut vms = HashMap::new();
        let mut next = 0;
        for stored in loaded.vms.drain(..) {
            next = next.max(stored.position + 1);
            let vm = VM {
                // It may have another name now.
                node: node.to_owned(),
                ..stored.vm
            };
            let record = Record {
                entry: VmEntry::new(&vm.id, vm.state),
                order: stored.position,
                arriving: stored.arriving,
                interrupted: stored.interrupted,
                vm: Arc::new(vm),
            };
            vms.insert(record.vm.id.clone(), record);
        }
        Registry {
            node: node.to_owned(),
            limits,
            book: Mutex::new(Book {
                phase: Phase::default(),
                over: false,
                vms,
                next,
                log: EventLog::new(kept_events, std::mem::take(&mut loaded.events)),
                moved,
            }),
            store,
        }
    }

    /// Reached when all that was changed up to now is durable.
    pub(crate) fn flush(&self) -> Flush {
        self.store.flush()
    }

    // ---- looking ----

    /// A VM that is here, arriving ones included.
    ///
    /// # Errors
    ///
    /// `unavailable` naming the node it moved to, or `vm_not_found`.
    pub(crate) fn find(&self, id: &str) -> Result<(Arc<VmEntry>, Arc<VM>)> {
        let book = self.book();
        let record = book.record(id)?;
        Ok((Arc::clone(&record.entry), Arc::clone(&record.vm)))
    }

    /// A VM in a state in which `action` is legal.
    ///
    /// # Errors
    ///
    /// Those of [`find`](Self::find), and `invalid_operation` naming the state and the legal ones.
    pub(super) fn find_legal(&self, action: &Action) -> Result<(Arc<VmEntry>, Arc<VM>)> {
        let id = action.vm_id().unwrap_or_default();
        let book = self.book();
        let record = book.record(id)?;
        legal(action, record)?;
        Ok((Arc::clone(&record.entry), Arc::clone(&record.vm)))
    }

    /// The VMs that match, oldest first.
    pub(super) fn list(&self, filters: &Filters) -> Vec<(Arc<VmEntry>, Arc<VM>)> {
        let mut found: Vec<_> = {
            let book = self.book();
            let all = book.vms.values();
            all.map(|own| (own.order, Arc::clone(&own.entry), Arc::clone(&own.vm)))
                .collect()
        };
        found.retain(|(_, _, vm)| filters.matches(vm));
        found.sort_unstable_by_key(|(order, _, _)| *order);
        found
            .into_iter()
            .map(|(_, entry, vm)| (entry, vm))
            .collect()
    }

    /// The VMs that have, or are about to have, a machine.
    pub(super) fn active(&self) -> Vec<Arc<VmEntry>> {
        let book = self.book();
        let active = book.vms.values().filter(|own| own.vm.state.is_active());
        active.map(|own| Arc::clone(&own.entry)).collect()
    }

    /// The node that a VM moved to.
    pub(super) fn moved_to(&self, id: &str) -> Option<String> {
        let book = self.book();
        if book.vms.contains_key(id) {
            return None;
        }
        book.moved.to.get(id).cloned()
    }

    /// How many VMs there are, how many run, how many are being moved.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let book = self.book();
        let count = |is: fn(VMState) -> bool| {
            book.vms.values().filter(|own| is(own.vm.state)).count() as u64
        };
        (
            book.vms.len() as u64,
            count(|state| matches!(state, VMState::Running | VMState::Migrating)),
            count(|state| state == VMState::Migrating),
        )
    }

    pub(super) fn phase(&self) -> Phase {
        self.book().phase
    }

    /// Why nothing more comes of a VM: the node is over, or it moved. `None` for an end of its own.
    pub(super) fn why_over(&self, id: Option<&str>) -> Option<DWCPError> {
        let book = self.book();
        if book.phase == Phase::Closed {
            return Some(closed());
        }
        let id = id.filter(|id| !book.vms.contains_key(*id))?;
        match book.absent(id) {
            DWCPError::VMNotFound(_) => None,
            moved => Some(moved),
        }
    }

    // ---- watching ----

    /// What a watcher begins with, of one moment. With an id, that VM only.
    pub(super) fn look(&self, id: Option<&str>, filters: &Filters) -> Result<Look> {
        let book = self.book();
        let vms: Vec<(u64, Arc<VM>)> = match id {
            Some(id) => vec![(0, Arc::clone(&book.record(id)?.vm))],
            None => {
                let all = book.vms.values();
                all.map(|own| (own.order, Arc::clone(&own.vm))).collect()
            }
        };
        let next = book.log.next();
        drop(book);
        let mut vms = vms;
        vms.retain(|(_, vm)| filters.matches(vm));
        vms.sort_unstable_by_key(|(order, _)| *order);
        Ok(Look {
            vms: vms.into_iter().map(|(_, vm)| vm).collect(),
            next,
        })
    }

    /// At most `most` events from a number on, waiting while there are none; `None` when there will
    /// be no more.
    pub(super) async fn read_events(&self, from: u64, most: usize) -> Option<Read> {
        loop {
            let news = self.store.news().notified();
            tokio::pin!(news);
            news.as_mut().enable();
            // Before the look: nothing becomes durable after it was closed.
            let closed = self.store.is_closed();
            {
                let book = self.book();
                let durable = self.store.durable_seq();
                match book.log.read(from, durable, most) {
                    Read::Nothing if book.over && (closed || durable >= book.log.next() - 1) => {
                        return None;
                    }
                    Read::Nothing => {}
                    read => return Some(read),
                }
            }
            news.await;
        }
    }

    /// Waits until the event of that number is durable. Fails to wait once the store is closed.
    pub(super) async fn durable(&self, seq: u64) {
        loop {
            let news = self.store.news().notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.store.durable_seq() >= seq || self.store.is_closed() {
                return;
            }
            news.await;
        }
    }

    /// Whether all events from a number on are kept.
    pub(super) fn keeps(&self, from: u64) -> bool {
        self.book().log.keeps(from)
    }

    /// Whether events of a VM are kept from a number on.
    pub(super) fn has_events_of(&self, id: &str, from: u64) -> bool {
        match self.book().log.read(from, u64::MAX, usize::MAX) {
            Read::Events(events) => events.iter().any(|event| event.vm.id == id),
            _ => false,
        }
    }

    // ---- changing ----

    /// Adds a new VM, stopped; `answer` makes what is stored together with it.
    ///
    /// # Errors
    ///
    /// `resource_limit` naming the limit, `unavailable` on a node that takes no new VMs.
    pub(super) fn create(
        &self,
        mut vm: VM,
        answer: impl FnOnce(&VM) -> Result<Option<Write>>,
    ) -> Result<Arc<VM>> {
        let mut book = self.book();
        self.open(&book)?;
        if book.vms.len() >= self.limits.max_vms as usize {
            return Err(DWCPError::ResourceLimit(format!(
                "max_vms: this node has {} VMs, which is its limit",
                book.vms.len()
            )));
        }
        self.check_one(&vm)?;
        vm.state = VMState::Stopped;
        let with = answer(&vm)?;
        let message = format!("{} was created", vm.name);
        Ok(self.insert(&mut book, vm, None, VMEventType::Created, message, with))
    }

    /// A VM that stands still is about to run: takes its share of the node's limits.
    ///
    /// # Errors
    ///
    /// `resource_limit` naming the limit, `unavailable` on a node that starts nothing new.
    pub(super) fn starting(&self, action: &Action) -> Result<Arc<VM>> {
        let id = action.vm_id().unwrap_or_default();
        let mut book = self.book();
        self.open(&book)?;
        let record = book.record(id)?;
        legal(action, record)?;
        let vm = Arc::clone(&record.vm);
        self.check_share(&book, &vm)?;
        if let Some(record) = book.vms.get_mut(id) {
            record.interrupted = false;
        }
        let message = format!("{} is starting", vm.name);
        let change = Change::new(VMState::Starting, VMEventType::Starting, message);
        self.apply(&mut book, id, change)
    }

    /// Gives a VM its machine, and the state that goes with it, in one step.
    ///
    /// # Errors
    ///
    /// `unavailable` with the machine, which the caller has to end, when the node is over or the VM
    /// gone.
    pub(super) fn attach(
        &self,
        id: &str,
        running: Running,
        change: Change,
    ) -> Result<Arc<VM>, (DWCPError, Arc<Machine>)> {
        let mut book = self.book();
        let entry = match book.alive().and_then(|()| book.record(id)) {
            Ok(record) => Arc::clone(&record.entry),
            Err(error) => return Err((error, running.machine)),
        };
        let machine = Arc::clone(&running.machine);
        entry.put_machine(running);
        entry.begin_incarnation();
        self.apply(&mut book, id, change)
            .map_err(|error| (error, machine))
    }

    /// Changes the state of a VM, and tells it.
    ///
    /// # Errors
    ///
    /// Those of [`find`](Self::find); `unavailable` when the node is over.
    pub(crate) fn change(&self, id: &str, change: Change) -> Result<Arc<VM>> {
        let mut book = self.book();
        book.alive()?;
        self.apply(&mut book, id, change)
    }

    /// Tells something of a VM that changes nothing.
    pub(super) fn tell(&self, id: &str, event: VMEventType, message: String) -> Result<Arc<VM>> {
        let mut book = self.book();
        book.alive()?;
        self.commit(&mut book, id, event, message, |_| {})
    }

    /// Replaces labels, annotations, or both.
    ///
    /// # Errors
    ///
    /// `invalid_operation` where the state does not allow it.
    pub(super) fn update(&self, action: &Action) -> Result<Arc<VM>> {
        let Action::Update {
            vm_id,
            labels,
            annotations,
        } = action
        else {
            return Err(DWCPError::Internal("not an update".into()));
        };
        let mut book = self.book();
        book.alive()?;
        legal(action, book.record(vm_id)?)?;
        let what = match (labels, annotations) {
            (Some(_), Some(_)) => "labels and annotations were",
            (Some(_), None) => "labels were",
            (None, Some(_)) => "annotations were",
            (None, None) => "nothing was",
        };
        let message = format!("{what} replaced");
        self.commit(&mut book, vm_id, VMEventType::Updated, message, |vm| {
            if let Some(labels) = labels {
                vm.labels.clone_from(labels);
            }
            if let Some(annotations) = annotations {
                vm.annotations.clone_from(annotations);
            }
        })
    }

    /// Removes a VM.
    ///
    /// # Errors
    ///
    /// `invalid_operation` where the state does not allow it.
    pub(super) fn destroy(&self, action: &Action) -> Result<()> {
        let id = action.vm_id().unwrap_or_default();
        let mut book = self.book();
        book.alive()?;
        let record = book.record(id)?;
        legal(action, record)?;
        let message = format!("{} was destroyed", record.vm.name);
        self.remove(&mut book, id, VMEventType::Destroyed, message, |_| {})
    }

    /// Starts nothing new from now on.
    pub(super) fn drain(&self) {
        let mut book = self.book();
        if book.phase == Phase::Open {
            book.phase = Phase::Draining;
        }
    }

    /// The node has been asked to end: the VMs that run now are stopped for that, and nobody asked for
    /// it.
    pub(super) fn interrupt(&self) {
        self.book().interrupt();
    }

    /// Ends the node: takes nothing from now on. Returns the VMs, whose machines the caller ends
    /// before it calls [`closed`](Self::closed).
    pub(super) fn close(&self) -> Vec<Arc<VmEntry>> {
        let mut book = self.book();
        if book.phase != Phase::Closed {
            book.phase = Phase::Closed;
            book.interrupt();
        }
        let all = book.vms.values().map(|own| Arc::clone(&own.entry));
        all.collect()
    }

    /// The machines of the node have ended, or are being ended by whoever was just doing something
    /// with them and finds the node over.
    pub(super) fn closed(&self) {
        let mut book = self.book();
        let active = book.vms.values().filter(|own| own.vm.state.is_active());
        let ended: Vec<_> = active.map(|own| own.vm.id.clone()).collect();
        for id in ended {
            let message = "the node was shut down";
            let change = Change::new(VMState::Stopped, VMEventType::Stopped, message).because();
            // It cannot have gone: the lock is held.
            let _ = self.apply(&mut book, &id, change);
        }
        book.over = true;
        drop(book);
        self.store.news().notify_waiters();
    }

    /// Fails on a node that starts nothing new, or could not remember it.
    fn open(&self, book: &Book) -> Result<()> {
        book.open()?;
        self.store.check()
    }

    fn check_one(&self, vm: &VM) -> Result<()> {
        let (memory, cpus) = (vm.config.memory, vm.config.cpus);
        if memory > self.limits.max_memory {
            return Err(DWCPError::ResourceLimit(format!(
                "max_memory: {memory} bytes are more than the {} this node gives to all VMs",
                self.limits.max_memory
            )));
        }
        if cpus > self.limits.max_cpus {
            return Err(DWCPError::ResourceLimit(format!(
                "max_cpus: {cpus} vCPUs are more than the {} this node runs",
                self.limits.max_cpus
            )));
        }
        Ok(())
    }

    /// Whether there is room for one more that runs. The sums are taken anew each time: nothing can
    /// drift.
    fn check_share(&self, book: &Book, vm: &VM) -> Result<()> {
        let running = book
            .vms
            .values()
            .filter(|own| own.vm.id != vm.id && takes_share(own.vm.state));
        let (mut memory, mut cpus) = (0u64, 0u32);
        for own in running {
            memory = memory.saturating_add(own.vm.config.memory);
            cpus = cpus.saturating_add(own.vm.config.cpus);
        }
        let full = |limit: &str, used: &dyn Display, of: &dyn Display, needs: &dyn Display| {
            Err(DWCPError::ResourceLimit(format!(
                "{limit}: VMs that run have {used} of {of}, and {} needs {needs}",
                vm.name
            )))
        };
        let limits = &self.limits;
        if memory.saturating_add(vm.config.memory) > limits.max_memory {
            let (of, needs) = (limits.max_memory, vm.config.memory);
            return full("max_memory", &memory, &of, &needs);
        }
        if cpus.saturating_add(vm.config.cpus) > limits.max_cpus {
            return full("max_cpus", &cpus, &limits.max_cpus, &vm.config.cpus);
        }
        Ok(())
    }

    fn insert(
        &self,
        book: &mut Book,
        vm: VM,
        arriving: Option<String>,
        event: VMEventType,
        message: String,
        with: Option<Write>,
    ) -> Arc<VM> {
        let order = book.next;
        book.next += 1;
        let entry = VmEntry::new(&vm.id, vm.state);
        let vm = Arc::new(vm);
        let record = Record {
            vm: Arc::clone(&vm),
            entry,
            order,
            arriving,
            interrupted: false,
        };
        let stored = record.stored();
        book.vms.insert(vm.id.clone(), record);
        let event = book.log.append(Logged {
            seq: 0,
            event_type: event,
            vm: Arc::clone(&vm),
            before: None,
            timestamp: vm.updated_at,
            message,
            last: false,
        });
        let floor = book.log.oldest();
        let event = Write::Event { event, floor };
        self.store.write([stored, event].into_iter().chain(with));
        vm
    }

    fn remove(
        &self,
        book: &mut Book,
        id: &str,
        event: VMEventType,
        message: String,
        edit: impl FnOnce(&mut VM),
    ) -> Result<()> {
        let mut record = book.take(id)?;
        self.log(&mut record, &mut book.log, event, message, true, edit);
        Ok(())
    }

    /// Changes a VM's state with its timestamps and reason.
    fn apply(&self, book: &mut Book, id: &str, change: Change) -> Result<Arc<VM>> {
        let Change {
            state,
            event,
            message,
            reason,
        } = change;
        self.commit(book, id, event, message, |vm| {
            vm.state = state;
            vm.reason = reason;
        })
    }

    /// The one place where a VM changes.
    fn commit(
        &self,
        book: &mut Book,
        id: &str,
        event: VMEventType,
        message: String,
        edit: impl FnOnce(&mut VM),
    ) -> Result<Arc<VM>> {
        let Some(record) = book.vms.get_mut(id) else {
            return Err(book.absent(id));
        };
        Ok(self.log(record, &mut book.log, event, message, false, edit))
    }

    /// Edits a VM, stamps it, tells its waiters, adds the event, and has both stored.
    fn log(
        &self,
        record: &mut Record,
        log: &mut EventLog,
        event: VMEventType,
        message: String,
        last: bool,
        edit: impl FnOnce(&mut VM),
    ) -> Arc<VM> {
        let before = Arc::clone(&record.vm);
        let mut vm = VM::clone(&before);
        edit(&mut vm);
        // The host's clock may be set back; the order of changes is not.
        let now = Timestamp::now().max(before.updated_at);
        vm.updated_at = now;
        match (before.state, vm.state) {
            (VMState::Starting, VMState::Running) => vm.started_at = Some(now),
            // It stopped only if it had run since it last did.
            (_, VMState::Stopped | VMState::Failed)
                if vm.started_at.is_some() && vm.stopped_at <= vm.started_at =>
            {
                vm.stopped_at = Some(now);
            }
            _ => {}
        }
        let vm = Arc::new(vm);
        record.vm = Arc::clone(&vm);
        record.entry.tell(vm.state, last);
        let event = log.append(Logged {
            seq: 0,
            event_type: event,
            vm: Arc::clone(&vm),
            before: Some(before),
            timestamp: now,
            message,
            last,
        });
        let stored = if last {
            Write::ForgetVm(vm.id.clone())
        } else {
            record.stored()
        };
        let floor = log.oldest();
        self.store.write([stored, Write::Event { event, floor }]);
        vm
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn record(&self, id: &str) -> Result<&Record> {
        self.vms.get(id).ok_or_else(|| self.absent(id))
    }

    fn take(&mut self, id: &str) -> Result<Record> {
        match self.vms.remove(id) {
            Some(record) => Ok(record),
            None => Err(self.absent(id)),
        }
    }

    fn interrupt(&mut self) {
        for record in self.vms.values_mut() {
            record.interrupted |= record.vm.state.is_active();
        }
    }

    fn absent(&self, id: &str) -> DWCPError {
        match self.moved.to.get(id) {
            Some(node) => {
                DWCPError::Unavailable(format!("VM {id} moved to the node {node}; ask there"))
            }
            None => DWCPError::VMNotFound(id.to_owned()),
        }
    }

    /// Fails on a node that is over.
    fn alive(&self) -> Result<()> {
        match self.phase {
            Phase::Closed => Err(closed()),
            _ => Ok(()),
        }
    }

    /// Fails on a node that starts nothing new.
    fn open(&self) -> Result<()> {
        self.alive()?;
        match self.phase {
            Phase::Draining => Err(DWCPError::Unavailable(
                "the node is draining: it takes and starts no VMs".into(),
            )),
            _ => Ok(()),
        }
    }
}

/// The error on a node that is over.
pub(super) fn closed() -> DWCPError {
    DWCPError::Unavailable("the node was shut down".into())
}

/// Whether a VM in that state counts against the limits of what runs. One whose migration is
/// unresolved has its memory still.
fn takes_share(state: VMState) -> bool {
    state.is_active() || state == VMState::Unknown
}

/// Whether the VM is in a state in which the action is legal.
fn legal(action: &Action, record: &Record) -> Result<()> {
    let Some(states) = action.legal_states() else {
        return Ok(());
    };
    let (id, name, state) = (&record.vm.id, action.name(), record.vm.state);
    if let Some(from) = &record.arriving {
        return Err(DWCPError::InvalidOperation(format!(
            "{name}: VM {id} is migrating: it is arriving from the node {from}, and nothing is \
             legal until it is here"
        )));
    }
    if states.contains(&state) {
        return Ok(());
    }
    let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let first = match action {
        Action::Destroy { .. } if state.is_active() => "; stop it first",
        _ => "",
    };
    Err(DWCPError::InvalidOperation(format!(
        "{name}: VM {id} is {state}, and it has to be {}{first}",
        states.join(" or ")
    )))
}
