//! One TLS connection for threads: one may read while another writes.
//!
//! The connection's lock is held while records are made and opened, never while the socket is waited
//! for. Who reads holds `incoming`, who writes holds `outgoing`, so each direction stays in order.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection};

#[cfg(test)]
use super::tls;
use super::tls::{ClientTls, Side, handshake_failed};
use crate::error::{DWCPError, Result};

/// Bytes read from the socket at a time. Small enough for the second-level cache together with what
/// they become, and for a system call that does not keep others waiting.
const READ_PIECE: usize = 128 << 10;
/// Bytes encrypted and sent at a time: four records.
const WRITE_PIECE: usize = 64 << 10;

/// A TLS connection over TCP, after its handshake.
#[derive(Debug)]
pub(super) struct TlsDuplex {
    socket: TcpStream,
    connection: Mutex<Connection>,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
}

/// What came from the socket and has not been opened.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
    ended: bool,
    /// What came is not what the peer sent: nothing after it counts.
    broken: Option<rustls::Error>,
}

/// What is to go to the socket.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    /// Part of a record may be gone: nothing that follows could be understood.
    broken: bool,
}

impl TlsDuplex {
    /// Takes over a connection after its handshake, with what it has read ahead.
    pub(super) fn new(socket: TcpStream, mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(2 * WRITE_PIECE));
        Self {
            socket,
            connection: Mutex::new(connection),
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
        }
    }

    /// Goes through the handshake as the side that connected.
    pub(super) fn client(
        socket: TcpStream,
        tls: &ClientTls,
        name: ServerName<'static>,
        peer: &str,
        deadline: Instant,
    ) -> Result<Self> {
        let mut connection = ClientConnection::new(tls.config(), name)
            .map_err(|e| DWCPError::Internal(format!("TLS: {e}")))?;
        let mut limited = Limited {
            socket: &socket,
            deadline,
        };
        while connection.is_handshaking() {
            match connection.complete_io(&mut limited) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    return Err(DWCPError::Timeout(format!(
                        "{peer} accepted the connection, but did not answer in TLS in time"
                    )));
                }
                Err(e) => {
                    // The server is told why, if it still listens; the error to tell is this one.
                    while connection.wants_write() && connection.write_tls(&mut limited).is_ok() {}
                    return Err(handshake_failed(&Side::Client(tls), peer, &e));
                }
            }
        }
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        Ok(Self::new(socket, connection.into()))
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    #[cfg(test)]
    pub(super) fn peer_certificate_name(&self) -> Option<String> {
        tls::peer_name(&lock(&self.connection))
    }

    /// As [`Read::read`]: at least a byte, or none at the end that the peer announced. An end that it
    /// did not announce is `UnexpectedEof`.
    pub(super) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let mut incoming = lock(&self.incoming);
        loop {
            let mut connection = lock(&self.connection);
            let opened = incoming.open(&mut connection, out);
            let answers = connection.wants_write();
            drop(connection);
            if answers {
                self.answer();
            }
            match opened {
                Ok(None) => incoming.fill(&self.socket)?,
                Ok(Some(read)) => return Ok(read),
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Write::write`]: what it takes is with the kernel when it returns.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut outgoing = lock(&self.outgoing);
        let piece = &bytes[..bytes.len().min(WRITE_PIECE)];
        let taken = {
            let mut connection = lock(&self.connection);
            let taken = connection.writer().write(piece)?;
            outgoing.collect(&mut connection)?;
            taken
        };
        outgoing.send(&self.socket)?;
        Ok(taken)
    }

    /// Sends what the connection has to say by itself: answers to key updates, alerts. Whoever writes
    /// at this moment sends it with the next record: waiting for him could wait for the peer, and the
    /// peer for us.
    pub(super) fn answer(&self) {
        let Some(mut outgoing) = try_lock(&self.outgoing) else {
            return;
        };
        let collected = outgoing.collect(&mut lock(&self.connection));
        if let Err(error) = collected.and_then(|()| outgoing.send(&self.socket)) {
            // The next read or write meets it again.
            tracing::debug!(%error, "a TLS connection cannot answer");
        }
    }

    /// Ends both directions, also under threads that wait. The peer is told that this is the end, if
    /// that can be done without waiting: where it cannot, it finds a message cut short anyway.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        self.say_goodbye();
        self.socket.shutdown(Shutdown::Both)
    }

    fn say_goodbye(&self) {
        let Some(mut outgoing) = try_lock(&self.outgoing) else {
            return;
        };
        let mut connection = lock(&self.connection);
        connection.send_close_notify();
        if outgoing.broken || outgoing.collect(&mut connection).is_err() {
            return;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let socket = socket2::SockRef::from(&self.socket);
        // A peer that went first needs no goodbye.
        let _ = socket.send_with_flags(&outgoing.bytes, flags);
        outgoing.bytes.clear();
        outgoing.broken = true;
    }
}

impl Drop for TlsDuplex {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

impl Incoming {
    /// Opens records into `out`; `None` when more has to be read from the socket first.
    fn open(&mut self, connection: &mut Connection, out: &mut [u8]) -> io::Result<Option<usize>> {
        let mut filled = 0;
        loop {
            match connection.reader().read(&mut out[filled..]) {
                // The peer announced the end.
                Ok(0) => return Ok(Some(filled)),
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.from == self.to && !self.ended && self.broken.is_none() {
                        return Ok((filled > 0).then_some(filled));
                    }
                    if let Some(broken) = &self.broken {
                        if filled > 0 {
                            return Ok(Some(filled));
                        }
                        return Err(io::Error::new(io::ErrorKind::InvalidData, broken.clone()));
                    }
                    let mut next = &self.bytes[self.from..self.to];
                    let before = next.len();
                    // With nothing left, this tells the connection that the stream has ended.
                    connection.read_tls(&mut next)?;
                    self.from += before - next.len();
                    self.broken = connection.process_new_packets().err();
                }
                // Bytes before it count; the error comes again.
                Err(_) if filled > 0 => return Ok(Some(filled)),
                Err(e) => return Err(e),
            }
            if filled == out.len() {
                return Ok(Some(filled));
            }
        }
    }

    /// Waits for bytes from the socket.
    fn fill(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        self.bytes.resize(READ_PIECE, 0);
        (self.from, self.to) = (0, 0);
        loop {
            match socket.read(&mut self.bytes) {
                Ok(0) => self.ended = true,
                Ok(read) => self.to = read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            return Ok(());
        }
    }
}

impl Outgoing {
    /// Takes all records that the connection has ready.
    fn collect(&mut self, connection: &mut Connection) -> io::Result<()> {
        while connection.wants_write() {
            connection.write_tls(&mut self.bytes)?;
        }
        Ok(())
    }

    fn send(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = socket.write_all(&self.bytes);
        self.bytes.clear();
        self.broken = sent.is_err();
        sent
    }
}

/// A socket whose calls end at a point in time.
struct Limited<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl Limited<'_> {
    fn left(&self) -> io::Result<std::time::Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

/// The kernel reports an exceeded time limit as "would block".
fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(out).map_err(late)
    }
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A panic of another thread does not make the bytes wrong: rustls keeps its own state in order.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
