//! Where a disk's bytes are.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use crate::memory::{GuestPiece, GuestRam, gather, scatter};

/// Bytes that are disks: of a file, or of what a test wants to see written.
///
/// All offsets and lengths are in bytes, and within what [`size`](Self::size) said when the guest was
/// told; the disk may have shrunk since. Called from several threads at once, for requests that a guest
/// did not wait for each other.
pub(in crate::machine) trait Disk: Send + Sync {
    /// Its size now.
    fn size(&self) -> io::Result<u64>;
    /// Reads into buffers of the guest.
    fn read(&self, offset: u64, ram: &GuestRam, into: &[GuestPiece]) -> io::Result<()>;
    /// Writes from buffers of the guest.
    fn write(&self, offset: u64, ram: &GuestRam, from: &[GuestPiece]) -> io::Result<()>;
    /// Makes durable what was written.
    fn flush(&self) -> io::Result<()>;
    /// Gives back what a range takes; what it holds then is anything. `Unsupported` if it cannot.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Fills a range with zeros; if `may_discard`, by giving back what it takes.
    fn write_zeroes(&self, offset: u64, len: u64, may_discard: bool) -> io::Result<()>;
    /// Opens it anew, where another host may have written it meanwhile.
    fn reopen(&self) -> io::Result<()>;
    /// The file that holds the bytes, for who copies them; `None` where there is none.
    fn file(&self) -> Option<Arc<File>> {
        None
    }
}

/// A raw file, or a block device.
#[derive(Debug)]
pub(in crate::machine) struct FileDisk {
    path: PathBuf,
    read_only: bool,
    file: RwLock<Arc<File>>,
}

impl FileDisk {
    /// Opens a file that is there.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(in crate::machine) fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            read_only,
            file: RwLock::new(Arc::new(open(path, read_only)?)),
        })
    }

    fn now(&self) -> Arc<File> {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&file)
    }
}

impl Disk for FileDisk {
    fn size(&self) -> io::Result<u64> {
        use std::io::{Seek, SeekFrom};
        // Not the metadata, in which block devices have no size. The position is used by nobody.
        (&*self.now()).seek(SeekFrom::End(0))
    }

    fn read(&self, offset: u64, ram: &GuestRam, into: &[GuestPiece]) -> io::Result<()> {
        scatter(&self.now(), offset, ram, into)
    }

    fn write(&self, offset: u64, ram: &GuestRam, from: &[GuestPiece]) -> io::Result<()> {
        gather(&self.now(), offset, ram, from)
    }

    fn flush(&self) -> io::Result<()> {
        match self.read_only {
            true => Ok(()),
            false => self.now().sync_data(),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        allocate(&self.now(), FallocateMode::PunchHole, offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_discard: bool) -> io::Result<()> {
        let file = self.now();
        let mode = match may_discard {
            true => FallocateMode::PunchHole,
            false => FallocateMode::ZeroRange,
        };
        match allocate(&file, mode, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => zero(&file, offset, len),
            other => other,
        }
    }

    fn reopen(&self) -> io::Result<()> {
        let file = Arc::new(open(&self.path, self.read_only)?);
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    fn file(&self) -> Option<Arc<File>> {
        Some(self.now())
    }
}

fn open(path: &Path, read_only: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(!read_only).open(path)
}

fn allocate(file: &File, mode: FallocateMode, offset: u64, len: u64) -> io::Result<()> {
    fallocate(file, mode, true, offset, len)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Writes zeros, where the file system knows nothing better.
fn zero(file: &File, offset: u64, len: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut done = 0;
    while done < len {
        let piece = usize::try_from(len - done).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        file.write_all_at(&ZEROS[..piece], offset + done)?;
        done += piece as u64;
    }
    Ok(())
}
