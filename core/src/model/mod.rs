//! The public data: what a VM is asked to be, what it is, what happens to it.
//!
//! Plain values with their JSON shapes, defaults and limits; no I/O. Every layer above uses these
//! types and none of them knows how they travel. JSON is written in snake case; what users send
//! (`VMConfig` and the options) is read in snake case and in camel case, strictly, and what a node
//! replies is read leniently, so that a newer node does not break an older client.

#![forbid(unsafe_code)]

mod builder;
mod config;
pub mod duration;
mod event;
mod filters;
mod guest;
mod id;
mod image;
pub(crate) mod keys;
pub mod limits;
mod metrics;
mod migration;
pub(crate) mod names;
mod network;
mod node;
mod placement;
mod report;
mod snapshot;
mod timestamp;
pub(crate) mod validate;
mod vm;

pub use builder::VMConfigBuilder;
pub use config::VMConfig;
pub use event::{LostEvents, VMEvent, VMEventType};
pub use filters::Filters;
pub use guest::GuestReport;
pub use id::{new_uuid, random_token};
pub use image::Image;
pub use metrics::VMMetrics;
pub use migration::{MigrationOptions, MigrationState, MigrationStatus, OnTimeout, SameHost};
pub use network::{NetworkConfig, NetworkInterface, NetworkMode};
pub use node::{ClientMetrics, Health, HealthStatus, NodeCapabilities, NodeInfo, NodeLimits};
pub use placement::Affinity;
pub use report::{
    DowntimeBreakdown, Drained, MigrationBytes, MigrationMode, MigrationPlan, Misfit, RoundReport,
};
pub use snapshot::{Snapshot, SnapshotOptions};
pub use timestamp::Timestamp;
pub use vm::{StopOptions, VM, VMState};
