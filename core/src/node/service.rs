//! The door of a node: requests come in as actions, whoever asks.

use std::fmt;
use std::sync::Arc;

use super::Shared;
use super::keyboard;
use super::metrics::GLANCE;
use super::migrations;
use super::registry::{Phase, VmEntry};
use super::snapshots;
use super::streams::ending;
use crate::action::{Action, Outcome, Subscription};
use crate::client::{BoxFuture, ItemStream, Service};
use crate::error::{DWCPError, Result};
use crate::model::{Filters, VM, VMMetrics};

/// A node as a client in the same process reaches it.
pub(super) struct Local(pub(super) Arc<Shared>);

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Service for Local {
    fn call(&self, mut action: Action) -> BoxFuture<Result<Outcome>> {
        let shared = Arc::clone(&self.0);
        if let Action::ConsoleWrite { writer, .. } = &mut action {
            keyboard::let_in(writer, &shared.name, "");
        }
        Box::pin(async move { shared.call(action).await })
    }

    fn subscribe(&self, mut subscription: Subscription) -> BoxFuture<Result<ItemStream>> {
        let shared = Arc::clone(&self.0);
        if let Subscription::Console { writer, .. } = &mut subscription {
            keyboard::let_in(writer, &shared.name, "");
        }
        Box::pin(async move { shared.open_anywhere(subscription).await })
    }

    fn is_open(&self) -> bool {
        self.0.registry.phase() != Phase::Closed
    }
}

impl Shared {
    /// Answers a request. Whoever lets requests in from outside has checked the role.
    pub(crate) async fn call(self: &Arc<Self>, action: Action) -> Result<Outcome> {
        action.validate()?;
        if let Some(error) = self.registry.why_over(None) {
            return Err(error);
        }
        if let Some(node) = action.vm_id().and_then(|id| self.registry.moved_to(id)) {
            // A migration that is asked for again, with the key it has, is joined: it is what moved it.
            if let Some(known) = migrations::known(self, &action).await {
                return Ok(Outcome::Migration(Box::new(known)));
            }
            return self.forward(&node, action).await;
        }
        // What is not there, or not legal now, is refused before anything else is looked at; but a
        // migration or a snapshot that is asked for again, with the key it has, is joined.
        match &action {
            Action::Migrate { vm_id, .. }
            | Action::Snapshot {
                vm_id,
                key: Some(_),
                ..
            } => drop(self.registry.find(vm_id)?),
            _ if action.vm_id().is_some() => {
                let (_, vm) = self.registry.find_legal(&action)?;
                if !matches!(action, Action::Get { .. } | Action::ListSnapshots { .. }) {
                    migrations::check_held(self, action.name(), &vm)?;
                }
            }
            _ => {}
        }
        if let Action::Migrate { vm_id, .. } | Action::Snapshot { vm_id, .. } = &action {
            let (_, vm) = self.registry.find(vm_id)?;
            migrations::check_whole(self, action.name(), &vm)?;
        }
        let changes = changes(&action);
        let outcome = self.perform(action).await?;
        if changes {
            // Whoever hears that it is done finds it done, whatever happens to this node then.
            self.registry.flush().done().await?;
        }
        Ok(outcome)
    }

    async fn perform(self: &Arc<Self>, action: Action) -> Result<Outcome> {
        let shared = Arc::clone(self);
        match action {
            Action::Create { config, key } => {
                let work = async move { shared.create(*config, key).await };
                Ok(Outcome::VM(Box::new(self.job(work).await?)))
            }
            Action::Start { .. } => done(self.job(async move { shared.start(action).await }).await),
            Action::Stop { ref options, .. } => {
                let options = options.clone();
                done(
                    self.job(async move { shared.stop(action, options).await })
                        .await,
                )
            }
            Action::Destroy { .. } => {
                done(self.job(async move { shared.destroy(action).await }).await)
            }
            Action::Pause { .. } => done(self.job(async move { shared.pause(action).await }).await),
            Action::Resume { .. } => {
                done(self.job(async move { shared.resume(action).await }).await)
            }
            Action::Reset { .. } => done(self.job(async move { shared.reset(action).await }).await),
            Action::Update { .. } => Ok(Outcome::VM(Box::new(self.update(&action)?))),
            Action::Get { vm_id } => Ok(Outcome::VM(Box::new(self.get(&vm_id).await?))),
            Action::List {
                filters, limit: 0, ..
            } => Ok(Outcome::VMs(self.list(&filters).await)),
            Action::List {
                filters,
                limit,
                page,
            } => self.page(&filters, limit, page.as_deref()).await,
            Action::Metrics { window, .. } => {
                let (entry, vm) = self.registry.find_legal(&action)?;
                match self.figures(&entry, &vm, window).await? {
                    Some(metrics) => Ok(Outcome::Metrics(Box::new(metrics))),
                    None => Err(ending("get_metrics", &vm)),
                }
            }
            Action::GuestReport { .. } => Ok(Outcome::Guest(Box::new(self.guest_report(&action)?))),
            Action::Verify { .. } => Ok(Outcome::Guest(Box::new(self.verify(&action).await?))),
            Action::ConsoleWrite {
                ref data,
                ref writer,
                ..
            } => {
                let (entry, vm) = self.registry.find_legal(&action)?;
                type_in(&entry, &vm, data, writer.as_deref().unwrap_or_default())
            }
            Action::ImportImage { path, name } => {
                let work = shared.clone();
                let work =
                    self.blocking(move || work.images.import(path.as_ref(), name.as_deref()));
                Ok(Outcome::Image(Box::new(work.await?)))
            }
            Action::ListImages => Ok(Outcome::Images(self.images.list())),
            Action::RemoveImage { name } => {
                let work = self.blocking(move || {
                    let unused = || shared.is_unused(&name);
                    shared.images.remove(&name, unused)
                });
                done(work.await)
            }
            Action::Health => Ok(Outcome::Health(Box::new(self.health()))),
            Action::Node => Ok(Outcome::Node(Box::new(self.node_info().await))),
            Action::Migrate {
                vm_id,
                target_node,
                options,
                key,
            } => {
                let work = async move {
                    migrations::migrate(&shared, &vm_id, &target_node, options, key).await
                };
                Ok(Outcome::Migration(Box::new(self.job(work).await?)))
            }
            Action::MigrationStatus { migration_id } => {
                let status = migrations::status(self, &migration_id).await?;
                Ok(Outcome::Migration(Box::new(status)))
            }
            Action::CancelMigration { migration_id } => {
                let work = async move { migrations::cancel(&shared, &migration_id).await };
                Ok(Outcome::Migration(Box::new(self.job(work).await?)))
            }
            Action::ListMigrations => Ok(Outcome::Migrations(migrations::list(self).await?)),
            Action::ResolveMigration {
                migration_id,
                force,
            } => {
                let work = async move { migrations::resolve(&shared, &migration_id, force).await };
                Ok(Outcome::Migration(Box::new(self.job(work).await?)))
            }
            Action::PlanMigration {
                vm_id,
                target_node,
                options,
            } => {
                let work =
                    async move { migrations::plan(&shared, &vm_id, &target_node, options).await };
                Ok(Outcome::Plan(Box::new(self.job(work).await?)))
            }
            Action::Snapshot { .. } => {
                let work = async move { snapshots::take(&shared, action).await };
                Ok(Outcome::Snapshot(Box::new(self.job(work).await?)))
            }
            Action::ListSnapshots { vm_id } => {
                Ok(Outcome::Snapshots(snapshots::list(self, &vm_id)?))
            }
            Action::RestoreSnapshot { .. } => {
                let work = async move { snapshots::restore(&shared, action).await };
                done(self.job(work).await)
            }
            Action::DeleteSnapshot { snapshot_id } => {
                let work = async move { snapshots::delete(&shared, &snapshot_id).await };
                done(self.job(work).await)
            }
        }
    }

    /// Fails while a VM names an image.
    fn is_unused(&self, image: &str) -> Result<()> {
        let filters = Filters::from([("image", image)]);
        match self.registry.list(&filters).first() {
            None => Ok(()),
            Some((_, vm)) => Err(DWCPError::InvalidOperation(format!(
                "remove_image: the VM {} ({}) has the image {image}",
                vm.name, vm.id
            ))),
        }
    }

    /// What a VM is and does.
    async fn get(&self, id: &str) -> Result<VM> {
        let (entry, vm) = self.registry.find(id)?;
        Ok(self.with_figures(&entry, &vm).await)
    }

    /// The VMs that match.
    async fn list(&self, filters: &Filters) -> Vec<VM> {
        let found = self.registry.list(filters);
        self.all_with_figures(&found).await
    }

    /// A part of the VMs that match.
    async fn page(&self, filters: &Filters, limit: u32, page: Option<&str>) -> Result<Outcome> {
        let (found, next) = self.registry.page(filters, limit, page)?;
        let vms = self.all_with_figures(&found).await;
        Ok(Outcome::Page { vms, next })
    }

    async fn all_with_figures(&self, found: &[(Arc<VmEntry>, Arc<VM>)]) -> Vec<VM> {
        let mut vms = Vec::with_capacity(found.len());
        for (entry, vm) in found {
            vms.push(self.with_figures(entry, vm).await);
        }
        vms
    }

    async fn with_figures(&self, entry: &Arc<VmEntry>, vm: &Arc<VM>) -> VM {
        let metrics: Option<VMMetrics> = if vm.state.is_active() {
            // Without figures the rest is still worth an answer.
            self.figures(entry, vm, GLANCE).await.unwrap_or_default()
        } else {
            None
        };
        VM {
            metrics,
            ..VM::clone(vm)
        }
    }
}

/// Whether an action changes what is stored.
fn changes(action: &Action) -> bool {
    match action {
        Action::Get { .. }
        | Action::List { .. }
        | Action::Metrics { .. }
        | Action::GuestReport { .. }
        | Action::Verify { .. }
        | Action::ConsoleWrite { .. }
        | Action::Health
        | Action::Node
        | Action::MigrationStatus { .. }
        | Action::ListMigrations
        // Images are durable by themselves.
        | Action::ImportImage { .. }
        | Action::ListImages
        | Action::RemoveImage { .. }
        | Action::PlanMigration { .. }
        | Action::ListSnapshots { .. } => false,
        Action::Create { .. }
        | Action::Start { .. }
        | Action::Stop { .. }
        | Action::Destroy { .. }
        | Action::Pause { .. }
        | Action::Resume { .. }
        | Action::Reset { .. }
        | Action::Update { .. }
        | Action::Migrate { .. }
        | Action::CancelMigration { .. }
        | Action::ResolveMigration { .. }
        | Action::Snapshot { .. }
        | Action::RestoreSnapshot { .. }
        | Action::DeleteSnapshot { .. } => true,
    }
}

fn done(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Done)
}

/// Types on a console.
fn type_in(entry: &VmEntry, vm: &VM, data: &[u8], writer: &str) -> Result<Outcome> {
    let typed = entry.with_machine(|machine, run| {
        let taken = run.keyboard.take(writer);
        taken.map(|()| machine.type_in(data))
    });
    match typed.transpose()? {
        None => Err(ending("console", vm)),
        Some(taken) if taken < data.len() => Err(DWCPError::ResourceLimit(format!(
            "console: the guest took {taken} of {} bytes; it does not read its console as fast",
            data.len()
        ))),
        Some(_) => Ok(Outcome::Done),
    }
}
