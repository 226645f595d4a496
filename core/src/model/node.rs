//! What a node says of itself, and a client of its connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names::words;
use super::timestamp::Timestamp;

/// The optional things a node can do. The default can do none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools)] // one per thing is what it is
pub struct NodeCapabilities {
    /// GPUs: `enable_gpu`, `gpu_type`.
    pub gpu: bool,
    /// `enable_sr_iov`.
    pub sr_iov: bool,
    /// `enable_tpm`.
    pub tpm: bool,
    /// `enable_secure_boot`.
    pub secure_boot: bool,
    /// `host_devices`.
    pub host_devices: bool,
    /// `cpu_pinning`.
    pub cpu_pinning: bool,
    /// `numa_nodes`.
    pub numa_nodes: bool,
    /// `huge_pages`.
    pub huge_pages: bool,
    /// `io_threads`.
    pub io_threads: bool,
    /// `memory_max` above `memory`.
    pub memory_max: bool,
    /// `cpu_quota`.
    pub cpu_quota: bool,
    /// `disk`.
    pub disk: bool,
    /// `disk_iops_limit`.
    pub disk_iops_limit: bool,
    /// `network` with a mode or interfaces.
    pub network: bool,
    /// `network_bandwidth`, and `bandwidth` of an interface.
    pub network_bandwidth: bool,
    /// `cloud_init`.
    pub cloud_init: bool,
    /// `affinity`.
    pub affinity: bool,
    /// `priority`.
    pub priority: bool,
}

/// What a node allows. 0 where it does not say.
///
/// # Examples
///
/// ```
/// let mut limits = dwcp::NodeLimits::default();
/// limits.max_memory = 16 << 30;
/// limits.max_vms = 100;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NodeLimits {
    /// Longest frame of a connection in bytes.
    pub max_frame: u64,
    /// Most streams open at once.
    pub max_streams: u32,
    /// Most connections at once.
    pub max_connections: u32,
    /// Most requests of a connection in flight at once.
    pub max_inflight: u32,
    /// Most memory of all VMs that run, in bytes: what their guests may use, used or not.
    pub max_memory: u64,
    /// Most vCPUs of all VMs that run.
    pub max_cpus: u32,
    /// Most VMs, in whatever state.
    pub max_vms: u32,
    /// Most migrations from here that are under way at once. One more is refused.
    pub max_migrations_out: u32,
    /// Most migrations to here that are under way at once. One more is refused.
    pub max_migrations_in: u32,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// UUID of its store: a node installed anew has another.
    pub uuid: String,
    /// Version of the software.
    pub version: String,
    /// What runs the VMs: `kvm`, or `sim` where there is no KVM.
    pub backend: String,
    /// VMs it has, in whatever state.
    pub vms: u64,
    /// Memory of the host in bytes.
    pub memory_total: u64,
    /// Memory of the host that is free, in bytes.
    pub memory_available: u64,
    /// CPUs of the host.
    pub cpus: u32,
    /// What it allows.
    pub limits: NodeLimits,
    /// The optional things it can do.
    pub capabilities: NodeCapabilities,
    /// Its labels, which an affinity can select.
    pub labels: BTreeMap<String, String>,
    /// Names of its peers, to which VMs can be moved.
    pub peers: Vec<String>,
}

words! {
    /// Whether a node can be relied on.
    #[non_exhaustive]
    pub enum HealthStatus as "health status" {
        /// A newer node reported a status this version does not know.
        Unknown = "unknown",
        /// All is well.
        Healthy = "healthy",
        /// It works, but something needs attention; `message` says what.
        Degraded = "degraded",
        /// It takes no new VMs, because it is being emptied or shut down.
        Draining = "draining",
    }
    else Unknown
}

/// The answer to a health check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Health {
    /// Whether the node can be relied on.
    pub status: HealthStatus,
    /// What needs attention, or empty.
    pub message: String,
    /// Name of the node.
    pub node: String,
    /// Version of its software.
    pub version: String,
    /// Time since it was started, in microseconds.
    pub uptime_us: u64,
    /// VMs it has, in whatever state.
    pub vms: u64,
    /// VMs that run.
    pub vms_running: u64,
    /// Migrations under way, in and out.
    pub migrations: u64,
    /// When the check was made.
    pub timestamp: Timestamp,
}

/// Counters of a client, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClientMetrics {
    /// Connections made.
    pub connections_total: u64,
    /// Frames sent.
    pub messages_sent: u64,
    /// Frames received.
    pub messages_received: u64,
    /// Bytes sent, frame headers included.
    pub bytes_sent: u64,
    /// Bytes received, frame headers included.
    pub bytes_received: u64,
    /// Requests that ended with an error, and connections that failed.
    pub errors_total: u64,
    /// When the last connection was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_connected: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_node_can_do_nothing_optional() {
        let value = serde_json::to_value(NodeCapabilities::default()).unwrap();
        let able = value.as_object().unwrap();
        assert_eq!(able.len(), 18);
        assert!(able.values().all(|able| able == false));
    }

    #[test]
    fn the_replies_of_newer_and_older_nodes_are_read() {
        let info: NodeInfo = serde_json::from_str(
            r#"{"name":"n","uuid":"u","limits":{"max_frame":1,"max_fun":2},"capabilities":{"tpm":true,"gravity":true}}"#,
        )
        .unwrap();
        assert_eq!(
            (info.name.as_str(), info.limits.max_frame, info.vms),
            ("n", 1, 0)
        );
        assert!(info.capabilities.tpm && !info.capabilities.gpu);
        let health: Health = serde_json::from_str(r#"{"status":"sleepy"}"#).unwrap();
        assert_eq!(health.status, HealthStatus::Unknown);
    }
}
