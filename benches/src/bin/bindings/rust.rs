//! The calls in Rust, which all others are compared with: as a program with Tokio makes them.

use std::{
    io,
    pin::pin,
    time::{Duration, Instant},
};

use dwcp::{Backend, Node, VM, VMClient, VMConfig, VMEvent, VMState};
use dwcp_benches::Failure;
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::task::JoinSet;

/// Does what it is told, line by line, as the programs in `benches/bindings` do.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let events = arguments.first().ok_or("how many events?")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // Spawned, so that all is done by the workers: this thread only waits.
    runtime.block_on(runtime.spawn(serve(events)))?
}

async fn serve(events: usize) -> Result<(), Failure> {
    let node = Node::builder("bench").backend(Backend::Sim);
    let node = node.event_ring(events).start().await?;
    let vms = node.client().vm();
    let id = vms.create(config()?).await?.id;
    println!("{}", json!({"version": "Rust"}));
    let mut line = String::new();
    while io::stdin().read_line(&mut line)? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, count, block] = words[..] else {
            return Err(format!("'{line}' is not understood").into());
        };
        let times = measure(&vms, &id, name, count.parse()?, block.parse()?).await?;
        println!("{}", serde_json::to_string(&times)?);
        line.clear();
    }
    node.shutdown(Duration::ZERO).await?;
    Ok(())
}

async fn measure(
    vms: &VMClient,
    id: &str,
    name: &str,
    count: u32,
    block: u32,
) -> Result<Vec<f64>, Failure> {
    let mut events = pin!(vms.watch(id).await?);
    if name.starts_with("stream") {
        for number in 0..count + block {
            let env = format!("production-{}", number % 10);
            let labels = [("env", env), ("tier", "web".to_owned())];
            let labels = labels.map(|(key, value)| (key.to_owned(), value));
            vms.update(id, Some(labels.into()), None).await?;
        }
    }
    let mut times = Vec::new();
    // The first block is not measured: what was fetched ahead is read with it.
    for at in 0..=count / block {
        let began = Instant::now();
        match name {
            "seq" => {
                for _ in 0..block {
                    check(vms.get(id).await?.state == VMState::Stopped)?;
                }
            }
            "seq-whole" => {
                for _ in 0..block {
                    whole(&vms.get(id).await?)?;
                }
            }
            "500" => at_once(vms, id, block).await?,
            "stream-item" => items(&mut events, block, |event| check(event.seq > 0)).await?,
            "stream-item-whole" => items(&mut events, block, |event| whole(&event.vm)).await?,
            _ => return Err(format!("'{name}' is not known").into()),
        }
        if at > 0 {
            times.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(block));
        }
    }
    Ok(times)
}

async fn at_once(vms: &VMClient, id: &str, count: u32) -> Result<(), Failure> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let (vms, id) = (vms.clone(), id.to_owned());
        calls.spawn(async move { vms.get(&id).await });
    }
    while let Some(call) = calls.join_next().await {
        check(call??.state == VMState::Stopped)?;
    }
    Ok(())
}

async fn items(
    events: &mut (impl Stream<Item = VMEvent> + Unpin),
    count: u32,
    read: impl Fn(&VMEvent) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for _ in 0..count {
        read(&events.next().await.ok_or("the stream has ended")?)?;
    }
    Ok(())
}

fn config() -> dwcp::Result<VMConfig> {
    VMConfig::builder()
        .name("web-server-01")
        .memory(64 << 20)
        .cpus(1)
        .image("dwcp/pulse")
        .labels([("env", "production"), ("tier", "web")])
        .annotations([("owner", "platform@example.com")])
        .build()
}

fn whole(vm: &VM) -> Result<(), Failure> {
    check(vm.config.memory > 0 && vm.config.labels["tier"] == "web")?;
    check(vm.labels["tier"] == "web" && !vm.annotations["owner"].is_empty())?;
    check(vm.created_at <= vm.updated_at)
}

fn check(holds: bool) -> Result<(), Failure> {
    if holds {
        return Ok(());
    }
    Err("the node says something else than it was told".into())
}
