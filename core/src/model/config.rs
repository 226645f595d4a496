//! What a VM is asked to be.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::builder::VMConfigBuilder;
use super::keys::{Keyed, add_camel_case, keyed};
use super::limits::{CPUS_DEFAULT, IMAGE_DEFAULT, MEMORY_DEFAULT};
use super::network::{NetworkConfig, NetworkInterface};
use super::node::NodeCapabilities;
use super::placement::Affinity;
use crate::error::{DWCPError, Result};

/// What a VM is asked to be.
///
/// Only `name` is required. A zero, empty or default value asks for nothing; a field that asks for
/// what a node cannot do makes [`create`](crate::Action::Create) fail with
/// [`DWCPError::Unsupported`], which names it.
///
/// JSON is written in snake case with every field present and `network` always an object. It is
/// read in snake case or camel case; `null` and absence are the default, as are 0 for `memory` and
/// `cpus` and `""` for `image`, because SDKs whose language has zero values send those for a field
/// nobody set. An unknown field is an error that names it.
///
/// # Examples
///
/// ```
/// use dwcp::VMConfig;
///
/// let config = VMConfig::builder()
///     .name("web-server")
///     .memory(4 * 1024_u64.pow(3))
///     .cpus(4)
///     .labels(vec![("env", "production"), ("tier", "web")])
///     .build()?;
/// assert_eq!(config.image, "dwcp/pulse");
/// # Ok::<(), dwcp::DWCPError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VMConfig {
    /// Name: 1 to 128 of `A–Z a–z 0–9 . _ -`.
    pub name: String,
    /// Guest memory in bytes, at least 16 MiB, in steps of 4 KiB. Default 2 GiB.
    pub memory: u64,
    /// vCPUs, 1 to 128. Default 2.
    pub cpus: u32,
    /// Disk in bytes, 0 for none.
    pub disk: u64,
    /// Image to boot. Default `dwcp/pulse`, the built-in guest.
    pub image: String,
    /// Network.
    pub network: NetworkConfig,
    /// Cloud-init user data, or empty.
    pub cloud_init: String,
    /// Labels, by which VMs can be listed.
    pub labels: BTreeMap<String, String>,
    /// Annotations, which nothing here interprets.
    pub annotations: BTreeMap<String, String>,
    /// Weight against other VMs of the node; 0 is normal, more is more important.
    pub priority: i32,
    /// Rules for the node it runs on.
    pub affinity: Option<Affinity>,
    /// Ask for a GPU.
    pub enable_gpu: bool,
    /// Model of the GPU, or empty for any.
    pub gpu_type: String,
    /// Ask for SR-IOV network functions.
    pub enable_sr_iov: bool,
    /// Ask for a virtual TPM.
    pub enable_tpm: bool,
    /// Ask for secure boot.
    pub enable_secure_boot: bool,
    /// Devices of the host to hand through.
    pub host_devices: Vec<String>,
    /// Host CPU for each vCPU in turn, repeated from the start if shorter. A node refuses one that its
    /// process may not use, also in a migration.
    pub cpu_pinning: Vec<u32>,
    /// NUMA nodes of the host to take memory from.
    pub numa_nodes: Vec<u32>,
    /// Back the guest's memory with huge pages (of 2 MiB, as the kernel has them to give).
    pub huge_pages: bool,
    /// Threads for device I/O, 0 for the node's choice.
    pub io_threads: u32,
    /// Memory in bytes it may grow to, 0 for no growth.
    pub memory_max: u64,
    /// CPU time of all vCPUs together in percent of one host CPU, so up to 100 × `cpus`; 0 for no limit.
    pub cpu_quota: u32,
    /// Disk operations per second, 0 for no limit.
    pub disk_iops_limit: u64,
    /// Network traffic in bits per second, 0 for no limit.
    pub network_bandwidth: u64,
}

keyed! {
    VMConfig as "a VM config object" {
        name = "name",
        memory = "memory",
        cpus = "cpus",
        disk = "disk",
        image = "image",
        network = "network" [part],
        cloud_init = "cloud_init" | "cloudInit",
        labels = "labels",
        annotations = "annotations",
        priority = "priority",
        affinity = "affinity" [optional part],
        enable_gpu = "enable_gpu" | "enableGPU" | "enableGpu",
        gpu_type = "gpu_type" | "gpuType",
        enable_sr_iov = "enable_sr_iov" | "enableSRIOV" | "enableSrIov",
        enable_tpm = "enable_tpm" | "enableTPM" | "enableTpm",
        enable_secure_boot = "enable_secure_boot" | "enableSecureBoot",
        host_devices = "host_devices" | "hostDevices",
        cpu_pinning = "cpu_pinning" | "cpuPinning",
        numa_nodes = "numa_nodes" | "numaNodes",
        huge_pages = "huge_pages" | "hugePages",
        io_threads = "io_threads" | "ioThreads",
        memory_max = "memory_max" | "memoryMax",
        cpu_quota = "cpu_quota" | "cpuQuota",
        disk_iops_limit = "disk_iops_limit" | "diskIOPSLimit" | "diskIopsLimit",
        network_bandwidth = "network_bandwidth" | "networkBandwidth",
    }
    then zero_is_default
}

impl Default for VMConfig {
    fn default() -> Self {
        VMConfig {
            name: String::new(),
            memory: MEMORY_DEFAULT,
            cpus: CPUS_DEFAULT,
            disk: 0,
            image: IMAGE_DEFAULT.to_owned(),
            network: NetworkConfig::default(),
            cloud_init: String::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            priority: 0,
            affinity: None,
            enable_gpu: false,
            gpu_type: String::new(),
            enable_sr_iov: false,
            enable_tpm: false,
            enable_secure_boot: false,
            host_devices: Vec::new(),
            cpu_pinning: Vec::new(),
            numa_nodes: Vec::new(),
            huge_pages: false,
            io_threads: 0,
            memory_max: 0,
            cpu_quota: 0,
            disk_iops_limit: 0,
            network_bandwidth: 0,
        }
    }
}

impl VMConfig {
    /// A builder, with everything but the name at its default.
    pub fn builder() -> VMConfigBuilder {
        VMConfigBuilder::default()
    }

    /// Reads and validates what a user sent.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`], naming the field.
    pub fn from_value(value: Value) -> Result<VMConfig> {
        let config: VMConfig =
            serde_json::from_value(value).map_err(|error| DWCPError::Config(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every field against [`limits`](crate::model::limits).
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] for the first field with a value that no node accepts; the text starts
    /// with the field's name.
    ///
    /// # Examples
    ///
    /// A program adds its own rules in the same form:
    ///
    /// ```
    /// use dwcp::{DWCPError, Result, VMConfig};
    ///
    /// fn validate_vm_config(config: &VMConfig) -> Result<()> {
    ///     if config.memory < 512 * 1024 * 1024 {
    ///         return Err(DWCPError::Config("Memory must be at least 512MB".into()));
    ///     }
    ///     if config.cpus == 0 || config.cpus > 128 {
    ///         return Err(DWCPError::Config("CPUs must be between 1 and 128".into()));
    ///     }
    ///     Ok(())
    /// }
    ///
    /// let config = VMConfig { name: "web".into(), cpus: 200, ..VMConfig::default() };
    /// assert!(validate_vm_config(&config).is_err());
    /// assert_eq!(
    ///     config.validate(),
    ///     Err(DWCPError::Config("cpus: must be 1 to 128, not 200".into())),
    /// );
    /// ```
    pub fn validate(&self) -> Result<()> {
        super::validate::config(self)
    }

    /// The first field, in the order above, that really asks for something a node with these
    /// capabilities cannot do.
    #[must_use]
    pub fn unsupported_requests(&self, can: &NodeCapabilities) -> Option<&'static str> {
        self.requests(can)
            .find_map(|(field, supported)| (!supported).then_some(field))
    }

    /// Fails if any field asks for something a node with these capabilities cannot do.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Unsupported`], naming every such field.
    pub fn check_supported(&self, can: &NodeCapabilities) -> Result<()> {
        let fields: Vec<&str> = self
            .requests(can)
            .filter_map(|(field, supported)| (!supported).then_some(field))
            .collect();
        if fields.is_empty() {
            return Ok(());
        }
        Err(DWCPError::Unsupported(format!(
            "{}: not available on this node",
            fields.join(", ")
        )))
    }

    /// Every field that asks for something optional, and whether `can` allows it.
    fn requests(&self, can: &NodeCapabilities) -> impl Iterator<Item = (&'static str, bool)> {
        let network = &self.network;
        let affinity = self.affinity.as_ref();
        let any = |asks: fn(&NetworkInterface) -> bool| network.interfaces.iter().any(asks);
        let full_quota = u64::from(self.cpus) * 100;
        [
            ("disk", self.disk > 0, can.disk),
            ("network.mode", network.mode.asks(), can.network),
            (
                "network.interfaces",
                !network.interfaces.is_empty(),
                can.network,
            ),
            // Where there is a network it has this one kind of device.
            (
                "network.interfaces.type",
                any(|nic| !nic.is_virtio()),
                false,
            ),
            (
                "network.interfaces.bandwidth",
                any(|nic| nic.bandwidth > 0),
                can.network_bandwidth,
            ),
            ("network.dns", !network.dns.is_empty(), can.network),
            ("network.gateway", !network.gateway.is_empty(), can.network),
            ("network.mtu", network.mtu > 0, can.network),
            ("cloud_init", !self.cloud_init.is_empty(), can.cloud_init),
            ("priority", self.priority != 0, can.priority),
            (
                "affinity",
                affinity.is_some_and(|rules| !rules.is_empty()),
                can.affinity,
            ),
            ("enable_gpu", self.enable_gpu, can.gpu),
            ("gpu_type", !self.gpu_type.is_empty(), can.gpu),
            ("enable_sr_iov", self.enable_sr_iov, can.sr_iov),
            ("enable_tpm", self.enable_tpm, can.tpm),
            (
                "enable_secure_boot",
                self.enable_secure_boot,
                can.secure_boot,
            ),
            (
                "host_devices",
                !self.host_devices.is_empty(),
                can.host_devices,
            ),
            ("cpu_pinning", !self.cpu_pinning.is_empty(), can.cpu_pinning),
            ("numa_nodes", !self.numa_nodes.is_empty(), can.numa_nodes),
            ("huge_pages", self.huge_pages, can.huge_pages),
            ("io_threads", self.io_threads > 0, can.io_threads),
            ("memory_max", self.memory_max > self.memory, can.memory_max),
            (
                "cpu_quota",
                (1..full_quota).contains(&u64::from(self.cpu_quota)),
                can.cpu_quota,
            ),
            (
                "disk_iops_limit",
                self.disk_iops_limit > 0,
                can.disk_iops_limit,
            ),
            (
                "network_bandwidth",
                self.network_bandwidth > 0,
                can.network_bandwidth,
            ),
        ]
        .into_iter()
        .filter_map(|(field, asked, supported)| asked.then_some((field, supported)))
    }

    /// Its JSON with every key in both cases, for clients of the base profile that read either.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Serialization`], which no config is known to cause.
    pub fn to_value_in_both_cases(&self) -> Result<Value> {
        let mut value = serde_json::to_value(self)?;
        for_parts(
            &mut value,
            add_camel_case::<NetworkConfig>,
            add_camel_case::<NetworkInterface>,
            add_camel_case::<Affinity>,
        );
        // Last, so that the copies have the copies in them.
        add_camel_case::<VMConfig>(&mut value);
        Ok(value)
    }

    /// Reads the config in a node's reply: fields of newer nodes are dropped.
    pub(crate) fn deserialize_reply<'de, D>(deserializer: D) -> Result<VMConfig, D::Error>
    where
        D: serde::Deserializer<'de>,
    {
        <VMConfig as Keyed<'de>>::read::<false, D>(deserializer)
    }
}

/// Applies a function to each object inside a config's JSON.
fn for_parts(
    value: &mut Value,
    network: fn(&mut Value),
    nic: fn(&mut Value),
    affinity: fn(&mut Value),
) {
    if let Some(part) = value.get_mut("network") {
        network(part);
        part.get_mut("interfaces")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .for_each(nic);
    }
    if let Some(part) = value.get_mut("affinity") {
        affinity(part);
    }
}

/// A field nobody set arrives as zero from languages with zero values.
fn zero_is_default(config: &mut VMConfig) {
    if config.memory == 0 {
        config.memory = MEMORY_DEFAULT;
    }
    if config.cpus == 0 {
        config.cpus = CPUS_DEFAULT;
    }
    if config.image.is_empty() {
        config.image = IMAGE_DEFAULT.to_owned();
    }
}

#[cfg(test)]
mod tests;
