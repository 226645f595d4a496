//! A VM that leaves.

use std::sync::Arc;
use std::time::Duration;

use super::super::Shared;
use super::super::once::Asked;
use super::super::registry::Departure;
use super::book::Job;
use super::{check_promises, ended};
use crate::action::Action;
use crate::error::{DWCPError, Result};
use crate::migration::whereabouts::recognise;
use crate::migration::{
    Dial, DiskFacts, Envelope, Leaving, Offer, Outgoing, Progress, Record, Recovered, SourceHost,
    SourceOutcome, Throttle, Unresolved, advice,
};
use crate::model::{
    MigrationMode, MigrationOptions, MigrationState, MigrationStatus, SameHost, StopOptions,
    Timestamp, VM, VMState, new_uuid,
};
use crate::transport::Blocking;

/// Holds the VM and starts its migration. `asked` is what the answer is stored for.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    vm_id: &str,
    target: &str,
    mut options: MigrationOptions,
    asked: Option<&Asked>,
) -> Result<Arc<Progress>> {
    let (entry, vm) = shared.registry.find(vm_id)?;
    check_state(shared, "migrate", &options, &vm)?;
    check_promises(shared, &options, &vm)?;
    let dial = reach(shared, &vm, target)?;
    let place = shared.migrations.place()?;
    if options.offline && vm.state != VMState::Stopped {
        let options = StopOptions::default();
        let stop = Action::Stop {
            vm_id: vm_id.to_owned(),
            options: options.clone(),
        };
        shared.stop(stop, options).await?;
    }
    let (image, disk) = beside_memory(shared, &vm).await?;
    let copied = copied_disk(shared, &vm, &mut options).await?;
    let guard = entry.lock().await;
    shared.settle(&entry).await?;
    let (_, vm) = shared.registry.find(vm_id)?;
    check_state(shared, "migrate", &options, &vm)?;
    if options.offline && vm.state != VMState::Stopped {
        return Err(DWCPError::InvalidOperation(format!(
            "migrate: VM {vm_id} was started by somebody else while it was to be moved stopped"
        )));
    }
    let id = new_uuid();
    if disk.is_some() {
        let (own, vm_id) = (Arc::clone(shared), entry.id.clone());
        let by = copied.is_some().then(|| id.clone());
        shared
            .blocking(move || own.disks.mark_leaving(&vm_id, by.as_deref()))
            .await?;
    }
    let Departure {
        before, running, ..
    } = shared.registry.begin_migration(vm_id, target)?;
    drop(guard);
    let held = Held {
        shared: Arc::clone(shared),
        migration: id.clone(),
        vm_id: entry.id.clone(),
        target: target.to_owned(),
        state: before.state,
    };
    let machine = running.map(|own| own.machine);
    if machine.is_none() && !options.offline {
        held.stays("it has no machine");
        return Err(DWCPError::Internal(format!("VM {vm_id} has no machine")));
    }
    let channels = options.channels().min(processors());
    let status = MigrationStatus {
        id: id.clone(),
        vm_id: vm_id.to_owned(),
        source_node: shared.name.clone(),
        target_node: target.to_owned(),
        state: MigrationState::Preparing,
        started_at: Timestamp::now(),
        mode: mode(&options),
        ..MigrationStatus::default()
    };
    let progress = Arc::new(Progress::new(status));
    let migrations = &shared.migrations;
    let answer = asked.map(|asked| migrations.started.stored(asked, id.clone()));
    let job = migrations.add(vm_id, &progress, answer);
    let over = (Arc::clone(shared), Arc::clone(&job));
    shared.runtime.spawn(async move {
        let (shared, job) = over;
        ended(&job.progress).await;
        shared.migrations.ended(&job);
        drop(place);
    });
    let (epoch, burned) = match migrations.burn_epoch(vm_id) {
        // Before anybody is told of it.
        Ok(epoch) => (epoch, migrations.flush().done().await),
        Err(error) => (0, Err(error)),
    };
    let is_running = before.state == VMState::Running;
    let offer = match &machine {
        Some(machine) => {
            let guest = machine.config().guest.clone();
            Offer::new((*before).clone(), guest, channels, is_running)
                .allow_post_copy(options.post_copy && options.live)
        }
        None => Offer::of_stopped((*before).clone(), shared.hypervisor.facts().clone()),
    };
    let throttle = machine.clone().map(|machine| machine as Arc<dyn Throttle>);
    let leaving = Leaving {
        session: id,
        epoch,
        machine,
        offer: offer.with(image, disk).with_copied_disk(copied),
        options,
        dial,
        node_uuid: shared.uuid.clone(),
        node_name: shared.name.clone(),
        progress: Arc::clone(&progress),
        host: Arc::new(held),
        throttle,
        #[cfg(test)]
        faults: crate::migration::faults::Faults::default(),
    };
    let host = Arc::clone(&leaving.host);
    match burned.and_then(|()| Outgoing::start(leaving)) {
        Ok(outgoing) => {
            // Nobody else sets it.
            let _ = job.outgoing.set(outgoing);
            join_in_time(shared, &job);
            Ok(progress)
        }
        Err(error) => {
            let why = error.to_string();
            progress.finish(MigrationState::Failed, Some(why.clone()));
            host.finished(&SourceOutcome::StayedHere {
                why: crate::migration::Why::Failed(why),
            });
            Err(error)
        }
    }
}

/// Joins the thread of a migration once that is over: it is remembered for long, and its thread's stack need
/// not be.
fn join_in_time(shared: &Arc<Shared>, job: &Arc<Job>) {
    let (shared, job) = (Arc::clone(shared), Arc::clone(job));
    shared.runtime.clone().spawn(async move {
        ended(&job.progress).await;
        let joined = shared.blocking(move || {
            job.join();
            Ok(())
        });
        if let Err(error) = joined.await {
            // A node that is over joins it itself.
            tracing::debug!(%error, "the thread of a migration was not joined");
        }
    });
}

/// The way in which a migration with these options is done.
pub(super) fn mode(options: &MigrationOptions) -> MigrationMode {
    match options {
        options if options.offline => MigrationMode::Offline,
        options if options.live => MigrationMode::Precopy,
        _ => MigrationMode::StopAndCopy,
    }
}

/// How the node that a VM is to go to is reached.
///
/// # Errors
///
/// `invalid_operation` for this node, and those of a node that is not known.
pub(super) fn reach(shared: &Shared, vm: &VM, target: &str) -> Result<Dial> {
    if target == shared.name {
        return Err(DWCPError::InvalidOperation(format!(
            "target_node: VM {} is on {target} already",
            vm.id
        )));
    }
    shared.dial(target)
}

/// What a target has to find of a VM beside what is sent: its image, and its disk.
pub(super) async fn beside_memory(
    shared: &Arc<Shared>,
    vm: &VM,
) -> Result<(Option<String>, Option<DiskFacts>)> {
    let image = shared.image_digest(vm)?;
    if vm.config.disk == 0 {
        return Ok((image, None));
    }
    let (own, id) = (Arc::clone(shared), vm.id.clone());
    let disk = shared.blocking(move || own.disks.facts(&id)).await?;
    Ok((image, Some(disk)))
}

/// How many bytes the disk of a VM takes, where it is to be copied. The memory is copied then as well: who hands it
/// over has the guest stand still for moments only, in which no disk is copied.
pub(super) async fn copied_disk(
    shared: &Arc<Shared>,
    vm: &VM,
    options: &mut MigrationOptions,
) -> Result<Option<u64>> {
    if !options.with_disks || vm.config.disk == 0 {
        return Ok(None);
    }
    if options.same_host == SameHost::Auto {
        options.same_host = SameHost::Never;
    }
    let (own, id) = (Arc::clone(shared), vm.id.clone());
    shared
        .blocking(move || own.disks.taken(&id))
        .await
        .map(Some)
}

/// The first wait before a destination is told, doubled each time, and the longest.
const TELL_FIRST: Duration = Duration::from_millis(100);
const TELL_MAX: Duration = Duration::from_secs(60);

/// Answers a destination that comes about a migration whose thread has ended: with this node before it
/// was started again, or because all was settled here. Blocks.
pub(super) fn answer(
    shared: &Arc<Shared>,
    job: &Job,
    stream: Blocking,
    first: Envelope,
) -> Result<()> {
    settle(shared, job, |one| {
        one.answer(stream, first, shared.patience.moment())
    })
}

/// Asks the destination of such a migration. Blocks.
///
/// # Errors
///
/// Those of asking; `migration` when who answers is not the node, or not the store, that the VM was
/// granted to.
fn ask(shared: &Arc<Shared>, job: &Job, peer: &Dial) -> Result<()> {
    if let Some(Record::Granted {
        epoch,
        destination_uuid,
    }) = shared.migrations.record_of(&job.id)
        && let Some(why) = recognise(peer, &job.vm_id, &destination_uuid, epoch)?
    {
        let target = job.progress.status().target_node;
        let text = Unresolved::Stranger(&why).text(&target, &job.id);
        if job.progress.status().error.as_ref() != Some(&text) {
            // The status last: somebody else who asks at the same time takes it for a sign that all of
            // this is done.
            shared.registry.leave_unresolved(&job.vm_id, &text)?;
            job.progress.update(|s| s.error = Some(text.clone()));
            shared.migrations.ended(job);
        }
        return Err(DWCPError::Migration(text));
    }
    settle(shared, job, |one| one.ask(peer, shared.patience.silence()))
}

/// The same, off the async threads.
pub(super) async fn ask_apart(shared: &Arc<Shared>, job: &Arc<Job>) -> Result<()> {
    let peer = shared.dial(&job.progress.status().target_node)?;
    let (asking, asked) = (Arc::clone(shared), Arc::clone(job));
    shared.blocking(move || ask(&asking, &asked, &peer)).await
}

/// Takes the VM of such a migration back without the destination's word, unless that can be had.
/// Blocks.
pub(super) fn force(shared: &Arc<Shared>, job: &Job, peer: &Dial) -> Result<()> {
    settle(shared, job, |one| {
        one.force(peer, shared.patience.silence())
    })
}

/// A VM that left, nobody knows whether, is offered to this node under a later epoch: so it did leave.
/// Blocks until it is gone from here.
pub(super) fn outlived(shared: &Arc<Shared>, job: &Job, epoch: u64) -> Result<()> {
    if job.is_recovered() {
        return settle(shared, job, |one| one.outlived(epoch));
    }
    job.outlived(epoch);
    // Made within the runtime: a timer needs its clock.
    let over =
        async { tokio::time::timeout(shared.patience.silence(), ended(&job.progress)).await };
    match shared.runtime.block_on(over) {
        Ok(_) => Ok(()),
        Err(_) => Err(DWCPError::Migration(format!(
            "migration {} of the VM from here is not settled",
            job.id
        ))),
    }
}

/// Says to the destination that its VM was forced to stay here, again and again until it has heard:
/// it may run the VM.
pub(super) fn tell_forced(shared: &Arc<Shared>, job: &Arc<Job>) {
    let (node, job) = (Arc::downgrade(shared), Arc::clone(job));
    shared.runtime.spawn(async move {
        let mut wait = TELL_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(TELL_MAX);
            let Some(shared) = node.upgrade() else {
                return;
            };
            match ask_apart(&shared, &job).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, migration = job.id, "not told of its force"),
            }
        }
    });
}

fn settle(
    shared: &Arc<Shared>,
    job: &Job,
    talk: impl FnOnce(Recovered<'_>) -> Result<Option<SourceOutcome>>,
) -> Result<()> {
    let _turn = job.settle();
    let host = Held {
        shared: Arc::clone(shared),
        migration: job.id.clone(),
        vm_id: job.vm_id.clone(),
        target: job.progress.status().target_node,
        // Whatever it was, its memory is gone.
        state: VMState::Failed,
    };
    let outcome = talk(Recovered {
        session: &job.id,
        record: shared.migrations.record_of(&job.id),
        node_uuid: &shared.uuid,
        host: &host,
    })?;
    let (state, error) = match outcome {
        None | Some(SourceOutcome::Unresolved) => return Ok(()),
        Some(SourceOutcome::Moved { .. }) => (MigrationState::Completed, None),
        Some(SourceOutcome::StayedHere { why }) => (MigrationState::Failed, Some(why.to_string())),
        Some(SourceOutcome::Lost { reason }) => (MigrationState::Failed, Some(reason)),
    };
    job.progress.finish(state, error);
    shared.migrations.ended(job);
    Ok(())
}

/// A VM is offered by the node `from` under a later epoch than any that was known here: whatever this
/// node has of it and does not run is an older copy. Blocks for moments.
///
/// # Errors
///
/// Those of the store. A copy that is in use is left as it is.
pub(super) fn superseded(shared: &Shared, vm_id: &str, from: &str) -> Result<()> {
    let Ok((entry, _)) = shared.registry.find(vm_id) else {
        return Ok(());
    };
    let Some(_guard) = entry.try_lock() else {
        return Ok(());
    };
    let (_, vm) = shared.registry.find(vm_id)?;
    if !matches!(vm.state, VMState::Stopped | VMState::Failed) {
        return Ok(());
    }
    let message = format!("is on the node {from}, which offers it under a later epoch");
    let machine = shared.registry.found_elsewhere(vm_id, from, &message)?;
    drop(machine);
    shared.doubts.settle(vm_id);
    shared.registry.flush().wait()
}

/// Refuses a VM that cannot be moved in the state it has, to `action`.
pub(super) fn check_state(
    shared: &Shared,
    action: &str,
    options: &MigrationOptions,
    vm: &VM,
) -> Result<()> {
    let why = match vm.state {
        VMState::Running | VMState::Paused => return Ok(()),
        VMState::Stopped if options.offline => return Ok(()),
        VMState::Stopped => "is stopped; with `offline` it can be moved as it is".to_owned(),
        VMState::Migrating => match shared.migrations.of_vm(&vm.id) {
            Some(job) => format!("is being moved by migration {} already", job.id),
            None => "is arriving from another node".to_owned(),
        },
        VMState::Unknown => match shared.migrations.of_vm(&vm.id) {
            Some(job) => format!(
                "may be on the node {}: migration {} is unresolved; resolve_migration {} first",
                job.progress.status().target_node,
                job.id,
                job.id
            ),
            None => "is unknown".to_owned(),
        },
        state => format!("is {state}; a VM that runs, or is paused, can be moved"),
    };
    Err(DWCPError::InvalidOperation(format!(
        "{action}: VM {} {why}",
        vm.id
    )))
}

/// More channels than processors only take turns.
pub(super) fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// The VM that a migration holds.
struct Held {
    shared: Arc<Shared>,
    migration: String,
    vm_id: String,
    target: String,
    /// Its state before, which it has again if it stays.
    state: VMState,
}

impl Held {
    /// Its disk is its own again.
    fn keeps_disk(&self) {
        let has = self.shared.registry.find(&self.vm_id);
        if has.is_ok_and(|(_, vm)| vm.config.disk > 0) {
            self.told(self.shared.disks.mark_leaving(&self.vm_id, None));
        }
    }

    fn stays(&self, why: &str) {
        self.keeps_disk();
        let message = format!("was not moved to the node {}: {why}", self.target);
        self.told(
            self.shared
                .registry
                .end_migration(&self.vm_id, self.state, &message),
        );
    }

    /// A node that is over tells nothing any more.
    fn told(&self, result: Result<()>) {
        if let Err(error) = result {
            tracing::debug!(vm = self.vm_id, %error, "the end of a migration was not told");
        }
    }
}

impl SourceHost for Held {
    fn persist(&self, record: &Record) -> Result<()> {
        self.shared
            .migrations
            .record(&self.migration, &self.vm_id, record)
    }

    fn release(&self) {
        let registry = &self.shared.registry;
        let gone = registry.moved_away(&self.vm_id, &self.target).map(drop);
        // Before the destination is told that it may forget; but the record that says so is durable,
        // and the same is concluded from it.
        self.told(gone.and_then(|()| registry.flush().wait()));
        // Nobody here can open it any more.
        let dropped = self.shared.disks.drop_left(&self.vm_id, &self.migration);
        if let Err(error) = dropped {
            tracing::warn!(vm = self.vm_id, %error, "the disk of a VM that left was not removed");
        }
    }

    fn finished(&self, outcome: &SourceOutcome) {
        match outcome {
            // It has been released.
            SourceOutcome::Moved { .. } => {}
            SourceOutcome::StayedHere { why } => self.stays(&advice(why)),
            SourceOutcome::Lost { reason } => {
                self.keeps_disk();
                let registry = &self.shared.registry;
                let reason = format!("{reason}; `start` runs the VM anew");
                self.told(registry.end_migration(&self.vm_id, VMState::Failed, &reason));
            }
            // Why follows.
            SourceOutcome::Unresolved => {}
        }
    }

    fn unresolved(&self, why: &str) {
        self.told(self.shared.registry.leave_unresolved(&self.vm_id, why));
    }
}
