//! Sending one round of pages over a channel.
//!
//! Each channel has a thread. A round is a list of chunks that all threads take from; each ends with
//! a barrier: the peer acknowledges when everything of the round is in its guest's memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::channel::{
    CHUNK_PAGES, HEADER, Header, Kind, MAX_RUNS, PACKED_PAGES, encode_disk_runs, encode_runs,
    encode_set, violation,
};
use super::compression::{Compression, SAMPLE_PAGES, is_smaller, pack};
use super::mirror::{Piece, Pieces};
use super::pacer::Pacer;
use super::progress::Progress;
use crate::error::{DWCPError, Result};
use crate::memory::{Consumer, GuestRam, Harvest, PAGE_SIZE, PageBitmap, PageRange, send_pages};
use crate::transport::Blocking;

/// Bytes that are copied, summed or encrypted, and sent at a time where they cannot go straight from
/// guest memory: they stay in the processor's second-level cache in between.
const COPIED_PIECE: u64 = 256 << 10;
/// Smallest chunk: the dirty log is cleared 64 pages at a time.
const CHUNK_PAGES_MIN: u64 = 64;
/// Chunks that each sender takes of a round, at least, where there is enough.
const PORTIONS: u64 = 4;
const _: () = assert!(CHUNK_PAGES.is_power_of_two() && CHUNK_PAGES_MIN.is_power_of_two());
const _: () = assert!(COPIED_PIECE == PACKED_PAGES * PAGE_SIZE);

/// What the pages that are sent belong to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Number of the round, from 1.
    pub(super) number: u64,
    /// Whether the peer's memory is still all zeros, so that zeros need not be told.
    pub(super) fresh: bool,
    /// A guest waits for these pages: they keep to no limit of the bandwidth, and are not compressed.
    pub(super) urgent: bool,
}

/// One round: what changed, and how far the senders are with it.
pub(super) struct Round {
    pub(super) pass: Pass,
    pub(super) harvest: Harvest,
    /// Whether the guest runs meanwhile; else there is nothing to clear.
    pub(super) live: bool,
    /// Of the disk.
    pub(super) disk: Pieces,
    /// Pages that a sender takes at a time.
    chunk: u64,
    next: AtomicU64,
}

impl Round {
    /// For so many senders.
    pub(super) fn new(
        pass: Pass,
        harvest: Harvest,
        disk: Pieces,
        live: bool,
        senders: usize,
    ) -> Self {
        Self {
            disk,
            chunk: chunk_pages(harvest.pages.count(), senders as u64),
            pass,
            harvest,
            live,
            next: AtomicU64::new(0),
        }
    }

    /// The next chunk with anything to send, if one is left. Chunks never span two memory slots:
    /// slots start at multiples of the largest chunk, and others divide it.
    fn take(&self) -> Option<PageRange> {
        let pages = self.harvest.pages.pages();
        loop {
            let first = self.next.fetch_add(1, Ordering::Relaxed) * self.chunk;
            if first >= pages {
                return None;
            }
            let chunk = first..(first + self.chunk).min(pages);
            if self.harvest.pages.any_in(&chunk) {
                return Some(chunk);
            }
        }
    }
}

/// Pages that each of `senders` takes at a time from a round of `pages`: whole chunks, but of what is little
/// each should get some, and who is last should not keep the others waiting for long.
fn chunk_pages(pages: u64, senders: u64) -> u64 {
    let share = (pages / (senders.max(1) * PORTIONS)).clamp(CHUNK_PAGES_MIN, CHUNK_PAGES);
    1 << share.ilog2()
}

/// What all senders of a migration share.
pub(super) struct Sending {
    pub(super) ram: Arc<GuestRam>,
    pub(super) consumer: Consumer,
    pub(super) pacer: Pacer,
    pub(super) progress: Arc<Progress>,
    /// The disk that is taken along, where one is.
    pub(super) disk: Option<Arc<File>>,
    /// Whether every message carries a checksum.
    pub(super) checksum: bool,
    /// Pages known to have host memory behind them; see [`next_backed`](Self::next_backed).
    pub(super) backed: Mutex<PageRange>,
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

impl Sending {
    /// The next run of pages, at or after `page`, with host memory behind them. Holes are found
    /// without reading them, for reading would fill them.
    ///
    /// The run found last is remembered, for looking costs time with every page of it: pages get memory
    /// at any time, but do not lose it while their VM moves. That there is a hole, on the other hand,
    /// is only known by looking after the dirty bits were cleared.
    fn next_backed(&self, page: u64) -> Result<PageRange> {
        let mut known = self.backed.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&page) {
            match self.ram.next_data(page)? {
                Some(run) if run.contains(&page) => *known = run,
                Some(run) => return Ok(run),
                None => {
                    let end = self.ram.layout().pages();
                    return Ok(end..end);
                }
            }
        }
        Ok(page..known.end)
    }
}

/// One channel's sending side.
pub(super) struct Sender {
    socket: Blocking,
    shared: Arc<Sending>,
    /// Runs of pages to send, and of pages that became zero; kept to save allocations.
    data: Vec<PageRange>,
    zeros: Vec<PageRange>,
    head: Vec<u8>,
    copy: Vec<u8>,
    packed: Vec<u8>,
    /// Where pages may be compressed: whether they are.
    compression: Option<Compression>,
    /// What is sent of the disk.
    piece: Piece,
    /// CRC-32C of the headers sent in this round, by which the peer knows that it has them all.
    headers: u32,
}

impl Sender {
    pub(super) fn new(
        socket: Blocking,
        shared: Arc<Sending>,
        compression: Option<Compression>,
    ) -> Self {
        Self {
            socket,
            shared,
            data: Vec::new(),
            zeros: Vec::new(),
            head: Vec::new(),
            copy: Vec::new(),
            packed: Vec::new(),
            compression,
            piece: Piece::default(),
            headers: 0,
        }
    }

    /// Sends chunks of `round` until none is left, then waits until the peer has placed them.
    pub(super) fn send_round(&mut self, round: &Round) -> Result<()> {
        while let Some(chunk) = round.take() {
            self.send_chunk(round, chunk)?;
        }
        while let Some(piece) = round.disk.take() {
            self.send_disk(round, &piece)?;
        }
        self.end_round(round.pass.number)?;
        self.wait_placed(round.pass.number)
    }

    /// Says that all of the round was sent that goes over this channel.
    pub(super) fn end_round(&mut self, number: u64) -> Result<()> {
        let end = Header {
            checksum: Some(std::mem::take(&mut self.headers)),
            ..Header::bare(Kind::RoundEnd, number)
        };
        self.write(&end.encode())
    }

    /// Waits until the peer has placed what was sent of the round.
    pub(super) fn wait_placed(&mut self, number: u64) -> Result<()> {
        let mut ack = [0; HEADER];
        self.socket.read_exact(&mut ack).map_err(lost)?;
        match Header::decode(&ack)? {
            h if h == Header::bare(Kind::Ack, number) => Ok(()),
            other => Err(violation(&format!(
                "{other:?} in place of an acknowledgement"
            ))),
        }
    }

    /// Says which pages come after the switch.
    pub(super) fn send_missing(&mut self, pages: &PageBitmap) -> Result<()> {
        let (header, set) = encode_set(pages);
        self.headers = crc32c::crc32c_append(self.headers, &header.encode());
        self.write(&header.encode())?;
        self.write(&set)
    }

    /// Sends these pages as they are; nothing writes them any more.
    pub(super) fn send_runs(&mut self, pass: Pass, runs: &[PageRange]) -> Result<()> {
        self.data.clear();
        self.zeros.clear();
        for run in runs {
            self.look_at(pass, run)?;
        }
        self.send_zeros(pass)?;
        self.send_data(pass)
    }

    /// Another handle to the channel.
    pub(super) fn channel(&self) -> Result<Blocking> {
        Ok(self.socket.try_clone()?)
    }

    /// Goes on over another channel, in place of one that was lost.
    pub(super) fn go_on_over(&mut self, channel: Blocking) {
        self.socket = channel;
        self.headers = 0;
    }

    /// Sends the machine's state.
    pub(super) fn send_state(&mut self, state: &[u8]) -> Result<()> {
        write_state(&mut self.socket, state, self.headers).map(drop)
    }

    fn send_chunk(&mut self, round: &Round, chunk: PageRange) -> Result<()> {
        #[cfg(test)]
        if self.break_a_rule(round, &chunk)? {
            return Ok(());
        }
        // Clear first, then look: a write after the clearing brings the page back in the next round,
        // one before it is seen by the look.
        if round.live {
            self.shared.consumer.clear(&round.harvest.logged, &chunk)?;
        }
        self.look(round, &chunk)?;
        self.send_zeros(round.pass)?;
        self.send_data(round.pass)
    }

    /// For proving that the tests notice: does to a chunk what must not be done, where a test asks for
    /// it. Whether it did.
    #[cfg(test)]
    fn break_a_rule(&mut self, round: &Round, chunk: &PageRange) -> Result<bool> {
        use super::faults::Mutation;
        match self.shared.faults.mutation {
            Some(Mutation::DropChunk) if !round.live => Ok(true),
            Some(Mutation::LookBeforeClear) if round.live => {
                self.look(round, chunk)?;
                self.send_zeros(round.pass)?;
                self.send_data(round.pass)?;
                // Long enough for a busy guest to write what was just looked at.
                std::thread::sleep(std::time::Duration::from_millis(20));
                self.shared.consumer.clear(&round.harvest.logged, chunk)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Sorts the changed pages of a chunk into `data` and `zeros`.
    fn look(&mut self, round: &Round, chunk: &PageRange) -> Result<()> {
        self.data.clear();
        self.zeros.clear();
        for changed in round.harvest.pages.runs(chunk.clone()) {
            self.look_at(round.pass, &changed)?;
        }
        Ok(())
    }

    /// The same with one run, behind what there is.
    fn look_at(&mut self, pass: Pass, changed: &PageRange) -> Result<()> {
        let mut rest = changed.clone();
        while !rest.is_empty() {
            // Only the first round looks at pages that nobody ever wrote.
            let data = if pass.fresh {
                let backed = self.shared.next_backed(rest.start)?;
                backed.start.min(rest.end)..backed.end.min(rest.end)
            } else {
                rest.clone()
            };
            if data.start > rest.start {
                push(&mut self.zeros, rest.start..data.start);
            }
            for page in data.clone() {
                let zero = self.shared.ram.is_zero(page);
                let list = if zero {
                    &mut self.zeros
                } else {
                    &mut self.data
                };
                push(list, page..page + 1);
            }
            rest.start = data.end;
        }
        Ok(())
    }

    fn send_zeros(&mut self, pass: Pass) -> Result<()> {
        let pages: u64 = self.zeros.iter().map(|r| r.end - r.start).sum();
        self.shared.progress.sent_zeros(pages);
        if pass.fresh {
            return Ok(());
        }
        let zeros = std::mem::take(&mut self.zeros);
        for runs in zeros.chunks(MAX_RUNS as usize) {
            let header = Header {
                runs: count(runs),
                ..Header::bare(Kind::Zeros, pass.number)
            };
            self.start_message(&header, runs)?;
            self.count_header();
            let head = std::mem::take(&mut self.head);
            self.write(&head)?;
            self.head = head;
        }
        self.zeros = zeros;
        Ok(())
    }

    fn send_data(&mut self, pass: Pass) -> Result<()> {
        let data = std::mem::take(&mut self.data);
        let compressed = !pass.urgent && self.is_worth_compressing(&data)?;
        let began = Instant::now();
        if compressed || self.shared.checksum || self.socket.direct().is_none() {
            for runs in pieces(&data, COPIED_PIECE / PAGE_SIZE) {
                self.send_copied(pass, &runs, compressed)?;
            }
        } else {
            for runs in data.chunks(MAX_RUNS as usize) {
                self.send_straight(pass, runs)?;
            }
        }
        if let Some(compression) = self
            .compression
            .as_mut()
            .filter(|_| !compressed && !pass.urgent)
        {
            compression.sent_raw(bytes(&data), began.elapsed());
        }
        self.data = data;
        Ok(())
    }

    /// Tries a few pages of a chunk.
    fn is_worth_compressing(&mut self, data: &[PageRange]) -> Result<bool> {
        let Some(compression) = &mut self.compression else {
            return Ok(false);
        };
        if data.is_empty() || !compression.wants_trial() {
            return Ok(false);
        }
        self.copy.clear();
        for page in sample(data) {
            self.shared
                .ram
                .copy_pages(&(page..page + 1), &mut self.copy)?;
        }
        let began = Instant::now();
        pack(&self.copy, &mut self.packed)?;
        Ok(compression.tried(self.copy.len(), self.packed.len(), began.elapsed()))
    }

    /// Sends pages straight from guest memory.
    fn send_straight(&mut self, pass: Pass, runs: &[PageRange]) -> Result<()> {
        let header = Header {
            runs: count(runs),
            payload: bytes(runs),
            ..Header::bare(Kind::Pages, pass.number)
        };
        self.start_message(&header, runs)?;
        self.count_header();
        self.pace(pass, bytes(runs))?;
        let socket = self.socket.direct().ok_or_else(|| {
            DWCPError::Internal("pages cannot go straight over an encrypted channel".into())
        })?;
        send_pages(socket, &self.head, &self.shared.ram, runs).map_err(lost)?;
        self.shared
            .progress
            .sent_pages(pass.number, bytes(runs), self.head.len() as u64);
        Ok(())
    }

    /// Sends a copy of pages, with its checksum where one was promised: a running guest could change a
    /// page between the summing and the sending, and the peer would rightly complain. Compressed where
    /// that was found to pay, and these pages are as the ones that were tried.
    fn send_copied(&mut self, pass: Pass, runs: &[PageRange], compressed: bool) -> Result<()> {
        let ram = Arc::clone(&self.shared.ram);
        let mut copy = std::mem::take(&mut self.copy);
        copy.clear();
        for run in runs {
            ram.copy_pages(run, &mut copy)?;
        }
        let mut packed = std::mem::take(&mut self.packed);
        let mut kind = Kind::Pages;
        if compressed {
            pack(&copy, &mut packed)?;
            if is_smaller(copy.len(), packed.len()) {
                kind = Kind::Packed;
            }
        }
        let payload = match kind {
            Kind::Packed => &packed,
            _ => &copy,
        };
        let length = payload.len() as u64;
        let mut header = Header {
            runs: count(runs),
            payload: length,
            ..Header::bare(kind, pass.number)
        };
        self.start_message(&header, runs)?;
        if self.shared.checksum {
            let crc = crc32c::crc32c(&self.head[HEADER..]);
            header.checksum = Some(crc32c::crc32c_append(crc, &copy));
            self.head[..HEADER].copy_from_slice(&header.encode());
        }
        self.count_header();
        self.pace(pass, length)?;
        let head = std::mem::take(&mut self.head);
        self.write(&head)?;
        self.write(payload)?;
        let (progress, head_length) = (&self.shared.progress, head.len() as u64);
        match kind {
            Kind::Packed => progress.sent_packed(pass.number, bytes(runs), length + head_length),
            _ => progress.sent_pages(pass.number, length, head_length),
        }
        (self.head, self.copy, self.packed) = (head, copy, packed);
        Ok(())
    }

    /// Sends a piece of the disk.
    fn send_disk(&mut self, round: &Round, range: &Range<u64>) -> Result<()> {
        let pass = round.pass;
        let file = self.shared.disk.clone();
        let file = file.ok_or_else(|| DWCPError::Internal("no disk to send".into()))?;
        #[cfg(test)]
        if round.live {
            self.shared.faults.writes(super::faults::Moment::Sending);
        }
        let mut piece = std::mem::take(&mut self.piece);
        piece.read(&file, range)?;
        #[cfg(test)]
        if round.live {
            self.shared.faults.writes(super::faults::Moment::Sent);
        }
        // The peer's file is all holes at first.
        if !pass.fresh {
            self.send_disk_runs(Kind::DiskZeros, pass, &piece.zeros, &[])?;
        }
        self.send_disk_runs(Kind::Disk, pass, &piece.data, &piece.bytes)?;
        let zeros = piece.zeros.iter().map(|run| run.end - run.start).sum();
        self.shared.progress.looked_at_disk(zeros);
        self.piece = piece;
        Ok(())
    }

    fn send_disk_runs(
        &mut self,
        kind: Kind,
        pass: Pass,
        runs: &[Range<u64>],
        bytes: &[u8],
    ) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let mut descriptors = Vec::new();
        encode_disk_runs(runs, &mut descriptors);
        let checksum = self.shared.checksum.then(|| {
            let crc = crc32c::crc32c(&descriptors);
            crc32c::crc32c_append(crc, bytes)
        });
        let header = Header {
            // At most every other block of a piece.
            runs: u32::try_from(runs.len()).unwrap_or(u32::MAX),
            payload: bytes.len() as u64,
            checksum,
            ..Header::bare(kind, pass.number)
        };
        self.head.clear();
        self.head.extend_from_slice(&header.encode());
        self.head.extend_from_slice(&descriptors);
        self.count_header();
        self.pace(pass, bytes.len() as u64)?;
        let head = std::mem::take(&mut self.head);
        self.write(&head)?;
        self.write(bytes)?;
        let (progress, sent) = (&self.shared.progress, bytes.len() as u64);
        progress.sent_disk(pass.number, sent, head.len() as u64);
        self.head = head;
        Ok(())
    }

    fn pace(&self, pass: Pass, bytes: u64) -> Result<()> {
        if pass.urgent {
            return Ok(());
        }
        self.shared.pacer.take(bytes)
    }

    fn start_message(&mut self, header: &Header, runs: &[PageRange]) -> Result<()> {
        self.head.clear();
        self.head.extend_from_slice(&header.encode());
        encode_runs(self.shared.ram.layout(), runs, &mut self.head)
    }

    /// Takes the header that is about to be sent into the sum of this round's.
    fn count_header(&mut self) {
        self.headers = crc32c::crc32c_append(self.headers, &self.head[..HEADER]);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket.write_all(bytes).map_err(lost)
    }
}

/// Sends a machine's state over a channel, behind messages with headers of that CRC-32C since the last barrier; how
/// many bytes that were.
pub(super) fn write_state(socket: &mut impl Write, state: &[u8], headers: u32) -> Result<u64> {
    let header = Header {
        payload: state.len() as u64,
        checksum: Some(crc32c::crc32c(state)),
        ..Header::bare(Kind::State, u64::from(headers))
    };
    socket.write_all(&header.encode()).map_err(lost)?;
    socket.write_all(state).map_err(lost)?;
    Ok((HEADER + state.len()) as u64)
}

/// Appends a run, joined to the last one where they touch.
fn push(runs: &mut Vec<PageRange>, run: PageRange) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Cuts runs into messages of at most `pages` pages and `MAX_RUNS` runs.
fn pieces(runs: &[PageRange], pages: u64) -> Vec<Vec<PageRange>> {
    let mut out = Vec::new();
    let (mut piece, mut left) = (Vec::new(), pages);
    for run in runs {
        let mut rest = run.clone();
        while !rest.is_empty() {
            if left == 0 || piece.len() == MAX_RUNS as usize {
                out.push(std::mem::take(&mut piece));
                left = pages;
            }
            let end = rest.end.min(rest.start + left);
            left -= end - rest.start;
            piece.push(rest.start..end);
            rest.start = end;
        }
    }
    if !piece.is_empty() {
        out.push(piece);
    }
    out
}

/// A few pages of runs, from all over them.
fn sample(runs: &[PageRange]) -> Vec<u64> {
    let pages = bytes(runs) / PAGE_SIZE;
    let step = pages.div_ceil(SAMPLE_PAGES).max(1);
    let all = runs.iter().cloned().flatten();
    all.step_by(usize::try_from(step).unwrap_or(usize::MAX))
        .collect()
}

fn bytes(runs: &[PageRange]) -> u64 {
    runs.iter().map(|r| (r.end - r.start) * PAGE_SIZE).sum()
}

fn count(runs: &[PageRange]) -> u32 {
    u32::try_from(runs.len()).unwrap_or(u32::MAX)
}

/// A channel that broke.
pub(super) fn lost(error: io::Error) -> DWCPError {
    // The kernel's word for a time limit that has passed.
    if error.kind() == io::ErrorKind::WouldBlock {
        return DWCPError::Migration(
            "a bulk channel was lost: nothing came or went on it for too long".into(),
        );
    }
    DWCPError::Migration(format!("a bulk channel was lost: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PageBitmap;

    fn round(pages: &[PageRange], senders: usize) -> Round {
        let mut changed = PageBitmap::new(1 << 18);
        for page in pages.iter().cloned().flatten() {
            changed.insert(page);
        }
        let harvest = Harvest {
            logged: PageBitmap::new(changed.pages()),
            pages: changed,
        };
        let pass = Pass {
            number: 2,
            fresh: false,
            urgent: false,
        };
        Round::new(pass, harvest, Pieces::default(), true, senders)
    }

    #[test]
    fn what_is_little_is_spread_over_all_senders() {
        let small = round(std::slice::from_ref(&(1024..1224)), 4);
        let chunks: Vec<PageRange> = std::iter::from_fn(|| small.take()).collect();
        assert_eq!(chunks, [1024..1088, 1088..1152, 1152..1216, 1216..1280]);
        let large = round(std::slice::from_ref(&(0..16_384)), 4);
        let chunks: Vec<PageRange> = std::iter::from_fn(|| large.take()).collect();
        assert_eq!(chunks.len(), 32);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.end - chunk.start == CHUNK_PAGES)
        );
    }

    #[test]
    fn chunks_keep_to_what_the_log_and_the_slots_ask() {
        for senders in 1..65 {
            for pages in (0..40).map(|n| n * n * n) {
                let chunk = chunk_pages(pages, senders);
                assert!(
                    chunk.is_multiple_of(64) && CHUNK_PAGES.is_multiple_of(chunk),
                    "{chunk}"
                );
            }
        }
    }

    #[test]
    fn a_sample_is_small_and_from_all_over() {
        assert_eq!(sample(std::slice::from_ref(&(3..4))), [3]);
        assert_eq!(sample(&[0..100, 500..600]), [0, 50, 500, 550]);
        let scattered: Vec<PageRange> = (0..250).map(|i| i * 2..i * 2 + 1).collect();
        let pages = sample(&scattered);
        assert_eq!(pages.len() as u64, SAMPLE_PAGES);
        assert!(pages.iter().all(|page| page % 2 == 0), "{pages:?}");
    }

    #[test]
    fn pieces_keep_the_pages_in_order_and_the_limits() {
        let runs = [0..100, 200..201, 300..500];
        let cut = pieces(&runs, 64);
        let flat: Vec<u64> = cut.iter().flatten().cloned().flatten().collect();
        assert_eq!(flat, runs.iter().cloned().flatten().collect::<Vec<_>>());
        assert!(cut.iter().all(|p| bytes(p) <= 64 * PAGE_SIZE));
        let scattered: Vec<PageRange> = (0..400).map(|i| i * 2..i * 2 + 1).collect();
        assert!(
            pieces(&scattered, 512)
                .iter()
                .all(|p| p.len() <= MAX_RUNS as usize)
        );
    }
}
