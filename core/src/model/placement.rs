//! Where a VM may run.

use std::collections::BTreeMap;

use serde::Serialize;

use super::keys::keyed;

/// Rules for the node a VM runs on. The default asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Affinity {
    /// Labels the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Names of the only nodes allowed.
    pub required_nodes: Vec<String>,
    /// Names of nodes to prefer.
    pub preferred_nodes: Vec<String>,
    /// Ids of VMs that must run on other nodes.
    pub anti_affinity_vms: Vec<String>,
    /// Ids of VMs that must run on the same node.
    pub require_same_host: Vec<String>,
}

keyed! {
    Affinity as "an affinity object" {
        node_selector = "node_selector" | "nodeSelector",
        required_nodes = "required_nodes" | "requiredNodes",
        preferred_nodes = "preferred_nodes" | "preferredNodes",
        anti_affinity_vms = "anti_affinity_vms" | "antiAffinityVMs" | "antiAffinityVms",
        require_same_host = "require_same_host" | "requireSameHost",
    }
}

impl Affinity {
    /// Whether it asks for anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Affinity::default()
    }
}
