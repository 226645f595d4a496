//! Being a node: running VMs for whoever asks.
//!
//! [`Node`] is the handle; `builder` sets it up. `registry` has the VMs and what happened to them
//! (`events`), `lifecycle` changes them, `run` is what a machine tells the node, `metrics`, `guest`
//! and `info` answer questions, `streams` feeds subscribers, `keyboard` lets one of them type, `once` makes a
//! repeated request one, `migrations` moves VMs, `snapshots` keeps what they were, `images` has what they boot,
//! `disks` where they write, `server` lets clients and peers in, `keys` knows what they may, `peers` how others are
//! reached, and `forward` asks them for VMs that moved there. `service` is the door: every request comes in as an
//! `Action`.
//! What is to outlive the node goes to the `store`, and `recovery` says what became of it.

#![forbid(unsafe_code)]

mod balloon;
mod builder;
mod disks;
mod events;
mod forward;
mod guest;
mod images;
mod info;
mod keyboard;
mod keys;
mod lifecycle;
mod metrics;
mod migrations;
mod once;
mod peers;
mod recovery;
mod registry;
mod run;
mod server;
mod service;
mod snapshots;
mod store;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinError};

pub use self::builder::{Backend, NodeBuilder};
use self::disks::Disks;
use self::forward::Forwarders;
use self::images::Images;
use self::keys::Keys;
pub use self::keys::NodeKeys;
use self::migrations::Migrations;
use self::once::Once;
use self::peers::Peer;
use self::recovery::Doubts;
use self::registry::Registry;
use self::server::Server;
use self::service::Local;
use self::snapshots::Snapshots;
use self::store::Store;
use crate::action::Action;
use crate::client::Client;
use crate::error::{DWCPError, Result};
use crate::hypervisor::Hypervisor;
use crate::migration::Patience;
use crate::model::{Drained, MigrationOptions, NodeCapabilities, NodeLimits, StopOptions, VM};
use crate::transport::ClientTls;

/// A node: runs VMs in this process, and answers clients.
///
/// Cheap to clone; the node ends with the last handle, and its VMs with it, at once. Clients do not
/// keep it: what they ask then is `unavailable`. [`shutdown`](Node::shutdown) gives the guests time.
///
/// # Examples
///
/// ```
/// use dwcp::{Backend, Node, VMConfig, VMState};
///
/// # #[tokio::main]
/// # async fn main() -> dwcp::Result<()> {
/// let node = Node::builder("node-01").backend(Backend::Sim).start().await?;
/// let vms = node.client().vm();
/// let vm = vms.create(VMConfig::builder().name("web").memory(32 << 20).build()?).await?;
/// vms.start(&vm.id).await?;
/// assert_eq!(vms.get(&vm.id).await?.state, VMState::Running);
/// node.shutdown(std::time::Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Node(Arc<Owner>);

/// What the handles of a node share: its end is the node's.
struct Owner {
    shared: Arc<Shared>,
    /// The sampler and the listeners.
    tasks: Vec<AbortHandle>,
}

impl Owner {
    fn abort_tasks(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.abort_tasks();
        if let Err(error) = self.shared.close() {
            tracing::error!(node = self.shared.name, %error, "what outlives the node is not complete");
        }
    }
}

/// A node's insides, shared by its tasks.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) uuid: String,
    backend: Backend,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) registry: Registry,
    pub(crate) capabilities: NodeCapabilities,
    limits: NodeLimits,
    labels: BTreeMap<String, String>,
    /// Nodes that are known, by name.
    peers: RwLock<BTreeMap<String, Peer>>,
    /// How long peers may be silent.
    patience: Patience,
    /// With what peers are dialled, where that is encrypted.
    dial_tls: Option<Arc<ClientTls>>,
    keys: Keys,
    /// VMs of which the peers have not been asked whether they are still this node's.
    doubts: Doubts,
    /// Connections to nodes that VMs moved to.
    forwarders: Forwarders,
    server: Server,
    /// Migrations under way, and what is remembered of others.
    migrations: Migrations,
    /// Snapshots of its VMs.
    snapshots: Snapshots,
    /// What its VMs can boot.
    images: Images,
    /// The disks of its VMs.
    disks: Disks,
    /// What outlives the node.
    store: Arc<Store>,
    default_image: String,
    /// VMs that were created with an idempotency key.
    created: Once<Arc<VM>>,
    /// Permits of the streams that are open.
    streams: Arc<Semaphore>,
    /// Where the node listens, once it does.
    pub(crate) address: OnceLock<SocketAddr>,
    /// The runtime the node was started on: its tasks run there, whoever calls.
    pub(crate) runtime: Handle,
    started: Instant,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.shared, f)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("backend", &self.hypervisor.name())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Sets up a node with that name, by which its peers know it.
    pub fn builder(name: impl AsRef<str>) -> NodeBuilder {
        NodeBuilder::new(name.as_ref())
    }

    /// A client in this process: its requests go to the node directly.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::of(Arc::new(Local(Arc::clone(&self.0.shared))))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.shared.name
    }

    /// Its UUID: that of its data directory, and of events and their numbers; new at each start of a
    /// node without one.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.0.shared.uuid
    }

    /// What runs its VMs.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.0.shared.backend
    }

    /// The same as a word: `kvm`, or `sim`.
    #[must_use]
    pub fn backend_name(&self) -> &'static str {
        self.0.shared.hypervisor.name()
    }

    /// Where its first listener is; `None` for a node without one, to which no VM can be moved.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.shared.address.get().copied()
    }

    /// Adds a peer, or gives it another address: the name of a node that VMs can be moved to, and where
    /// it listens.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] for what is no name of a node, or no address.
    pub fn add_peer(&self, name: impl Into<String>, address: impl Into<String>) -> Result<()> {
        let peer = Peer::new(address, None);
        self.0.shared.add_peer(name.into(), peer)
    }

    /// The same, with the key of role `node` by which the peer knows this node.
    ///
    /// # Errors
    ///
    /// As [`add_peer`](Node::add_peer).
    pub fn add_peer_with_credential(
        &self,
        name: impl Into<String>,
        address: impl Into<String>,
        credential: impl Into<String>,
    ) -> Result<()> {
        let peer = Peer::new(address, Some(credential.into()));
        self.0.shared.add_peer(name.into(), peer)
    }

    /// Its API keys.
    #[must_use]
    pub fn keys(&self) -> NodeKeys {
        NodeKeys(Arc::clone(&self.0.shared))
    }

    /// Takes and starts no VMs from now on: such requests are `unavailable`. Those that run go on,
    /// and can be stopped or moved away. There is no way back.
    pub fn drain(&self) {
        self.0.shared.registry.drain();
    }

    /// The same, and moves all VMs to these peers, one after the other, each in the state it has: one that
    /// runs goes on running, one that is stopped moves with its record. They take turns; a VM that one does
    /// not take is offered to the next. What became of each VM is said; one that no peer takes stays as it is.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] without a target, for one that is not known, and for options that are not
    /// allowed; then nothing has begun.
    pub async fn drain_to<T: Into<String>>(
        &self,
        targets: impl IntoIterator<Item = T>,
        options: MigrationOptions,
    ) -> Result<Vec<Drained>> {
        let targets: Vec<String> = targets.into_iter().map(Into::into).collect();
        let shared = Arc::clone(&self.0.shared);
        let work = async move { migrations::drain_to(&shared, &targets, &options).await };
        self.0.shared.job(work).await
    }

    /// Ends the node: drains it, asks all guests to stop, ends those by force that have not stopped
    /// within `timeout`, and waits until all is released. Later requests are `unavailable`.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Internal`] where the runtime the node was started on is gone, or not everything
    /// could be written to its data directory; its VMs have ended nevertheless.
    pub async fn shutdown(&self, timeout: Duration) -> Result<()> {
        let shared = Arc::clone(&self.0.shared);
        let began = Instant::now();
        shared.registry.drain();
        shared.registry.interrupt();
        let mut stops = Vec::new();
        for entry in shared.registry.active() {
            let options = StopOptions {
                force: false,
                timeout: Some(timeout),
            };
            let action = Action::Stop {
                vm_id: entry.id.clone(),
                options: options.clone(),
            };
            let shared = Arc::clone(&shared);
            // Whom it cannot stop is ended below.
            let stop = async move { shared.stop(action, options).await.is_ok() };
            stops.push(self.0.shared.runtime.spawn(stop));
        }
        let all = async {
            for stop in stops {
                // One that panicked has stopped nothing: that VM is ended below.
                let _ = stop.await;
            }
        };
        // A stop may have to wait for another operation first, and then gives its own time to the
        // guest: this is the limit of all of it.
        tokio::select! {
            () = all => {}
            () = sleep_on(&shared.runtime, timeout) => {}
        }
        self.0.abort_tasks();
        let left = timeout.saturating_sub(began.elapsed()).max(GOODBYE);
        // Those who are connected get the answers they wait for, within the same time.
        tokio::select! {
            () = shared.server.finish() => {}
            () = sleep_on(&shared.runtime, left) => {}
        }
        let entries = shared.registry.close();
        let closing = Arc::clone(&shared);
        let closed = shared.runtime.spawn_blocking(move || closing.close()).await;
        // What was under way finds that the node is over, and ends at once.
        for entry in entries {
            drop(entry.lock().await);
        }
        match closed {
            Ok(closed) => closed,
            Err(error) => {
                // What follows is worse news.
                let _ = shared.close();
                Err(DWCPError::Internal(format!("shutdown: {error}")))
            }
        }
    }
}

impl Shared {
    /// Ends the node and all its VMs, by force. Blocks until their threads have ended. Calling it
    /// again does nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Store::close`].
    fn close(&self) -> Result<()> {
        self.server.close();
        self.forwarders.clear();
        migrations::close(self);
        for entry in self.registry.close() {
            if let Some(machine) = entry.take_machine() {
                machine.pause();
            }
        }
        self.registry.closed();
        self.store.close()
    }

    /// Runs something that blocks off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.runtime.spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(broken(&error)),
        }
    }

    /// Runs a request as a task of the node, which ends even when the caller goes away.
    pub(crate) async fn job<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.runtime.spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(broken(&error)),
        }
    }
}

/// Least time for connections to get the answers they wait for at a shutdown.
const GOODBYE: Duration = Duration::from_millis(200);

/// Sleeps by the clock of a runtime, whoever waits.
async fn sleep_on(runtime: &Handle, time: Duration) {
    // It ends early only with the runtime, and then nothing is left to wait for.
    let _ = runtime.spawn(tokio::time::sleep(time)).await;
}

fn broken(error: &JoinError) -> DWCPError {
    if error.is_panic() {
        DWCPError::Internal("a task of the node panicked".into())
    } else {
        DWCPError::Unavailable("the runtime of the node has ended".into())
    }
}
