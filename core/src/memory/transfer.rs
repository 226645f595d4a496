//! Pages between guest memory and a socket, without a buffer in between.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{GuestRam, PageRange};

/// Pieces in one system call: the kernel's `UIO_MAXIOV`.
const MAX_PIECES: usize = 1024;
/// Bytes in one system call. A kernel that does not preempt itself lets nobody else have the processor
/// before the call is over: with this much, a guest's vCPU waits for a tenth of a millisecond.
const MAX_BYTES: usize = 128 << 10;

/// Writes `head` and then the pages of `runs`, in order, to a blocking stream socket.
///
/// The guest may run meanwhile: a page that it changes while it is read arrives torn. Whoever sends a
/// page has cleared its dirty bit before, so it will be sent again.
///
/// # Errors
///
/// Those of the socket; `InvalidInput` for pages outside RAM, before anything is sent.
pub(crate) fn send_pages(
    socket: BorrowedFd<'_>,
    head: &[u8],
    ram: &GuestRam,
    runs: &[PageRange],
) -> io::Result<()> {
    let mut pieces = Pieces::new(ram, runs)?;
    // The kernel only reads through this pointer, see `SAFETY` of sendmsg below.
    pieces.push_front(head.as_ptr().cast_mut(), head.len());
    while let Some(message) = pieces.message() {
        // SAFETY: `message` points to at most MAX_PIECES entries, each a live range: `head`, borrowed
        // for this call, or guest RAM, kept mapped by `ram`. sendmsg reads them and writes none.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
        pieces.advance(check(sent)?.unwrap_or(0));
    }
    Ok(())
}

/// Reads the pages of `runs`, in order, from a blocking stream socket straight into guest memory, and
/// records them as changed.
///
/// # Errors
///
/// Those of the socket; `UnexpectedEof` when it ends before; `InvalidInput` for pages outside RAM,
/// before anything is read.
pub(crate) fn receive_pages(
    socket: BorrowedFd<'_>,
    ram: &GuestRam,
    runs: &[PageRange],
) -> io::Result<()> {
    let mut pieces = Pieces::new(ram, runs)?;
    while let Some(mut message) = pieces.message() {
        // SAFETY: `message` points to at most MAX_PIECES entries, each a range of guest RAM that `ram` keeps
        // mapped. No Rust reference to guest RAM exists that the write could invalidate.
        let received =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_WAITALL) };
        match check(received)? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved => pieces.advance(moved.unwrap_or(0)),
        }
    }
    for run in runs {
        ram.mark_changed(run);
    }
    Ok(())
}

/// Bytes moved; none when a signal came first (the caller goes round again).
fn check(status: libc::ssize_t) -> io::Result<Option<usize>> {
    match usize::try_from(status) {
        Ok(n) => Ok(Some(n)),
        Err(_) => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            e => Err(e),
        },
    }
}

/// What is left to move, as scatter-gather entries.
struct Pieces {
    entries: Vec<libc::iovec>,
    at: usize,
    /// The entries of one system call.
    window: Vec<libc::iovec>,
}

impl Pieces {
    fn new(ram: &GuestRam, runs: &[PageRange]) -> io::Result<Self> {
        let mut entries = Vec::with_capacity(runs.len() + 1);
        for run in runs {
            let (address, len) = ram.host_range(run)?;
            entries.push(entry(address, len));
        }
        Ok(Self {
            entries,
            at: 0,
            window: Vec::new(),
        })
    }

    fn push_front(&mut self, address: *mut u8, len: usize) {
        self.entries.insert(0, entry(address, len));
    }

    /// A message over the next entries, or `None` when all is moved.
    fn message(&mut self) -> Option<libc::msghdr> {
        self.window.clear();
        let mut room = MAX_BYTES;
        for entry in self.entries[self.at..].iter().take(MAX_PIECES) {
            if room == 0 {
                break;
            }
            let len = entry.iov_len.min(room);
            room -= len;
            if len > 0 {
                self.window.push(libc::iovec {
                    iov_base: entry.iov_base,
                    iov_len: len,
                });
            }
        }
        if self.window.is_empty() {
            return None;
        }
        // SAFETY: msghdr is a plain C struct for which all zeros means "no address, no control data".
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.window.as_mut_ptr();
        message.msg_iovlen = self.window.len();
        Some(message)
    }

    fn advance(&mut self, mut moved: usize) {
        while let Some(entry) = self.entries.get_mut(self.at) {
            if moved < entry.iov_len {
                // SAFETY: `moved` is less than the length of the range that `iov_base` starts.
                entry.iov_base = unsafe { entry.iov_base.cast::<u8>().add(moved) }.cast();
                entry.iov_len -= moved;
                return;
            }
            moved -= entry.iov_len;
            self.at += 1;
        }
    }
}

fn entry(address: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: address.cast(),
        iov_len: len,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Backing, PAGE_SIZE};

    fn ram() -> Arc<GuestRam> {
        GuestRam::allocate(16 << 20, Backing::Memfd).unwrap()
    }

    #[test]
    fn many_runs_arrive_where_they_belong() {
        let (from, to) = (ram(), ram());
        // More runs than one system call takes, and more bytes than a socket buffer.
        let runs: Vec<PageRange> = (0..2000).map(|i| i * 2..i * 2 + 1).collect();
        for run in &runs {
            from.write(run.start * PAGE_SIZE, &run.start.to_le_bytes())
                .unwrap();
        }
        let (a, b) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| send_pages(a.as_fd(), b"head", &from, &runs).unwrap());
            let mut head = [0; 4];
            std::io::Read::read_exact(&mut &b, &mut head).unwrap();
            assert_eq!(&head, b"head");
            receive_pages(b.as_fd(), &to, &runs).unwrap();
        });
        assert_eq!(from.digest(), to.digest());
        assert_eq!(to.take_changed(0)[0], 0x5555_5555_5555_5555);
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[1; 100]).unwrap();
        drop(a);
        let error = receive_pages(b.as_fd(), &ram(), std::slice::from_ref(&(0..1))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn pages_outside_ram_are_refused_before_any_io() {
        let (a, _b) = UnixStream::pair().unwrap();
        let outside = 4090..4100;
        let error = send_pages(a.as_fd(), b"", &ram(), std::slice::from_ref(&outside)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
