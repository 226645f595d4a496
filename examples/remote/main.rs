//! A VM's whole story, asked for over TLS: `cargo run --release --example remote`.
//!
//! Two nodes are started, each with a certificate and keys; all that follows goes over connections, as
//! it would from another host.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

use std::error::Error;
use std::time::Duration;

use dwcp::{
    Backend, Client, ClientConfig, DWCPError, MigrationOptions, MigrationState, Node, Role,
    SnapshotOptions, VMConfig, VMState,
};
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("dwcp-remote-{}", std::process::id()));
    let told = story(&dir).await;
    std::fs::remove_dir_all(&dir)?;
    told
}

async fn story(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    // A real deployment gives each node its own certificate, by an authority that all know.
    let backend = match std::path::Path::new("/dev/kvm").exists() {
        true => Backend::Kvm,
        false => Backend::Sim,
    };
    let node = |name: &str| {
        Node::builder(name)
            .backend(backend)
            .data_dir(dir.join(name))
            .listen("127.0.0.1:0")
            .tls_dir(dir.join("tls"))
            .api_key("operator-key", Role::Operator)
            .api_key("node-to-node-key", Role::Node)
    };
    let (one, two) = (
        node("node-01").start().await?,
        node("node-02").start().await?,
    );
    for (here, there) in [(&one, &two), (&two, &one)] {
        let address = there.address().ok_or("no address")?.to_string();
        here.add_peer_with_credential(there.name(), address, "node-to-node-key")?;
    }
    println!("two nodes ({}), TLS, keys", one.backend_name());

    let address = one.address().ok_or("no address")?;
    let config = ClientConfig::new(address.ip().to_string())
        .with_port(address.port())
        .with_ca_file(dir.join("tls/ca.pem"))
        .with_api_key("operator-key");
    let client = Client::new(config).await?;
    println!("connected to {}", client.node_info().await?.name);

    let vms = client.vm();
    let config = VMConfig::builder()
        .name("web")
        .memory(64 << 20)
        .cpus(1)
        .annotations([("dwcp.pulse/beat-hz", "100")])
        .build()?;
    let vm = vms.create(config).await?;
    println!("created {} ({})", vm.name, vm.id);

    vms.start(&vm.id).await?;
    let mut events = vms.watch(&vm.id).await?;
    while let Some(event) = events.next().await {
        println!("  event {}: {}", event.event_type, event.vm.state);
        if event.vm.state == VMState::Running {
            break;
        }
    }

    let mut figures = vms
        .stream_metrics(&vm.id, Duration::from_millis(100))
        .await?;
    for _ in 0..3 {
        let metrics = figures.next().await.ok_or("no figures")?;
        println!(
            "  cpu {:.1} %, {} MiB in use, {} exits",
            metrics.cpu_usage,
            metrics.memory_used >> 20,
            metrics.vm_exits
        );
    }
    drop(figures);

    let snapshot = vms
        .snapshot(&vm.id, "before-the-move", SnapshotOptions::default())
        .await?;
    println!("snapshot {}: {} KiB", snapshot.name, snapshot.size >> 10);
    vms.restore_snapshot(&vm.id, &snapshot.id).await?;
    println!("restored: {}", vms.get(&vm.id).await?.state);
    vms.delete_snapshot(&snapshot.id).await?;

    let migration = vms
        .migrate(&vm.id, "node-02", MigrationOptions::default())
        .await?;
    let mut progress = vms.migration_progress(&migration.id).await?;
    while let Some(status) = progress.next().await {
        println!("  {} {:.0} %", status.state, status.progress);
    }
    let status = vms.get_migration_status(&migration.id).await?;
    if status.state != MigrationState::Completed {
        return Err(format!("the VM stayed: {:?}", status.error).into());
    }
    println!(
        "moved in {:.1} ms of downtime, encrypted",
        status.downtime_us as f64 / 1e3
    );

    // The first node still answers for it.
    let vm = vms.get(&vm.id).await?;
    println!("now {} on {}", vm.state, vm.node);
    match vms.get("00000000-0000-4000-8000-000000000000").await {
        Err(DWCPError::VMNotFound(text)) => println!("an unknown VM is an error: {text}"),
        other => return Err(format!("an unknown VM: {other:?}").into()),
    }
    vms.stop(&vm.id, true).await?;
    vms.destroy(&vm.id).await?;
    println!("destroyed");

    client.close().await;
    one.shutdown(Duration::from_secs(5)).await?;
    two.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
