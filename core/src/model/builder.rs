//! The builder of [`VMConfig`].

use super::config::VMConfig;
use super::network::{NetworkConfig, NetworkInterface};
use super::placement::Affinity;
use crate::error::Result;

/// Builds a [`VMConfig`]; made by [`VMConfig::builder`].
///
/// Every field has a method of its name. [`build`](VMConfigBuilder::build) checks them all.
///
/// # Examples
///
/// ```
/// use dwcp::{NetworkMode, VMConfig};
///
/// let config = VMConfig::builder()
///     .name("db")
///     .cpus(4)
///     .network_mode(NetworkMode::Bridge)
///     .label("env", "production")
///     .build()?;
/// assert_eq!(config.labels["env"], "production");
///
/// let error = VMConfig::builder().name("db").memory(1000).build().unwrap_err();
/// assert!(error.message().starts_with("memory: "));
/// # Ok::<(), dwcp::DWCPError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct VMConfigBuilder {
    config: VMConfig,
}

/// One setter per row.
macro_rules! setters {
    ($( $(#[$doc:meta])* $field:ident: $ty:ty; )+) => {
        $( $(#[$doc])* pub fn $field(mut self, $field: $ty) -> Self {
            self.config.$field = $field.into();
            self
        } )+
    };
}

/// One setter for a list per row.
macro_rules! lists {
    ($( $(#[$doc:meta])* $field:ident: $ty:ty; )+) => {
        $( $(#[$doc])* pub fn $field(mut self, $field: impl IntoIterator<Item = $ty>) -> Self {
            self.config.$field = $field.into_iter().map(Into::into).collect();
            self
        } )+
    };
}

impl VMConfigBuilder {
    setters! {
        /// Name: 1 to 128 of `A–Z a–z 0–9 . _ -`. Required.
        name: impl Into<String>;
        /// Guest memory in bytes, at least 16 MiB, in steps of 4 KiB. Default 2 GiB.
        memory: u64;
        /// vCPUs, 1 to 128. Default 2.
        cpus: u32;
        /// Disk in bytes. Default 0, none.
        disk: u64;
        /// Image to boot. Default `dwcp/pulse`.
        image: impl Into<String>;
        /// Network.
        network: NetworkConfig;
        /// Cloud-init user data.
        cloud_init: impl Into<String>;
        /// Weight against other VMs of the node.
        priority: i32;
        /// Rules for the node it runs on.
        affinity: Affinity;
        /// Ask for a GPU.
        enable_gpu: bool;
        /// Model of the GPU.
        gpu_type: impl Into<String>;
        /// Ask for SR-IOV network functions.
        enable_sr_iov: bool;
        /// Ask for a virtual TPM.
        enable_tpm: bool;
        /// Ask for secure boot.
        enable_secure_boot: bool;
        /// Back the guest's memory with huge pages.
        huge_pages: bool;
        /// Threads for device I/O.
        io_threads: u32;
        /// Memory in bytes it may grow to.
        memory_max: u64;
        /// CPU time in percent of one CPU, so up to 100 × `cpus`.
        cpu_quota: u32;
        /// Disk operations per second.
        disk_iops_limit: u64;
        /// Network traffic in bits per second.
        network_bandwidth: u64;
    }

    lists! {
        /// Devices of the host to hand through.
        host_devices: impl Into<String>;
        /// Host CPU for each vCPU in turn.
        cpu_pinning: u32;
        /// NUMA nodes of the host to take memory from.
        numa_nodes: u32;
    }

    /// How the VM is connected to the network.
    pub fn network_mode(mut self, mode: super::NetworkMode) -> Self {
        self.config.network.mode = mode;
        self
    }

    /// Adds a network interface.
    pub fn interface(mut self, interface: NetworkInterface) -> Self {
        self.config.network.interfaces.push(interface);
        self
    }

    /// Adds a label; one with the same key is replaced.
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels([(key, value)])
    }

    /// Adds labels; those with the same key are replaced.
    pub fn labels<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.config.labels.extend(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into())),
        );
        self
    }

    /// Adds an annotation; one with the same key is replaced.
    pub fn annotation(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations([(key, value)])
    }

    /// Adds annotations; those with the same key are replaced.
    pub fn annotations<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()));
        self.config.annotations.extend(pairs);
        self
    }

    /// The config, checked as by [`VMConfig::validate`].
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`](crate::DWCPError::Config) for the first field with a value that no
    /// node accepts.
    pub fn build(self) -> Result<VMConfig> {
        self.config.validate()?;
        Ok(self.config)
    }
}
