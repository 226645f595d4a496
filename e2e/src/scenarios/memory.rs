//! Randomness from the host, and memory that a guest lends to it.

use std::time::Duration;

use crate::guest::{Guest, text};

/// What the guest is asked to lend.
const LENT: u64 = 96 << 20;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The guest's kernel has the device and reads from it.
pub(super) async fn rng(guest: &mut Guest) -> Result<(), String> {
    let current = guest
        .run("cat /sys/devices/virtual/misc/hw_random/rng_current")
        .await?;
    if !current.starts_with("virtio_rng") {
        return Err(format!("its source of randomness is {current:?}"));
    }
    let read = "head -c 4096 /dev/hwrng | md5sum";
    let (one, other) = (guest.run(read).await?, guest.run(read).await?);
    match one == other {
        true => Err(format!("it reads the same twice: {one}")),
        false => Ok(()),
    }
}

/// What it lends comes back to the host, and it says how much it uses.
pub(super) async fn balloon(guest: &mut Guest) -> Result<String, String> {
    // So that there is something to come back: memory that was used and is free again.
    guest
        .run("dd if=/dev/zero of=/tmp/big bs=1M count=80 2>/dev/null && rm /tmp/big")
        .await?;
    let before = resident()?;
    ask(guest, LENT).await?;
    wait("the host's memory does not come back", || {
        Ok(resident()? + LENT / 4 * 3 <= before)
    })
    .await?;
    let lent = resident()?;

    // What the guest says of itself: about what its own tools say, once it has lent all.
    let (mut available, mut told) = (0_u64, 0_u64);
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let metrics = guest
            .vms
            .get_metrics(&guest.vm.id, Duration::from_secs(1))
            .await
            .map_err(text)?;
        told = metrics.memory_available;
        let said = guest
            .run("awk '/MemAvailable/ { print $2 }' /proc/meminfo")
            .await?;
        available = said.trim().parse::<u64>().map_err(text)? << 10;
        if told.abs_diff(available) < 8 << 20 {
            break;
        }
    }
    if told == 0 || told.abs_diff(available) >= 8 << 20 {
        return Err(format!(
            "its metrics say {told} bytes are available, the guest {available}"
        ));
    }

    // And it gets it again.
    ask(guest, 0).await?;
    guest
        .run("dd if=/dev/zero of=/tmp/big bs=1M count=80 2>/dev/null && rm /tmp/big")
        .await?;
    Ok(format!(
        "lending took its host's memory from {} to {} MiB",
        before >> 20,
        lent >> 20
    ))
}

async fn ask(guest: &Guest, bytes: u64) -> Result<(), String> {
    let annotations = [("dwcp.memory/balloon".to_owned(), bytes.to_string())];
    guest
        .vms
        .update(&guest.vm.id, None, Some(annotations.into()))
        .await
        .map(drop)
        .map_err(text)
}

async fn wait(what: &str, is_so: impl Fn() -> Result<bool, String>) -> Result<(), String> {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is_so()? {
        if tokio::time::Instant::now() > end {
            return Err(format!("{what}: {} bytes are in use", resident()?));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Bytes of guests' memory that this process has: all of it is shared memory.
fn resident() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(text)?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssShmem:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    number
        .map(|kib| kib << 10)
        .ok_or_else(|| "the kernel does not say RssShmem".to_owned())
}
