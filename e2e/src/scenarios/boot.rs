//! A stock kernel comes up, finds its vCPUs and its disk, and ends as it, or its node, says.

use std::time::{Duration, Instant};

use dwcp::{Client, DWCPError, StopOptions, VMEventType, VMState};
use futures::StreamExt;

use super::checks::quiet;
use super::{Played, memory, node};
use crate::guest::{Guest, config, text};
use crate::options::Options;

pub(super) async fn play(options: &Options) -> Played {
    let node = node("boot", options).await?;
    let began = Instant::now();
    let mut guest = Guest::boot(&node.client(), config("linux", 1), options).await?;
    let up = began.elapsed();
    answers(&mut guest, 1).await?;
    disk(&mut guest, options).await?;
    memory::rng(&mut guest).await?;
    let lent = memory::balloon(&mut guest).await?;
    quiet(&mut guest).await?;
    guest.type_in("poweroff -f\n").await?;
    let vm = guest.wait_state(VMState::Stopped).await?;
    says(vm.reason.as_deref(), "powered off")?;
    guest.vms.destroy(&guest.vm.id).await.map_err(text)?;
    Ok(format!("up after {:.1} s, {lent}", up.as_secs_f64()))
}

/// Four vCPUs; reboot, a graceful stop, a panic, and a forced stop.
pub(super) async fn power(options: &Options) -> Played {
    let node = node("power", options).await?;
    let mut guest = Guest::boot(&node.client(), config("linux", 4), options).await?;
    answers(&mut guest, 4).await?;

    let mut events = guest.vms.watch(&guest.vm.id).await.map_err(text)?;
    guest.type_in("reboot -f\n").await?;
    guest.wait_up().await?;
    answers(&mut guest, 4).await?;
    let reset = async {
        while let Some(event) = events.next().await {
            if event.event_type == VMEventType::Reset {
                return event.vm.state;
            }
        }
        VMState::Unknown
    };
    let state = tokio::time::timeout(Duration::from_secs(60), reset).await;
    if state != Ok(VMState::Running) {
        return Err(format!(
            "no event told of the reboot of a VM that runs: {state:?}"
        ));
    }

    // The button is pressed, and the guest's own programs end it.
    guest.vms.stop(&guest.vm.id, false).await.map_err(text)?;
    guest.wait("the power button was pressed").await?;
    let vm = guest.vms.get(&guest.vm.id).await.map_err(text)?;
    if vm.state != VMState::Stopped {
        return Err(format!("it is {} after a graceful stop", vm.state));
    }

    // One that does not listen to the button runs on, until it is stopped by force.
    guest.vms.start(&guest.vm.id).await.map_err(text)?;
    let mut guest = Guest::attach(&node.client(), vm, options).await?;
    guest.wait_up().await?;
    guest.run("killall acpid").await?;
    let patience = StopOptions {
        force: false,
        timeout: Some(Duration::from_secs(3)),
    };
    match guest.vms.stop_with(&guest.vm.id, patience).await {
        Err(DWCPError::Timeout(_)) => {}
        other => return Err(format!("a guest that does not listen: {other:?}")),
    }
    answers(&mut guest, 4).await?;
    let (vms, id) = (guest.vms.clone(), guest.vm.id.clone());
    panics(guest, &node.client(), options).await?;

    // It can be started again, and stopped by force while it comes up.
    vms.start(&id).await.map_err(text)?;
    vms.stop(&id, true).await.map_err(text)?;
    let vm = vms.get(&id).await.map_err(text)?;
    if vm.state != VMState::Stopped {
        return Err(format!("it is {} after a forced stop", vm.state));
    }
    Ok("rebooted, stopped by the button, panicked, stopped by force".into())
}

/// Its kernel panics: it has failed with the reason, and what it printed last can be read by whoever comes then.
async fn panics(mut guest: Guest, client: &Client, options: &Options) -> Result<(), String> {
    let mut events = guest.vms.watch(&guest.vm.id).await.map_err(text)?;
    guest.type_in("echo c >/proc/sysrq-trigger\n").await?;
    let vm = guest.wait_state(VMState::Failed).await?;
    says(vm.reason.as_deref(), "its kernel panicked")?;
    while let Some(event) = events.next().await {
        if event.vm.state == VMState::Failed {
            says(Some(&event.message), "its kernel panicked")?;
            break;
        }
    }
    let mut late = Guest::attach(client, vm, options).await?;
    // The words of the panic itself come while the terminal still echoes the order, and may be mixed with it; those of
    // the stack that follows are whole.
    late.wait("sysrq_handle_crash+0x").await.map(drop)
}

/// Its vCPUs are there, and the console works in both directions.
async fn answers(guest: &mut Guest, cpus: u32) -> Result<(), String> {
    let found = guest.run("nproc").await?;
    if found.trim() != cpus.to_string() {
        return Err(format!("nproc says {found}"));
    }
    let said = guest.run("echo one two | tr a-z A-Z").await?;
    if said.trim() == "ONE TWO" {
        Ok(())
    } else {
        Err(format!("the console said {said:?}"))
    }
}

/// What is written and flushed is on the host's disk, and is read back.
async fn disk(guest: &mut Guest, options: &Options) -> Result<(), String> {
    const WORDS: &str = "what is written by a guest is in the file of its host";
    guest
        .run(&format!(
            "for i in $(seq 2000); do echo {WORDS} $i; done >/mnt/words && sync"
        ))
        .await?;
    let path = options
        .scratch
        .join("boot/disks")
        .join(&guest.vm.id)
        .join("disk.img");
    let file = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let last = format!("{WORDS} 2000");
    if !file
        .windows(last.len())
        .any(|found| found == last.as_bytes())
    {
        return Err("what the guest flushed is not in the file".into());
    }
    guest.run("echo 3 >/proc/sys/vm/drop_caches").await?;
    let lines = guest.run(&format!("grep -c '{WORDS}' /mnt/words")).await?;
    if lines.trim() != "2000" {
        return Err(format!("{lines} lines were read back"));
    }
    let metrics = guest
        .vms
        .get_metrics(&guest.vm.id, Duration::from_secs(60))
        .await
        .map_err(text)?;
    if metrics.disk_write < 100_000 || metrics.disk_read < 100_000 {
        return Err(format!("the figures of its disk: {metrics:?}"));
    }
    Ok(())
}

fn says(reason: Option<&str>, wanted: &str) -> Result<(), String> {
    match reason {
        Some(reason) if reason.contains(wanted) => Ok(()),
        other => Err(format!("the reason is {other:?}, without `{wanted}`")),
    }
}
