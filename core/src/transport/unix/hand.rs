//! Files that go to another process of this host, over a Unix socket with a name and no file.
//!
//! The name is an abstract one (unix(7)): it is drawn anew for each socket, goes with it, and cannot be
//! taken while that is open. Anybody of the host's network namespace may connect, so each side looks at who
//! the other is; messages are whole, so that no side waits for the rest of one.
#![allow(unsafe_code)]

use std::fmt::Write as _;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, SockAddr, Socket, Type};

/// How the name of each of these sockets begins: whoever is told another one does not connect to it.
const PREFIX: &str = "dwcp-hand-";
/// Bytes of chance in a name.
const CHANCE: usize = 16;
/// Connections that wait to be accepted: one is meant to come.
const BACKLOG: i32 = 4;
/// Files of one message that are looked at, so that they can be closed; the kernel closes what is more.
const FILES_MAX: usize = 4;

/// A socket on which a process waits for who is to have a file.
#[derive(Debug)]
pub(crate) struct HandSocket {
    socket: Socket,
    name: String,
}

impl HandSocket {
    /// Listens under a name that nobody knows yet.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub(crate) fn open() -> io::Result<Self> {
        let mut chance = [0; CHANCE];
        getrandom::fill(&mut chance).map_err(|e| io::Error::other(e.to_string()))?;
        let mut name = PREFIX.to_owned();
        for byte in chance {
            // Writing to a text does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.bind(&address(&name)?)?;
        socket.listen(BACKLOG)?;
        Ok(Self { socket, name })
    }

    /// What [`HandStream::connect`] is told.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for somebody of this user to connect, whoever else does meanwhile; `limit` is how long each
    /// message from there, and to there, is waited for.
    ///
    /// # Errors
    ///
    /// After [`shutdown`](Self::shutdown), and those of the operating system.
    pub(crate) fn accept(&self, limit: Duration) -> io::Result<HandStream> {
        loop {
            let (socket, _) = self.socket.accept()?;
            match HandStream::of(socket, limit) {
                Ok(stream) => return Ok(stream),
                Err(error) => tracing::debug!(%error, "a connection for a file is refused"),
            }
        }
    }

    /// Ends every [`accept`](Self::accept), in whatever thread.
    pub(crate) fn shutdown(&self) {
        // It fails only for what is no open socket.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A connection over which a file goes.
#[derive(Debug)]
pub(crate) struct HandStream {
    socket: Socket,
}

impl HandStream {
    /// Connects to a socket of that name, whose owner is of this user; `limit` is how long that, and each
    /// message, is waited for.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a name that no such socket has; `PermissionDenied` for an owner of another user.
    pub(crate) fn connect(name: &str, limit: Duration) -> io::Result<Self> {
        let chance = name.strip_prefix(PREFIX).unwrap_or_default();
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if chance.len() != 2 * CHANCE || !chance.as_bytes().iter().all(hex) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        // Linux waits this long for one who listens to accept (unix(7), SO_SNDTIMEO).
        socket.set_write_timeout(Some(limit))?;
        socket.connect(&address(name)?)?;
        Self::of(socket, limit)
    }

    fn of(socket: Socket, limit: Duration) -> io::Result<Self> {
        socket.set_write_timeout(Some(limit))?;
        socket.set_read_timeout(Some(limit))?;
        if !may_have(peer_of(&socket)?, own_user()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self { socket })
    }

    /// Another handle, for [`shutdown`](Self::shutdown) under a thread that waits.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
        })
    }

    /// Ends both directions, for all handles.
    pub(crate) fn shutdown(&self) {
        // It fails only when the peer was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends a message, and a file with it.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub(crate) fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // A peer that has gone is an error here, and no signal to the process.
        let flags = SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Takes the next message into `out`: its length, and the file that came with it, if one did. Files are
    /// closed in a process that this one becomes.
    ///
    /// # Errors
    ///
    /// `InvalidData` for a longer message, and for more files than one: then all are closed. Those of the
    /// operating system.
    pub(crate) fn receive(&self, out: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let came = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(out)],
            &mut control,
            flags,
        )?;
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                files.extend(more);
            }
        }
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        if came.flags.intersects(cut) || files.len() > 1 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((came.bytes, files.pop()))
    }
}

fn address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(PathBuf::from(format!("\0{name}")))
}

/// Whether a peer of that user is given files, and believed about them. Root can have them anyway.
fn may_have(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

/// The user that this thread acts for.
fn own_user() -> u32 {
    // SAFETY: it takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}

/// The user who connected, or who listens, at the other end: what it was then.
fn peer_of(socket: &Socket) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let size = size_of::<libc::ucred>();
    // The size of three numbers.
    #[allow(clippy::cast_possible_truncation)]
    let mut len = size as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `peer`, which is as long, and any bytes are a value
    // of it; both outlive the call.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    match status {
        0 if len as usize == size => Ok(peer.uid),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(50);

    /// Two ends that are connected.
    fn pair() -> [HandStream; 2] {
        let socket = HandSocket::open().unwrap();
        let one = HandStream::connect(socket.name(), LONG).unwrap();
        [one, socket.accept(LONG).unwrap()]
    }

    #[test]
    fn a_file_goes_with_a_message_and_is_closed_on_exec() {
        let [one, other] = pair();
        let (mut reader, writer) = std::io::pipe().unwrap();
        one.send(b"word", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut word = [0; 8];
        let (len, file) = other.receive(&mut word).unwrap();
        assert_eq!(&word[..len], b"word");
        let file = file.unwrap();
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        std::io::Write::write_all(&mut File::from(file), b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through", "and nobody else has it open");
        other.send(b"no file", &[]).unwrap();
        assert!(matches!(one.receive(&mut word), Ok((7, None))));
        drop(one);
        assert!(matches!(other.receive(&mut word), Ok((0, None))));
        assert!(other.send(b"?", &[]).is_err());
    }

    #[test]
    fn more_files_than_one_are_all_closed() {
        for count in [2, FILES_MAX] {
            let [one, other] = pair();
            let (mut reader, writer) = std::io::pipe().unwrap();
            one.send(b"two", &vec![writer.as_fd(); count]).unwrap();
            drop(writer);
            let refused = other.receive(&mut [0; 8]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
            // It ends, for nobody has the other side open.
            assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
        }
        let [one, other] = pair();
        one.send(b"longer than that", &[]).unwrap();
        let refused = other.receive(&mut [0; 8]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let socket = Arc::new(HandSocket::open().unwrap());
        let one = HandStream::connect(socket.name(), SHORT).unwrap();
        assert!(one.receive(&mut [0; 8]).is_err(), "nobody accepts");
        let waiting = Arc::clone(&socket);
        let accepting = thread::spawn(move || {
            // The one that gave up, and then nobody.
            waiting.accept(SHORT).unwrap();
            waiting.accept(SHORT)
        });
        socket.shutdown();
        assert!(
            accepting
                .join()
                .unwrap_or_else(|_| panic!("the first was not accepted"))
                .is_err()
        );
        let [one, other] = pair();
        let handle = one.try_clone().unwrap();
        let reading = thread::spawn(move || one.receive(&mut [0; 8]).map(|(len, _)| len));
        handle.shutdown();
        assert!(matches!(reading.join().unwrap(), Ok(0)));
        drop(other);
    }

    #[test]
    fn only_such_names_are_connected_to_and_they_go_with_their_sockets() {
        let socket = HandSocket::open().unwrap();
        let name = socket.name().to_owned();
        assert_ne!(name, HandSocket::open().unwrap().name());
        for wrong in [
            "",
            "dbus",
            &name[1..],
            &format!("{name}0"),
            &name.to_uppercase(),
        ] {
            let refused = HandStream::connect(wrong, SHORT).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{wrong:?}");
        }
        drop(socket);
        let refused = HandStream::connect(&name, SHORT).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn files_are_for_the_same_user_and_for_root() {
        let [one, other] = pair();
        assert_eq!(peer_of(&one.socket).unwrap(), own_user());
        assert_eq!(peer_of(&other.socket).unwrap(), own_user());
        assert!(may_have(1000, 1000) && may_have(0, 1000));
        assert!(!may_have(1000, 0) && !may_have(1001, 1000));
    }
}
