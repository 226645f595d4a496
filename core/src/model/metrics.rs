//! Figures about a running VM.

use serde::{Deserialize, Serialize};

use super::timestamp::Timestamp;

/// Figures about a VM over a window of time. Counters are totals since the VM was started.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VMMetrics {
    /// Mean CPU use over the window, in percent of one CPU: 0 to 100 × vCPUs.
    #[serde(deserialize_with = "super::keys::number")]
    pub cpu_usage: f64,
    /// Guest memory in use, in bytes: what a guest with a balloon says it cannot give to its programs, else the
    /// host memory behind it.
    pub memory_used: u64,
    /// The rest of the guest's memory, in bytes.
    pub memory_available: u64,
    /// Bytes read from disks.
    pub disk_read: u64,
    /// Bytes written to disks.
    pub disk_write: u64,
    /// Bytes received from the network.
    pub network_rx: u64,
    /// Bytes sent to the network.
    pub network_tx: u64,
    /// When the window ended.
    pub timestamp: Timestamp,
    /// Pages of 4 KiB written per second, where it was measured. Extended profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_pages_per_second: Option<f64>,
    /// Exits of all vCPUs to this process. Extended profile.
    pub vm_exits: u64,
    /// Time the vCPUs were ready but had no host CPU, in microseconds. Extended profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal_time_us: Option<u64>,
    /// Time the vCPUs were held up by migration and snapshots, in microseconds. Extended profile.
    pub stall_us: u64,
}

impl VMMetrics {
    /// The JSON keys that only the extended profile carries.
    pub const EXTENDED_KEYS: &'static [&'static str] = &[
        "dirty_pages_per_second",
        "vm_exits",
        "steal_time_us",
        "stall_us",
    ];
}
