//! Everything a node can be asked.
//!
//! [`Action`] is answered by one [`Outcome`], [`Subscription`] by a stream of [`Item`]s. Clients,
//! the wire, the C ABI and whatever comes later translate into these and nothing else, so that a
//! rule about who may do what, and when, stands in one place.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use crate::model::limits::{CONSOLE_WRITE_MAX, IMAGE_PATH_LEN_MAX, LIST_LIMIT_MAX, PAGE_LEN_MAX};
use crate::model::names::words;
use crate::model::validate;
use crate::model::{
    Filters, GuestReport, Health, Image, MigrationOptions, MigrationPlan, MigrationStatus,
    NodeInfo, Snapshot, SnapshotOptions, StopOptions, VM, VMConfig, VMEvent, VMMetrics, VMState,
};

words! {
    /// What a credential allows.
    ///
    /// `Admin` may what `Operator` may, and that what `Viewer` may. `Node` stands apart: it is for
    /// peers, serves the node-to-node operations of a migration only, and no action here.
    pub enum Role as "role" {
        /// Reads and watches.
        Viewer = "viewer",
        /// Also lives the lifecycle of VMs, migrates, takes snapshots.
        Operator = "operator",
        /// Also manages keys and the node, and decides what nobody else can.
        Admin = "admin",
        /// A peer, during a migration.
        Node = "node",
    }
}

impl Role {
    /// Whether a credential with this role may do what requires `required`.
    #[must_use]
    pub const fn allows(self, required: Role) -> bool {
        match (self, required) {
            (Role::Node, Role::Node) => true,
            (Role::Node, _) | (_, Role::Node) => false,
            (Role::Admin, _) | (_, Role::Viewer) | (Role::Operator, Role::Operator) => true,
            _ => false,
        }
    }
}

/// One request to a node. Answered by one [`Outcome`].
///
/// `key` is an idempotency key: the same key with the same content, within ten minutes, gives the
/// first answer again. "Legal in" names the states of the VM; in any other the answer is
/// `invalid_operation`, and for an unknown VM `vm_not_found`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Make a VM, durable and stopped. Always legal; operator. [`Outcome::VM`].
    Create {
        /// What it is asked to be.
        config: Box<VMConfig>,
        /// Idempotency key.
        key: Option<String>,
    },
    /// Run its vCPUs. Legal in stopped, failed; operator. [`Outcome::Done`] when they run.
    Start {
        /// The VM.
        vm_id: String,
    },
    /// Stop it. Legal in starting, running, stopping, paused, and in migrating, which it cancels;
    /// operator. [`Outcome::Done`] when it is stopped; a guest that does not stop in time is
    /// `timeout`, and it runs on.
    Stop {
        /// The VM.
        vm_id: String,
        /// How.
        options: StopOptions,
    },
    /// Remove it and its disks. Legal in stopped, failed; operator. [`Outcome::Done`] when it is
    /// gone. An offline migration is cancelled first.
    Destroy {
        /// The VM.
        vm_id: String,
    },
    /// Hold its vCPUs. Legal in running; operator. [`Outcome::Done`] when none is in the guest.
    Pause {
        /// The VM.
        vm_id: String,
    },
    /// Let its vCPUs run again. Legal in paused; operator. [`Outcome::Done`].
    Resume {
        /// The VM.
        vm_id: String,
    },
    /// Start it anew at once, as a reset button does. Legal in running, paused, and in migrating,
    /// which it cancels; operator. [`Outcome::Done`].
    Reset {
        /// The VM.
        vm_id: String,
    },
    /// Replace its labels or annotations. Legal in every state but creating, migrating and
    /// unknown; operator. [`Outcome::VM`].
    Update {
        /// The VM.
        vm_id: String,
        /// The new labels, or `None` to keep them.
        labels: Option<BTreeMap<String, String>>,
        /// The new annotations, or `None` to keep them.
        annotations: Option<BTreeMap<String, String>>,
    },
    /// What a VM is and does. Always legal; viewer. [`Outcome::VM`].
    Get {
        /// The VM.
        vm_id: String,
    },
    /// The VMs that match, oldest first. Always legal; viewer. [`Outcome::VMs`], or with a `limit`
    /// [`Outcome::Page`].
    List {
        /// Which.
        filters: Filters,
        /// Most VMs in the answer, up to [`LIST_LIMIT_MAX`]; 0 for all of them.
        limit: u32,
        /// `next` of the page before, `None` for the first one. Only with a `limit`.
        page: Option<String>,
    },
    /// Its figures. Legal in running, paused, migrating; viewer. [`Outcome::Metrics`].
    Metrics {
        /// The VM.
        vm_id: String,
        /// The time before now over which means are taken.
        window: Duration,
    },
    /// What the built-in guest says of itself. Legal in running, paused and migrating; viewer.
    /// [`Outcome::Guest`]; another image is `unsupported`.
    GuestReport {
        /// The VM.
        vm_id: String,
    },
    /// Have the built-in guest check its memory now. Legal in running and migrating; operator,
    /// because it makes the guest work. [`Outcome::Guest`] when the check has ended; another image
    /// is `unsupported`.
    Verify {
        /// The VM.
        vm_id: String,
    },
    /// Move it to another node. Legal in running, paused, and with `offline` in stopped; operator.
    /// [`Outcome::Migration`] when it is accepted. A second one is refused and names the first.
    Migrate {
        /// The VM.
        vm_id: String,
        /// Name of the node to move it to.
        target_node: String,
        /// How.
        options: MigrationOptions,
        /// Idempotency key.
        key: Option<String>,
    },
    /// How a migration goes. Always legal; viewer. [`Outcome::Migration`].
    MigrationStatus {
        /// The migration.
        migration_id: String,
    },
    /// End a migration; the VM stays. Legal until the switch; operator. [`Outcome::Migration`].
    CancelMigration {
        /// The migration.
        migration_id: String,
    },
    /// The migrations this node knows of. Always legal; viewer. [`Outcome::Migrations`].
    ListMigrations,
    /// What a migration would be like. Legal where [`Action::Migrate`] is; operator, because it
    /// measures the guest and asks the target. [`Outcome::Plan`].
    PlanMigration {
        /// The VM.
        vm_id: String,
        /// Name of the node it would move to.
        target_node: String,
        /// How it would be done.
        options: MigrationOptions,
    },
    /// Find out, or decide, who has the VM of a migration that lost its peer. Operator; with
    /// `force` admin, for only a person can know that the peer is dead. [`Outcome::Migration`].
    ResolveMigration {
        /// The migration.
        migration_id: String,
        /// Take the VM although the peer does not answer. Refused while it does.
        force: bool,
    },
    /// Take a snapshot. Legal in running, paused, stopped; operator. [`Outcome::Snapshot`] when it
    /// is complete.
    Snapshot {
        /// The VM.
        vm_id: String,
        /// Name of the snapshot.
        name: String,
        /// How.
        options: SnapshotOptions,
        /// Idempotency key.
        key: Option<String>,
    },
    /// The snapshots of a VM, oldest first. Always legal; viewer. [`Outcome::Snapshots`].
    ListSnapshots {
        /// The VM.
        vm_id: String,
    },
    /// Make a VM what it was, in the state it had. Legal in running, paused, stopped, failed;
    /// operator. [`Outcome::Done`].
    RestoreSnapshot {
        /// The VM.
        vm_id: String,
        /// The snapshot.
        snapshot_id: String,
    },
    /// Remove a snapshot. Legal while none builds on it; operator. [`Outcome::Done`].
    DeleteSnapshot {
        /// The snapshot.
        snapshot_id: String,
    },
    /// Type on its console. Legal in running, paused, migrating, and while nobody else has its
    /// keyboard ([`Subscription::Console`]); operator. [`Outcome::Done`] when the bytes are queued.
    ConsoleWrite {
        /// The VM.
        vm_id: String,
        /// The bytes.
        data: Bytes,
        /// Who types. `None`: whoever the [`Client`](crate::Client) is.
        writer: Option<String>,
    },
    /// Bring an image into the node's store, from a folder of the node's host with an `image.toml`.
    /// Admin, for it reads files there. [`Outcome::Image`] when it is durable. A name that is taken
    /// is `already_exists`, unless it is by the same image.
    ImportImage {
        /// The folder.
        path: String,
        /// What it is to be called, or `None` for the name in its `image.toml`.
        name: Option<String>,
    },
    /// The images in the node's store, by name. Always legal; viewer. [`Outcome::Images`].
    ListImages,
    /// Remove an image. Legal while no VM of the node names it; admin. [`Outcome::Done`].
    RemoveImage {
        /// The image.
        name: String,
    },
    /// Whether the node can be relied on. Always legal; viewer. [`Outcome::Health`].
    Health,
    /// What the node is. Always legal; viewer. [`Outcome::Node`].
    Node,
}

impl Action {
    /// Its name in logs and errors, as the methods of the clients are called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Action::Create { .. } => "create",
            Action::Start { .. } => "start",
            Action::Stop { .. } => "stop",
            Action::Destroy { .. } => "destroy",
            Action::Pause { .. } => "pause",
            Action::Resume { .. } => "resume",
            Action::Reset { .. } => "reset",
            Action::Update { .. } => "update",
            Action::Get { .. } => "get",
            Action::List { .. } => "list",
            Action::Metrics { .. } => "get_metrics",
            Action::GuestReport { .. } => "guest_report",
            Action::Verify { .. } => "verify",
            Action::Migrate { .. } => "migrate",
            Action::MigrationStatus { .. } => "get_migration_status",
            Action::CancelMigration { .. } => "cancel_migration",
            Action::ListMigrations => "list_migrations",
            Action::PlanMigration { .. } => "plan_migration",
            Action::ResolveMigration { .. } => "resolve_migration",
            Action::Snapshot { .. } => "snapshot",
            Action::ListSnapshots { .. } => "list_snapshots",
            Action::RestoreSnapshot { .. } => "restore_snapshot",
            Action::DeleteSnapshot { .. } => "delete_snapshot",
            Action::ConsoleWrite { .. } => "console",
            Action::ImportImage { .. } => "import_image",
            Action::ListImages => "list_images",
            Action::RemoveImage { .. } => "remove_image",
            Action::Health => "health",
            Action::Node => "node",
        }
    }

    /// The VM it is about, where it names one.
    #[must_use]
    pub fn vm_id(&self) -> Option<&str> {
        match self {
            Action::Start { vm_id }
            | Action::Stop { vm_id, .. }
            | Action::Destroy { vm_id }
            | Action::Pause { vm_id }
            | Action::Resume { vm_id }
            | Action::Reset { vm_id }
            | Action::Update { vm_id, .. }
            | Action::Get { vm_id }
            | Action::Metrics { vm_id, .. }
            | Action::GuestReport { vm_id }
            | Action::Verify { vm_id }
            | Action::Migrate { vm_id, .. }
            | Action::PlanMigration { vm_id, .. }
            | Action::Snapshot { vm_id, .. }
            | Action::ListSnapshots { vm_id }
            | Action::RestoreSnapshot { vm_id, .. }
            | Action::ConsoleWrite { vm_id, .. } => Some(vm_id),
            Action::Create { .. }
            | Action::List { .. }
            | Action::MigrationStatus { .. }
            | Action::CancelMigration { .. }
            | Action::ListMigrations
            | Action::ResolveMigration { .. }
            | Action::DeleteSnapshot { .. }
            | Action::ImportImage { .. }
            | Action::ListImages
            | Action::RemoveImage { .. }
            | Action::Health
            | Action::Node => None,
        }
    }

    /// Its idempotency key, where it carries one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Action::Create { key, .. }
            | Action::Migrate { key, .. }
            | Action::Snapshot { key, .. } => key.as_deref(),
            _ => None,
        }
    }

    /// The least role that may ask for it.
    #[must_use]
    pub const fn required_role(&self) -> Role {
        match self {
            Action::Get { .. }
            | Action::List { .. }
            | Action::Metrics { .. }
            | Action::GuestReport { .. }
            | Action::MigrationStatus { .. }
            | Action::ListMigrations
            | Action::ListSnapshots { .. }
            | Action::ListImages
            | Action::Health
            | Action::Node => Role::Viewer,
            Action::ResolveMigration { force: true, .. }
            | Action::ImportImage { .. }
            | Action::RemoveImage { .. } => Role::Admin,
            Action::Create { .. }
            | Action::Start { .. }
            | Action::Stop { .. }
            | Action::Destroy { .. }
            | Action::Pause { .. }
            | Action::Resume { .. }
            | Action::Reset { .. }
            | Action::Update { .. }
            | Action::Verify { .. }
            | Action::Migrate { .. }
            | Action::CancelMigration { .. }
            | Action::PlanMigration { .. }
            | Action::ResolveMigration { .. }
            | Action::Snapshot { .. }
            | Action::RestoreSnapshot { .. }
            | Action::DeleteSnapshot { .. }
            | Action::ConsoleWrite { .. } => Role::Operator,
        }
    }

    /// Checks all that the caller wrote, before anything is looked up or done.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config) for the first field with a value that is
    /// never allowed; the text starts with the field's name.
    pub fn validate(&self) -> Result<()> {
        if let Some(vm_id) = self.vm_id() {
            validate::id("vm_id", vm_id)?;
        }
        if let Some(key) = self.key() {
            validate::key(key)?;
        }
        match self {
            Action::Create { config, .. } => config.validate(),
            Action::Update {
                labels,
                annotations,
                ..
            } => {
                labels
                    .as_ref()
                    .map_or(Ok(()), |labels| validate::labels("labels", labels))?;
                annotations.as_ref().map_or(Ok(()), |annotations| {
                    validate::annotations("annotations", annotations)
                })
            }
            Action::List {
                filters,
                limit,
                page,
            } => {
                validate::filters(filters)?;
                validate::at_most("limit", u64::from(*limit), u64::from(LIST_LIMIT_MAX))?;
                match page {
                    Some(_) if *limit == 0 => validate::wrong("page", "needs a limit"),
                    Some(page) => validate::text("page", page, PAGE_LEN_MAX),
                    None => Ok(()),
                }
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
                validate::name("target_node", target_node)?;
                options.validate()
            }
            Action::MigrationStatus { migration_id }
            | Action::CancelMigration { migration_id }
            | Action::ResolveMigration { migration_id, .. } => {
                validate::id("migration_id", migration_id)
            }
            Action::Snapshot { name, options, .. } => {
                validate::name("name", name)?;
                options.validate()
            }
            Action::RestoreSnapshot { snapshot_id, .. }
            | Action::DeleteSnapshot { snapshot_id } => validate::id("snapshot_id", snapshot_id),
            Action::ImportImage { path, name } => {
                if path.is_empty() {
                    return validate::wrong("path", "must not be empty");
                }
                validate::text("path", path, IMAGE_PATH_LEN_MAX)?;
                name.as_ref()
                    .map_or(Ok(()), |name| validate::name("name", name))
            }
            Action::RemoveImage { name } => validate::name("name", name),
            Action::ConsoleWrite { data, .. } if data.len() > CONSOLE_WRITE_MAX => {
                validate::too_long("data", CONSOLE_WRITE_MAX)
            }
            Action::ConsoleWrite { writer, .. } => validate::writer(writer.as_deref()),
            _ => Ok(()),
        }
    }

    /// Whether it changes nothing, so that it can be repeated when the answer was lost.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        matches!(self.required_role(), Role::Viewer) || matches!(self, Action::PlanMigration { .. })
    }

    /// The states of the VM in which it is legal, or `None` where the state does not matter or
    /// something else than a state decides.
    ///
    /// Where `migrating` is among them for stop, destroy and reset, the migration is cancelled
    /// first, and the state that follows has to be legal too.
    #[must_use]
    pub const fn legal_states(&self) -> Option<&'static [VMState]> {
        use VMState::{Failed, Migrating, Paused, Running, Starting, Stopped, Stopping};
        Some(match self {
            Action::Start { .. } => &[Stopped, Failed],
            Action::Stop { .. } => &[Starting, Running, Stopping, Paused, Migrating],
            Action::Destroy { .. } => &[Stopped, Failed, Migrating],
            Action::Pause { .. } => &[Running],
            Action::Resume { .. } => &[Paused],
            Action::Reset { .. } => &[Running, Paused, Migrating],
            Action::Update { .. } => &[Starting, Running, Stopping, Stopped, Paused, Failed],
            Action::Metrics { .. } | Action::GuestReport { .. } | Action::ConsoleWrite { .. } => {
                &[Running, Paused, Migrating]
            }
            Action::Verify { .. } => &[Running, Migrating],
            Action::Migrate { options, .. } | Action::PlanMigration { options, .. } => {
                if options.offline {
                    &[Running, Paused, Stopped]
                } else {
                    &[Running, Paused]
                }
            }
            Action::Snapshot { .. } => &[Running, Paused, Stopped],
            Action::RestoreSnapshot { .. } => &[Running, Paused, Stopped, Failed],
            _ => return None,
        })
    }
}

/// The answer to an [`Action`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is done, and there is nothing to say about it.
    Done,
    /// A VM.
    VM(Box<VM>),
    /// VMs.
    VMs(Vec<VM>),
    /// A part of a list of VMs.
    Page {
        /// The VMs.
        vms: Vec<VM>,
        /// What to ask for the next part with; `None` after the last one.
        next: Option<String>,
    },
    /// Figures of a VM.
    Metrics(Box<VMMetrics>),
    /// The report of the built-in guest.
    Guest(Box<GuestReport>),
    /// A migration.
    Migration(Box<MigrationStatus>),
    /// Migrations.
    Migrations(Vec<MigrationStatus>),
    /// What a migration would be like.
    Plan(Box<MigrationPlan>),
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// Snapshots.
    Snapshots(Vec<Snapshot>),
    /// An image.
    Image(Box<Image>),
    /// Images.
    Images(Vec<Image>),
    /// Whether the node can be relied on.
    Health(Box<Health>),
    /// What the node is.
    Node(Box<NodeInfo>),
}

/// A request for a stream of [`Item`]s. Every one requires the role viewer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Subscription {
    /// What happens to VMs, after their present state. [`Item::Event`].
    Watch {
        /// The VM, or `None` for all that match.
        vm_id: Option<String>,
        /// Which VMs.
        filters: Filters,
        /// `seq` of the last event that is known, to go on after it.
        since: Option<u64>,
        /// UUID of the store that `since` is of; `None` for whatever store the node has.
        store: Option<String>,
    },
    /// Figures of a VM. [`Item::Metrics`].
    Metrics {
        /// The VM.
        vm_id: String,
        /// The time between two items.
        interval: Duration,
    },
    /// How a migration goes, until it ends. [`Item::Migration`].
    MigrationProgress {
        /// The migration.
        migration_id: String,
    },
    /// What a VM prints on its console. [`Item::Console`].
    ///
    /// Any number may read. One types at a time: whoever has the console open and types first, until it has
    /// closed it.
    Console {
        /// The VM.
        vm_id: String,
        /// Who may type meanwhile. `None`: whoever the [`Client`](crate::Client) is.
        writer: Option<String>,
    },
}

impl Subscription {
    /// Checks all that the caller wrote.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config), starting with the field's name.
    pub fn validate(&self) -> Result<()> {
        if let Some(vm_id) = self.vm_id() {
            validate::id("vm_id", vm_id)?;
        }
        match self {
            Subscription::Watch { filters, store, .. } => {
                validate::filters(filters)?;
                store
                    .as_ref()
                    .map_or(Ok(()), |store| validate::id("store", store))
            }
            Subscription::Metrics { interval, .. } => validate::interval(*interval),
            Subscription::MigrationProgress { migration_id } => {
                validate::id("migration_id", migration_id)
            }
            Subscription::Console { writer, .. } => validate::writer(writer.as_deref()),
        }
    }

    /// Its name on the wire, in logs and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Subscription::Watch { .. } => "watch",
            Subscription::Metrics { .. } => "stream_metrics",
            Subscription::MigrationProgress { .. } => "migration_progress",
            Subscription::Console { .. } => "console",
        }
    }

    /// The VM it is about, where it names one.
    #[must_use]
    pub fn vm_id(&self) -> Option<&str> {
        match self {
            Subscription::Watch { vm_id, .. } => vm_id.as_deref(),
            Subscription::Metrics { vm_id, .. } | Subscription::Console { vm_id, .. } => {
                Some(vm_id)
            }
            Subscription::MigrationProgress { .. } => None,
        }
    }

    /// The least role that may ask for it.
    #[must_use]
    pub const fn required_role(&self) -> Role {
        match self {
            Subscription::Watch { .. }
            | Subscription::Metrics { .. }
            | Subscription::MigrationProgress { .. }
            | Subscription::Console { .. } => Role::Viewer,
        }
    }
}

/// One item of a [`Subscription`]'s stream.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// Something happened to a VM.
    Event(Box<VMEvent>),
    /// Figures of a VM.
    Metrics(Box<VMMetrics>),
    /// How a migration goes.
    Migration(Box<MigrationStatus>),
    /// Bytes a VM printed.
    Console(Bytes),
}

#[cfg(test)]
mod tests;
