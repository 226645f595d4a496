//! A disk that is taken along: what of it is to be sent, and placing it.
//!
//! The source sends it in rounds like memory: first what the file holds and not its holes, then the clusters that the
//! guest has changed since. Blocks that read as zeros become holes at the destination. The destination writes into a
//! file that it has made for this, before the machine's state has come and never after.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::channel::{DISK_BYTES, Header, Kind, violation};
use super::offer::Offer;
use crate::error::{DWCPError, Result};
use crate::machine::Machine;
use crate::storage::{CLUSTER, Written, next_data, punch};

/// What is looked at as one, whether it is zero: the block of most file systems.
const BLOCK: usize = 4096;

/// The source's side: a disk that is being copied. What is changed is recorded for as long as it lives.
pub(super) struct Mirror {
    file: Arc<File>,
    size: u64,
    written: Arc<Written>,
    begun: AtomicBool,
}

impl Mirror {
    /// Begins to follow the disk of a machine, of which so many bytes were offered.
    ///
    /// # Errors
    ///
    /// `unsupported` for a machine without one that can be copied, `migration` where it has another size.
    pub(super) fn start(machine: &Machine) -> Result<Self> {
        let (file, written) = machine.follow_disk()?.ok_or_else(|| {
            DWCPError::Unsupported("with_disks: the VM has no disk that is a file".into())
        })?;
        Ok(Self {
            size: file.metadata()?.len(),
            file,
            written,
            begun: AtomicBool::new(false),
        })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// What is to be sent next: at first all that the file holds, then what was changed since this was last asked.
    /// It is to be read after this and not before, see [`Written`].
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(super) fn take(&self) -> Result<Vec<Range<u64>>> {
        match self.begun.swap(true, Ordering::SeqCst) {
            true => Ok(self.written.take()),
            false => self.data(),
        }
    }

    /// What was taken is still to be sent.
    pub(super) fn put_back(&self, ranges: &[Range<u64>]) {
        ranges.iter().for_each(|range| self.written.mark(range));
    }

    /// What is to be sent next, and is still marked.
    #[cfg(test)]
    pub(super) fn look(&self) -> Vec<Range<u64>> {
        self.written.look()
    }

    /// Whole clusters, so that there are no more of them than a record has.
    fn data(&self) -> Result<Vec<Range<u64>>> {
        let (mut found, mut at): (Vec<Range<u64>>, u64) = (Vec::new(), 0);
        while let Some((start, end)) = next_data(&self.file, at, self.size)? {
            let start = (start - start % CLUSTER).max(at);
            let end = end.next_multiple_of(CLUSTER).min(self.size);
            match found.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => found.push(start..end),
            }
            at = end;
        }
        Ok(found)
    }
}

/// Bytes of ranges.
pub(super) fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// The disk's part of a round: all senders take from it.
#[derive(Default)]
pub(super) struct Pieces(Mutex<VecDeque<Range<u64>>>);

impl Pieces {
    pub(super) fn new(ranges: Vec<Range<u64>>) -> Self {
        Self(Mutex::new(ranges.into()))
    }

    /// The next piece, of what fits one message.
    pub(super) fn take(&self) -> Option<Range<u64>> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = left.front_mut()?;
        let piece = first.start..first.end.min(first.start + DISK_BYTES);
        first.start = piece.end;
        if first.is_empty() {
            left.pop_front();
        }
        Some(piece)
    }
}

/// A piece of a disk as it was read: what of it is data, and what is zeros.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) data: Vec<Range<u64>>,
    pub(super) zeros: Vec<Range<u64>>,
    /// What is in `data`, one behind the other.
    pub(super) bytes: Vec<u8>,
    read: Vec<u8>,
}

impl Piece {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(super) fn read(&mut self, file: &File, piece: &Range<u64>) -> Result<()> {
        self.data.clear();
        self.zeros.clear();
        self.bytes.clear();
        self.read.resize(length(piece), 0);
        file.read_exact_at(&mut self.read, piece.start)?;
        let mut at = piece.start;
        for block in self.read.chunks(BLOCK) {
            let next = at + block.len() as u64;
            let is_zero = block.iter().all(|&byte| byte == 0);
            let list = match is_zero {
                true => &mut self.zeros,
                false => &mut self.data,
            };
            match list.last_mut() {
                Some(last) if last.end == at => last.end = next,
                _ => list.push(at..next),
            }
            if !is_zero {
                self.bytes.extend_from_slice(block);
            }
            at = next;
        }
        Ok(())
    }
}

/// The destination's side: a file that is filled.
#[derive(Debug)]
pub(super) struct Copy {
    file: Arc<File>,
    size: u64,
    /// Until the machine's state is here. Held while something is placed, so that nothing is afterwards.
    open: RwLock<bool>,
}

impl Copy {
    /// Of a file of that size, which is all holes.
    pub(super) fn new(file: Arc<File>, size: u64) -> Arc<Self> {
        Arc::new(Self {
            file,
            size,
            open: RwLock::new(true),
        })
    }

    /// Its size: nothing may be placed beyond.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The machine's state is here: the disk is whole, and its guest may be about to run.
    pub(super) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Places what came in a message of that kind: its ranges lie within the file, which was checked when they were
    /// decoded, and are as long as `bytes`.
    ///
    /// # Errors
    ///
    /// `migration` once the machine's state is here, and those of the file.
    pub(super) fn place(&self, header: &Header, runs: &[Range<u64>], bytes: &[u8]) -> Result<()> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            return Err(violation("a part of a disk behind the machine's state"));
        }
        let mut rest = bytes;
        for run in runs {
            if header.kind == Kind::DiskZeros {
                punch(&self.file, run.start, run.end - run.start)?;
                continue;
            }
            let (own, others) = rest.split_at(length(run).min(rest.len()));
            self.file.write_all_at(own, run.start)?;
            rest = others;
        }
        Ok(())
    }

    /// Makes durable what was placed.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(super) fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }
}

/// Where the disk of an offer is placed, if it is copied.
///
/// # Errors
///
/// `internal` for a machine that was made without it, `migration` for one that is not empty.
pub(super) fn target(machine: &Machine, offer: &Offer) -> Result<Option<Arc<Copy>>> {
    let Some(disk) = offer.disk.as_ref().filter(|_| offer.disk_copied.is_some()) else {
        return Ok(None);
    };
    let file = machine.disk_file();
    let file = file.ok_or_else(|| DWCPError::Internal("no file for the disk".into()))?;
    if file.metadata()?.len() != disk.size || next_data(&file, 0, disk.size)?.is_some() {
        return Err(DWCPError::Migration(
            "with_disks: the file that was made for the disk is not empty".into(),
        ));
    }
    Ok(Some(Copy::new(file, disk.size)))
}

/// Bytes of a range, which is never longer than a piece.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(0)
}
