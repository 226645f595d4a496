//! Linux's bzImage (Linux `Documentation/arch/x86/boot.rst`), started by its 64-bit entry.
#![forbid(unsafe_code)]

use super::cmdline;
use super::file::BootFile;
use super::linux;
use super::low;
use super::plan::{Plan, Segment, Start, check_range};
use crate::error::Result;
use crate::memory::Layout;

/// Longest header that the boot parameters have room for.
const HEADER_MAX: usize = 0x290 - linux::HEADER;
/// The protocol that a 64-bit entry came with.
const VERSION_MIN: u16 = 0x020c;
/// `loadflags`: the kernel proper is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry.
const KERNEL_64: u16 = 1;
/// The entry, counted from where the kernel proper is loaded.
const ENTRY: u64 = 0x200;

/// Fields of the setup header, read by their offsets in the file.
struct Header<'a> {
    kernel: &'a BootFile,
    bytes: [u8; 0x290],
}

impl Header<'_> {
    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut out = [0; N];
        // All offsets below are constants within the header, which was read whole.
        out.copy_from_slice(&self.bytes[offset..offset + N]);
        out
    }

    fn u8(&self, offset: usize) -> u8 {
        self.bytes[offset]
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.field(offset))
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.field(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.field(offset))
    }

    /// What says that this is a kernel we can start.
    fn check(&self) -> Result<()> {
        let version = self.u16(0x206);
        let why = if self.u16(0x1fe) != 0xaa55 {
            "a damaged bzImage: its boot flag is missing".into()
        } else if version < VERSION_MIN {
            format!(
                "its boot protocol is {}.{:02}, where at least 2.12 is needed",
                version >> 8,
                version & 0xff
            )
        } else if self.u8(0x211) & LOADED_HIGH == 0 {
            "a zImage, which is loaded below 1 MiB; a bzImage is needed".into()
        } else if self.u16(0x236) & KERNEL_64 == 0 {
            "it has no 64-bit entry; a kernel for x86-64 is needed".into()
        } else {
            return Ok(());
        };
        Err(self.kernel.wrong(&why))
    }
}

/// Whether the file says that it is one.
pub(super) fn is_one(kernel: &BootFile) -> bool {
    kernel.array(0x202) == Ok(*b"HdrS")
}

/// What of it goes where.
pub(super) fn plan(kernel: &BootFile, layout: &Layout) -> Result<Plan> {
    let header = Header {
        kernel,
        bytes: kernel.array(0)?,
    };
    header.check()?;
    let sectors = match header.u8(0x1f1) {
        0 => 4, // what very old kernels mean by 0
        sectors => sectors,
    };
    let offset = (u64::from(sectors) + 1) * 512;
    // The size counts in 16 bytes; behind it there may be a signature, which is not loaded.
    let size = u64::from(header.u32(0x1f4)) * 16;
    let rest = kernel.size().saturating_sub(offset);
    if size <= ENTRY || rest + 16 <= size {
        return Err(kernel.wrong(&format!(
            "it is truncated: {rest} bytes of kernel, where its header says {size}"
        )));
    }
    let size = size.min(rest);
    // What it takes while it unpacks itself.
    let needs = u64::from(header.u32(0x260)).max(size);
    let gpa = place(&header, layout, needs)?;
    Ok(Plan {
        segments: vec![Segment {
            gpa,
            offset,
            file_size: size,
            memory_size: size,
        }],
        end: gpa + needs,
        initrd_end: u64::from(header.u32(0x22c)) + 1,
        cmdline_max: usize::try_from(header.u32(0x238))
            .map_or(cmdline::LENGTH_MAX, |max| max.min(cmdline::LENGTH_MAX)),
        start: Start::Linux64 {
            entry: gpa + ENTRY,
            header: setup_header(&header, gpa),
        },
    })
}

/// Where the kernel proper goes: where it prefers to be, or else, if it can move, as low as it may.
fn place(header: &Header<'_>, layout: &Layout, needs: u64) -> Result<u64> {
    let preferred = header.u64(0x258);
    let end = |start: u64| start.saturating_add(needs);
    let fits = check_range(header.kernel, layout, preferred, end(preferred));
    let relocatable = header.u8(0x234) != 0;
    if fits.is_ok() || !relocatable {
        return fits.map(|()| preferred);
    }
    let alignment = u64::from(header.u32(0x230));
    if !alignment.is_power_of_two() {
        return Err(header.kernel.wrong(&format!(
            "its alignment, {alignment:#x}, is no power of two"
        )));
    }
    let lowest = low::HIGH.next_multiple_of(alignment);
    check_range(header.kernel, layout, lowest, end(lowest)).map(|()| lowest)
}

/// The header for the boot parameters: the kernel's own, with what a boot loader fills in.
fn setup_header(header: &Header<'_>, gpa: u64) -> Vec<u8> {
    // The byte at 0x201 is the jump over the header, and so says where it ends.
    let len = usize::from(header.u8(0x201)) + 0x202 - linux::HEADER;
    let mut out = header.bytes[linux::HEADER..][..len.min(HEADER_MAX)].to_vec();
    // Fits: below 4 GiB, by the check of its range.
    let code = u32::try_from(gpa).unwrap_or(u32::MAX);
    linux::patch(&mut out, 0x214, &code.to_le_bytes());
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header like that of Debian 12's kernel, and a little behind it.
    pub(in super::super) fn sample() -> Vec<u8> {
        let mut out = vec![0; 2 * 512 + 0x400];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]);
        put(0x1f4, &0x40u32.to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &0x020fu16.to_le_bytes());
        put(0x211, &[1]);
        put(0x22c, &0x7fff_ffffu32.to_le_bytes());
        put(0x230, &0x20_0000u32.to_le_bytes());
        put(0x234, &[1, 21, 0x3f, 0]);
        put(0x238, &2047u32.to_le_bytes());
        put(0x258, &0x100_0000u64.to_le_bytes());
        put(0x260, &0x330_0000u32.to_le_bytes());
        put(2 * 512, &[0xaa; 0x400]);
        out
    }

    fn planned(bytes: Vec<u8>, memory: u64) -> Result<Plan> {
        let kernel = BootFile::from_bytes("kernel", bytes);
        assert!(is_one(&kernel));
        plan(&kernel, &Layout::new(memory).unwrap())
    }

    #[test]
    fn a_kernel_goes_where_it_prefers_to_be() {
        let plan = planned(sample(), 256 << 20).unwrap();
        let segment = Segment {
            gpa: 0x100_0000,
            offset: 1024,
            file_size: 0x400,
            memory_size: 0x400,
        };
        assert_eq!(plan.segments, [segment]);
        assert_eq!((plan.end, plan.initrd_end), (0x430_0000, 0x8000_0000));
        assert_eq!(plan.cmdline_max, 2047);
        let Start::Linux64 { entry, header } = plan.start else {
            panic!("{:?}", plan.start)
        };
        assert_eq!(entry, 0x100_0200);
        assert_eq!(header.len(), 0x6a + 0x11);
        assert_eq!(header[0x214 - 0x1f1..][..4], 0x100_0000u32.to_le_bytes());
    }

    #[test]
    fn a_kernel_that_can_move_does_so_in_a_small_vm() {
        let plan = planned(sample(), 60 << 20).unwrap();
        assert_eq!(plan.segments[0].gpa, 0x20_0000);
        let mut fixed = sample();
        fixed[0x234] = 0;
        let error = planned(fixed, 60 << 20).unwrap_err().to_string();
        assert!(
            error.contains("up to 0x4300000") && error.contains("up to 0x3c00000"),
            "{error}"
        );
    }

    #[test]
    fn a_signature_behind_the_kernel_is_not_loaded() {
        let mut bytes = sample();
        bytes.extend_from_slice(&[0x5a; 100]);
        let plan = planned(bytes, 256 << 20).unwrap();
        assert_eq!(plan.segments[0].file_size, 0x400);
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_the_reason() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = sample();
            bytes[at..at + value.len()].copy_from_slice(value);
            planned(bytes, 256 << 20).unwrap_err().to_string()
        };
        for (at, value, why) in [
            (0x1fe, &[0][..], "boot flag"),
            (0x206, &[0x0b, 2], "2.11"),
            (0x211, &[0], "zImage"),
            (0x236, &[0], "64-bit entry"),
            (0x1f4, &[0x80, 0, 0, 0], "truncated"),
            (0x1f4, &[0, 0, 0, 0], "truncated"),
            (0x1f1, &[0xff], "truncated"),
            (0x260, &[0xff; 4], "give it more"),
        ] {
            let error = with(at, value);
            assert!(error.contains("kernel: ") && error.contains(why), "{error}");
        }
        // Where it prefers to be is not there, and it cannot say where else.
        let mut bytes = sample();
        bytes[0x258..0x260].fill(0xff);
        bytes[0x230..0x234].fill(3);
        let error = planned(bytes, 256 << 20).unwrap_err().to_string();
        assert!(error.contains("alignment"), "{error}");
    }
}
