//! Waiting for connections.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::tls::{ServerTls, Side, handshake_failed};
use super::unix::UnixSocket;
use super::{Address, Stream, stream};
use crate::error::{DWCPError, Result};

/// Connections that may wait to be accepted, as far as the system allows: all clients of a node that
/// come back at once. One that finds no room tries again a second later.
const BACKLOG: u32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    tls: Option<ServerTls>,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// A connection of which nothing has been read: the handshake of TLS is still to come.
#[derive(Debug)]
pub(crate) struct Pending {
    stream: Raw,
    tls: Option<ServerTls>,
    label: String,
}

#[derive(Debug)]
enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Listens at the first of a host's addresses that allows it.
async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match listen_at(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // So that a node that is started again need not wait for old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Listener {
    /// Listens; over TCP with TLS where `tls` is given. A Unix socket is for this process's user only,
    /// and replaces one on which nobody listens any more.
    ///
    /// # Errors
    ///
    /// `already_exists` when somebody else listens there, `connection` for what cannot be listened on.
    pub(crate) async fn bind(address: &Address, tls: Option<ServerTls>) -> Result<Self> {
        match address {
            Address::Unix(path) => Ok(Self {
                socket: Socket::Unix(UnixSocket::bind(path)?),
                tls: None,
                address: address.clone(),
            }),
            Address::Tcp { host, port } => {
                let socket = listen(host, *port).await.map_err(|e| match e.kind() {
                    io::ErrorKind::AddrInUse => DWCPError::AlreadyExists(format!(
                        "listen: somebody listens on {address} already"
                    )),
                    _ => DWCPError::Connection(format!("listen: cannot listen on {address}: {e}")),
                })?;
                Self::of_tcp(socket, tls)
            }
        }
    }

    /// Takes over a socket that listens already.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub(crate) fn of_tcp(socket: TcpListener, tls: Option<ServerTls>) -> Result<Self> {
        let address = socket.local_addr()?.into();
        Ok(Self {
            socket: Socket::Tcp(socket),
            tls,
            address,
        })
    }

    /// Where it listens, with the port that it got where none was asked for.
    #[cfg(test)]
    pub(crate) fn local_address(&self) -> &Address {
        &self.address
    }

    /// The same, of a TCP listener.
    pub(crate) fn socket_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// The next connection; never waits for what a peer does after connecting. May be dropped at any
    /// time without losing a connection.
    ///
    /// # Errors
    ///
    /// Those of the operating system: out of descriptors, most likely. Wait a little and try again.
    pub(crate) async fn accept(&self) -> Result<Pending> {
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Pending {
                    stream: Raw::Tcp(stream),
                    tls: self.tls.clone(),
                    label: peer.to_string(),
                }),
                Socket::Unix(socket) => socket.accept().await.map(|stream| Pending {
                    stream: Raw::Unix(stream),
                    tls: None,
                    label: self.address.to_string(),
                }),
            };
            match accepted {
                Ok(pending) => return Ok(pending),
                // The peer has gone again.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(DWCPError::Io(format!("accepting on {}: {e}", self.address))),
            }
        }
    }
}

impl Pending {
    /// What to call the peer in logs and messages.
    pub(crate) fn peer_label(&self) -> &str {
        &self.label
    }

    /// Goes through the handshake, where there is TLS.
    ///
    /// # Errors
    ///
    /// `timeout` after `limit`; `invalid_message` for a peer that does not speak TLS; `auth` for a
    /// certificate that is not to be trusted.
    pub(crate) async fn handshake(self, limit: Duration) -> Result<Stream> {
        let tcp = match self.stream {
            Raw::Unix(unix) => return Ok(Stream::Unix(unix)),
            Raw::Tcp(tcp) => tcp,
        };
        stream::prepare(&tcp)?;
        let Some(tls) = self.tls else {
            return Ok(Stream::Tcp(tcp));
        };
        let accepted = TlsAcceptor::from(tls.config()).accept(tcp);
        match tokio::time::timeout(limit, accepted).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
            Ok(Err(error)) => Err(handshake_failed(&Side::Server, &self.label, &error)),
            Err(_) => Err(DWCPError::Timeout(format!(
                "the TLS handshake with {} took longer than {limit:?}",
                self.label
            ))),
        }
    }
}
