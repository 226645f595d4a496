//! The Rust snippets of the reference guide, with a node in this process: what the guide shows compiles
//! and does what it says.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::time::Duration;

use dwcp::{
    Backend, Client, ClientConfig, DWCPError, Node, Result, Role, VM, VMClient, VMConfig, VMState,
};
use futures::StreamExt;

async fn node() -> Node {
    let node = Node::builder("node-01").backend(Backend::Sim);
    node.start().await.unwrap()
}

#[tokio::test]
async fn quick_start() -> Result<(), Box<dyn std::error::Error>> {
    let node = node().await;
    let client = node.client();

    // Create VM
    let vm_config = VMConfig::builder()
        .name("my-vm")
        .memory(2 * 1024 * 1024 * 1024) // 2GB
        .cpus(2)
        .build()?;

    let vm_client = client.vm();
    let vm = vm_client.create(vm_config).await?;
    println!("Created VM: {} (ID: {})", vm.name, vm.id);

    // Start VM
    vm_client.start(&vm.id).await?;
    println!("VM started");
    assert_eq!(vm_client.get(&vm.id).await?.state, VMState::Running);
    Ok(())
}

#[tokio::test]
async fn quick_start_over_a_network() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let node = Node::builder("node-01")
        .backend(Backend::Sim)
        .listen("127.0.0.1:0")
        .tls_dir(dir.path())
        .api_key("your-api-key", Role::Admin);
    let node = node.start().await?;
    let port = node.address().unwrap().port();

    let config = ClientConfig::new("localhost")
        .with_port(port)
        .with_api_key("your-api-key")
        .with_tls_enabled(true)
        .with_ca_file(dir.path().join("ca.pem"));
    let client = Client::new(config.clone()).await?;
    let vm_config = VMConfig::builder().name("my-vm").memory(32 << 20).build()?;
    let vms = client.vm();
    let vm = vms.create(vm_config).await?;
    vms.start(&vm.id).await?;
    assert_eq!(vms.get(&vm.id).await?.state, VMState::Running);
    assert!(client.is_authenticated());

    let wrong = Client::new(config.with_api_key("not-my-api-key")).await;
    assert!(
        matches!(wrong, Err(DWCPError::Authentication(_))),
        "{wrong:?}"
    );
    Ok(())
}

#[tokio::test]
async fn builder_pattern() -> Result<()> {
    // Use builder pattern for configuration
    let vm_config = VMConfig::builder()
        .name("web-server")
        .memory(4 * 1024_u64.pow(3))
        .cpus(4)
        .disk(40 * 1024_u64.pow(3))
        .image("ubuntu-22.04")
        .enable_gpu(false)
        .enable_tpm(true)
        .labels(vec![("env", "production"), ("tier", "web")])
        .build()?;
    let error = node().await.client().vm().create(vm_config).await;
    match error.unwrap_err() {
        DWCPError::Unsupported(text) => assert!(text.contains("enable_tpm"), "{text}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn async_streams() -> Result<()> {
    let node = node().await;
    let vm_client = node.client().vm();
    let vm_id = vm_client.create(support::config("web")).await?.id;
    vm_client.start(&vm_id).await?;

    // Watch VM events using streams
    let mut events = vm_client.watch(&vm_id).await?;

    while let Some(event) = events.next().await {
        println!(
            "[{}] {}: {}",
            event.timestamp, event.event_type, event.message
        );

        if event.vm.state == VMState::Running {
            break;
        }
    }
    Ok(())
}

async fn create_and_start_vm(vm_client: &VMClient, vm_config: VMConfig) -> Result<VM> {
    let vm = vm_client.create(vm_config).await?;
    vm_client.start(&vm.id).await?;
    Ok(vm)
}

#[tokio::test]
async fn error_handling() {
    let node = node().await;
    let vm_client = node.client().vm();

    // Handle errors
    match create_and_start_vm(&vm_client, support::config("web")).await {
        Ok(vm) => println!("Success: {}", vm.id),
        Err(DWCPError::VMNotFound(id)) => {
            println!("VM not found: {}", id);
        }
        Err(DWCPError::Connection(msg)) => {
            println!("Connection error: {}", msg);
        }
        Err(e) => {
            println!("Error: {}", e);
        }
    }
    assert_eq!(
        vm_client.list([("state", "running")]).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn metrics_collection() -> Result<()> {
    let node = node().await;
    let vm_client = node.client().vm();
    let vm_id = create_and_start_vm(&vm_client, support::config("web"))
        .await?
        .id;

    // Stream real-time metrics
    let mut metrics_stream = vm_client
        .stream_metrics(&vm_id, Duration::from_millis(10))
        .await?;

    let mut seen = 0;
    while let Some(metrics) = metrics_stream.next().await {
        println!("CPU: {:.2}%", metrics.cpu_usage);
        println!(
            "Memory: {:.1} GB",
            metrics.memory_used as f64 / 1024_f64.powi(3)
        );
        seen += 1;
        if seen == 2 {
            vm_client.stop(&vm_id, true).await?;
        }
    }
    assert!(seen >= 2);
    Ok(())
}

#[tokio::test]
async fn one_client_for_many_tasks() {
    let node = node().await;
    let client = node.client();
    let handles: Vec<_> = (0..20)
        .map(|n| {
            let vms = client.vm();
            tokio::spawn(async move { vms.create(support::config(&format!("vm-{n}"))).await })
        })
        .collect();
    for made in futures::future::join_all(handles).await {
        made.unwrap().unwrap();
    }
    assert_eq!(client.vm().list(()).await.unwrap().len(), 20);
    assert_eq!(client.metrics().errors_total, 0);
}
