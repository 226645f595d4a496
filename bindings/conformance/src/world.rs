//! What testees talk to: two nodes with TLS and keys, which know each other, and an oracle.

use std::time::Duration;

use dwcp::{Backend, Node, NodeBuilder, Role};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Fault;
use crate::oracle::Oracle;

const KEY: &str = "conformance-admin";
const PEER_KEY: &str = "conformance-peers";
/// Length of a long text, just within the limit on one annotation.
const BIG: usize = 64 << 10;
/// Time for guests at the end: they are simulated, and stop at once.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// All there is for one scenario.
#[derive(Debug)]
pub(crate) struct World {
    /// `None` while it is being restarted.
    here: Option<Node>,
    there: Node,
    /// Where the first one listens, before and after a restart.
    address: String,
    oracle: Oracle,
    dir: TempDir,
}

fn fault(error: impl std::fmt::Display) -> Fault {
    format!("the world: {error}")
}

impl World {
    pub(crate) async fn new() -> Result<World, Fault> {
        let dir = TempDir::new().map_err(fault)?;
        let there = builder(&dir, "node-b", "127.0.0.1:0")
            .start()
            .await
            .map_err(fault)?;
        let here = builder(&dir, "node-a", "127.0.0.1:0")
            .start()
            .await
            .map_err(fault)?;
        let address = here.address().ok_or("no address")?.to_string();
        let world = World {
            here: Some(here),
            there,
            address,
            oracle: Oracle::start().await.map_err(fault)?,
            dir,
        };
        world.introduce()?;
        Ok(world)
    }

    fn introduce(&self) -> Result<(), Fault> {
        let there = self.there.address().ok_or("no address")?.to_string();
        let here = self.here()?;
        here.add_peer_with_credential("node-b", there, PEER_KEY)
            .map_err(fault)?;
        let added = self
            .there
            .add_peer_with_credential("node-a", &self.address, PEER_KEY);
        added.map_err(fault)
    }

    /// The first node.
    pub(crate) fn here(&self) -> Result<&Node, Fault> {
        self.here.as_ref().ok_or_else(|| fault("the node is down"))
    }

    /// Ends the first node and starts it anew, at the same place, with what outlives it.
    pub(crate) async fn restart(&mut self) -> Result<(), Fault> {
        if let Some(here) = self.here.take() {
            here.shutdown(SHUTDOWN).await.map_err(fault)?;
        }
        let here = builder(&self.dir, "node-a", &self.address).start().await;
        self.here = Some(here.map_err(fault)?);
        self.introduce()
    }

    pub(crate) async fn end(self) -> Result<(), Fault> {
        for node in self.here.iter().chain([&self.there]) {
            node.shutdown(SHUTDOWN).await.map_err(fault)?;
        }
        Ok(())
    }

    /// What a story is told of both nodes.
    pub(crate) fn remote(&self) -> Result<Vec<String>, Fault> {
        let there = self.there.address().ok_or("no address")?.to_string();
        let ca = self.dir.path().join("tls/ca.pem").display().to_string();
        let words = [
            "--remote",
            &self.address,
            &there,
            "--api-key",
            KEY,
            "--ca-file",
            &ca,
        ];
        let words = words.into_iter().chain(["--peer", "node-b"]);
        Ok(words.map(str::to_owned).collect())
    }

    /// What scenarios call by name: `$here` and `$there` are configs of clients, `$oracle` too.
    pub(crate) fn names(&self) -> Result<Vec<(&'static str, Value)>, Fault> {
        let ca = std::fs::read_to_string(self.dir.path().join("tls/ca.pem")).map_err(fault)?;
        let config = |address: &str| {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
            json!({
                "address": host, "port": port.parse::<u16>().unwrap_or_default(), "api_key": KEY,
                "tls_enabled": true, "ca_pem": ca, "request_timeout": "30s", "retry_attempts": 3,
                "retry_backoff": "50ms",
            })
        };
        let there = self.there.address().ok_or("no address")?.to_string();
        Ok(vec![
            ("$here", config(&self.address)),
            ("$there", config(&there)),
            (
                "$oracle",
                json!({
                    "address": "127.0.0.1", "port": self.oracle.port, "tls_enabled": false,
                    "request_timeout": "1s", "retry_attempts": 0,
                }),
            ),
            ("$silent", crate::oracle::SILENT.into()),
            ("$big", "z".repeat(BIG).into()),
            ("$nobody", "00000000-0000-4000-8000-000000000000".into()),
        ])
    }
}

fn builder(dir: &TempDir, name: &str, address: &str) -> NodeBuilder {
    Node::builder(name)
        .backend(Backend::Sim)
        .data_dir(dir.path().join(name))
        .tls_dir(dir.path().join("tls"))
        .listen(address)
        .named_key("admin", KEY, Role::Admin)
        .named_key("peers", PEER_KEY, Role::Node)
}
