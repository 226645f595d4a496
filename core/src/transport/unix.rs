//! Unix sockets that are listened on.
//!
//! A socket outlives who listened on it. It is replaced if nobody does; to tell, one has to connect,
//! so a socket must never be seen under its name before it listens: it is bound under another one and
//! then linked to its own, which fails where there is one already. `hand` has those without a file.

mod hand;

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

pub(crate) use self::hand::{HandSocket, HandStream};
use crate::error::{DWCPError, Result};

/// Connections that wait to be accepted: what the kernel allows at most by default.
const BACKLOG: i32 = 4096;
/// How often a name is tried that others take and leave at the same time.
const ATTEMPTS: u32 = 16;

/// A listening Unix socket; its file goes with it.
#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, to remove no other.
    file: (u64, u64),
}

impl UnixSocket {
    /// Listens at `path`, for this process's user only.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| {
            DWCPError::Connection(format!(
                "listen: cannot listen on unix:{}: {e}",
                path.display()
            ))
        };
        let draft = unused_name(path).map_err(|e| failed(&e))?;
        let listener = listen(&draft).map_err(|e| failed(&e))?;
        let linked = fs::symlink_metadata(&draft)
            .map_err(|e| failed(&e))
            .and_then(|file| publish(&draft, path).map(|()| id(&file)));
        // It was only a name; without it, a listener that could not be published is gone.
        fs::remove_file(&draft).map_err(|e| failed(&e))?;
        let file = linked?;
        let path = path.to_owned();
        // From here on, dropping removes the file.
        let listener = UnixListener::from_std(listener.into()).map_err(|e| {
            remove_if_same(&path, file);
            failed(&e)
        })?;
        Ok(Self {
            listener,
            path,
            file,
        })
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        remove_if_same(&self.path, self.file);
    }
}

/// A socket that listens under a name nobody looks for.
fn listen(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the file the permissions of the socket, less the process's mask: there is no moment
    // at which others can connect.
    let file = fs::File::from(OwnedFd::from(socket));
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    let listening = socket
        .listen(BACKLOG)
        .and_then(|()| socket.set_nonblocking(true));
    if let Err(error) = listening {
        // The error to tell is the first one.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(socket)
}

/// Links a listening socket to its name; what is there is replaced if it is a socket on which nobody
/// listens.
fn publish(draft: &Path, path: &Path) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| {
        DWCPError::Connection(format!(
            "listen: cannot listen on unix:{}: {e}",
            path.display()
        ))
    };
    let taken = |why: &str| {
        Err(DWCPError::AlreadyExists(format!(
            "listen: unix:{}: {why}",
            path.display()
        )))
    };
    for _ in 0..ATTEMPTS {
        match fs::hard_link(draft, path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(&e)),
        }
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(&e)),
        };
        if !found.file_type().is_socket() {
            return taken("there is a file that is no socket");
        }
        match probe(path) {
            Ok(()) => return taken("somebody listens there already"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            // A full queue, no permission: somebody is there.
            Err(e) => return taken(&format!("somebody may be listening there: {e}")),
        }
        take_away(path, id(&found)).map_err(|e| failed(&e))?;
    }
    taken("others replace the socket all the time")
}

/// Connects, without waiting for one who listens and does not accept.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// Removes the file at `path` if it still is the one with this identity. It is moved aside first, so
/// that a socket which took its place just now is found and put back.
fn take_away(path: &Path, stale: (u64, u64)) -> io::Result<()> {
    let aside = unused_name(path)?;
    match fs::rename(path, &aside) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved?,
    }
    if id(&fs::symlink_metadata(&aside)?) != stale {
        match fs::hard_link(&aside, path) {
            // A third one was faster: two live sockets cannot share a name.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
    }
    fs::remove_file(&aside)
}

fn remove_if_same(path: &Path, file: (u64, u64)) {
    if fs::symlink_metadata(path).is_ok_and(|found| id(&found) == file)
        && let Err(error) = fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), %error, "a socket's file stays");
    }
}

fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// A name in the same directory that nobody uses; short, for paths of sockets have at most 107 bytes.
fn unused_name(path: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(path.with_file_name(format!(".{:08x}", u32::from_ne_bytes(random))))
}
