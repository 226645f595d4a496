//! The operations on VMs, one method each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Client;
use super::streams::{Console, Events, MetricsStream, MigrationProgress};
use crate::action::{Action, Outcome, Subscription};
use crate::error::Result;
use crate::model::{
    Filters, GuestReport, Image, MigrationOptions, MigrationPlan, MigrationStatus, Snapshot,
    SnapshotOptions, StopOptions, VM, VMConfig, VMMetrics,
};

/// The operations on a node's VMs. Cheap to clone.
///
/// Every method fails with [`DWCPError::VMNotFound`](crate::DWCPError::VMNotFound) for a VM the node
/// does not have, with [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation), naming
/// the state and those in which it is legal, where the VM is in another, and with
/// [`DWCPError::Unavailable`](crate::DWCPError::Unavailable) when the node is shut down or the VM has
/// moved to another. What else can happen is said at each method.
///
/// Dropping the future of a call that changes something does not undo it: what was begun ends.
#[derive(Debug, Clone)]
pub struct VMClient {
    client: Client,
}

/// Asks, and takes the outcome that is asked for out of the answer.
macro_rules! ask {
    ($self:ident, $action:expr, $variant:ident) => {
        match $self.client.call($action).await? {
            Outcome::$variant(value) => Ok(*value),
            other => Err($self.client.unexpected(&other)),
        }
    };
    ($self:ident, $action:expr, list $variant:ident) => {
        match $self.client.call($action).await? {
            Outcome::$variant(values) => Ok(values),
            other => Err($self.client.unexpected(&other)),
        }
    };
    ($self:ident, $action:expr) => {
        match $self.client.call($action).await? {
            Outcome::Done => Ok(()),
            other => Err($self.client.unexpected(&other)),
        }
    };
}

impl VMClient {
    pub(super) fn new(client: Client) -> VMClient {
        VMClient { client }
    }

    /// Makes a VM. It is stopped, and takes no memory of the host until it is started.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config) naming a field with a value that is never
    /// allowed, [`DWCPError::Unsupported`](crate::DWCPError::Unsupported) naming fields that ask for
    /// what the node cannot do, [`DWCPError::ResourceLimit`](crate::DWCPError::ResourceLimit) naming
    /// a limit of the node.
    pub async fn create(&self, config: VMConfig) -> Result<VM> {
        self.make(config, None).await
    }

    /// Like [`create`](VMClient::create), with an idempotency key: for ten minutes, the same key with
    /// the same config gives the same VM again, so that a repeated call makes no second one.
    ///
    /// # Errors
    ///
    /// As there, and [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation) for a key
    /// that came with another config.
    pub async fn create_with_key(&self, config: VMConfig, key: impl Into<String>) -> Result<VM> {
        self.make(config, Some(key.into())).await
    }

    async fn make(&self, config: VMConfig, key: Option<String>) -> Result<VM> {
        let config = Box::new(config);
        ask!(self, Action::Create { config, key }, VM)
    }

    /// Starts a VM; returns when its vCPUs run.
    ///
    /// # Errors
    ///
    /// [`DWCPError::ResourceLimit`](crate::DWCPError::ResourceLimit) naming a limit of the node or
    /// the host. The VM is stopped then, and its `reason` says why.
    pub async fn start(&self, id: &str) -> Result<()> {
        let vm_id = id.to_owned();
        ask!(self, Action::Start { vm_id })
    }

    /// Stops a VM; returns when it is stopped. Without `force` the guest is asked, and has 30 s.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Timeout`](crate::DWCPError::Timeout) when the guest did not stop in time; it
    /// runs on.
    pub async fn stop(&self, id: &str, force: bool) -> Result<()> {
        let options = if force {
            StopOptions::force()
        } else {
            StopOptions::default()
        };
        self.stop_with(id, options).await
    }

    /// Like [`stop`](VMClient::stop), with another time for the guest.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn stop_with(&self, id: &str, options: StopOptions) -> Result<()> {
        let vm_id = id.to_owned();
        ask!(self, Action::Stop { vm_id, options })
    }

    /// Removes a VM that is stopped or failed, with its disks.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn destroy(&self, id: &str) -> Result<()> {
        let vm_id = id.to_owned();
        ask!(self, Action::Destroy { vm_id })
    }

    /// Holds the vCPUs of a running VM; its memory is kept.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn pause(&self, id: &str) -> Result<()> {
        let vm_id = id.to_owned();
        ask!(self, Action::Pause { vm_id })
    }

    /// Lets the vCPUs of a paused VM run again.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn resume(&self, id: &str) -> Result<()> {
        let vm_id = id.to_owned();
        ask!(self, Action::Resume { vm_id })
    }

    /// Starts the guest anew at once, as a reset button does.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn reset(&self, id: &str) -> Result<()> {
        let vm_id = id.to_owned();
        ask!(self, Action::Reset { vm_id })
    }

    /// Replaces the labels, the annotations, or both; `None` keeps them. Annotations of the guest
    /// `dwcp/pulse` count from the next start.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config) naming a pair that is not allowed.
    pub async fn update(
        &self,
        id: &str,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
    ) -> Result<VM> {
        let action = Action::Update {
            vm_id: id.to_owned(),
            labels,
            annotations,
        };
        ask!(self, action, VM)
    }

    /// What a VM is and does.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn get(&self, id: &str) -> Result<VM> {
        let vm_id = id.to_owned();
        ask!(self, Action::Get { vm_id }, VM)
    }

    /// The VMs that match all filters, oldest first; `()` for all VMs.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config) for too many filters.
    pub async fn list(&self, filters: impl Into<Filters>) -> Result<Vec<VM>> {
        let filters = filters.into();
        let action = Action::List {
            filters,
            limit: 0,
            page: None,
        };
        ask!(self, action, list VMs)
    }

    /// Watches a VM. The first item is its present state (`event_type` is `current`), so that a loop
    /// which waits for a state ends even where the VM has it already.
    ///
    /// # Errors
    ///
    /// [`DWCPError::ResourceLimit`](crate::DWCPError::ResourceLimit) where the node has too many
    /// streams.
    pub async fn watch(&self, id: &str) -> Result<Events> {
        self.events(Some(id.to_owned()), Filters::new(), None).await
    }

    /// Watches all VMs that match, those included that are created later; an event comes when the VM
    /// matched before it or after it.
    ///
    /// # Errors
    ///
    /// As [`watch`](VMClient::watch).
    pub async fn watch_all(&self, filters: impl Into<Filters>) -> Result<Events> {
        self.events(None, filters.into(), None).await
    }

    /// Goes on watching after the event with this `seq`: a VM by its id, or with `None` all that
    /// match. Where events in between are no longer kept, the first item is of type `lost`, and the
    /// present state follows.
    ///
    /// # Errors
    ///
    /// As [`watch`](VMClient::watch).
    pub async fn watch_since(
        &self,
        id: Option<&str>,
        filters: impl Into<Filters>,
        seq: u64,
    ) -> Result<Events> {
        self.events(id.map(str::to_owned), filters.into(), Some(seq))
            .await
    }

    async fn events(
        &self,
        vm_id: Option<String>,
        filters: Filters,
        since: Option<u64>,
    ) -> Result<Events> {
        let watch = Subscription::Watch {
            vm_id,
            filters,
            since,
            store: None,
        };
        Ok(Events::new(self.client.subscribe(watch).await?))
    }

    /// The figures of a VM over the time before now, or since its start where that is less.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn get_metrics(&self, id: &str, window: Duration) -> Result<VMMetrics> {
        let vm_id = id.to_owned();
        ask!(self, Action::Metrics { vm_id, window }, Metrics)
    }

    /// The figures of a VM, each over the interval before it.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config) for an interval below 1 ms,
    /// [`DWCPError::ResourceLimit`](crate::DWCPError::ResourceLimit) where the node has too many
    /// streams.
    pub async fn stream_metrics(&self, id: &str, interval: Duration) -> Result<MetricsStream> {
        let vm_id = id.to_owned();
        let figures = Subscription::Metrics { vm_id, interval };
        Ok(MetricsStream::new(self.client.subscribe(figures).await?))
    }

    /// Begins to move a VM to another node; the status says how it goes.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Migration`](crate::DWCPError::Migration) where it cannot begin;
    /// [`DWCPError::Unsupported`](crate::DWCPError::Unsupported) where the node cannot do it.
    pub async fn migrate(
        &self,
        id: &str,
        target: &str,
        options: MigrationOptions,
    ) -> Result<MigrationStatus> {
        let action = Action::Migrate {
            vm_id: id.to_owned(),
            target_node: target.to_owned(),
            options,
            key: None,
        };
        ask!(self, action, Migration)
    }

    /// How a migration goes, or went.
    ///
    /// # Errors
    ///
    /// [`DWCPError::NotFound`](crate::DWCPError::NotFound) for a migration the node does not know.
    pub async fn get_migration_status(&self, migration_id: &str) -> Result<MigrationStatus> {
        let migration_id = migration_id.to_owned();
        ask!(self, Action::MigrationStatus { migration_id }, Migration)
    }

    /// How a migration goes, as a stream until it ends.
    ///
    /// # Errors
    ///
    /// As [`get_migration_status`](VMClient::get_migration_status).
    pub async fn migration_progress(&self, migration_id: &str) -> Result<MigrationProgress> {
        let migration_id = migration_id.to_owned();
        let progress = Subscription::MigrationProgress { migration_id };
        Ok(MigrationProgress::new(
            self.client.subscribe(progress).await?,
        ))
    }

    /// Ends a migration; the VM stays where it is.
    ///
    /// # Errors
    ///
    /// [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation) after the switch.
    pub async fn cancel_migration(&self, migration_id: &str) -> Result<MigrationStatus> {
        let migration_id = migration_id.to_owned();
        ask!(self, Action::CancelMigration { migration_id }, Migration)
    }

    /// The migrations the node knows of.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn list_migrations(&self) -> Result<Vec<MigrationStatus>> {
        ask!(self, Action::ListMigrations, list Migrations)
    }

    /// What moving a VM to that node would be like.
    ///
    /// # Errors
    ///
    /// As [`migrate`](VMClient::migrate).
    pub async fn plan_migration(
        &self,
        id: &str,
        target: &str,
        options: MigrationOptions,
    ) -> Result<MigrationPlan> {
        let action = Action::PlanMigration {
            vm_id: id.to_owned(),
            target_node: target.to_owned(),
            options,
        };
        ask!(self, action, Plan)
    }

    /// Asks the target of an unresolved migration at once who has the VM; how the migration goes, or
    /// ended, with what is known then.
    ///
    /// With `force`, which takes an admin, takes the VM back here without the target's word, under a
    /// later epoch: only for a target that is gone for good, and refused while it answers. One that runs
    /// the VM stops it as soon as it hears; until then there would be two.
    ///
    /// # Errors
    ///
    /// `invalid_operation` for a migration that is under way and has not handed the VM over, and for a
    /// force that is refused; `migration` when who answers is not the node that the VM was granted to;
    /// and those of [`get_migration_status`](VMClient::get_migration_status).
    pub async fn resolve_migration(
        &self,
        migration_id: &str,
        force: bool,
    ) -> Result<MigrationStatus> {
        let action = Action::ResolveMigration {
            migration_id: migration_id.to_owned(),
            force,
        };
        ask!(self, action, Migration)
    }

    /// Takes a snapshot of a VM; returns when it is complete. A guest that runs stands still while its
    /// memory is copied, and runs on whatever becomes of the snapshot.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Snapshot`](crate::DWCPError::Snapshot) where it cannot be written,
    /// [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation) on a node without a
    /// directory for its data, [`DWCPError::ResourceLimit`](crate::DWCPError::ResourceLimit) for a VM
    /// that has too many.
    pub async fn snapshot(
        &self,
        id: &str,
        name: &str,
        options: SnapshotOptions,
    ) -> Result<Snapshot> {
        let action = Action::Snapshot {
            vm_id: id.to_owned(),
            name: name.to_owned(),
            options,
            key: None,
        };
        ask!(self, action, Snapshot)
    }

    /// The snapshots of a VM, oldest first.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn list_snapshots(&self, id: &str) -> Result<Vec<Snapshot>> {
        let vm_id = id.to_owned();
        ask!(self, Action::ListSnapshots { vm_id }, list Snapshots)
    }

    /// Makes a VM what it was when the snapshot was taken, in the state it had then; one whose snapshot
    /// has no memory is stopped. All of the snapshot is checked before anything changes.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Snapshot`](crate::DWCPError::Snapshot) where it cannot be read, naming the file;
    /// [`DWCPError::NotFound`](crate::DWCPError::NotFound) for a snapshot the VM does not have;
    /// [`DWCPError::ResourceLimit`](crate::DWCPError::ResourceLimit) where there is no room for the
    /// memory of a VM that runs beside itself. The VM goes on as it was.
    pub async fn restore_snapshot(&self, id: &str, snapshot_id: &str) -> Result<()> {
        let action = Action::RestoreSnapshot {
            vm_id: id.to_owned(),
            snapshot_id: snapshot_id.to_owned(),
        };
        ask!(self, action)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    ///
    /// [`DWCPError::NotFound`](crate::DWCPError::NotFound) for a snapshot the node does not have,
    /// [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation) while a VM is being restored
    /// from it.
    pub async fn delete_snapshot(&self, snapshot_id: &str) -> Result<()> {
        let snapshot_id = snapshot_id.to_owned();
        ask!(self, Action::DeleteSnapshot { snapshot_id })
    }

    /// Brings an image into the node's store, from a folder of the *node's* host with an `image.toml`
    /// (see the guide to images); returns when it is durable. `name` is what it is to be called, `None`
    /// for the name it has. Needs the role admin, for it reads files there. Bringing the same image in
    /// again changes nothing.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config) naming what is wrong with it, such as a file
    /// whose checksum is another; [`DWCPError::AlreadyExists`](crate::DWCPError::AlreadyExists) where
    /// another image has the name; [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation)
    /// on a node without a directory for its data; [`DWCPError::Io`](crate::DWCPError::Io) naming a
    /// file that cannot be read or written.
    pub async fn import_image(&self, path: &str, name: Option<&str>) -> Result<Image> {
        let action = Action::ImportImage {
            path: path.to_owned(),
            name: name.map(str::to_owned),
        };
        ask!(self, action, Image)
    }

    /// The images in the node's store, by name. The built-in guest is not among them.
    ///
    /// # Errors
    ///
    /// Those of every method.
    pub async fn list_images(&self) -> Result<Vec<Image>> {
        ask!(self, Action::ListImages, list Images)
    }

    /// Removes an image from the node's store. Needs the role admin.
    ///
    /// # Errors
    ///
    /// [`DWCPError::NotFound`](crate::DWCPError::NotFound) for an image that is not there,
    /// [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation) while a VM names it.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        ask!(self, Action::RemoveImage { name })
    }

    /// What the built-in guest says of itself, without any check being made: `verified` is false.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Unsupported`](crate::DWCPError::Unsupported) for another guest.
    pub async fn guest_report(&self, id: &str) -> Result<GuestReport> {
        let vm_id = id.to_owned();
        ask!(self, Action::GuestReport { vm_id }, Guest)
    }

    /// Has the built-in guest check all its memory, and returns its report. Begins anew the measure of
    /// the longest silence between two beats.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Unsupported`](crate::DWCPError::Unsupported) for another guest,
    /// [`DWCPError::InvalidOperation`](crate::DWCPError::InvalidOperation) when the VM is stopped,
    /// paused or reset meanwhile.
    pub async fn verify(&self, id: &str) -> Result<GuestReport> {
        let vm_id = id.to_owned();
        ask!(self, Action::Verify { vm_id }, Guest)
    }

    /// The console of a VM that runs, or what the guest of one that has failed printed last.
    ///
    /// # Errors
    ///
    /// [`DWCPError::ResourceLimit`](crate::DWCPError::ResourceLimit) where the node has too many
    /// streams.
    pub async fn console(&self, id: &str) -> Result<Console> {
        let vm_id = id.to_owned();
        let items = self
            .client
            .subscribe(Subscription::Console {
                vm_id,
                writer: None,
            })
            .await?;
        Ok(Console::new(items, self.client.clone(), id))
    }
}
