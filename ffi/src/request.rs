//! What a node can be asked: one constructor for each method of the API.

use std::ffi::c_char;
use std::time::Duration;

use bytes::Bytes;
use dwcp::model::duration;
use dwcp::{Action, Subscription};
use dwcp_bindings_support::{Failure, Result, task};
use serde_json::{Map, Value};

use crate::args::{dwcp_bytes, optional_text, text};
use crate::document::dwcp_document;
use crate::give::quietly;

/// A request that has not been sent. `dwcp_client_call()` and its like take it, whatever comes of it, and
/// free it; one that is not used is freed with `dwcp_request_free()`.
///
/// The functions that make one return NULL only where there is no memory: what is wrong with an argument
/// is the error of the call. Documents are read, not taken. One thread at a time.
pub struct dwcp_request(Result<Asked>);

/// What is asked.
pub(crate) enum Asked {
    Call(Action),
    Subscribe(Subscription),
}

type Made = Option<Box<dwcp_request>>;

impl dwcp_request {
    /// The request for an answer.
    pub(crate) fn action(self) -> Result<Action> {
        match self.0? {
            Asked::Call(action) => Ok(action),
            Asked::Subscribe(subscription) => Err(Failure::argument(format!(
                "request: {} is a stream: use dwcp_client_subscribe",
                subscription.name()
            ))),
        }
    }

    /// The request for a stream.
    pub(crate) fn subscription(self) -> Result<Subscription> {
        match self.0? {
            Asked::Subscribe(subscription) => Ok(subscription),
            Asked::Call(action) => Err(Failure::argument(format!(
                "request: {} is no stream: use dwcp_client_call",
                action.name()
            ))),
        }
    }
}

fn made(ask: impl FnOnce() -> Result<Asked>) -> Made {
    quietly(None, || Some(Box::new(dwcp_request(task::guard(ask)))))
}

/// The fields of a request, as the protocol has them.
struct Fields(Map<String, Value>);

impl Fields {
    fn new() -> Fields {
        Fields(Map::new())
    }

    fn text(mut self, name: &str, value: *const c_char) -> Result<Fields> {
        self.0.insert(name.into(), text(value, name)?.into());
        Ok(self)
    }

    fn optional_text(mut self, name: &str, value: *const c_char) -> Result<Fields> {
        if let Some(value) = optional_text(value, name)? {
            self.0.insert(name.into(), value.into());
        }
        Ok(self)
    }

    fn flag(mut self, name: &str, value: bool) -> Fields {
        self.0.insert(name.into(), value.into());
        self
    }

    /// A time in milliseconds, where it is not 0.
    fn millis(mut self, name: &str, millis: u64) -> Fields {
        if millis > 0 {
            let time = duration::format(Duration::from_millis(millis));
            self.0.insert(name.into(), time.into());
        }
        self
    }

    /// A document, or NULL for one without fields.
    fn document(mut self, name: &str, document: Option<&dwcp_document>) -> Result<Fields> {
        if let Some(document) = document {
            self.0.insert(name.into(), document.json()?);
        }
        Ok(self)
    }

    fn call(self, method: &str) -> Result<Asked> {
        let fields = Value::Object(self.0).to_string();
        Ok(Asked::Call(Action::from_json(method, fields.as_bytes())?))
    }

    fn subscribe(self, method: &str) -> Result<Asked> {
        let fields = Value::Object(self.0).to_string();
        let subscription = Subscription::from_json(method, fields.as_bytes())?;
        Ok(Asked::Subscribe(subscription))
    }
}

/// Declares the constructors that take no more than the id of what they are about.
macro_rules! about {
    ($( $(#[$doc:meta])* $name:ident => $way:ident $method:literal, $field:literal; )+) => {
        $( $(#[$doc])*
        fn $name(id: *const c_char) -> Result<Asked> {
            Fields::new().text($field, id)?.$way($method)
        } )+
    };
}

about! {
    start => call "start", "vm_id";
    destroy => call "destroy", "vm_id";
    pause => call "pause", "vm_id";
    resume => call "resume", "vm_id";
    reset => call "reset", "vm_id";
    get => call "get", "vm_id";
    guest_report => call "guest_report", "vm_id";
    verify => call "verify", "vm_id";
    list_snapshots => call "list_snapshots", "vm_id";
    get_migration_status => call "get_migration_status", "migration_id";
    cancel_migration => call "cancel_migration", "migration_id";
    delete_snapshot => call "delete_snapshot", "snapshot_id";
    remove_image => call "remove_image", "name";
    watch => subscribe "watch", "vm_id";
    console => subscribe "console", "vm_id";
    migration_progress => subscribe "migration_progress", "migration_id";
}

/// Any method by its name, with its fields as a JSON object: what the constructors below do, for layers
/// over this one.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_new(
    method: *const c_char,
    fields: dwcp_bytes,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = fields.get("fields")?;
        Ok(Asked::Call(Action::from_json(
            text(method, "method")?,
            fields,
        )?))
    })
}

/// The same for a stream.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_new_stream(
    method: *const c_char,
    fields: dwcp_bytes,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let subscription = Subscription::from_json(text(method, "method")?, fields.get("fields")?);
        Ok(Asked::Subscribe(subscription?))
    })
}

/// Frees it; NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_free(request: Option<Box<dwcp_request>>) {
    quietly((), || drop(request));
}

/// Makes a VM of `config` (a `VMConfig`), stopped. The same `key`, unless NULL, gives the same VM for ten
/// minutes. Gives the VM.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_create(
    config: Option<&dwcp_document>,
    key: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let config = Fields::new().document("config", config)?;
        let mut fields = Fields::new().optional_text("key", key)?;
        fields.0.insert("request".into(), Value::Object(config.0));
        fields.call("create")
    })
}

/// Starts a VM; done when its vCPUs run.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_start(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| start(vm_id))
}

/// Stops a VM: at once with `force`, else its guest is asked and has so long (0 for 30 s), or the call ends
/// with `DWCP_ERR_TIMEOUT` and it runs on.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_stop(
    vm_id: *const c_char,
    force: bool,
    timeout_ms: u64,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?.flag("force", force);
        fields.millis("timeout", timeout_ms).call("stop")
    })
}

/// Removes a VM that is stopped or failed, with its disks.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_destroy(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| destroy(vm_id))
}

/// Holds the vCPUs of a VM that runs.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_pause(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| pause(vm_id))
}

/// Lets them run again.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_resume(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| resume(vm_id))
}

/// Starts the guest anew at once, as a reset button does.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_reset(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| reset(vm_id))
}

/// Replaces the labels, the annotations, or both; NULL keeps them. Gives the VM.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_update(
    vm_id: *const c_char,
    labels: Option<&dwcp_document>,
    annotations: Option<&dwcp_document>,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?;
        let fields = fields.document("labels", labels)?;
        fields.document("annotations", annotations)?.call("update")
    })
}

/// What a VM is and does. Gives the VM.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_get(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| get(vm_id))
}

/// The VMs that match `filters`, pairs of text; NULL for all. Gives a list of VMs.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_list(filters: Option<&dwcp_document>) -> Option<Box<dwcp_request>> {
    made(|| Fields::new().document("filters", filters)?.call("list"))
}

/// The figures of a VM, means taken over the time before now; 0 for five minutes. Gives `VMMetrics`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_get_metrics(
    vm_id: *const c_char,
    window_ms: u64,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?;
        fields.millis("duration", window_ms).call("get_metrics")
    })
}

/// What the built-in guest says of itself.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_guest_report(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| guest_report(vm_id))
}

/// Has the built-in guest check all its memory. Gives its report.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_verify(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| verify(vm_id))
}

/// Types on the console of a VM, at most 64 KiB at once. One client types at a time: the first that does while it
/// has a stream of the console, until it has ended that; others fail with `invalid_operation`, naming it.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_console_write(
    vm_id: *const c_char,
    data: dwcp_bytes,
) -> Option<Box<dwcp_request>> {
    made(|| {
        Ok(Asked::Call(Action::ConsoleWrite {
            vm_id: text(vm_id, "vm_id")?.to_owned(),
            data: Bytes::copy_from_slice(data.get("data")?),
            writer: None,
        }))
    })
}

/// Begins to move a VM to the node of that name, as `options` (`MigrationOptions`, or NULL) say. The same
/// `key`, unless NULL, begins it once. Gives a `MigrationStatus`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_migrate(
    vm_id: *const c_char,
    target_node: *const c_char,
    options: Option<&dwcp_document>,
    key: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?;
        let fields = fields.text("target_node", target_node)?;
        let fields = fields.document("options", options)?;
        fields.optional_text("key", key)?.call("migrate")
    })
}

/// What moving a VM would be like.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_plan_migration(
    vm_id: *const c_char,
    target_node: *const c_char,
    options: Option<&dwcp_document>,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?;
        let fields = fields.text("target_node", target_node)?;
        fields.document("options", options)?.call("plan_migration")
    })
}

/// How a migration goes, or went. Gives a `MigrationStatus`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_get_migration_status(
    migration_id: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| get_migration_status(migration_id))
}

/// Ends a migration; the VM stays. Gives a `MigrationStatus`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_cancel_migration(
    migration_id: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| cancel_migration(migration_id))
}

/// The migrations that the node knows of. Gives a list of `MigrationStatus`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_list_migrations() -> Option<Box<dwcp_request>> {
    made(|| Fields::new().call("list_migrations"))
}

/// Finds out who has the VM of a migration that lost its peer; with `force` takes it although the peer does
/// not answer. Gives a `MigrationStatus`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_resolve_migration(
    migration_id: *const c_char,
    force: bool,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("migration_id", migration_id)?;
        fields.flag("force", force).call("resolve_migration")
    })
}

/// Takes a snapshot, as `options` (`SnapshotOptions`, or NULL) say. Gives the `Snapshot`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_snapshot(
    vm_id: *const c_char,
    name: *const c_char,
    options: Option<&dwcp_document>,
    key: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?.text("name", name)?;
        let fields = fields.document("options", options)?;
        fields.optional_text("key", key)?.call("snapshot")
    })
}

/// The snapshots of a VM, oldest first. Gives a list of `Snapshot`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_list_snapshots(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| list_snapshots(vm_id))
}

/// Makes a VM what it was when the snapshot was taken.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_restore_snapshot(
    vm_id: *const c_char,
    snapshot_id: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?;
        fields
            .text("snapshot_id", snapshot_id)?
            .call("restore_snapshot")
    })
}

/// Removes a snapshot.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_delete_snapshot(
    snapshot_id: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| delete_snapshot(snapshot_id))
}

/// Brings the image in a folder of the node's own host into its store, under `name`, or with NULL under the
/// name that its `image.toml` gives it. Needs the role admin. Gives the `Image`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_import_image(
    path: *const c_char,
    name: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("path", path)?;
        fields.optional_text("name", name)?.call("import_image")
    })
}

/// The images in the node's store, by name; the built-in guest is not among them. Gives a list of `Image`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_list_images() -> Option<Box<dwcp_request>> {
    made(|| Fields::new().call("list_images"))
}

/// Removes an image that no VM names from the node's store. Needs the role admin.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_remove_image(name: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| remove_image(name))
}

/// Whether the node can be relied on. Gives a `Health`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_health() -> Option<Box<dwcp_request>> {
    made(|| Fields::new().call("health"))
}

/// What the node is. Gives a `NodeInfo`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_node() -> Option<Box<dwcp_request>> {
    made(|| Fields::new().call("node"))
}

/// A stream of what happens to a VM: its present state first. Gives `VMEvent`s.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_watch(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| watch(vm_id))
}

/// The same of all VMs that match `filters`; NULL for all.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_watch_all(
    filters: Option<&dwcp_document>,
) -> Option<Box<dwcp_request>> {
    made(|| {
        Fields::new()
            .document("filters", filters)?
            .subscribe("watch")
    })
}

/// A stream of the figures of a VM; 0 for every second. Gives `VMMetrics`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_stream_metrics(
    vm_id: *const c_char,
    interval_ms: u64,
) -> Option<Box<dwcp_request>> {
    made(|| {
        let fields = Fields::new().text("vm_id", vm_id)?;
        fields
            .millis("interval", interval_ms)
            .subscribe("stream_metrics")
    })
}

/// A stream of how a migration goes, until it ends. Gives `MigrationStatus`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_migration_progress(
    migration_id: *const c_char,
) -> Option<Box<dwcp_request>> {
    made(|| migration_progress(migration_id))
}

/// A stream of what a VM prints on its console: bytes.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_request_console(vm_id: *const c_char) -> Option<Box<dwcp_request>> {
    made(|| console(vm_id))
}
