//! A VM as protobuf messages, with the same fields as its JSON.

use std::collections::BTreeMap;

use dwcp::{NetworkInterface, VM, VMConfig, VMMetrics};

/// What `Get` takes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetRequest {
    #[prost(string, tag = "1")]
    pub(super) vm_id: String,
}

/// What `Get` replies with.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Vm {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) state: String,
    #[prost(message, optional, tag = "4")]
    pub(super) config: Option<Config>,
    #[prost(string, tag = "5")]
    pub(super) node: String,
    /// Times are microseconds since 1970.
    #[prost(int64, tag = "6")]
    pub(super) created_at: i64,
    #[prost(int64, tag = "7")]
    pub(super) updated_at: i64,
    #[prost(int64, optional, tag = "8")]
    pub(super) started_at: Option<i64>,
    #[prost(int64, optional, tag = "9")]
    pub(super) stopped_at: Option<i64>,
    #[prost(message, optional, tag = "10")]
    pub(super) metrics: Option<Metrics>,
    #[prost(btree_map = "string, string", tag = "11")]
    pub(super) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    pub(super) annotations: BTreeMap<String, String>,
    #[prost(string, optional, tag = "13")]
    pub(super) reason: Option<String>,
    #[prost(string, repeated, tag = "14")]
    pub(super) addresses: Vec<String>,
}

/// What a VM is asked to be.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Config {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    memory: u64,
    #[prost(uint32, tag = "3")]
    cpus: u32,
    #[prost(uint64, tag = "4")]
    disk: u64,
    #[prost(string, tag = "5")]
    image: String,
    #[prost(message, optional, tag = "6")]
    network: Option<Network>,
    #[prost(string, tag = "7")]
    cloud_init: String,
    #[prost(btree_map = "string, string", tag = "8")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "9")]
    annotations: BTreeMap<String, String>,
    #[prost(int32, tag = "10")]
    priority: i32,
    #[prost(message, optional, tag = "11")]
    affinity: Option<Affinity>,
    #[prost(bool, tag = "12")]
    enable_gpu: bool,
    #[prost(string, tag = "13")]
    gpu_type: String,
    #[prost(bool, tag = "14")]
    enable_sr_iov: bool,
    #[prost(bool, tag = "15")]
    enable_tpm: bool,
    #[prost(bool, tag = "16")]
    enable_secure_boot: bool,
    #[prost(string, repeated, tag = "17")]
    host_devices: Vec<String>,
    #[prost(uint32, repeated, tag = "18")]
    cpu_pinning: Vec<u32>,
    #[prost(uint32, repeated, tag = "19")]
    numa_nodes: Vec<u32>,
    #[prost(bool, tag = "20")]
    huge_pages: bool,
    #[prost(uint32, tag = "21")]
    io_threads: u32,
    #[prost(uint64, tag = "22")]
    memory_max: u64,
    #[prost(uint32, tag = "23")]
    cpu_quota: u32,
    #[prost(uint64, tag = "24")]
    disk_iops_limit: u64,
    #[prost(uint64, tag = "25")]
    network_bandwidth: u64,
}

/// The network of a VM.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Network {
    #[prost(string, tag = "1")]
    mode: String,
    #[prost(message, repeated, tag = "2")]
    interfaces: Vec<Interface>,
    #[prost(string, repeated, tag = "3")]
    dns: Vec<String>,
    #[prost(string, tag = "4")]
    gateway: String,
    #[prost(uint32, tag = "5")]
    mtu: u32,
}

/// One of its interfaces.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Interface {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    interface_type: String,
    #[prost(string, tag = "3")]
    mac: String,
    #[prost(string, tag = "4")]
    bridge: String,
    #[prost(uint32, tag = "5")]
    vlan: u32,
    #[prost(string, tag = "6")]
    ip_address: String,
    #[prost(string, tag = "7")]
    netmask: String,
    #[prost(uint64, tag = "8")]
    bandwidth: u64,
}

/// Rules for the node a VM runs on.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Affinity {
    #[prost(btree_map = "string, string", tag = "1")]
    node_selector: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "2")]
    required_nodes: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    preferred_nodes: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    anti_affinity_vms: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    require_same_host: Vec<String>,
}

/// Figures about a running VM.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metrics {
    #[prost(double, tag = "1")]
    cpu_usage: f64,
    #[prost(uint64, tag = "2")]
    memory_used: u64,
    #[prost(uint64, tag = "3")]
    memory_available: u64,
    #[prost(uint64, tag = "4")]
    disk_read: u64,
    #[prost(uint64, tag = "5")]
    disk_write: u64,
    #[prost(uint64, tag = "6")]
    network_rx: u64,
    #[prost(uint64, tag = "7")]
    network_tx: u64,
    #[prost(int64, tag = "8")]
    timestamp: i64,
    #[prost(double, optional, tag = "9")]
    dirty_pages_per_second: Option<f64>,
    #[prost(uint64, tag = "10")]
    vm_exits: u64,
    #[prost(uint64, optional, tag = "11")]
    steal_time_us: Option<u64>,
    #[prost(uint64, tag = "12")]
    stall_us: u64,
}

impl From<&VM> for Vm {
    fn from(vm: &VM) -> Self {
        Self {
            id: vm.id.clone(),
            name: vm.name.clone(),
            state: vm.state.to_string(),
            config: Some(Config::from(&vm.config)),
            node: vm.node.clone(),
            created_at: vm.created_at.as_unix_micros(),
            updated_at: vm.updated_at.as_unix_micros(),
            started_at: vm.started_at.map(|at| at.as_unix_micros()),
            stopped_at: vm.stopped_at.map(|at| at.as_unix_micros()),
            metrics: vm.metrics.as_ref().map(Metrics::from),
            labels: vm.labels.clone(),
            annotations: vm.annotations.clone(),
            reason: vm.reason.clone(),
            addresses: vm.addresses.clone(),
        }
    }
}

impl From<&VMConfig> for Config {
    fn from(config: &VMConfig) -> Self {
        let network = &config.network;
        Self {
            name: config.name.clone(),
            memory: config.memory,
            cpus: config.cpus,
            disk: config.disk,
            image: config.image.clone(),
            network: Some(Network {
                mode: network.mode.to_string(),
                interfaces: network.interfaces.iter().map(Interface::from).collect(),
                dns: network.dns.clone(),
                gateway: network.gateway.clone(),
                mtu: network.mtu,
            }),
            cloud_init: config.cloud_init.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            priority: config.priority,
            affinity: config.affinity.as_ref().map(Affinity::from),
            enable_gpu: config.enable_gpu,
            gpu_type: config.gpu_type.clone(),
            enable_sr_iov: config.enable_sr_iov,
            enable_tpm: config.enable_tpm,
            enable_secure_boot: config.enable_secure_boot,
            host_devices: config.host_devices.clone(),
            cpu_pinning: config.cpu_pinning.clone(),
            numa_nodes: config.numa_nodes.clone(),
            huge_pages: config.huge_pages,
            io_threads: config.io_threads,
            memory_max: config.memory_max,
            cpu_quota: config.cpu_quota,
            disk_iops_limit: config.disk_iops_limit,
            network_bandwidth: config.network_bandwidth,
        }
    }
}

impl From<&NetworkInterface> for Interface {
    fn from(interface: &NetworkInterface) -> Self {
        Self {
            name: interface.name.clone(),
            interface_type: interface.interface_type.clone(),
            mac: interface.mac.clone(),
            bridge: interface.bridge.clone(),
            vlan: interface.vlan,
            ip_address: interface.ip_address.clone(),
            netmask: interface.netmask.clone(),
            bandwidth: interface.bandwidth,
        }
    }
}

impl From<&dwcp::Affinity> for Affinity {
    fn from(affinity: &dwcp::Affinity) -> Self {
        Self {
            node_selector: affinity.node_selector.clone(),
            required_nodes: affinity.required_nodes.clone(),
            preferred_nodes: affinity.preferred_nodes.clone(),
            anti_affinity_vms: affinity.anti_affinity_vms.clone(),
            require_same_host: affinity.require_same_host.clone(),
        }
    }
}

impl From<&VMMetrics> for Metrics {
    fn from(metrics: &VMMetrics) -> Self {
        Self {
            cpu_usage: metrics.cpu_usage,
            memory_used: metrics.memory_used,
            memory_available: metrics.memory_available,
            disk_read: metrics.disk_read,
            disk_write: metrics.disk_write,
            network_rx: metrics.network_rx,
            network_tx: metrics.network_tx,
            timestamp: metrics.timestamp.as_unix_micros(),
            dirty_pages_per_second: metrics.dirty_pages_per_second,
            vm_exits: metrics.vm_exits,
            steal_time_us: metrics.steal_time_us,
            stall_us: metrics.stall_us,
        }
    }
}
