//! A guest that is stopped for a while, and one that is put back to where it was: clocks and disk stay right.

use std::time::Duration;

use dwcp::{SnapshotOptions, VMState};

use super::checks::{Checks, WallClock, quiet};
use super::{Played, node};
use crate::guest::{Guest, config, text};
use crate::options::Options;

/// How long it is paused.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) async fn play(options: &Options) -> Played {
    let node = node("clocks", options).await?;
    let mut guest = Guest::boot(&node.client(), config("linux", 2), options).await?;
    let (vms, id) = (guest.vms.clone(), guest.vm.id.clone());
    let wall = WallClock::read(&mut guest).await?;

    // Paused, and on again.
    let mut checks = Checks::start(&mut guest).await?;
    vms.pause(&id).await.map_err(text)?;
    tokio::time::sleep(PAUSE).await;
    vms.resume(&id).await.map_err(text)?;
    checks.go_on(&mut guest).await?;
    let seen = checks.end(&mut guest).await?;
    wall.check(&mut guest).await?;

    // Back to a snapshot: memory, disk, and programs that ran.
    guest
        .run("echo before >/mnt/state && sync && echo before >/tmp/state")
        .await?;
    let mut checks = Checks::start(&mut guest).await?;
    let snapshot = vms
        .snapshot(&id, "before", SnapshotOptions::default())
        .await
        .map_err(text)?;
    checks.go_on(&mut guest).await?;
    guest
        .run("echo after >/mnt/state && sync && echo after >/tmp/state")
        .await?;
    vms.restore_snapshot(&id, &snapshot.id)
        .await
        .map_err(text)?;
    let vm = vms.get(&id).await.map_err(text)?;
    if vm.state == VMState::Paused {
        vms.resume(&id).await.map_err(text)?;
    }
    let mut guest = Guest::attach(&node.client(), vm, options).await?;
    guest.wait_shell().await?;
    // What the disk's file holds, not what the guest's memory has of it.
    guest.run("echo 3 >/proc/sys/vm/drop_caches").await?;
    for file in ["/mnt/state", "/tmp/state"] {
        let found = guest.run(&format!("cat {file}")).await?;
        if found.trim() != "before" {
            return Err(format!("{file} holds {found:?} after the snapshot"));
        }
    }
    // The checks are those of the snapshot: they go on from what they had seen then.
    let mut restored = Checks::attach();
    restored.go_on(&mut guest).await?;
    restored.end(&mut guest).await?;
    wall.check(&mut guest).await?;
    quiet(&mut guest).await?;
    guest.vms.stop(&id, true).await.map_err(text)?;
    Ok(format!("paused for {PAUSE:?}: {seen}"))
}
