//! Two nodes in this process, a VM on one of them, and its move to the other while it runs: the same story
//! as in C, Python, TypeScript and Go.
//!
//! `cargo run --example story`, or against two nodes that run elsewhere, over TLS, NAME being what the first
//! calls the second: `--remote ADDRESS_A ADDRESS_B --api-key KEY --ca-file CA.pem --peer NAME`.
//! `DWCP_BACKEND` says what runs the VMs of the nodes in this process: `kvm`, the default, or `sim`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

use std::process::ExitCode;
use std::time::Duration;

use dwcp::{
    Backend, Client, ClientConfig, DWCPError, MigrationOptions, MigrationState, Node,
    SnapshotOptions, VMConfig, VMState,
};
use futures::StreamExt;

type Failure = Box<dyn std::error::Error>;

/// What the command line says of nodes elsewhere.
#[derive(Default)]
struct Remote {
    addresses: Option<(String, String)>,
    api_key: Option<String>,
    ca_file: Option<String>,
    peer: Option<String>,
}

impl Remote {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Remote, Failure> {
        let mut remote = Remote::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--remote" => remote.addresses = Some((value()?, value()?)),
                "--api-key" => remote.api_key = Some(value()?),
                "--ca-file" => remote.ca_file = Some(value()?),
                "--peer" => remote.peer = Some(value()?),
                _ => return Err(format!("{arg} is not known").into()),
            }
        }
        Ok(remote)
    }

    async fn connect(&self, address: &str) -> Result<Client, Failure> {
        let (host, port) = address.rsplit_once(':').ok_or("an address is HOST:PORT")?;
        let mut config = ClientConfig::new(host).with_port(port.parse()?);
        config.api_key.clone_from(&self.api_key);
        config.ca_file = self.ca_file.as_ref().map(Into::into);
        Ok(Client::new(config).await?)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let told = async {
        let remote = Remote::parse(std::env::args().skip(1))?;
        let Some((a, b)) = &remote.addresses else {
            return embedded().await;
        };
        let (here, there) = (remote.connect(a).await?, remote.connect(b).await?);
        let target = remote.peer.as_deref().unwrap_or("node-b");
        story(&here, &there, target, true).await?;
        here.close().await;
        there.close().await;
        Ok::<_, Failure>(())
    };
    match told.await {
        Ok(()) => {
            println!("story: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn embedded() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let backend = match std::env::var("DWCP_BACKEND").as_deref() {
        Ok("sim") => Backend::Sim,
        _ => Backend::Kvm,
    };
    let node = |name: &str| {
        let builder = Node::builder(name).backend(backend).listen("127.0.0.1:0");
        builder.data_dir(dir.path().join(name)).start()
    };
    let (here, there) = (node("node-a").await?, node("node-b").await?);
    for (one, other) in [(&here, &there), (&there, &here)] {
        let address = other.address().ok_or("a node without an address")?;
        one.add_peer(other.name(), address.to_string())?;
    }
    story(&here.client(), &there.client(), "node-b", false).await?;
    here.shutdown(Duration::from_secs(5)).await?;
    there.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// What is told of either pair of nodes: `here` has the VM first, and calls the other one `target`.
async fn story(here: &Client, there: &Client, target: &str, encrypt: bool) -> Result<(), Failure> {
    let vms = here.vm();
    let config = VMConfig::builder()
        .name("story-rust")
        .memory(64 << 20)
        .cpus(1);
    let config = config
        .annotations([("dwcp.pulse/fill", "4194304")])
        .build()?;
    let vm = vms.create(config).await?;
    println!("created {}, which is {}", vm.id, vm.state);

    let mut events = vms.watch(&vm.id).await?;
    vms.start(&vm.id).await?;
    while let Some(event) = events.next().await {
        println!("event {}: {}", event.event_type, event.vm.state);
        if event.vm.state == VMState::Running {
            break;
        }
    }

    let metrics = vms.get_metrics(&vm.id, Duration::from_secs(60)).await?;
    println!("memory used: {} bytes", metrics.memory_used);
    let mut figures = vms
        .stream_metrics(&vm.id, Duration::from_millis(50))
        .await?;
    for _ in 0..10 {
        let metrics = figures.next().await.ok_or("the figures ended")?;
        println!("cpu: {:.1} %", metrics.cpu_usage);
    }

    let snapshot = vms
        .snapshot(&vm.id, "before", SnapshotOptions::default())
        .await?;
    println!("snapshot {}: {} bytes", snapshot.name, snapshot.size);
    vms.restore_snapshot(&vm.id, &snapshot.id).await?;
    println!("restored");

    let options = MigrationOptions {
        encrypt_transport: encrypt,
        ..MigrationOptions::default()
    };
    let migration = vms.migrate(&vm.id, target, options).await?;
    let mut progress = vms.migration_progress(&migration.id).await?;
    while let Some(status) = progress.next().await {
        println!("migration {}: {:.0} %", status.state, status.progress);
    }
    let status = vms.get_migration_status(&migration.id).await?;
    if status.state != MigrationState::Completed {
        return Err(format!("the migration ended otherwise: {:?}", status.error).into());
    }
    println!("moved, with {} ms of silence", status.downtime);
    let moved = there.vm().get(&vm.id).await?;
    println!("it is {} on {}", moved.state, moved.node);

    match vms.get("00000000-0000-4000-8000-000000000000").await {
        Err(DWCPError::VMNotFound(id)) => println!("vm not found: {id}"),
        other => return Err(format!("an unknown VM is not known to be unknown: {other:?}").into()),
    }
    there.vm().stop(&vm.id, true).await?;
    there.vm().destroy(&vm.id).await?;
    println!("destroyed");
    Ok(())
}
