//! What a guest reaches in memory that is no RAM: its virtio devices.
#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::Arc;

use super::map::{VIRTIO_MAX, VIRTIO_SIZE, virtio_base, virtio_gsi};
use super::virtio::{
    Balloon, Block, BlockConfig, FileDisk, MmioDevice, Place, Rng, Virtio, Workers,
};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Kind, Section, Vm};
use crate::machine::machine::DiskConfig;
use crate::memory::GuestRam;
use crate::storage::Written;

/// Threads of a disk whose config names no number: while one waits for the host's file the other takes
/// the next request.
const IO_THREADS: u8 = 2;

/// The numbers of the devices, which say where they are ([`map`](super::map)). Part of the saved format.
const DISK: u32 = 0;
const RNG: u32 = 1;
const BALLOON: u32 = 2;
const _: () = assert!(BALLOON < VIRTIO_MAX);

/// The devices in memory.
#[derive(Default)]
pub(in crate::machine) struct Bus {
    /// With their numbers.
    devices: Vec<(u32, Arc<dyn MmioDevice>)>,
    disk: Option<Arc<Virtio<Block>>>,
    balloon: Option<Arc<Virtio<Balloon>>>,
}

/// What a guest has read and written of its disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

impl Bus {
    /// The devices of a machine; their threads are named after `name`. With `drivers` the guest is one that
    /// may have drivers for any of them.
    ///
    /// # Errors
    ///
    /// `io` naming the disk that cannot be opened, `resource_limit` for threads.
    pub(in crate::machine) fn new(
        name: &str,
        disk: Option<&DiskConfig>,
        drivers: bool,
        ram: &Arc<GuestRam>,
        vm: &Arc<dyn Vm>,
    ) -> Result<Self> {
        let mut bus = Self::default();
        if let Some(config) = disk {
            let file = FileDisk::open(&config.path, false)
                .map_err(|error| DWCPError::Io(format!("{}: {error}", config.path.display())))?;
            let block = BlockConfig {
                read_only: false,
                serial: config.serial.clone(),
                iops_limit: config.iops_limit,
            };
            let threads = match config.io_threads {
                0 => IO_THREADS,
                count => u8::try_from(count).unwrap_or(u8::MAX),
            };
            let disk = Arc::new(Virtio::new(
                &format!("{name}/disk"),
                place(DISK),
                Block::new(Arc::new(file), &block)?,
                ram,
                vm,
                Workers::Threads(threads),
            )?);
            bus.devices
                .push((DISK, Arc::clone(&disk) as Arc<dyn MmioDevice>));
            bus.disk = Some(disk);
        }
        if drivers {
            let one = Workers::Threads(1);
            let name = |device| format!("{name}/{device}");
            let rng = Virtio::new(&name("rng"), place(RNG), Rng, ram, vm, one)?;
            bus.devices.push((RNG, Arc::new(rng)));
            let balloon = Balloon::default();
            let balloon = Virtio::new(&name("balloon"), place(BALLOON), balloon, ram, vm, one)?;
            let balloon = Arc::new(balloon);
            bus.devices
                .push((BALLOON, Arc::clone(&balloon) as Arc<dyn MmioDevice>));
            bus.balloon = Some(balloon);
        }
        Ok(bus)
    }

    /// The numbers of the virtio-mmio devices that are there.
    pub(super) fn virtio(&self) -> Vec<u32> {
        self.devices.iter().map(|(index, _)| *index).collect()
    }

    /// A vCPU reads memory that is no RAM: where nothing is, ones, as an empty bus answers.
    pub(in crate::machine) fn read(&self, gpa: u64, data: &mut [u8]) {
        match self.find(gpa) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A vCPU writes memory that is no RAM.
    pub(in crate::machine) fn write(&self, gpa: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(gpa) {
            device.write(offset, data);
        }
    }

    fn find(&self, gpa: u64) -> Option<(&dyn MmioDevice, u64)> {
        self.devices.iter().find_map(|(index, device)| {
            let offset = gpa.checked_sub(virtio_base(*index))?;
            (offset < VIRTIO_SIZE).then_some((&**device, offset))
        })
    }

    /// Ends all work of the devices, whose vCPUs are parked.
    pub(in crate::machine) fn pause(&self) {
        for (_, device) in &self.devices {
            device.pause();
        }
    }

    /// Lets the devices work.
    pub(in crate::machine) fn resume(&self) {
        for (_, device) in &self.devices {
            device.resume();
        }
    }

    pub(super) fn reset(&self) {
        for (_, device) in &self.devices {
            device.reset();
        }
    }

    pub(super) fn save(&self) -> Vec<Section> {
        let devices = self.devices.iter();
        devices.flat_map(|(_, device)| device.save()).collect()
    }

    pub(super) fn load(&self, sections: &[Section]) -> Result<()> {
        let here = |section: &Section| self.devices.iter().any(|(n, _)| *n == section.instance);
        let mut devices = sections.iter().filter(|s| s.kind == Kind::VirtioCore);
        if let Some(other) = devices.find(|section| !here(section)) {
            return Err(DWCPError::Migration(format!(
                "machine state refused: it is of a machine with a virtio device {}, which this one has not",
                other.instance
            )));
        }
        for (_, device) in &self.devices {
            device.load(sections)?;
        }
        Ok(())
    }

    /// Makes durable what the guest wrote.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(in crate::machine) fn flush(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.flush())
    }

    /// Sees what another host wrote to the disk. Before the guest runs.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(in crate::machine) fn reopen(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.reopen())
    }

    /// The disk's file, to be copied, and what the guest changes from now on; `None`: there is no such disk.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(in crate::machine) fn follow_disk(&self) -> Result<Option<(Arc<File>, Arc<Written>)>> {
        self.disk.as_ref().map_or(Ok(None), |disk| disk.follow())
    }

    /// The disk's file.
    pub(in crate::machine) fn disk_file(&self) -> Option<Arc<File>> {
        self.disk.as_ref().and_then(|disk| disk.file())
    }

    /// Its disk, for tests that write in the guest's place.
    #[cfg(test)]
    pub(in crate::machine) fn disk(&self) -> &Virtio<Block> {
        self.disk.as_ref().unwrap()
    }

    /// Asks the guest to lend so many bytes of its memory. False: this machine has no balloon.
    pub(in crate::machine) fn borrow_memory(&self, bytes: u64) -> bool {
        let balloon = self.balloon.as_ref();
        balloon.map(|balloon| balloon.set_target(bytes)).is_some()
    }

    /// Asks the guest about its memory: [`available_memory`](Self::available_memory) tells what it answered. A
    /// guest that has no driver for that is not asked.
    pub(in crate::machine) fn ask_memory(&self) {
        if let Some(balloon) = &self.balloon {
            balloon.ask_statistics();
        }
    }

    /// Bytes of memory that the guest last said its programs could still get.
    pub(in crate::machine) fn available_memory(&self) -> Option<u64> {
        self.balloon.as_ref()?.statistics().available
    }

    /// What was read and written so far.
    pub(in crate::machine) fn disk_usage(&self) -> DiskUsage {
        let counters = self.disk.as_ref().map(|disk| disk.counters());
        counters.map_or_else(DiskUsage::default, |counters| DiskUsage {
            read: counters.bytes_read,
            written: counters.bytes_written,
        })
    }
}

fn place(index: u32) -> Place {
    Place {
        instance: index,
        gsi: virtio_gsi(index),
    }
}
