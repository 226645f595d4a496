//! What a node says of itself.

use std::sync::Arc;

use super::Shared;
use super::registry::Phase;
use crate::model::{Health, HealthStatus, NodeInfo, Timestamp};

impl Shared {
    pub(super) fn health(&self) -> Health {
        let (vms, vms_running, migrations) = self.registry.counts();
        let trouble = self.registry.store.trouble();
        let (status, message) = match (self.registry.phase(), trouble) {
            (Phase::Open, None) => (HealthStatus::Healthy, String::new()),
            (Phase::Open, Some(why)) => (
                HealthStatus::Degraded,
                format!("takes and starts no VMs: its store cannot be written: {why}"),
            ),
            (Phase::Draining | Phase::Closed, _) => {
                (HealthStatus::Draining, "takes and starts no VMs".to_owned())
            }
        };
        Health {
            status,
            message,
            node: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            vms,
            vms_running,
            migrations,
            timestamp: Timestamp::now(),
        }
    }

    pub(super) async fn node_info(self: &Arc<Self>) -> NodeInfo {
        let memory = host_memory();
        NodeInfo {
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.hypervisor.name().to_owned(),
            vms: self.registry.counts().0,
            memory_total: memory.total,
            memory_available: memory.available,
            cpus: std::thread::available_parallelism()
                .map_or(0, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
            limits: self.limits,
            capabilities: self.capabilities,
            labels: self.labels.clone(),
            peers: self.peers().into_keys().collect(),
        }
    }
}

/// Memory of the host in bytes; zeros where it cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostMemory {
    pub(super) total: u64,
    pub(super) available: u64,
}

pub(super) fn host_memory() -> HostMemory {
    std::fs::read_to_string("/proc/meminfo")
        .map_or_else(|_| HostMemory::default(), |text| parse(&text))
}

/// Reads what `/proc/meminfo` says (proc(5)): lines of `Name:  number kB`.
fn parse(text: &str) -> HostMemory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let number = line.trim().strip_suffix("kB")?.trim();
        number.parse::<u64>().ok()?.checked_mul(1024)
    };
    HostMemory {
        total: bytes("MemTotal:").unwrap_or(0),
        available: bytes("MemAvailable:").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\n";
        let memory = HostMemory {
            total: 16 << 20,
            available: 8 << 20,
        };
        assert_eq!(parse(text), memory);
        assert_eq!(parse("MemTotal: lots kB"), HostMemory::default());
        assert!(host_memory().total > host_memory().available / 2);
    }
}
