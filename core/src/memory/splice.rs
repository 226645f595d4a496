//! Pages from a socket into the file behind guest memory, by way of a pipe: the kernel hands what it received on as it
//! is, and copies it once, into the page where it belongs. By way of a buffer of this process it would copy it twice.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::{GuestRam, PAGE_BYTES, PAGE_SIZE, PageRange};

/// What a pipe is asked to hold: what was received lies in pieces, each of which takes the place of a page.
const PIPE_BYTES: usize = 512 << 10;
/// Bytes that are taken from the socket at a time: still in the processor's cache when they are copied, and few enough
/// not to keep a processor for long.
const PIECE_BYTES: usize = 256 << 10;

/// Of one channel: a pipe that is empty between two calls.
#[derive(Debug)]
pub(crate) struct Splice {
    read: OwnedFd,
    write: OwnedFd,
}

impl Splice {
    /// # Errors
    ///
    /// Those of the host, which has a limit on files and on what a user's pipes hold.
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // It stays as small as it is where a user's pipes hold too much already.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write })
    }

    /// Reads the pages of `runs`, in order, from a blocking stream socket into the file behind `ram`, and records them
    /// as changed. After an error, the channel and this are of no use any more.
    ///
    /// # Errors
    ///
    /// Those of the socket and the host; `UnexpectedEof` when it ends before; `InvalidInput` for pages outside RAM
    /// and `Unsupported` for memory without a file, before anything is read.
    pub(crate) fn receive_pages(
        &mut self,
        socket: BorrowedFd<'_>,
        ram: &GuestRam,
        runs: &[PageRange],
    ) -> io::Result<()> {
        let file = ram.mapping().file().ok_or(io::ErrorKind::Unsupported)?;
        let mut total = 0;
        for run in runs {
            total += ram.host_range(run)?.1;
        }
        let mut held = 0;
        for run in runs {
            let (mut at, end) = (run.start * PAGE_SIZE, run.end * PAGE_SIZE);
            while at < end {
                if held < PAGE_BYTES {
                    let got = self.take(socket, (total - held).min(PIECE_BYTES))?;
                    held += got;
                    continue;
                }
                // Whole pages: of one that is written in part, the kernel clears the rest first.
                let whole = held / PAGE_BYTES * PAGE_BYTES;
                let left = usize::try_from(end - at).unwrap_or(whole);
                let placed = self.place(file, &mut at, whole.min(left))?;
                held -= placed;
                total -= placed;
            }
            ram.mark_changed(run);
        }
        Ok(())
    }

    /// From the socket into the pipe.
    fn take(&self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        match retry(|| splice(socket, None, &self.write, None, most, SpliceFlags::empty()))? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            got => Ok(got),
        }
    }

    /// From the pipe into the file, which has to take all of it.
    fn place(&self, file: &File, at: &mut u64, bytes: usize) -> io::Result<usize> {
        let mut left = bytes;
        while left > 0 {
            let put = || splice(&self.read, None, file, Some(at), left, SpliceFlags::empty());
            match retry(put)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                put => left -= put,
            }
        }
        Ok(bytes)
    }
}

/// Once more where a signal came first.
fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::memory::Backing;

    const PAGES: u64 = 1024;

    fn ram() -> Arc<GuestRam> {
        GuestRam::allocate(PAGES * PAGE_SIZE, Backing::Memfd).unwrap()
    }

    /// Bytes that differ from page to page, and within each.
    fn contents(pages: u64) -> Vec<u8> {
        let bytes = pages * PAGE_SIZE;
        (0..bytes)
            .map(|at| (at / 7 + at / PAGE_SIZE) as u8)
            .collect()
    }

    #[test]
    fn pages_arrive_in_order_however_they_are_cut_on_the_way() {
        let runs = [(5..6), (10..700), (1000..1024), (0..1)];
        let pages = runs.iter().map(|run: &PageRange| run.end - run.start).sum();
        let sent = contents(pages);
        for piece in [1000, PAGE_BYTES + 1, 300_000] {
            let (mut near, far) = UnixStream::pair().unwrap();
            let ram = ram();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for piece in sent.chunks(piece) {
                        near.write_all(piece).unwrap();
                    }
                    near.write_all(b"the next message").unwrap();
                });
                let mut own = Splice::new().unwrap();
                own.receive_pages(far.as_fd(), &ram, &runs).unwrap();
            });
            let mut rest = &sent[..];
            for run in &runs {
                let mut page = vec![0; PAGE_BYTES];
                for number in run.clone() {
                    ram.read(number * PAGE_SIZE, &mut page).unwrap();
                    assert!(page == rest[..PAGE_BYTES], "page {number}");
                    rest = &rest[PAGE_BYTES..];
                }
            }
            let mut next = [0; 16];
            std::io::Read::read_exact(&mut &far, &mut next).unwrap();
            assert_eq!(&next, b"the next message");
        }
    }

    #[test]
    fn what_ends_before_or_does_not_fit_is_an_error() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut own = Splice::new().unwrap();
        let mut receive = |ram: &GuestRam, run: PageRange| {
            own.receive_pages(far.as_fd(), ram, &[run])
                .unwrap_err()
                .kind()
        };
        assert_eq!(
            receive(&ram(), PAGES..PAGES + 1),
            io::ErrorKind::InvalidInput
        );
        let private = GuestRam::allocate(4 << 20, Backing::AnonymousHuge).unwrap();
        assert_eq!(receive(&private, 0..1), io::ErrorKind::Unsupported);
        near.write_all(&contents(1)[1..]).unwrap();
        drop(near);
        assert_eq!(receive(&ram(), 0..1), io::ErrorKind::UnexpectedEof);
    }
}
