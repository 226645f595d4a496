//! What becomes of the VMs of a node that ended, when it starts again.

use std::sync::Arc;

use super::{Change, Registry};
use crate::error::Result;
use crate::machine::Machine;
use crate::model::{VM, VMEventType, VMState};

/// What became of a VM.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It is as it was.
    Kept,
    /// It is in another state now, for the reason in the change.
    Changed(Change),
    /// It was not here yet, and does not come.
    NotHere {
        /// Why.
        message: String,
    },
    /// It is on another node.
    Moved {
        /// That node.
        node: String,
    },
}

/// A VM that is here after all.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) vm: Arc<VM>,
    /// It ran when the node was asked to end.
    pub(crate) interrupted: bool,
}

impl Registry {
    /// What this node knows of where a VM is: its state here and whether it is only arriving, and the
    /// node it went to.
    pub(crate) fn whereabouts(&self, id: &str) -> (Option<(VMState, bool)>, Option<String>) {
        let book = self.book();
        let here = book.vms.get(id);
        let here = here.map(|own| (own.vm.state, own.arriving.is_some()));
        let moved = book.moved.to.get(id).cloned();
        (here, moved.filter(|_| here.is_none()))
    }

    /// A VM that does not run here is on `node`, as that node says: what this node has of it is older
    /// and is forgotten, and who asks for it is told where it is. The caller ends the machine that is
    /// returned, off the async threads.
    ///
    /// # Errors
    ///
    /// Those of `find`; `unavailable` when the node is over.
    pub(crate) fn found_elsewhere(
        &self,
        id: &str,
        node: &str,
        message: &str,
    ) -> Result<Option<Arc<Machine>>> {
        let mut book = self.book();
        book.alive()?;
        let entry = Arc::clone(&book.record(id)?.entry);
        self.remember(&mut book, id, node);
        self.remove(
            &mut book,
            id,
            VMEventType::Migrated,
            message.to_owned(),
            |vm| {
                node.clone_into(&mut vm.node);
                vm.reason = Some(message.to_owned());
            },
        )?;
        drop(book);
        Ok(entry.take_machine())
    }

    /// Decides for each VM what became of it, before anything is done with any; tells it; the VMs
    /// that are here, in the order they came.
    pub(crate) fn recover(&self, decide: impl Fn(&VM, Option<&str>) -> Fate) -> Vec<Recovered> {
        let mut book = self.book();
        let mut all: Vec<_> = book
            .vms
            .values()
            .map(|own| {
                let fate = decide(&own.vm, own.arriving.as_deref());
                (own.order, own.vm.id.clone(), fate)
            })
            .collect();
        all.sort_unstable_by_key(|(order, _, _)| *order);
        let mut here = Vec::new();
        for (_, id, fate) in all {
            // It cannot be missing: the lock is held.
            let _ = match fate {
                Fate::Kept => Ok(()),
                Fate::Changed(change) => {
                    if let Some(record) = book.vms.get_mut(&id) {
                        record.arriving = None;
                    }
                    self.apply(&mut book, &id, change).map(drop)
                }
                Fate::NotHere { message } => {
                    let event = VMEventType::MigrationFailed;
                    let reason = message.clone();
                    self.remove(&mut book, &id, event, message, |vm| {
                        vm.reason = Some(reason);
                        vm.state = VMState::Failed;
                    })
                }
                Fate::Moved { node } => {
                    let message = format!("moved to the node {node}");
                    self.remember(&mut book, &id, &node);
                    self.remove(&mut book, &id, VMEventType::Migrated, message, |vm| {
                        vm.node = node;
                        vm.reason = None;
                    })
                }
            };
            if let Some(record) = book.vms.get(&id) {
                here.push(Recovered {
                    vm: Arc::clone(&record.vm),
                    interrupted: record.interrupted,
                });
            }
        }
        here
    }
}
