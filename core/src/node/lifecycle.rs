//! The life of a VM: made, started, paused, stopped, destroyed.
//!
//! Each operation looks first, so that what is not legal is refused at once; then it takes the VM's
//! lifecycle lock, and looks again. What blocks (booting, parking vCPUs, joining threads) runs off
//! the async threads. The operations run as tasks of the node: a caller that goes away leaves none of
//! them half done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::Shared;
use super::balloon;
use super::disks;
use super::images::Boots;
use super::metrics::Sample;
use super::migrations;
use super::once::Asked;
use super::recovery::RestartPolicy;
use super::registry::{Change, Running, VmEntry, closed};
use super::run::Run;
use super::snapshots;
use crate::action::Action;
use crate::error::{DWCPError, Result};
use crate::hypervisor::HostFacts;
use crate::machine::{DiskConfig, End, Machine, MachineConfig, News, check_pinning};
use crate::memory::{Backing, GuestRam};
use crate::model::limits::IMAGE_DEFAULT;
use crate::model::{StopOptions, VM, VMConfig, VMEventType, VMState, new_uuid};

/// Letters of a VM's name in those of its threads: the kernel keeps 15, and `/vcpu127` is 8.
const THREAD_NAME_LEN: usize = 7;

/// A VM whose life nothing else changes meanwhile.
pub(super) struct Held {
    pub(super) entry: Arc<VmEntry>,
    pub(super) vm: Arc<VM>,
    _guard: OwnedMutexGuard<()>,
}

impl Shared {
    /// Makes a VM, stopped.
    pub(super) async fn create(
        self: &Arc<Self>,
        mut config: VMConfig,
        key: Option<String>,
    ) -> Result<VM> {
        let asked = key.map(|key| Asked::new(key, &config)).transpose()?;
        // Clients send this name where their caller named none.
        if config.image == IMAGE_DEFAULT {
            config.image.clone_from(&self.default_image);
        }
        config.check_supported(&self.capabilities)?;
        check_pinning(&config.cpu_pinning)?;
        let boots = self.boots(&config.image, config.memory, &config.annotations)?;
        balloon::wanted(&config.annotations, config.memory, &boots)?;
        boots.check(config.memory)?;
        disks::settle_size(&mut config, boots.disk())?;
        RestartPolicy::of(&config.labels, &config.annotations)?;
        let make = self.make(config, &boots, asked.as_ref());
        let vm = match &asked {
            None => make.await?,
            Some(asked) => self.created.once(asked, make).await?,
        };
        Ok(VM::clone(&vm))
    }

    /// Adds a VM, and makes its disk where it has one.
    async fn make(
        self: &Arc<Self>,
        config: VMConfig,
        boots: &Boots,
        asked: Option<&Asked>,
    ) -> Result<Arc<VM>> {
        let answer = |vm: &VM| match asked {
            None => Ok(None),
            Some(asked) => {
                let answer = serde_json::to_string(vm)?;
                Ok(Some(self.created.stored(asked, answer)))
            }
        };
        let vm = VM::new(new_uuid(), &self.name, config);
        let (id, size) = (vm.id.clone(), vm.config.disk);
        if size == 0 {
            return self.registry.create(vm, answer);
        }
        let (shared, made) = (Arc::clone(self), id.clone());
        let image = boots.disk().map(|(path, _)| path.to_owned());
        self.blocking(move || shared.disks.make(&made, size, image.as_deref()))
            .await?;
        // The disk is one once the VM is stored: where the node ends between the two, what is there is
        // told by whether the VM is.
        let created = match self.registry.create(vm, answer) {
            Ok(created) => self.registry.flush().done().await.map(|()| created),
            Err(error) => Err(error),
        };
        let shared = Arc::clone(self);
        match created {
            Ok(created) => {
                self.blocking(move || shared.disks.finish(&id)).await?;
                Ok(created)
            }
            Err(error) => {
                self.blocking(move || shared.disks.drop_unfinished(&id))
                    .await?;
                Err(error)
            }
        }
    }

    /// Runs a VM.
    pub(super) async fn start(self: &Arc<Self>, action: Action) -> Result<()> {
        let Held { entry, vm, _guard } = self.hold(&action).await?;
        self.make_sure(action.name(), &vm).await?;
        self.registry.starting(&action)?;
        let (shared, own) = (Arc::clone(self), Arc::clone(&vm));
        let started = self.blocking(move || shared.power_on(&own)).await;
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                let message = format!("could not be started: {error}");
                let change = Change::new(VMState::Stopped, VMEventType::Stopped, message);
                self.registry.change(&entry.id, change.because())?;
                tracing::warn!(vm = %entry.id, name = %vm.name, %error, "could not be started");
                return Err(error);
            }
        };
        let run = Arc::clone(&running.run);
        let change = Change::new(
            VMState::Running,
            VMEventType::Started,
            format!("{} runs", vm.name),
        );
        if let Err((error, machine)) = self.registry.attach(&entry.id, running, change) {
            self.end(machine).await?;
            return Err(error);
        }
        self.keep(&entry, run);
        tracing::info!(vm = %entry.id, name = %vm.name, "started");
        Ok(())
    }

    /// Stops a VM, at once or by asking the guest.
    pub(super) async fn stop(self: &Arc<Self>, action: Action, options: StopOptions) -> Result<()> {
        self.release_from_migration(&action).await?;
        let (entry, _) = self.registry.find_legal(&action)?;
        let forced = options.force.then(|| entry.force());
        let _guard = entry.lock().await;
        drop(forced);
        self.settle(&entry).await?;
        let (_, vm) = self.registry.find(&entry.id)?;
        if matches!(vm.state, VMState::Stopped | VMState::Failed) {
            // It was asked to stop by somebody else, or ended by itself, while this call waited.
            return Ok(());
        }
        self.registry.find_legal(&action)?;
        if options.force {
            self.stop_now(&entry).await
        } else {
            let timeout = options.effective_timeout();
            self.stop_asking(&entry, &vm, timeout).await
        }
    }

    /// Ends a VM's machine, whatever the guest does.
    async fn stop_now(&self, entry: &Arc<VmEntry>) -> Result<()> {
        let message = "is being stopped by force";
        let change = Change::new(VMState::Stopping, VMEventType::Stopping, message);
        self.registry.change(&entry.id, change)?;
        self.power_off(entry, "was stopped by force").await
    }

    /// Asks the guest to power off, and gives it time.
    async fn stop_asking(
        &self,
        entry: &Arc<VmEntry>,
        before: &VM,
        timeout: Duration,
    ) -> Result<()> {
        let Some(Running { machine, run }) = entry.machine() else {
            return Err(no_machine(&entry.id));
        };
        let change = Change::new(
            VMState::Stopping,
            VMEventType::Stopping,
            "was asked to stop",
        );
        self.registry.change(&entry.id, change)?;
        let mut bell = run.listen();
        match machine.pulse() {
            Some(pulse) => pulse.ask_off(),
            None => machine.press_power_button()?,
        }
        if before.state == VMState::Paused {
            // A guest that is held cannot stop by itself.
            let machine = Arc::clone(&machine);
            self.blocking(move || machine.resume()).await?;
        }
        let ended = async {
            // Hears every ring after `listen`, so no end is missed between the look and the wait.
            while machine.ended().is_none() && !run.is_over() && bell.changed().await.is_ok() {}
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = entry.is_forced() => {
                drop(machine);
                return self.power_off(entry, "was stopped by force").await;
            }
            () = tokio::time::sleep(timeout) => {}
        }
        if run.is_over() {
            // The node ended, and took the machine.
            self.end(machine).await?;
            return Err(closed());
        }
        match machine.ended() {
            Some(End::PoweredOff) => {
                drop(machine);
                self.power_off(entry, "was stopped").await
            }
            Some(End::Crashed(why) | End::Failed(why)) => {
                drop(machine);
                self.settle(entry).await?;
                Err(DWCPError::InvalidOperation(format!(
                    "stop: VM {} failed before it stopped: {why}",
                    entry.id
                )))
            }
            Some(End::Reset) => {
                self.settle(entry).await?;
                self.runs_on(entry, before, machine, timeout).await
            }
            None => self.runs_on(entry, before, machine, timeout).await,
        }
    }

    /// A guest did not stop in time: all is as it was before.
    async fn runs_on(
        &self,
        entry: &Arc<VmEntry>,
        before: &VM,
        machine: Arc<Machine>,
        timeout: Duration,
    ) -> Result<()> {
        let message = format!("did not stop within {timeout:?}");
        let (state, event) = if before.state == VMState::Paused {
            self.blocking(move || {
                machine.pause();
                Ok(())
            })
            .await?;
            (VMState::Paused, VMEventType::Paused)
        } else {
            drop(machine);
            (VMState::Running, VMEventType::Started)
        };
        let change = Change {
            reason: before.reason.clone(),
            ..Change::new(state, event, format!("{message}, and is {state} again"))
        };
        self.registry.change(&entry.id, change)?;
        Err(DWCPError::Timeout(format!(
            "stop: VM {} {message}; it is {state}",
            entry.id
        )))
    }

    /// Takes the machine of a VM away, ends it, and says so.
    async fn power_off(&self, entry: &VmEntry, message: &str) -> Result<()> {
        if let Some(machine) = entry.take_machine() {
            self.end(machine).await?;
        }
        let change = Change::new(VMState::Stopped, VMEventType::Stopped, message);
        tracing::info!(vm = %entry.id, "{message}");
        self.registry.change(&entry.id, change).map(drop)
    }

    /// Removes a VM.
    pub(super) async fn destroy(self: &Arc<Self>, action: Action) -> Result<()> {
        self.release_from_migration(&action).await?;
        let held = self.hold(&action).await?;
        snapshots::delete_all(self, &held.vm.id).await?;
        if held.vm.config.disk == 0 {
            return self.registry.destroy(&action);
        }
        let id = held.vm.id.clone();
        let (shared, going) = (Arc::clone(self), id.clone());
        self.blocking(move || shared.disks.begin_remove(&going))
            .await?;
        let gone = match self.registry.destroy(&action) {
            Ok(()) => self.registry.flush().done().await,
            Err(error) => Err(error),
        };
        let shared = Arc::clone(self);
        let stays = gone.is_err();
        self.blocking(move || {
            if stays {
                shared.disks.finish(&id)
            } else {
                shared.disks.drop_unfinished(&id)
            }
        })
        .await?;
        gone
    }

    /// Holds the vCPUs of a VM.
    pub(super) async fn pause(self: &Arc<Self>, action: Action) -> Result<()> {
        let held = self.hold(&action).await?;
        self.on_machine(&held, |machine| {
            machine.pause();
            Ok(())
        })
        .await?;
        // The guest may have come to an end in its last moment.
        self.settle(&held.entry).await?;
        self.registry.find_legal(&action)?;
        let change = Change::new(VMState::Paused, VMEventType::Paused, "was paused");
        let change = Change {
            reason: Some("on request".into()),
            ..change
        };
        self.registry.change(&held.entry.id, change).map(drop)
    }

    /// Lets the vCPUs of a VM run again.
    pub(super) async fn resume(self: &Arc<Self>, action: Action) -> Result<()> {
        let held = self.hold(&action).await?;
        self.on_machine(&held, Machine::resume).await?;
        let change = Change::new(VMState::Running, VMEventType::Resumed, "runs again");
        self.registry.change(&held.entry.id, change).map(drop)
    }

    /// Starts the guest of a VM anew.
    pub(super) async fn reset(self: &Arc<Self>, action: Action) -> Result<()> {
        self.release_from_migration(&action).await?;
        let held = self.hold(&action).await?;
        self.restart(&held.entry, &held.vm, "was reset").await
    }

    /// Starts the guest of a VM anew, in its machine. The lifecycle lock is held.
    async fn restart(&self, entry: &VmEntry, vm: &VM, message: &str) -> Result<()> {
        let Some(Running { machine, .. }) = entry.machine() else {
            return Err(no_machine(&entry.id));
        };
        if let Err(error) = self.blocking(move || machine.reset()).await {
            // It may be half of what it was and half of what it is to be: it cannot go on.
            if let Some(machine) = entry.take_machine() {
                self.end(machine).await?;
            }
            let message = format!("could not be reset: {error}");
            let change = Change::new(VMState::Failed, VMEventType::Failed, message);
            self.registry.change(&entry.id, change.because())?;
            return Err(error);
        }
        entry.with_machine(|_, run| run.reset());
        entry.begin_incarnation();
        let change = Change {
            reason: vm.reason.clone(),
            ..Change::new(vm.state, VMEventType::Reset, message)
        };
        self.registry.change(&entry.id, change).map(drop)
    }

    /// Replaces labels and annotations.
    pub(super) fn update(&self, action: &Action) -> Result<VM> {
        let (entry, vm) = self.registry.find_legal(action)?;
        if let Action::Update {
            labels,
            annotations,
            ..
        } = action
        {
            if let Some(annotations) = annotations {
                let boots = self.boots(&vm.config.image, vm.config.memory, annotations)?;
                balloon::wanted(annotations, vm.config.memory, &boots)?;
            }
            let labels = labels.as_ref().unwrap_or(&vm.labels);
            let annotations = annotations.as_ref().unwrap_or(&vm.annotations);
            RestartPolicy::of(labels, annotations)?;
        }
        let vm = self.registry.update(action)?;
        entry
            .with_machine(|machine, _| self.set_balloon(&vm, machine))
            .transpose()?;
        Ok(VM::clone(&vm))
    }

    /// Waits for the VM's lifecycle lock, and looks before and after.
    pub(super) async fn hold(self: &Arc<Self>, action: &Action) -> Result<Held> {
        let (entry, _) = self.registry.find_legal(action)?;
        let guard = entry.lock().await;
        self.settle(&entry).await?;
        let (_, vm) = self.registry.find_legal(action)?;
        Ok(Held {
            entry,
            vm,
            _guard: guard,
        })
    }

    /// Stop, destroy and reset cancel a migration before they do what they are asked.
    async fn release_from_migration(self: &Arc<Self>, action: &Action) -> Result<()> {
        let (entry, vm) = self.registry.find_legal(action)?;
        if vm.state == VMState::Migrating {
            migrations::release(self, &entry, action).await?;
        }
        Ok(())
    }

    /// Does something that may block with the machine of a VM that is held.
    async fn on_machine<T: Send + 'static>(
        &self,
        held: &Held,
        work: impl FnOnce(&Machine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(Running { machine, .. }) = held.entry.machine() else {
            return Err(no_machine(&held.entry.id));
        };
        self.blocking(move || work(&machine)).await
    }

    /// If the guest of a VM came to an end by itself, ends its machine and says so. The lifecycle
    /// lock is held.
    pub(super) async fn settle(&self, entry: &VmEntry) -> Result<()> {
        let ended = entry.with_machine(|machine, _| machine.ended()).flatten();
        let Some(end) = ended else { return Ok(()) };
        let Ok((_, vm)) = self.registry.find(&entry.id) else {
            return Ok(());
        };
        // A migration that has the VM decides by itself.
        if matches!(vm.state, VMState::Migrating | VMState::Unknown) {
            return Ok(());
        }
        if end == End::Reset {
            // Its machine stays.
            return self.restart(entry, &vm, "the guest reset itself").await;
        }
        if matches!(end, End::Crashed(_) | End::Failed(_)) {
            entry.keep_last_words();
        }
        if let Some(machine) = entry.take_machine() {
            self.end(machine).await?;
        }
        let change = match end {
            End::Reset => return Ok(()), // has been dealt with
            End::PoweredOff => Change::new(
                VMState::Stopped,
                VMEventType::Stopped,
                "the guest powered off",
            ),
            End::Crashed(why) => Change::new(
                VMState::Failed,
                VMEventType::Failed,
                format!("the guest crashed: {why}"),
            ),
            End::Failed(why) => Change::new(
                VMState::Failed,
                VMEventType::Failed,
                format!("could not go on: {why}"),
            ),
        };
        tracing::info!(vm = %entry.id, name = %vm.name, "{}", change.message);
        self.registry.change(&entry.id, change.because()).map(drop)
    }

    /// Starts the task that looks after a run: what the guest says, and its end. It ends when the
    /// machine of the run is taken away.
    pub(crate) fn keep(self: &Arc<Self>, entry: &Arc<VmEntry>, run: Arc<Run>) {
        let (shared, entry) = (Arc::clone(self), Arc::clone(entry));
        self.runtime.spawn(async move {
            let mut bell = run.listen();
            loop {
                for news in run.take_news() {
                    let message = match news {
                        News::Filled => "memory filled".to_owned(),
                        News::Fault(gpa) => {
                            format!("a page does not hold what it should: address {gpa:#x}")
                        }
                    };
                    // A VM that is gone has nobody to tell.
                    let _ = shared.registry.tell(&entry.id, VMEventType::Guest, message);
                }
                if run.is_over() {
                    return;
                }
                if entry
                    .with_machine(|machine, _| machine.ended().is_some())
                    .unwrap_or(false)
                {
                    let _guard = entry.lock().await;
                    if let Err(error) = shared.settle(&entry).await {
                        tracing::warn!(vm = %entry.id, %error, "the end of a guest was not told");
                    }
                    if run.is_over() {
                        return;
                    }
                }
                if bell.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Ends a machine: its vCPUs first, whoever else still looks at it.
    pub(crate) async fn end(&self, machine: Arc<Machine>) -> Result<()> {
        self.blocking(move || {
            machine.pause();
            drop(machine);
            Ok(())
        })
        .await
    }
}

fn no_machine(id: &str) -> DWCPError {
    DWCPError::Internal(format!("VM {id} has no machine in a state that has one"))
}

/// How long a VM that starts waits for its disk: a node where it ran may be about to let it go.
pub(super) const DISK_PATIENCE: Duration = Duration::from_secs(1);

impl Shared {
    /// Makes the machine of a VM, boots it, and lets it run. Blocks.
    fn power_on(&self, vm: &VM) -> Result<Running> {
        let disk = self.disk_of(vm)?;
        let running = self.machine_of(vm, self.hypervisor.facts().clone(), disk, None)?;
        running.machine.lock_disk(DISK_PATIENCE)?;
        running.machine.boot()?;
        // What the first figures are compared with.
        running.run.samples.add(Sample::of(&running.machine));
        running.machine.resume()?;
        Ok(running)
    }

    /// The disk of a VM, if it has one.
    pub(super) fn disk_of(&self, vm: &VM) -> Result<Option<DiskConfig>> {
        if vm.config.disk == 0 {
            return Ok(None);
        }
        self.disks.config(vm, false).map(Some)
    }

    /// Makes the machine of a VM, over `memory` or fresh one. `guest` is what its guest sees of the host it was
    /// first started on. Blocks.
    pub(super) fn machine_of(
        &self,
        vm: &VM,
        guest: HostFacts,
        disk: Option<DiskConfig>,
        memory: Option<Arc<GuestRam>>,
    ) -> Result<Running> {
        let config = &vm.config;
        let boots = self.boots(&config.image, config.memory, &vm.annotations)?;
        let image = boots.image(vm)?;
        let backing = if config.huge_pages {
            Backing::AnonymousHuge
        } else {
            Backing::Memfd
        };
        let ram = match memory {
            Some(ram) => ram,
            None => GuestRam::allocate(config.memory, backing)?,
        };
        let run = Run::new();
        let config = MachineConfig {
            name: vm.name.chars().take(THREAD_NAME_LEN).collect(),
            cpus: config.cpus,
            cpu_pinning: config.cpu_pinning.clone(),
            cpu_quota: config.cpu_quota,
            image,
            guest,
            disk,
        };
        let machine = Machine::new(&*self.hypervisor, ram, config, run.hooks())?;
        self.set_balloon(vm, &machine)?;
        Ok(Running {
            machine: Arc::new(machine),
            run,
        })
    }
}
