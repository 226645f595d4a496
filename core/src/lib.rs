//! Run virtual machines on KVM and move them, live, between hosts.
//!
//! A program links this library to be a node ([`Node`]: it runs VMs, in its own process) or to ask
//! one ([`Client`]). It is to VMs what SQLite is to data: no daemon, no global state, many nodes and
//! many VMs in one process, and dropping a handle gives back all that it held.
//!
//! # A node, and a VM on it
//!
//! ```
//! use std::time::Duration;
//!
//! use dwcp::{Backend, Node, VMConfig, VMState};
//! use futures::StreamExt;
//!
//! # #[cfg(not(all(feature = "node", target_os = "linux", target_arch = "x86_64")))]
//! # fn main() {}
//! # #[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
//! # #[tokio::main]
//! # async fn main() -> dwcp::Result<()> {
//! // The simulated back end needs no KVM; leave the line out for the real one.
//! let node = Node::builder("node-01").backend(Backend::Sim).start().await?;
//! let vms = node.client().vm();
//!
//! let config = VMConfig::builder().name("web").memory(64 << 20).cpus(2).build()?;
//! let vm = vms.create(config).await?;
//! let mut events = vms.watch(&vm.id).await?;
//! vms.start(&vm.id).await?;
//!
//! // The first item is the present state, so this ends whatever was faster.
//! while let Some(event) = events.next().await {
//!     println!("[{}] {}: {}", event.timestamp, event.event_type, event.message);
//!     if event.vm.state == VMState::Running {
//!         break;
//!     }
//! }
//!
//! // The built-in guest checks its own memory when it is asked to.
//! let report = vms.verify(&vm.id).await?;
//! assert!(report.verified);
//!
//! vms.stop(&vm.id, false).await?;
//! vms.destroy(&vm.id).await?;
//! node.shutdown(Duration::from_secs(10)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # How it is made
//!
//! * **One enum is all a node can be asked**: [`Action`] is answered by one [`Outcome`],
//!   [`Subscription`] by a stream of [`Item`]s. The methods of [`VMClient`] say the same with
//!   types; [`Client::call`] and [`Client::subscribe`] take them as they are.
//! * **States are told, not polled**: [`VMClient::watch`] begins with the present state and goes on
//!   with every event, in order. Who reads too slowly is told how many it missed.
//! * **Errors have a code**: [`DWCPError`] is the one error type, [`ErrorCode`] what it is on the
//!   wire. A request that is not legal in the VM's state names the state and the legal ones.
//! * **Limits have names**: what callers, guests and peers can make a node hold is bounded, and the
//!   error says by which limit.
//! * **The guest that is built in**, `dwcp/pulse`, fills memory, writes to it at a set rate, beats
//!   and checks itself. What it is to do is said in annotations of its VM: `dwcp.pulse/fill`,
//!   `working-set` (bytes), `dirty-pages-per-second`, `beat-hz`, `spin`.
//!
//! # A VM that moves
//!
//! ```
//! use dwcp::{Backend, MigrationOptions, MigrationState, Node, VMConfig};
//! use futures::StreamExt;
//!
//! # #[cfg(not(all(feature = "node", target_os = "linux", target_arch = "x86_64")))]
//! # fn main() {}
//! # #[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
//! # #[tokio::main]
//! # async fn main() -> dwcp::Result<()> {
//! let node = |name| Node::builder(name).backend(Backend::Sim).listen("127.0.0.1:0");
//! let (here, there) = (node("node-01").start().await?, node("node-02").start().await?);
//! for (one, other) in [(&here, &there), (&there, &here)] {
//!     let address = other.address().map(|address| address.to_string());
//!     one.add_peer(other.name(), address.unwrap_or_default())?;
//! }
//! let vms = here.client().vm();
//! let vm = vms.create(VMConfig::builder().name("web").memory(64 << 20).build()?).await?;
//! vms.start(&vm.id).await?;
//!
//! // These nodes have no TLS, and what is promised and cannot be kept is refused.
//! let options = MigrationOptions { encrypt_transport: false, ..Default::default() };
//! let migration = vms.migrate(&vm.id, "node-02", options).await?;
//! let mut progress = vms.migration_progress(&migration.id).await?;
//! while let Some(status) = progress.next().await {
//!     println!("{} {:.0} %", status.state, status.progress);
//! }
//! let status = vms.get_migration_status(&migration.id).await?;
//! assert_eq!(status.state, MigrationState::Completed);
//! assert_eq!(there.client().vm().get(&vm.id).await?.node, "node-02");
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do yet
//!
//! Each of these is an [`Unsupported`](DWCPError::Unsupported) error that names it, never a pretended
//! success: planning a migration; moving a VM that is stopped; images other than `dwcp/pulse`, and with
//! them disks, networks and all other devices. Snapshots are whole and taken while the guest stands
//! still. The memory of VMs ends with the process of their node; with a data directory it knows them when
//! it starts again, and says what became of them.
//!
//! # Features
//!
//! `client` builds on every platform and has no KVM code. `node` is for Linux on x86-64, and nothing
//! elsewhere. Both are on by default.

#![cfg_attr(
    not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the guide is about nodes too"
    )
)]
// Tests count in numbers that they choose.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod error;
pub mod model;

pub mod action;

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
#[cfg_attr(
    not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
    allow(dead_code, unused_imports, reason = "a node's half is in it too")
)]
mod transport;

#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod guest;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod hypervisor;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod machine;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod memory;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod migration;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod node;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod snapshot;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod storage;
#[cfg(feature = "client")]
#[cfg_attr(
    not(any(
        test,
        all(feature = "node", target_os = "linux", target_arch = "x86_64")
    )),
    allow(dead_code, unused_imports, reason = "a node's half is in it too")
)]
mod wire;

pub use action::{Action, Item, Outcome, Role, Subscription};
#[cfg(feature = "client")]
pub use client::{
    Client, ClientConfig, ClientPool, Console, ConsoleWriter, Events, Items, MetricsStream,
    MigrationProgress, VMClient,
};
pub use error::{DWCPError, ErrorCode, Result};
pub use model::{
    Affinity, ClientMetrics, DowntimeBreakdown, Drained, Filters, GuestReport, Health,
    HealthStatus, Image, LostEvents, MigrationBytes, MigrationMode, MigrationOptions,
    MigrationPlan, MigrationState, MigrationStatus, Misfit, NetworkConfig, NetworkInterface,
    NetworkMode, NodeCapabilities, NodeInfo, NodeLimits, OnTimeout, RoundReport, SameHost,
    Snapshot, SnapshotOptions, StopOptions, Timestamp, VM, VMConfig, VMConfigBuilder, VMEvent,
    VMEventType, VMMetrics, VMState,
};

#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub use node::{Backend, Node, NodeBuilder, NodeKeys};

#[cfg(all(test, feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod test_support;

/// What the targets in `fuzz/` call, and nobody else.
#[cfg(all(fuzzing, feature = "node", target_os = "linux", target_arch = "x86_64"))]
#[doc(hidden)]
pub mod fuzzing {
    /// See `wire::session::fuzz_frames`.
    pub fn frames(data: &[u8]) {
        crate::wire::session::fuzz_frames(data);
    }

    /// See `wire::message::fuzz_messages`.
    pub fn messages(data: &[u8]) {
        crate::wire::message::fuzz_messages(data);
    }

    /// See `wire::session::fuzz_session`.
    pub fn sessions(data: &[u8]) {
        crate::wire::session::fuzz_session(data);
    }

    /// See `migration::fuzz_migration`.
    pub fn migration(data: &[u8]) {
        crate::migration::fuzz_migration(data);
    }

    /// See `machine::fuzz_kernel`.
    pub fn kernel(data: &[u8]) {
        crate::machine::fuzz_kernel(data);
    }

    /// See `snapshot::fuzz_snapshot`.
    pub fn snapshot(data: &[u8]) {
        crate::snapshot::fuzz_snapshot(data);
    }

    /// See `machine::fuzz_registers`.
    pub fn virtio_mmio(data: &[u8]) {
        crate::machine::fuzz_registers(data);
    }

    /// See `machine::fuzz_block`.
    pub fn virtio_block(data: &[u8]) {
        crate::machine::fuzz_block(data);
    }

    /// See `machine::fuzz_rng`.
    pub fn virtio_rng(data: &[u8]) {
        crate::machine::fuzz_rng(data);
    }

    /// See `machine::fuzz_balloon`.
    pub fn virtio_balloon(data: &[u8]) {
        crate::machine::fuzz_balloon(data);
    }
}
