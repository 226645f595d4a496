//! An ELF kernel: started by its PVH entry where it has one (Xen `docs/misc/pvh.pandoc`), by the
//! address in its header as Linux's 64-bit entry otherwise.
#![forbid(unsafe_code)]

use super::cmdline;
use super::file::BootFile;
use super::linux;
use super::plan::{Plan, Segment, Start, check_range};
use crate::error::Result;
use crate::memory::{Layout, PAGE_SIZE};

// Values of the ELF specification (System V ABI, chapters 4 and 5).
const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;

/// Linux has five program headers, others a few more.
const PROGRAM_HEADERS_MAX: u16 = 64;
/// The notes of a Linux kernel are some hundred bytes.
const NOTES_MAX: u64 = 64 << 10;
/// A note of this name and type holds the PVH entry (`XEN_ELFNOTE_PHYS32_ENTRY`).
const NOTE_NAME: &[u8] = b"Xen\0";
const NOTE_PVH_ENTRY: u32 = 18;

/// Whether the file says that it is one.
pub(super) fn is_one(kernel: &BootFile) -> bool {
    kernel.array(0) == Ok(MAGIC)
}

/// Little-endian numbers in a piece of the file.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let part = self.0.get(offset..).and_then(|part| part.first_chunk());
        part.copied().unwrap_or([0; N])
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }
}

/// What of it goes where.
pub(super) fn plan(kernel: &BootFile, layout: &Layout) -> Result<Plan> {
    let header: [u8; HEADER_SIZE] = kernel.array(0)?;
    let header = Fields(&header);
    check(kernel, &header)?;
    let (mut segments, mut pvh, mut end) = (Vec::new(), None, 0);
    for index in 0..u64::from(header.u16(0x38)) {
        let offset = header
            .u64(0x20)
            .checked_add(index * PROGRAM_HEADER_SIZE as u64);
        let offset = offset.ok_or_else(|| kernel.wrong("it is truncated"))?;
        let program: [u8; PROGRAM_HEADER_SIZE] = kernel.array(offset)?;
        let program = Fields(&program);
        match program.u32(0) {
            SEGMENT_LOAD if program.u64(0x28) > 0 => {
                let segment = segment(kernel, &program)?;
                let last = segment.gpa.saturating_add(segment.memory_size);
                check_range(kernel, layout, segment.gpa, last)?;
                end = last.max(end);
                segments.push(segment);
            }
            SEGMENT_NOTE if pvh.is_none() => pvh = pvh_entry(kernel, &program)?,
            _ => {}
        }
    }
    let start = match pvh {
        Some(entry) => Start::Pvh { entry },
        None => Start::Linux64 {
            entry: header.u64(0x18),
            header: linux::bare_header(),
        },
    };
    let entry = match start {
        Start::Linux64 { entry, .. } => entry,
        Start::Pvh { entry } => u64::from(entry),
    };
    let holds = |s: &Segment| entry >= s.gpa && entry - s.gpa < s.memory_size;
    if !segments.iter().any(holds) {
        return Err(kernel.wrong(&format!(
            "its entry, {entry:#x}, is in nothing that it loads"
        )));
    }
    Ok(Plan {
        segments,
        end: end.next_multiple_of(PAGE_SIZE),
        // Either entry takes addresses below 4 GiB, and low RAM ends before.
        initrd_end: 1 << 32,
        cmdline_max: cmdline::LENGTH_MAX,
        start,
    })
}

fn check(kernel: &BootFile, header: &Fields<'_>) -> Result<()> {
    let [class, data] = header.array(4);
    let why = if (class, data) != (CLASS_64, LITTLE_ENDIAN) {
        "a 64-bit little-endian ELF file is needed".into()
    } else if header.u16(0x12) != MACHINE_X86_64 {
        format!(
            "an ELF file for machine {}, where one for x86-64 is needed",
            header.u16(0x12)
        )
    } else if header.u16(0x10) != TYPE_EXECUTABLE {
        format!(
            "an ELF file of type {}, where an executable is needed",
            header.u16(0x10)
        )
    } else if usize::from(header.u16(0x36)) != PROGRAM_HEADER_SIZE
        || header.u16(0x38) > PROGRAM_HEADERS_MAX
    {
        format!(
            "an ELF file with {} program headers of {} bytes, where at most {PROGRAM_HEADERS_MAX} of \
             {PROGRAM_HEADER_SIZE} are allowed",
            header.u16(0x38),
            header.u16(0x36)
        )
    } else {
        return Ok(());
    };
    Err(kernel.wrong(&why))
}

fn segment(kernel: &BootFile, program: &Fields<'_>) -> Result<Segment> {
    let segment = Segment {
        offset: program.u64(0x08),
        gpa: program.u64(0x18),
        file_size: program.u64(0x20),
        memory_size: program.u64(0x28),
    };
    let end = segment.offset.checked_add(segment.file_size);
    if end.is_none_or(|end| end > kernel.size()) {
        return Err(kernel.wrong("it is truncated"));
    }
    if segment.file_size > segment.memory_size {
        return Err(kernel.wrong("a segment is larger in the file than in memory"));
    }
    Ok(segment)
}

/// The PVH entry, if this segment of notes has it.
fn pvh_entry(kernel: &BootFile, program: &Fields<'_>) -> Result<Option<u32>> {
    let size = program.u64(0x20);
    if size > NOTES_MAX {
        return Err(kernel.wrong(&format!(
            "{size} bytes of notes, where at most {NOTES_MAX} are allowed"
        )));
    }
    // Fits: it is at most `NOTES_MAX`.
    let mut notes = vec![0; usize::try_from(size).unwrap_or(0)];
    kernel.read(program.u64(0x08), &mut notes)?;
    let mut rest = &notes[..];
    while let Some((head, behind)) = rest.split_at_checked(12) {
        let head = Fields(head);
        let padded = |len: u32| (len as usize).next_multiple_of(4);
        let (name_len, desc_len) = (head.u32(0), head.u32(4));
        let Some((name, behind)) = behind.split_at_checked(padded(name_len)) else {
            break;
        };
        // The padding of the last one may be missing.
        let desc = &behind[..behind.len().min(desc_len as usize)];
        if head.u32(8) == NOTE_PVH_ENTRY && name == NOTE_NAME && matches!(desc.len(), 4 | 8) {
            let entry = Fields(desc).u64(0) | u64::from(Fields(desc).u32(0));
            let entry = u32::try_from(entry);
            return entry
                .map(Some)
                .map_err(|_| kernel.wrong("its PVH entry is above 4 GiB"));
        }
        rest = behind.get(padded(desc_len)..).unwrap_or_default();
    }
    Ok(None)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A kernel of one segment at 16 MiB, with a note where `pvh` says so.
    pub(in super::super) fn sample(pvh: Option<&[u8]>) -> Vec<u8> {
        let mut out = vec![0; 0x400];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(0x10, &[2, 0, 62, 0, 1]);
        put(0x18, &0x100_0040u64.to_le_bytes());
        put(0x20, &64u64.to_le_bytes());
        put(0x36, &[56, 0, 2, 0]);
        for (at, kind, offset, gpa, file, memory) in [
            (64, 1u32, 0x200u64, 0x100_0000u64, 0x100u64, 0x3001u64),
            (120, 4, 0x300, 0, 0x24, 0),
        ] {
            put(at, &kind.to_le_bytes());
            for (field, value) in [(8, offset), (0x18, gpa), (0x20, file), (0x28, memory)] {
                put(at + field, &value.to_le_bytes());
            }
        }
        put(0x200, &[0xf4; 16]);
        // A note that is not ours, then the one that is.
        put(0x300, &[4, 0, 0, 0, 2, 0, 0, 0, 6, 0, 0, 0]);
        put(0x30c, b"Xen\0ab\0\0");
        if let Some(desc) = pvh {
            put(0x314, &[4, 0, 0, 0, desc.len() as u8, 0, 0, 0, 18, 0, 0, 0]);
            put(0x320, b"Xen\0");
            put(0x324, desc);
            put(120 + 0x20, &(0x24 + desc.len() as u64).to_le_bytes());
        }
        out
    }

    fn planned(bytes: Vec<u8>) -> Result<Plan> {
        let kernel = BootFile::from_bytes("kernel", bytes);
        assert!(is_one(&kernel));
        plan(&kernel, &Layout::new(64 << 20).unwrap())
    }

    #[test]
    fn the_pvh_entry_is_preferred() {
        for desc in [
            &0x100_0080u32.to_le_bytes()[..],
            &0x100_0080u64.to_le_bytes(),
        ] {
            let plan = planned(sample(Some(desc))).unwrap();
            assert_eq!(plan.start, Start::Pvh { entry: 0x100_0080 });
        }
        let plan = planned(sample(None)).unwrap();
        let segment = Segment {
            gpa: 0x100_0000,
            offset: 0x200,
            file_size: 0x100,
            memory_size: 0x3001,
        };
        assert_eq!(plan.segments, [segment]);
        assert_eq!(plan.end, 0x100_4000);
        assert!(matches!(
            plan.start,
            Start::Linux64 {
                entry: 0x100_0040,
                ..
            }
        ));
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_the_reason() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = sample(Some(&[0x80, 0, 0, 1]));
            bytes[at..at + value.len()].copy_from_slice(value);
            planned(bytes).unwrap_err().to_string()
        };
        for (at, value, why) in [
            (4, &[1][..], "64-bit little-endian"),
            (5, &[2], "64-bit little-endian"),
            (0x10, &[3], "type 3"),
            (0x12, &[183], "machine 183"),
            (0x36, &[32], "of 32 bytes"),
            (0x38, &[65], "65 program headers"),
            (0x20, &[0xff; 8], "truncated"),
            (64 + 0x08, &[0xff; 8], "truncated"),
            (64 + 0x20, &[1, 0x31], "truncated"),
            (64 + 0x28, &[0xff, 0, 0], "larger in the file"),
            (64 + 0x18, &[0, 0, 0xf, 0], "it wants to be at 0xf0000"),
            (64 + 0x18, &[0, 0, 0, 4], "give it more"),
            (64 + 0x18, &[0xff; 8], "give it more"),
            (120 + 0x20, &[0, 0, 2], "bytes of notes"),
            (0x324, &[0, 0, 0, 2], "its entry, 0x2000000"),
        ] {
            let error = with(at, value);
            assert!(error.contains("kernel: ") && error.contains(why), "{error}");
        }
    }
}
