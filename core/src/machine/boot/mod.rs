//! Bringing an image into a machine's memory.
//!
//! `Image` is what a machine runs: the built-in guest (`pulse`), or a kernel of which `bzimage` and
//! `elf` make a `plan`: what of the file goes where. `linux` and `pvh` write what such a kernel is
//! told, with the `memory_map`, the command line (`cmdline`), the `acpi` tables and
//! the `reset_vector`; `low` says where
//! in low memory all that lies. Called by the machine, before its vCPUs run and at each reset.
#![forbid(unsafe_code)]

mod acpi;
mod bzimage;
mod cmdline;
mod elf;
mod file;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod kernel;
mod linux;
mod low;
mod memory_map;
mod plan;
mod pulse;
mod pvh;
mod reset_vector;

use std::collections::BTreeMap;

use crate::error::{DWCPError, Result};
use crate::guest::PulseOptions;
use crate::hypervisor::Entry;
use crate::memory::GuestRam;

pub(crate) use self::cmdline::with_words;
pub(crate) use self::file::BootFile;
#[cfg(fuzzing)]
pub(crate) use self::fuzz::fuzz_kernel;
pub(crate) use self::kernel::KernelImage;

/// What a machine runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Image {
    /// The guest that comes with the library.
    Pulse(PulseOptions),
    /// A kernel, as a boot loader would start it.
    Kernel(KernelImage),
}

/// What an image is told of its machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hardware<'a> {
    /// vCPUs.
    pub(super) cpus: u32,
    /// Frequency of their time-stamp counters in kHz.
    pub(super) tsc_khz: u32,
    /// Numbers of the virtio-mmio devices that are there (`devices::map`).
    pub(super) virtio: &'a [u32],
}

impl Image {
    /// The image of that name, for a VM with that memory and those annotations.
    ///
    /// # Errors
    ///
    /// `unsupported` for an image that is not there, `invalid_config` for annotations that the image
    /// does not understand.
    pub(crate) fn find(
        name: &str,
        memory: u64,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Self> {
        match name {
            "dwcp/pulse" => Ok(Self::Pulse(PulseOptions::new(memory, annotations)?)),
            other => Err(DWCPError::Unsupported(format!(
                "image: `{other}` is not known; this version runs the built-in guest `dwcp/pulse`"
            ))),
        }
    }

    /// Loads it; where each vCPU begins.
    ///
    /// # Errors
    ///
    /// `invalid_config` for a kernel or an initial RAM disk that cannot be used, with the reason.
    pub(super) fn load(&self, ram: &GuestRam, hardware: &Hardware<'_>) -> Result<Vec<Entry>> {
        match self {
            Self::Pulse(options) => pulse::load(ram, hardware, options),
            Self::Kernel(image) => image.load(ram, hardware),
        }
    }
}
