//! What of a kernel's file goes where, decided before anything is written.
#![forbid(unsafe_code)]

use super::file::BootFile;
use super::low;
use crate::error::Result;
use crate::memory::{GuestRam, Layout, PAGE_SIZE};

/// A part of the file, and where it goes. What memory has beyond the file is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) gpa: u64,
    pub(super) offset: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
}

/// How a kernel begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Linux's 64-bit entry: in long mode, with boot parameters that contain this setup header.
    Linux64 { entry: u64, header: Vec<u8> },
    /// The PVH entry: in 32-bit mode, with a start info.
    Pvh { entry: u32 },
}

/// Everything that loading needs to know of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) segments: Vec<Segment>,
    /// First address behind all that the kernel uses before it has read its memory map.
    pub(super) end: u64,
    /// One past the highest address an initial RAM disk may have.
    pub(super) initrd_end: u64,
    /// Longest command line, in bytes.
    pub(super) cmdline_max: usize,
    pub(super) start: Start,
}

/// End of the RAM below 4 GiB.
pub(super) fn low_ram_end(layout: &Layout) -> u64 {
    layout.regions().first().map_or(0, |low| low.size)
}

impl Plan {
    /// Copies the segments into memory.
    pub(super) fn load(&self, ram: &GuestRam, kernel: &BootFile) -> Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        for segment in &self.segments {
            kernel.copy_to(ram, segment.gpa, segment.offset, segment.file_size)?;
            // A reset finds what the kernel before has left.
            let end = segment.gpa + segment.memory_size;
            let mut at = segment.gpa + segment.file_size;
            while at < end {
                let len = usize::try_from(end - at).map_or(ZEROS.len(), |l| l.min(ZEROS.len()));
                ram.write(at, &ZEROS[..len])?;
                at += len as u64;
            }
        }
        Ok(())
    }

    /// Where an initial RAM disk goes: as high in low RAM as the kernel lets it.
    ///
    /// # Errors
    ///
    /// `invalid_config` when there is no room above the kernel.
    pub(super) fn place_initrd(&self, layout: &Layout, initrd: &BootFile) -> Result<u64> {
        let end = low_ram_end(layout).min(self.initrd_end);
        let start = end.checked_sub(initrd.size());
        let start = start.map(|start| start & !(PAGE_SIZE - 1));
        start.filter(|&start| start >= self.end).ok_or_else(|| {
            initrd.wrong(&format!(
                "its {} bytes do not fit between the kernel, which needs memory up to {:#x}, and {end:#x}: \
                 give the VM more memory",
                initrd.size(),
                self.end
            ))
        })
    }
}

/// Checks that a kernel may be at `start..end`.
pub(super) fn check_range(kernel: &BootFile, layout: &Layout, start: u64, end: u64) -> Result<()> {
    if start < low::HIGH || end < start {
        return Err(kernel.wrong(&format!(
            "it wants to be at {start:#x}, where memory from {:#x} on is for kernels",
            low::HIGH
        )));
    }
    let ram = low_ram_end(layout);
    if end > ram {
        return Err(kernel.wrong(&format!(
            "it needs memory up to {end:#x}, and this VM has it up to {ram:#x}: give it more"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    fn plan(segments: Vec<Segment>) -> Plan {
        Plan {
            segments,
            end: 0x120_0000,
            initrd_end: 0x180_0000,
            cmdline_max: 2047,
            start: Start::Pvh { entry: 0 },
        }
    }

    #[test]
    fn segments_are_copied_and_what_was_there_before_is_gone() {
        let ram = GuestRam::allocate(8 << 20, Backing::Memfd).unwrap();
        ram.write(0x10_0000, &[0xff; 0x2_0000]).unwrap();
        let kernel = BootFile::from_bytes("kernel", *b"0123456789");
        let segment = Segment {
            gpa: 0x10_0000,
            offset: 4,
            file_size: 3,
            memory_size: 0x1_8000,
        };
        plan(vec![segment]).load(&ram, &kernel).unwrap();
        let mut back = vec![0; 0x1_8001];
        ram.read(0x10_0000, &mut back).unwrap();
        assert_eq!(back[..3], *b"456");
        assert!(back[3..0x1_8000].iter().all(|&b| b == 0));
        assert_eq!(back[0x1_8000], 0xff);
    }

    #[test]
    fn the_initrd_is_high_and_never_on_the_kernel() {
        let plan = plan(Vec::new());
        let initrd = |size: usize| BootFile::from_bytes("initrd", vec![0; size]);
        let small = Layout::new(0x140_0000).unwrap();
        let large = Layout::new(8 << 30).unwrap();
        assert_eq!(plan.place_initrd(&small, &initrd(1)), Ok(0x13f_f000));
        assert_eq!(plan.place_initrd(&large, &initrd(4097)), Ok(0x17f_e000));
        assert_eq!(
            plan.place_initrd(&small, &initrd(0x20_0000)),
            Ok(0x120_0000)
        );
        for size in [0x20_0001, 0x400_0000] {
            let error = plan.place_initrd(&small, &initrd(size)).unwrap_err();
            assert!(error.to_string().contains("initrd: its"), "{error}");
        }
    }
}
