//! Asking a node.
//!
//! [`Client`] and [`VMClient`] turn method calls into [`Action`]s and [`Subscription`]s and hand
//! them to a `Service`: a node in the same process, or `remote`, which reaches one over connections.
//! `config` says how these are made, `service` is the seam, `vm` has the methods, `streams` what they
//! stream, `pool` several clients at once. Nothing here knows how a node works.

#![forbid(unsafe_code)]

mod config;
mod counters;
mod pool;
mod remote;
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
pub use self::pool::ClientPool;
use self::remote::Remote;
#[cfg_attr(
    not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
    allow(unused_imports, reason = "only a node takes them from here")
)]
pub(crate) use self::service::{BoxFuture, ItemSink, ItemStream, Service};
pub use self::streams::{Console, ConsoleWriter, Events, Items, MetricsStream, MigrationProgress};
pub use self::vm::VMClient;
use crate::action::{Action, Outcome, Subscription};
use crate::error::{DWCPError, Result};
use crate::model::{ClientMetrics, Health, NodeInfo, new_uuid};

/// Asks the node at `address` on behalf of somebody with that role, as a node. Connects when it is first
/// asked.
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn forwarder(
    address: crate::transport::Address,
    tls: Option<crate::transport::ClientTls>,
    api_key: Option<String>,
    role: crate::action::Role,
) -> Result<Arc<dyn Service>> {
    Ok(Arc::new(Remote::forwarding(address, tls, api_key, role)?))
}

/// A client of one node. Cheap to clone; clones share their connections.
///
/// [`Client::new`] connects to a node over TCP, TLS or a Unix socket. `Node::client` gives one for a
/// node in the same process, which calls it directly: no socket, no JSON. The methods are the same.
///
/// # Over a network
///
/// * **Requests share a connection** (or [`pool_size`](ClientConfig::pool_size) of them), many at a
///   time, and are answered in any order. One that was lost is made again with the next request.
/// * **A request that failed is repeated** up to [`retry_attempts`](ClientConfig::retry_attempts)
///   times where that can do no harm: the error passes (a lost connection, `unavailable`, `timeout`,
///   `resource_limit`), and the request changes nothing, carries an idempotency key (`create`,
///   `migrate` and `snapshot` get one), or was certainly not executed. All tries together take at
///   most [`request_timeout`](ClientConfig::request_timeout).
/// * **A node that does not keep up is left alone**: after five requests of a kind (reading,
///   lifecycle, migration, snapshots) in a row that ended with `unavailable` or `timeout`, further
///   ones fail at once with [`DWCPError::Unavailable`], which says so, for a second at first and at
///   most 30. Then one request tries how it is.
/// * **Streams survive the connection**: a watch goes on after the last event it showed, without loss
///   or repetition; where the node no longer has what came between, an event of type `lost` says so.
///   Figures and progress go on. A console cannot be continued exactly, and ends with
///   [`DWCPError::Connection`]; so does any stream whose node cannot be reached for
///   `request_timeout`.
/// * **Dropping a call's future** takes the request back if the node has not begun it; dropping a
///   stream ends it at the node.
///
/// It runs on the Tokio runtime it was made on.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    /// Who this client is where one types at a time.
    writer: String,
    service: Arc<dyn Service>,
    counters: Arc<Counters>,
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
    /// [`DWCPError::Config`] where the config cannot be right, [`DWCPError::Connection`] when the node
    /// cannot be reached, [`DWCPError::Timeout`] when it does not answer within
    /// [`connect_timeout`](ClientConfig::connect_timeout), [`DWCPError::Authentication`] when it refuses
    /// the credential or its certificate is not to be trusted, [`DWCPError::Unsupported`] when it does
    /// not speak the extended profile of the protocol.
    pub async fn new(config: ClientConfig) -> Result<Client> {
        let client = Client::remote(Remote::new(&config.fill_from_env()?)?);
        client.0.service.connect().await?;
        Ok(client)
    }

    /// A client of whatever answers in this process.
    #[cfg_attr(
        not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
        allow(dead_code, reason = "only a node makes one")
    )]
    pub(crate) fn of(service: Arc<dyn Service>) -> Client {
        Client::with(service, Arc::new(Counters::in_process()))
    }

    fn remote(remote: Remote) -> Client {
        let counters = remote.counters();
        Client::with(Arc::new(remote), counters)
    }

    fn with(service: Arc<dyn Service>, counters: Arc<Counters>) -> Client {
        Client(Arc::new(Shared {
            writer: new_uuid(),
            service,
            counters,
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
    /// [`DWCPError::Connection`] after [`close`](Client::close) and where the node cannot be reached,
    /// [`DWCPError::Unavailable`] when it was shut down.
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
    /// bytes are counted. Over a network a message is a frame, and bytes are those before encryption.
    #[must_use]
    pub fn metrics(&self) -> ClientMetrics {
        self.0.counters.metrics()
    }

    /// Whether requests can reach the node: over a network, whether a connection is open. One that was
    /// lost is made again with the next request.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.0.closed.load(Ordering::Acquire) && self.0.service.is_open()
    }

    /// Whether the node has accepted this client: in process it always has, and a connection counts as
    /// open only after that.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.is_connected()
    }

    /// Ends the connection, for all clones; returns when it is closed. Later calls, and those under
    /// way, fail with [`DWCPError::Connection`], and streams end with it; when the node is in the same
    /// process, what is under way goes on.
    pub async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.service.close().await;
    }

    /// Asks the node for anything: what all methods do, for front ends that translate requests by
    /// themselves.
    ///
    /// # Errors
    ///
    /// The node's; [`DWCPError::Config`] for what [`Action::validate`] refuses.
    pub async fn call(&self, mut action: Action) -> Result<Outcome> {
        if let Action::ConsoleWrite { writer, .. } = &mut action {
            writer.get_or_insert_with(|| self.0.writer.clone());
        }
        self.counted(async {
            action.validate()?;
            self.open()?;
            self.0.counters.asked();
            let answer = self.0.service.call(action).await;
            self.0.counters.answered();
            answer
        })
        .await
    }

    /// Subscribes to anything: what all streams are made of.
    ///
    /// # Errors
    ///
    /// The node's; [`DWCPError::Config`] for what [`Subscription::validate`] refuses.
    pub async fn subscribe(&self, mut subscription: Subscription) -> Result<Items> {
        if let Subscription::Console { writer, .. } = &mut subscription {
            writer.get_or_insert_with(|| self.0.writer.clone());
        }
        self.counted(async {
            subscription.validate()?;
            self.open()?;
            self.0.counters.asked();
            let answer = self.0.service.subscribe(subscription).await;
            self.0.counters.answered();
            Ok(Items::new(answer?, self.clone()))
        })
        .await
    }

    /// Whether it is a clone of the other.
    fn is_same(&self, other: &Client) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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
