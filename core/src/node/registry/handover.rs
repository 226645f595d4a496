//! How a VM leaves a node and comes to one.
//!
//! The state `migrating` is the hold: while a VM has it, nothing else changes the VM, its machine
//! stays where it is even when the guest comes to an end, and stop, reset and destroy come to the
//! migration first, which gives the VM back or refuses. All calls here are steps of a moment; who
//! makes them holds the VM's lifecycle lock ([`VmEntry::lock`]) from looking to changing, and lets
//! go of it while pages move.

use std::sync::Arc;

use super::super::store::Write;
use super::{Book, Change, Registry, Running, VmEntry, takes_share};
use crate::error::{DWCPError, Result};
use crate::machine::Machine;
use crate::model::{VM, VMEventType, VMState};

/// A VM that a migration holds.
#[derive(Debug)]
pub(crate) struct Departure {
    /// The VM as it was before.
    pub(crate) before: Arc<VM>,
    /// Its machine; `None` for a VM that is stopped.
    pub(crate) running: Option<Running>,
}

impl Registry {
    /// Holds a VM that is running, paused or stopped: its state is `migrating` from now on.
    ///
    /// # Errors
    ///
    /// Those of `find`; `invalid_operation` in any other state.
    pub(crate) fn begin_migration(&self, id: &str, target: &str) -> Result<Departure> {
        let mut book = self.book();
        book.alive()?;
        self.store.check()?;
        let record = book.record(id)?;
        let (entry, before) = (Arc::clone(&record.entry), Arc::clone(&record.vm));
        if !matches!(
            before.state,
            VMState::Running | VMState::Paused | VMState::Stopped
        ) {
            return Err(DWCPError::InvalidOperation(format!(
                "migrate: VM {id} is {}, and it has to be running, paused or stopped",
                before.state
            )));
        }
        let message = format!("is being moved to the node {target}");
        let change = Change::new(VMState::Migrating, VMEventType::Migrating, message).because();
        self.apply(&mut book, id, change)?;
        drop(book);
        let running = entry.machine();
        Ok(Departure { before, running })
    }

    /// Gives a VM back that stays: in the state it has now (running, paused, stopped or failed), with
    /// the event `migration_failed`. An end that the guest came to meanwhile is dealt with next.
    ///
    /// # Errors
    ///
    /// Those of `find`; `unavailable` when the node is over.
    pub(crate) fn end_migration(&self, id: &str, state: VMState, message: &str) -> Result<()> {
        let event = VMEventType::MigrationFailed;
        let mut change = Change::new(state, event, message);
        if matches!(state, VMState::Failed | VMState::Paused) {
            change = change.because();
        }
        self.change(id, change)?;
        let (entry, _) = self.find(id)?;
        entry.with_machine(|_, run| run.ring());
        Ok(())
    }

    /// Nobody can tell who has the VM: its state is `unknown`, and only get, list, watch and resolve
    /// are legal. Its machine stays, and is not to run.
    ///
    /// # Errors
    ///
    /// Those of `find`; `unavailable` when the node is over.
    pub(crate) fn leave_unresolved(&self, id: &str, message: &str) -> Result<()> {
        let event = VMEventType::MigrationFailed;
        self.change(id, Change::new(VMState::Unknown, event, message).because())
            .map(drop)
    }

    /// The VM runs on `node` now: it is no longer here, and who asks for it is told where it is. The
    /// caller ends the machine that is returned, off the async threads.
    ///
    /// # Errors
    ///
    /// Those of `find`.
    pub(crate) fn moved_away(&self, id: &str, node: &str) -> Result<Option<Arc<Machine>>> {
        let mut book = self.book();
        let entry = Arc::clone(&book.record(id)?.entry);
        let message = format!("moved to the node {node}");
        // Before the event, so that who is woken by it finds where the VM went.
        self.remember(&mut book, id, node);
        self.remove(&mut book, id, VMEventType::Migrated, message, |vm| {
            node.clone_into(&mut vm.node);
            vm.reason = None;
        })?;
        drop(book);
        Ok(entry.take_machine())
    }

    /// A VM is on its way from the node `from`: it has its share of the limits, its state is
    /// `migrating`, and everything but get, list and watch is refused until
    /// [`arrived`](Self::arrived) or [`discard_arriving`](Self::discard_arriving).
    ///
    /// # Errors
    ///
    /// `already_exists` for an id that is here, `resource_limit` naming the limit, `unavailable` on a
    /// node that takes no new VMs.
    pub(crate) fn insert_arriving(&self, vm: VM, from: &str) -> Result<Arc<VmEntry>> {
        let mut book = self.book();
        self.check_arrival(&book, &vm)?;
        let message = format!("is arriving from the node {from}");
        let id = vm.id.clone();
        let vm = VM {
            state: VMState::Migrating,
            node: self.node.clone(),
            reason: Some(message.clone()),
            metrics: None,
            ..vm
        };
        let from = Some(from.to_owned());
        let event = VMEventType::Migrating;
        self.insert(&mut book, vm, from, event, message, None);
        book.record(&id).map(|record| Arc::clone(&record.entry))
    }

    /// Whether a VM could arrive now.
    ///
    /// # Errors
    ///
    /// Those of [`insert_arriving`](Self::insert_arriving).
    pub(crate) fn check_arriving(&self, vm: &VM) -> Result<()> {
        self.check_arrival(&self.book(), vm)
    }

    fn check_arrival(&self, book: &Book, vm: &VM) -> Result<()> {
        self.open(book)?;
        if book.vms.contains_key(&vm.id) {
            return Err(DWCPError::AlreadyExists(format!(
                "VM {} is on this node already",
                vm.id
            )));
        }
        if book.vms.len() >= self.limits.max_vms as usize {
            return Err(DWCPError::ResourceLimit(format!(
                "max_vms: this node has {} VMs, which is its limit",
                book.vms.len()
            )));
        }
        self.check_one(vm)?;
        if takes_share(vm.state) {
            self.check_share(book, vm)?;
        }
        Ok(())
    }

    /// The VM is here: it gets its machine, where it has one, and the state it has from now on. Start
    /// the keeper of its run (`Shared::keep`) afterwards.
    ///
    /// # Errors
    ///
    /// The machine, which the caller ends, with `unavailable` when the node is over, and with
    /// `invalid_operation` for a VM that is not arriving.
    pub(crate) fn arrived(
        &self,
        id: &str,
        running: Option<Running>,
        state: VMState,
    ) -> Result<Arc<VM>, (DWCPError, Option<Arc<Machine>>)> {
        let mut book = self.book();
        let checked = book.alive().and_then(|()| match book.vms.get_mut(id) {
            Some(record) => record.arriving.take().ok_or_else(|| {
                DWCPError::InvalidOperation(format!("VM {id} is not arriving here"))
            }),
            None => Err(book.absent(id)),
        });
        let from = match checked {
            Ok(from) => from,
            Err(error) => return Err((error, running.map(|own| own.machine))),
        };
        if book.moved.forget(id) {
            self.store.write([Write::ForgetMoved(id.to_owned())]);
        }
        if let Some(record) = book.vms.get(id) {
            if let Some(running) = running {
                record.entry.put_machine(running);
            }
            record.entry.begin_incarnation();
        }
        let message = format!("arrived from the node {from}");
        self.apply(
            &mut book,
            id,
            Change::new(state, VMEventType::Migrated, message),
        )
        .map_err(|error| (error, None))
    }

    /// A VM that was on its way does not come. What is known of where it is stays.
    ///
    /// # Errors
    ///
    /// `invalid_operation` for a VM that is not arriving, and those of `find`.
    pub(crate) fn discard_arriving(&self, id: &str, message: &str) -> Result<()> {
        let mut book = self.book();
        if book.record(id)?.arriving.is_none() {
            return Err(DWCPError::InvalidOperation(format!(
                "VM {id} is not arriving here"
            )));
        }
        let event = VMEventType::MigrationFailed;
        self.remove(&mut book, id, event, message.to_owned(), |vm| {
            vm.reason = Some(message.to_owned());
        })
    }

    /// Remembers where a VM went.
    pub(super) fn remember(&self, book: &mut Book, id: &str, node: &str) {
        let forgotten = book.moved.remember(id, node).map(Write::ForgetMoved);
        let moved = Write::Moved {
            vm_id: id.to_owned(),
            // Rises for the life of the store.
            position: book.log.next(),
            node: node.to_owned(),
        };
        self.store.write([moved].into_iter().chain(forgotten));
    }
}
