//! The parts of a migration's report and of its plan.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::migration::MigrationStatus;
use super::names::words;

words! {
    /// The way a VM is moved.
    #[non_exhaustive]
    pub enum MigrationMode as "migration mode" {
        /// Memory first, in rounds, then the switch.
        Precopy = "precopy",
        /// The switch first, then the rest of the memory, as it is needed.
        Postcopy = "postcopy",
        /// Memory while the VM is paused.
        StopAndCopy = "stop_and_copy",
        /// Memory is handed over on one host, and not copied.
        SameHost = "same_host",
        /// The VM is stopped: it has no memory to move.
        Offline = "offline",
    }
}

/// One pass over the memory that had changed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RoundReport {
    /// Number of the round, from 1.
    pub round: u32,
    /// Pages of 4 KiB sent, zero pages included.
    pub pages: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// Pages of 4 KiB the guest wrote per second meanwhile.
    #[serde(deserialize_with = "super::keys::number")]
    pub dirty_pages_per_second: f64,
    /// Bytes sent per second.
    pub throughput: u64,
}

/// What the time in which the VM ran nowhere went into, in microseconds.
///
/// Parts may overlap; `total_us` is the time from the first vCPU's stop to the first run there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DowntimeBreakdown {
    /// Until all vCPUs were out of the guest.
    pub stop_vcpus_us: u64,
    /// Draining the devices and saving the state of the machine.
    pub save_state_us: u64,
    /// Finding and sending the last pages.
    pub last_pages_us: u64,
    /// Loading the state of the machine at the target.
    pub load_state_us: u64,
    /// Making the grant durable at the source.
    pub grant_us: u64,
    /// Making the verdict durable at the target, disk locks included.
    pub commit_us: u64,
    /// Until the vCPUs ran at the target.
    pub resume_us: u64,
    /// All of it.
    pub total_us: u64,
}

/// What was sent, in bytes of the guest's memory and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MigrationBytes {
    /// Sent as they are.
    pub data: u64,
    /// Found to be zero, and announced instead of sent.
    pub zero: u64,
    /// Sent compressed; the size before compression.
    pub compressed: u64,
    /// Sent more than once, because the guest wrote again.
    pub resent: u64,
    /// Sent of the disk, where that was taken along.
    pub disk: u64,
}

/// What a migration would be like if it began now.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MigrationPlan {
    /// Time from start to end, in microseconds.
    pub total_us: u64,
    /// Time in which the VM would run nowhere, in microseconds. More than the `max_downtime` that was
    /// asked for means that the guest writes too fast: the migration would go on until its time-out.
    pub downtime_us: u64,
    /// The way it would be done.
    pub mode: MigrationMode,
    /// Pages of 4 KiB the guest writes per second.
    #[serde(deserialize_with = "super::keys::number")]
    pub dirty_rate: f64,
    /// Why the target cannot run the VM; empty if it can.
    pub misfits: Vec<Misfit>,
}

/// What became of one VM of a node that was drained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Drained {
    /// Id of the VM.
    pub vm_id: String,
    /// Its name.
    pub name: String,
    /// Name of the node that has it now; `None` where it stayed, or nobody can tell.
    pub node: Option<String>,
    /// How the last attempt went, where one began.
    pub migration: Option<MigrationStatus>,
    /// Why it is not elsewhere.
    pub error: Option<String>,
}

/// One reason why a node cannot run a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Misfit {
    /// What kind of thing does not fit: `cpuid`, `msr`, `memory`, `disk` and so on.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What is needed, and what is there.
    pub detail: String,
}

impl Misfit {
    /// A reason why a node cannot run a VM.
    #[must_use]
    pub fn new(
        kind: impl Into<String>,
        name: impl Into<String>,
        detail: impl Into<String>,
    ) -> Misfit {
        Misfit {
            kind: kind.into(),
            name: name.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misfit_prints_its_name_and_what_is_missing() {
        let misfit = Misfit::new("cpuid", "avx512f", "leaf 7 ebx bit 16 is not set here");
        assert_eq!(
            misfit.to_string(),
            "avx512f: leaf 7 ebx bit 16 is not set here"
        );
    }

    #[test]
    fn a_plan_survives_json() {
        let plan = MigrationPlan {
            total_us: 5,
            mode: MigrationMode::SameHost,
            dirty_rate: 0.5,
            misfits: vec![Misfit::new("a", "b", "c")],
            ..MigrationPlan::default()
        };
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<MigrationPlan>(&json).unwrap(), plan);
    }
}
