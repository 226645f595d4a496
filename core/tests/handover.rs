//! What operators meet when VMs change hands: nodes that are not who they were, answers that are lost,
//! what can be done meanwhile, and the limit on the downtime.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

#[path = "handover/identity.rs"]
mod identity;
#[path = "handover/limit.rs"]
mod limit;
#[path = "handover/operations.rs"]
mod operations;
#[path = "handover/options.rs"]
mod options;
#[path = "handover/restored.rs"]
mod restored;
#[path = "handover/same_host.rs"]
mod same_host;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use dwcp::{
    Backend, MigrationOptions, MigrationState, MigrationStatus, Node, NodeBuilder, SameHost, VM,
    VMClient, VMConfig, VMState,
};
use futures::StreamExt;
use support::fault_proxy::{Fault, FaultProxy, Rule, Way};
use support::{config, skipped, started, wait_for, whole, with};

/// Time for what has to come, on a host that does other things too.
const LONG: Duration = Duration::from_secs(60);

/// The back ends of this host.
async fn backends(test: &str) -> Vec<Backend> {
    support::node_process::backends(|reason| skipped(&format!("{test} on KVM"), &reason)).await
}

fn builder(name: &str, backend: Backend) -> NodeBuilder {
    Node::builder(name).backend(backend)
}

/// A node of which nothing outlives it.
async fn node(name: &str, backend: Backend) -> Node {
    let node = builder(name, backend).listen("127.0.0.1:0");
    node.start().await.unwrap()
}

fn address(node: &Node) -> SocketAddr {
    node.address().unwrap()
}

/// Two nodes that know each other.
fn introduce(a: &Node, b: &Node) {
    a.add_peer(b.name(), address(b).to_string()).unwrap();
    b.add_peer(a.name(), address(a).to_string()).unwrap();
}

/// The same, through a proxy: `a` is its side A.
fn link(a: &Node, b: &Node) -> Arc<FaultProxy> {
    let link = FaultProxy::start(address(a), address(b));
    a.add_peer(b.name(), link.to_b.to_string()).unwrap();
    b.add_peer(a.name(), link.to_a.to_string()).unwrap();
    Arc::new(link)
}

/// Nothing here is about TLS or checksums, and hardly anything about memory that is handed over.
fn plain() -> MigrationOptions {
    MigrationOptions {
        same_host: SameHost::Never,
        encrypt_transport: false,
        verify_checksum: false,
        max_downtime: 30_000,
        ..MigrationOptions::default()
    }
}

/// A small guest with a quick heart.
fn small(name: &str) -> VMConfig {
    let config = VMConfig {
        memory: 16 << 20,
        ..config(name)
    };
    with(config, &[("beat-hz", "1000")])
}

/// Waits for the end of a migration.
async fn ended(vms: &VMClient, migration: &str) -> MigrationStatus {
    let progress = vms.migration_progress(migration).await.unwrap();
    let all = tokio::time::timeout(LONG, progress.collect::<Vec<_>>()).await;
    let Ok(all) = all else {
        let status = vms.get_migration_status(migration).await;
        panic!("it does not end: {status:?}");
    };
    all.into_iter().next_back().unwrap()
}

/// Moves a VM.
async fn moved(vms: &VMClient, id: &str, to: &Node) {
    let migration = vms.migrate(id, to.name(), plain()).await.unwrap();
    let status = ended(vms, &migration.id).await;
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    whole(&to.client().vm(), id).await;
}

/// Holds a message for as long as this lives. Unlike what the proxy holds by itself, it goes on also when
/// it was let go before the proxy had come to wait.
struct Hold(Arc<(Mutex<bool>, Condvar)>);

impl Hold {
    /// Holds the next message of that name, with what follows on its connection.
    fn at(link: &FaultProxy, way: Way, operation: &str) -> Hold {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let own = Arc::clone(&gate);
        let wait = move || {
            let (open, opened) = &*own;
            drop(
                opened
                    .wait_while(open.lock().unwrap(), |open| !*open)
                    .unwrap(),
            );
        };
        link.rule(Rule::at(way, operation, Fault::Before(Box::new(wait))));
        Hold(gate)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// From the message on, nothing passes.
fn cut_at(link: &Arc<FaultProxy>, way: Way, operation: &str) {
    let own = Arc::clone(link);
    let refuse = Fault::Before(Box::new(move || own.refuse(true)));
    link.rule(Rule::at(way, operation, refuse));
    link.rule(Rule::at(way, operation, Fault::Cut));
}

/// Migrates a VM over a link that breaks at a message and stays broken, until the source says that it
/// cannot tell what became of it; the migration.
async fn lost_at(
    link: &Arc<FaultProxy>,
    way: Way,
    operation: &str,
    vms: &VMClient,
    id: &str,
    to: &Node,
) -> MigrationStatus {
    cut_at(link, way, operation);
    let migration = vms.migrate(id, to.name(), plain()).await.unwrap();
    let event = wait_for(vms, id, VMState::Unknown).await;
    let reason = event.vm.reason.unwrap();
    assert_says(
        &reason,
        &[
            "unresolved",
            to.name(),
            "does not answer",
            "does not run",
            "resolve_migration",
            &migration.id,
            "force",
        ],
    );
    let status = vms.get_migration_status(&migration.id).await.unwrap();
    assert_eq!(status.error.as_deref(), Some(reason.as_str()));
    assert_eq!(status.state, MigrationState::Completing);
    status
}

/// A text for an operator has these words.
#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// Waits until something holds that no event tells.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = Instant::now() + LONG;
    while !holds().await {
        assert!(Instant::now() < end, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a node has a VM, in whatever state.
async fn has(node: &Node, id: &str) -> bool {
    let all = node.client().vm().list(()).await.unwrap();
    all.iter().any(|vm| vm.id == id)
}

/// What a node that is not asked to end would leave: its store, as it is now.
fn backup(from: &Path, to: &Path) {
    for file in ["node.db", "node.db-wal"] {
        if from.join(file).exists() {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
}
