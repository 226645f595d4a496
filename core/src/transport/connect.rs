//! Connecting to a node.

#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::tls::{ClientTls, Side, handshake_failed};
use super::{Address, Stream, stream};
use crate::error::{DWCPError, Result};

/// Connects, over TLS where `tls` is given: a Unix socket never is encrypted, for it does not leave
/// the host. Every address of a host name is tried, each with its share of the time.
///
/// # Errors
///
/// `timeout` after `timeout`, name resolution and TLS included; `connection` when no address answers;
/// `auth` when the server's certificate is not to be trusted, and `invalid_message` when the server
/// does not speak TLS.
pub(crate) async fn connect(
    address: &Address,
    tls: Option<&ClientTls>,
    timeout: Duration,
) -> Result<Stream> {
    let deadline = Instant::now() + timeout;
    let late = || DWCPError::Timeout(format!("{address} did not answer within {timeout:?}"));
    let (host, port) = match address {
        Address::Unix(path) => {
            return timeout_at(deadline, connect_unix(path))
                .await
                .map_err(|_| late())?;
        }
        Address::Tcp { host, port } => (host, *port),
    };
    // Before anything is sent: a name that no certificate can carry is the caller's mistake.
    let name = tls.map(|tls| tls.name_for(host)).transpose()?;
    let stream = connect_tcp(address, host, port, deadline)
        .await?
        .ok_or_else(late)?;
    let (Some(tls), Some(name)) = (tls, name) else {
        return Ok(Stream::Tcp(stream));
    };
    let connector = TlsConnector::from(tls.config());
    match timeout_at(deadline, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => Err(handshake_failed(
            &Side::Client(tls),
            &address.to_string(),
            &error,
        )),
        Err(_) => Err(DWCPError::Timeout(format!(
            "{address} accepted the connection, but did not answer in TLS within {timeout:?}; if the \
             server does not speak TLS on this port, connect with tls_enabled(false)"
        ))),
    }
}

/// Tries every address of a host; `None` when the time is over.
async fn connect_tcp(
    address: &Address,
    host: &str,
    port: u16,
    deadline: Instant,
) -> Result<Option<TcpStream>> {
    let unknown = |why: &dyn std::fmt::Display| {
        DWCPError::Connection(format!("the name in the address {address}: {why}"))
    };
    let Ok(found) = timeout_at(deadline, lookup_host((host, port))).await else {
        return Ok(None);
    };
    let mut left: Vec<_> = found.map_err(|e| unknown(&e))?.collect();
    left.reverse();
    let mut failures = Vec::new();
    while let Some(next) = left.pop() {
        // A host that swallows packets must not take the time of those after it.
        let others = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let rest = deadline.saturating_duration_since(Instant::now());
        let share = Instant::now() + rest / others.saturating_add(1);
        match timeout_at(share, TcpStream::connect(next)).await {
            Ok(Ok(stream)) => {
                stream::prepare(&stream)?;
                return Ok(Some(stream));
            }
            Ok(Err(error)) => failures.push(format!("{next}: {error}")),
            Err(_) if left.is_empty() && failures.is_empty() => return Ok(None),
            Err(_) => failures.push(format!("{next}: no answer in its share of the time")),
        }
    }
    if failures.is_empty() {
        return Err(unknown(&"it has no address"));
    }
    Err(DWCPError::Connection(format!(
        "cannot reach {address}: {}",
        failures.join("; ")
    )))
}

#[cfg(unix)]
async fn connect_unix(path: &std::path::Path) -> Result<Stream> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => Ok(Stream::Unix(stream)),
        Err(e) => Err(DWCPError::Connection(format!(
            "cannot reach unix:{}: {e}",
            path.display()
        ))),
    }
}

#[cfg(not(unix))]
async fn connect_unix(path: &std::path::Path) -> Result<Stream> {
    Err(DWCPError::Unsupported(format!(
        "address: unix:{}: this platform has no Unix sockets",
        path.display()
    )))
}
