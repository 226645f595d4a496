//! The built-in guest, on a KVM that runs ring 0 as well.

use dwcp::{MigrationOptions, MigrationState, Node, VMConfig};
use futures::StreamExt;

use super::Played;
use crate::options::Options;

pub(super) async fn play(_: &Options) -> Played {
    story().await.map_err(|error| error.to_string())
}

async fn story() -> Result<String, dwcp::DWCPError> {
    let here = Node::builder("here").listen("127.0.0.1:0").start().await?;
    let there = Node::builder("there").listen("127.0.0.1:0").start().await?;
    if let Some(address) = there.address() {
        here.add_peer("there", address.to_string())?;
    }
    let vms = here.client().vm();
    let config = VMConfig::builder()
        .name("pulse")
        .memory(64 << 20)
        .cpus(2)
        .build()?;
    let vm = vms.create(config).await?;
    vms.start(&vm.id).await?;
    let options = MigrationOptions {
        encrypt_transport: false,
        ..Default::default()
    };
    let migration = vms.migrate(&vm.id, "there", options).await?;
    let mut progress = vms.migration_progress(&migration.id).await?;
    let mut last = migration;
    while let Some(status) = progress.next().await {
        last = status;
    }
    if last.state != MigrationState::Completed {
        return Err(dwcp::DWCPError::Migration(format!("{last:?}")));
    }
    let report = there.client().vm().verify(&vm.id).await?;
    if !report.verified {
        return Err(dwcp::DWCPError::Migration(format!("{report:?}")));
    }
    Ok(format!("downtime {} ms, memory whole", last.downtime))
}
