//! What a kind of device is to the core that runs it.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::chain::Chain;
use crate::error::Result;
use crate::hypervisor::{Kind, Reader, Writer};
use crate::memory::GuestRam;

/// One kind of device: its configuration space, and what it does with a request.
///
/// [`handle`](Self::handle) is called from the device's worker threads, several at once if it has
/// several, with no lock held, and may take as long as its host file does. All others are called with
/// the core's lock held, or from vCPU threads, and return at once.
pub(in crate::machine) trait Device: Send + Sync {
    /// Its number in the virtio specification, chapter 5.
    fn id(&self) -> u32;
    /// The feature bits it offers of its own; those of rings and transport are the core's.
    fn features(&self) -> u64;
    /// The largest size of each of its queues: a power of two, at most
    /// [`MAX_QUEUE_SIZE`](super::queue::MAX_QUEUE_SIZE).
    fn queues(&self) -> &'static [u16];
    /// Reads its configuration space; what lies beyond the end reads as zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes its configuration space, where the driver may.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}
    /// A driver has accepted `features`, and begins.
    fn activate(&self, _features: u64) {}
    /// Back to the state after power-on. Nothing is in flight.
    fn reset(&self);
    /// How long it takes no further request of this queue; `None`: it takes one now.
    fn hold_back(&self, _queue: usize) -> Option<Duration> {
        None
    }
    /// Does what a request asks for.
    fn handle(&self, queue: usize, chain: Chain, ram: &GuestRam) -> Handled;
    /// The kind of the section that it is saved in.
    fn kind(&self) -> Kind;
    /// Saves what only it has. Nothing is in flight.
    fn save(&self, out: &mut Writer);
    /// Loads what [`save`](Self::save) saved.
    fn load(&self, reader: &mut Reader<'_>) -> Result<()>;
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) enum Handled {
    /// Done; so many bytes were written into its buffers, from the start of the writable ones.
    Used(u32),
    /// Looked at, and left in its ring: the queue is looked at again after the next notification. For
    /// devices with one worker only.
    Kept,
    /// No driver makes such a request: the device stops until it is reset. The text says what is wrong.
    Broken(&'static str),
}

/// Reads a configuration space that is given as bytes.
pub(super) fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let from = usize::try_from(offset).map_or(config.len(), |offset| offset.min(config.len()));
    for (to, from) in data.iter_mut().zip(&config[from..]) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_configuration_space_can_be_read() {
        let read = |offset, len| {
            let mut data = vec![0xaa; len];
            read_bytes(&[1, 2, 3, 4], offset, &mut data);
            data
        };
        assert_eq!(read(0, 4), [1, 2, 3, 4]);
        assert_eq!(read(3, 2), [4, 0]);
        assert_eq!(read(4, 1), [0]);
        assert_eq!(read(u64::MAX, 8), [0; 8]);
        assert_eq!(read(1, 0), [0; 0]);
    }
}
