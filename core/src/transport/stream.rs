//! A connected stream of bytes, whatever carries it.

#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
#[cfg(test)]
use tokio::io::DuplexStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_rustls::TlsStream;

use super::tls;
#[cfg(test)]
use crate::error::Result;

/// Silence after which the kernel asks whether the peer is still there, so that a host that vanished
/// is noticed on idle connections too.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Time between its questions.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A connected stream of bytes.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(unix)]
    Unix(UnixStream),
    /// One end of a pair within this process.
    #[cfg(test)]
    Memory(DuplexStream),
}

impl Stream {
    /// Two ends joined in memory, each way holding at most `capacity` bytes.
    #[cfg(test)]
    pub(crate) fn pair(capacity: usize) -> (Self, Self) {
        let (one, other) = tokio::io::duplex(capacity);
        (Self::Memory(one), Self::Memory(other))
    }

    /// Takes over a TCP connection that another part of the program made.
    ///
    /// # Errors
    ///
    /// Those of the operating system, and when there is no Tokio runtime.
    #[cfg(test)]
    pub(crate) fn of_tcp(stream: std::net::TcpStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        prepare(&stream)?;
        Ok(Self::Tcp(stream))
    }

    /// The common name in the certificate that the peer proved to own, where TLS checked one.
    pub(crate) fn peer_certificate_name(&self) -> Option<String> {
        match self {
            Self::Tls(stream) => tls::peer_name(stream.get_ref().1),
            _ => None,
        }
    }

    /// Whether what goes over it is encrypted.
    #[cfg(test)]
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// No waiting for more bytes before sending, and a question now and then on idle connections.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(SockRef::from(stream))
}

/// Has the kernel ask now and then whether the peer is still there.
pub(super) fn keep_alive(socket: SockRef<'_>) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keep_alive)
}

/// Passes a call on to the stream of each kind.
macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            #[cfg(unix)]
            Stream::Unix($stream) => $call,
            #[cfg(test)]
            Stream::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            #[cfg(test)]
            Self::Memory(stream) => stream.is_write_vectored(),
        }
    }
}
