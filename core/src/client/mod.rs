//! Asking a node.
//!
//! [`Client`] and [`VMClient`] turn method calls into [`Action`]s and [`Subscription`]s and hand
//! them to a `Service`: a node in the same process today, a connection to one later. `config` says
//! how a connection is made, `service` is the seam, `vm` has the methods, `streams` what they
//! stream. Nothing here knows how a node works.

#![forbid(unsafe_code)]

mod config;
mod counters;
mod service;
mod streams;
#[cfg(test)]
mod tests;
mod vm;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::config::ClientConfig;
use self::counters::Counters;
#[cfg_attr(
    not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
    allow(unused_imports, reason = "only a node makes them")
)]
pub(crate) use self::service::{BoxFuture, ItemSink, ItemStream, Service};
pub use self::streams::{Console, ConsoleWriter, Events, Items, MetricsStream, MigrationProgress};
pub use self::vm::VMClient;
use crate::action::{Action, Outcome, Subscription};
use crate::error::{DWCPError, Result};
use crate::model::{ClientMetrics, Health, NodeInfo};

/// A client of one node. Cheap to clone; clones share one connection.
///
/// `Node::client` gives one for a node in the same process, which calls it directly: no socket, no
/// JSON. Connecting to a node elsewhere is not built yet.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    service: Arc<dyn Service>,
    counters: Counters,
    closed: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &self.0.service)
            .field("connected", &self.is_connected())
            .finish()
    }
}

impl Client {
    /// Connects to the node that `config` names.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] where the config cannot be right, and otherwise, in this version,
    /// always [`DWCPError::Unsupported`]: connecting over a network is not built yet.
    pub async fn new(config: ClientConfig) -> Result<Client> {
        let config = config.fill_from_env()?;
        config.validate()?;
        Err(DWCPError::Unsupported(format!(
            "connecting over a network ({}) is not built yet: this version has \
             Node::client(), which asks a node in the same process",
            config.target()
        )))
    }

    /// A client of whatever answers.
    #[cfg_attr(
        not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
        allow(dead_code, reason = "only a node makes one")
    )]
    pub(crate) fn of(service: Arc<dyn Service>) -> Client {
        Client(Arc::new(Shared {
            service,
            counters: Counters::connected(),
            closed: AtomicBool::new(false),
        }))
    }

    /// The operations on VMs.
    #[must_use]
    pub fn vm(&self) -> VMClient {
        VMClient::new(self.clone())
    }

    /// Whether the node can be relied on.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Connection`] after [`close`](Client::close), [`DWCPError::Unavailable`] when the
    /// node was shut down.
    pub async fn health(&self) -> Result<Health> {
        match self.call(Action::Health).await? {
            Outcome::Health(health) => Ok(*health),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What the node is: its name, what runs its VMs, its limits.
    ///
    /// # Errors
    ///
    /// As [`health`](Client::health).
    pub async fn node_info(&self) -> Result<NodeInfo> {
        match self.call(Action::Node).await? {
            Outcome::Node(info) => Ok(*info),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Counters of this client and its clones, since it was made.
    ///
    /// In process nothing is framed: a message is one request, answer or item of a stream, and no
    /// bytes are counted.
    #[must_use]
    pub fn metrics(&self) -> ClientMetrics {
        self.0.counters.read()
    }

    /// Whether requests can reach the node.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.0.closed.load(Ordering::Acquire) && self.0.service.is_open()
    }

    /// Whether the node has accepted this client; in process it always has.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.is_connected()
    }

    /// Ends the connection, for all clones. Later calls fail with [`DWCPError::Connection`]; streams
    /// that are open go on until they are dropped, when the node is in the same process.
    pub async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    /// Asks the node for anything: what all methods do, for front ends that translate requests by
    /// themselves.
    ///
    /// # Errors
    ///
    /// The node's; [`DWCPError::Config`] for what [`Action::validate`] refuses.
    pub async fn call(&self, action: Action) -> Result<Outcome> {
        self.counted(async {
            action.validate()?;
            self.open()?;
            self.0.counters.sent();
            let answer = self.0.service.call(action).await;
            self.0.counters.received();
            answer
        })
        .await
    }

    /// Subscribes to anything: what all streams are made of.
    ///
    /// # Errors
    ///
    /// The node's; [`DWCPError::Config`] for what [`Subscription::validate`] refuses.
    pub async fn subscribe(&self, subscription: Subscription) -> Result<Items> {
        self.counted(async {
            subscription.validate()?;
            self.open()?;
            self.0.counters.sent();
            let answer = self.0.service.subscribe(subscription).await;
            self.0.counters.received();
            Ok(Items::new(answer?, self.clone()))
        })
        .await
    }

    fn open(&self) -> Result<()> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(DWCPError::Connection("the client was closed".into()));
        }
        Ok(())
    }

    async fn counted<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let result = call.await;
        if result.is_err() {
            self.0.counters.failed();
        }
        result
    }

    /// The error for an answer of another kind than the request asks for.
    fn unexpected(&self, outcome: &Outcome) -> DWCPError {
        self.0.counters.failed();
        let text = format!("{outcome:?}");
        let kind = text.split(['(', ' ']).next().unwrap_or_default();
        DWCPError::Protocol(format!(
            "the node answered with {kind}, which was not asked"
        ))
    }
}
