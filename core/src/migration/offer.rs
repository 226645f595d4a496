//! What a source tells a destination about a VM before anything moves.

use serde::{Deserialize, Serialize};

use super::same_host::HandOver;
use crate::error::{DWCPError, Result};
use crate::hypervisor::HostFacts;
use crate::model::VM;

/// Version of the offer; another one is refused.
const FORMAT: u32 = 2;

/// A disk, as one node tells another of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskFacts {
    /// Drawn when it was made.
    pub(crate) id: String,
    /// In bytes.
    pub(crate) size: u64,
}

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
    /// What tells its image from others of the name, where that is not built in.
    pub(crate) image: Option<String>,
    /// Its disk, which both nodes reach unless it is copied.
    pub(crate) disk: Option<DiskFacts>,
    /// The disk is copied, and takes so many bytes now. Left out where it is not so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk_copied: Option<u64>,
    /// Bulk channels that the source would open.
    pub(crate) channels: u32,
    running: bool,
    /// Some of its memory may come after the switch. Left out where it is not so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) post_copy: bool,
    /// Nothing of it runs or has memory: only its record moves. Left out where it is not so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stopped: bool,
    /// How a node on the same host gets its memory without a copy, where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hand_over: Option<HandOver>,
}

impl Offer {
    pub(crate) fn new(vm: VM, guest: HostFacts, channels: u32, running: bool) -> Self {
        Self {
            format: FORMAT,
            vm,
            guest,
            image: None,
            disk: None,
            disk_copied: None,
            channels,
            running,
            post_copy: false,
            stopped: false,
            hand_over: None,
        }
    }

    /// An offer of a VM that is stopped.
    pub(crate) fn of_stopped(vm: VM, guest: HostFacts) -> Self {
        Self {
            stopped: true,
            ..Self::new(vm, guest, 1, false)
        }
    }

    /// The same, with what is not in the VM's memory.
    pub(crate) fn with(mut self, image: Option<String>, disk: Option<DiskFacts>) -> Self {
        (self.image, self.disk) = (image, disk);
        self
    }

    /// The same, whose disk is copied, if it has one.
    pub(crate) fn with_copied_disk(mut self, bytes: Option<u64>) -> Self {
        self.disk_copied = bytes;
        self
    }

    /// The same, of which some of the memory may come after the switch.
    pub(crate) fn allow_post_copy(mut self, allowed: bool) -> Self {
        self.post_copy = allowed;
        self
    }

    /// Whether the guest is to run at the destination; else it arrives paused.
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// Whether it is stopped, and arrives so: it has no memory and no machine.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
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
        if offer.running && offer.stopped {
            return Err(refused(&"it runs and is stopped"));
        }
        offer.vm.config.validate().map_err(|e| refused(&e))?;
        if let Some(disk) = &offer.disk
            && offer.disk_copied.is_some()
            && disk.size != offer.vm.config.disk
        {
            return Err(refused(
                &"its disk is to be copied, and has another size than the VM's config says",
            ));
        }
        if offer.disk_copied.is_some() && (offer.disk.is_none() || offer.stopped) {
            return Err(refused(
                &"a disk is to be copied that the VM has not, or that nobody would send",
            ));
        }
        if offer.channels == 0 || offer.channels > crate::model::limits::PARALLEL_MAX {
            return Err(refused(&format!("{} bulk channels", offer.channels)));
        }
        Ok(offer)
    }
}
