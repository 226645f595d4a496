//! A VM that comes.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::super::Shared;
use super::super::metrics::Sample;
use super::super::registry::{Change, Running, VmEntry};
use super::{departure, error_frame};
use crate::error::{DWCPError, Result};
use crate::hypervisor::misfits;
use crate::machine::{Machine, check_pinning};
use crate::memory::GuestRam;
use crate::migration::{
    Arriving, Attach, DestinationHost, DestinationOutcome, Dial, Envelope, Incoming, Meeting,
    Offer, Record, Verdict, accept_channel, answer_about, is_offer, take_memory,
};
use crate::model::{Misfit, VMEventType, VMState};
use crate::transport::Blocking;

/// A peer offers a VM, or asks about one whose migration nobody here drives any more.
pub(super) fn begin(shared: &Arc<Shared>, first: Envelope, stream: Blocking) -> Result<()> {
    let migration = first.message.session.clone();
    let judged = shared.migrations.judged(&migration);
    // An offer that was judged came a second time.
    if judged.is_some() || !is_offer(&first) {
        // Which VM it was is not known any more where nothing was judged: it is refused, whichever it
        // was.
        let (vm_id, verdict) = judged.unzip();
        let vm_id = vm_id.unwrap_or_default();
        return answer_about(
            first,
            stream,
            &shared.uuid,
            verdict.as_ref(),
            shared.patience,
            |verdict| shared.migrations.judge(&migration, &vm_id, verdict),
            |epoch| meet(shared, &vm_id, epoch),
        );
    }
    let host = Arc::new(Guest {
        shared: Arc::clone(shared),
        migration: migration.clone(),
        vm_id: OnceLock::new(),
        inner: Mutex::default(),
    });
    let spare = stream.try_clone()?;
    let added = shared.migrations.add_incoming(&migration, || {
        Incoming::start(Arriving {
            first,
            stream,
            node_uuid: shared.uuid.clone(),
            host,
            patience: shared.patience,
            #[cfg(test)]
            faults: crate::migration::faults::Faults::default(),
        })
    });
    if let Err(error) = &added {
        // Its source hears why in place of an answer.
        refuse(spare, error)?;
    }
    added
}

/// Somebody has a VM under this epoch: what `DestinationHost::meet` promises. Blocks while the machine
/// ends.
fn meet(shared: &Shared, vm_id: &str, epoch: u64) -> Option<u64> {
    let meeting = shared.migrations.meet(vm_id, epoch);
    let last = match meeting {
        Meeting::GiveWay => None,
        // Of two that are equal neither is right; but what leaves, or has left, is not run here.
        Meeting::Both { last } if shared.migrations.of_vm(vm_id).is_none() => Some(last),
        Meeting::Both { last } | Meeting::Stand { last } => return Some(last),
    };
    let because =
        format!("an operator forced the node it came from to run it, under epoch {epoch}");
    stop(shared, vm_id, &because);
    last
}

/// Stops a VM at once that somebody else has under a higher epoch. Blocks while the machine ends.
fn stop(shared: &Shared, vm_id: &str, because: &str) {
    let Ok((entry, _)) = shared.registry.find(vm_id) else {
        // It was destroyed, or has gone on.
        return;
    };
    let machine = entry.take_machine();
    if let Some(machine) = &machine {
        machine.pause();
    }
    let message = format!(
        "stopped: {because}; what it did here meanwhile is lost with it. Destroy it here, or there"
    );
    let change = Change::new(VMState::Failed, VMEventType::Failed, message).because();
    if let Err(error) = shared.registry.change(vm_id, change) {
        tracing::debug!(vm = vm_id, %error, "that a VM gave way was not told");
    }
}

/// Everything of a VM that does not fit here, but for the room that it takes.
pub(super) fn misfits_here(shared: &Shared, offer: &Offer) -> Vec<Misfit> {
    // A guest that is stopped finds the processors it is started on.
    let mut found = if offer.is_stopped() {
        Vec::new()
    } else {
        misfits(&offer.guest, shared.hypervisor.facts())
    };
    let config = &offer.vm.config;
    if let Err(error) = config.check_supported(&shared.capabilities) {
        found.push(misfit("config", &error));
    }
    if let Err(error) = check_pinning(&config.cpu_pinning) {
        found.push(misfit("cpu_pinning", &error));
    }
    if let Err(error) = shared.check_boots(&offer.vm, offer.image.as_deref()) {
        found.push(misfit("image", &error));
    }
    if let Some(disk) = &offer.disk {
        let (vm_id, disks) = (&offer.vm.id, &shared.disks);
        let checked = match offer.disk_copied {
            Some(bytes) => disks.check_room(vm_id, bytes),
            None => disks.check(vm_id, disk),
        };
        if let Err(error) = checked {
            found.push(misfit("disk", &error));
        }
    }
    found
}

/// An error as a reason why a VM does not fit: it prints as the error does, which begins with a name.
pub(super) fn misfit(kind: &str, error: &DWCPError) -> Misfit {
    let text = error.to_string();
    let (name, detail) = text.split_once(": ").unwrap_or((kind, &text));
    Misfit::new(kind, name, detail)
}

/// A bulk channel.
pub(super) fn attach(incoming: &Incoming, request: &Attach, stream: Blocking) -> Result<()> {
    let spare = stream.try_clone()?;
    let attached = incoming.attach(request, stream, accept_channel);
    if let Err(error) = &attached {
        refuse(spare, error)?;
    }
    attached
}

/// Tells a peer why its connection is not served, and closes it.
pub(super) fn refuse(mut stream: Blocking, error: &DWCPError) -> Result<()> {
    use std::io::Write;
    stream.write_all(&error_frame(error)?)?;
    Ok(())
}

/// A VM that arrives: as the migration's thread sees this node.
struct Guest {
    shared: Arc<Shared>,
    migration: String,
    /// Set with the offer.
    vm_id: OnceLock<String>,
    inner: Mutex<Option<Here>>,
}

/// What there is of it here.
struct Here {
    entry: Arc<VmEntry>,
    /// Its machine; `None` for a VM that is stopped.
    running: Option<Running>,
    /// Its disk was made for it, and is removed if it does not come.
    copied: bool,
    /// The state that it has once it is here.
    state: VMState,
}

impl Guest {
    fn lock(&self) -> MutexGuard<'_, Option<Here>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that keeps the VM from coming here; or its memory, where it is handed over.
    fn check(&self, epoch: u64, offer: &Offer) -> Result<Option<Arc<GuestRam>>, Vec<String>> {
        let misfits = misfits_here(&self.shared, offer);
        let mut reasons: Vec<String> = misfits.iter().map(ToString::to_string).collect();
        let memory = take_memory(offer).unwrap_or_else(|why| {
            reasons.push(Misfit::new("same_host", "same_host", why).to_string());
            None
        });
        if reasons.is_empty()
            && let Err(error) = self.accept_epoch(&offer.vm.id, epoch)
        {
            reasons.push(error.to_string());
        }
        if reasons.is_empty() {
            Ok(memory)
        } else {
            Err(reasons)
        }
    }

    /// The epoch of this offer is higher than all that were seen here: whatever older copy of the VM is
    /// here is over.
    fn settle_older(&self, epoch: u64, vm_id: &str) -> Result<()> {
        let migrations = &self.shared.migrations;
        let Ok((_, vm)) = self.shared.registry.find(vm_id) else {
            return Ok(());
        };
        if matches!(vm.state, VMState::Unknown | VMState::Migrating)
            && let Some(job) = migrations.granted(vm_id)
        {
            departure::outlived(&self.shared, &job, epoch)?;
            self.shared.doubts.settle(vm_id);
            return Ok(());
        }
        if let Some((node, Some(Record::Forced { .. }))) = migrations.last_of(vm_id) {
            let because = format!(
                "it was forced to run here, but the node {node} had it, and it is under epoch {epoch} \
                 by now"
            );
            stop(&self.shared, vm_id, &because);
        }
        Ok(())
    }

    fn accept_epoch(&self, vm_id: &str, epoch: u64) -> Result<()> {
        let migrations = &self.shared.migrations;
        migrations.accept_epoch(vm_id, epoch)?;
        migrations.flush().wait()
    }

    fn told(&self, result: Result<()>) {
        if let Err(error) = result {
            tracing::debug!(migration = self.migration, %error, "an arrival was not told");
        }
    }
}

impl DestinationHost for Guest {
    fn admit(&self, epoch: u64, offer: &Offer) -> Result<Option<Arc<Machine>>, Vec<String>> {
        // Nothing else sets it: there is one offer for each migration.
        let _ = self.vm_id.set(offer.vm.id.clone());
        let memory = self.check(epoch, offer)?;
        let one = |error: DWCPError| vec![error.to_string()];
        // A copy of an older offer, whose end has not come to this node yet.
        for other in self.shared.migrations.all_incoming() {
            if other.brings(&offer.vm.id, ..epoch) {
                other.supersede();
            }
        }
        self.settle_older(epoch, &offer.vm.id).map_err(one)?;
        departure::superseded(&self.shared, &offer.vm.id, &offer.vm.node).map_err(one)?;
        let registry = &self.shared.registry;
        let vm = offer.vm.clone();
        let entry = registry.insert_arriving(vm, &offer.vm.node).map_err(one)?;
        if offer.is_stopped() {
            *self.lock() = Some(Here {
                entry,
                running: None,
                copied: false,
                state: VMState::Stopped,
            });
            return Ok(None);
        }
        let copied = offer.disk.as_ref().filter(|_| offer.disk_copied.is_some());
        let disks = &self.shared.disks;
        let disk = copied.map_or(Ok(()), |disk| disks.make_arriving(&entry.id, disk));
        let disk = disk.and_then(|()| self.shared.disk_of(&offer.vm));
        let made = disk.and_then(|disk| {
            let guest = offer.guest.clone();
            self.shared.machine_of(&offer.vm, guest, disk, memory)
        });
        let running = match made {
            Ok(running) => running,
            Err(error) => {
                if copied.is_some() {
                    self.told(disks.drop_arriving(&entry.id));
                }
                self.told(registry.discard_arriving(&entry.id, &error.to_string()));
                return Err(one(error));
            }
        };
        let machine = Arc::clone(&running.machine);
        *self.lock() = Some(Here {
            entry,
            running: Some(running),
            copied: copied.is_some(),
            state: if offer.is_running() {
                VMState::Running
            } else {
                VMState::Paused
            },
        });
        Ok(Some(machine))
    }

    fn persist(&self, verdict: &Verdict) -> Result<()> {
        let vm_id = self.vm_id.get().map_or("", String::as_str);
        self.shared
            .migrations
            .judge(&self.migration, vm_id, verdict)
    }

    fn started(&self) {
        let Some(Here {
            entry,
            running,
            copied,
            state,
        }) = self.lock().take()
        else {
            return;
        };
        if copied {
            self.told(self.shared.disks.keep_arriving(&entry.id));
        }
        let run = running.as_ref().map(|own| Arc::clone(&own.run));
        if let Some(own) = &running {
            own.run.samples.add(Sample::of(&own.machine));
        }
        match self.shared.registry.arrived(&entry.id, running, state) {
            Ok(_) => {
                if let Some(run) = run {
                    self.shared.keep(&entry, run);
                }
            }
            // The node is over, and its VMs with it.
            Err((error, machine)) => {
                drop(machine);
                self.told(Err(error));
            }
        }
    }

    fn discard(&self) {
        if let Some(here) = self.lock().take() {
            let id = here.entry.id.clone();
            let copied = here.copied;
            drop(here);
            if copied {
                self.told(self.shared.disks.drop_arriving(&id));
            }
            self.told(
                self.shared
                    .registry
                    .discard_arriving(&id, "it did not arrive"),
            );
        }
    }

    fn memory_lost(&self, reason: &str) {
        let vm_id = self.vm_id.get().map_or("", String::as_str);
        let Ok((entry, _)) = self.shared.registry.find(vm_id) else {
            // It was destroyed meanwhile.
            return;
        };
        if let Some(machine) = entry.take_machine() {
            machine.pause();
        }
        let change = Change::new(VMState::Failed, VMEventType::Failed, reason.to_owned());
        self.told(
            self.shared
                .registry
                .change(vm_id, change.because())
                .map(drop),
        );
    }

    fn finished(&self, outcome: &DestinationOutcome) {
        let DestinationOutcome::Lost { reason } = outcome else {
            return;
        };
        // It belongs to this node and cannot run.
        if let Some(here) = self.lock().take() {
            let id = here.entry.id.clone();
            if here.copied {
                self.told(self.shared.disks.keep_arriving(&id));
            }
            drop(here.running);
            let registry = &self.shared.registry;
            if let Err((error, _)) = registry.arrived(&id, None, VMState::Failed) {
                return self.told(Err(error));
            }
            let change = Change::new(VMState::Failed, VMEventType::Failed, reason.clone());
            self.told(registry.change(&id, change.because()).map(drop));
        }
    }

    fn meet(&self, epoch: u64) -> Option<u64> {
        // Nothing is taken before its offer is known.
        let vm_id = self.vm_id.get().map_or("", String::as_str);
        meet(&self.shared, vm_id, epoch)
    }

    fn over(&self) {
        self.shared.migrations.remove_incoming(&self.migration);
    }

    fn source_address(&self, source_node: &str) -> Option<Dial> {
        self.shared.dial(source_node).ok()
    }
}
