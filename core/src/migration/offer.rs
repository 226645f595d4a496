//! What a source tells a destination about a VM before anything moves.

use serde::{Deserialize, Serialize};

use crate::error::{DWCPError, Result};
use crate::hypervisor::HostFacts;
use crate::model::VM;

/// Version of the offer; another one is refused.
const FORMAT: u32 = 1;

/// A VM on offer: enough to decide whether it fits, and to build all of it but its memory's contents
/// and its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Offer {
    format: u32,
    /// The VM as its node knows it.
    pub(crate) vm: VM,
    /// What its guest relies on.
    pub(crate) guest: HostFacts,
    /// Bulk channels that the source would open.
    pub(crate) channels: u32,
    running: bool,
}

impl Offer {
    pub(crate) fn new(vm: VM, guest: HostFacts, channels: u32, running: bool) -> Self {
        Self {
            format: FORMAT,
            vm,
            guest,
            channels,
            running,
        }
    }

    /// Whether the guest is to run at the destination; else it arrives paused.
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    pub(crate) fn encode(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// # Errors
    ///
    /// `migration` for an offer that is malformed or of another version; the VM's config is checked
    /// as one from a user is.
    pub(crate) fn decode(text: &str) -> Result<Self> {
        let refused = |why: &dyn std::fmt::Display| {
            DWCPError::Migration(format!("the source's offer is refused: {why}"))
        };
        let offer: Self = serde_json::from_str(text).map_err(|e| refused(&e))?;
        if offer.format != FORMAT {
            return Err(refused(&format!(
                "its format {} is not known here",
                offer.format
            )));
        }
        offer.vm.config.validate().map_err(|e| refused(&e))?;
        if offer.channels == 0 || offer.channels > crate::model::limits::PARALLEL_MAX {
            return Err(refused(&format!("{} bulk channels", offer.channels)));
        }
        Ok(offer)
    }
}
