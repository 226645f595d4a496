//! What the tests of the library from outside share.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part, and a helper of tests fails the test"
)]

pub mod fault_proxy;
pub mod held;
pub mod node_process;
pub mod place;
pub mod proxy;
pub mod raw;

/// What the library's own tests use as well.
#[path = "../../src/test_support.rs"]
mod inside;

use std::time::Duration;

use dwcp::{
    Backend, DWCPError, Events, Node, NodeBuilder, VM, VMClient, VMConfig, VMEvent, VMState,
};
use futures::StreamExt;

pub(crate) use self::inside::{Witness, skipped, smallest_kernel};

/// A node for each back end that this host has, set up by `with`.
pub async fn nodes(test: &str, with: impl Fn(NodeBuilder) -> NodeBuilder) -> Vec<Node> {
    let mut nodes = Vec::new();
    for backend in [Backend::Sim, Backend::Kvm] {
        match with(Node::builder("node-01"))
            .backend(backend)
            .start()
            .await
        {
            Ok(node) => nodes.push(node),
            Err(DWCPError::Unsupported(reason)) if backend == Backend::Kvm => {
                skipped(&format!("{test} on KVM"), &reason);
            }
            Err(error) => panic!("{backend:?}: {error}"),
        }
    }
    nodes
}

/// A VM of 32 MiB with one vCPU, whose guest fills 1 MiB and looks for commands 100 times a second.
pub fn config(name: &str) -> VMConfig {
    with(
        VMConfig {
            name: name.into(),
            memory: 32 << 20,
            cpus: 1,
            ..VMConfig::default()
        },
        &[("fill", "1048576"), ("beat-hz", "100")],
    )
}

/// The same with more options of the built-in guest.
pub fn with(mut config: VMConfig, options: &[(&str, &str)]) -> VMConfig {
    for (name, value) in options {
        config
            .annotations
            .insert(format!("dwcp.pulse/{name}"), (*value).to_owned());
    }
    config
}

/// Waits until a VM is in a state; the event that says so.
pub async fn wait_for(vms: &VMClient, id: &str, state: VMState) -> VMEvent {
    let mut events = vms.watch(id).await.unwrap();
    wait(&mut events, |event| event.vm.state == state).await
}

/// Waits for an event.
pub async fn wait(events: &mut Events, is: impl Fn(&VMEvent) -> bool) -> VMEvent {
    let found = async {
        loop {
            let event = events.next().await.unwrap();
            if is(&event) {
                return event;
            }
        }
    };
    // So that a mistake is a failure and no endless run.
    tokio::time::timeout(Duration::from_secs(120), found)
        .await
        .unwrap()
}

/// A VM that runs, and whose guest has filled its memory.
pub async fn started(vms: &VMClient, config: VMConfig) -> VM {
    let vm = vms.create(config).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    whole(vms, &vm.id).await;
    vm
}

/// The guest runs, and its memory is what it should be, by its own check.
pub async fn whole(vms: &VMClient, id: &str) {
    let report = vms.verify(id).await.unwrap();
    assert!(report.verified && report.faults == 0, "{report:?}");
    assert!(report.pages_filled > 0);
}
