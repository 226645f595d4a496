//! Requests, written as our client does: extended profile, operations by name.

use std::time::Duration;

use serde::Serialize;

use super::base64;
use crate::action::{Action, Subscription};
use crate::error::Result;
use crate::model::duration;
use crate::wire::frame::FrameType;

/// Room for a request that names a VM and little else.
const USUAL_LEN: usize = 128;

/// A JSON object that is being written. What asks for nothing is left out.
struct Object(Vec<u8>);

impl Object {
    /// Adds a field; names need no escapes.
    fn add(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        Ok(serde_json::to_writer(&mut self.0, value)?)
    }

    fn add_some(&mut self, name: &'static str, value: Option<&impl Serialize>) -> Result<()> {
        value.map_or(Ok(()), |value| self.add(name, value))
    }

    fn add_deadline(&mut self, deadline: Option<Duration>) -> Result<()> {
        let Some(deadline) = deadline else {
            return Ok(());
        };
        // 0 would be none.
        let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self.add("deadline_ms", &millis.max(1))
    }
}

/// Writes an object, beginning with its operation.
fn object(
    operation: &'static str,
    fill: impl FnOnce(&mut Object) -> Result<()>,
) -> Result<Vec<u8>> {
    let mut object = Object(Vec::with_capacity(USUAL_LEN));
    object.0.extend_from_slice(b"{\"operation\":\"");
    object.0.extend_from_slice(operation.as_bytes());
    object.0.push(b'"');
    fill(&mut object)?;
    object.0.push(b'}');
    Ok(object.0)
}

/// The field that `create` has around its config.
#[derive(Serialize)]
struct Create<'a> {
    config: &'a crate::model::VMConfig,
}

/// Writes a call.
pub(super) fn call(action: &Action, deadline: Option<Duration>) -> Result<(FrameType, Vec<u8>)> {
    let (frame_type, operation) = operation(action);
    let payload = object(operation, |object| {
        fields(action, object)?;
        object.add_deadline(deadline)
    })?;
    Ok((frame_type, payload))
}

/// What an action is called on the wire.
pub(super) const fn operation(action: &Action) -> (FrameType, &'static str) {
    match action {
        Action::Create { .. } => (FrameType::Vm, "create"),
        Action::Start { .. } => (FrameType::Vm, "start"),
        Action::Stop { .. } => (FrameType::Vm, "stop"),
        Action::Destroy { .. } => (FrameType::Vm, "destroy"),
        Action::Pause { .. } => (FrameType::Vm, "pause"),
        Action::Resume { .. } => (FrameType::Vm, "resume"),
        Action::Reset { .. } => (FrameType::Vm, "reset"),
        Action::Update { .. } => (FrameType::Vm, "update"),
        Action::Get { .. } => (FrameType::Vm, "get"),
        Action::List { .. } => (FrameType::Vm, "list"),
        Action::GuestReport { .. } => (FrameType::Vm, "guest_report"),
        Action::Verify { .. } => (FrameType::Vm, "verify"),
        Action::ConsoleWrite { .. } => (FrameType::Vm, "console_write"),
        Action::Metrics { .. } => (FrameType::Metrics, "get"),
        Action::Migrate { .. } => (FrameType::Migration, "migrate"),
        Action::MigrationStatus { .. } => (FrameType::Migration, "status"),
        Action::CancelMigration { .. } => (FrameType::Migration, "cancel"),
        Action::ListMigrations => (FrameType::Migration, "list"),
        Action::PlanMigration { .. } => (FrameType::Migration, "plan"),
        Action::ResolveMigration { .. } => (FrameType::Migration, "resolve"),
        Action::Snapshot { .. } => (FrameType::Snapshot, "create"),
        Action::ListSnapshots { .. } => (FrameType::Snapshot, "list"),
        Action::RestoreSnapshot { .. } => (FrameType::Snapshot, "restore"),
        Action::DeleteSnapshot { .. } => (FrameType::Snapshot, "delete"),
        Action::Health => (FrameType::Health, "check"),
        Action::Node => (FrameType::Config, "node"),
        Action::ImportImage { .. } => (FrameType::Config, "import_image"),
        Action::ListImages => (FrameType::Config, "list_images"),
        Action::RemoveImage { .. } => (FrameType::Config, "remove_image"),
    }
}

fn fields(action: &Action, object: &mut Object) -> Result<()> {
    if let Some(vm_id) = action.vm_id() {
        object.add("vm_id", vm_id)?;
    }
    match action {
        Action::Create { config, .. } => object.add("request", &Create { config })?,
        Action::Stop { options, .. } => {
            object.add("force", &options.force)?;
            object.add_some("timeout", options.timeout.map(duration::format).as_ref())?;
        }
        Action::Update {
            labels,
            annotations,
            ..
        } => {
            object.add_some("labels", labels.as_ref())?;
            object.add_some("annotations", annotations.as_ref())?;
        }
        Action::List {
            filters,
            limit,
            page,
        } => {
            object.add_some("filters", Some(filters).filter(|list| !list.is_empty()))?;
            object.add_some("limit", Some(limit).filter(|limit| **limit > 0))?;
            object.add_some("page", page.as_ref())?;
        }
        Action::Metrics { window, .. } => object.add("duration", &duration::format(*window))?,
        Action::ConsoleWrite { data, writer, .. } => {
            object.add("data", &base64::encode(data))?;
            object.add_some("writer", writer.as_ref())?;
        }
        Action::Migrate {
            target_node,
            options,
            ..
        }
        | Action::PlanMigration {
            target_node,
            options,
            ..
        } => {
            object.add("target_node", target_node)?;
            object.add("options", options)?;
        }
        Action::MigrationStatus { migration_id } | Action::CancelMigration { migration_id } => {
            object.add("migration_id", migration_id)?;
        }
        Action::ResolveMigration {
            migration_id,
            force,
        } => {
            object.add("migration_id", migration_id)?;
            object.add("force", force)?;
        }
        Action::Snapshot { name, options, .. } => {
            object.add("name", name)?;
            object.add("options", options)?;
        }
        Action::RestoreSnapshot { snapshot_id, .. } | Action::DeleteSnapshot { snapshot_id } => {
            object.add("snapshot_id", snapshot_id)?;
        }
        Action::ImportImage { path, name } => {
            object.add("path", path)?;
            object.add_some("name", name.as_ref())?;
        }
        Action::RemoveImage { name } => object.add("name", name)?,
        Action::Start { .. }
        | Action::Destroy { .. }
        | Action::Pause { .. }
        | Action::Resume { .. }
        | Action::Reset { .. }
        | Action::Get { .. }
        | Action::GuestReport { .. }
        | Action::Verify { .. }
        | Action::ListMigrations
        | Action::ListSnapshots { .. }
        | Action::ListImages
        | Action::Health
        | Action::Node => {}
    }
    object.add_some("key", action.key().as_ref())
}

/// Writes a request for a stream.
pub(super) fn subscribe(
    subscription: &Subscription,
    credit: u32,
    deadline: Option<Duration>,
) -> Result<(FrameType, Vec<u8>)> {
    let payload = object(subscription.name(), |object| {
        if let Some(vm_id) = subscription.vm_id() {
            object.add("vm_id", vm_id)?;
        }
        match subscription {
            Subscription::Watch {
                filters,
                since,
                store,
                ..
            } => {
                object.add_some("filters", Some(filters).filter(|list| !list.is_empty()))?;
                object.add_some("since", since.as_ref())?;
                object.add_some("store", store.as_ref())?;
            }
            Subscription::Metrics { interval, .. } => {
                object.add("interval", &duration::format(*interval))?;
            }
            Subscription::MigrationProgress { migration_id } => {
                object.add("migration_id", migration_id)?;
            }
            Subscription::Console { writer, .. } => {
                object.add_some("writer", writer.as_ref())?;
            }
        }
        object.add("credit", &credit)?;
        object.add_deadline(deadline)
    })?;
    Ok((FrameType::Stream, payload))
}
