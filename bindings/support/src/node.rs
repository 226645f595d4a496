//! A node, held by another language.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dwcp::{Node, Role};

use crate::client::ClientHandle;
use crate::failure::{Failure, Result};
use crate::options::NodeOptions;
use crate::runtime::Local;

/// A node, of this process only. Cheap to clone; it ends with the last clone, and its VMs with it.
#[derive(Clone)]
pub struct NodeHandle(Arc<Local<Node>>);

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl NodeHandle {
    /// Starts a node.
    ///
    /// # Errors
    ///
    /// As [`dwcp::NodeBuilder::start`].
    pub async fn start(options: NodeOptions) -> Result<NodeHandle> {
        let started = options.into_builder()?.start().await;
        let node = started.map_err(|error| Failure::from(error).about("node_start", None))?;
        Ok(NodeHandle(Arc::new(Local::new(node))))
    }

    /// The node itself.
    ///
    /// # Errors
    ///
    /// `forked` in another process than the one that made it.
    pub fn node(&self) -> Result<&Node> {
        self.0.get()
    }

    /// A client in this process, which calls the node directly.
    ///
    /// # Errors
    ///
    /// `forked`.
    pub fn client(&self) -> Result<ClientHandle> {
        Ok(ClientHandle::new(self.node()?.client()))
    }

    /// Where its first listener is, as text; `None` for a node without one.
    ///
    /// # Errors
    ///
    /// `forked`.
    pub fn address(&self) -> Result<Option<String>> {
        Ok(self.node()?.address().map(|address| address.to_string()))
    }

    /// Adds a peer, or gives it another address.
    ///
    /// # Errors
    ///
    /// As [`Node::add_peer`].
    pub fn add_peer(&self, name: &str, address: &str, credential: Option<&str>) -> Result<()> {
        let node = self.node()?;
        let added = match credential {
            Some(credential) => node.add_peer_with_credential(name, address, credential),
            None => node.add_peer(name, address),
        };
        added.map_err(|error| Failure::from(error).about("add_peer", None))
    }

    /// Takes and starts no VMs from now on.
    ///
    /// # Errors
    ///
    /// `forked`.
    pub fn drain(&self) -> Result<()> {
        self.node()?.drain();
        Ok(())
    }

    /// Ends the node; its guests get that time to stop.
    ///
    /// # Errors
    ///
    /// `forked`. The future's are those of [`Node::shutdown`].
    pub fn shutdown(
        &self,
        timeout: Duration,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let node = self.node()?.clone();
        Ok(async move {
            let ended = node.shutdown(timeout).await;
            ended.map_err(|error| Failure::from(error).about("shutdown", None))
        })
    }

    /// Names and roles of its keys.
    ///
    /// # Errors
    ///
    /// `forked`.
    pub fn keys(&self) -> Result<Vec<(String, Role)>> {
        Ok(self.node()?.keys().list())
    }

    /// Adds a key.
    ///
    /// # Errors
    ///
    /// `forked`. The future's are those of [`dwcp::NodeKeys::add`], and `invalid_config` for what is no
    /// role.
    pub fn add_key(
        &self,
        name: String,
        key: String,
        role: &str,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let keys = self.node()?.keys();
        let role: Result<Role> = role.parse().map_err(Failure::from);
        Ok(async move {
            let added = keys.add(&name, &key, role?).await;
            added.map_err(|error| Failure::from(error).about("add_key", None))
        })
    }

    /// Removes a key that was added.
    ///
    /// # Errors
    ///
    /// `forked`. The future's are those of [`dwcp::NodeKeys::remove`].
    pub fn remove_key(
        &self,
        name: String,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let keys = self.node()?.keys();
        Ok(async move {
            let removed = keys.remove(&name).await;
            removed.map_err(|error| Failure::from(error).about("remove_key", None))
        })
    }
}
