//! Snapshots of VMs: what the node has to do with them.
//!
//! The snapshot layer writes and reads them; this holds the VM meanwhile, puts a machine in the place
//! of another, and keeps the `book` of what there is. All of it runs off the async threads and under the
//! VM's lifecycle lock, as starting and stopping do; who asks for VMs or lists of snapshots waits for
//! none of it.

mod book;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use self::book::Snapshots;
use super::Shared;
use super::lifecycle::{DISK_PATIENCE, Held};
use super::metrics::Sample;
use super::once::Asked;
use super::registry::{Change, Phase, Running, VmEntry, closed};
use crate::action::Action;
use crate::error::{DWCPError, Result};
use crate::machine::Machine;
use crate::model::{Snapshot, SnapshotOptions, VM, VMEventType, VMState, new_uuid};
use crate::snapshot::{Manifest, NotCaptured, Of, Opened, Root, Source, capture};
use crate::storage::DiskLock;

/// What ends long work before its end: a forced stop of the VM, and the end of the node.
struct Limits {
    forced: Arc<AtomicBool>,
}

impl Limits {
    /// With what the work asks from time to time whether it may go on.
    fn new(
        shared: &Arc<Shared>,
        what: &'static str,
    ) -> (Limits, impl Fn() -> Result<()> + Send + use<>) {
        let limits = Limits {
            forced: Arc::default(),
        };
        let (shared, forced) = (Arc::clone(shared), Arc::clone(&limits.forced));
        let go_on = move || {
            if shared.registry.phase() == Phase::Closed {
                return Err(closed());
            }
            if forced.load(Ordering::Relaxed) {
                return Err(DWCPError::Cancelled(format!(
                    "{what}: the VM was stopped by force meanwhile"
                )));
            }
            Ok(())
        };
        (limits, go_on)
    }

    /// Waits for the work, and tells it when a forced stop waits.
    async fn keep<T>(&self, entry: &Arc<VmEntry>, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = entry.is_forced() => self.forced.store(true, Ordering::Relaxed),
        }
        work.await
    }
}

/// Takes a snapshot; answers when it is complete.
pub(super) async fn take(shared: &Arc<Shared>, action: Action) -> Result<Snapshot> {
    let Action::Snapshot {
        vm_id,
        name,
        options,
        key,
    } = &action
    else {
        return Err(DWCPError::Internal("not a snapshot".into()));
    };
    let Some(key) = key else {
        return take_one(shared, &action, name, options).await;
    };
    let asked = Asked::new(key.clone(), &(vm_id, name, options))?;
    let taken = &shared.snapshots.taken;
    let work = async {
        let snapshot = take_one(shared, &action, name, options).await?;
        let answer = taken.stored(&asked, snapshot.id.clone());
        shared.store.write([answer]);
        Ok(snapshot)
    };
    taken.once(&asked, work).await
}

async fn take_one(
    shared: &Arc<Shared>,
    action: &Action,
    name: &str,
    options: &SnapshotOptions,
) -> Result<Snapshot> {
    // What is not legal is refused before what is missing.
    shared.registry.find_legal(action)?;
    let root = shared.snapshots.root()?;
    let held = shared.hold(action).await?;
    let created_at = shared.snapshots.next_of_vm(&held.vm.id)?;
    // The guest cannot be asked to bring its disks to rest yet: `quiesced` stays false.
    let (id, description) = (new_uuid(), options.description.clone());
    let mut manifest = Manifest::new(id, name.to_owned(), description, &held.vm);
    manifest.created_at = created_at;
    let running = held.entry.machine();
    let (memory, disk) = (options.include_memory, shared.disk_of(&held.vm)?);
    let (limits, go_on) = Limits::new(shared, action.name());
    let work = shared.blocking(move || {
        let source = Source {
            machine: running.as_ref().map(|own| &*own.machine),
            memory,
            disk: disk.as_ref().map(|disk| disk.path.as_path()),
        };
        // Nothing to be still for.
        let source = match source {
            Source {
                memory: false,
                disk: None,
                ..
            } => Source {
                machine: None,
                ..source
            },
            other => other,
        };
        Ok(capture(&root, manifest, &source, &go_on))
    });
    match limits.keep(&held.entry, work).await? {
        Ok(captured) => {
            let snapshot = captured.manifest.to_snapshot(captured.size);
            shared.snapshots.add(snapshot.clone());
            let message = format!(
                "the snapshot {name} was taken; the guest stood still for {:.1?}",
                captured.pause
            );
            tracing::info!(vm = %held.vm.id, snapshot = %snapshot.id, "{message}");
            told(shared, &held.vm.id, VMEventType::SnapshotCreated, message);
            shared.settle(&held.entry).await?;
            Ok(snapshot)
        }
        Err(NotCaptured { error, stands }) => {
            if let Some(why) = stands {
                stands_still(shared, &held.vm.id, "a snapshot", &why)?;
            }
            shared.settle(&held.entry).await?;
            Err(error)
        }
    }
}

/// The snapshots of a VM that is here, oldest first.
pub(super) fn list(shared: &Shared, vm_id: &str) -> Result<Vec<Snapshot>> {
    shared.registry.find(vm_id)?;
    Ok(shared.snapshots.of_vm(vm_id))
}

/// Makes a VM what it was when a snapshot was taken.
pub(super) async fn restore(shared: &Arc<Shared>, action: Action) -> Result<()> {
    let Action::RestoreSnapshot { vm_id, snapshot_id } = &action else {
        return Err(DWCPError::Internal("not a restore".into()));
    };
    shared.registry.find_legal(&action)?;
    let reading = shared.snapshots.read(vm_id, snapshot_id)?;
    let root = shared.snapshots.root()?;
    let held = shared.hold(&action).await?;
    shared.make_sure(action.name(), &held.vm).await?;
    let (limits, go_on) = Limits::new(shared, action.name());
    let (own, vm, id) = (Arc::clone(shared), Arc::clone(&held.vm), reading.id.clone());
    let work = async {
        let turn = shared.snapshots.restoring.lock().await;
        let prepare = move || prepare(&own, &root, &id, &vm, &go_on);
        Ok::<_, DWCPError>((shared.blocking(prepare).await?, turn))
    };
    let (ready, _turn) = limits.keep(&held.entry, work).await?;
    let run = ready.running.as_ref().map(|own| Arc::clone(&own.run));
    let before = exchange(shared, &held, ready, &reading.name).await?;
    if let Some(run) = run {
        shared.keep(&held.entry, run);
    }
    if let Some(machine) = before {
        shared.end(machine).await?;
    }
    tracing::info!(vm = vm_id, snapshot = snapshot_id, "restored");
    Ok(())
}

/// A snapshot that has been read and checked to its end.
struct Ready {
    of: Of,
    state: VMState,
    /// Its machine, which has not run.
    running: Option<Running>,
    /// Its disk, which is staged beside the one it has.
    disk: Option<Replacing>,
}

/// A disk that is about to take the place of another.
struct Replacing {
    shared: Arc<Shared>,
    vm_id: String,
    /// Held where no machine of this node holds it.
    lock: Option<DiskLock>,
    stage: Stage,
}

/// Where a disk that replaces another is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beside,
    InPlace,
    Done,
}

impl Replacing {
    /// Stages the disk of a snapshot. Blocks.
    fn stage(
        shared: &Arc<Shared>,
        vm_id: &str,
        from: &File,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Replacing> {
        shared.disks.stage(vm_id, from, go_on)?;
        Ok(Replacing {
            shared: Arc::clone(shared),
            vm_id: vm_id.to_owned(),
            lock: None,
            stage: Stage::Beside,
        })
    }

    /// Nobody else writes the disk that is replaced: for a VM that has no machine. Blocks.
    fn lock(&mut self) -> Result<()> {
        let lock = self.shared.disks.lock_file(&self.vm_id)?;
        self.lock = Some(DiskLock::take(&lock, DISK_PATIENCE)?);
        Ok(())
    }

    /// Puts it there; the one it replaces is kept. Blocks.
    fn swap(&mut self) -> Result<()> {
        self.shared.disks.swap(&self.vm_id)?;
        self.stage = Stage::InPlace;
        Ok(())
    }

    /// Puts the one it replaced back, if it did. Blocks.
    fn undo(&mut self) -> Result<()> {
        if self.stage == Stage::InPlace {
            self.shared.disks.swap_back(&self.vm_id)?;
            self.stage = Stage::Done;
        }
        Ok(())
    }

    /// It is the VM's disk; the one before is removed. Blocks.
    fn keep(mut self) -> Result<()> {
        self.stage = Stage::Done;
        self.shared.disks.drop_replaced(&self.vm_id)
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if self.stage == Stage::Beside
            && let Err(error) = self.shared.disks.drop_staged(&self.vm_id)
        {
            tracing::warn!(vm = self.vm_id, %error, "a disk that is not wanted stays");
        }
    }
}

/// Reads and checks a snapshot, and makes its machine. Changes nothing.
fn prepare(
    shared: &Arc<Shared>,
    root: &Root,
    id: &str,
    vm: &VM,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Ready> {
    go_on()?;
    let mut opened = Opened::new(root, id)?;
    let of = opened.manifest().of.clone();
    if of.vm_id != vm.id {
        return Err(DWCPError::Snapshot(format!(
            "{id}: it is of the VM {}, not of {}",
            of.vm_id, vm.id
        )));
    }
    let guest = opened.guest(shared.hypervisor.facts())?;
    let disk = opened.disk(go_on)?;
    of.config.check_supported(&shared.capabilities)?;
    let disk = disk
        .map(|from| Replacing::stage(shared, &vm.id, &from, go_on))
        .transpose()?;
    let Some(guest) = guest else {
        // Without memory there is nothing that could run, whatever it did.
        return Ok(Ready {
            of,
            state: VMState::Stopped,
            running: None,
            disk,
        });
    };
    shared.registry.check_restore(&vm.id, &of)?;
    let as_it_was = VM {
        config: of.config.clone(),
        annotations: of.annotations.clone(),
        ..VM::clone(vm)
    };
    let config = match &disk {
        Some(_) => Some(shared.disks.config(&as_it_was, true)?),
        None => None,
    };
    let running = shared.machine_of(&as_it_was, guest, config, None)?;
    opened.fill(&running.machine, go_on)?;
    running.run.samples.add(Sample::of(&running.machine));
    Ok(Ready {
        state: of.state,
        of,
        running: Some(running),
        disk,
    })
}

/// Puts a machine in the place of the one that a VM has, which is returned. When the new one cannot run,
/// the old one goes on.
async fn exchange(
    shared: &Arc<Shared>,
    held: &Held,
    ready: Ready,
    name: &str,
) -> Result<Option<Arc<Machine>>> {
    let Ready {
        of,
        state,
        running,
        disk,
    } = ready;
    let old = held.entry.machine().map(|own| own.machine);
    let new = running.as_ref().map(|own| Arc::clone(&own.machine));
    let (ran, runs) = (held.vm.state == VMState::Running, state == VMState::Running);
    let switch = move || {
        if let Some(old) = &old {
            old.pause();
        }
        let mut disk = disk;
        if let (Some(new), Some(old)) = (&new, &old) {
            new.take_disk_from(old);
        }
        let mut goes_on = || {
            match (&new, &old, &mut disk) {
                (Some(new), ..) => new.lock_disk(DISK_PATIENCE)?,
                (None, None, Some(disk)) => disk.lock()?,
                _ => {}
            }
            // Before it runs: what it writes is the disk's from the first byte.
            if let Some(disk) = &mut disk {
                disk.swap()?;
            }
            match &new {
                Some(new) if runs => new.resume(),
                _ => Ok(()),
            }
        };
        let Err(error) = goes_on() else {
            if let Some(disk) = disk
                && let Err(error) = disk.keep()
            {
                tracing::warn!(%error, "a disk that was replaced stays");
            }
            return Ok(None);
        };
        // The old machine's again, before that runs.
        if let Some(disk) = &mut disk {
            disk.undo()?;
        }
        if let (Some(new), Some(old)) = (&new, &old) {
            old.take_disk_from(new);
        }
        let resumed = old.filter(|_| ran).map_or(Ok(()), |old| old.resume());
        Ok(Some((error, resumed.err())))
    };
    if let Some((error, stands)) = shared.blocking(switch).await? {
        if let Some(running) = running {
            shared.end(running.machine).await?;
        }
        if let Some(why) = stands {
            stands_still(shared, &held.vm.id, "a restore that failed", &why)?;
        }
        return Err(error);
    }
    let change = Change {
        reason: (state == VMState::Paused).then(|| format!("as it was in the snapshot {name}")),
        ..Change::new(
            state,
            VMEventType::SnapshotRestored,
            format!("is {state}, as it was in the snapshot {name}"),
        )
    };
    match shared.registry.restored(&held.vm.id, &of, running, change) {
        Ok(before) => Ok(before),
        // The node is over, and its VMs with it.
        Err((error, machine)) => {
            if let Some(machine) = machine {
                shared.end(machine).await?;
            }
            Err(error)
        }
    }
}

/// Removes a snapshot.
pub(super) async fn delete(shared: &Arc<Shared>, id: &str) -> Result<()> {
    let taken = shared.snapshots.take(id)?;
    let removed = remove(shared, id, taken.clone()).await;
    if let Some(snapshot) = taken.filter(|_| removed.is_ok()) {
        let message = format!("the snapshot {} was deleted", snapshot.name);
        tracing::info!(vm = snapshot.vm_id, snapshot = id, "{message}");
        // The VM may be gone: then there is nobody to tell.
        told(
            shared,
            &snapshot.vm_id,
            VMEventType::SnapshotDeleted,
            message,
        );
    }
    removed
}

/// Removes all snapshots of a VM that is about to be destroyed, whose lifecycle lock is held.
pub(super) async fn delete_all(shared: &Arc<Shared>, vm_id: &str) -> Result<()> {
    for snapshot in shared.snapshots.of_vm(vm_id) {
        match shared.snapshots.take(&snapshot.id) {
            Ok(taken) => remove(shared, &snapshot.id, taken).await?,
            // Somebody deletes it at the same time.
            Err(DWCPError::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Removes the files of a snapshot that was taken out of the book; it comes back where that failed.
async fn remove(shared: &Arc<Shared>, id: &str, taken: Option<Snapshot>) -> Result<()> {
    let root = shared.snapshots.root()?;
    let (own, id) = (Arc::clone(shared), id.to_owned());
    shared
        .blocking(move || {
            root.remove(&id).inspect_err(|error| {
                if root.is_there(&id) {
                    own.snapshots.put_back(&id, taken, error);
                }
            })
        })
        .await
}

/// A guest that ran does not run on.
fn stands_still(shared: &Shared, vm_id: &str, after: &str, why: &DWCPError) -> Result<()> {
    let message = format!("could not be resumed after {after}: {why}");
    let change = Change::new(VMState::Paused, VMEventType::Paused, message);
    shared.registry.change(vm_id, change.because()).map(drop)
}

/// Tells something of a VM, if it is still there.
fn told(shared: &Shared, vm_id: &str, event: VMEventType, message: String) {
    if let Err(error) = shared.registry.tell(vm_id, event, message) {
        tracing::debug!(vm = vm_id, %error, "it was not told");
    }
}
