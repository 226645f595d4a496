//! A VM as the node sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::VMConfig;
use super::metrics::VMMetrics;
use super::names::words;
use super::timestamp::Timestamp;

words! {
    /// What a VM is doing.
    #[non_exhaustive]
    pub enum VMState as "VM state" {
        /// The state cannot be told: the VM's migration is unresolved, or a newer node reported a
        /// state this version does not know.
        Unknown = "unknown",
        /// Being made durable.
        Creating = "creating",
        /// Its vCPUs are about to run.
        Starting = "starting",
        /// Its vCPUs run.
        Running = "running",
        /// Asked to stop, and not stopped yet.
        Stopping = "stopping",
        /// Not running; config and disks are kept.
        Stopped = "stopped",
        /// Its vCPUs are held, its memory is kept. Clients of the base profile see `running`.
        Paused = "paused",
        /// Being moved to another node; it runs meanwhile, but for the switch.
        Migrating = "migrating",
        /// Ended by a failure; `reason` says which.
        Failed = "failed",
    }
    else Unknown
}

impl VMState {
    /// Whether the VM has memory and vCPUs on a node.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            VMState::Starting
                | VMState::Running
                | VMState::Stopping
                | VMState::Paused
                | VMState::Migrating
        )
    }
}

/// A VM as its node sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VM {
    /// Id, a UUID in text.
    pub id: String,
    /// Name from the config.
    pub name: String,
    /// What it is doing.
    pub state: VMState,
    /// What it was asked to be.
    #[serde(deserialize_with = "VMConfig::deserialize_reply")]
    pub config: VMConfig,
    /// Name of the node it runs on, or is kept on.
    pub node: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it was last started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it last stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
    /// Its figures, in replies to `get` and `list` while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<VMMetrics>,
    /// Labels: those of the config, as updated since.
    pub labels: BTreeMap<String, String>,
    /// Annotations: those of the config, as updated since.
    pub annotations: BTreeMap<String, String>,
    /// Why it is failed, paused or waiting. Extended profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The guest's network addresses, as far as they are known. Extended profile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

impl VM {
    /// The JSON keys that only the extended profile carries.
    pub const EXTENDED_KEYS: &'static [&'static str] = &["reason", "addresses"];

    /// A VM that was just asked for: state `creating`, name and labels from the config, times now.
    #[must_use]
    pub fn new(id: impl Into<String>, node: impl Into<String>, config: VMConfig) -> VM {
        let now = Timestamp::now();
        VM {
            id: id.into(),
            name: config.name.clone(),
            state: VMState::Creating,
            node: node.into(),
            created_at: now,
            updated_at: now,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            config,
            ..VM::default()
        }
    }
}

/// How to stop a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOptions {
    /// Stop the vCPUs at once, without asking the guest.
    pub force: bool,
    /// How long the guest has to stop by itself, `None` for
    /// [`DEFAULT_TIMEOUT`](StopOptions::DEFAULT_TIMEOUT). Not used with `force`.
    pub timeout: Option<Duration>,
}

impl StopOptions {
    /// How long a guest has to stop by itself where nothing is said: 30 s, after which most
    /// operating systems have ended their own services by force.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Stop at once.
    #[must_use]
    pub const fn force() -> StopOptions {
        StopOptions {
            force: true,
            timeout: None,
        }
    }

    /// The time the guest has: none with `force`.
    #[must_use]
    pub fn effective_timeout(&self) -> Duration {
        if self.force {
            Duration::ZERO
        } else {
            self.timeout.unwrap_or(Self::DEFAULT_TIMEOUT)
        }
    }
}
