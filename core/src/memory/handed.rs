//! Guest memory that goes from one process of this host to another as what it is: a file.
//!
//! Who hands it over keeps it mapped, and so both see the same bytes: whoever is handed it writes none of
//! them before the guest is theirs. Dropping it on either side unmaps it there and frees nothing that the
//! other uses.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstatfs};

use super::mapping::Mapping;
use super::{Backing, GuestRam};
use crate::error::{DWCPError, Result};

/// What a file's system says of itself where it is memory (`statfs(2)`).
const TMPFS: u64 = 0x0102_1994;
/// Without these whoever made the file could take pages away under us: a SIGBUS at their next use.
const NEEDED: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);
/// With one of these a guest could not write its memory.
const UNWANTED: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

impl GuestRam {
    /// The file that this memory is; `None`: it is none, and cannot be handed over.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.mapping().file().map(AsFd::as_fd)
    }

    /// The memory of a VM of `size` bytes, which another process has and hands over. The file is checked:
    /// it is of a peer. Reads and writes nothing of it.
    ///
    /// # Errors
    ///
    /// `migration` for a file that is not such memory, and those of [`allocate`](Self::allocate).
    pub(crate) fn handed(size: u64, file: OwnedFd) -> Result<Arc<Self>> {
        let file = File::from(file);
        check(&file, size).map_err(|why| {
            DWCPError::Migration(format!("the memory that was handed over is refused: {why}"))
        })?;
        Self::of(size, Backing::Memfd, true, |len| {
            Mapping::map(len, Some(file))
        })
    }
}

/// Whether a file is the memory of a VM of `size` bytes, and will stay so.
fn check(file: &File, size: u64) -> Result<(), String> {
    let unknown = |e: &dyn std::fmt::Display| format!("it cannot be looked at: {e}");
    let system = fstatfs(file).map_err(|e| unknown(&e))?;
    if u64::try_from(system.f_type) != Ok(TMPFS) {
        return Err("it is not in memory".into());
    }
    let length = file.metadata().map_err(|e: io::Error| unknown(&e))?.len();
    if length != size {
        return Err(format!("it has {length} bytes, and the VM {size}"));
    }
    let seals = fcntl_get_seals(file).map_err(|e| unknown(&e))?;
    if !seals.contains(NEEDED) {
        return Err("it is not sealed, and could shrink".into());
    }
    let mode = fcntl_getfl(file).map_err(|e| unknown(&e))? & OFlags::RWMODE;
    if mode != OFlags::RDWR || seals.intersects(UNWANTED) {
        return Err("it cannot be written".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    use super::*;
    use crate::memory::PAGE_SIZE;

    const SIZE: u64 = 4 << 20;

    fn dup(ram: &GuestRam) -> OwnedFd {
        ram.file().unwrap().try_clone_to_owned().unwrap()
    }

    fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("test", flags).unwrap());
        file.set_len(size).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn both_see_the_same_bytes_and_one_that_goes_leaves_them() {
        let ram = GuestRam::allocate(SIZE, Backing::Memfd).unwrap();
        ram.write(5 * PAGE_SIZE, b"before").unwrap();
        let resident = ram.resident().unwrap();
        let other = GuestRam::handed(SIZE, dup(&ram)).unwrap();
        assert!(other.is_handed() && !ram.is_handed());
        assert_eq!(other.resident().unwrap(), resident, "it takes no more");
        assert_eq!(other.digest(), ram.digest());
        // What was written elsewhere is no change that this process made.
        assert_eq!(other.take_changed(0)[0], 0);
        other.write(5 * PAGE_SIZE, b"behind").unwrap();
        drop(GuestRam::handed(SIZE, dup(&ram)).unwrap());
        drop(ram);
        let mut back = [0; 6];
        other.read(5 * PAGE_SIZE, &mut back).unwrap();
        assert_eq!(&back, b"behind");
        // It can be handed on.
        let third = GuestRam::handed(SIZE, dup(&other)).unwrap();
        drop(other);
        third.read(5 * PAGE_SIZE, &mut back).unwrap();
        assert_eq!(&back, b"behind");
    }

    #[test]
    fn what_is_no_sealed_memory_of_that_size_is_refused() {
        let ram = GuestRam::allocate(SIZE, Backing::Memfd).unwrap();
        let on_disk = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        on_disk.set_len(SIZE).unwrap();
        let own = dup(&ram);
        let path = format!("/proc/self/fd/{}", own.as_raw_fd());
        let read_only = File::open(path).unwrap();
        let cases: [(OwnedFd, &str); 8] = [
            (on_disk.into(), "not in memory"),
            (
                std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
                "not in memory",
            ),
            (
                memfd(SIZE + PAGE_SIZE, NEEDED),
                "has 4198400 bytes, and the VM 4194304",
            ),
            (memfd(0, NEEDED), "has 0 bytes"),
            (memfd(SIZE, SealFlags::empty()), "could shrink"),
            (
                memfd(SIZE, SealFlags::GROW | SealFlags::SEAL),
                "could shrink",
            ),
            (memfd(SIZE, NEEDED | SealFlags::WRITE), "cannot be written"),
            (read_only.into(), "cannot be written"),
        ];
        for (file, why) in cases {
            let error = GuestRam::handed(SIZE, file).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn memory_that_is_no_file_cannot_be_handed_over() {
        let ram = GuestRam::allocate(SIZE, Backing::AnonymousHuge).unwrap();
        assert!(ram.file().is_none());
    }
}
