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
    ///
    /// # Examples
    ///
    /// ```
    /// use dwcp::{VM, VMState};
    ///
    /// fn process_vm(vm: &VM) {
    ///     match vm.state {
    ///         VMState::Running => {
    ///             println!("VM is running");
    ///         }
    ///         VMState::Stopped => {
    ///             println!("VM is stopped");
    ///         }
    ///         _ => {}
    ///     }
    /// }
    /// # process_vm(&VM::default());
    /// ```
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm() -> VM {
        let config = VMConfig::builder()
            .name("web")
            .label("env", "prod")
            .build()
            .unwrap();
        VM::new("id-1", "node-01", config)
    }

    #[test]
    fn a_new_vm_has_what_its_config_says() {
        let vm = vm();
        assert_eq!((vm.name.as_str(), vm.node.as_str()), ("web", "node-01"));
        assert_eq!(
            (vm.state, &vm.labels),
            (VMState::Creating, &vm.config.labels)
        );
        assert_eq!(vm.created_at, vm.updated_at);
    }

    #[test]
    fn json_leaves_out_what_is_not_known() {
        let value = serde_json::to_value(vm()).unwrap();
        for key in ["started_at", "stopped_at", "metrics", "reason", "addresses"] {
            assert!(value.get(key).is_none(), "{key}");
        }
        assert_eq!(value["state"], "creating");
    }

    #[test]
    fn every_field_survives_json() {
        let full = VM {
            state: VMState::Failed,
            started_at: Some(Timestamp::from_unix_micros(1)),
            stopped_at: Some(Timestamp::from_unix_micros(2)),
            metrics: Some(VMMetrics {
                cpu_usage: 12.5,
                steal_time_us: Some(1),
                ..Default::default()
            }),
            reason: Some("triple fault".into()),
            addresses: vec!["10.0.0.2".into()],
            ..vm()
        };
        let value = serde_json::to_value(&full).unwrap();
        for key in VM::EXTENDED_KEYS {
            assert!(value.get(*key).is_some(), "{key}");
        }
        assert_eq!(serde_json::from_value::<VM>(value).unwrap(), full);
    }

    #[test]
    fn the_reply_of_a_newer_node_is_read() {
        let mut value = serde_json::to_value(vm()).unwrap();
        value["mood"] = json!("good");
        value["state"] = json!("dreaming");
        value["config"]["colour"] = json!("red");
        value["config"]["network"]["proxy"] = json!("here");
        value["config"]["network"]["interfaces"] = json!([{"name": "eth0", "speed": 1}]);
        value["config"]["affinity"] = json!({"required_nodes": ["n"], "forbidden_nodes": []});
        let vm: VM = serde_json::from_value(value).unwrap();
        assert_eq!(vm.state, VMState::Unknown);
        assert_eq!(vm.config.network.interfaces[0].name, "eth0");
        assert_eq!(vm.config.affinity.unwrap().required_nodes, ["n"]);
    }

    #[test]
    fn a_config_in_both_cases_is_read() {
        let mut value = serde_json::to_value(vm()).unwrap();
        value["config"] = vm().config.to_value_in_both_cases().unwrap();
        assert_eq!(
            serde_json::from_value::<VM>(value).unwrap().config,
            vm().config
        );
    }

    #[test]
    fn a_number_that_json_cannot_hold_does_not_spoil_the_reply() {
        let metrics = VMMetrics {
            cpu_usage: f64::NAN,
            ..VMMetrics::default()
        };
        let text = serde_json::to_string(&metrics).unwrap();
        assert_eq!(
            serde_json::from_str::<VMMetrics>(&text).unwrap(),
            VMMetrics::default()
        );
    }

    #[test]
    fn force_gives_the_guest_no_time() {
        assert_eq!(
            StopOptions::default().effective_timeout(),
            Duration::from_secs(30)
        );
        assert_eq!(StopOptions::force().effective_timeout(), Duration::ZERO);
        let timeout = Some(Duration::from_secs(5));
        let options = StopOptions {
            timeout,
            ..StopOptions::default()
        };
        assert_eq!(options.effective_timeout(), Duration::from_secs(5));
    }
}
