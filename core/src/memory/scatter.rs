//! A guest's buffers between guest memory and its disk, without a buffer in between.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::GuestRam;

/// Pieces in one system call: the kernel's `UIO_MAXIOV`.
const MAX_PIECES: usize = 1024;

/// A piece of guest physical memory, as a guest names it: nothing is checked before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestPiece {
    /// Guest physical address of its first byte.
    pub(crate) gpa: u64,
    /// Its length in bytes.
    pub(crate) len: u32,
}

/// Reads from `offset` of a file into the pieces, one behind the other, and records them as changed.
///
/// # Errors
///
/// Those of the file; `UnexpectedEof` when it ends before; `InvalidInput` for pieces outside RAM, before
/// anything is read. What was read by then is in guest memory.
pub(crate) fn scatter(
    file: &File,
    offset: u64,
    ram: &GuestRam,
    pieces: &[GuestPiece],
) -> io::Result<()> {
    let mut left = Left::new(ram, pieces)?;
    let done = left.run(offset, |entries, count, at| {
        // SAFETY: `entries` points to `count` ranges of guest RAM that `ram` keeps mapped. No Rust
        // reference to guest RAM exists that the write could invalidate.
        unsafe { libc::preadv(file.as_raw_fd(), entries, count, at) }
    });
    // Also after an error: part of the pieces may have been written.
    for piece in pieces {
        ram.mark_piece(piece);
    }
    done
}

/// Writes the pieces, one behind the other, to `offset` of a file.
///
/// # Errors
///
/// Those of the file; `InvalidInput` for pieces outside RAM, before anything is written.
pub(crate) fn gather(
    file: &File,
    offset: u64,
    ram: &GuestRam,
    pieces: &[GuestPiece],
) -> io::Result<()> {
    Left::new(ram, pieces)?.run(offset, |entries, count, at| {
        // SAFETY: `entries` points to `count` ranges of guest RAM that `ram` keeps mapped; the kernel
        // reads them, and no Rust reference to them is formed.
        unsafe { libc::pwritev(file.as_raw_fd(), entries, count, at) }
    })
}

/// What is left to move. The borrow of the memory keeps the ranges mapped.
struct Left<'a> {
    entries: Vec<libc::iovec>,
    at: usize,
    _ram: &'a GuestRam,
}

impl<'a> Left<'a> {
    fn new(ram: &'a GuestRam, pieces: &[GuestPiece]) -> io::Result<Self> {
        let mut entries = Vec::with_capacity(pieces.len());
        for piece in pieces.iter().filter(|piece| piece.len > 0) {
            entries.push(libc::iovec {
                iov_base: ram.host_piece(piece)?.cast(),
                iov_len: piece.len as usize,
            });
        }
        Ok(Self {
            entries,
            at: 0,
            _ram: ram,
        })
    }

    /// Calls until nothing is left; `call` gets entries, how many, and the file offset.
    fn run(
        &mut self,
        mut offset: u64,
        mut call: impl FnMut(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
    ) -> io::Result<()> {
        while self.at < self.entries.len() {
            let window = &self.entries[self.at..];
            let count = libc::c_int::try_from(window.len().min(MAX_PIECES)).unwrap_or(1);
            let at = libc::off_t::try_from(offset)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let moved = call(window.as_ptr(), count, at);
            match usize::try_from(moved) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => {
                    offset += moved as u64;
                    self.advance(moved);
                }
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::Backing;

    fn ram() -> Arc<GuestRam> {
        GuestRam::allocate(16 << 20, Backing::Memfd).unwrap()
    }

    fn piece(gpa: u64, len: u32) -> GuestPiece {
        GuestPiece { gpa, len }
    }

    #[test]
    fn pieces_go_to_a_file_and_come_back_recorded() {
        let (from, to) = (ram(), ram());
        let file = tempfile::tempfile().unwrap();
        // More than one system call takes, at odd places, empty ones among them.
        let pieces: Vec<_> = (0..3000u32)
            .map(|i| piece(u64::from(i) * 4096 + 7, i % 5))
            .collect();
        for (i, piece) in pieces.iter().enumerate() {
            let byte = (i % 251) as u8;
            from.write(piece.gpa, &vec![byte; piece.len as usize])
                .unwrap();
        }
        gather(&file, 100, &from, &pieces).unwrap();
        let all: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
        assert_eq!(file.metadata().unwrap().len(), 100 + all);
        assert!(to.take_changed(0).iter().all(|&word| word == 0));
        scatter(&file, 100, &to, &pieces).unwrap();
        assert_eq!(from.digest(), to.digest());
        let changed = to.take_changed(0);
        for (i, piece) in pieces.iter().enumerate() {
            let bit = changed[i / 64] >> (i % 64) & 1;
            assert_eq!(bit == 1, piece.len > 0, "page {i}");
        }
    }

    #[test]
    fn the_end_of_the_file_is_an_error_and_what_came_is_recorded() {
        let ram = ram();
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let pieces = [piece(0, 8), piece(8192, 8)];
        let error = scatter(&file, 0, &ram, &pieces).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ram.take_changed(0)[0], 0b101);
    }

    #[test]
    fn pieces_outside_ram_are_refused_before_any_io() {
        let ram = ram();
        let file = tempfile::tempfile().unwrap();
        for bad in [
            piece((16 << 20) - 1, 2),
            piece(u64::MAX, 1),
            piece(1 << 40, u32::MAX),
        ] {
            let pieces = [piece(0, 8), bad];
            for error in [
                gather(&file, 0, &ram, &pieces).unwrap_err(),
                scatter(&file, 0, &ram, &pieces).unwrap_err(),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            }
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
        let error = gather(&file, u64::MAX, &ram, &[piece(0, 1)]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
