//! Moving VMs between nodes: not built yet. Every operation says so.

use std::sync::Arc;

use super::Shared;
use super::registry::VmEntry;
use crate::action::Action;
use crate::client::ItemSink;
use crate::error::{DWCPError, Result};
use crate::model::{MigrationOptions, MigrationStatus};

fn unsupported<T>(operation: &str) -> Result<T> {
    Err(DWCPError::Unsupported(format!(
        "{operation}: migrations are not built yet"
    )))
}

/// Begins to move a VM, which exists and is in a state in which that is legal.
pub(super) async fn migrate(
    _shared: &Arc<Shared>,
    _vm_id: &str,
    _target_node: &str,
    _options: MigrationOptions,
    _key: Option<String>,
) -> Result<MigrationStatus> {
    unsupported("migrate")
}

/// How a migration goes.
pub(super) async fn status(_shared: &Arc<Shared>, _migration_id: &str) -> Result<MigrationStatus> {
    unsupported("get_migration_status")
}

/// Ends a migration.
pub(super) async fn cancel(_shared: &Arc<Shared>, _migration_id: &str) -> Result<MigrationStatus> {
    unsupported("cancel_migration")
}

/// The migrations this node knows of.
pub(super) async fn list(_shared: &Arc<Shared>) -> Result<Vec<MigrationStatus>> {
    unsupported("list_migrations")
}

/// Finds out, or decides, who has the VM of a migration.
pub(super) async fn resolve(
    _shared: &Arc<Shared>,
    _migration_id: &str,
    _force: bool,
) -> Result<MigrationStatus> {
    unsupported("resolve_migration")
}

/// Opens a stream of how a migration goes: checks, and starts a task that sends
/// `Item::Migration`s to `sink` until it ends or `sink.closed()`. The task keeps `permit`, the
/// stream's share of the node's limit.
pub(super) async fn progress(
    _shared: &Arc<Shared>,
    _migration_id: &str,
    _sink: ItemSink,
    _permit: tokio::sync::OwnedSemaphorePermit,
) -> Result<()> {
    unsupported("migration_progress")
}

/// Gives a VM back that a migration holds, by cancelling it, before `action` (stop, destroy or
/// reset) is done; or refuses, once the migration cannot be cancelled.
pub(super) async fn release(
    _shared: &Arc<Shared>,
    _entry: &Arc<VmEntry>,
    action: &Action,
) -> Result<()> {
    unsupported(action.name())
}
