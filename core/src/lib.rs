//! Run virtual machines on KVM and move them, live, between hosts.

pub mod error;
pub mod model;

pub mod action;

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
mod wire;

pub use action::{Action, Item, Outcome, Role, Subscription};
pub use error::{DWCPError, ErrorCode, Result};
pub use model::{
    Affinity, ClientMetrics, DowntimeBreakdown, Filters, GuestReport, Health, HealthStatus,
    LostEvents, MigrationBytes, MigrationMode, MigrationOptions, MigrationPlan, MigrationState,
    MigrationStatus, Misfit, NetworkConfig, NetworkInterface, NetworkMode, NodeCapabilities,
    NodeInfo, NodeLimits, OnTimeout, RoundReport, SameHost, Snapshot, SnapshotOptions, StopOptions,
    Timestamp, VM, VMConfig, VMConfigBuilder, VMEvent, VMEventType, VMMetrics, VMState,
};

#[cfg(test)]
mod test_support;
