//! A guest that writes its disk and reads its clocks moves between two processes, there and back; then hand-overs that
//! fail: one that would take too long, one whose target does not get the disk, and one whose target is killed.

use std::path::PathBuf;
use std::time::Duration;

use dwcp::{MigrationOptions, MigrationState, MigrationStatus, SameHost, VMConfig, VMState};
use futures::StreamExt;

use super::Played;
use super::checks::{Checks, WallClock};
use crate::guest::{Guest, config, text};
use crate::lock::{Thief, Watcher};
use crate::options::Options;
use crate::serve::NodeProcess;

/// There and back so many times.
const TIMES: usize = 3;
/// The longest time a guest may stand still, on a host whose processors are emulated, in milliseconds.
const DOWNTIME: u64 = 10_000;

/// How long somebody else has the lock of the disk: longer than a target waits for it, 0.5 s, and shorter than the source
/// does afterwards, 2 s.
const THEFT: Duration = Duration::from_millis(1500);
/// Moves of which one is to meet the thief.
const ESCAPES: usize = 6;

pub(super) async fn play(options: &Options) -> Played {
    let dir = options.scratch.join("migrate");
    let mut here = NodeProcess::start("here", &dir, options).await?;
    let mut there = NodeProcess::start("there", &dir, options).await?;
    here.introduce(&there).await?;
    there.introduce(&here).await?;

    // Little, for all of it is copied again and again.
    let config = VMConfig {
        memory: 160 << 20,
        ..config("linux", 2)
    };
    let mut guest = Guest::boot(&here.client, config, options).await?;
    let id = guest.vm.id.clone();
    let folder: PathBuf = dir.join("disks").join(&id);
    let wall = WallClock::read(&mut guest).await?;
    let mut checks = Checks::start(&mut guest).await?;
    let watcher = Watcher::start(&folder, "linux", vec![here.id()?, there.id()?])?;

    let mut downtimes = Vec::new();
    for time in 1..=TIMES {
        // The last time in the same memory: all of this is one host.
        let same_host = match time {
            TIMES => SameHost::Require,
            _ => SameHost::Never,
        };
        for (from, to) in [(&here, &there), (&there, &here)] {
            let wanted = MigrationOptions {
                same_host,
                ..MigrationOptions::default()
            };
            let started = start(&guest, to.name, wanted).await?;
            let status = ended(&guest, started).await?;
            if status.state != MigrationState::Completed {
                return Err(format!(
                    "the move from {} to {}: {status:?}",
                    from.name, to.name
                ));
            }
            if options.verbose {
                eprintln!("{status:?}");
            }
            downtimes.push(status.downtime);
            guest = Guest::attach(&to.client, guest.vm.clone(), options).await?;
            checks.go_on(&mut guest).await?;
            wall.check(&mut guest).await?;
        }
    }

    // It is paused and takes too long: it stays, and its disk with it.
    let limited = MigrationOptions {
        live: false,
        timeout: Some(Duration::from_secs(3)),
        same_host: SameHost::Never,
        ..MigrationOptions::default()
    };
    let started = start(&guest, "there", limited).await?;
    let status = ended(&guest, started).await?;
    if status.state == MigrationState::Completed {
        return Err(format!("a limit of 3 s was kept: {status:?}"));
    }
    stays(&mut guest, &mut checks, &wall).await?;

    // It was granted, and its disk given up, when the target cannot have the disk: all of that is taken back. For a
    // moment the lock is nobody's: where the target was faster than the thief, who waits on, the way back is tried.
    let thief = Thief::start(&folder, THEFT).await?;
    let copied = MigrationOptions {
        same_host: SameHost::Never,
        ..MigrationOptions::default()
    };
    let (mut at, mut to) = (&here, &there);
    let mut escapes = 0;
    loop {
        let started = start(&guest, to.name, copied.clone()).await?;
        let status = ended(&guest, started).await?;
        let why = status.error.as_deref().unwrap_or_default();
        if status.state != MigrationState::Completed && why.contains("has the disk") {
            break;
        }
        escapes += 1;
        if status.state != MigrationState::Completed || escapes == ESCAPES {
            return Err(format!("it moved away from its disk: {status:?}"));
        }
        guest = Guest::attach(&to.client, guest.vm.clone(), options).await?;
        stays(&mut guest, &mut checks, &wall).await?;
        (at, to) = (to, at);
    }
    thief.end().await?;
    stays(&mut guest, &mut checks, &wall).await?;
    if at.name != here.name {
        let started = start(&guest, here.name, copied).await?;
        let status = ended(&guest, started).await?;
        if status.state != MigrationState::Completed {
            return Err(format!("the move home: {status:?}"));
        }
        guest = Guest::attach(&here.client, guest.vm.clone(), options).await?;
        stays(&mut guest, &mut checks, &wall).await?;
    }

    // The target is killed while it copies.
    let slow = MigrationOptions {
        bandwidth: 1 << 20,
        same_host: SameHost::Never,
        ..MigrationOptions::default()
    };
    let started = start(&guest, "there", slow).await?;
    let mut progress = guest
        .vms
        .migration_progress(&started.id)
        .await
        .map_err(text)?;
    while let Some(status) = progress.next().await {
        if status.bytes_sent > 0 {
            break;
        }
    }
    there.kill().await?;
    let status = ended(&guest, started).await?;
    if status.state == MigrationState::Completed {
        return Err(format!("it moved to a node that was killed: {status:?}"));
    }
    stays(&mut guest, &mut checks, &wall).await?;

    let lock = watcher.end()?;
    // There and back, and to the thief and back.
    if lock.changes < 2 * TIMES as u64 + 2 || lock.running == 0 {
        return Err(format!("the disk's lock was not seen to move: {lock:?}"));
    }
    let seen = checks.end(&mut guest).await?;
    wall.check(&mut guest).await?;
    guest.vms.stop(&id, true).await.map_err(text)?;
    Ok(format!(
        "downtimes {downtimes:?} ms; {} looks at the lock; {seen}",
        lock.looks
    ))
}

/// It runs where it is, and its checks go on.
async fn stays(guest: &mut Guest, checks: &mut Checks, wall: &WallClock) -> Result<(), String> {
    let vm = guest.vms.get(&guest.vm.id).await.map_err(text)?;
    if vm.state != VMState::Running {
        return Err(format!("after a move it is {}", vm.state));
    }
    checks.go_on(guest).await?;
    wall.check(guest).await
}

/// Begins a move.
async fn start(
    guest: &Guest,
    to: &str,
    options: MigrationOptions,
) -> Result<MigrationStatus, String> {
    let options = MigrationOptions {
        max_downtime: DOWNTIME,
        encrypt_transport: false,
        ..options
    };
    guest
        .vms
        .migrate(&guest.vm.id, to, options)
        .await
        .map_err(text)
}

/// The end of a move.
async fn ended(guest: &Guest, started: MigrationStatus) -> Result<MigrationStatus, String> {
    let mut progress = guest
        .vms
        .migration_progress(&started.id)
        .await
        .map_err(text)?;
    let mut last = started;
    while let Some(status) = progress.next().await {
        last = status;
    }
    match progress.error() {
        None => Ok(last),
        Some(error) => Err(format!("{error}, after {last:?}")),
    }
}
