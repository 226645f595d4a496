//! How a VM becomes again what it was when a snapshot was taken. Who calls holds the VM's lifecycle
//! lock.

use std::sync::Arc;

use super::{Change, Registry, Running};
use crate::error::{DWCPError, Result};
use crate::machine::Machine;
use crate::model::{Timestamp, VM};
use crate::snapshot::Of;

/// Why a VM is not what it was, and the machine of the snapshot, which the caller ends.
type NotRestored = (DWCPError, Option<Arc<Machine>>);

impl Registry {
    /// Whether there is room for the machine of a snapshot beside all that runs, the VM itself included:
    /// it keeps what it has until the snapshot has been read and checked.
    ///
    /// # Errors
    ///
    /// Those of `find`; `resource_limit` naming the limit; `unavailable` when the node is over, or starts
    /// nothing new and the VM does not run.
    pub(crate) fn check_restore(&self, id: &str, of: &Of) -> Result<()> {
        let book = self.book();
        let record = book.record(id)?;
        let mut twin = VM {
            config: of.config.clone(),
            ..VM::clone(&record.vm)
        };
        if !record.vm.state.is_active() {
            self.open(&book)?;
            self.check_one(&twin)?;
            return self.check_share(&book, &twin);
        }
        book.alive()?;
        self.check_one(&twin)?;
        // As if it were another VM. Its vCPUs take their share once: only one of the two runs.
        twin.id.clear();
        twin.config.cpus = 0;
        let room = self.check_share(&book, &twin);
        room.map_err(|error| match error {
            DWCPError::ResourceLimit(text) => DWCPError::ResourceLimit(format!(
                "{text}: while a VM that runs is restored its memory is there twice; stop it first"
            )),
            other => other,
        })
    }

    /// The VM is what it was: it gets the machine of the snapshot, where that has one, in place of its
    /// own, and all else the snapshot has, in one step. Returns the machine it had, which the caller
    /// ends, off the async threads. Start the keeper of its run (`Shared::keep`) afterwards.
    ///
    /// # Errors
    ///
    /// The machine of the snapshot, which the caller ends, with `unavailable` when the node is over, and
    /// with those of `find`.
    pub(crate) fn restored(
        &self,
        id: &str,
        of: &Of,
        running: Option<Running>,
        change: Change,
    ) -> Result<Option<Arc<Machine>>, NotRestored> {
        let mut book = self.book();
        let entry = match book.alive().and_then(|()| book.record(id)) {
            Ok(record) => Arc::clone(&record.entry),
            Err(error) => return Err((error, running.map(|own| own.machine))),
        };
        let before = entry.take_machine();
        if let Some(running) = running {
            entry.put_machine(running);
        }
        entry.begin_incarnation();
        let Change {
            state,
            event,
            message,
            reason,
        } = change;
        let done = self.commit(&mut book, id, event, message, |vm| {
            if state.is_active() && !vm.state.is_active() {
                vm.started_at = Some(Timestamp::now());
            }
            vm.state = state;
            vm.reason = reason;
            vm.config.clone_from(&of.config);
            vm.labels.clone_from(&of.labels);
            vm.annotations.clone_from(&of.annotations);
        });
        // The VM was found above, and the book is held.
        done.map(|_| before).map_err(|error| (error, None))
    }
}
