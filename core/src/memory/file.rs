//! Pages between guest memory and a file, where each lies at its own RAM offset.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{GuestRam, PAGE_BYTES, PAGE_SIZE, PageRange};
use crate::error::Result;

/// Bytes in one system call: large enough that the call costs nothing beside the copying, small enough
/// to be still in the processor's second-level cache when a sum was taken just before.
const MAX_BYTES: usize = 1 << 20;
/// Bytes that are copied to be summed: they stay in the first-level cache.
const SUM_BYTES: usize = 16 << 10;

/// Writes pages to their offsets in `file`, straight from guest memory.
///
/// # Errors
///
/// Those of the file; `InvalidInput` for pages outside RAM, before anything is written.
pub(crate) fn write_pages(file: &File, ram: &GuestRam, pages: &PageRange) -> io::Result<()> {
    each_piece(ram, pages, |address, len, offset| {
        // SAFETY: the kernel reads `len` bytes from `address`, a range of guest RAM that `ram` keeps
        // mapped; no Rust reference to it is formed.
        unsafe { libc::pwrite(file.as_raw_fd(), address.cast(), len, offset) }
    })
}

/// Reads pages from their offsets in `file`, straight into guest memory, and records them as changed.
///
/// # Errors
///
/// Those of the file; `UnexpectedEof` when it ends before; `InvalidInput` for pages outside RAM, before
/// anything is read.
pub(crate) fn read_pages(file: &File, ram: &GuestRam, pages: &PageRange) -> io::Result<()> {
    each_piece(ram, pages, |address, len, offset| {
        // SAFETY: the kernel writes `len` bytes to `address`, a range of guest RAM that `ram` keeps
        // mapped. No Rust reference to guest RAM exists that the write could invalidate.
        unsafe { libc::pread(file.as_raw_fd(), address.cast(), len, offset) }
    })?;
    ram.mark_changed(pages);
    Ok(())
}

/// Moves pages piece by piece; `call` gets an address, a length, and the file offset.
fn each_piece(
    ram: &GuestRam,
    pages: &PageRange,
    mut call: impl FnMut(*mut u8, usize, libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let (start, len) = ram.host_range(pages)?;
    let first = pages.start * PAGE_SIZE;
    let mut done = 0;
    while done < len {
        let offset = libc::off_t::try_from(first + done as u64)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: `done` is less than the length of the range that `start` begins.
        let address = unsafe { start.add(done) };
        let moved = call(address, MAX_BYTES.min(len - done), offset);
        match usize::try_from(moved) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => done += moved,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
    Ok(())
}

/// The CRC-32C of pages, continued from `crc`. Nobody writes them meanwhile, or the sum is of no moment.
///
/// # Errors
///
/// `internal` for pages outside RAM.
pub(crate) fn sum_pages(ram: &GuestRam, crc: u32, pages: &PageRange) -> Result<u32> {
    const STEP: u64 = (SUM_BYTES / PAGE_BYTES) as u64;
    let (mut crc, mut at) = (crc, pages.start);
    let mut copy = Vec::with_capacity(SUM_BYTES);
    while at < pages.end {
        // Slots start at multiples of far more than a step, so no step spans two of them if none
        // spans a multiple of its own length.
        let end = ((at / STEP + 1) * STEP).min(pages.end);
        copy.clear();
        ram.copy_pages(&(at..end), &mut copy)?;
        crc = crc32c::crc32c_append(crc, &copy);
        at = end;
    }
    Ok(crc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    #[test]
    fn pages_come_back_from_their_own_offsets() {
        let ram = GuestRam::allocate(8 << 20, Backing::Memfd).unwrap();
        let pages = 3..3 + (5 << 20) / PAGE_SIZE;
        for page in pages.clone() {
            ram.write(page * PAGE_SIZE, &page.to_le_bytes()).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        write_pages(&file, &ram, &pages).unwrap();
        assert_eq!(file.metadata().unwrap().len(), pages.end * PAGE_SIZE);
        let sum = sum_pages(&ram, 0, &pages).unwrap();

        let other = GuestRam::allocate(8 << 20, Backing::Memfd).unwrap();
        read_pages(&file, &other, &pages).unwrap();
        assert_eq!(other.digest(), ram.digest());
        assert_eq!(sum_pages(&other, 0, &pages).unwrap(), sum);
        assert_eq!(other.take_changed(0)[0] & 0xff, 0b1111_1000);
        // In two parts, as chunks are.
        let part = sum_pages(&other, 0, &(3..10)).unwrap();
        assert_eq!(sum_pages(&other, part, &(10..pages.end)).unwrap(), sum);
        other.write(7 * PAGE_SIZE + 4095, &[1]).unwrap();
        assert_ne!(sum_pages(&other, 0, &pages).unwrap(), sum);
    }

    #[test]
    fn a_short_file_and_pages_outside_ram_are_errors() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let file = tempfile::tempfile().unwrap();
        write_pages(&file, &ram, &(0..2)).unwrap();
        let error = read_pages(&file, &ram, &(0..3)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(write_pages(&file, &ram, &(255..257)).is_err());
        assert!(sum_pages(&ram, 0, &(255..257)).is_err());
        assert_eq!(file.metadata().unwrap().len(), 2 * PAGE_SIZE);
    }

    #[test]
    fn sums_cross_slots() {
        let ram = GuestRam::allocate((3 << 30) + (1 << 20), Backing::Memfd).unwrap();
        let edge = (3 << 30) / PAGE_SIZE;
        ram.write(4 << 30, &[7]).unwrap();
        let zeros = sum_pages(&ram, 0, &(edge - 2..edge)).unwrap();
        let both = sum_pages(&ram, 0, &(edge - 2..edge + 1)).unwrap();
        let above = sum_pages(&ram, zeros, &(edge..edge + 1)).unwrap();
        assert_eq!(both, above);
    }
}
