//! What a VM asks of the network.

use serde::Serialize;

use super::keys::keyed;
use super::names::words;

words! {
    /// How a VM is connected to the network.
    pub enum NetworkMode as "network mode" {
        /// As the node is set up to do.
        Default = "",
        /// Not at all.
        None = "none",
        /// A tap device on a bridge of the host.
        Bridge = "bridge",
        /// A tap device the node was given.
        Tap = "tap",
        /// A private network behind the host's address.
        Nat = "nat",
    }
}

impl NetworkMode {
    /// Whether it asks the node for a network.
    pub(crate) fn asks(self) -> bool {
        matches!(
            self,
            NetworkMode::Bridge | NetworkMode::Tap | NetworkMode::Nat
        )
    }
}

/// The network of a VM. The default asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NetworkConfig {
    /// How the VM is connected.
    pub mode: NetworkMode,
    /// Its interfaces; empty for what `mode` implies.
    pub interfaces: Vec<NetworkInterface>,
    /// Addresses of name servers.
    pub dns: Vec<String>,
    /// Address of the default gateway, or empty.
    pub gateway: String,
    /// Largest packet in bytes, 0 for the node's choice.
    pub mtu: u32,
}

keyed! {
    NetworkConfig as "a network object" {
        mode = "mode",
        interfaces = "interfaces" [list of part],
        dns = "dns",
        gateway = "gateway",
        mtu = "mtu",
    }
}

/// One network interface of a VM. Empty text and 0 leave the choice to the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NetworkInterface {
    /// Name, such as `eth0`.
    pub name: String,
    /// Kind of device, `type` in JSON; `virtio` or empty.
    #[serde(rename = "type")]
    pub interface_type: String,
    /// Hardware address, `xx:xx:xx:xx:xx:xx`.
    pub mac: String,
    /// Bridge of the host it is attached to.
    pub bridge: String,
    /// VLAN number 1 to 4094, 0 for none.
    pub vlan: u32,
    /// Address of the guest.
    pub ip_address: String,
    /// Netmask of the guest, `255.255.255.0` or `24`.
    pub netmask: String,
    /// Limit in bits per second, 0 for none.
    pub bandwidth: u64,
}

keyed! {
    NetworkInterface as "a network interface object" {
        name = "name",
        interface_type = "type",
        mac = "mac",
        bridge = "bridge",
        vlan = "vlan",
        ip_address = "ip_address" | "ipAddress",
        netmask = "netmask",
        bandwidth = "bandwidth",
    }
}

impl NetworkInterface {
    /// Whether it is the one kind of device there is.
    pub(crate) fn is_virtio(&self) -> bool {
        matches!(self.interface_type.as_str(), "" | "virtio")
    }
}
