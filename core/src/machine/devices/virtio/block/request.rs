//! A driver's request to a disk: a header, data, and a status of one byte at the end.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::Ordering;

use virtio_bindings::bindings::virtio_blk::*;

use super::super::chain::{Buffers, Chain};
use super::super::device::Handled;
use super::config::{MAX_DATA, MAX_DISCARD, MAX_DISCARDS, MAX_ZERO, MAX_ZEROES};
use super::{Block, SECTOR};
use crate::memory::GuestRam;

/// What a driver asks for. Sectors lie on the disk, offsets and lengths are in bytes.
enum Request {
    Read { offset: u64, into: Buffers },
    Write { offset: u64, from: Buffers },
    Flush,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
    Serial(Buffers),
}

/// A range to discard or to fill with zeros.
struct Range {
    offset: u64,
    len: u64,
    may_discard: bool,
}

impl Range {
    fn bytes(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + self.len
    }
}

/// How a request ended that was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// It cannot be, or the host's file failed.
    Io,
    /// It is not known here.
    Unsupported,
}

/// Does what a chain asks for, and writes its status.
pub(super) fn carry_out(device: &Block, mut chain: Chain, ram: &GuestRam) -> Handled {
    let Some(mut status) = chain.writable.take_back(1) else {
        return Handled::Broken("a disk's request has no room for its status");
    };
    let done = Request::read(device, chain, ram).and_then(|request| device.run(request, ram));
    let (written, code) = match done {
        Ok(written) => (written, VIRTIO_BLK_S_OK),
        Err(Failed::Io) => (0, VIRTIO_BLK_S_IOERR),
        Err(Failed::Unsupported) => (0, VIRTIO_BLK_S_UNSUPP),
    };
    // All codes fit one byte.
    status.write(ram, &code.to_le_bytes()[..1]);
    Handled::Used(written + 1)
}

impl Request {
    /// Reads a request, whose status was taken off, and checks it against the disk.
    fn read(device: &Block, chain: Chain, ram: &GuestRam) -> Result<Self, Failed> {
        let Chain {
            mut readable,
            writable,
            ..
        } = chain;
        let header: [u8; 16] = readable.read(ram).ok_or(Failed::Io)?;
        let [kind, _, low, high] = words(header);
        let sector = u64::from(high) << 32 | u64::from(low);
        match kind {
            VIRTIO_BLK_T_IN => Ok(Self::Read {
                offset: device.data(sector, &writable)?,
                into: writable,
            }),
            VIRTIO_BLK_T_OUT if device.read_only => Err(Failed::Io),
            VIRTIO_BLK_T_OUT => Ok(Self::Write {
                offset: device.data(sector, &readable)?,
                from: readable,
            }),
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Self::Serial(writable)),
            VIRTIO_BLK_T_DISCARD if !device.read_only => {
                let ranges = device.ranges(&mut readable, ram, MAX_DISCARDS, MAX_DISCARD)?;
                match ranges.iter().any(|range| range.may_discard) {
                    true => Err(Failed::Unsupported),
                    false => Ok(Self::Discard(ranges)),
                }
            }
            VIRTIO_BLK_T_WRITE_ZEROES if !device.read_only => {
                let ranges = device.ranges(&mut readable, ram, MAX_ZEROES, MAX_ZERO)?;
                Ok(Self::WriteZeroes(ranges))
            }
            _ => Err(Failed::Unsupported),
        }
    }
}

impl Block {
    /// Carries out a request; how many bytes were written for the guest.
    fn run(&self, request: Request, ram: &GuestRam) -> Result<u32, Failed> {
        let disk = &self.disk;
        let done = match request {
            Request::Read { offset, into } => {
                disk.read(offset, ram, into.pieces()).map(|()| {
                    self.bytes_read.fetch_add(into.len(), Ordering::Relaxed);
                    // At most MAX_DATA.
                    u32::try_from(into.len()).unwrap_or(u32::MAX - 1)
                })
            }
            Request::Write { offset, from } => self
                .change(&(offset..offset + from.len()), |at, _| {
                    disk.write(at, ram, from.pieces())
                })
                .inspect(|()| {
                    self.bytes_written.fetch_add(from.len(), Ordering::Relaxed);
                })
                .and_then(|()| self.settle()),
            Request::Flush => disk.flush().map(|()| 0),
            Request::Discard(ranges) => ranges
                .iter()
                .try_for_each(|range| self.change(&range.bytes(), |at, len| disk.discard(at, len)))
                .and_then(|()| self.settle()),
            Request::WriteZeroes(ranges) => ranges
                .iter()
                .try_for_each(|range| {
                    self.change(&range.bytes(), |at, len| {
                        disk.write_zeroes(at, len, range.may_discard)
                    })
                })
                .and_then(|()| self.settle()),
            Request::Serial(mut into) => {
                let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
                for (to, from) in serial.iter_mut().zip(self.serial.bytes()) {
                    *to = from;
                }
                Ok(into.write(ram, &serial))
            }
        };
        done.map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => Failed::Unsupported,
            _ => {
                self.complain(&error);
                Failed::Io
            }
        })
    }

    /// After a change: makes it durable for a driver that does not flush.
    fn settle(&self) -> io::Result<u32> {
        if !self.driver_flushes.load(Ordering::SeqCst) {
            self.disk.flush()?;
        }
        Ok(0)
    }

    /// The offset of a request's data, which has to be whole sectors of the disk, and no more than the
    /// driver was told.
    fn data(&self, sector: u64, data: &Buffers) -> Result<u64, Failed> {
        let len = data.len();
        if len == 0 || !len.is_multiple_of(SECTOR) || len > MAX_DATA {
            return Err(Failed::Io);
        }
        self.offset(sector, len / SECTOR)
    }

    /// The offset of sectors that have to be sectors of the disk.
    fn offset(&self, sector: u64, count: u64) -> Result<u64, Failed> {
        match sector.checked_add(count) {
            // The capacity comes from a size in bytes.
            Some(end) if end <= self.capacity() => Ok(sector * SECTOR),
            _ => Err(Failed::Io),
        }
    }

    /// Reads at most `most` ranges of at most `longest` sectors.
    fn ranges(
        &self,
        from: &mut Buffers,
        ram: &GuestRam,
        most: u32,
        longest: u32,
    ) -> Result<Vec<Range>, Failed> {
        const RANGE: u64 = 16;
        if from.is_empty() || !from.len().is_multiple_of(RANGE) || from.len() / RANGE > most.into()
        {
            return Err(Failed::Io);
        }
        let mut ranges = Vec::new();
        while let Some(range) = from.read::<16>(ram) {
            let [low, high, count, flags] = words(range);
            if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                return Err(Failed::Unsupported);
            }
            if count > longest {
                return Err(Failed::Io);
            }
            let sector = u64::from(high) << 32 | u64::from(low);
            ranges.push(Range {
                offset: self.offset(sector, count.into())?,
                len: u64::from(count) * SECTOR,
                may_discard: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
            });
        }
        // Nothing to do with nothing: the file system would call it a mistake.
        ranges.retain(|range| range.len > 0);
        Ok(ranges)
    }
}

/// Four little-endian words.
#[allow(clippy::cast_possible_truncation, reason = "masked to 32 bits")]
fn words(bytes: [u8; 16]) -> [u32; 4] {
    let all = u128::from_le_bytes(bytes);
    [0, 32, 64, 96].map(|shift| (all >> shift & 0xffff_ffff) as u32)
}
