//! Run virtual machines on KVM and move them, live, between hosts.

pub mod error;
pub mod model;

pub mod action;

#[cfg(feature = "client")]
mod client;

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
mod wire;

pub use action::{Action, Item, Outcome, Role, Subscription};
#[cfg(feature = "client")]
pub use client::{
    Client, ClientConfig, Console, ConsoleWriter, Events, Items, MetricsStream, MigrationProgress,
    VMClient,
};
pub use error::{DWCPError, ErrorCode, Result};
pub use model::{
    Affinity, ClientMetrics, DowntimeBreakdown, Filters, GuestReport, Health, HealthStatus,
    LostEvents, MigrationBytes, MigrationMode, MigrationOptions, MigrationPlan, MigrationState,
    MigrationStatus, Misfit, NetworkConfig, NetworkInterface, NetworkMode, NodeCapabilities,
    NodeInfo, NodeLimits, OnTimeout, RoundReport, SameHost, Snapshot, SnapshotOptions, StopOptions,
    Timestamp, VM, VMConfig, VMConfigBuilder, VMEvent, VMEventType, VMMetrics, VMState,
};

#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub use node::{Backend, Node, NodeBuilder};

#[cfg(test)]
mod test_support;
