//! What a migration would be like.

use std::sync::Arc;
use std::time::Duration;

use super::super::Shared;
use super::super::registry::VmEntry;
use super::departure::{beside_memory, check_state, copied_disk, mode, processors, reach};
use super::{arrival, check_promises};
use crate::error::Result;
use crate::memory::{GuestRam, Harvester};
use crate::migration::{
    Dial, Dirtying, Offer, Probe, Task, could_take_memory, plan_hand_over, probe, serve, watch,
};
use crate::model::{MigrationMode, MigrationOptions, MigrationPlan, Misfit, VMState};
use crate::transport::Blocking;

/// Measures a VM and the way to a target, and predicts from that. Changes nothing; the guest runs on.
pub(in crate::node) async fn plan(
    shared: &Arc<Shared>,
    vm_id: &str,
    target: &str,
    mut options: MigrationOptions,
) -> Result<MigrationPlan> {
    let (entry, vm) = shared.registry.find(vm_id)?;
    check_state(shared, "plan_migration", &options, &vm)?;
    check_promises(shared, &options, &vm)?;
    let dial = reach(shared, &vm, target)?;
    let (image, disk) = beside_memory(shared, &vm).await?;
    let copied = copied_disk(shared, &vm, &mut options).await?;
    let guest = entry.with_machine(|machine, _| machine.config().guest.clone());
    let guest = guest.unwrap_or_else(|| shared.hypervisor.facts().clone());
    let (vm, running) = ((*vm).clone(), vm.state == VMState::Running);
    let offer = if options.offline {
        Offer::of_stopped(vm, guest)
    } else {
        Offer::new(vm, guest, options.channels().min(processors()), running)
    };
    // What is stopped, or gets stopped, has none.
    let memory = memory(&entry).filter(|_| !options.offline);
    let mut offer = offer.with(image, disk).with_copied_disk(copied);
    if let Some((ram, _)) = &memory {
        plan_hand_over(options.same_host, ram, &mut offer);
    }
    let survey = Survey {
        memory,
        offer,
        options,
        dial,
    };
    shared.blocking(move || survey.plan()).await
}

/// What of a VM is looked at while it runs. Not the machine: who ends that does not wait for a plan.
fn memory(entry: &VmEntry) -> Option<(Arc<GuestRam>, Arc<Harvester>)> {
    entry.with_machine(|machine, _| (Arc::clone(machine.ram()), Arc::clone(machine.harvester())))
}

struct Survey {
    memory: Option<(Arc<GuestRam>, Arc<Harvester>)>,
    offer: Offer,
    options: MigrationOptions,
    dial: Dial,
}

impl Survey {
    /// Blocks for less than a second, and for as long as the target takes to answer.
    fn plan(self) -> Result<MigrationPlan> {
        let running = self.offer.is_running();
        // One after the other: what measures the link takes time that the guest would write in.
        let dirtying = match &self.memory {
            Some((_, harvester)) if running => watch(harvester)?,
            _ => Dirtying::default(),
        };
        let found = probe(&self.dial, &self.offer)?;
        let link = match self.options.bandwidth {
            0 => found.link,
            limit => found.link.min(limit as f64),
        };
        let memory = match &self.memory {
            Some((ram, _)) if !found.handed => ram.resident()?,
            _ => 0,
        };
        let forecast = Task {
            memory: memory + self.offer.disk_copied.unwrap_or(0),
            // Nobody follows what is handed over.
            dirtying: match found.handed {
                true => Dirtying::default(),
                false => dirtying,
            },
            link,
            live: self.options.live && running,
            max_downtime: self.options.downtime_limit(),
        }
        .forecast();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Ok(MigrationPlan {
            total_us: micros(forecast.total),
            // What is stopped runs nowhere before either.
            downtime_us: if self.offer.is_stopped() {
                0
            } else {
                micros(forecast.downtime)
            },
            mode: match found.handed {
                true => MigrationMode::SameHost,
                false => mode(&self.options),
            },
            dirty_rate: dirtying.pages_per_second,
            misfits: found.misfits,
        })
    }
}

/// A peer plans a migration to this node. Blocks for as long as it measures the link.
pub(super) fn answer(shared: &Shared, question: &Probe, stream: &mut Blocking) -> Result<()> {
    let offer = Offer::decode(&question.payload)?;
    let mut misfits = arrival::misfits_here(shared, &offer);
    if let Err(error) = shared.registry.check_arriving(&offer.vm) {
        misfits.push(arrival::misfit("room", &error));
    }
    let handed = could_take_memory(&offer).unwrap_or_else(|why| {
        misfits.push(Misfit::new("same_host", "same_host", why));
        false
    });
    serve(stream, misfits, handed, shared.patience.silence())
}
