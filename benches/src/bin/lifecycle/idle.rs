//! What a VM that does nothing costs beside its guest's memory.
//!
//! Weighed in a fresh process each time, for one that has held VMs before keeps what it freed and would look cheaper.
//! Counted is what the kernel says of the process: memory of its own and of files, and its page tables. The guest's
//! memory is shared memory, which is counted apart from these, and left out. What the kernel itself keeps for a VM
//! is not in it.

use std::{env, fs, process::Command, time::Duration};

use dwcp_benches::Failure;

use crate::support::{config, first_beat, node};

/// VMs that run at once.
pub(crate) const VMS: u32 = 8;
/// Memory of each.
const MEMORY: u64 = 64 << 20;
/// How long they idle before they are weighed.
const SETTLE: Duration = Duration::from_millis(500);

/// MiB for each VM, from a process of its own.
pub(crate) async fn overhead() -> Result<f64, Failure> {
    let output = tokio::task::spawn_blocking(|| {
        Command::new(env::current_exe()?)
            .args(["--helper", "idle"])
            .stderr(std::process::Stdio::inherit())
            .output()
    });
    let output = output.await??;
    if !output.status.success() {
        return Err(format!("weighing idle VMs: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The process of its own: prints MiB for each VM.
pub(crate) async fn weigh() -> Result<(), Failure> {
    let node = node().start().await?;
    let vms = node.client().vm();
    // One that came and went: what is made once, whatever comes, is there.
    let id = vms.create(config("first", MEMORY)?).await?.id;
    vms.start(&id).await?;
    first_beat(&vms, &id).await?;
    vms.stop(&id, true).await?;
    vms.destroy(&id).await?;

    let before = held()?;
    for number in 0..VMS {
        let id = vms
            .create(config(&format!("idle-{number}"), MEMORY)?)
            .await?
            .id;
        vms.start(&id).await?;
        first_beat(&vms, &id).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let after = held()?;
    println!("{}", (after - before) / 1024.0 / f64::from(VMS));
    node.shutdown(Duration::ZERO).await?;
    Ok(())
}

/// What this process holds beside shared memory, in KiB.
///
/// Where the kernel walks the pages: the sums in `status` are kept by each processor, and may be off by more than a
/// VM that does nothing holds. Pages of files are counted by our share in them.
fn held() -> Result<f64, Failure> {
    let pages = fs::read_to_string("/proc/self/smaps_rollup")?;
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(field(&pages, "Anonymous:")? + field(&pages, "Pss_File:")? + field(&status, "VmPTE:")?)
}

/// A field of a text of the kernel, in KiB.
fn field(text: &str, name: &str) -> Result<f64, Failure> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .ok_or_else(|| format!("the kernel does not say {name}"))?;
    let number = line.trim().trim_end_matches("kB").trim();
    Ok(number
        .parse()
        .map_err(|error| format!("{name}{line}: {error}"))?)
}
