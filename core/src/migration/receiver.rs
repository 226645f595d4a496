//! Receiving pages over a channel, into the file behind guest memory: less work than to read them straight into a
//! mapping, whose pages have to be cleared and mapped first. What is looked at on its way, to sum it, to decrypt or to
//! unpack it, goes by way of a buffer that stays in the cache, and the rest by way of a pipe. Memory that has no file
//! is read into straight.
//!
//! Each channel has a thread. The machine these pages are for does not run, but for those that come late: they are
//! placed where the guest does not see them before they are whole.

use std::io::{self, Read, Write};
use std::sync::{Arc, PoisonError};

use super::channel::{
    DESCRIPTOR, HEADER, Header, Kind, decode_disk_runs, decode_runs, decode_set, set_length,
    violation,
};
use super::compression::unpack;
use super::demand::{Demand, Writer};
use super::mirror::Copy;
use super::sender::lost;
use crate::error::{DWCPError, Result};
use crate::memory::{
    Backing, GuestRam, PAGE_SIZE, PageBitmap, PageRange, Part, Splice, receive_pages,
};
use crate::transport::Blocking;

/// Pages that are in the buffer, or given host memory, at a time: few enough to stay in the cache, and not to hold a
/// processor for long.
const PIECE_PAGES: usize = 64;

/// What a channel brought, apart from pages.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The peer is done with this channel.
    Closed,
    /// The machine's state.
    State(Vec<u8>),
    /// Pages that come after the switch.
    Missing(PageBitmap),
    /// Of those, the last one was placed.
    Complete,
}

/// One channel's receiving side.
pub(super) struct Receiver {
    socket: Blocking,
    writer: Writer,
    ram: Arc<GuestRam>,
    /// Where pages may come after the switch.
    demand: Option<Arc<Demand>>,
    /// The disk that comes along, where one does.
    disk: Option<Arc<Copy>>,
    /// Some of it was placed since the last barrier.
    disk_changed: bool,
    descriptors: Vec<u8>,
    copy: Vec<u8>,
    packed: Vec<u8>,
    /// What is not looked at on its way goes by way of this, where there is one.
    splice: Option<Splice>,
    /// Round of the last barrier: rounds only go up.
    round: u64,
    /// CRC-32C of the headers since then.
    headers: u32,
}

impl Receiver {
    /// What is answered goes to `writer`.
    pub(super) fn new(
        socket: Blocking,
        writer: Writer,
        ram: Arc<GuestRam>,
        demand: Option<Arc<Demand>>,
    ) -> Self {
        // Its place is taken by a buffer.
        let made = Splice::new().inspect_err(|error| tracing::debug!(%error, "no pipe"));
        let splice = made.ok().filter(|_| ram.backing() == Backing::Memfd);
        Self {
            socket,
            writer,
            ram,
            demand,
            disk: None,
            disk_changed: false,
            descriptors: Vec::new(),
            copy: Vec::new(),
            packed: Vec::new(),
            splice,
            round: 0,
            headers: 0,
        }
    }

    /// The same, which places parts of that disk too.
    pub(super) fn with_disk(mut self, disk: Option<Arc<Copy>>) -> Self {
        self.disk = disk;
        self
    }

    /// Places pages until something else arrives.
    pub(super) fn receive(&mut self) -> Result<Arrival> {
        loop {
            let Some(header) = self.read_header()? else {
                return Ok(Arrival::Closed);
            };
            match header.kind {
                // It is the source's own, and its guest may be running in it.
                Kind::Pages | Kind::Packed | Kind::Zeros if self.ram.is_handed() => {
                    return Err(violation("pages of memory that was handed over"));
                }
                Kind::Pages | Kind::Packed | Kind::Zeros => {
                    self.count(&header);
                    let runs = self.runs(&header)?;
                    // Also when all have come: what comes twice is not placed again, for the guest goes on.
                    let late = self.demand.clone().filter(|own| own.is_used());
                    match late {
                        Some(demand) => {
                            if self.late(&demand, &header, &runs)? {
                                return Ok(Arrival::Complete);
                            }
                        }
                        None if header.kind == Kind::Zeros => {
                            for run in &runs {
                                self.ram.punch(run)?;
                            }
                        }
                        None => self.pages(&header, &runs)?,
                    }
                }
                Kind::Disk | Kind::DiskZeros => {
                    self.count(&header);
                    self.disk(&header)?;
                }
                Kind::RoundEnd => {
                    if header.sequence <= self.round {
                        return Err(violation(&format!(
                            "the end of round {} again",
                            header.sequence
                        )));
                    }
                    if header.checksum != Some(self.headers) {
                        return Err(violation(&format!(
                            "a round {} of which messages were lost, doubled or changed",
                            header.sequence
                        )));
                    }
                    (self.round, self.headers) = (header.sequence, 0);
                    // What is placed of a disk outlives this host, or the VM could not be taken. In each round, so
                    // that little is left in the pause.
                    if let Some(disk) = self.disk.as_ref().filter(|_| self.disk_changed) {
                        disk.sync()?;
                        self.disk_changed = false;
                    }
                    let ack = Header::bare(Kind::Ack, header.sequence).encode();
                    let writer = self.writer.lock();
                    let mut writer = writer.unwrap_or_else(PoisonError::into_inner);
                    writer.write_all(&ack).map_err(lost)?;
                }
                Kind::State => {
                    // A set of pages that come late must not be lost on the way: what is not known to be missing
                    // would be taken for what it was before.
                    if header.sequence != u64::from(self.headers) {
                        return Err(violation(
                            "a state before which messages were lost, doubled or changed",
                        ));
                    }
                    if let Some(disk) = &self.disk {
                        disk.close();
                    }
                    return Ok(Arrival::State(self.state(&header)?));
                }
                Kind::Missing => {
                    self.count(&header);
                    return Ok(Arrival::Missing(self.missing(&header)?));
                }
                Kind::Ack | Kind::Want => {
                    return Err(violation(&format!(
                        "{:?} in the wrong direction",
                        header.kind
                    )));
                }
            }
        }
    }

    /// Ends the channel, both ways.
    pub(super) fn shut_down(&self) {
        // It fails only when the peer was faster.
        let _ = self.socket.shutdown();
    }

    /// Places a part of the disk, by way of a buffer: it is summed before it is written.
    fn disk(&mut self, header: &Header) -> Result<()> {
        let disk = self.disk.clone();
        let disk = disk.ok_or_else(|| violation("a part of a disk that was not offered"))?;
        self.descriptors
            .resize(header.runs as usize * DESCRIPTOR, 0);
        self.socket
            .read_exact(&mut self.descriptors)
            .map_err(lost)?;
        let runs = decode_disk_runs(disk.size(), header, &self.descriptors)?;
        // Within its limit, which was checked with the header.
        self.copy
            .resize(usize::try_from(header.payload).unwrap_or(0), 0);
        self.socket.read_exact(&mut self.copy).map_err(lost)?;
        if let Some(expected) = header.checksum {
            let crc = crc32c::crc32c(&self.descriptors);
            let crc = crc32c::crc32c_append(crc, &self.copy);
            check("a part of the disk", expected, crc)?;
        }
        self.disk_changed = true;
        disk.place(header, &runs, &self.copy)
    }

    /// Takes a header into the sum of this round's.
    fn count(&mut self, header: &Header) {
        self.headers = crc32c::crc32c_append(self.headers, &header.encode());
    }

    /// The next header; `None` when the peer closed the channel between two messages.
    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut bytes = [0; HEADER];
        let mut have = 0;
        while have < HEADER {
            match self.socket.read(&mut bytes[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(lost(e)),
            }
        }
        Header::decode(&bytes).map(Some)
    }

    fn runs(&mut self, header: &Header) -> Result<Vec<PageRange>> {
        self.descriptors
            .resize(header.runs as usize * DESCRIPTOR, 0);
        self.socket
            .read_exact(&mut self.descriptors)
            .map_err(lost)?;
        decode_runs(self.ram.layout(), header, &self.descriptors)
    }

    fn pages(&mut self, header: &Header, runs: &[PageRange]) -> Result<()> {
        if header.kind == Kind::Pages
            && header.checksum.is_none()
            && let Some(socket) = self.socket.direct()
        {
            if self.ram.backing() == Backing::AnonymousHuge {
                if header.sequence == 1 {
                    // One call for many pages costs less than a fault for each of them.
                    for piece in runs.iter().flat_map(pieces) {
                        self.ram.populate(&piece)?;
                    }
                }
                return receive_pages(socket, &self.ram, runs).map_err(lost);
            }
            if let Some(splice) = &mut self.splice {
                return splice.receive_pages(socket, &self.ram, runs).map_err(lost);
            }
        }
        let mut crc = crc32c::crc32c(&self.descriptors);
        let mut sum = |contents: &[u8]| {
            if header.checksum.is_some() {
                crc = crc32c::crc32c_append(crc, contents);
            }
        };
        if header.kind == Kind::Packed {
            self.unpack(header, runs)?;
            sum(&self.copy);
            self.place(runs)?;
        } else {
            for runs in batches(runs) {
                self.copy.resize(runs.iter().map(length).sum(), 0);
                self.socket.read_exact(&mut self.copy).map_err(lost)?;
                sum(&self.copy);
                self.place(&runs)?;
            }
        }
        // Only now: nothing of it counts before the end of the round, which does not come.
        header
            .checksum
            .map_or(Ok(()), |expected| check("pages", expected, crc))
    }

    /// Puts what is in the buffer into guest memory.
    fn place(&self, runs: &[PageRange]) -> Result<()> {
        let mut contents = cut(runs.iter().cloned(), &self.copy);
        contents.try_for_each(|(run, contents)| self.ram.place(&run, contents))
    }

    /// Reads compressed pages into `copy`. Their limits were checked when they were decoded.
    fn unpack(&mut self, header: &Header, runs: &[PageRange]) -> Result<()> {
        self.packed
            .resize(usize::try_from(header.payload).unwrap_or(0), 0);
        self.socket.read_exact(&mut self.packed).map_err(lost)?;
        self.copy.resize(runs.iter().map(length).sum(), 0);
        unpack(&self.packed, &mut self.copy)
    }

    /// Places what is still missing of late pages, and leaves the rest. Returns whether it was the last of all.
    fn late(&mut self, demand: &Demand, header: &Header, runs: &[PageRange]) -> Result<bool> {
        let mut parts = Vec::new();
        for run in runs {
            parts.extend(demand.late().claim(run)?);
        }
        if let Err(error) = self.late_contents(demand, header, runs, &parts) {
            demand.late().give_up(&parts);
            return Err(error);
        }
        let any = parts.iter().any(|part| part.claimed);
        Ok(demand.late().place(&parts)? == 0 && any)
    }

    /// Brings the contents of late pages to where they are placed from.
    fn late_contents(
        &mut self,
        demand: &Demand,
        header: &Header,
        runs: &[PageRange],
        parts: &[Part],
    ) -> Result<()> {
        let late = demand.late();
        if header.kind == Kind::Zeros {
            let mut claimed = parts.iter().filter(|part| part.claimed);
            return claimed.try_for_each(|part| late.clear(&part.pages));
        }
        if header.kind == Kind::Packed {
            self.unpack(header, runs)?;
        } else {
            self.copy.resize(runs.iter().map(length).sum(), 0);
            self.socket.read_exact(&mut self.copy).map_err(lost)?;
        }
        if let Some(expected) = header.checksum {
            let crc = crc32c::crc32c(&self.descriptors);
            check("pages", expected, crc32c::crc32c_append(crc, &self.copy))?;
        }
        let all = parts.iter().map(|part| part.pages.clone());
        for (part, (pages, contents)) in parts.iter().zip(cut(all, &self.copy)) {
            if part.claimed {
                late.write(&pages, contents)?;
            }
        }
        Ok(())
    }

    fn missing(&mut self, header: &Header) -> Result<PageBitmap> {
        let layout = self.ram.layout();
        let mut words = vec![0; set_length(layout, header)?];
        self.socket.read_exact(&mut words).map_err(lost)?;
        decode_set(layout, header, &words)
    }

    fn state(&mut self, header: &Header) -> Result<Vec<u8>> {
        // As long as the header says, which is within its limit, and no longer than what comes.
        let mut state = Vec::new();
        let read = Read::by_ref(&mut self.socket)
            .take(header.payload)
            .read_to_end(&mut state)
            .map_err(lost)?;
        if read as u64 != header.payload {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(expected) = header.checksum {
            check("the machine's state", expected, crc32c::crc32c(&state))?;
        }
        Ok(state)
    }
}

/// Runs in groups of no more pages than a piece has.
fn batches(runs: &[PageRange]) -> Vec<Vec<PageRange>> {
    let mut batches: Vec<Vec<PageRange>> = Vec::new();
    let mut room = 0;
    for piece in runs.iter().flat_map(pieces) {
        let pages = piece.end - piece.start;
        match batches.last_mut().filter(|_| pages <= room) {
            Some(last) => last.push(piece),
            None => {
                batches.push(vec![piece]);
                room = PIECE_PAGES as u64;
            }
        }
        room -= pages;
    }
    batches
}

fn pieces(run: &PageRange) -> impl Iterator<Item = PageRange> + use<> {
    let end = run.end;
    (run.start..end)
        .step_by(PIECE_PAGES)
        .map(move |at| at..end.min(at + PIECE_PAGES as u64))
}

/// Contents of runs, one behind the other, cut up.
fn cut(
    runs: impl Iterator<Item = PageRange>,
    contents: &[u8],
) -> impl Iterator<Item = (PageRange, &[u8])> {
    let mut rest = contents;
    runs.map(move |run| {
        let (own, others) = rest.split_at(length(&run).min(rest.len()));
        rest = others;
        (run, own)
    })
}

/// Bytes of a run, which is never longer than a chunk.
fn length(run: &PageRange) -> usize {
    usize::try_from((run.end - run.start) * PAGE_SIZE).unwrap_or(0)
}

fn check(what: &str, expected: u32, found: u32) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(DWCPError::Migration(format!(
        "{what} arrived damaged: checksum {found:#010x}, where {expected:#010x} was sent"
    )))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;

    use super::*;
    use crate::memory::Backing;
    use crate::migration::patience::Patience;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn receiver(socket: TcpStream, ram: Arc<GuestRam>) -> Receiver {
        let writer = socket.try_clone().unwrap().into();
        Receiver::new(socket.into(), Arc::new(Mutex::new(writer)), ram, None)
    }

    fn receive(bytes: &[u8]) -> Result<Arrival> {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let (mut peer, socket) = pair();
        peer.write_all(bytes).unwrap();
        drop(peer);
        receiver(socket, ram).receive()
    }

    /// A message with one run.
    fn message(kind: Kind, start: u64, contents: &[u8], checksum: impl Fn(u32) -> u32) -> Vec<u8> {
        let len = contents.len() as u64;
        let body = [&start.to_le_bytes(), &len.to_le_bytes(), contents].concat();
        let header = Header {
            runs: 1,
            payload: len,
            checksum: Some(checksum(crc32c::crc32c(&body))),
            ..Header::bare(kind, 1)
        };
        [&header.encode(), &body[..]].concat()
    }

    fn page_message(checksum: impl Fn(u32) -> u32) -> Vec<u8> {
        message(Kind::Pages, 0, &[7; PAGE_SIZE as usize], checksum)
    }

    #[test]
    fn a_wrong_checksum_is_caught() {
        let damaged = page_message(|right| !right);
        let error = receive(&damaged).unwrap_err().to_string();
        assert!(error.contains("arrived damaged"), "{error}");
        let right = page_message(|right| right);
        assert!(matches!(receive(&right), Ok(Arrival::Closed)));
    }

    fn disk_message(offset: u64, contents: &[u8]) -> Vec<u8> {
        message(Kind::Disk, offset, contents, |right| right)
    }

    #[test]
    fn parts_of_a_disk_are_placed_on_it_and_nowhere_else() {
        use std::os::unix::fs::FileExt;
        let size = 1 << 20;
        let receive = |disk: Option<Arc<Copy>>, bytes: &[u8]| {
            let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
            let (mut peer, socket) = pair();
            peer.write_all(bytes).unwrap();
            drop(peer);
            receiver(socket, ram).with_disk(disk).receive()
        };
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(size).unwrap();
        let disk = Copy::new(Arc::clone(&file), size);
        let good = disk_message(4096, &[7; 1024]);
        assert!(matches!(
            receive(Some(Arc::clone(&disk)), &good),
            Ok(Arrival::Closed)
        ));
        let mut placed = [0; 1026];
        file.read_exact_at(&mut placed, 4095).unwrap();
        assert!(placed[1..1025] == [7; 1024] && placed[0] == 0 && placed[1025] == 0);

        let mut damaged = good.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for (bytes, why) in [
            (disk_message(size, &[7; 512]), "not on the disk"),
            (disk_message(size - 512, &[7; 1024]), "not on the disk"),
            (disk_message(u64::MAX - 511, &[7; 512]), "not on the disk"),
            (disk_message(8, &[7; 512]), "not on the disk"),
            (damaged, "arrived damaged"),
        ] {
            let error = receive(Some(Arc::clone(&disk)), &bytes).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(file.metadata().unwrap().len(), size);
        file.read_exact_at(&mut placed, 4095).unwrap();
        assert!(placed[1..1025] == [7; 1024], "the damaged was not written");

        let error = receive(None, &good).unwrap_err().to_string();
        assert!(error.contains("not offered"), "{error}");
        // Once the state has come, over whatever channel.
        disk.close();
        let error = receive(Some(disk), &good).unwrap_err().to_string();
        assert!(error.contains("behind the machine's state"), "{error}");
    }

    /// Two pages in two runs, compressed, with the checksum of their contents.
    fn packed_message(contents: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        super::super::compression::pack(contents, &mut packed).unwrap();
        let runs = [(0, PAGE_SIZE), (8 * PAGE_SIZE, PAGE_SIZE)];
        let runs: Vec<u8> = runs
            .iter()
            .flat_map(|(gpa, len)| [gpa.to_le_bytes(), len.to_le_bytes()].concat())
            .collect();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&runs), contents);
        let header = Header {
            runs: 2,
            payload: packed.len() as u64,
            checksum: Some(crc),
            ..Header::bare(Kind::Packed, 1)
        };
        [header.encode().to_vec(), runs, packed].concat()
    }

    #[test]
    fn compressed_pages_are_placed_and_those_of_another_length_refused() {
        let contents: Vec<u8> = (0..2 * PAGE_SIZE).map(|i| (i / 64) as u8).collect();
        let message = packed_message(&contents);
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let (mut peer, socket) = pair();
        peer.write_all(&message).unwrap();
        drop(peer);
        let arrival = receiver(socket, Arc::clone(&ram)).receive();
        assert!(matches!(arrival, Ok(Arrival::Closed)), "{arrival:?}");
        let mut placed = Vec::new();
        ram.copy_pages(&(0..1), &mut placed).unwrap();
        ram.copy_pages(&(8..9), &mut placed).unwrap();
        assert!(placed == contents && ram.is_zero(1));

        let short = packed_message(&contents[..contents.len() - 1]);
        let error = receive(&short).unwrap_err().to_string();
        assert!(error.contains("in place of 8192"), "{error}");
        let mut wrong = message.clone();
        wrong[12] ^= 1;
        let error = receive(&wrong).unwrap_err().to_string();
        assert!(error.contains("arrived damaged"), "{error}");
    }

    #[test]
    fn nothing_is_placed_in_memory_that_was_handed_over() {
        let source = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let page = page_message(|_| 0);
        let mut zeros = Header {
            runs: 1,
            ..Header::bare(Kind::Zeros, 1)
        }
        .encode()
        .to_vec();
        zeros.extend_from_slice(&page[HEADER..HEADER + DESCRIPTOR]);
        let packed = packed_message(&[7; 2 * PAGE_SIZE as usize]);
        source.write(0, b"the guest's").unwrap();
        for message in [page, zeros, packed] {
            let file = source.file().unwrap().try_clone_to_owned().unwrap();
            let ram = GuestRam::handed(1 << 20, file).unwrap();
            let (mut peer, socket) = pair();
            peer.write_all(&message).unwrap();
            let error = receiver(socket, ram).receive().unwrap_err();
            assert!(error.to_string().contains("handed over"), "{error}");
            let mut kept = [0; 11];
            source.read(0, &mut kept).unwrap();
            assert_eq!(&kept, b"the guest's");
        }
    }

    #[test]
    fn a_channel_that_ends_within_a_message_is_lost() {
        let message = page_message(|_| 0);
        for cut in [1, HEADER - 1, HEADER, HEADER + 3, message.len() - 1] {
            let error = receive(&message[..cut]).unwrap_err().to_string();
            assert!(error.contains("was lost"), "{error}");
        }
        assert!(matches!(receive(&[]), Ok(Arrival::Closed)));
    }

    #[test]
    fn a_message_that_is_lost_or_doubled_is_missed_at_the_end_of_its_round() {
        let mut page = page_message(|_| 0);
        page[5] = 0;
        let headers = crc32c::crc32c(&page[..HEADER]);
        let end = |checksum| {
            let end = Header::bare(Kind::RoundEnd, 1);
            Header { checksum, ..end }.encode().to_vec()
        };
        let whole = [page.clone(), end(Some(headers))].concat();
        assert!(matches!(receive(&whole), Ok(Arrival::Closed)));
        let twice = [page.clone(), whole].concat();
        for wrong in [end(Some(headers)), twice, [page, end(None)].concat()] {
            let error = receive(&wrong).unwrap_err().to_string();
            assert!(error.contains("lost, doubled"), "{error}");
        }
    }

    #[test]
    fn a_late_page_that_comes_again_when_all_have_come_is_not_placed() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let demand = match Demand::new(&ram, Patience::default()) {
            Ok(demand) => demand,
            Err(error) => return crate::test_support::skipped("late pages", &error),
        };
        let mut missing = PageBitmap::new(256);
        missing.insert(0);
        demand.expect(&missing, |error| panic!("{error}")).unwrap();
        let (mut peer, socket) = pair();
        let writer = socket.try_clone().unwrap().into();
        let writer = Arc::new(Mutex::new(writer));
        let mut own = Receiver::new(
            socket.into(),
            writer,
            Arc::clone(&ram),
            Some(Arc::clone(&demand)),
        );
        let page = page_message(|right| right);
        peer.write_all(&page).unwrap();
        assert!(matches!(own.receive(), Ok(Arrival::Complete)));
        demand.end();
        // The guest goes on.
        ram.write(0, b"newer").unwrap();
        peer.write_all(&page).unwrap();
        drop(peer);
        assert!(matches!(own.receive(), Ok(Arrival::Closed)));
        let mut kept = [0; 6];
        ram.read(0, &mut kept).unwrap();
        assert_eq!(&kept, b"newer\x07");
    }

    #[test]
    fn a_set_of_late_pages_that_is_lost_or_doubled_is_missed_at_the_state() {
        let mut set = PageBitmap::new(256);
        set.insert(7);
        let (header, words) = super::super::channel::encode_set(&set);
        let missing = [&header.encode()[..], &words].concat();
        let state = |headers| {
            let mut bytes = Vec::new();
            super::super::sender::write_state(&mut bytes, b"state", headers).unwrap();
            bytes
        };
        let headers = crc32c::crc32c(&header.encode());
        let (mut peer, socket) = pair();
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let mut own = receiver(socket, ram);
        peer.write_all(&[missing.clone(), state(headers)].concat())
            .unwrap();
        assert!(matches!(own.receive(), Ok(Arrival::Missing(_))));
        assert!(matches!(own.receive(), Ok(Arrival::State(_))));

        let lost = receive(&state(headers)).unwrap_err().to_string();
        assert!(lost.contains("lost, doubled"), "{lost}");
        let (mut peer, socket) = pair();
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let mut own = receiver(socket, ram);
        peer.write_all(&[missing.clone(), missing, state(headers)].concat())
            .unwrap();
        assert!(own.receive().is_ok() && own.receive().is_ok());
        let twice = own.receive().unwrap_err().to_string();
        assert!(twice.contains("lost, doubled"), "{twice}");
    }

    #[test]
    fn rounds_go_up_and_acknowledgements_do_not_come_this_way() {
        let end = Header {
            checksum: Some(0),
            ..Header::bare(Kind::RoundEnd, 1)
        };
        let end = end.encode();
        assert!(matches!(receive(&end), Ok(Arrival::Closed)));
        assert!(receive(&[end, end].concat()).is_err());
        assert!(receive(&Header::bare(Kind::Ack, 1).encode()).is_err());
    }
}
