//! Moving everything away from a node.

use std::sync::Arc;

use super::super::Shared;
use super::departure;
use crate::error::{DWCPError, Result};
use crate::migration::Progress;
use crate::model::{
    Drained, Filters, MigrationOptions, MigrationState, MigrationStatus, VM, VMState,
};

/// Moves all VMs to these nodes, one after the other, each in the state it has; a VM that one does not take
/// is offered to the next. The node takes and starts no VMs from now on.
///
/// # Errors
///
/// `invalid_config` without a target, and those of nodes that are not known; then nothing has begun.
pub(in crate::node) async fn drain_to(
    shared: &Arc<Shared>,
    targets: &[String],
    options: &MigrationOptions,
) -> Result<Vec<Drained>> {
    options.validate()?;
    if targets.is_empty() {
        return Err(DWCPError::Config(
            "targets: name at least one node to move the VMs to".into(),
        ));
    }
    for target in targets {
        shared.dial(target)?;
    }
    shared.registry.drain();
    let mut all = Vec::new();
    let vms = shared.registry.list(&Filters::default());
    for (turn, (_, vm)) in vms.into_iter().enumerate() {
        let first = turn % targets.len();
        let (before, after) = targets.split_at(first);
        all.push(one(shared, &vm, [after, before].concat(), options).await);
    }
    Ok(all)
}

/// One VM, to the first of these nodes that takes it.
async fn one(
    shared: &Arc<Shared>,
    vm: &VM,
    targets: Vec<String>,
    options: &MigrationOptions,
) -> Drained {
    let mut drained = Drained {
        vm_id: vm.id.clone(),
        name: vm.name.clone(),
        ..Drained::default()
    };
    if let Some(job) = shared.migrations.of_vm(&vm.id) {
        // Somebody is at it already.
        tell(&mut drained, settled(&job.progress).await);
    }
    for target in targets {
        let last = drained.migration.as_ref();
        // One that is unresolved is nobody's to move.
        if drained.node.is_some() || last.is_some_and(|last| !last.state.is_terminal()) {
            break;
        }
        match begin(shared, &vm.id, &target, options).await {
            Ok(progress) => tell(&mut drained, settled(&progress).await),
            Err(error) => drained.error = Some(error.to_string()),
        }
    }
    drained
}

async fn begin(
    shared: &Arc<Shared>,
    vm_id: &str,
    target: &str,
    options: &MigrationOptions,
) -> Result<Arc<Progress>> {
    let (_, vm) = shared.registry.find(vm_id)?;
    let mut options = options.clone();
    if vm.state == VMState::Stopped {
        // There is no other way to move it.
        options.offline = true;
        options.post_copy = false;
    }
    departure::begin(shared, vm_id, target, options, None).await
}

/// A migration of a VM has ended so.
fn tell(drained: &mut Drained, status: MigrationStatus) {
    let moved = status.state == MigrationState::Completed;
    drained.node = moved.then(|| status.target_node.clone());
    drained.error = match (moved, &status.error) {
        (true, _) => None,
        (false, Some(error)) => Some(error.clone()),
        (false, None) => Some(format!("the migration is {}", status.state)),
    };
    drained.migration = Some(status);
}

/// Waits until a migration has ended, or until nobody can tell how: that may take as long as it likes.
async fn settled(progress: &Progress) -> MigrationStatus {
    let mut changes = progress.follow();
    loop {
        let status = progress.status();
        // The sender is `progress` itself: while it is here, changes come.
        if status.state.is_terminal() || status.error.is_some() || changes.changed().await.is_err()
        {
            return status;
        }
    }
}
