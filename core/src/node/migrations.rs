//! Moving VMs between nodes: what the node has to do with it.
//!
//! The migration layer moves a machine; this finds the peer, holds the VM meanwhile, and says how it
//! goes. `departure` is the part of a VM that leaves, `arrival` that of one that comes; `book` keeps
//! epochs, records and verdicts; `plan` says how one would go,
//! `drain` moves everything away.

mod arrival;
mod book;
mod departure;
mod drain;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

pub(super) use self::book::Migrations;
pub(super) use self::drain::drain_to;
pub(super) use self::plan::plan;
use super::Shared;
use super::once::Asked;
use super::registry::VmEntry;
use crate::action::{Action, Item};
use crate::client::ItemSink;
use crate::error::{DWCPError, Result};
use crate::migration::whereabouts::{self, Answer, Whereabouts};
use crate::migration::{FRAME_MAX, Greeting, Incoming, Progress, Record};
use crate::model::{
    MigrationOptions, MigrationState, MigrationStatus, SameHost, Timestamp, VM, VMState,
};
use crate::transport::Blocking;
use crate::wire::frame::{Frame, FrameType};
use crate::wire::message::encode_error;

/// The first wait before a target is asked again; doubled each time.
const ASK_FIRST: Duration = Duration::from_millis(100);
/// The time between two items of a progress stream, at least.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// How long somebody who resolves a migration waits for what the target answers.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Begins to move a VM, which exists and is in a state in which that is legal.
pub(super) async fn migrate(
    shared: &Arc<Shared>,
    vm_id: &str,
    target_node: &str,
    options: MigrationOptions,
    key: Option<String>,
) -> Result<MigrationStatus> {
    let progress = match key {
        None => departure::begin(shared, vm_id, target_node, options, None).await?,
        Some(key) => {
            let asked = Asked::new(key, &(vm_id, target_node, &options))?;
            let begin = departure::begin(shared, vm_id, target_node, options, Some(&asked));
            shared.migrations.started.once(&asked, begin).await?
        }
    };
    Ok(progress.status())
}

/// How a migration goes that was asked for before with the same key.
pub(super) async fn known(shared: &Arc<Shared>, action: &Action) -> Option<MigrationStatus> {
    let Action::Migrate {
        vm_id,
        target_node,
        options,
        key: Some(key),
    } = action
    else {
        return None;
    };
    let asked = Asked::new(key.clone(), &(vm_id, target_node, options)).ok()?;
    let unknown = async { Err(DWCPError::NotFound("it was not asked for before".into())) };
    let progress = shared.migrations.started.once(&asked, unknown).await;
    Some(progress.ok()?.status())
}

/// What this version can be asked for. Permissions may go unused; what is promised and cannot be
/// kept is refused by its name.
fn check_promises(shared: &Shared, options: &MigrationOptions, vm: &VM) -> Result<()> {
    if options.encrypt_transport && !shared.dials_with_tls() {
        return Err(DWCPError::Unsupported(
            "encrypt_transport: this node was started without TLS; start it with a certificate, or \
             set the option to false"
                .into(),
        ));
    }
    if options.with_disks && vm.config.disk > 0 {
        if options.offline {
            return Err(DWCPError::Unsupported(
                "with_disks: the disk of a VM that is moved stopped is not copied yet; set `offline` to false and \
                 move the VM while it runs or is paused"
                    .into(),
            ));
        }
        if options.same_host == SameHost::Require {
            return Err(DWCPError::Unsupported(
                "with_disks: the memory is copied with the disk, and `same_host` `require` asks to hand it over; set \
                 `same_host` to `auto`, or `with_disks` to false"
                    .into(),
            ));
        }
    }
    if options.same_host == SameHost::Require && vm.config.huge_pages {
        return Err(DWCPError::Unsupported(
            "same_host: `require` asks to hand the memory over, and a VM with `huge_pages` has its memory to \
             itself; set `same_host` to `auto`, or `huge_pages` to false"
                .into(),
        ));
    }
    Ok(())
}

/// How a migration goes.
pub(super) async fn status(shared: &Arc<Shared>, migration_id: &str) -> Result<MigrationStatus> {
    Ok(shared.migrations.find(migration_id)?.progress.status())
}

/// Ends a migration; answers when it has ended.
pub(super) async fn cancel(shared: &Arc<Shared>, migration_id: &str) -> Result<MigrationStatus> {
    let job = shared.migrations.find(migration_id)?;
    job.cancel().await?;
    Ok(ended(&job.progress).await)
}

/// The migrations this node knows of, oldest first.
pub(super) async fn list(shared: &Arc<Shared>) -> Result<Vec<MigrationStatus>> {
    let jobs = shared.migrations.all();
    Ok(jobs.iter().map(|job| job.progress.status()).collect())
}

/// Finds out, or decides, who has the VM of a migration.
pub(super) async fn resolve(
    shared: &Arc<Shared>,
    migration_id: &str,
    force: bool,
) -> Result<MigrationStatus> {
    let job = shared.migrations.find(migration_id)?;
    let status = job.progress.status();
    if status.state.is_terminal() {
        return Ok(status);
    }
    if force {
        force_here(shared, &job, &status.target_node).await?;
        return Ok(job.progress.status());
    }
    if job.is_recovered() {
        departure::ask_apart(shared, &job).await?;
        return Ok(job.progress.status());
    }
    if shared.migrations.granted(&job.vm_id).is_none() {
        return Err(DWCPError::InvalidOperation(format!(
            "resolve_migration: migration {migration_id} is under way and has not handed the VM \
             over; cancel_migration ends it"
        )));
    }
    job.ask().await;
    // One that answers does so in moments.
    let _ = tokio::time::timeout(ANSWER_TIME, is_over(&job.progress)).await;
    Ok(job.progress.status())
}

/// Asks about each migration that this node was started again in the middle of, until it is settled: the
/// target may have been asked for its verdict last by the process before.
pub(super) fn settle_recovered(shared: &Arc<Shared>) -> Vec<AbortHandle> {
    let unsettled =
        |job: &Arc<book::Job>| job.is_recovered() && !job.progress.status().state.is_terminal();
    let jobs = shared.migrations.all().into_iter().filter(unsettled);
    jobs.map(|job| {
        let node = Arc::downgrade(shared);
        let asking = async move {
            let mut wait = ASK_FIRST;
            while let Some(shared) = node.upgrade() {
                if job.progress.status().state.is_terminal() {
                    return;
                }
                // A node whose address is not known may become so.
                if let Err(error) = departure::ask_apart(&shared, &job).await {
                    tracing::debug!(migration = job.id, %error, "the target was not asked");
                }
                let longest = shared.patience.silence();
                drop(shared);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(longest);
            }
        };
        shared.runtime.spawn(asking).abort_handle()
    })
    .collect()
}

/// Takes the VM of a migration back, on an operator's word that its destination will never answer.
async fn force_here(shared: &Arc<Shared>, job: &Arc<book::Job>, target: &str) -> Result<()> {
    let forced = if job.is_recovered() {
        let peer = shared.dial(target)?;
        let (forcing, forced) = (Arc::clone(shared), Arc::clone(job));
        shared
            .blocking(move || departure::force(&forcing, &forced, &peer))
            .await
    } else {
        job.force().await
    };
    let record = shared.migrations.record_of(&job.id);
    if matches!(record, Some(Record::Forced { .. })) {
        departure::tell_forced(shared, job);
    }
    forced.map_err(|error| match error {
        DWCPError::InvalidOperation(why) => DWCPError::InvalidOperation(format!(
            "resolve_migration: migration {} is not forced: {why}",
            job.id
        )),
        other => other,
    })
}

/// Opens a stream of how a migration goes: checks, and starts a task that sends
/// `Item::Migration`s to `sink` until it ends or `sink.closed()`. The task keeps `permit`, the
/// stream's share of the node's limit.
pub(super) async fn progress(
    shared: &Arc<Shared>,
    migration_id: &str,
    sink: ItemSink,
    permit: OwnedSemaphorePermit,
) -> Result<()> {
    let progress = Arc::clone(&shared.migrations.find(migration_id)?.progress);
    shared.runtime.spawn(async move {
        let _permit = permit;
        let mut changes = progress.follow();
        loop {
            changes.mark_unchanged();
            let status = progress.status();
            let over = status.state.is_terminal();
            let item = Item::Migration(Box::new(status));
            if sink.send(Ok(item)).await.is_err() || over {
                return;
            }
            tokio::select! {
                () = sink.closed() => return,
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                () = is_over(&progress) => continue,
            }
            tokio::select! {
                () = sink.closed() => return,
                // While pages move, nothing else says so.
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                _ = changes.changed() => {}
            }
        }
    });
    Ok(())
}

/// Once a VM is granted to another node, and until it is known what that node did, nothing is legal but
/// to look and to resolve.
pub(super) fn check_held(shared: &Shared, what: &str, vm: &VM) -> Result<()> {
    if vm.state != VMState::Migrating {
        return Ok(());
    }
    match shared.migrations.granted(&vm.id) {
        None => Ok(()),
        Some(job) => Err(DWCPError::InvalidOperation(format!(
            "{what}: VM {} is being handed over to the node {} by migration {}: until it is known who \
             has it, only get and resolve_migration are legal",
            vm.id,
            job.progress.status().target_node,
            job.id
        ))),
    }
}

/// While some of a VM's memory is still on the node that it came from, it runs here, but nothing can be made of
/// its memory as a whole.
pub(super) fn check_whole(shared: &Shared, what: &str, vm: &VM) -> Result<()> {
    let incoming = shared.migrations.all_incoming();
    let brings = |one: &Arc<Incoming>| one.is_awaiting() && one.brings(&vm.id, ..u64::MAX);
    if !incoming.iter().any(brings) {
        return Ok(());
    }
    Err(DWCPError::InvalidOperation(format!(
        "{what}: some of the memory of VM {} is still on its way here (post-copy): ask again when it has come",
        vm.id
    )))
}

/// Gives a VM back that a migration holds, by cancelling it, before `action` (stop, destroy or
/// reset) is done; or refuses, once the migration cannot be cancelled.
pub(super) async fn release(
    shared: &Arc<Shared>,
    entry: &Arc<VmEntry>,
    action: &Action,
) -> Result<()> {
    let Some(job) = shared.migrations.of_vm(&entry.id) else {
        return Err(DWCPError::InvalidOperation(format!(
            "{}: VM {} is arriving from another node",
            action.name(),
            entry.id
        )));
    };
    job.cancel().await.map_err(|error| match error {
        DWCPError::InvalidOperation(why) => DWCPError::InvalidOperation(format!(
            "{}: VM {} is being moved by migration {}: {why}",
            action.name(),
            entry.id,
            job.id
        )),
        other => other,
    })?;
    ended(&job.progress).await;
    Ok(())
}

/// Waits for the end of a migration; how it ended.
async fn ended(progress: &Progress) -> MigrationStatus {
    is_over(progress).await;
    progress.status()
}

async fn is_over(progress: &Progress) {
    let mut changes = progress.follow();
    while !progress.status().state.is_terminal() {
        // The sender is `progress` itself.
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A peer opened a connection. Blocks for moments, or for as long as a peer may be silent that settles
/// what this node was started again in the middle of.
pub(super) fn greeted(
    shared: &Arc<Shared>,
    greeting: Greeting,
    mut stream: Blocking,
) -> Result<()> {
    match greeting {
        Greeting::Whereabouts(question) => {
            let vms = question.vms.iter().map(|id| known_of(shared, id)).collect();
            let node_uuid = shared.uuid.clone();
            whereabouts::answer(&mut stream, &Answer { node_uuid, vms })
        }
        Greeting::Probe(question) => {
            let answered = plan::answer(shared, &question, &mut stream);
            if let Err(error) = &answered {
                arrival::refuse(stream, error)?;
            }
            answered
        }
        Greeting::Bulk(request) => match shared.migrations.incoming(&request.migration_id) {
            Some(incoming) => arrival::attach(&incoming, &request, stream),
            None => {
                let error = DWCPError::NotFound(format!("migration {}", request.migration_id));
                arrival::refuse(stream, &error)?;
                Err(error)
            }
        },
        Greeting::Control(first) => {
            let session = &first.message.session;
            if let Some(incoming) = shared.migrations.incoming(session) {
                incoming.adopt(stream, *first);
                return Ok(());
            }
            if let Ok(job) = shared.migrations.find(session) {
                // Its thread has ended, with the node before this one or because it was over.
                if job.is_recovered() || job.progress.status().state.is_terminal() {
                    return departure::answer(shared, &job, stream, *first);
                }
                // A migration that is over here may not be over there.
                return match job.adopt(stream, *first) {
                    None => Ok(()),
                    Some((stream, first)) => departure::answer(shared, &job, stream, first),
                };
            }
            arrival::begin(shared, *first, stream)
        }
    }
}

/// What this node knows of where a VM is.
fn known_of(shared: &Shared, vm_id: &str) -> Whereabouts {
    // The epoch after the place: whoever has the VM by now has it under that epoch or an older one.
    let (here, moved_to) = shared.registry.whereabouts(vm_id);
    Whereabouts {
        vm_id: vm_id.to_owned(),
        epoch: shared.migrations.last_epoch(vm_id),
        state: here.map(|(state, _)| state),
        arriving: here.is_some_and(|(_, arriving)| arriving),
        moved_to,
    }
}

/// An error as a frame of the extended profile, which answers no request in particular.
fn error_frame(error: &DWCPError) -> Result<Vec<u8>> {
    let frame = Frame {
        frame_type: FrameType::Error,
        timestamp: u64::try_from(Timestamp::now().as_unix_micros() / 1000).unwrap_or(0),
        id: String::new(),
        payload: encode_error(error, ""),
    };
    frame.encode(FRAME_MAX)
}

/// Joins the threads of migrations that have been told to end.
pub(super) fn close(shared: &Shared) {
    for incoming in shared.migrations.all_incoming() {
        Incoming::shut_down(&incoming);
        incoming.join();
    }
    for job in shared.migrations.all() {
        job.abandon();
        if !job.progress.status().state.is_terminal() {
            let why = "the node was shut down".to_owned();
            job.progress.finish(MigrationState::Failed, Some(why));
            shared.migrations.ended(&job);
        }
    }
}
