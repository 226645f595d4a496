//! The host memory behind a VM's RAM.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use super::{PAGE_BYTES, PAGE_SIZE, PageRange};

/// Mappings start at a multiple of this, so that huge pages fit.
const HUGE_PAGE: usize = 2 << 20;

/// What holds the pages of a VM's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A sealed memfd, mapped shared: another process of this host can be handed the same memory.
    Memfd,
    /// Private memory that asks for huge pages: cheaper to fill and to run in where shmem has none,
    /// but it ends with this process.
    AnonymousHuge,
}

/// An owned mapping of host memory.
#[derive(Debug)]
pub(super) struct Mapping {
    address: NonNull<u8>,
    len: usize,
    /// What `munmap` gets: the mapping with the slack that its alignment cost.
    reserved: (usize, usize),
    file: Option<File>,
}

// SAFETY: a mapping is memory, tied to no thread. All access goes through raw pointers whose users
// accept that a guest changes the memory at any time; the struct's own fields never change.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out the address and does system calls on the range.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes (a multiple of the page size) of zeros.
    pub(super) fn new(len: usize, backing: Backing) -> io::Result<Self> {
        let file = match backing {
            Backing::Memfd => Some(sealed_memfd(len)?),
            Backing::AnonymousHuge => None,
        };
        Self::map(len, file)
    }

    /// Maps a file of `len` bytes that can neither shrink nor grow; without one, private memory that asks
    /// for huge pages.
    pub(super) fn map(len: usize, file: Option<File>) -> io::Result<Self> {
        // Reserve more than is needed, then place the memory at an aligned address inside.
        let reserve = len
            .checked_add(HUGE_PAGE)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let reserved = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                reserve,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let reserved = (reserved as usize, reserve);
        let aligned = reserved.0.next_multiple_of(HUGE_PAGE);
        let (flags, fd) = match &file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: MAP_FIXED replaces only pages of the reservation made above, which nothing else
        // knows of: `aligned + len` is at most its end.
        let address = unsafe {
            libc::mmap(
                aligned as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_NORESERVE | libc::MAP_FIXED,
                fd,
                0,
            )
        };
        let error = io::Error::last_os_error();
        let Some(pointer) =
            NonNull::new(address.cast::<u8>()).filter(|_| address != libc::MAP_FAILED)
        else {
            // SAFETY: the reservation is ours alone and was given to nobody.
            unsafe { libc::munmap(reserved.0 as *mut libc::c_void, reserved.1) };
            return Err(error);
        };
        let mapping = Self {
            address: pointer,
            len,
            reserved,
            file,
        };
        if mapping.file.is_none() {
            mapping.advise(0, len, libc::MADV_HUGEPAGE)?;
        }
        // A core dump of the host program should not hold its guests' memory.
        mapping.advise(0, len, libc::MADV_DONTDUMP)?;
        Ok(mapping)
    }

    pub(super) fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// The file that is mapped, if it is one.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Makes `pages` present and writable in the mapping, so that filling them takes no fault.
    pub(super) fn populate(&self, pages: &PageRange) -> io::Result<()> {
        let (offset, len) = self.check(pages)?;
        match self.advise(offset, len, libc::MADV_POPULATE_WRITE) {
            // Linux before 5.14: the first write populates instead.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// Writes whole pages into the file that is mapped. A page that was not there is neither cleared first nor mapped
    /// into this process: that costs about half of what writing through the mapping does. And a host without memory
    /// is an error here, where it would be a signal there.
    ///
    /// # Errors
    ///
    /// Those of the host; `Unsupported` for memory without a file, `InvalidInput` for contents of another length.
    pub(super) fn fill(&self, pages: &PageRange, contents: &[u8]) -> io::Result<()> {
        let (offset, len) = self.check(pages)?;
        if contents.len() != len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        file.write_all_at(contents, offset as u64)
    }

    /// Gives the memory of `pages` back to the host; they read as zeros afterwards.
    pub(super) fn punch(&self, pages: &PageRange) -> io::Result<()> {
        let (offset, len) = self.check(pages)?;
        match &self.file {
            // MADV_REMOVE frees the pages of the file, not only this mapping of them.
            Some(_) => self.advise(offset, len, libc::MADV_REMOVE),
            None => self.advise(offset, len, libc::MADV_DONTNEED),
        }
    }

    /// Unmaps `pages`, and keeps what they hold: whoever needs one next has to have it mapped again. Only for
    /// memory that has a file.
    pub(super) fn unmap(&self, pages: &PageRange) -> io::Result<()> {
        let (offset, len) = self.check(pages)?;
        if self.file.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.advise(offset, len, libc::MADV_DONTNEED)
    }

    /// Bytes of host memory that the RAM takes.
    pub(super) fn resident(&self) -> io::Result<u64> {
        match &self.file {
            Some(file) => {
                use std::os::unix::fs::MetadataExt;
                Ok(file.metadata()?.blocks() * 512)
            }
            None => self.resident_anonymous(),
        }
    }

    /// The first run of pages at or after `page` that may hold data, to its end; what lies before it has
    /// never been written and reads as zeros. `None`: there is no data to the end.
    ///
    /// Looking for holes costs a few nanoseconds a page of the run found, while reading a hole through
    /// the mapping would fill it with memory.
    pub(super) fn next_data(&self, page: u64) -> io::Result<Option<PageRange>> {
        let all = self.len / PAGE_BYTES;
        let (offset, _) = self.check(&(page..all as u64))?;
        let Some(file) = &self.file else {
            return Ok(Some(page..all as u64));
        };
        let Some(start) = seek(file, offset, libc::SEEK_DATA)? else {
            return Ok(None);
        };
        let hole = seek(file, start, libc::SEEK_HOLE)?.unwrap_or(self.len);
        Ok(Some(
            (start / PAGE_BYTES) as u64..hole.div_ceil(PAGE_BYTES) as u64,
        ))
    }

    fn resident_anonymous(&self) -> io::Result<u64> {
        // One byte a page; in pieces, so that a large VM needs no large buffer.
        const PIECE: usize = 64 << 20;
        let mut present = vec![0u8; PIECE / PAGE_BYTES];
        let mut total = 0;
        for offset in (0..self.len).step_by(PIECE) {
            let len = PIECE.min(self.len - offset);
            // SAFETY: the range lies in the mapping (offset < len, clipped to its end), and
            // `present` has one byte for each of its pages.
            let status = unsafe {
                libc::mincore(
                    self.address.as_ptr().add(offset).cast(),
                    len,
                    present.as_mut_ptr(),
                )
            };
            if status != 0 {
                return Err(io::Error::last_os_error());
            }
            let pages = present[..len.div_ceil(PAGE_BYTES)].iter();
            total += pages.filter(|&&p| p & 1 == 1).count() as u64 * PAGE_SIZE;
        }
        Ok(total)
    }

    /// The byte range of `pages`, if it lies in the mapping.
    fn check(&self, pages: &PageRange) -> io::Result<(usize, usize)> {
        let end = usize::try_from(pages.end)
            .ok()
            .and_then(|end| end.checked_mul(PAGE_BYTES))
            .filter(|&end| end <= self.len && pages.start <= pages.end)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // At most `end`, which fits.
        #[allow(clippy::cast_possible_truncation)]
        let start = (pages.start * PAGE_SIZE) as usize;
        Ok((start, end - start))
    }

    fn advise(&self, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // SAFETY: callers pass ranges inside the mapping (`check`, or the whole of it). The advice
        // used here changes how pages are backed or, for REMOVE and DONTNEED, empties them, which is
        // what `punch` is for; guest memory has no other owner whose references could dangle.
        let status =
            unsafe { libc::madvise(self.address.as_ptr().add(offset).cast(), len, advice) };
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation belongs to this value; whoever uses the address holds it alive.
        unsafe { libc::munmap(self.reserved.0 as *mut libc::c_void, self.reserved.1) };
    }
}

/// A memfd of `len` bytes that can neither shrink (a later SIGBUS for whoever maps it) nor grow, nor
/// lose these seals.
fn sealed_memfd(len: usize) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe {
        libc::memfd_create(
            c"dwcp-guest-memory".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: fcntl with an integer argument on a descriptor that is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// `lseek` for data or holes; `None` when there is none to the end of the file.
fn seek(file: &File, from: usize, whence: libc::c_int) -> io::Result<Option<usize>> {
    let from = libc::off_t::try_from(from).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: plain lseek on a descriptor that is open. Its file position, which this moves, is
    // used by nothing: all other access goes through the mapping.
    let at = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    match usize::try_from(at) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            e => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poke(mapping: &Mapping, page: usize) {
        // SAFETY: the tests pass pages inside their mapping.
        unsafe { mapping.address().add(page * PAGE_BYTES).write_volatile(1) };
    }

    fn conformance(backing: Backing) {
        let pages = 2048usize;
        let mapping = Mapping::new(pages * PAGE_BYTES, backing).unwrap();
        assert_eq!(mapping.address() as usize % HUGE_PAGE, 0);
        assert_eq!(mapping.resident().unwrap(), 0);
        poke(&mapping, 1030);
        assert!(mapping.resident().unwrap() >= PAGE_SIZE);
        mapping.populate(&(512..1024)).unwrap();
        assert!(mapping.resident().unwrap() >= 513 * PAGE_SIZE);
        mapping.punch(&(0..2048)).unwrap();
        assert_eq!(mapping.resident().unwrap(), 0);
        // SAFETY: inside the mapping.
        let byte = unsafe { mapping.address().add(1030 * PAGE_BYTES).read_volatile() };
        assert_eq!(byte, 0);
        assert!(mapping.punch(&(0..2049)).is_err());
        assert!(mapping.populate(&(5..u64::MAX)).is_err());
    }

    #[test]
    fn memfd_conforms() {
        conformance(Backing::Memfd);
    }

    #[test]
    fn anonymous_conforms() {
        conformance(Backing::AnonymousHuge);
    }

    #[test]
    fn huge_memory_asks_for_huge_pages() {
        // Whether it gets them is the kernel's business; that it asked stands among its flags.
        for (backing, asks) in [(Backing::Memfd, false), (Backing::AnonymousHuge, true)] {
            let mapping = Mapping::new(4 << 20, backing).unwrap();
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let start = format!("{:x}-", mapping.address() as usize);
            let of_it = maps.lines().skip_while(|line| !line.starts_with(&start));
            let flags = of_it.into_iter().find(|line| line.starts_with("VmFlags:"));
            let asked = flags.unwrap().split_whitespace().any(|flag| flag == "hg");
            assert_eq!(asked, asks, "{backing:?}");
        }
    }

    #[test]
    fn holes_are_found_without_filling_them() {
        let mapping = Mapping::new(1 << 20, Backing::Memfd).unwrap();
        assert_eq!(mapping.next_data(0).unwrap(), None);
        poke(&mapping, 7);
        poke(&mapping, 8);
        poke(&mapping, 200);
        assert_eq!(mapping.next_data(0).unwrap(), Some(7..9));
        assert_eq!(mapping.next_data(8).unwrap(), Some(8..9));
        assert_eq!(mapping.next_data(9).unwrap(), Some(200..201));
        assert_eq!(mapping.next_data(201).unwrap(), None);
        assert!(mapping.next_data(257).is_err());
        assert_eq!(mapping.resident().unwrap(), 3 * PAGE_SIZE);
    }

    #[test]
    fn the_memfd_cannot_shrink() {
        let mapping = Mapping::new(1 << 20, Backing::Memfd).unwrap();
        let file = mapping.file.as_ref().unwrap();
        assert!(file.set_len(4096).is_err());
        assert!(file.set_len(2 << 20).is_err());
    }
}
