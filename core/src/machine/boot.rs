//! Bringing an image into a machine's memory.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::error::{DWCPError, Result};
use crate::guest::{Block, PulseOptions, load};
use crate::hypervisor::Entry;
use crate::memory::GuestRam;

/// What a machine runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Image {
    /// The guest that comes with the library.
    Pulse(PulseOptions),
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
    pub(super) fn load(&self, ram: &GuestRam, cpus: u32, tsc_khz: u32) -> Result<Vec<Entry>> {
        let Self::Pulse(options) = self;
        let loaded = load(ram, cpus, tsc_khz, options)?;
        let entries = (0..cpus).map(|index| Entry::User64 {
            entry: loaded.entry,
            argument: Block(index).address(),
            page_table: loaded.page_table,
        });
        Ok(entries.collect())
    }
}
