//! `memory.idx`: which pages a memory image has, and the sums of what they hold.
//!
//! Memory is divided into chunks of 2 MiB; a chunk of which nothing is known but what the header says
//! of all others is not listed. Little-endian:
//!
//! ```text
//! magic "DWCPPAGE"  format u16  rest u16  page bytes u32  chunk bytes u32  memory bytes u64  chunks u64
//! per chunk, by rising number: number u64  CRC-32C u32  runs u16
//!     per run, by rising page: first page of the chunk u16  pages u16  kind u16
//! CRC-32C of all before it u32
//! ```
//!
//! `rest` says what pages are that no run names: 0, they are zero; 1, they are the parent's. Kinds of
//! runs: 1, data in the image; 2, zero, where the rest is the parent's. The sum of a chunk is that of
//! its data pages in rising order. This version writes and reads `rest` 0 and kind 1.

use crate::error::{DWCPError, Result};
use crate::hypervisor::{Reader, Writer};
use crate::memory::{PAGE_SIZE, PageRange};

const MAGIC: &[u8; 8] = b"DWCPPAGE";
const FORMAT: u16 = 1;
/// Unit of checking: what a lazy restore reads at a touch.
pub(super) const CHUNK_SIZE: u64 = 2 << 20;
/// The same in pages.
pub(super) const CHUNK_PAGES: u64 = CHUNK_SIZE / PAGE_SIZE;

/// What pages are that no run names.
const REST_ZERO: u16 = 0;
/// A run of pages whose data is in the image.
const RUN_DATA: u16 = 1;

const HEADER: usize = 8 + 2 + 2 + 4 + 4 + 8 + 8;
const CHUNK: usize = 8 + 4 + 2;
const RUN: usize = 6;

/// The pages of one chunk that have data, and the sum of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) number: u64,
    pub(super) sum: u32,
    /// Pages counted from the start of RAM; in order, not empty, not touching each other.
    pub(super) runs: Vec<PageRange>,
}

/// The index of a memory of so many bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) size: u64,
    pub(super) chunks: Vec<Chunk>,
}

/// The most bytes the index of such a memory can take: every other page of it is a run.
pub(super) fn longest(size: u64) -> u64 {
    let chunks = size.div_ceil(CHUNK_SIZE);
    let runs = chunks.saturating_mul(CHUNK_PAGES / 2);
    let fixed = (HEADER + 4) as u64;
    fixed
        .saturating_add(chunks.saturating_mul(CHUNK as u64))
        .saturating_add(runs.saturating_mul(RUN as u64))
}

impl Index {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(MAGIC);
        out.u16(FORMAT);
        out.u16(REST_ZERO);
        out.u32(small32(PAGE_SIZE));
        out.u32(small32(CHUNK_SIZE));
        out.u64(self.size);
        out.u64(self.chunks.len() as u64);
        for chunk in &self.chunks {
            let first = chunk.number * CHUNK_PAGES;
            out.u64(chunk.number);
            out.u32(chunk.sum);
            out.u16(small(chunk.runs.len() as u64));
            for run in &chunk.runs {
                out.u16(small(run.start - first));
                out.u16(small(run.end - run.start));
                out.u16(RUN_DATA);
            }
        }
        let crc = crc32c::crc32c(&out.0);
        out.u32(crc);
        out.0
    }

    /// Reads an index, of whose bytes there are no more than [`longest`] says.
    ///
    /// # Errors
    ///
    /// `snapshot` with what is wrong, without the name of the file.
    pub(super) fn decode(bytes: &[u8]) -> Result<Index> {
        let Some((content, crc)) = bytes.split_last_chunk::<4>() else {
            return wrong("it is truncated");
        };
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return wrong("its checksum does not match");
        }
        let mut reader = Reader::new(content);
        if reader.bytes(MAGIC.len()).map_err(short)? != MAGIC {
            return wrong("it does not start as one");
        }
        let format = reader.u16().map_err(short)?;
        if format != FORMAT {
            return wrong(&format!("format {format} is not known here"));
        }
        let rest = reader.u16().map_err(short)?;
        if rest != REST_ZERO {
            return wrong(&format!(
                "pages that it does not list are of kind {rest}, which is not known here"
            ));
        }
        let (page, chunk) = (reader.u32().map_err(short)?, reader.u32().map_err(short)?);
        if (u64::from(page), u64::from(chunk)) != (PAGE_SIZE, CHUNK_SIZE) {
            return wrong(&format!("pages of {page} bytes in chunks of {chunk}"));
        }
        let size = reader.u64().map_err(short)?;
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return wrong(&format!("a memory of {size} bytes"));
        }
        let count = reader.u64().map_err(short)?;
        if count > size.div_ceil(CHUNK_SIZE) {
            return wrong(&format!("{count} chunks of a memory of {size} bytes"));
        }
        let mut chunks = Vec::new();
        let mut next = 0;
        for _ in 0..count {
            let chunk = read_chunk(&mut reader, size, next)?;
            next = chunk.number + 1;
            chunks.push(chunk);
        }
        reader.finish().map_err(short)?;
        Ok(Index { size, chunks })
    }
}

/// One chunk, whose number is at least `next`.
fn read_chunk(reader: &mut Reader<'_>, size: u64, next: u64) -> Result<Chunk> {
    let number = reader.u64().map_err(short)?;
    if number < next || number >= size.div_ceil(CHUNK_SIZE) {
        return wrong(&format!("chunk {number} is not in its place"));
    }
    let sum = reader.u32().map_err(short)?;
    let count = reader.u16().map_err(short)?;
    let first = number * CHUNK_PAGES;
    let end = (first + CHUNK_PAGES).min(size / PAGE_SIZE);
    let mut runs: Vec<PageRange> = Vec::new();
    for _ in 0..count {
        let (at, pages) = (reader.u16().map_err(short)?, reader.u16().map_err(short)?);
        let kind = reader.u16().map_err(short)?;
        if kind != RUN_DATA {
            return wrong(&format!(
                "chunk {number} has a run of kind {kind}, which is not known here"
            ));
        }
        let start = first + u64::from(at);
        let run = start..start + u64::from(pages);
        // Touching runs would be one: every memory has exactly one index.
        let before = runs.last().map(|last| last.end);
        if run.is_empty() || run.end > end || before.is_some_and(|before| run.start <= before) {
            return wrong(&format!("chunk {number} has a run that does not fit"));
        }
        runs.push(run);
    }
    if runs.is_empty() {
        return wrong(&format!("chunk {number} has no data"));
    }
    Ok(Chunk { number, sum, runs })
}

fn wrong<T>(why: &str) -> Result<T> {
    Err(DWCPError::Snapshot(why.to_owned()))
}

/// The reader ran out, or was not read to the end.
fn short(_: DWCPError) -> DWCPError {
    DWCPError::Snapshot("its length is not that of what it lists".into())
}

/// Numbers of pages within a chunk, and of its runs: at most 512.
fn small(number: u64) -> u16 {
    debug_assert!(number <= CHUNK_PAGES);
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Sizes of a page and a chunk.
fn small32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Index {
        Index {
            size: 5 << 20,
            chunks: vec![
                Chunk {
                    number: 0,
                    sum: 7,
                    runs: vec![0..1, 3..512],
                },
                Chunk {
                    number: 2,
                    sum: 9,
                    runs: vec![1024..1100, 1101..1280],
                },
            ],
        }
    }

    /// Replaces the checksum by the right one, so that what lies behind it is reached.
    fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn round_trip_within_the_longest() {
        let index = sample();
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes).unwrap(), index);
        let scattered = Index {
            size: CHUNK_SIZE,
            chunks: vec![Chunk {
                number: 0,
                sum: 0,
                runs: (0..256).map(|n| n * 2..n * 2 + 1).collect(),
            }],
        };
        assert_eq!(scattered.encode().len() as u64, longest(CHUNK_SIZE));
        let empty = Index {
            size: 1 << 40,
            chunks: vec![],
        };
        assert_eq!(Index::decode(&empty.encode()).unwrap(), empty);
    }

    /// The layout is a promise: these bytes are read by every later version.
    #[test]
    fn the_bytes_are_those_of_the_description() {
        let index = Index {
            size: 2 << 20,
            chunks: vec![Chunk {
                number: 0,
                sum: 0x0403_0201,
                runs: vec![5..7, 9..10],
            }],
        };
        let mut expected = b"DWCPPAGE\x01\0\0\0\0\x10\0\0\0\0\x20\0".to_vec();
        expected.extend_from_slice(&[0, 0, 0x20, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 2, 0]);
        expected.extend_from_slice(&[5, 0, 2, 0, 1, 0, 9, 0, 1, 0, 1, 0]);
        let bytes = index.encode();
        assert_eq!(bytes[..bytes.len() - 4], expected);
    }

    #[test]
    fn what_is_not_known_or_does_not_fit_is_refused() {
        let good = sample().encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Index::decode(&reseal(bytes)).unwrap_err().to_string()
        };
        for (at, value, says) in [
            (0, b'X', "does not start"),
            (8, 2, "format 2"),
            (10, 1, "kind 1, which"),
            (13, 0x20, "pages of 8192 bytes"),
            (20, 1, "a memory of"),
            (28, 9, "9 chunks"),
            (28, 1, "its length"),
            (36, 3, "chunk 3 is not in its place"),
            (48, 0, "no data"),
            (54, 2, "run of kind 2"),
            (52, 0, "does not fit"),
            (56, 1, "does not fit"),
        ] {
            let error = with(at, value);
            assert!(error.contains(says), "{at}: {error}");
        }
        let mut damaged = good.clone();
        damaged[40] ^= 1;
        let error = Index::decode(&damaged).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in 0usize..64) {
            let _ = Index::decode(&bytes);
            let mut framed = sample().encode()[..head].to_vec();
            framed.extend_from_slice(&bytes);
            framed.extend_from_slice(&[0; 4]);
            let _ = Index::decode(&reseal(framed));
        }

        #[test]
        fn truncation_anywhere_is_an_error(cut in 0usize..100) {
            let good = sample().encode();
            prop_assume!(cut < good.len());
            prop_assert!(Index::decode(&good[..cut]).is_err());
            if cut >= 4 {
                prop_assert!(Index::decode(&reseal(good[..cut].to_vec())).is_err());
            }
        }
    }
}
