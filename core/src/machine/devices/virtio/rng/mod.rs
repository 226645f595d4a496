//! A source of randomness: chapter 5.4 of the specification.
//!
//! It has no configuration space, no features, and no state. `request` fills what the driver offers.
#![forbid(unsafe_code)]

mod request;
#[cfg(test)]
mod tests;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::chain::Chain;
use super::device::{Device, Handled, read_bytes};
use super::queue::MAX_QUEUE_SIZE;
use crate::error::Result;
use crate::hypervisor::{Kind, Reader, Writer};
use crate::memory::GuestRam;

/// The device.
#[derive(Debug, Default)]
pub(in crate::machine) struct Rng;

impl Device for Rng {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        &[MAX_QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&[], offset, data);
    }

    fn reset(&self) {}

    fn handle(&self, _queue: usize, chain: Chain, ram: &GuestRam) -> Handled {
        request::carry_out(chain, ram)
    }

    fn kind(&self) -> Kind {
        Kind::VirtioRng
    }

    fn save(&self, _out: &mut Writer) {}

    fn load(&self, _reader: &mut Reader<'_>) -> Result<()> {
        Ok(())
    }
}
