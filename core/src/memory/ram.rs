//! One VM's memory.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};

use zerocopy::IntoBytes;

use super::mapping::Mapping;
use super::scan::is_zero_page;
use super::{Backing, GuestPiece, Layout, PAGE_BYTES, PAGE_SIZE, PageRange};
use crate::error::{DWCPError, Result};

/// A VM's memory: a layout, the host memory behind it, and the record of what this process wrote to
/// it. Shared by everything that belongs to the VM; the host memory is unmapped with the last of them.
#[derive(Debug)]
pub(crate) struct GuestRam {
    // Declared before `mapping`: these regions point into it and must go first.
    memory: GuestMemoryMmap<AtomicBitmap>,
    mapping: Mapping,
    layout: Layout,
    backing: Backing,
    /// Another process of this host had this memory first.
    handed: bool,
    /// Some of its pages are to arrive.
    late: AtomicBool,
}

/// One contiguous piece of RAM as the hypervisor maps it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Number of the slot, from 0.
    pub(crate) index: u32,
    /// Guest physical address of its first byte.
    pub(crate) gpa: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Address of its first byte in this process.
    pub(crate) host_address: u64,
    /// Number of its first page, counted from the start of RAM.
    pub(crate) first_page: u64,
}

impl Slot {
    /// Its pages, counted from the start of RAM.
    pub(crate) fn pages(&self) -> PageRange {
        self.first_page..self.first_page + self.size / PAGE_SIZE
    }
}

impl GuestRam {
    /// Memory for a VM of `size` bytes, all zeros.
    ///
    /// # Errors
    ///
    /// `invalid_config` for a size that is no layout, `resource_limit` when the host has no address
    /// space or memory for it.
    pub(crate) fn allocate(size: u64, backing: Backing) -> Result<Arc<Self>> {
        Self::of(size, backing, false, |len| Mapping::new(len, backing))
    }

    /// Memory for a VM of `size` bytes, which `map` makes.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate).
    pub(super) fn of(
        size: u64,
        backing: Backing,
        handed: bool,
        map: impl FnOnce(usize) -> io::Result<Mapping>,
    ) -> Result<Arc<Self>> {
        let layout = Layout::new(size)?;
        let refused = |e: &dyn std::fmt::Display| {
            DWCPError::ResourceLimit(format!(
                "memory: cannot map {size} bytes of guest memory: {e}"
            ))
        };
        let len = usize::try_from(size).map_err(|e| refused(&e))?;
        let mapping = map(len).map_err(|e| refused(&e))?;
        let mut regions = Vec::new();
        for region in layout.regions() {
            let (offset, len) = byte_range(region.offset, region.size);
            // SAFETY: `offset + len` is at most the mapping's length, by the layout of that size;
            // the mapping outlives the region, for both are fields of the same value and the
            // regions are declared, so dropped, first.
            let pointer = unsafe { mapping.address().add(offset) };
            let dirty = AtomicBitmap::new(len, UNIT);
            // SAFETY: as above: a part of a mapping that is present in this process.
            let builder = unsafe {
                MmapRegionBuilder::new_with_bitmap(len, dirty).with_raw_mmap_pointer(pointer)
            };
            let piece = builder
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .build()
                .map_err(|e| refused(&e))?;
            let piece = GuestRegionMmap::new(piece, GuestAddress(region.gpa))
                .ok_or_else(|| refused(&"the address space ends"))?;
            regions.push(piece);
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|e| refused(&e))?;
        Ok(Arc::new(Self {
            memory,
            mapping,
            layout,
            backing,
            handed,
            late: AtomicBool::new(false),
        }))
    }

    /// The memory as the crates of device models take it. What they write through it is recorded as
    /// changed.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap<AtomicBitmap> {
        &self.memory
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn backing(&self) -> Backing {
        self.backing
    }

    /// Whether another process of this host had this memory first, and handed it over.
    pub(crate) fn is_handed(&self) -> bool {
        self.handed
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// RAM in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.layout.size()
    }

    /// The pieces to give to the hypervisor.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0u32..).zip(self.layout.regions()).map(|(index, r)| Slot {
            index,
            gpa: r.gpa,
            size: r.size,
            host_address: self.mapping.address() as u64 + r.offset,
            first_page: r.offset / PAGE_SIZE,
        })
    }

    /// Writes at a guest physical address, and records the pages as changed.
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) -> Result<()> {
        self.memory
            .write_slice(bytes, GuestAddress(gpa))
            .map_err(|e| outside(gpa, bytes.len(), &e))
    }

    /// Reads at a guest physical address.
    pub(crate) fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len();
        self.memory
            .read_slice(bytes, GuestAddress(gpa))
            .map_err(|e| outside(gpa, len, &e))
    }

    /// Reads `N` little-endian words at a guest physical address.
    pub(crate) fn read_words<const N: usize>(&self, gpa: u64) -> Result<[u64; N]> {
        let mut words = [0u64; N];
        self.read(gpa, words.as_mut_bytes())?;
        for word in &mut words {
            *word = u64::from_le(*word);
        }
        Ok(words)
    }

    /// Reads a little-endian word at a guest physical address, and never waits: where pages arrive late and this one
    /// has not, it is what came of it before, see [`LateRam`](super::LateRam).
    pub(crate) fn look_at_word(&self, gpa: u64) -> Result<u64> {
        let file = self.file().filter(|_| self.is_late());
        let Some(file) = file else {
            let [word] = self.read_words(gpa)?;
            return Ok(word);
        };
        let mut word = [0; size_of::<u64>()];
        let len = word.len();
        let offset = self.layout.offset_at(gpa, len as u64);
        let offset = offset.ok_or_else(|| outside(gpa, len, &"no RAM"))?;
        let read = rustix::io::pread(file, &mut word, offset).map_err(io::Error::from)?;
        if read < len {
            return Err(outside(gpa, len, &"no RAM"));
        }
        Ok(u64::from_le_bytes(word))
    }

    /// Whether some pages are to arrive while the guest runs, and whoever needs one waits.
    pub(crate) fn is_late(&self) -> bool {
        self.late.load(Ordering::SeqCst)
    }

    /// Sets that.
    pub(super) fn set_late(&self, late: bool) {
        self.late.store(late, Ordering::SeqCst);
    }

    /// Appends a copy of pages to `out`.
    pub(crate) fn copy_pages(&self, pages: &PageRange, out: &mut Vec<u8>) -> Result<()> {
        let (start, len) = (out.len(), (pages.end - pages.start) * PAGE_SIZE);
        let gpa = self.layout.gpa_of(pages.start * PAGE_SIZE);
        let gpa = gpa.ok_or_else(|| outside(pages.start * PAGE_SIZE, 0, &"no RAM"))?;
        let (len, _) = byte_range(len, 0);
        out.resize(start + len, 0);
        self.read(gpa, &mut out[start..])
    }

    /// Writes words at a RAM offset as guest code would: without a record of it. For the simulated
    /// back end, which keeps a guest's own log.
    pub(crate) fn write_as_guest(&self, offset: u64, words: &[u64]) -> Result<()> {
        let len = size_of_val(words) as u64;
        let end = offset.checked_add(len).filter(|&end| end <= self.size());
        if end.is_none() || !offset.is_multiple_of(8) {
            return Err(outside(offset, size_of_val(words), &"no aligned RAM"));
        }
        let (at, _) = byte_range(offset, 0);
        for (i, &word) in words.iter().enumerate() {
            // SAFETY: inside the mapping, as just checked, and aligned, for the mapping is. Atomic, as
            // a migration may read the page at the same time.
            let word_at =
                unsafe { AtomicU64::from_ptr(self.mapping.address().add(at).cast::<u64>().add(i)) };
            word_at.store(word.to_le(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Bytes of host memory the RAM takes now.
    pub(crate) fn resident(&self) -> Result<u64> {
        Ok(self.mapping.resident()?)
    }

    /// Writes whole pages, and records them as changed: by way of the file where the memory has one, see
    /// [`Mapping::fill`].
    ///
    /// # Errors
    ///
    /// Those of the host, and `InvalidInput` for pages that are not RAM and contents of another length.
    pub(crate) fn place(&self, pages: &PageRange, contents: &[u8]) -> Result<()> {
        if self.backing == Backing::AnonymousHuge {
            let gpa = self.layout.gpa_of(pages.start * PAGE_SIZE);
            let gpa = gpa.ok_or_else(|| outside(pages.start * PAGE_SIZE, 0, &"no RAM"))?;
            return self.write(gpa, contents);
        }
        self.fill(pages, contents)?;
        self.mark_changed(pages);
        Ok(())
    }

    /// The same for pages that whoever follows changes has no business with.
    pub(super) fn fill(&self, pages: &PageRange, contents: &[u8]) -> Result<()> {
        Ok(self.mapping.fill(pages, contents)?)
    }

    /// See [`Mapping::populate`].
    pub(crate) fn populate(&self, pages: &PageRange) -> Result<()> {
        Ok(self.mapping.populate(pages)?)
    }

    /// See [`Mapping::punch`].
    pub(crate) fn punch(&self, pages: &PageRange) -> Result<()> {
        Ok(self.mapping.punch(pages)?)
    }

    /// Gives pages that a guest has no use for back to the host, and records them as changed: whoever
    /// copies this memory has to learn that they are zeros now.
    pub(crate) fn give_back(&self, pages: &PageRange) -> Result<()> {
        self.punch(pages)?;
        self.mark_changed(pages);
        Ok(())
    }

    /// See [`Mapping::unmap`].
    pub(super) fn unmap(&self, pages: &PageRange) -> io::Result<()> {
        self.mapping.unmap(pages)
    }

    /// See [`Mapping::next_data`].
    pub(crate) fn next_data(&self, page: u64) -> Result<Option<PageRange>> {
        Ok(self.mapping.next_data(page)?)
    }

    /// Whether the page holds only zeros. A page beyond the end of RAM does not.
    pub(crate) fn is_zero(&self, page: u64) -> bool {
        if page >= self.layout.pages() {
            return false;
        }
        let (offset, _) = byte_range(page * PAGE_SIZE, 0);
        // SAFETY: the page lies in the mapping, which starts at a page boundary.
        unsafe { is_zero_page(self.mapping.address().add(offset)) }
    }

    /// Records pages as changed by this process, for writers that bypass [`write`](Self::write).
    /// Called after the write.
    pub(super) fn mark_changed(&self, pages: &PageRange) {
        for (region, piece) in self.layout.regions().iter().zip(self.memory.iter()) {
            let first = (pages.start * PAGE_SIZE).max(region.offset);
            let end = (pages.end * PAGE_SIZE).min(region.offset + region.size);
            if first < end {
                let (offset, len) = byte_range(first - region.offset, end - first);
                (**piece).bitmap().set_addr_range(offset, len);
            }
        }
    }

    /// The record of what this process changed in slot `slot`, emptied by the reading.
    pub(super) fn take_changed(&self, slot: usize) -> Vec<u64> {
        self.memory
            .iter()
            .nth(slot)
            .map(|piece| (**piece).bitmap().get_and_reset())
            .unwrap_or_default()
    }

    /// The address and length in this process of a range of pages, if it is RAM.
    pub(super) fn host_range(&self, pages: &PageRange) -> io::Result<(*mut u8, usize)> {
        if pages.start > pages.end || pages.end > self.layout.pages() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (offset, len) = byte_range(
            pages.start * PAGE_SIZE,
            (pages.end - pages.start) * PAGE_SIZE,
        );
        // SAFETY: inside the mapping, or one past its end for an empty range.
        Ok((unsafe { self.mapping.address().add(offset) }, len))
    }

    /// The address in this process of a piece of guest physical memory, if it is RAM.
    pub(super) fn host_piece(&self, piece: &GuestPiece) -> io::Result<*mut u8> {
        let offset = self
            .layout
            .offset_at(piece.gpa, u64::from(piece.len))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let (offset, _) = byte_range(offset, 0);
        // SAFETY: inside the mapping, whose length is that of all regions together, or one past its end
        // for an empty piece.
        Ok(unsafe { self.mapping.address().add(offset) })
    }

    /// Records a piece of guest physical memory as changed by this process. Called after the write.
    pub(super) fn mark_piece(&self, piece: &GuestPiece) {
        if piece.len > 0
            && let Some(offset) = self.layout.offset_at(piece.gpa, u64::from(piece.len))
        {
            let end = offset + u64::from(piece.len);
            self.mark_changed(&(offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE)));
        }
    }

    /// A digest of all of RAM, for comparing two copies of a VM that does not run.
    #[cfg(test)]
    pub(crate) fn digest(&self) -> u64 {
        use std::hash::Hasher;
        let mut digest = std::hash::DefaultHasher::new();
        let mut piece = vec![0; 1 << 20];
        for region in self.layout.regions() {
            for at in (region.gpa..region.gpa + region.size).step_by(piece.len()) {
                let len = piece.len().min((region.gpa + region.size - at) as usize);
                self.read(at, &mut piece[..len]).unwrap();
                digest.write(&piece[..len]);
            }
        }
        digest.finish()
    }
}

/// The unit of the record of changes.
const UNIT: NonZeroUsize = NonZeroUsize::new(PAGE_BYTES).expect("pages have a size");

/// RAM offsets fit the address space: the mapping they point into does.
#[allow(clippy::cast_possible_truncation)]
fn byte_range(offset: u64, len: u64) -> (usize, usize) {
    (offset as usize, len as usize)
}

fn outside(gpa: u64, len: usize, cause: &dyn std::fmt::Display) -> DWCPError {
    DWCPError::Internal(format!("guest memory {gpa:#x}+{len:#x}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_recorded_and_reads_are_not() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        ram.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        ram.read(0x1ffe, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        assert_eq!(ram.take_changed(0)[0], 0b110);
        assert_eq!(ram.take_changed(0)[0], 0);
    }

    #[test]
    fn marking_crosses_slots() {
        let ram = GuestRam::allocate((3 << 30) + (1 << 20), Backing::Memfd).unwrap();
        let edge = (3 << 30) / PAGE_SIZE;
        ram.mark_changed(&(edge - 1..edge + 2));
        assert_eq!(*ram.take_changed(0).last().unwrap(), 1 << 63);
        assert_eq!(ram.take_changed(1)[0], 0b11);
    }

    #[test]
    fn what_is_given_back_is_zeros_and_recorded() {
        for backing in [Backing::Memfd, Backing::AnonymousHuge] {
            let ram = GuestRam::allocate(4 << 20, backing).unwrap();
            ram.write(5 * PAGE_SIZE, &[1; 2 * PAGE_BYTES]).unwrap();
            ram.take_changed(0);
            ram.give_back(&(5..6)).unwrap();
            assert!(ram.is_zero(5));
            assert!(!ram.is_zero(6));
            assert_eq!(ram.take_changed(0)[0], 1 << 5, "{backing:?}");
            assert!(ram.give_back(&(1023..1025)).is_err());
        }
    }

    #[test]
    fn access_outside_ram_is_an_error() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        assert!(ram.write((1 << 20) - 1, &[0, 0]).is_err());
        assert!(ram.read(u64::MAX, &mut [0]).is_err());
        assert!(ram.host_range(&(0..257)).is_err());
        assert!(!ram.is_zero(256));
        assert!(ram.is_zero(255));
    }
}
