//! Copying a disk: by sharing its blocks where the file system can, else its data alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::error::Result;

/// What is copied between two looks at whether to go on: some tens of milliseconds.
const SLICE: u64 = 64 << 20;
/// What is copied at a time where the kernel cannot do it by itself.
const PIECE: usize = 1 << 20;

/// What is summed at a time; part of the sum.
const BLOCK: usize = 64 << 10;

/// Makes `to`, an empty file, what `from` is. `go_on` is asked from time to time; its error ends the
/// work.
///
/// # Errors
///
/// `io`, and that of `go_on`; `to` may then hold a part.
pub(crate) fn copy(from: &File, to: &File, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, len)? {
        at = start;
        while at < end {
            go_on()?;
            let slice = SLICE.min(end - at);
            copy_range(from, to, at, slice)?;
            at += slice;
        }
    }
    Ok(())
}

/// A sum over what a file holds and where: the same for two files that read the same, wherever they have
/// holes. It is CRC-32C over the number and the bytes of each block of [`BLOCK`] that is not all zeros.
///
/// # Errors
///
/// `io`, and that of `go_on`, which is asked from time to time.
pub(crate) fn sum(file: &File, go_on: &dyn Fn() -> Result<()>) -> Result<u32> {
    let len = file.metadata()?.len();
    let mut block = vec![0; BLOCK];
    let (mut sum, mut at) = (0, 0);
    while let Some((start, end)) = next_data(file, at, len)? {
        // Data may begin and end inside a block.
        at = at.max(start - start % BLOCK as u64);
        while at < end {
            if at % SLICE < BLOCK as u64 {
                go_on()?;
            }
            let bytes = BLOCK.min(usize::try_from(len - at).unwrap_or(BLOCK));
            file.read_exact_at(&mut block[..bytes], at)?;
            if block[..bytes].iter().any(|&byte| byte != 0) {
                sum = crc32c::crc32c_append(sum, &at.to_le_bytes());
                sum = crc32c::crc32c_append(sum, &block[..bytes]);
            }
            at += BLOCK as u64;
        }
    }
    Ok(sum)
}

/// The next data at or after `at`, of a file of that length.
///
/// # Errors
///
/// Those of the file.
pub(crate) fn next_data(file: &File, at: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= len {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some((start, seek(file, SeekFrom::Hole(start))?.min(len)))),
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows of no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some((at, len))),
        Err(error) => Err(error.into()),
    }
}

/// Makes a range of a file a hole, where the file system has such; zeros else.
///
/// # Errors
///
/// Those of the file.
pub(crate) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, mode, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        other => return Ok(other?),
    }
    let zeros = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
    let mut done = 0;
    while done < len {
        let piece = zeros
            .len()
            .min(usize::try_from(len - done).unwrap_or(PIECE));
        file.write_all_at(&zeros[..piece], offset + done)?;
        done += piece as u64;
    }
    Ok(())
}

/// Copies a range to the same place.
fn copy_range(from: &File, to: &File, start: u64, len: u64) -> io::Result<()> {
    let end = start + len;
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::INTR) => {}
            // Between file systems, or on one that cannot.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let mut piece = vec![0; PIECE.min(usize::try_from(end - read_at).unwrap_or(PIECE))];
    while read_at < end {
        let room = piece
            .len()
            .min(usize::try_from(end - read_at).unwrap_or(PIECE));
        match from.read_at(&mut piece[..room], read_at)? {
            // It was cut short meanwhile: what is beyond its end reads as zeros, as in `to`.
            0 => break,
            read => {
                to.write_all_at(&piece[..read], read_at)?;
                read_at += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::error::DWCPError;

    #[test]
    fn data_is_copied_and_holes_stay_holes() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(64 << 20).unwrap();
        for at in [0, 5 << 20, (64 << 20) - 3] {
            from.write_all_at(b"abc", at).unwrap();
        }
        let to = tempfile::tempfile().unwrap();
        copy(&from, &to, &|| Ok(())).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        for at in [0, 5 << 20, (64 << 20) - 3] {
            let mut bytes = [0; 3];
            to.read_exact_at(&mut bytes, at).unwrap();
            assert_eq!(&bytes, b"abc", "{at}");
        }
        let mut between = [1; 3];
        to.read_exact_at(&mut between, 3 << 20).unwrap();
        assert_eq!(between, [0; 3]);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn the_slow_way_does_the_same() {
        let from = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        from.write_all_at(&content, 0).unwrap();
        // A memfd is on another file system.
        let memfd = rustix::fs::memfd_create("copy", rustix::fs::MemfdFlags::empty()).unwrap();
        let to = File::from(memfd);
        to.set_len(3_000_000).unwrap();
        copy_range(&from, &to, 0, 3_000_000).unwrap();
        let mut back = vec![0; content.len()];
        to.read_exact_at(&mut back, 0).unwrap();
        assert!(back == content);
    }

    #[test]
    fn a_sum_is_of_what_is_read_and_where() {
        let go = || Ok(());
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(10 << 20).unwrap();
        let empty = sum(&sparse, &go).unwrap();
        sparse.write_all_at(b"abc", (3 << 20) + 7).unwrap();
        let dense = tempfile::tempfile().unwrap();
        dense.write_all_at(&vec![0; 10 << 20], 0).unwrap();
        assert_eq!(sum(&dense, &go).unwrap(), empty);
        dense.write_all_at(b"abc", (3 << 20) + 7).unwrap();
        let same = sum(&sparse, &go).unwrap();
        assert_eq!(sum(&dense, &go).unwrap(), same);
        assert_ne!(same, empty);
        dense.write_all_at(&[0; 3], (3 << 20) + 7).unwrap();
        dense.write_all_at(b"abc", (4 << 20) + 7).unwrap();
        assert_ne!(sum(&dense, &go).unwrap(), same, "elsewhere");
        // A last block that is no whole one.
        dense.write_all_at(b"z", 10 << 20).unwrap();
        assert_ne!(sum(&dense, &go).unwrap(), same);
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let from = tempfile::tempfile().unwrap();
        from.write_all_at(b"data", 0).unwrap();
        let to = tempfile::tempfile().unwrap();
        let stop = || Err(DWCPError::Cancelled("enough".into()));
        match copy(&from, &to, &stop) {
            // A file system that shares blocks has nothing to be asked for.
            Ok(()) => {}
            Err(error) => assert_eq!(error, DWCPError::Cancelled("enough".into())),
        }
    }
}
