//! Serving connections: listeners, and a task for each connection.
//!
//! `connection` drives one, by the rules of `wire::session`; `streams` moves the items of its streams.
//! Who asks is settled once, at AUTH; every request is checked against that role before the node's
//! door (`service`) opens. What a peer can make a node hold is bounded for each connection by its
//! session, and by the number of connections here.

mod connection;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::Shared;
use super::keys::{Keys, Principal};
use crate::error::{DWCPError, Result};
use crate::transport::{Address, Listener, Pending, ServerTls};
use crate::wire::session::ServerConfig;

/// Time for the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when a connection cannot be accepted: most likely the process is out of
/// descriptors, and others have to end first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Default port.
const PORT: u16 = 9000;

/// What a node tells its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tide {
    /// Come in.
    Open,
    /// Finish what you do, and go.
    Closing,
    /// Go.
    Closed,
}

/// What serves the connections of a node.
#[derive(Debug)]
pub(super) struct Server {
    /// Permits of connections.
    connections: Arc<Semaphore>,
    most: usize,
    tide: watch::Sender<Tide>,
    /// Limits of each connection; whether AUTH is required is decided for each.
    config: ServerConfig,
}

impl Server {
    pub(super) fn new(connections: u32) -> Server {
        Server {
            connections: Arc::new(Semaphore::new(connections as usize)),
            most: connections as usize,
            tide: watch::Sender::new(Tide::Open),
            config: ServerConfig::default(),
        }
    }

    /// Tells all connections to finish what they do and go, and waits until they have.
    pub(super) async fn finish(&self) {
        self.tide.send_replace(Tide::Closing);
        let most = u32::try_from(self.most).unwrap_or(u32::MAX);
        // It is never closed.
        let _ = self.connections.acquire_many(most).await;
    }

    /// Ends all connections.
    pub(super) fn close(&self) {
        self.tide.send_replace(Tide::Closed);
    }
}

/// Where a node listens.
#[derive(Clone, Debug)]
pub(super) struct Listen {
    pub(super) addresses: Vec<String>,
    pub(super) tls: Option<ServerTls>,
    /// Serving other hosts without TLS was asked for.
    pub(super) insecure: bool,
}

/// Listens at all addresses.
///
/// # Errors
///
/// `invalid_config` for what is no address; `unsupported` for listening beyond this host without keys,
/// or without TLS unless that was asked for; and those of [`Listener::bind`].
pub(super) async fn bind(listen: &Listen, keys: &Keys) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for text in &listen.addresses {
        let address = Address::parse(text, PORT)
            .map_err(|e| DWCPError::Config(format!("listen: {}", e.message())))?;
        // Checked by name before, and by the address that it got after binding.
        let listener = Listener::bind(&address, listen.tls.clone()).await?;
        let local = match listener.socket_address() {
            Some(address) => address.ip().is_loopback(),
            None => true,
        };
        if !local && keys.is_empty() {
            return Err(DWCPError::Unsupported(format!(
                "listen: {text} is not a loopback address: a node without API keys serves this host \
                 only; give it a key"
            )));
        }
        if !local && listen.tls.is_none() && !listen.insecure {
            return Err(DWCPError::Unsupported(format!(
                "listen: {text} is not a loopback address: keys and guests' memory would travel in \
                 the clear; give it a certificate, or say that this is wanted (insecure)"
            )));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Serves a listener until the task is aborted.
pub(super) async fn serve(shared: Arc<Shared>, listener: Listener) {
    loop {
        // When there are too many, the next ones wait in the kernel's queue.
        let permit = Arc::clone(&shared.server.connections).acquire_owned().await;
        let Ok(permit) = permit else { return };
        match listener.accept().await {
            Ok(pending) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let peer = pending.peer_label().to_owned();
                    if let Err(error) = welcome(shared, pending).await {
                        tracing::debug!(peer, %error, "a connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                drop(permit);
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn welcome(shared: Arc<Shared>, pending: Pending) -> Result<()> {
    let stream = pending.handshake(HANDSHAKE_TIMEOUT).await?;
    let principal = if shared.keys.is_empty() {
        Some(Principal::anonymous())
    } else {
        let name = stream.peer_certificate_name();
        name.and_then(|name| shared.keys.of_certificate(&name))
    };
    connection::run(shared, stream, principal).await
}
