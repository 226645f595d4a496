//! When a node starts again: what became of its VMs, and which of them are started. `claims` asks the
//! peers first whether they have them.

mod claims;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

pub(super) use self::claims::{Doubts, restart};
use super::Shared;
use super::registry::{Change, Fate, Recovered};
use crate::error::{DWCPError, Result};
use crate::migration::Record;
use crate::model::{VM, VMEventType, VMState};

/// The label or annotation that says whether a VM is started again.
const RESTART: &str = "dwcp.restart";

/// Whether a VM that ended without being asked to is started again when its node starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    #[default]
    Never,
    /// When it is failed, which it also is when it ran and its node ended.
    OnFailure,
    /// Also when its node was shut down while it ran.
    Always,
}

impl FromStr for RestartPolicy {
    type Err = DWCPError;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            // A default value asks for nothing.
            "" | "never" => Ok(RestartPolicy::Never),
            "on-failure" => Ok(RestartPolicy::OnFailure),
            "always" => Ok(RestartPolicy::Always),
            other => Err(DWCPError::Config(format!(
                "{RESTART}: must be never, on-failure or always, not {other:?}"
            ))),
        }
    }
}

impl RestartPolicy {
    /// The policy of a VM with these labels and annotations.
    ///
    /// # Errors
    ///
    /// `invalid_config` naming it, for a word that is none, or when they contradict each other.
    pub(super) fn of(
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> Result<RestartPolicy> {
        let read = |map: &BTreeMap<String, String>| {
            let word = map.get(RESTART);
            word.map(|word| word.parse::<RestartPolicy>()).transpose()
        };
        match (read(labels)?, read(annotations)?) {
            (Some(label), Some(annotation)) if label != annotation => {
                Err(DWCPError::Config(format!(
                    "{RESTART}: the label and the annotation of that name contradict each other"
                )))
            }
            (label, annotation) => Ok(label.or(annotation).unwrap_or_default()),
        }
    }

    /// Whether it asks for a start.
    fn wants(self, of: &Recovered) -> bool {
        match self {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => of.vm.state == VMState::Failed,
            RestartPolicy::Always => {
                of.vm.state == VMState::Failed || of.vm.state == VMState::Stopped && of.interrupted
            }
        }
    }
}

/// Says what became of the VMs that were stored, and waits until that is durable; the ids of those
/// that are to be started.
pub(super) async fn recover(shared: &Arc<Shared>) -> Result<Vec<String>> {
    let here = shared.registry.recover(|vm, arriving| {
        let fate = fate(shared, vm, arriving);
        if !matches!(fate, Fate::Kept) {
            tracing::info!(vm = %vm.id, name = %vm.name, was = %vm.state, ?fate, "recovered");
        }
        fate
    });
    shared.registry.flush().done().await?;
    // Only now it is known which VMs came, and which are gone; and it is durable.
    let kept: BTreeSet<String> = here.iter().map(|own| own.vm.id.clone()).collect();
    let disks = Arc::clone(shared);
    shared
        .blocking(move || disks.disks.sweep(|vm_id| kept.contains(vm_id)))
        .await?;
    // Without peers there is nobody who could have them, nor anybody to ask.
    shared
        .doubts
        .about(here.iter().map(|own| own.vm.id.clone()));
    let restarts = here.iter().filter(|own| {
        // What is stored was checked; what a newer version allows is not known here.
        let policy = RestartPolicy::of(&own.vm.labels, &own.vm.annotations);
        policy.unwrap_or_default().wants(own)
    });
    Ok(restarts.map(|own| own.vm.id.clone()).collect())
}

/// Whether a VM was stopped when it began to move.
fn was_stopped(vm: &VM) -> bool {
    vm.started_at.is_none() || vm.stopped_at > vm.started_at
}

/// A VM that was stopped when its node ended, and is here.
fn still_stopped(message: &str) -> Fate {
    let event = VMEventType::MigrationFailed;
    Fate::Changed(Change::new(VMState::Stopped, event, message))
}

/// What became of a VM when the process that held its memory ended.
fn fate(shared: &Shared, vm: &VM, arriving: Option<&str>) -> Fate {
    let failed = |message: String| {
        let message = format!("{message}; `start` runs the VM anew");
        Fate::Changed(Change::new(VMState::Failed, VMEventType::Failed, message).because())
    };
    if let Some(from) = arriving {
        return if shared.migrations.has_taken(&vm.id) && was_stopped(vm) {
            still_stopped(&format!("arrived from the node {from}, stopped"))
        } else if shared.migrations.has_taken(&vm.id) {
            failed(format!(
                "the node ended just after it had taken the VM from the node {from}: its memory is lost"
            ))
        } else {
            Fate::NotHere {
                message: format!("did not arrive from the node {from}: this node ended meanwhile"),
            }
        };
    }
    let what = match vm.state {
        VMState::Stopped | VMState::Failed => return Fate::Kept,
        VMState::Migrating | VMState::Unknown => return fate_of_leaving(shared, vm),
        VMState::Running => "while it ran",
        VMState::Paused => "while it was paused",
        VMState::Starting => "while it was being started",
        VMState::Stopping => "while it was being stopped",
        VMState::Creating => "while it was being created",
    };
    failed(format!("the node ended {what}: its memory is lost"))
}

/// What became of a VM that was leaving. Until the source grants the hand-over the VM is its own;
/// after that only the destination knows.
fn fate_of_leaving(shared: &Shared, vm: &VM) -> Fate {
    match shared.migrations.last_of(&vm.id) {
        Some((node, Some(Record::Released { .. }))) => Fate::Moved { node },
        Some((node, Some(Record::Granted { .. }))) => {
            let migration = shared.migrations.granted(&vm.id);
            let migration = migration.map_or_else(String::new, |job| job.id.clone());
            let message = format!(
                "the node ended after it had let the node {node} take the VM: it runs there, if that \
                 node took it; its memory is lost here. `resolve_migration {migration}` asks that node"
            );
            let event = VMEventType::MigrationFailed;
            Fate::Changed(Change::new(VMState::Unknown, event, message).because())
        }
        Some((
            node,
            Some(Record::Mine { .. } | Record::Forced { .. } | Record::Aborted { .. }) | None,
        )) if was_stopped(vm) => still_stopped(&format!(
            "the node ended while the VM, which is stopped, was being moved to the node {node}, which \
             had not taken it"
        )),
        None if was_stopped(vm) => {
            still_stopped("the node ended while the VM, which is stopped, was being moved")
        }
        Some((
            node,
            Some(Record::Mine { .. } | Record::Forced { .. } | Record::Aborted { .. }) | None,
        )) => {
            let message = format!(
                "the node ended while it was being moved to the node {node}, which had not taken it: \
                 its memory is lost; `start` runs the VM anew"
            );
            Fate::Changed(Change::new(VMState::Failed, VMEventType::Failed, message).because())
        }
        None => {
            let message = "the node ended while it was being moved: its memory is lost; `start` runs the \
                           VM anew";
            Fate::Changed(Change::new(VMState::Failed, VMEventType::Failed, message).because())
        }
    }
}

#[cfg(test)]
mod tests;
