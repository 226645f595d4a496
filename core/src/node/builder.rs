//! Setting up a node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::disks::Disks;
use super::forward::Forwarders;
use super::images::Images;
use super::info::host_memory;
use super::keys::{Key, Keys};
use super::migrations::Migrations;
use super::once::Once;
use super::peers::{Peer, Tls};
use super::registry::Registry;
use super::server::{self, Listen, Server};
use super::snapshots::Snapshots;
use super::store::{Loaded, Store};
use super::{Node, Owner, Shared, migrations, recovery};
use crate::action::Role;
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Hypervisor, Kvm, Sim};
use crate::memory::has_huge_pages;
use crate::migration::Patience;
use crate::model::limits::{IMAGE_DEFAULT, IMAGE_LEN_MAX};
use crate::model::{NodeCapabilities, NodeLimits, validate};
use crate::transport::Listener;

/// What runs the VMs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// KVM. Needs `/dev/kvm`, and access to it.
    #[default]
    Kvm,
    /// A simulation: threads that do to a VM's memory what the built-in guest would do, for tests and
    /// for work on hosts without KVM. It shows as `sim` wherever a node says what it is.
    Sim,
}

/// Sets up a node. Made by [`Node::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing runs before start()"]
pub struct NodeBuilder {
    name: String,
    backend: Backend,
    data_dir: Option<PathBuf>,
    disk_dir: Option<PathBuf>,
    listen: Vec<String>,
    keys: Vec<(String, String, Role)>,
    tls: Option<Tls>,
    insecure: bool,
    peers: BTreeMap<String, Peer>,
    labels: BTreeMap<String, String>,
    limits: NodeLimits,
    default_image: String,
    event_ring: usize,
    peer_timeout: Duration,
}

impl NodeBuilder {
    /// Events kept where nothing else is said: minutes of a busy node, in a few MiB.
    pub const EVENT_RING_DEFAULT: usize = 4096;
    /// Most events that can be kept.
    pub const EVENT_RING_MAX: usize = 1 << 20;
    /// Most VMs where nothing else is said, in whatever state.
    pub const MAX_VMS_DEFAULT: u32 = 4096;
    /// Most vCPUs of running VMs where nothing else is said. Each is a thread of this process.
    pub const MAX_CPUS_DEFAULT: u32 = 4096;
    /// Most connections at once where nothing else is said. Each is a few KiB, and a descriptor.
    pub const MAX_CONNECTIONS_DEFAULT: u32 = 16_384;
    /// Most streams open at once where nothing else is said.
    pub const MAX_STREAMS_DEFAULT: u32 = 1024;

    /// Most migrations at once, from here and to here, where nothing else is said. Each is a handful of
    /// threads, and one to here a VM's memory within the limits on that.
    pub const MAX_MIGRATIONS_DEFAULT: u32 = 64;

    /// How long a peer may be silent where nothing else is said.
    pub const PEER_TIMEOUT_DEFAULT: Duration = Patience::DEFAULT;
    /// Least and most that it may.
    pub const PEER_TIMEOUT_MIN: Duration = Patience::MIN;
    /// See [`PEER_TIMEOUT_MIN`](NodeBuilder::PEER_TIMEOUT_MIN).
    pub const PEER_TIMEOUT_MAX: Duration = Patience::MAX;

    pub(super) fn new(name: &str) -> NodeBuilder {
        NodeBuilder {
            name: name.to_owned(),
            backend: Backend::default(),
            data_dir: None,
            disk_dir: None,
            listen: Vec::new(),
            keys: Vec::new(),
            tls: None,
            insecure: false,
            peers: BTreeMap::new(),
            labels: BTreeMap::new(),
            limits: NodeLimits::default(),
            default_image: IMAGE_DEFAULT.to_owned(),
            event_ring: Self::EVENT_RING_DEFAULT,
            peer_timeout: Self::PEER_TIMEOUT_DEFAULT,
        }
    }

    /// What runs the VMs. Default [`Backend::Kvm`]; there is no silent fall-back to the other.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// The directory where the node keeps what outlives it, made where it is missing: its UUID, its
    /// VMs and what became of them, events, keys, migrations, snapshots below `snapshots/`, and images
    /// below `images/`. One
    /// node at a time can use it. Without one, all of that ends with the node, and there are no
    /// snapshots and no images.
    ///
    /// A VM that ran when the node ended without being shut down is `failed` when it starts again,
    /// and says so in its `reason`. The label or annotation `dwcp.restart` of a VM says whether it is
    /// then started again: `never`, the default; `on-failure`; or `always`, which is also after the
    /// node was shut down while the VM ran.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// The directory where the disks of its VMs are, made where it is missing; without one, `disks/` below
    /// the [`data_dir`](NodeBuilder::data_dir). Nodes between which VMs with disks are to move share
    /// it, by a network file system whose locks hold between hosts, or as nodes of one host.
    pub fn disk_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.disk_dir = Some(path.into());
        self
    }

    /// An address to listen at, where clients and peers reach this node: `127.0.0.1:9000`, or
    /// `unix:/path` for a Unix socket; with port 0 the system chooses one, which [`Node::address`] says.
    /// May be called several times.
    ///
    /// A node without keys serves everybody on its host as an admin, and refuses to listen beyond it;
    /// with keys it does so with TLS, or where [`insecure`](NodeBuilder::insecure) says that none is
    /// wanted.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(address.into());
        self
    }

    /// A key of 8 to 512 bytes with which clients, or peers, are let in, and what it allows. With one,
    /// nobody is let in without. It is known as `key-1`, `key-2` and so on.
    pub fn api_key(self, key: impl Into<String>, role: Role) -> Self {
        let name = format!("key-{}", self.keys.len() + 1);
        self.named_key(name, key, role)
    }

    /// The same, with a name by which people know it. A client whose certificate the node's authority
    /// signed with that common name needs no key.
    pub fn named_key(
        mut self,
        name: impl Into<String>,
        key: impl Into<String>,
        role: Role,
    ) -> Self {
        self.keys.push((name.into(), key.into(), role));
        self
    }

    /// Serves with TLS, and dials peers with it, by a certificate of an authority of its own, both made
    /// in that directory where they are not there yet: for development, or for nodes to which the same
    /// `ca.pem` and `ca.key` were given. Clients reach the node with that `ca.pem`.
    pub fn tls_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.tls = Some(Tls::Development(dir.into()));
        self
    }

    /// Serves with TLS by that certificate, with those between it and its authority, and its key: PEM
    /// files. With an authority, peers and clients are known by certificates of it; without, peers by
    /// the platform's.
    pub fn tls_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        authority: Option<PathBuf>,
    ) -> Self {
        self.tls = Some(Tls::Files {
            certificate: certificate.into(),
            key: key.into(),
            authority,
        });
        self
    }

    /// Allows to listen beyond this host without TLS: keys and the memory of guests travel in the
    /// clear.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// A node to which VMs can be moved, by its name, and where it listens.
    pub fn peer(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.peers.insert(name.into(), Peer::new(address, None));
        self
    }

    /// The same, with the key of role `node` by which the peer knows this node.
    pub fn peer_with_credential(
        mut self,
        name: impl Into<String>,
        address: impl Into<String>,
        credential: impl Into<String>,
    ) -> Self {
        let peer = Peer::new(address, Some(credential.into()));
        self.peers.insert(name.into(), peer);
        self
    }

    /// A label of the node.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Labels of the node, added to those it has.
    pub fn labels<K: Into<String>, V: Into<String>>(
        mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let labels = labels.into_iter();
        self.labels
            .extend(labels.map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// What the node allows. A zero means the default: all memory of the host for `max_memory`, and
    /// for the others the constants of this type.
    pub fn limits(mut self, limits: NodeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The image of VMs whose config names none, which is the same as naming `dwcp/pulse`.
    pub fn default_image(mut self, image: impl Into<String>) -> Self {
        self.default_image = image.into();
        self
    }

    /// How many events are kept for watchers that are slow or come back, 1 to
    /// [`EVENT_RING_MAX`](NodeBuilder::EVENT_RING_MAX). Fewer are kept where VMs have very long
    /// annotations.
    pub fn event_ring(mut self, events: usize) -> Self {
        self.event_ring = events;
        self
    }

    /// How long a peer may be silent in a migration before it is taken for lost: until the switch, the
    /// migration then fails and the VM runs on where it is; after it, the peer is asked until it answers,
    /// at least this often. Three times as long it may take to make room for a VM, and to place the pages
    /// that are on their way. From [`PEER_TIMEOUT_MIN`](NodeBuilder::PEER_TIMEOUT_MIN) to
    /// [`PEER_TIMEOUT_MAX`](NodeBuilder::PEER_TIMEOUT_MAX); the two nodes need not agree.
    pub fn peer_timeout(mut self, timeout: Duration) -> Self {
        self.peer_timeout = timeout;
        self
    }

    /// Starts the node, on the Tokio runtime that calls.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] naming a setting that is not allowed; [`DWCPError::Unsupported`] where
    /// the back end cannot be used on this host, saying what to do; [`DWCPError::NotFound`] for a
    /// default image that it does not have.
    pub async fn start(self) -> Result<Node> {
        self.validate()?;
        let hypervisor: Arc<dyn Hypervisor> = match self.backend {
            Backend::Kvm => Arc::new(Kvm::open()?),
            Backend::Sim => Arc::new(Sim::new()),
        };
        self.start_on(hypervisor).await
    }

    /// Starts the node with whatever makes its VMs.
    pub(super) async fn start_on(self, hypervisor: Arc<dyn Hypervisor>) -> Result<Node> {
        let limits = self.effective_limits();
        let keys = self.keys.iter();
        let keys = keys
            .map(|(name, key, role)| Key::new(name, key, *role))
            .collect::<Result<Vec<_>>>()?;
        let (serve_tls, dial_tls) = match &self.tls {
            Some(tls) => {
                let (serve, dial) = tls.load(&self.name, &self.listen)?;
                (Some(serve), Some(Arc::new(dial)))
            }
            None => (None, None),
        };
        let listen = Listen {
            addresses: self.listen,
            tls: serve_tls,
            insecure: self.insecure,
        };
        let data_dir = self.data_dir.clone();
        let (store, mut loaded) = open_store(self.data_dir).await?;
        // After the store, which sees to it that the directory is nobody else's.
        let answers = loaded.answers.clone();
        let disk_dir = self
            .disk_dir
            .or_else(|| data_dir.as_ref().map(|dir| dir.join("disks")));
        let uuid = loaded.uuid.clone();
        let stored: BTreeSet<String> = loaded.vms.iter().map(|own| own.vm.id.clone()).collect();
        let (snapshots, images, disks) = Handle::current()
            .spawn_blocking(move || {
                let snapshots = Snapshots::open(data_dir.as_deref(), &answers)?;
                let images = Images::open(data_dir.as_deref())?;
                let disks = Disks::open(disk_dir, &uuid, &stored)?;
                Ok::<_, DWCPError>((snapshots, images, disks))
            })
            .await
            .map_err(|error| super::broken(&error))??;
        let created = |text: &str| serde_json::from_str(text).ok().map(Arc::new);
        let store = Arc::new(store);
        let keys = Keys::new(keys, Arc::clone(&store))?;
        let listeners = server::bind(&listen, &keys).await?;
        if self.default_image != IMAGE_DEFAULT && images.find(&self.default_image).is_none() {
            return Err(DWCPError::NotFound(format!(
                "default_image: this node has no image `{}`",
                self.default_image
            )));
        }
        let shared = Arc::new(Shared {
            registry: Registry::new(
                &self.name,
                limits,
                self.event_ring,
                Arc::clone(&store),
                &mut loaded,
            ),
            streams: Arc::new(Semaphore::new(limits.max_streams as usize)),
            name: self.name,
            uuid: std::mem::take(&mut loaded.uuid),
            backend: self.backend,
            hypervisor,
            limits,
            capabilities: NodeCapabilities {
                cpu_pinning: true,
                huge_pages: has_huge_pages(),
                cpu_quota: true,
                disk: disks.are_kept(),
                disk_iops_limit: disks.are_kept(),
                io_threads: disks.are_kept(),
                ..NodeCapabilities::default()
            },
            labels: self.labels,
            peers: RwLock::new(self.peers),
            patience: Patience::new(self.peer_timeout),
            dial_tls,
            keys,
            doubts: recovery::Doubts::default(),
            forwarders: Forwarders::default(),
            server: Server::new(limits.max_connections),
            migrations: Migrations::new(Arc::clone(&store), limits, &mut loaded),
            store,
            snapshots,
            images,
            disks,
            default_image: self.default_image,
            created: Once::new("create", &loaded.answers, created),
            address: OnceLock::new(),
            runtime: Handle::current(),
            started: Instant::now(),
        });
        if let Some(first) = listeners.iter().find_map(Listener::socket_address) {
            // Set once, here.
            let _ = shared.address.set(first);
        }
        let restarts = recovery::recover(&shared).await?;
        let mut tasks = vec![tokio::spawn(Arc::clone(&shared).sample()).abort_handle()];
        for one in listeners {
            let serving = tokio::spawn(server::serve(Arc::clone(&shared), one));
            tasks.push(serving.abort_handle());
        }
        recovery::restart(&shared, restarts);
        tasks.extend(migrations::settle_recovered(&shared));
        Ok(Node(Arc::new(Owner { shared, tasks })))
    }

    fn validate(&self) -> Result<()> {
        validate::name("name", &self.name)?;
        validate::labels("labels", &self.labels)?;
        for (name, peer) in &self.peers {
            peer.check(name)?;
        }
        for address in &self.listen {
            validate::text("listen", address, MAX_ADDRESS)?;
        }
        validate::text("default_image", &self.default_image, IMAGE_LEN_MAX)?;
        if !(1..=Self::EVENT_RING_MAX).contains(&self.event_ring) {
            return validate::wrong(
                "event_ring",
                format_args!("must be 1 to {}", Self::EVENT_RING_MAX),
            );
        }
        let allowed = Self::PEER_TIMEOUT_MIN..=Self::PEER_TIMEOUT_MAX;
        if !allowed.contains(&self.peer_timeout) {
            return validate::wrong(
                "peer_timeout",
                format_args!("must be {:?} to {:?}", allowed.start(), allowed.end()),
            );
        }
        Ok(())
    }

    fn effective_limits(&self) -> NodeLimits {
        let mut limits = self.limits;
        if limits.max_memory == 0 {
            limits.max_memory = match host_memory().total {
                // A host that does not say sets no limit of its own.
                0 => u64::MAX,
                total => total,
            };
        }
        for (limit, default) in [
            (&mut limits.max_vms, Self::MAX_VMS_DEFAULT),
            (&mut limits.max_cpus, Self::MAX_CPUS_DEFAULT),
            (&mut limits.max_streams, Self::MAX_STREAMS_DEFAULT),
            (&mut limits.max_connections, Self::MAX_CONNECTIONS_DEFAULT),
            (&mut limits.max_migrations_out, Self::MAX_MIGRATIONS_DEFAULT),
            (&mut limits.max_migrations_in, Self::MAX_MIGRATIONS_DEFAULT),
        ] {
            if *limit == 0 {
                *limit = default;
            }
        }
        limits
    }
}

/// Opens the store off the async threads.
async fn open_store(data_dir: Option<PathBuf>) -> Result<(Store, Loaded)> {
    let Some(data_dir) = data_dir else {
        return Store::open(None);
    };
    let opened = tokio::task::spawn_blocking(move || Store::open(Some(&data_dir)));
    opened
        .await
        .map_err(|error| DWCPError::Internal(format!("data_dir: {error}")))?
}

/// Longest address in bytes: a DNS name with a port, or the path of a Unix socket, is shorter.
pub(super) const MAX_ADDRESS: usize = 512;
