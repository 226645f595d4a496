//! The entries of fuzzing, and of a test that does the same with fewer bytes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "what fails here is to be found")]

use std::io;
use std::sync::Arc;

use super::MmioDevice;
use super::balloon::Balloon;
use super::block::{Block, BlockConfig, Disk};
use super::core::Workers;
use super::device::Device;
use super::driver::*;
use super::rng::Rng;
use crate::memory::{Backing, GuestPiece, GuestRam};

/// Operations on the registers, the rings and the machine of a device, which the first byte chooses;
/// its driver has done nothing before.
///
/// # Panics
///
/// When a device does what it must not: see [`Play`].
pub(crate) fn fuzz_registers(data: &[u8]) {
    match data.split_first() {
        Some((0, rest)) => Play::new(rest, block).run(),
        Some((1, rest)) => Play::new(rest, || Rng).run(),
        Some((_, rest)) => Play::new(rest, Balloon::default).run(),
        None => {}
    }
}

/// The same operations on a disk with a driver; those of requests have something to do.
///
/// # Panics
///
/// As [`fuzz_registers`].
pub(crate) fn fuzz_block(data: &[u8]) {
    Play::started(data, block).run();
}

/// The same for a source of randomness.
///
/// # Panics
///
/// As [`fuzz_registers`].
pub(crate) fn fuzz_rng(data: &[u8]) {
    Play::started(data, || Rng).run();
}

/// The same for a balloon.
///
/// # Panics
///
/// As [`fuzz_registers`].
pub(crate) fn fuzz_balloon(data: &[u8]) {
    Play::started(data, Balloon::default).run();
}

/// Sectors of the disk.
const SECTORS: u64 = 64;

/// A disk that nothing outside of it reaches.
struct Bounds;

impl Bounds {
    fn hold(offset: u64, len: u64) -> io::Result<()> {
        assert!(
            offset + len <= SECTORS * 512,
            "{offset}+{len} is outside the disk"
        );
        assert!(
            len > 0 && offset.is_multiple_of(512) && len.is_multiple_of(512),
            "{offset}+{len} is no sectors"
        );
        Ok(())
    }

    fn hold_pieces(offset: u64, ram: &GuestRam, pieces: &[GuestPiece]) -> io::Result<()> {
        for piece in pieces {
            let at = ram.layout().offset_at(piece.gpa, piece.len.into());
            assert!(at.is_some() && piece.len > 0, "{piece:?} is no memory");
        }
        Self::hold(
            offset,
            pieces.iter().map(|piece| u64::from(piece.len)).sum(),
        )
    }
}

impl Disk for Bounds {
    fn size(&self) -> io::Result<u64> {
        Ok(SECTORS * 512)
    }
    fn read(&self, offset: u64, ram: &GuestRam, into: &[GuestPiece]) -> io::Result<()> {
        Self::hold_pieces(offset, ram, into)?;
        for piece in into {
            ram.write(piece.gpa, &vec![0x5a; piece.len as usize])
                .unwrap();
        }
        Ok(())
    }
    fn write(&self, offset: u64, ram: &GuestRam, from: &[GuestPiece]) -> io::Result<()> {
        Self::hold_pieces(offset, ram, from)
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        Self::hold(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, _may_discard: bool) -> io::Result<()> {
        Self::hold(offset, len)
    }
    fn reopen(&self) -> io::Result<()> {
        Ok(())
    }
}

fn block() -> Block {
    Block::new(Arc::new(Bounds), &BlockConfig::default()).unwrap()
}

/// A device to which the bytes say what is done. What is held against it: it does not panic, a disk is
/// reached only where it is, a machine that saves and loads it has the same device afterwards, and after
/// a reset a driver can use it again.
struct Play<'a, D, F> {
    bytes: Bytes<'a>,
    make: F,
    driver: Driver<D>,
}

/// Places that operations lead to: the rings of the driver, its buffers, the ends of memory.
const PLACES: [u64; 8] = [
    0x1_0000,
    0x1_2000,
    0x1_4000,
    0x2_0000,
    BUFFERS,
    BUFFERS + 0x1000,
    SMALL - 8,
    u64::MAX - 64,
];

/// The memory of the guest: smaller than in the tests, so that there is more outside.
const SMALL: u64 = 2 << 20;

impl<'a, D: Device + 'static, F: Fn() -> D> Play<'a, D, F> {
    fn new(bytes: &'a [u8], make: F) -> Self {
        let ram = GuestRam::allocate(SMALL, Backing::Memfd).unwrap();
        let driver = Driver::over(make(), Workers::Caller, ram);
        driver.device.resume();
        Self {
            bytes: Bytes(bytes),
            make,
            driver,
        }
    }

    fn started(bytes: &'a [u8], make: F) -> Self {
        let mut play = Self::new(bytes, make);
        play.driver.start(play.driver.offered(), 8);
        play
    }

    fn run(mut self) {
        while let Some(operation) = self.bytes.byte() {
            self.operation(operation);
        }
        self.again();
        self.driver.start(0, 4);
        assert_eq!(self.driver.status(), DRIVER_OK);
    }

    fn operation(&mut self, operation: u8) {
        let queues = self.driver.rings.len();
        match operation % 10 {
            0 => {
                let (register, value) = (self.bytes.byte(), self.bytes.word());
                self.driver.set(u32::from(register.unwrap_or(0)) * 4, value);
            }
            1 => {
                let (offset, len) = (self.bytes.word() & 0x1ff, self.bytes.byte().unwrap_or(0));
                self.driver
                    .device
                    .read(offset.into(), &mut vec![0; len.into()]);
            }
            2 => {
                let (at, len) = (self.place(), self.bytes.byte().unwrap_or(0) % 64);
                let bytes = self.bytes.some(len.into());
                let _ = self.driver.ram.write(at, bytes);
            }
            3 => {
                let (offset, len) = (self.bytes.word() & 0x1ff, self.bytes.byte().unwrap_or(0));
                let bytes = self.bytes.some((len % 9).into());
                self.driver.device.write(offset.into(), bytes);
            }
            4 => self.again(),
            5 => {
                self.driver.device.pause();
                self.driver.device.reset();
                self.driver.device.resume();
            }
            6 => {
                let (features, size) = (self.bytes.word(), self.bytes.byte().unwrap_or(0) % 4);
                let features = self.driver.offered() & u64::from(features);
                self.driver.start(features, 2 << size);
            }
            7 if queues > 0 => {
                let queue = usize::from(self.bytes.byte().unwrap_or(0)) % queues;
                self.request(queue);
            }
            8 => self.driver.notify(self.bytes.byte().unwrap_or(0).into()),
            _ => self
                .driver
                .set_status(self.bytes.byte().unwrap_or(0).into()),
        }
    }

    fn place(&mut self) -> u64 {
        let place = self.bytes.byte().unwrap_or(0);
        PLACES[usize::from(place) % PLACES.len()]
            .wrapping_add(self.bytes.byte().unwrap_or(0).into())
    }

    /// A chain whose descriptors are as the bytes say, the first with their contents.
    fn request(&mut self, queue: usize) {
        let count = self.bytes.byte().unwrap_or(0) % 6 + 1;
        let mut buffers = Vec::new();
        for _ in 0..count {
            let (gpa, flags) = (self.place(), self.bytes.byte().unwrap_or(0));
            let len = match flags >> 4 {
                0..8 => u32::from(self.bytes.byte().unwrap_or(0)),
                8..14 => u32::from(self.bytes.byte().unwrap_or(0)) << 9,
                _ => self.bytes.word(),
            };
            // Mostly what a driver sets: nothing or "to write".
            let flags = if flags & 8 == 0 { flags & 2 } else { flags & 7 };
            buffers.push(Descriptor {
                gpa,
                len,
                flags: flags.into(),
                next: 0,
            });
        }
        let len = self.bytes.byte().unwrap_or(0) % 33;
        let contents = self.bytes.some(len.into());
        let _ = self.driver.ram.write(buffers[0].gpa, contents);
        // The driver's rings may have been overwritten, but they are where they were.
        self.driver.push(queue, &buffers);
        self.driver.notify(queue);
    }

    /// The device goes on as another one.
    fn again(&mut self) {
        self.driver.device.pause();
        let saved = self.driver.device.save();
        let ram = Arc::clone(&self.driver.ram);
        let next = Driver::over((self.make)(), Workers::Caller, ram);
        next.device.load(&saved).unwrap();
        assert_eq!(next.device.save(), saved);
        next.device.resume();
        self.driver.device = next.device;
    }
}

/// The bytes that are left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// At most so many.
    fn some(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Four bytes, zeros where there are no more.
    fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        let bytes = self.some(4);
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_makes_a_device_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_registers(&data);
            fuzz_block(&data);
            fuzz_rng(&data);
            fuzz_balloon(&data);
        }
    }
}
