//! The new process's part.

use std::path::Path;

use dwcp::{
    Client, ClientConfig, DWCPError, MigrationMode, MigrationOptions, MigrationState,
    MigrationStatus, Node, SameHost, VM, VMClient, VMState,
};
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};

use super::{Failure, pid_file};

/// Has all VMs of the process that listens at `from` handed over to `node`, says how it went, and has that
/// process end. Both have their data in `data`.
pub(crate) async fn all(node: &Node, from: &str, data: &Path) -> Result<(), Failure> {
    let old = Client::new(ClientConfig::new(from).with_tls_enabled(false)).await?;
    // It is asked about its VMs by its name.
    let name = old.node_info().await?.name;
    node.add_peer(&name, from)?;
    let vms = old.vm();
    let mut count = 0;
    // Somebody may start one meanwhile.
    while let Some(vm) = vms.list(()).await?.into_iter().next() {
        let status = one(&vms, &vm, node.name()).await?;
        if status.state != MigrationState::Completed {
            let why = status.error.unwrap_or_default();
            return Err(format!("{} stays with {from}: {why}", vm.name).into());
        }
        match status.mode {
            // It is stopped, and has no memory.
            MigrationMode::Offline => println!("MOVED {}, which is stopped", vm.name),
            mode => println!(
                "MOVED {} ({mode}): it stood still for {:.2} ms, {} bytes were sent",
                vm.name,
                status.downtime_us as f64 / 1000.0,
                status.bytes_sent
            ),
        }
        count += 1;
    }
    println!("TOOK OVER {count} VMs from {from}");
    old.close().await;
    let pid = std::fs::read_to_string(pid_file(data, &name))?.parse()?;
    let pid = Pid::from_raw(pid).ok_or("the old process has no number")?;
    kill_process(pid, Signal::TERM)?;
    Ok(())
}

/// Moves a VM, in the state it has; how that ended.
async fn one(vms: &VMClient, vm: &VM, to: &str) -> Result<MigrationStatus, DWCPError> {
    let stopped = matches!(vm.state, VMState::Stopped);
    let options = MigrationOptions {
        // Nothing but the machine's state is sent, over a socket of this host.
        encrypt_transport: false,
        offline: stopped,
        same_host: match stopped {
            true => SameHost::Auto,
            // Copying would work too, and take as long as its memory is large.
            false => SameHost::Require,
        },
        ..MigrationOptions::default()
    };
    let begun = vms.migrate(&vm.id, to, options).await?;
    let mut progress = vms.migration_progress(&begun.id).await?;
    let mut last = begun;
    while let Some(status) = progress.next().await {
        last = status;
    }
    match progress.error() {
        Some(error) => Err(error),
        None => Ok(last),
    }
}
