//! Requests of both profiles, read.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::auth::AuthRequest;
use super::base64;
use super::fields::{Fields, wrong};
use super::{Profile, Request};
use crate::action::{Action, Subscription};
use crate::error::{DWCPError, Result};
use crate::model::names::unknown_word;
use crate::model::{Filters, MigrationOptions, SnapshotOptions, StopOptions, VMConfig};
use crate::wire::frame::FrameType;

/// The time over which figures are taken where a request names none, as the SDKs have it.
const WINDOW_DEFAULT: Duration = Duration::from_secs(300);
/// The time between two figures of a stream where a request names none, as the SDKs have it.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

/// See [`Request::decode`].
pub(super) fn request(frame_type: FrameType, payload: &[u8], profile: Profile) -> Result<Request> {
    if frame_type == FrameType::Auth {
        return AuthRequest::decode(payload).map(Request::Auth);
    }
    // Who asks only how a node is need not say more than that.
    let asks_nothing = matches!(frame_type, FrameType::Health | FrameType::Config);
    let mut fields = Fields::read(if asks_nothing && payload.is_empty() {
        b"{}"
    } else {
        payload
    })?;
    if frame_type == FrameType::Migration && is_between_nodes(&fields) {
        return Ok(Request::Peer);
    }
    let operation = operation(frame_type, &fields)?;
    if profile == Profile::Base && operation.extended {
        return Err(DWCPError::Unsupported(format!(
            "operation: {} is one of the extended profile, which AUTH has to ask for",
            operation.name
        )));
    }
    fields.value("operation");
    let deadline = fields.deadline()?;
    let request = if frame_type == FrameType::Stream {
        Request::Subscribe {
            credit: fields.number("credit")?,
            subscription: subscription(operation.name, &mut fields)?,
            deadline,
        }
    } else {
        Request::Call {
            action: action(frame_type, operation.name, profile, &mut fields)?,
            deadline,
        }
    };
    fields.end()?;
    Ok(request)
}

/// Takes the fields of an operation that has one answer.
pub(super) fn action(
    frame_type: FrameType,
    operation: &str,
    profile: Profile,
    fields: &mut Fields,
) -> Result<Action> {
    match frame_type {
        FrameType::Migration => migration(operation, fields),
        FrameType::Snapshot => snapshot(operation, fields),
        FrameType::Metrics => metrics(fields),
        FrameType::Health => Ok(Action::Health),
        FrameType::Config => config(operation, fields),
        _ => vm(operation, profile, fields),
    }
}

/// Whether it is for the migration to read: a message of a hand-over has an epoch, a bulk channel and
/// the questions that nodes ask have names.
fn is_between_nodes(fields: &Fields) -> bool {
    fields.has("epoch")
        || fields.peek("operation").is_some_and(|name| {
            ["attach", "whereabouts", "probe"]
                .iter()
                .any(|own| name == own)
        })
}

/// An operation of a type of frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    /// The number by which deployed clients ask for it, or 0.
    number: u64,
    /// Its name on the wire.
    pub(super) name: &'static str,
    /// Whether the base profile lacks it.
    extended: bool,
}

const fn base(number: u64, name: &'static str) -> Operation {
    Operation {
        number,
        name,
        extended: false,
    }
}

const fn extended(name: &'static str) -> Operation {
    Operation {
        number: 0,
        name,
        extended: true,
    }
}

const VM: &[Operation] = &[
    base(16, "create"),
    base(17, "start"),
    base(18, "stop"),
    base(19, "destroy"),
    base(20, "get"),
    base(0, "list"),
    extended("pause"),
    extended("resume"),
    extended("reset"),
    extended("update"),
    extended("guest_report"),
    extended("verify"),
    extended("console_write"),
];
const MIGRATION: &[Operation] = &[
    base(0, "migrate"),
    base(0, "status"),
    extended("cancel"),
    extended("list"),
    extended("plan"),
    extended("resolve"),
];
const SNAPSHOT: &[Operation] = &[
    base(0, "create"),
    base(0, "list"),
    base(0, "delete"),
    base(23, "restore"),
];
const METRICS: &[Operation] = &[base(0, "get")];
const HEALTH: &[Operation] = &[base(0, "check")];
const CONFIG: &[Operation] = &[
    base(0, "node"),
    base(0, "get"),
    extended("import_image"),
    extended("list_images"),
    extended("remove_image"),
];
const STREAM: &[Operation] = &[
    extended("watch"),
    extended("stream_metrics"),
    extended("migration_progress"),
    extended("console"),
];

/// The operations of a type of frame; none where it is no request.
const fn operations(frame_type: FrameType) -> &'static [Operation] {
    match frame_type {
        FrameType::Vm => VM,
        FrameType::Migration => MIGRATION,
        FrameType::Snapshot => SNAPSHOT,
        FrameType::Metrics => METRICS,
        FrameType::Health => HEALTH,
        FrameType::Config => CONFIG,
        FrameType::Stream => STREAM,
        _ => &[],
    }
}

/// What a request asks for: its `operation`, or where that is absent its shape.
///
/// # Errors
///
/// `invalid_message` where there is no such operation.
pub(super) fn operation(frame_type: FrameType, fields: &Fields) -> Result<Operation> {
    let known = operations(frame_type);
    let Some(first) = known.first() else {
        return Err(DWCPError::Protocol(format!(
            "a frame of type {frame_type:?} is no request"
        )));
    };
    let called = |name: &str| {
        known
            .iter()
            .find(|operation| operation.name == name)
            .copied()
    };
    match fields.peek("operation") {
        None => match frame_type {
            FrameType::Metrics | FrameType::Health | FrameType::Config => Ok(*first),
            _ => by_shape(frame_type, fields)
                .and_then(called)
                .ok_or_else(|| wrong("operation", "missing")),
        },
        Some(Value::String(name)) => called(name).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|operation| operation.name).collect();
            wrong("operation", unknown_word("operation", name, &names))
        }),
        Some(Value::Number(number)) => {
            let number = number.as_u64().filter(|number| *number > 0);
            // One number for two: a VM by its id, or those that match.
            if frame_type == FrameType::Vm && number == Some(20) && !fields.has("vm_id") {
                return called("list").ok_or_else(|| wrong("operation", "missing"));
            }
            let mut known = known.iter();
            known
                .find(|operation| number == Some(operation.number))
                .copied()
                .ok_or_else(|| wrong("operation", "no operation has this number"))
        }
        Some(_) => Err(wrong("operation", "must be a number or text")),
    }
}

/// The operation of a request that names none.
fn by_shape(frame_type: FrameType, fields: &Fields) -> Option<&'static str> {
    let has = |name| fields.has(name);
    match frame_type {
        FrameType::Vm if has("request") => Some("create"),
        FrameType::Vm if has("filters") => Some("list"),
        FrameType::Migration if has("target_node") => Some("migrate"),
        FrameType::Migration if has("migration_id") => Some("status"),
        FrameType::Snapshot if has("name") => Some("create"),
        _ => None,
    }
}

fn vm(operation: &str, profile: Profile, fields: &mut Fields) -> Result<Action> {
    if operation == "create" {
        let mut request = fields.object("request")?;
        let config = request
            .value("config")
            .ok_or_else(|| wrong("request.config", "missing"))?;
        request.end()?;
        return Ok(Action::Create {
            config: Box::new(VMConfig::from_value(config)?),
            key: fields.optional_text("key")?,
        });
    }
    if operation == "list" {
        let paged = profile == Profile::Extended;
        return Ok(Action::List {
            filters: fields.optional("filters")?.unwrap_or_else(Filters::new),
            limit: if paged { fields.number("limit")? } else { 0 },
            page: if paged {
                fields.optional_text("page")?
            } else {
                None
            },
        });
    }
    let vm_id = fields.text("vm_id")?;
    Ok(match operation {
        "start" => Action::Start { vm_id },
        "stop" => Action::Stop {
            vm_id,
            options: StopOptions {
                force: fields.flag("force")?,
                timeout: fields.duration("timeout")?,
            },
        },
        "destroy" => Action::Destroy { vm_id },
        "get" => Action::Get { vm_id },
        "pause" => Action::Pause { vm_id },
        "resume" => Action::Resume { vm_id },
        "reset" => Action::Reset { vm_id },
        "update" => Action::Update {
            vm_id,
            labels: fields.optional("labels")?,
            annotations: fields.optional("annotations")?,
        },
        "guest_report" => Action::GuestReport { vm_id },
        "verify" => Action::Verify { vm_id },
        "console_write" => {
            let text = fields.text("data")?;
            let data = base64::decode(&text).ok_or_else(|| wrong("data", "must be base64"))?;
            Action::ConsoleWrite {
                vm_id,
                data: Bytes::from(data),
                writer: fields.optional_text("writer")?,
            }
        }
        other => return Err(not_read(other)),
    })
}

fn metrics(fields: &mut Fields) -> Result<Action> {
    Ok(Action::Metrics {
        vm_id: fields.text("vm_id")?,
        window: fields.duration("duration")?.unwrap_or(WINDOW_DEFAULT),
    })
}

fn migration(operation: &str, fields: &mut Fields) -> Result<Action> {
    let options = |fields: &mut Fields| {
        MigrationOptions::from_value(fields.value("options").unwrap_or_default())
    };
    Ok(match operation {
        "migrate" => Action::Migrate {
            vm_id: fields.text("vm_id")?,
            target_node: fields.text("target_node")?,
            options: options(fields)?,
            key: fields.optional_text("key")?,
        },
        "plan" => Action::PlanMigration {
            vm_id: fields.text("vm_id")?,
            target_node: fields.text("target_node")?,
            options: options(fields)?,
        },
        "status" => Action::MigrationStatus {
            migration_id: fields.text("migration_id")?,
        },
        "cancel" => Action::CancelMigration {
            migration_id: fields.text("migration_id")?,
        },
        "list" => Action::ListMigrations,
        "resolve" => Action::ResolveMigration {
            migration_id: fields.text("migration_id")?,
            force: fields.flag("force")?,
        },
        other => return Err(not_read(other)),
    })
}

fn snapshot(operation: &str, fields: &mut Fields) -> Result<Action> {
    Ok(match operation {
        "create" => Action::Snapshot {
            vm_id: fields.text("vm_id")?,
            name: fields.text("name")?,
            options: SnapshotOptions::from_value(fields.value("options").unwrap_or_default())?,
            key: fields.optional_text("key")?,
        },
        "list" => Action::ListSnapshots {
            vm_id: fields.text("vm_id")?,
        },
        "delete" => Action::DeleteSnapshot {
            snapshot_id: fields.text("snapshot_id")?,
        },
        "restore" => Action::RestoreSnapshot {
            vm_id: fields.text("vm_id")?,
            snapshot_id: fields.text("snapshot_id")?,
        },
        other => return Err(not_read(other)),
    })
}

fn config(operation: &str, fields: &mut Fields) -> Result<Action> {
    Ok(match operation {
        "node" | "get" => Action::Node,
        "import_image" => Action::ImportImage {
            path: fields.text("path")?,
            name: fields.optional_text("name")?,
        },
        "list_images" => Action::ListImages,
        "remove_image" => Action::RemoveImage {
            name: fields.text("name")?,
        },
        other => return Err(not_read(other)),
    })
}

/// Takes the fields of a stream.
pub(super) fn subscription(operation: &str, fields: &mut Fields) -> Result<Subscription> {
    Ok(match operation {
        "watch" => Subscription::Watch {
            vm_id: fields.optional_text("vm_id")?,
            filters: fields.optional("filters")?.unwrap_or_else(Filters::new),
            since: fields.optional_number("since")?,
            store: fields.optional_text("store")?,
        },
        "stream_metrics" => Subscription::Metrics {
            vm_id: fields.text("vm_id")?,
            interval: fields.duration("interval")?.unwrap_or(INTERVAL_DEFAULT),
        },
        "migration_progress" => Subscription::MigrationProgress {
            migration_id: fields.text("migration_id")?,
        },
        "console" => Subscription::Console {
            vm_id: fields.text("vm_id")?,
            writer: fields.optional_text("writer")?,
        },
        other => return Err(not_read(other)),
    })
}

/// The error for a row of the table that nothing here reads; a test holds that there is none.
fn not_read(operation: &str) -> DWCPError {
    DWCPError::Internal(format!("operation: {operation} is not read"))
}

/// The names of the operations of a type of frame.
#[cfg(test)]
pub(super) fn names(frame_type: FrameType) -> impl Iterator<Item = &'static str> {
    operations(frame_type)
        .iter()
        .map(|operation| operation.name)
}
