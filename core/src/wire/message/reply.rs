//! Replies: what an action is answered with.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Action, Outcome};
use crate::error::{DWCPError, Result};
use crate::model::{MigrationStatus, Snapshot, VM, VMMetrics, VMState};

/// Room for a reply of the usual size: a VM has a little more than 1 KiB.
const USUAL_LEN: usize = 2048;

/// Which kind of [`Outcome`] answers an action, so that the reply can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Done,
    VM,
    VMs,
    Page,
    Metrics,
    Guest,
    Migration,
    Migrations,
    Plan,
    Snapshot,
    Snapshots,
    Image,
    Images,
    Health,
    Node,
}

impl Reply {
    /// The kind that answers an action.
    pub(crate) const fn of(action: &Action) -> Reply {
        match action {
            Action::Create { .. } | Action::Update { .. } | Action::Get { .. } => Reply::VM,
            Action::List { limit: 0, .. } => Reply::VMs,
            Action::List { .. } => Reply::Page,
            Action::Start { .. }
            | Action::Stop { .. }
            | Action::Destroy { .. }
            | Action::Pause { .. }
            | Action::Resume { .. }
            | Action::Reset { .. }
            | Action::RestoreSnapshot { .. }
            | Action::DeleteSnapshot { .. }
            | Action::RemoveImage { .. }
            | Action::ConsoleWrite { .. } => Reply::Done,
            Action::Metrics { .. } => Reply::Metrics,
            Action::GuestReport { .. } | Action::Verify { .. } => Reply::Guest,
            Action::Migrate { .. }
            | Action::MigrationStatus { .. }
            | Action::CancelMigration { .. }
            | Action::ResolveMigration { .. } => Reply::Migration,
            Action::ListMigrations => Reply::Migrations,
            Action::PlanMigration { .. } => Reply::Plan,
            Action::Snapshot { .. } => Reply::Snapshot,
            Action::ListSnapshots { .. } => Reply::Snapshots,
            Action::ImportImage { .. } => Reply::Image,
            Action::ListImages => Reply::Images,
            Action::Health => Reply::Health,
            Action::Node => Reply::Node,
        }
    }
}

/// How the payload of a reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// All there is.
    Extended,
    /// What clients of the base profile know.
    Base {
        /// It answers `create`, whose reply has the VM inside.
        create: bool,
        /// With copies of the config's keys in camel case, for the client that reads them raw.
        camel_case: bool,
    },
}

impl Style {
    /// The style in which the base profile answers an action. Clients that read keys in camel case
    /// are known by their clock: they put milliseconds into their frames, the others seconds.
    pub(crate) const fn base(action: &Action, timestamp: u64) -> Style {
        /// In seconds this is the year 5138.
        const SECONDS_MAX: u64 = 100_000_000_000;
        Style::Base {
            create: matches!(action, Action::Create { .. }),
            camel_case: timestamp > SECONDS_MAX,
        }
    }
}

#[derive(Serialize)]
struct PageWritten<'a> {
    vms: &'a [VM],
    next: Option<&'a str>,
}

#[derive(Deserialize)]
struct PageRead {
    vms: Vec<VM>,
    #[serde(default)]
    next: Option<String>,
}

/// Writes a reply.
///
/// # Errors
///
/// `serialization`, which no outcome is known to cause.
pub(crate) fn encode_outcome(outcome: &Outcome, style: Style) -> Result<Vec<u8>> {
    match (outcome, style) {
        (Outcome::Done, _) => Ok(b"{}".to_vec()),
        (outcome, Style::Base { create, camel_case }) => base(outcome, create, camel_case),
        (Outcome::VM(vm), _) => write(vm),
        (Outcome::VMs(vms), _) => write(vms),
        (Outcome::Page { vms, next }, _) => write(&PageWritten {
            vms,
            next: next.as_deref(),
        }),
        (Outcome::Metrics(metrics), _) => write(metrics),
        (Outcome::Guest(report), _) => write(report),
        (Outcome::Migration(status), _) => write(status),
        (Outcome::Migrations(list), _) => write(list),
        (Outcome::Plan(plan), _) => write(plan),
        (Outcome::Snapshot(snapshot), _) => write(snapshot),
        (Outcome::Snapshots(list), _) => write(list),
        (Outcome::Image(image), _) => write(image),
        (Outcome::Images(list), _) => write(list),
        (Outcome::Health(health), _) => write(health),
        (Outcome::Node(node), _) => write(node),
    }
}

fn write(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(USUAL_LEN);
    serde_json::to_writer(&mut out, value)?;
    Ok(out)
}

/// Writes a reply of the base profile: without what its clients do not know.
fn base(outcome: &Outcome, create: bool, camel_case: bool) -> Result<Vec<u8>> {
    match outcome {
        Outcome::VM(vm) => {
            let value = base_vm(vm, camel_case)?;
            if create {
                let message = format!("VM {} was created", vm.name);
                return write(&json!({"vm": value, "message": message}));
            }
            write(&value)
        }
        Outcome::VMs(vms) | Outcome::Page { vms, .. } => {
            let values: Result<Vec<Value>> = vms.iter().map(|vm| base_vm(vm, camel_case)).collect();
            write(&values?)
        }
        Outcome::Metrics(metrics) => write(&without(metrics, VMMetrics::EXTENDED_KEYS)?),
        Outcome::Migration(status) => write(&without(status, MigrationStatus::EXTENDED_KEYS)?),
        Outcome::Snapshot(snapshot) => write(&without(snapshot, Snapshot::EXTENDED_KEYS)?),
        Outcome::Snapshots(list) => {
            let values: Result<Vec<Value>> = list
                .iter()
                .map(|snapshot| without(snapshot, Snapshot::EXTENDED_KEYS))
                .collect();
            write(&values?)
        }
        // What the base profile has no request for has no form of its own there.
        other => encode_outcome(other, Style::Extended),
    }
}

/// A VM as base clients know it.
fn base_vm(vm: &VM, camel_case: bool) -> Result<Value> {
    let mut value = without(vm, VM::EXTENDED_KEYS)?;
    if vm.state == VMState::Paused {
        value["state"] = VMState::Running.as_str().into();
    }
    if let Some(metrics) = value.get_mut("metrics") {
        remove(metrics, VMMetrics::EXTENDED_KEYS);
    }
    if camel_case {
        value["config"] = vm.config.to_value_in_both_cases()?;
    }
    Ok(value)
}

fn without(value: &impl Serialize, keys: &[&str]) -> Result<Value> {
    let mut value = serde_json::to_value(value)?;
    remove(&mut value, keys);
    Ok(value)
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Value::Object(object) = value {
        object.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

/// Reads a reply of the extended profile.
///
/// # Errors
///
/// `invalid_message` for what does not answer the request.
pub(crate) fn decode_outcome(reply: Reply, payload: &[u8]) -> Result<Outcome> {
    Ok(match reply {
        Reply::Done => {
            // Newer nodes may have something to say about it.
            let _: std::collections::BTreeMap<String, IgnoredAny> = read(payload)?;
            Outcome::Done
        }
        Reply::VM => Outcome::VM(Box::new(read(payload)?)),
        Reply::VMs => Outcome::VMs(read(payload)?),
        Reply::Page => {
            let PageRead { vms, next } = read(payload)?;
            Outcome::Page { vms, next }
        }
        Reply::Metrics => Outcome::Metrics(Box::new(read(payload)?)),
        Reply::Guest => Outcome::Guest(Box::new(read(payload)?)),
        Reply::Migration => Outcome::Migration(Box::new(read(payload)?)),
        Reply::Migrations => Outcome::Migrations(read(payload)?),
        Reply::Plan => Outcome::Plan(Box::new(read(payload)?)),
        Reply::Snapshot => Outcome::Snapshot(Box::new(read(payload)?)),
        Reply::Snapshots => Outcome::Snapshots(read(payload)?),
        Reply::Image => Outcome::Image(Box::new(read(payload)?)),
        Reply::Images => Outcome::Images(read(payload)?),
        Reply::Health => Outcome::Health(Box::new(read(payload)?)),
        Reply::Node => Outcome::Node(Box::new(read(payload)?)),
    })
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    serde_json::from_slice(payload)
        .map_err(|error| DWCPError::Protocol(format!("the node's reply: {error}")))
}
