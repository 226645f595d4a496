//! That a disk holds what was written to it, past the guest's page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// Bytes written at a time, and what they have to be aligned to.
const BLOCK: usize = 4096;
/// Blocks of the file.
const BLOCKS: usize = 256;
/// Time between two writes.
const PAUSE: Duration = Duration::from_millis(20);
/// Time between two statuses.
const PERIOD: Duration = Duration::from_millis(200);

/// Checks until it is killed, or something is wrong.
pub(crate) fn check(path: &Path, status: &Path) -> io::Result<()> {
    let direct = OFlags::DIRECT | OFlags::DSYNC;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(direct.bits().cast_signed())
        .open(path)?;
    let mut play = Play {
        file,
        written: vec![0; BLOCKS],
        memory: vec![0; 2 * BLOCK],
        random: 1,
        writes: 0,
    };
    for block in 0..BLOCKS {
        play.write(block)?;
    }
    let mut told: Option<Instant> = None;
    loop {
        if let Err(error) = play.turn() {
            return super::tell(
                status,
                &format!("BAD {error}, after {} writes", play.writes),
            );
        }
        if told.is_none_or(|told| told.elapsed() >= PERIOD) {
            super::tell(status, &format!("ok writes={}", play.writes))?;
            told = Some(Instant::now());
        }
        std::thread::sleep(PAUSE);
    }
}

struct Play {
    file: File,
    /// The number of the last write to each block.
    written: Vec<u64>,
    /// Holds an aligned block.
    memory: Vec<u8>,
    random: u64,
    writes: u64,
}

impl Play {
    /// Reads a block, which has to be as it was written last, and writes another.
    fn turn(&mut self) -> io::Result<()> {
        let block = self.draw();
        self.verify(block)?;
        let block = self.draw();
        self.write(block)
    }

    fn draw(&mut self) -> usize {
        // Knuth's MMIX generator; the low bits of such have short periods.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % BLOCKS
    }

    fn write(&mut self, block: usize) -> io::Result<()> {
        self.writes += 1;
        self.written[block] = self.writes;
        let content = content(block, self.writes);
        let at = self.aligned();
        self.memory[at..at + BLOCK].copy_from_slice(&content);
        let bytes = &self.memory[at..at + BLOCK];
        self.file.write_all_at(bytes, (block * BLOCK) as u64)
    }

    fn verify(&mut self, block: usize) -> io::Result<()> {
        let at = self.aligned();
        let bytes = &mut self.memory[at..at + BLOCK];
        self.file.read_exact_at(bytes, (block * BLOCK) as u64)?;
        let wanted = content(block, self.written[block]);
        if bytes == wanted {
            return Ok(());
        }
        let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap_or_default());
        Err(io::Error::other(format!(
            "block {block} holds write {number} in place of {}",
            self.written[block]
        )))
    }

    /// Where in `memory` a block is aligned.
    fn aligned(&self) -> usize {
        let address = self.memory.as_ptr().addr();
        address.next_multiple_of(BLOCK) - address
    }
}

/// What a block holds after a write: its number, that of the write, and words that follow from both.
fn content(block: usize, write: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    out.extend((block as u64).to_le_bytes());
    out.extend(write.to_le_bytes());
    let mut word = (block as u64) << 32 ^ write;
    while out.len() < BLOCK {
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ write;
        out.extend(word.to_le_bytes());
    }
    out
}
