//! A disk: chapter 5.2 of the specification.
//!
//! `config` is what the driver reads of it, `request` what it asks for, `disk` where the bytes are,
//! `limit` how many requests there may be in a second.
#![forbid(unsafe_code)]

mod config;
mod disk;
mod limit;
mod request;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

pub(in crate::machine) use self::disk::{Disk, FileDisk};
use self::limit::Limit;
use super::chain::Chain;
use super::device::{Device, Handled, read_bytes};
use super::queue::MAX_QUEUE_SIZE;
use super::{Virtio, refused};
use crate::error::Result;
use crate::hypervisor::{Kind, Reader, Writer};
use crate::memory::GuestRam;
use crate::storage::Written;

/// Bytes of a sector, the unit in which a driver counts whatever its blocks are.
pub(super) const SECTOR: u64 = 512;

/// What a disk is to its guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::machine) struct BlockConfig {
    /// The guest cannot write it.
    pub(in crate::machine) read_only: bool,
    /// Names it to the guest: `/dev/disk/by-id/virtio-…`. The first 20 bytes count.
    pub(in crate::machine) serial: String,
    /// Requests in a second; 0: any number.
    pub(in crate::machine) iops_limit: u64,
}

/// What was done for the guest since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::machine) struct Counters {
    /// Bytes it read.
    pub(in crate::machine) bytes_read: u64,
    /// Bytes it wrote.
    pub(in crate::machine) bytes_written: u64,
    /// Requests that were carried out, failed ones among them.
    pub(in crate::machine) operations: u64,
}

type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// The device.
pub(in crate::machine) struct Block {
    disk: Arc<dyn Disk>,
    read_only: bool,
    serial: String,
    /// Size in sectors, as the driver was told.
    capacity: AtomicU64,
    /// The driver flushes; if it does not, every write is durable when it is done.
    driver_flushes: AtomicBool,
    limit: Option<Mutex<Limit>>,
    /// What the time is.
    clock: Clock,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    operations: AtomicU64,
    /// The host's first failure has been told.
    complained: AtomicBool,
    /// Of who copies the disk meanwhile: each has its own, and is gone when it is.
    written: RwLock<Vec<Weak<Written>>>,
}

impl Block {
    /// A disk over what holds its bytes.
    ///
    /// # Errors
    ///
    /// Those of the disk, when its size cannot be told.
    pub(in crate::machine) fn new(disk: Arc<dyn Disk>, config: &BlockConfig) -> Result<Self> {
        Self::with_clock(disk, config, Box::new(Instant::now))
    }

    fn with_clock(disk: Arc<dyn Disk>, config: &BlockConfig, clock: Clock) -> Result<Self> {
        let capacity = disk.size()? / SECTOR;
        let limit = Limit::new(config.iops_limit, clock());
        Ok(Self {
            disk,
            read_only: config.read_only,
            serial: config.serial.clone(),
            capacity: AtomicU64::new(capacity),
            driver_flushes: AtomicBool::new(false),
            limit: limit.map(Mutex::new),
            clock,
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            complained: AtomicBool::new(false),
            written: RwLock::default(),
        })
    }

    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::SeqCst)
    }

    /// A range was changed, or a part of it: told once that is done, see [`Written`].
    fn changed(&self, offset: u64, len: u64) {
        let written = self.written.read().unwrap_or_else(PoisonError::into_inner);
        for own in written.iter().filter_map(Weak::upgrade) {
            own.mark(&(offset..offset + len));
        }
    }

    /// Carries a change out and tells of it, also of one that failed: some of it may have been made.
    fn change(
        &self,
        range: &Range<u64>,
        change: impl FnOnce(u64, u64) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let len = range.end - range.start;
        let done = change(range.start, len);
        self.changed(range.start, len);
        done
    }

    /// A failure of the host's file: the guest gets an error, and the operator has to know. Once, for a
    /// guest can bring about as many as it likes.
    fn complain(&self, error: &std::io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, disk = self.serial, "a disk's file failed; told only this once");
        }
    }
}

impl Device for Block {
    fn id(&self) -> u32 {
        config::ID
    }

    fn features(&self) -> u64 {
        config::features(self.read_only)
    }

    fn queues(&self) -> &'static [u16] {
        &[MAX_QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&config::space(self.capacity()), offset, data);
    }

    fn activate(&self, features: u64) {
        let flushes = config::driver_flushes(features);
        self.driver_flushes.store(flushes, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.driver_flushes.store(false, Ordering::SeqCst);
    }

    fn hold_back(&self, _queue: usize) -> Option<Duration> {
        let limit = self.limit.as_ref()?;
        let limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.wait((self.clock)())
    }

    fn handle(&self, _queue: usize, chain: Chain, ram: &GuestRam) -> Handled {
        if let Some(limit) = &self.limit {
            let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            limit.take((self.clock)());
        }
        self.operations.fetch_add(1, Ordering::Relaxed);
        request::carry_out(self, chain, ram)
    }

    fn kind(&self) -> Kind {
        Kind::VirtioBlock
    }

    fn save(&self, out: &mut Writer) {
        out.u64(self.capacity());
    }

    fn load(&self, reader: &mut Reader<'_>) -> Result<()> {
        let (there, here) = (reader.u64()?, self.disk.size()? / SECTOR);
        if there > here {
            return Err(refused(&format!(
                "disk `{}` has {there} sectors, here it has {here}",
                self.serial
            )));
        }
        self.capacity.store(there, Ordering::SeqCst);
        Ok(())
    }
}

impl Virtio<Block> {
    /// Makes durable what the guest wrote. Works on a running machine; blocks.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(in crate::machine) fn flush(&self) -> Result<()> {
        Ok(self.device.disk.flush()?)
    }

    /// Opens the disk anew, so that what another host wrote to it is seen. Before the guest runs.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(in crate::machine) fn reopen(&self) -> Result<()> {
        Ok(self.device.disk.reopen()?)
    }

    /// Its file, to be copied, and what the guest changes from now on, for as long as that is kept. `None` where its
    /// bytes are in no file.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(in crate::machine) fn follow(&self) -> Result<Option<(Arc<File>, Arc<Written>)>> {
        let Some(file) = self.device.disk.file() else {
            return Ok(None);
        };
        Ok(Some((file, self.record()?)))
    }

    /// What the guest changes from now on, for as long as that is kept.
    fn record(&self) -> Result<Arc<Written>> {
        let own = Arc::new(Written::new(self.device.disk.size()?));
        let written = self.device.written.write();
        let mut written = written.unwrap_or_else(PoisonError::into_inner);
        written.retain(|other| other.strong_count() > 0);
        written.push(Arc::downgrade(&own));
        Ok(own)
    }

    /// Its file, which another node fills before the guest runs.
    pub(in crate::machine) fn file(&self) -> Option<Arc<File>> {
        self.device.disk.file()
    }

    /// Writes as the guest would.
    #[cfg(test)]
    pub(in crate::machine) fn write_as_guest(&self, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = self.file().unwrap();
        let range = offset..offset + bytes.len() as u64;
        let write = |at, _| file.write_all_at(bytes, at);
        self.device.change(&range, write).unwrap();
    }

    /// How many follow what is changed.
    #[cfg(test)]
    pub(in crate::machine) fn followers(&self) -> usize {
        let written = self.device.written.read().unwrap();
        written.iter().filter(|own| own.strong_count() > 0).count()
    }

    /// Discards as the guest would.
    #[cfg(test)]
    pub(in crate::machine) fn discard_as_guest(&self, range: &Range<u64>) {
        let disk = &self.device.disk;
        let discard = |at, len| disk.discard(at, len);
        self.device.change(range, discard).unwrap();
    }

    /// What was done for the guest so far. Never waits for the device.
    pub(in crate::machine) fn counters(&self) -> Counters {
        let device = &self.device;
        Counters {
            bytes_read: device.bytes_read.load(Ordering::Relaxed),
            bytes_written: device.bytes_written.load(Ordering::Relaxed),
            operations: device.operations.load(Ordering::Relaxed),
        }
    }
}
