//! Streams for the threads of a hand-over.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::duplex::TlsDuplex;
use super::{Address, ClientTls, Stream, stream};
use crate::error::{DWCPError, Result};

/// A connected stream that threads read and write.
#[derive(Debug)]
pub(crate) struct Blocking {
    kind: Kind,
    /// Read before the connection became this; comes first.
    rest: Bytes,
}

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Arc<TlsDuplex>),
}

impl Blocking {
    /// Connects; over TLS where `tls` is given and the address is not a Unix socket. Blocks.
    ///
    /// # Errors
    ///
    /// As [`connect`](super::connect).
    pub(crate) fn connect(
        address: &Address,
        tls: Option<&ClientTls>,
        timeout: Duration,
    ) -> Result<Self> {
        let unreachable = |why: &dyn std::fmt::Display| {
            DWCPError::Connection(format!("cannot reach {address}: {why}"))
        };
        let (host, port) = match address {
            Address::Unix(path) => {
                return connect_unix(path, timeout).map_err(|e| unreachable(&e));
            }
            Address::Tcp { host, port } => (host.as_str(), *port),
        };
        let name = tls.map(|tls| tls.name_for(host)).transpose()?;
        let deadline = Instant::now() + timeout;
        let found = (host, port)
            .to_socket_addrs()
            .map_err(|e| unreachable(&e))?;
        let mut left: Vec<_> = found.collect();
        left.reverse();
        let mut failures = Vec::new();
        while let Some(next) = left.pop() {
            let others = u32::try_from(left.len()).unwrap_or(u32::MAX);
            let rest = deadline.saturating_duration_since(Instant::now());
            let share = (rest / others.saturating_add(1)).max(Duration::from_millis(1));
            let socket = match TcpStream::connect_timeout(&next, share) {
                Ok(socket) => socket,
                Err(e) => {
                    failures.push(format!("{next}: {e}"));
                    continue;
                }
            };
            socket.set_nodelay(true)?;
            stream::keep_alive(SockRef::from(&socket))?;
            let (Some(tls), Some(name)) = (tls, name) else {
                return Ok(socket.into());
            };
            let peer = address.to_string();
            let tls = TlsDuplex::client(socket, tls, name, &peer, deadline)?;
            return Ok(Kind::Tls(Arc::new(tls)).into());
        }
        if failures.is_empty() {
            return Err(unreachable(&"the name has no address"));
        }
        Err(unreachable(&failures.join("; ")))
    }

    /// Another handle to the same connection: for writing while this one reads, or for shutting it
    /// down under a thread that waits. What was put back stays with this one.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match &self.kind {
            Kind::Plain(socket) => Kind::Plain(socket.try_clone()?),
            Kind::Unix(socket) => Kind::Unix(socket.try_clone()?),
            Kind::Tls(tls) => Kind::Tls(Arc::clone(tls)),
        }
        .into())
    }

    /// Ends both directions, for all handles.
    ///
    /// # Errors
    ///
    /// When the peer was faster.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Plain(socket) => socket.shutdown(Shutdown::Both),
            Kind::Unix(socket) => socket.shutdown(Shutdown::Both),
            Kind::Tls(tls) => tls.shutdown(),
        }
    }

    /// Limits how long a read waits; `None`: for ever.
    ///
    /// # Errors
    ///
    /// Those of the operating system; zero is none.
    pub(crate) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match &self.kind {
            Kind::Plain(socket) => socket.set_read_timeout(limit),
            Kind::Unix(socket) => socket.set_read_timeout(limit),
            Kind::Tls(tls) => tls.socket().set_read_timeout(limit),
        }
    }

    /// Limits how long a write waits that gets nothing sent; `None`: for ever.
    ///
    /// # Errors
    ///
    /// Those of the operating system; zero is none.
    pub(crate) fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match &self.kind {
            Kind::Plain(socket) => socket.set_write_timeout(limit),
            Kind::Unix(socket) => socket.set_write_timeout(limit),
            Kind::Tls(tls) => tls.socket().set_write_timeout(limit),
        }
    }

    /// Gives bytes back that were read too many: the next reads yield them first.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        if self.rest.is_empty() {
            self.rest = bytes;
        } else {
            self.rest = [&bytes[..], &self.rest[..]].concat().into();
        }
    }

    /// The socket, if bytes go over it as they are and none were read ahead: what may be sent from,
    /// and received into, guest memory without a copy.
    pub(crate) fn direct(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            _ if !self.rest.is_empty() => None,
            Kind::Plain(socket) => Some(socket.as_fd()),
            Kind::Unix(socket) => Some(socket.as_fd()),
            Kind::Tls(_) => None,
        }
    }

    /// Whether what goes over it is encrypted.
    #[cfg(test)]
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// The common name in the certificate that the peer proved to own, where TLS checked one.
    #[cfg(test)]
    pub(crate) fn peer_certificate_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Tls(tls) => tls.peer_certificate_name(),
            Kind::Plain(_) | Kind::Unix(_) => None,
        }
    }

    /// Whether the peer is on this host.
    pub(crate) fn is_local(&self) -> bool {
        let socket = match &self.kind {
            Kind::Unix(_) => return true,
            Kind::Plain(socket) => socket,
            Kind::Tls(tls) => tls.socket(),
        };
        socket
            .peer_addr()
            .is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
    }
}

fn connect_unix(path: &Path, timeout: Duration) -> io::Result<Blocking> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux waits this long for one who listens to accept (unix(7), SO_SNDTIMEO).
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_write_timeout(None)?;
    Ok(UnixStream::from(OwnedFd::from(socket)).into())
}

impl From<Kind> for Blocking {
    fn from(kind: Kind) -> Self {
        let rest = Bytes::new();
        Self { kind, rest }
    }
}

impl From<TcpStream> for Blocking {
    fn from(socket: TcpStream) -> Self {
        Kind::Plain(socket).into()
    }
}

impl From<UnixStream> for Blocking {
    fn from(socket: UnixStream) -> Self {
        Kind::Unix(socket).into()
    }
}

/// The socket, for its options; for bytes see [`direct`](Blocking::direct).
impl AsFd for Blocking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Plain(socket) => socket.as_fd(),
            Kind::Unix(socket) => socket.as_fd(),
            Kind::Tls(tls) => tls.socket().as_fd(),
        }
    }
}

impl Read for Blocking {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.rest.is_empty() && !out.is_empty() {
            let len = out.len().min(self.rest.len());
            self.rest.copy_to_slice(&mut out[..len]);
            return Ok(len);
        }
        match &mut self.kind {
            Kind::Plain(socket) => socket.read(out),
            Kind::Unix(socket) => socket.read(out),
            Kind::Tls(tls) => tls.read(out),
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Plain(socket) => socket.write(bytes),
            Kind::Unix(socket) => socket.write(bytes),
            Kind::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// Leaves the runtime: the same connection, for threads.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `unsupported` for a pair in memory.
    pub(crate) fn into_blocking(self) -> Result<Blocking> {
        let std = |socket: tokio::net::TcpStream| {
            let socket = socket.into_std()?;
            socket.set_nonblocking(false)?;
            Ok::<_, DWCPError>(socket)
        };
        Ok(match self {
            Stream::Tcp(socket) => Kind::Plain(std(socket)?),
            Stream::Unix(socket) => {
                let socket = socket.into_std()?;
                socket.set_nonblocking(false)?;
                Kind::Unix(socket)
            }
            Stream::Tls(tls) => {
                let (socket, connection) = match *tls {
                    tokio_rustls::TlsStream::Client(tls) => {
                        let (socket, connection) = tls.into_inner();
                        (socket, connection.into())
                    }
                    tokio_rustls::TlsStream::Server(tls) => {
                        let (socket, connection) = tls.into_inner();
                        (socket, connection.into())
                    }
                };
                let tls = TlsDuplex::new(std(socket)?, connection);
                // What was written and not yet flushed must not wait for the next write.
                tls.answer();
                Kind::Tls(Arc::new(tls))
            }
            #[cfg(test)]
            Stream::Memory(_) => {
                return Err(DWCPError::Unsupported(
                    "a connection in memory cannot carry a hand-over".into(),
                ));
            }
        }
        .into())
    }
}
