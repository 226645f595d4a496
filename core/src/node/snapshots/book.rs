//! The snapshots that a node has, as it found them at its start and took them since.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::once::Once;
use super::super::store::Answer;
use crate::error::{DWCPError, Result};
use crate::model::{Snapshot, Timestamp};
use crate::snapshot::{Found, Root};

/// Most snapshots of one VM: far more than anybody looks through, and a list of them fits a reply.
pub(in super::super) const SNAPSHOTS_MAX: usize = 1_000;

/// The snapshots of a node.
#[derive(Debug)]
pub(in super::super) struct Snapshots {
    /// Where they lie; `None` for a node that keeps nothing.
    root: Option<Arc<Root>>,
    book: Mutex<HashMap<String, Known>>,
    /// Snapshots that were taken with an idempotency key.
    pub(super) taken: Once<Snapshot>,
    /// Held while a machine is made beside the one that it will replace, so that only one VM at a time
    /// has its memory twice.
    pub(super) restoring: tokio::sync::Mutex<()>,
}

/// One snapshot.
#[derive(Debug)]
struct Known {
    what: What,
    /// Restores that read it now.
    readers: u32,
}

#[derive(Debug)]
enum What {
    Whole(Snapshot),
    /// Its manifest could not be read, and why.
    Damaged(String),
}

impl Snapshots {
    /// Those that are there, and the answers that were given for them. Removes what was left of such as
    /// were being written when the node ended.
    ///
    /// # Errors
    ///
    /// `snapshot` where the directory cannot be read.
    pub(in super::super) fn open(data_dir: Option<&Path>, answers: &[Answer]) -> Result<Snapshots> {
        let root = data_dir.map(Root::new);
        let mut book = HashMap::new();
        let found = root.as_ref().map_or_else(|| Ok(Vec::new()), Root::scan)?;
        for one in found {
            let (id, what) = match one {
                Found::Whole(manifest, size) => {
                    (manifest.id.clone(), What::Whole(manifest.to_snapshot(size)))
                }
                Found::Damaged { id, why } => {
                    tracing::warn!(snapshot = id, why, "a snapshot cannot be read");
                    (id, What::Damaged(why))
                }
            };
            book.insert(id, Known { what, readers: 0 });
        }
        // One that was deleted since is taken anew.
        let known = |id: &str| match &book.get(id)?.what {
            What::Whole(snapshot) => Some(snapshot.clone()),
            What::Damaged(_) => None,
        };
        Ok(Snapshots {
            root: root.map(Arc::new),
            taken: Once::new("snapshot", answers, known),
            book: Mutex::new(book),
            restoring: tokio::sync::Mutex::default(),
        })
    }

    /// Where they lie.
    ///
    /// # Errors
    ///
    /// `invalid_operation` on a node that keeps nothing.
    pub(in super::super) fn root(&self) -> Result<Arc<Root>> {
        self.root.clone().ok_or_else(|| {
            DWCPError::InvalidOperation(
                "snapshot: snapshots need a data_dir, and this node was started without one".into(),
            )
        })
    }

    /// Those of a VM, oldest first.
    pub(super) fn of_vm(&self, vm_id: &str) -> Vec<Snapshot> {
        let mut all: Vec<Snapshot> = {
            let book = self.lock();
            let whole = book.values().filter_map(|known| match &known.what {
                What::Whole(snapshot) if snapshot.vm_id == vm_id => Some(snapshot.clone()),
                _ => None,
            });
            whole.collect()
        };
        all.sort_unstable_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// The time of a new one of a VM: later than that of all there are, whatever the host's clock does.
    ///
    /// # Errors
    ///
    /// `resource_limit` where there are too many.
    pub(super) fn next_of_vm(&self, vm_id: &str) -> Result<Timestamp> {
        let all = self.of_vm(vm_id);
        if all.len() >= SNAPSHOTS_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "snapshots: VM {vm_id} has {}, which is the limit; delete some",
                all.len()
            )));
        }
        let now = Timestamp::now();
        Ok(all.last().map_or(now, |last| {
            let next = last.created_at.as_unix_micros().saturating_add(1);
            now.max(Timestamp::from_unix_micros(next))
        }))
    }

    /// Adds one that was taken.
    pub(super) fn add(&self, snapshot: Snapshot) {
        let id = snapshot.id.clone();
        let what = What::Whole(snapshot);
        self.lock().insert(id, Known { what, readers: 0 });
    }

    /// Finds one of a VM, to read it: it stays while the reader is there.
    ///
    /// # Errors
    ///
    /// `not_found`, and `snapshot` for one that is damaged.
    pub(super) fn read(&self, vm_id: &str, id: &str) -> Result<Reading<'_>> {
        let mut book = self.lock();
        let known = book.get_mut(id).ok_or_else(|| absent(id))?;
        match &known.what {
            What::Whole(snapshot) if snapshot.vm_id == vm_id => {
                let name = snapshot.name.clone();
                known.readers += 1;
                Ok(Reading {
                    snapshots: self,
                    id: id.to_owned(),
                    name,
                })
            }
            What::Whole(_) => Err(DWCPError::NotFound(format!("snapshot {id} of VM {vm_id}"))),
            What::Damaged(why) => Err(DWCPError::Snapshot(why.clone())),
        }
    }

    /// Takes one out of the book; `None` for one that is damaged.
    ///
    /// # Errors
    ///
    /// `not_found`; `invalid_operation` for one that is being read.
    pub(super) fn take(&self, id: &str) -> Result<Option<Snapshot>> {
        let mut book = self.lock();
        let known = book.get(id).ok_or_else(|| absent(id))?;
        if known.readers > 0 {
            return Err(DWCPError::InvalidOperation(format!(
                "delete_snapshot: a VM is being restored from the snapshot {id}"
            )));
        }
        Ok(book.remove(id).and_then(|known| match known.what {
            What::Whole(snapshot) => Some(snapshot),
            What::Damaged(_) => None,
        }))
    }

    /// Puts back what was taken out and could not be removed.
    pub(super) fn put_back(&self, id: &str, snapshot: Option<Snapshot>, why: &DWCPError) {
        let what = match snapshot {
            Some(snapshot) => What::Whole(snapshot),
            None => What::Damaged(why.message().to_owned()),
        };
        self.lock()
            .insert(id.to_owned(), Known { what, readers: 0 });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that is being read.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    snapshots: &'a Snapshots,
    pub(super) id: String,
    pub(super) name: String,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.snapshots.lock().get_mut(&self.id) {
            known.readers -= 1;
        }
    }
}

fn absent(id: &str) -> DWCPError {
    DWCPError::NotFound(format!("snapshot {id}"))
}
