//! A request as a driver hands it over: buffers to read, then buffers to write.
#![forbid(unsafe_code)]

use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_NEXT;
use virtio_queue::DescriptorChain;

use super::queue::{Broken, MAX_QUEUE_SIZE, Memory};
use crate::memory::{GuestPiece, GuestRam};

/// A chain of descriptors that has been checked: every buffer is RAM, those to read come first, and
/// there are at most [`MAX_QUEUE_SIZE`] of them.
#[derive(Debug)]
pub(in crate::machine) struct Chain {
    /// The descriptor that it begins with, by which it is given back.
    pub(super) head: u16,
    /// What the driver wrote for the device.
    pub(super) readable: Buffers,
    /// Where the device writes its answer.
    pub(super) writable: Buffers,
}

impl Chain {
    /// Reads a chain.
    ///
    /// # Errors
    ///
    /// For a chain that no driver makes: one that loops, leads out of its table, is longer than a
    /// queue, has a buffer outside RAM or a writable one before a readable one.
    pub(super) fn read(ram: &GuestRam, mut descriptors: Descriptors<'_>) -> Result<Self, Broken> {
        let mut chain = Self {
            head: descriptors.head_index(),
            readable: Buffers::default(),
            writable: Buffers::default(),
        };
        let (mut count, mut goes_on) = (0, true);
        // The iterator ends where the chain does, and where it is broken: then the last descriptor that
        // it gave wanted another one.
        for descriptor in &mut descriptors {
            count += 1;
            if count > MAX_QUEUE_SIZE {
                return Err(Broken("a chain is longer than any queue"));
            }
            goes_on = u32::from(descriptor.flags()) & VRING_DESC_F_NEXT != 0;
            let piece = GuestPiece {
                gpa: descriptor.addr().0,
                len: descriptor.len(),
            };
            let offset = ram.layout().offset_at(piece.gpa, u64::from(piece.len));
            if offset.is_none() {
                return Err(Broken("a buffer lies outside RAM"));
            }
            if descriptor.is_write_only() {
                chain.writable.push(piece);
            } else if chain.writable.is_empty() {
                chain.readable.push(piece);
            } else {
                return Err(Broken("a buffer to read follows one to write"));
            }
        }
        if goes_on {
            return Err(Broken("a chain loops or leads nowhere"));
        }
        Ok(chain)
    }
}

type Descriptors<'a> = DescriptorChain<&'a Memory>;

/// Buffers, one behind the other. Their total length is below 4 GiB, for that is where the reading of a
/// chain ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::machine) struct Buffers {
    pieces: Vec<GuestPiece>,
    len: u64,
}

impl Buffers {
    fn push(&mut self, piece: GuestPiece) {
        if piece.len > 0 {
            self.len += u64::from(piece.len);
            self.pieces.push(piece);
        }
    }

    /// Their length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is not one byte.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where they lie, in order.
    pub(super) fn pieces(&self) -> &[GuestPiece] {
        &self.pieces
    }

    /// Splits off the first `at` bytes, or all if there are fewer.
    pub(super) fn take(&mut self, at: u64) -> Self {
        let (mut first, mut rest) = (Self::default(), Self::default());
        for piece in self.pieces.drain(..) {
            let room = at - first.len;
            let len = u32::try_from(room).map_or(piece.len, |room| room.min(piece.len));
            first.push(GuestPiece { len, ..piece });
            rest.push(GuestPiece {
                gpa: piece.gpa + u64::from(len),
                len: piece.len - len,
            });
        }
        *self = rest;
        first
    }

    /// Splits off the last `count` bytes; `None` if there are fewer.
    pub(super) fn take_back(&mut self, count: u64) -> Option<Self> {
        let at = self.len.checked_sub(count)?;
        let first = self.take(at);
        Some(std::mem::replace(self, first))
    }

    /// Reads the first `N` bytes and takes them off; `None` if there are fewer.
    pub(super) fn read<const N: usize>(&mut self, ram: &GuestRam) -> Option<[u8; N]> {
        if self.len < N as u64 {
            return None;
        }
        let mut bytes = [0; N];
        let mut rest = &mut bytes[..];
        for piece in self.take(N as u64).pieces {
            let (part, after) = rest.split_at_mut(piece.len as usize);
            ram.read(piece.gpa, part).ok()?;
            rest = after;
        }
        Some(bytes)
    }

    /// Writes bytes to the start and takes what was written off; how many there was room for.
    pub(super) fn write(&mut self, ram: &GuestRam, bytes: &[u8]) -> u32 {
        let (mut written, mut rest) = (0, bytes);
        for piece in self.take(bytes.len() as u64).pieces {
            let (part, after) = rest.split_at(piece.len as usize);
            if ram.write(piece.gpa, part).is_err() {
                break; // excluded by the check of the chain
            }
            written += piece.len;
            rest = after;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    fn buffers(pieces: &[(u64, u32)]) -> Buffers {
        let mut all = Buffers::default();
        for &(gpa, len) in pieces {
            all.push(GuestPiece { gpa, len });
        }
        all
    }

    #[test]
    fn buffers_are_split_anywhere() {
        let all = buffers(&[(0, 3), (100, 0), (200, 5)]);
        for at in 0..10 {
            let mut rest = all.clone();
            let first = rest.take(at);
            assert_eq!(first.len(), at.min(8));
            assert_eq!(rest.len(), 8 - at.min(8));
            let mut front = all.clone();
            match front.take_back(at) {
                Some(back) => assert_eq!((front.len(), back.len()), (8 - at, at)),
                None => assert!(at > 8),
            }
        }
        let mut rest = all;
        assert_eq!(rest.take(4), buffers(&[(0, 3), (200, 1)]));
        assert_eq!(rest, buffers(&[(201, 4)]));
    }

    #[test]
    fn bytes_cross_pieces() {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let mut to = buffers(&[(10, 3), (20, 4)]);
        assert_eq!(to.write(&ram, &[1, 2, 3, 4, 5]), 5);
        assert_eq!(to, buffers(&[(22, 2)]));
        assert_eq!(to.write(&ram, &[6, 7, 8]), 2);
        assert_eq!(to.write(&ram, &[9]), 0);
        let mut from = buffers(&[(10, 3), (20, 4)]);
        assert_eq!(from.read(&ram), Some([1, 2, 3, 4]));
        assert_eq!(from.read::<4>(&ram), None);
        assert_eq!(from.read(&ram), Some([5, 6, 7]));
    }
}
