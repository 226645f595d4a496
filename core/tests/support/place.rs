//! A node as a process that keeps its address and its data when it is started again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use dwcp::{Backend, Client, ClientConfig};

use super::node_process::NodeProcess;

/// Keys of the nodes: for clients, and for each other.
pub const OPERATOR: &str = "the-key-of-an-operator";
pub const PEER: &str = "the-key-of-a-peer";

/// Where a node is. It speaks TLS by an authority that all nodes of one directory share.
pub struct Place {
    pub name: &'static str,
    backend: Backend,
    address: SocketAddr,
    /// What follows `--peer`.
    peers: Vec<String>,
}

impl Place {
    pub fn new(name: &'static str, backend: Backend) -> Place {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        // An address of loopback that nobody else uses, so that nobody else is given the port before
        // the node has it, or while the node is away.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed));
        let free = TcpListener::bind((ip, 0)).unwrap();
        Place {
            name,
            backend,
            address: free.local_addr().unwrap(),
            peers: Vec::new(),
        }
    }

    /// Makes a node known, under any name and with any key.
    pub fn introduce(&mut self, name: &str, node: &Place, key: &str) {
        self.peers.push(format!("{name}={},{key}", node.address));
    }

    /// Starts the process.
    pub fn start(&self, dir: &Path) -> NodeProcess {
        let path = |name: &str| dir.join(name).into_os_string().into_string().unwrap();
        let mut arguments: Vec<String> = [
            ("--name", self.name.to_owned()),
            ("--listen", self.address.to_string()),
            ("--data-dir", path(self.name)),
            ("--tls-dir", path("tls")),
            ("--api-key", format!("{OPERATOR}:operator")),
            ("--api-key", format!("{PEER}:node")),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect();
        for peer in &self.peers {
            arguments.extend(["--peer".to_owned(), peer.clone()]);
        }
        NodeProcess::start(self.backend, &arguments)
    }

    /// A client of it, over TLS.
    pub async fn client(&self, dir: &Path) -> Client {
        let config = ClientConfig::new(self.address.ip().to_string())
            .with_port(self.address.port())
            .with_ca_file(dir.join("tls/ca.pem"))
            .with_api_key(OPERATOR)
            .with_retry_backoff(Duration::from_millis(10));
        Client::new(config).await.unwrap()
    }
}
