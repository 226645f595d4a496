//! A file that a kernel comes from: every read is checked, and every error names the file.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::error::{DWCPError, Result};
use crate::memory::GuestRam;

/// Bytes that go through this process at a time on their way into guest memory.
const PIECE: usize = 1 << 20;

/// A kernel or an initial RAM disk. A clone is the same file.
#[derive(Clone, Debug)]
pub(crate) struct BootFile {
    /// `kernel` or `initrd`, for messages.
    what: &'static str,
    source: Source,
    size: u64,
}

#[derive(Clone, Debug)]
enum Source {
    File(Arc<File>),
    Bytes(Arc<[u8]>),
}

impl BootFile {
    /// A file that is open for reading. `what` names it in messages: `kernel` or `initrd`.
    ///
    /// # Errors
    ///
    /// `invalid_config` for what is no regular file.
    pub(crate) fn new(what: &'static str, file: File) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| DWCPError::Config(format!("{what}: {why}"));
        let metadata = file.metadata().map_err(|e| wrong(&e))?;
        if !metadata.is_file() {
            return Err(wrong(&"it is no regular file"));
        }
        Ok(Self {
            what,
            source: Source::File(Arc::new(file)),
            size: metadata.len(),
        })
    }

    /// A file that is in memory.
    pub(crate) fn from_bytes(what: &'static str, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self {
            what,
            size: bytes.len() as u64,
            source: Source::Bytes(bytes),
        }
    }

    /// Its length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `out` from `offset` on.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(self.wrong("it is truncated"));
        }
        match &self.source {
            Source::File(file) => file
                .read_exact_at(out, offset)
                .map_err(|e| self.wrong(&format!("it cannot be read: {e}"))),
            Source::Bytes(bytes) => {
                let part = usize::try_from(offset).ok().and_then(|at| bytes.get(at..));
                let part = part.and_then(|part| part.get(..out.len()));
                out.copy_from_slice(part.ok_or_else(|| self.wrong("it is truncated"))?);
                Ok(())
            }
        }
    }

    /// `N` bytes from `offset` on.
    pub(super) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.read(offset, &mut out)?;
        Ok(out)
    }

    /// Copies `size` bytes from `offset` on into guest memory at `gpa`.
    pub(super) fn copy_to(&self, ram: &GuestRam, gpa: u64, offset: u64, size: u64) -> Result<()> {
        let mut piece = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE))];
        let mut done = 0;
        while done < size {
            let len = piece
                .len()
                .min(usize::try_from(size - done).unwrap_or(PIECE));
            self.read(offset + done, &mut piece[..len])?;
            ram.write(gpa + done, &piece[..len])?;
            done += len as u64;
        }
        Ok(())
    }

    /// An error that says what is wrong with it.
    pub(super) fn wrong(&self, why: &str) -> DWCPError {
        DWCPError::Config(format!("{}: {why}", self.what))
    }
}

impl PartialEq for BootFile {
    fn eq(&self, other: &Self) -> bool {
        match (&self.source, &other.source) {
            (Source::File(one), Source::File(other)) => Arc::ptr_eq(one, other),
            (Source::Bytes(one), Source::Bytes(other)) => one == other,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    #[test]
    fn a_file_and_its_bytes_read_the_same_and_never_beyond_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        let bytes: Vec<u8> = (0..=255).collect();
        std::fs::write(&path, &bytes).unwrap();
        let files = [
            BootFile::new("kernel", File::open(&path).unwrap()).unwrap(),
            BootFile::from_bytes("kernel", bytes),
        ];
        for file in files {
            assert_eq!(file.array(252), Ok([252, 253, 254, 255]));
            for offset in [253, 256, 1 << 40, u64::MAX] {
                let error = file.array::<4>(offset).unwrap_err().to_string();
                assert!(error.contains("kernel: it is truncated"), "{error}");
            }
        }
        let error = BootFile::new("initrd", File::open(folder.path()).unwrap());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("initrd: it is no regular file")
        );
    }

    #[test]
    fn it_is_copied_in_pieces() {
        let bytes: Vec<u8> = (0..PIECE + 77).map(|i| (i % 251) as u8).collect();
        let file = BootFile::from_bytes("kernel", bytes.clone());
        let ram = GuestRam::allocate(4 << 20, Backing::Memfd).unwrap();
        file.copy_to(&ram, 0x1000, 7, bytes.len() as u64 - 7)
            .unwrap();
        let mut back = vec![0; bytes.len() - 7];
        ram.read(0x1000, &mut back).unwrap();
        assert!(back == bytes[7..]);
    }
}
