//! A disk and its driver.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::super::MmioDevice;
use super::super::core::Workers;
use super::super::driver::*;
use super::*;
use crate::memory::GuestPiece;
use proptest::prelude::*;

const FLUSH: u64 = 1 << 9;
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

/// A disk in memory that keeps a record, and fails or waits when it is told to.
struct Recording {
    bytes: Mutex<Vec<u8>>,
    log: Mutex<Vec<String>>,
    fails: AtomicBool,
    /// A request waits for a message here before it is done.
    gate: Option<Mutex<Receiver<()>>>,
    /// And tells here that it waits.
    arrived: Option<SyncSender<()>>,
}

impl Recording {
    fn new(sectors: u64) -> Arc<Self> {
        Arc::new(Self::made(sectors))
    }

    fn made(sectors: u64) -> Self {
        Self {
            bytes: Mutex::new(vec![0; (sectors * SECTOR) as usize]),
            log: Mutex::default(),
            fails: AtomicBool::new(false),
            gate: None,
            arrived: None,
        }
    }

    fn gated(sectors: u64) -> (Arc<Self>, Receiver<()>, SyncSender<()>) {
        let (arrived, arrivals) = sync_channel(100);
        let (open, gate) = sync_channel(100);
        let disk = Self {
            gate: Some(Mutex::new(gate)),
            arrived: Some(arrived),
            ..Self::made(sectors)
        };
        (Arc::new(disk), arrivals, open)
    }

    fn log(&self, what: String) -> io::Result<()> {
        if let (Some(arrived), Some(gate)) = (&self.arrived, &self.gate) {
            arrived.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
        }
        self.log.lock().unwrap().push(what);
        match self.fails.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl Disk for Recording {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
    fn read(&self, offset: u64, ram: &GuestRam, into: &[GuestPiece]) -> io::Result<()> {
        self.log(format!("read {offset}"))?;
        let bytes = self.bytes.lock().unwrap();
        let mut at = offset as usize;
        for piece in into {
            let end = at + piece.len as usize;
            ram.write(piece.gpa, &bytes[at..end]).unwrap();
            at = end;
        }
        Ok(())
    }
    fn write(&self, offset: u64, ram: &GuestRam, from: &[GuestPiece]) -> io::Result<()> {
        self.log(format!("write {offset}"))?;
        let mut bytes = self.bytes.lock().unwrap();
        let mut at = offset as usize;
        for piece in from {
            let end = at + piece.len as usize;
            ram.read(piece.gpa, &mut bytes[at..end]).unwrap();
            at = end;
        }
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        self.log("flush".into())
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.log(format!("discard {offset}+{len}"))
    }
    fn write_zeroes(&self, offset: u64, len: u64, may_discard: bool) -> io::Result<()> {
        self.log(format!("zero {offset}+{len} {may_discard}"))
    }
    fn reopen(&self) -> io::Result<()> {
        self.log("reopen".into())
    }
}

fn device(disk: &Arc<Recording>, config: &BlockConfig) -> Block {
    Block::new(Arc::clone(disk) as Arc<dyn Disk>, config).unwrap()
}

fn driver(disk: &Arc<Recording>) -> Driver<Block> {
    let mut driver = Driver::new(device(disk, &BlockConfig::default()), Workers::Caller);
    driver.start(driver.offered(), 16);
    driver
}

impl Driver<Block> {
    fn header(&self, kind: u32, sector: u64) -> Descriptor {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.ram.write(HEADER, &header).unwrap();
        self.ram.write(STATUS, &[0xaa]).unwrap();
        out(HEADER, 16)
    }

    /// A request with these buffers between header and status; status, and bytes written.
    fn ask(&mut self, kind: u32, sector: u64, data: &[Descriptor]) -> (u8, u32) {
        let mut buffers = vec![self.header(kind, sector)];
        buffers.extend(data);
        buffers.push(inward(STATUS, 1));
        let head = self.push(0, &buffers);
        self.notify(0);
        let (id, written) = self.used(0).expect("the request comes back");
        assert_eq!(id, u32::from(head));
        (self.bytes(STATUS, 1)[0], written)
    }

    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let mut bytes = Vec::new();
        for (sector, count, flags) in ranges {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        self.ram.write(DATA, &bytes).unwrap();
        self.ask(kind, 0, &[out(DATA, bytes.len() as u32)]).0
    }
}

const IN: u32 = 0;
const OUT: u32 = 1;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

#[test]
fn what_is_written_is_read_and_counted() {
    let disk = Recording::new(64);
    let mut driver = driver(&disk);
    driver.ram.write(DATA, &[7; 1024]).unwrap();
    // In pieces at odd places: any layout is allowed.
    let pieces = [out(DATA, 100), out(DATA + 100, 924)];
    assert_eq!(driver.ask(OUT, 5, &pieces), (OK, 1));
    let pieces = [inward(DATA + 8192, 1), inward(DATA + 8193, 511)];
    assert_eq!(driver.ask(IN, 6, &pieces), (OK, 513));
    assert_eq!(
        driver.bytes(DATA + 8192, 513),
        [[7; 512].as_slice(), &[0]].concat()
    );
    assert_eq!(driver.ask(4, 0, &[]), (OK, 1));
    assert_eq!(disk.take_log(), ["write 2560", "read 3072", "flush"]);
    let counters = driver.device.counters();
    assert_eq!(
        (
            counters.bytes_written,
            counters.bytes_read,
            counters.operations
        ),
        (1024, 512, 3)
    );
}

#[test]
fn the_header_may_lie_in_several_buffers_and_with_the_data() {
    let disk = Recording::new(64);
    let mut driver = driver(&disk);
    driver.header(OUT, 3);
    driver.ram.write(HEADER + 16, &[9; 512]).unwrap();
    driver.push(
        0,
        &[out(HEADER, 7), out(HEADER + 7, 521), inward(STATUS, 1)],
    );
    driver.notify(0);
    assert_eq!(driver.used(0), Some((0, 1)));
    assert_eq!(disk.take_log(), ["write 1536"]);
    assert_eq!(disk.bytes.lock().unwrap()[1536..2048], [9; 512]);
}

#[test]
fn without_flushes_every_change_is_durable_when_it_is_done() {
    let disk = Recording::new(64);
    let mut driver = Driver::new(device(&disk, &BlockConfig::default()), Workers::Caller);
    let offered = driver.offered();
    driver.start(offered & !FLUSH, 16);
    assert_eq!(driver.ask(OUT, 0, &[out(DATA, 512)]), (OK, 1));
    assert_eq!(driver.ranges(13, &[(0, 8, 0)]), OK);
    assert_eq!(
        disk.take_log(),
        ["write 0", "flush", "zero 0+4096 false", "flush"]
    );
}

#[test]
fn what_does_not_fit_the_disk_is_an_error_and_touches_nothing() {
    let disk = Recording::new(64);
    let mut driver = driver(&disk);
    for (sector, len) in [
        (64, 512),
        (63, 1024),
        (u64::MAX, 512),
        (u64::MAX - 1, 1024),
        (0, 511),
        (0, 513),
    ] {
        assert_eq!(driver.ask(OUT, sector, &[out(DATA, len)]), (IOERR, 1));
        assert_eq!(driver.ask(IN, sector, &[inward(DATA, len)]), (IOERR, 1));
    }
    assert_eq!(driver.ask(OUT, 0, &[]), (IOERR, 1));
    assert_eq!(driver.ask(IN, 0, &[]), (IOERR, 1));
    // More than a request may be, made of the same memory again and again.
    let long = [inward(DATA, 2 << 20); 9];
    assert_eq!(driver.ask(IN, 0, &long), (IOERR, 1));
    assert_eq!(driver.ask(99, 0, &[]), (UNSUPP, 1));
    driver.push(0, &[out(HEADER, 15), inward(STATUS, 1)]);
    driver.notify(0);
    assert_eq!(driver.used(0).unwrap().1, 1);
    assert_eq!(driver.bytes(STATUS, 1), [IOERR]);
    assert_eq!(disk.take_log(), [""; 0]);
    assert_eq!(driver.status(), DRIVER_OK);
}

#[test]
fn a_request_without_room_for_a_status_stops_the_device() {
    let disk = Recording::new(64);
    let mut driver = driver(&disk);
    let header = driver.header(OUT, 0);
    driver.push(0, &[header, out(DATA, 512)]);
    driver.notify(0);
    assert_eq!(driver.status(), DRIVER_OK | NEEDS_RESET);
    assert_eq!(disk.take_log(), [""; 0]);
}

#[test]
fn a_failing_host_is_an_error_of_the_request() {
    let disk = Recording::new(64);
    let mut driver = driver(&disk);
    disk.fails.store(true, Ordering::SeqCst);
    assert_eq!(driver.ask(OUT, 0, &[out(DATA, 512)]), (IOERR, 1));
    assert_eq!(driver.ask(IN, 0, &[inward(DATA, 512)]), (IOERR, 1));
    assert_eq!(driver.ask(4, 0, &[]), (IOERR, 1));
    disk.fails.store(false, Ordering::SeqCst);
    assert_eq!(driver.ask(IN, 0, &[inward(DATA, 512)]), (OK, 513));
}

#[test]
fn a_disk_that_is_only_read_refuses_changes() {
    let disk = Recording::new(64);
    let config = BlockConfig {
        read_only: true,
        ..BlockConfig::default()
    };
    let mut driver = Driver::new(device(&disk, &config), Workers::Caller);
    let offered = driver.offered();
    assert_eq!(offered & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    driver.start(offered, 16);
    assert_eq!(driver.ask(OUT, 0, &[out(DATA, 512)]), (IOERR, 1));
    assert_eq!(driver.ranges(11, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(driver.ranges(13, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(driver.ask(IN, 0, &[inward(DATA, 512)]), (OK, 513));
    assert_eq!(disk.take_log(), ["read 0"]);
}

#[test]
fn ranges_are_discarded_and_zeroed_within_their_limits() {
    let disk = Recording::new(100_000);
    let mut driver = driver(&disk);
    assert_eq!(
        driver.ranges(11, &[(0, 8, 0), (16, 0, 0), (99_999, 1, 0)]),
        OK
    );
    assert_eq!(driver.ranges(13, &[(8, 16, 1)]), OK);
    assert_eq!(
        disk.take_log(),
        [
            "discard 0+4096",
            "discard 51199488+512",
            "zero 4096+8192 true"
        ]
    );
    for (kind, ranges, status) in [
        (11, vec![(0, 8, 1)], UNSUPP),
        (11, vec![(0, 8, 2)], UNSUPP),
        (13, vec![(0, 8, 2)], UNSUPP),
        (11, vec![(99_999, 2, 0)], IOERR),
        (11, vec![(u64::MAX, 1, 0)], IOERR),
        (11, vec![(0, 1, 0); 17], IOERR),
        (13, vec![(0, 1, 0); 2], IOERR),
        (13, vec![(0, (32 << 10) + 1, 0)], IOERR),
        (11, vec![(0, (2 << 20) + 1, 0)], IOERR),
        (11, vec![], IOERR),
    ] {
        assert_eq!(driver.ranges(kind, &ranges), status, "{kind} {ranges:?}");
    }
    assert_eq!(disk.take_log(), [""; 0]);
}

#[test]
fn the_serial_is_cut_and_filled() {
    let disk = Recording::new(64);
    for (serial, room, wanted) in [
        ("short", 20, &b"short\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]),
        ("12345678901234567890x", 20, b"12345678901234567890"),
        ("short", 3, b"sho"),
    ] {
        let config = BlockConfig {
            serial: serial.into(),
            ..BlockConfig::default()
        };
        let mut driver = Driver::new(device(&disk, &config), Workers::Caller);
        driver.start(0, 16);
        assert_eq!(driver.ask(8, 0, &[inward(DATA, room)]), (OK, room + 1));
        assert_eq!(driver.bytes(DATA, room as usize), wanted);
    }
}

#[test]
fn the_limit_holds_requests_back_and_loses_none() {
    let disk = Recording::new(64);
    let config = BlockConfig {
        iops_limit: 10,
        ..BlockConfig::default()
    };
    let start = Instant::now();
    let passed = Arc::new(AtomicU64::new(0));
    let millis = Arc::clone(&passed);
    let clock = move || start + Duration::from_millis(millis.load(Ordering::SeqCst));
    let disk_of_it = Arc::clone(&disk) as Arc<dyn Disk>;
    let block = Block::with_clock(disk_of_it, &config, Box::new(clock)).unwrap();
    let mut driver = Driver::new(block, Workers::Caller);
    driver.start(FLUSH, 64);
    let header = driver.header(4, 0);
    for _ in 0..31 {
        driver.push(0, &[header, inward(STATUS, 1)]);
    }
    driver.notify(0);
    // One, and one that the burst allows.
    assert_eq!(disk.take_log().len(), 2);
    for _ in 0..29 {
        passed.fetch_add(99, Ordering::SeqCst);
        driver.notify(0);
        assert_eq!(disk.take_log().len(), 0);
        passed.fetch_add(1, Ordering::SeqCst);
        driver.notify(0);
        assert_eq!(disk.take_log().len(), 1);
    }
    passed.fetch_add(10_000, Ordering::SeqCst);
    driver.notify(0);
    assert_eq!(disk.take_log().len(), 0);
    assert_eq!((0..32).filter_map(|_| driver.used(0)).count(), 31);
}

#[test]
fn workers_wait_out_the_limit() {
    let disk = Recording::new(64);
    let config = BlockConfig {
        iops_limit: 1000,
        ..BlockConfig::default()
    };
    let mut driver = Driver::new(device(&disk, &config), Workers::Threads(2));
    driver.start(FLUSH, 256);
    let header = driver.header(4, 0);
    for _ in 0..127 {
        driver.push(0, &[header, inward(STATUS, 1)]);
    }
    // One notification is enough for all, however long it takes.
    driver.notify(0);
    let mut came = 0;
    while came < 127 {
        match driver.used(0) {
            Some(_) => came += 1,
            None => std::thread::yield_now(),
        }
    }
    assert_eq!(disk.take_log(), vec!["flush"; 127]);
}

#[test]
fn a_pause_waits_for_requests_in_flight_and_nothing_is_done_twice() {
    let (disk, arrivals, open) = Recording::gated(64);
    let mut driver = Driver::new(device(&disk, &BlockConfig::default()), Workers::Threads(2));
    driver.start(FLUSH, 16);
    let header = driver.header(OUT, 7);
    let request = [header, out(DATA, 512), inward(STATUS, 1)];
    for _ in 0..5 {
        driver.push(0, &request);
    }
    driver.notify(0);
    // Both workers are in a request.
    arrivals.recv().unwrap();
    arrivals.recv().unwrap();
    let held = Arc::clone(&driver.device);
    let pause = std::thread::spawn(move || held.pause());
    while !driver.device.mmio.core().is_paused() {
        std::thread::yield_now();
    }
    open.send(()).unwrap();
    open.send(()).unwrap();
    pause.join().unwrap();
    // What was in flight is done, the rest is in the ring.
    assert_eq!(disk.take_log().len(), 2);
    assert!(arrivals.try_recv().is_err(), "work began in the pause");
    let saved = driver.device.save();

    // It goes on behind another device, which has the rest to do.
    let (other, arrivals, open) = Recording::gated(64);
    let target = Driver::over(
        device(&other, &BlockConfig::default()),
        Workers::Threads(2),
        Arc::clone(&driver.ram),
    );
    target.device.load(&saved).unwrap();
    assert!(
        arrivals.try_recv().is_err(),
        "work began before it was resumed"
    );
    for _ in 0..5 {
        open.send(()).unwrap();
    }
    target.device.resume();
    let mut came = 0;
    while came < 5 {
        match driver.used(0) {
            Some((_, written)) => {
                assert_eq!(written, 1);
                came += 1;
            }
            None => std::thread::yield_now(),
        }
    }
    target.device.pause();
    assert_eq!(other.take_log().len(), 3);
    assert!(driver.used(0).is_none());
}

#[test]
fn what_a_driver_changes_is_marked_once_it_is_done() {
    let (disk, arrivals, open) = Recording::gated(1024);
    let mut driver = Driver::new(device(&disk, &BlockConfig::default()), Workers::Threads(1));
    driver.start(FLUSH, 16);
    let written = driver.device.record().unwrap();
    let header = driver.header(OUT, 200);
    driver.push(0, &[header, out(DATA, 512), inward(STATUS, 1)]);
    driver.notify(0);
    arrivals.recv().unwrap();
    assert_eq!(written.take(), [], "it is still being written");
    open.send(()).unwrap();
    // A device that is drained has marked all that it did.
    driver.device.pause();
    let second = 64 << 10..128 << 10;
    assert_eq!(written.take(), [second]);
}

#[test]
fn every_kind_of_change_is_marked_for_each_that_follows() {
    let disk = Recording::new(1024);
    let mut driver = driver(&disk);
    let cluster = |n: u64| n * (64 << 10)..(n + 1) * (64 << 10);
    let [first, second] = [(); 2].map(|()| driver.device.record().unwrap());
    assert_eq!(driver.ask(OUT, 127, &[out(DATA, 1024)]).0, OK);
    let edge = 0..128 << 10;
    assert_eq!(second.take(), [edge], "over the edge of one");
    assert_eq!(driver.ranges(11, &[(300, 8, 0), (900, 8, 0)]), OK);
    assert_eq!(driver.ranges(13, &[(600, 8, 1)]), OK);
    assert_eq!(driver.ask(IN, 800, &[inward(DATA, 512)]).0, OK);
    assert_eq!(driver.ask(4, 0, &[]).0, OK);
    let later = [cluster(2), cluster(4), cluster(7)];
    assert_eq!(second.take(), later);
    assert_eq!(first.take(), [0..192 << 10, cluster(4), cluster(7)]);
    // A write that fails may have written some of it.
    disk.fails.store(true, Ordering::SeqCst);
    assert_eq!(driver.ask(OUT, 640, &[out(DATA, 512)]).0, IOERR);
    assert_eq!(first.take(), [cluster(5)]);
    drop((first, second));
    assert_eq!(driver.device.followers(), 0);
}

#[test]
fn a_reset_ends_when_the_last_request_does_and_forgets_it() {
    let (disk, arrivals, open) = Recording::gated(64);
    let mut driver = Driver::new(device(&disk, &BlockConfig::default()), Workers::Threads(1));
    driver.start(FLUSH, 16);
    let header = driver.header(OUT, 7);
    driver.push(0, &[header, out(DATA, 512), inward(STATUS, 1)]);
    driver.push(0, &[header, out(DATA, 512), inward(STATUS, 1)]);
    driver.notify(0);
    arrivals.recv().unwrap();
    driver.lines.take();
    // The write returns although the disk hangs; the status says that the reset has not ended.
    driver.set_status(0);
    assert_eq!(driver.status(), DRIVER_OK);
    // Nothing can be done with it meanwhile.
    driver.set_status(DRIVER_OK);
    driver.notify(0);
    driver.accept(u64::MAX);
    driver.set(0x44, 0);
    open.send(()).unwrap();
    while driver.status() != 0 {
        std::thread::yield_now();
    }
    assert_eq!(driver.used(0), None, "a request came back after the reset");
    assert_eq!(driver.lines.take(), 0);
    assert_eq!(disk.take_log(), ["write 3584"]);
    assert!(arrivals.try_recv().is_err());
    // And it works again.
    driver.start(FLUSH, 16);
    let header = driver.header(4, 0);
    driver.push(0, &[header, inward(STATUS, 1)]);
    open.send(()).unwrap();
    driver.notify(0);
    while driver.used(0).is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_dropped_device_ends_what_is_in_flight_and_its_threads() {
    let (disk, arrivals, open) = Recording::gated(64);
    let mut driver = Driver::new(device(&disk, &BlockConfig::default()), Workers::Threads(2));
    driver.start(FLUSH, 16);
    let header = driver.header(4, 0);
    driver.push(0, &[header, inward(STATUS, 1)]);
    driver.notify(0);
    arrivals.recv().unwrap();
    open.send(()).unwrap();
    drop(driver);
    assert_eq!(disk.take_log(), ["flush"]);
    assert_eq!(Arc::strong_count(&disk), 1);
}

#[test]
fn another_disk_on_the_other_side_is_refused_by_name() {
    let disk = Recording::new(64);
    let driver = driver(&disk);
    driver.device.pause();
    let saved = driver.device.save();
    let config = BlockConfig {
        serial: "root".into(),
        ..BlockConfig::default()
    };
    let small = Driver::paused(device(&Recording::new(63), &config), Workers::Caller);
    let error = small.device.load(&saved).unwrap_err().to_string();
    assert!(
        error.contains("disk `root` has 64 sectors, here it has 63"),
        "{error}"
    );
    let read_only = BlockConfig {
        read_only: true,
        ..config
    };
    let other = Driver::paused(device(&disk, &read_only), Workers::Caller);
    let error = other.device.load(&saved).unwrap_err().to_string();
    assert!(error.contains("uses features 0x6000"), "{error}");
}

mod files {
    use super::*;

    fn file(sectors: u64) -> (tempfile::NamedTempFile, Block) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(sectors * SECTOR).unwrap();
        let disk = FileDisk::open(file.path(), false).unwrap();
        let block = Block::new(Arc::new(disk), &BlockConfig::default()).unwrap();
        (file, block)
    }

    #[test]
    fn a_file_holds_what_was_written_and_pages_read_are_recorded() {
        let (file, block) = file(64);
        let mut driver = Driver::new(block, Workers::Threads(1));
        driver.start(FLUSH, 16);
        let wait = |driver: &mut Driver<Block>| {
            while driver.used(0).is_none() {
                std::thread::yield_now();
            }
            driver.device.pause();
            driver.device.resume();
            driver.bytes(STATUS, 1)[0]
        };
        driver.ram.write(DATA, &[3; 8192]).unwrap();
        let header = driver.header(OUT, 1);
        driver.push(0, &[header, out(DATA, 4096), inward(STATUS, 1)]);
        driver.notify(0);
        assert_eq!(wait(&mut driver), OK);
        let mut wanted = vec![0; 64 * 512];
        wanted[512..512 + 4096].fill(3);
        assert_eq!(std::fs::read(file.path()).unwrap(), wanted);

        // A migration sees what the disk wrote into memory.
        let log = Arc::clone(&driver.lines) as Arc<dyn crate::memory::DirtyLog>;
        let harvester = crate::memory::Harvester::new(Arc::clone(&driver.ram), log);
        let migration = harvester.subscribe().unwrap();
        migration.harvest().unwrap();
        let header = driver.header(IN, 1);
        let at = DATA + 0x4000 + 100;
        driver.push(0, &[header, inward(at, 8192), inward(STATUS, 1)]);
        driver.notify(0);
        assert_eq!(wait(&mut driver), OK);
        let changed = migration.harvest().unwrap().pages;
        for page in at / 4096..=(at + 8191) / 4096 {
            assert!(changed.contains(page), "page {page}");
        }
        assert!(changed.contains(STATUS / 4096));
        assert!(changed.contains(driver.rings[0].used / 4096));
        assert!(!changed.contains((at + 8192) / 4096 + 1));
        assert_eq!(driver.bytes(at, 8192), wanted[512..512 + 8192]);
    }

    #[test]
    fn a_file_that_shrank_is_an_error_of_the_request() {
        let (file, block) = file(64);
        let mut driver = Driver::new(block, Workers::Caller);
        driver.start(FLUSH, 16);
        file.as_file().set_len(512).unwrap();
        assert_eq!(driver.ask(IN, 0, &[inward(DATA, 1024)]), (IOERR, 1));
        assert_eq!(driver.ask(IN, 0, &[inward(DATA, 512)]), (OK, 513));
    }

    #[test]
    fn zeros_and_discards_reach_the_file() {
        let (file, block) = file(64);
        std::fs::write(file.path(), [1; 64 * 512]).unwrap();
        let mut driver = Driver::new(block, Workers::Caller);
        driver.start(FLUSH, 16);
        assert_eq!(driver.ranges(13, &[(8, 8, 0)]), OK);
        assert_eq!(driver.ranges(13, &[(32, 8, 1)]), OK);
        let status = driver.ranges(11, &[(16, 8, 0)]);
        assert!(status == OK || status == UNSUPP, "{status}");
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(bytes.len(), 64 * 512);
        for (sector, zeros) in [
            (0, false),
            (8, true),
            (15, true),
            (24, false),
            (32, true),
            (40, false),
        ] {
            let byte = u8::from(!zeros);
            assert_eq!(bytes[sector * 512..][..512], [byte; 512], "sector {sector}");
        }
    }

    #[test]
    fn a_file_is_opened_anew_where_it_was() {
        let (file, block) = file(64);
        let mut driver = Driver::new(block, Workers::Caller);
        driver.start(FLUSH, 16);
        let other = tempfile::NamedTempFile::new_in(file.path().parent().unwrap()).unwrap();
        std::fs::write(other.path(), [5; 64 * 512]).unwrap();
        other.persist(file.path()).unwrap();
        driver.device.reopen().unwrap();
        assert_eq!(driver.ask(IN, 0, &[inward(DATA, 512)]), (OK, 513));
        assert_eq!(driver.bytes(DATA, 512), [5; 512]);
        driver.device.flush().unwrap();
    }

    #[test]
    fn a_file_that_is_only_read_needs_no_more_than_that() {
        let (file, _) = file(8);
        let disk = FileDisk::open(file.path(), true).unwrap();
        disk.flush().unwrap();
        let ram = GuestRam::allocate(RAM, crate::memory::Backing::Memfd).unwrap();
        let piece = GuestPiece { gpa: 0, len: 512 };
        assert!(disk.write(0, &ram, &[piece]).is_err());
        disk.read(0, &ram, &[piece]).unwrap();
    }
}

proptest! {
    /// Requests of every kind in any order leave the file as they leave a model of it.
    #[test]
    fn a_disk_does_what_its_model_does(requests in proptest::collection::vec((0_u32..5, 0_u64..40, 1_u32..9, any::<u8>()), 1..40)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32 * SECTOR).unwrap();
        let disk = FileDisk::open(file.path(), false).unwrap();
        let block = Block::new(Arc::new(disk), &BlockConfig::default()).unwrap();
        let mut driver = Driver::new(block, Workers::Caller);
        driver.start(driver.offered(), 8);
        let mut model = BTreeMap::new();
        for (kind, sector, count, byte) in requests {
            let (fits, len) = (sector + u64::from(count) <= 32, count * 512);
            let sectors = sector..sector + u64::from(count);
            let wanted = if fits { OK } else { IOERR };
            match kind {
                0 => {
                    driver.ram.write(DATA, &vec![byte; len as usize]).unwrap();
                    prop_assert_eq!(driver.ask(OUT, sector, &[out(DATA, len)]).0, wanted);
                    if fits {
                        model.extend(sectors.map(|sector| (sector, byte)));
                    }
                }
                1 => {
                    prop_assert_eq!(driver.ask(IN, sector, &[inward(DATA, len)]).0, wanted);
                    if fits {
                        for (i, sector) in sectors.enumerate() {
                            let byte = model.get(&sector).copied().unwrap_or(0);
                            prop_assert_eq!(driver.bytes(DATA + i as u64 * 512, 512), [byte; 512]);
                        }
                    }
                }
                2 => {
                    prop_assert_eq!(driver.ranges(13, &[(sector, count, u32::from(byte & 1))]), wanted);
                    if fits {
                        model.extend(sectors.map(|sector| (sector, 0)));
                    }
                }
                3 => prop_assert_eq!(driver.ask(4, sector, &[]).0, OK),
                _ => {
                    // In the middle of it the device moves on to another one.
                    driver.device.pause();
                    let saved = driver.device.save();
                    let disk = FileDisk::open(file.path(), false).unwrap();
                    let block = Block::new(Arc::new(disk), &BlockConfig::default()).unwrap();
                    let next = Driver::over(block, Workers::Caller, Arc::clone(&driver.ram));
                    next.device.load(&saved).unwrap();
                    prop_assert_eq!(&next.device.save(), &saved);
                    next.device.resume();
                    driver.device = next.device;
                }
            }
        }
        prop_assert_eq!(driver.status(), DRIVER_OK);
    }
}
