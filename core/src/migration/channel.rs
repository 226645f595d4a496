//! The framing of a bulk channel: a header, page-run descriptors, then raw bytes.
//!
//! A message is a 32-byte header, `runs` descriptors of 16 bytes, and `payload` bytes; all numbers
//! are little-endian.
//!
//! ```text
//! magic u32  kind u8  flags u8  reserved u16  runs u32  crc u32  payload u64  sequence u64
//! descriptor: guest physical address u64, or offset on the disk, length u64
//! ```
//!
//! Everything here comes from a peer: a header is checked against the limits of its kind, and every
//! descriptor against the guest's memory map, before a byte is placed.

use std::ops::Range;

use crate::error::{DWCPError, Result};
use crate::memory::{Layout, PAGE_SIZE, PageBitmap, PageRange};

/// "DWCB", read as little-endian.
const MAGIC: u32 = u32::from_le_bytes(*b"DWCB");
/// Bytes of a header.
pub(super) const HEADER: usize = 32;
/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;
/// Pages that one message may cover: what a sender takes at a time.
pub(super) const CHUNK_PAGES: u64 = 512;
/// Pages of a compressed message: the other side undoes it in a buffer of that size, which stays in its
/// cache.
pub(super) const PACKED_PAGES: u64 = 64;
/// Descriptors of one message: every other page of a chunk.
pub(super) const MAX_RUNS: u32 = 256;
/// Payload of a page message: a whole chunk.
const MAX_PAGES_PAYLOAD: u64 = CHUNK_PAGES * PAGE_SIZE;
/// Bytes of a disk that one message may cover.
pub(super) const DISK_BYTES: u64 = 256 << 10;
/// Descriptors of one message of a disk: every other block of what it may cover.
const DISK_RUNS: u32 = 32;
/// What a disk is a whole number of.
const SECTOR: u64 = 512;
/// Payload of a state message: registers and devices of 128 vCPUs are about 3 MiB.
pub(super) const MAX_STATE: u64 = 32 << 20;

/// The header carries a CRC-32C: of descriptors and payload, where there are any. For compressed pages it
/// is that of their contents, so that it covers the compression too.
const FLAG_CHECKSUM: u8 = 1;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Pages; the payload is their contents.
    Pages = 1,
    /// Pages that became zero; no payload.
    Zeros = 2,
    /// Everything of this round has been sent; the checksum is that of the headers of all its messages on
    /// this channel. The peer answers with `Ack` once it is placed.
    RoundEnd = 3,
    /// Everything up to the `RoundEnd` of this number is placed. The only message that goes back.
    Ack = 4,
    /// The machine's state; the payload is what `hypervisor::encode` made. The sequence is the checksum of the headers
    /// of all messages on this channel since the last `RoundEnd`, which are none but of [`Kind::Missing`].
    State = 5,
    /// Pages; the payload is one LZ4 block of their contents, and shorter than they are.
    Packed = 6,
    /// Either way: pages that are still to come, as a set of which the sequence is the first page.
    Missing = 7,
    /// Destination: pages that its guest waits for, as runs.
    Want = 8,
    /// Parts of the disk; the payload is their contents.
    Disk = 9,
    /// Parts of the disk that became zero; no payload.
    DiskZeros = 10,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [
            Self::Pages,
            Self::Zeros,
            Self::RoundEnd,
            Self::Ack,
            Self::State,
            Self::Packed,
            Self::Missing,
            Self::Want,
            Self::Disk,
            Self::DiskZeros,
        ]
        .into_iter()
        .find(|&k| k as u8 == number)
    }
}

/// A header whose fields fit its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Descriptors that follow.
    pub(super) runs: u32,
    /// CRC-32C of descriptors and contents, if there is one; of the round's headers at its end.
    pub(super) checksum: Option<u32>,
    /// Bytes that follow the descriptors.
    pub(super) payload: u64,
    /// Number of the round.
    pub(super) sequence: u64,
}

impl Header {
    /// A header for a message without descriptors and payload.
    pub(super) fn bare(kind: Kind, sequence: u64) -> Self {
        Self {
            kind,
            runs: 0,
            checksum: None,
            payload: 0,
            sequence,
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = self.kind as u8;
        out[5] = if self.checksum.is_some() {
            FLAG_CHECKSUM
        } else {
            0
        };
        out[8..12].copy_from_slice(&self.runs.to_le_bytes());
        out[12..16].copy_from_slice(&self.checksum.unwrap_or(0).to_le_bytes());
        out[16..24].copy_from_slice(&self.payload.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out
    }

    /// # Errors
    ///
    /// `migration` for anything that is not a header of this version within its limits.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Result<Self> {
        let [m0, m1, m2, m3, kind, flags, r0, r1, rest @ ..] = *bytes;
        if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC || [r0, r1] != [0, 0] {
            return Err(violation("a message that does not start as one"));
        }
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&rest[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (runs, crc, payload, sequence) = (word(0), word(4), long(8), long(16));
        let kind = Kind::from_number(kind)
            .ok_or_else(|| violation(&format!("a message of unknown kind {kind}")))?;
        let fits = match kind {
            Kind::Pages => (1..=MAX_RUNS).contains(&runs) && payload <= MAX_PAGES_PAYLOAD,
            Kind::Zeros | Kind::Want => (1..=MAX_RUNS).contains(&runs) && payload == 0,
            Kind::Disk => (1..=DISK_RUNS).contains(&runs) && payload <= DISK_BYTES,
            Kind::DiskZeros => (1..=DISK_RUNS).contains(&runs) && payload == 0,
            Kind::RoundEnd | Kind::Ack => runs == 0 && payload == 0,
            Kind::State => runs == 0 && payload <= MAX_STATE,
            // Its length is that of the guest's memory at most, see `decode_set`.
            Kind::Missing => runs == 0 && payload.is_multiple_of(8) && sequence.is_multiple_of(64),
            Kind::Packed => {
                (1..=MAX_RUNS).contains(&runs) && (1..PACKED_PAGES * PAGE_SIZE).contains(&payload)
            }
        };
        if !fits {
            return Err(violation(&format!(
                "a {kind:?} message with {runs} runs and {payload} bytes"
            )));
        }
        let checksum = match flags {
            0 if crc == 0 => None,
            FLAG_CHECKSUM => Some(crc),
            _ => {
                return Err(violation(&format!(
                    "a message with unknown flags {flags:#x}"
                )));
            }
        };
        Ok(Self {
            kind,
            runs,
            checksum,
            payload,
            sequence,
        })
    }
}

/// Appends the descriptors of `runs`. A run that spans the hole below 4 GiB becomes an error: chunks
/// never do.
pub(super) fn encode_runs(layout: &Layout, runs: &[PageRange], out: &mut Vec<u8>) -> Result<()> {
    for run in runs {
        let gpa = layout.gpa_of(run.start * PAGE_SIZE).ok_or_else(|| {
            DWCPError::Internal(format!("pages {run:?} are not in the guest's memory"))
        })?;
        let len = (run.end - run.start) * PAGE_SIZE;
        debug_assert_eq!(layout.pages_at(gpa, len).as_ref(), Some(run));
        out.extend_from_slice(&gpa.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
    }
    Ok(())
}

/// Reads the descriptors of a page message.
///
/// # Errors
///
/// `migration` for a range that is not whole pages of RAM, or lengths that do not add up.
pub(super) fn decode_runs(
    layout: &Layout,
    header: &Header,
    bytes: &[u8],
) -> Result<Vec<PageRange>> {
    let (descriptors, rest) = bytes.as_chunks::<DESCRIPTOR>();
    if !rest.is_empty() || descriptors.len() != header.runs as usize {
        return Err(violation("descriptors of the wrong length"));
    }
    let limit = match header.kind {
        Kind::Packed => PACKED_PAGES,
        _ => CHUNK_PAGES,
    };
    let mut runs = Vec::with_capacity(descriptors.len());
    let mut pages = 0;
    for descriptor in descriptors {
        let number = |at: Range<usize>| {
            let mut number = [0; 8];
            number.copy_from_slice(&descriptor[at]);
            u64::from_le_bytes(number)
        };
        let (gpa, len) = (number(0..8), number(8..16));
        let run = layout.pages_at(gpa, len).ok_or_else(|| {
            violation(&format!(
                "{gpa:#x}+{len:#x}, which is not in the guest's memory"
            ))
        })?;
        pages += run.end - run.start;
        if pages > limit {
            return Err(violation("a message of more pages than one may have"));
        }
        runs.push(run);
    }
    if header.kind == Kind::Pages && pages * PAGE_SIZE != header.payload {
        return Err(violation("a payload that is not as long as its pages"));
    }
    if header.kind == Kind::Packed && header.payload >= pages * PAGE_SIZE {
        return Err(violation("compressed pages that are not shorter for it"));
    }
    Ok(runs)
}

/// The descriptors of parts of a disk.
pub(super) fn encode_disk_runs(runs: &[Range<u64>], out: &mut Vec<u8>) {
    for run in runs {
        out.extend_from_slice(&run.start.to_le_bytes());
        out.extend_from_slice(&(run.end - run.start).to_le_bytes());
    }
}

/// Reads the descriptors of a disk's message, of a disk of `size` bytes.
///
/// # Errors
///
/// `migration` for what is not whole sectors of the disk, or lengths that do not add up.
pub(super) fn decode_disk_runs(
    size: u64,
    header: &Header,
    bytes: &[u8],
) -> Result<Vec<Range<u64>>> {
    let (descriptors, rest) = bytes.as_chunks::<DESCRIPTOR>();
    if !rest.is_empty() || descriptors.len() != header.runs as usize {
        return Err(violation("descriptors of the wrong length"));
    }
    let mut runs = Vec::with_capacity(descriptors.len());
    let mut bytes = 0;
    for descriptor in descriptors {
        let (numbers, _) = descriptor.as_chunks::<8>();
        let [offset, len] = [0, 1].map(|at: usize| u64::from_le_bytes(numbers[at]));
        let whole = offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR) && len > 0;
        let end = offset.checked_add(len).filter(|&end| whole && end <= size);
        let end = end
            .ok_or_else(|| violation(&format!("{offset:#x}+{len:#x}, which is not on the disk")))?;
        // Neither is larger than the disk, and there are few.
        bytes += len.min(DISK_BYTES + 1);
        if bytes > DISK_BYTES {
            return Err(violation("more of the disk than a message may have"));
        }
        runs.push(offset..end);
    }
    if header.kind == Kind::Disk && bytes != header.payload {
        return Err(violation(
            "a payload that is not as long as its parts of the disk",
        ));
    }
    Ok(runs)
}

/// A set of pages as the header and the words of a [`Kind::Missing`] message: from the first page of it to the
/// last.
pub(super) fn encode_set(set: &PageBitmap) -> (Header, Vec<u8>) {
    let first = set.runs(0..set.pages()).next();
    let first = first.map_or(0, |run| run.start / 64 * 64);
    let words = set.words(&(first..set.pages()));
    let length = words
        .iter()
        .rposition(|&word| word != 0)
        .map_or(0, |at| at + 1);
    let bytes: Vec<u8> = words[..length]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    let header = Header {
        payload: bytes.len() as u64,
        checksum: Some(crc32c::crc32c(&bytes)),
        ..Header::bare(Kind::Missing, first)
    };
    (header, bytes)
}

/// How many bytes follow the header of a set.
///
/// # Errors
///
/// `migration` for a set of pages that are not in the guest's memory.
pub(super) fn set_length(layout: &Layout, header: &Header) -> Result<usize> {
    let words = layout.pages().div_ceil(64);
    let fits = (header.sequence / 64).checked_add(header.payload / 8);
    match usize::try_from(header.payload) {
        Ok(length) if fits.is_some_and(|end| end <= words) => Ok(length),
        _ => Err(violation(
            "a set of pages that are not in the guest's memory",
        )),
    }
}

/// Reads what [`encode_set`] wrote, of the length that [`set_length`] says.
pub(super) fn decode_set(layout: &Layout, header: &Header, bytes: &[u8]) -> Result<PageBitmap> {
    if header.checksum != Some(crc32c::crc32c(bytes)) || bytes.len() != set_length(layout, header)?
    {
        return Err(violation("a set of pages that is damaged"));
    }
    let (words, _) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let mut set = PageBitmap::new(layout.pages());
    set.merge_words(header.sequence, &words);
    Ok(set)
}

/// The error for a peer that sends what it must not.
pub(super) fn violation(what: &str) -> DWCPError {
    DWCPError::Migration(format!("the peer sent {what} on a bulk channel"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pages(runs: u32, payload: u64) -> Header {
        Header {
            kind: Kind::Pages,
            runs,
            checksum: Some(7),
            payload,
            sequence: 3,
        }
    }

    #[test]
    fn a_header_survives_the_wire() {
        for header in [pages(2, 8192), Header::bare(Kind::RoundEnd, u64::MAX)] {
            assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn parts_of_a_disk_lie_on_the_disk() {
        let size = 1 << 20;
        let read = |kind, payload, runs: &[(u64, u64)]| {
            let mut bytes = Vec::new();
            for (offset, len) in runs {
                bytes.extend(offset.to_le_bytes());
                bytes.extend(len.to_le_bytes());
            }
            let header = Header {
                runs: u32::try_from(runs.len()).unwrap(),
                payload,
                ..Header::bare(kind, 1)
            };
            let header = Header::decode(&header.encode())?;
            let runs = decode_disk_runs(size, &header, &bytes)?;
            let mut again = Vec::new();
            encode_disk_runs(&runs, &mut again);
            assert_eq!(again, bytes);
            Ok::<_, DWCPError>(runs)
        };
        let runs = read(Kind::Disk, 1024, &[(0, 512), (size - 512, 512)]).unwrap();
        assert_eq!(runs, [0..512, size - 512..size]);
        read(Kind::DiskZeros, 0, &[(0, DISK_BYTES)]).unwrap();
        for (payload, runs) in [
            (512, &[(size, 512)][..]),
            (1024, &[(size - 512, 1024)]),
            (512, &[(u64::MAX - 511, 512)]),
            (512, &[(0, u64::MAX - 511)]),
            (512, &[(1, 512)]),
            (0, &[(0, 0)]),
            (1024, &[(0, 512)]),
            (DISK_BYTES, &[(0, DISK_BYTES), (0, 512)]),
            (DISK_BYTES + 512, &[(0, DISK_BYTES + 512)]),
            (0, &[]),
            (33 * 512, &[(0, 512); 33]),
        ] {
            let error = read(Kind::Disk, payload, runs).unwrap_err().to_string();
            assert!(error.contains("bulk channel"), "{error}");
        }
        let wide = [(0, DISK_BYTES), (DISK_BYTES, 512)];
        read(Kind::DiskZeros, 0, &wide).unwrap_err();
    }

    #[test]
    fn a_set_of_pages_survives_the_wire() {
        let layout = Layout::new(1 << 20).unwrap();
        let mut set = PageBitmap::new(layout.pages());
        for runs in [&[][..], &[(70, 71)], &[(3, 130), (255, 256)]] {
            for &(start, end) in runs {
                set.set_run(&(start..end), true);
            }
            let (header, bytes) = encode_set(&set);
            assert_eq!(Header::decode(&header.encode()).unwrap(), header);
            assert_eq!(set_length(&layout, &header).unwrap(), bytes.len());
            assert_eq!(decode_set(&layout, &header, &bytes).unwrap(), set);
        }
        let (header, mut bytes) = encode_set(&set);
        bytes[3] ^= 1;
        assert!(decode_set(&layout, &header, &bytes).is_err());
        for (sequence, payload) in [
            (0, 5 << 3),
            (64, 4 << 3),
            (u64::MAX / 64 * 64, 8),
            (0, 1 << 60),
        ] {
            let wrong = Header {
                sequence,
                payload,
                ..header
            };
            assert!(set_length(&layout, &wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_limit_is_held() {
        let good = pages(1, 4096).encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Header::decode(&bytes)
        };
        assert!(with(0, 0).is_err(), "magic");
        assert!(with(4, 11).is_err(), "kind");
        assert!(with(5, 2).is_err(), "flags");
        assert!(with(6, 1).is_err(), "reserved");
        assert!(with(10, 1).is_err(), "65,537 runs");
        assert!(with(8, 0).is_err(), "no runs");
        assert!(with(23, 0x80).is_err(), "a payload of 2^63");
        assert!(with(18, 0x21).is_err(), "more than a chunk");
        assert!(
            Header::decode(
                &Header {
                    payload: 1,
                    ..Header::bare(Kind::Ack, 0)
                }
                .encode()
            )
            .is_err()
        );
        let state = Header {
            payload: MAX_STATE + 1,
            ..Header::bare(Kind::State, 0)
        };
        assert!(Header::decode(&state.encode()).is_err());
        for payload in [0, PACKED_PAGES * PAGE_SIZE] {
            let packed = Header {
                kind: Kind::Packed,
                ..pages(1, payload)
            };
            assert!(Header::decode(&packed.encode()).is_err(), "{payload}");
        }
    }

    #[test]
    fn runs_outside_memory_are_refused() {
        let layout = Layout::new(1 << 20).unwrap();
        let runs = |list: &[(u64, u64)], payload| {
            let bytes: Vec<u8> = list
                .iter()
                .flat_map(|(gpa, len)| [gpa.to_le_bytes(), len.to_le_bytes()].concat())
                .collect();
            decode_runs(&layout, &pages(list.len() as u32, payload), &bytes)
        };
        assert_eq!(runs(&[(4096, 8192)], 8192).unwrap(), vec![1..3]);
        assert!(runs(&[(4096, 8192)], 4096).is_err(), "does not add up");
        assert!(runs(&[(0, 1 << 63)], 4096).is_err());
        assert!(runs(&[(1 << 20, 4096)], 4096).is_err());
        assert!(runs(&[(u64::MAX - 4095, 4096)], 4096).is_err());
        assert!(runs(&[(1, 4096)], 4096).is_err());
        assert!(decode_runs(&layout, &pages(2, 4096), &[0; 16]).is_err());
    }

    #[test]
    fn compressed_pages_are_no_more_than_a_buffer_holds() {
        let layout = Layout::new(1 << 20).unwrap();
        let of = |pages_in_all: u64, payload| {
            let bytes = [0_u64, pages_in_all * PAGE_SIZE]
                .map(u64::to_le_bytes)
                .concat();
            let header = Header {
                kind: Kind::Packed,
                ..pages(1, payload)
            };
            decode_runs(&layout, &header, &bytes)
        };
        assert_eq!(of(PACKED_PAGES, 10).unwrap(), vec![0..PACKED_PAGES]);
        assert!(of(PACKED_PAGES + 1, 10).is_err());
        assert_eq!(of(1, PAGE_SIZE - 1).unwrap(), vec![0..1]);
        assert!(of(1, PAGE_SIZE).is_err(), "it is no shorter");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(header in any::<[u8; HEADER]>(), kind in 1u8..7, body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = header;
            bytes[..8].copy_from_slice(&[b'D', b'W', b'C', b'B', kind, 0, 0, 0]);
            let layout = Layout::new(1 << 20).unwrap();
            for bytes in [header, bytes] {
                if let Ok(header) = Header::decode(&bytes) {
                    let _ = decode_runs(&layout, &header, &body);
                }
            }
        }

        #[test]
        fn runs_survive_the_wire(starts in proptest::collection::btree_set(0u64..120, 1..20)) {
            let layout = Layout::new(1 << 20).unwrap();
            let runs: Vec<PageRange> = starts.iter().map(|&s| s * 2..s * 2 + 1).collect();
            let mut bytes = Vec::new();
            encode_runs(&layout, &runs, &mut bytes).unwrap();
            let header = pages(runs.len() as u32, runs.len() as u64 * PAGE_SIZE);
            prop_assert_eq!(decode_runs(&layout, &header, &bytes).unwrap(), runs);
        }
    }
}
