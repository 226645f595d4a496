//! Faults that tests put into a migration: to prove that one is survived, or that it is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Phase;
use crate::error::{DWCPError, Result};
use crate::memory::{Harvest, PageBitmap};

/// What goes wrong. The default is nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// A rule of copying that is broken: memory arrives wrong, and the guest must find out.
    pub(crate) mutation: Option<Mutation>,
    /// A phase that fails, the first time.
    pub(crate) fail: Option<Phase>,
    pub(crate) failed: Arc<AtomicBool>,
    /// The guest does not run at the destination, which says that it does: its memory stays as it was.
    pub(crate) stand_still: bool,
    /// A phase that takes longer.
    pub(crate) slow: Option<(Phase, Duration)>,
    /// Memory that is handed over in a wrong way.
    pub(crate) hand: Option<HandFault>,
}

/// What is wrong with memory that is handed over within one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandFault {
    /// The offer is of another host.
    OtherHost,
    /// Nobody is at the socket.
    NoSocket,
    /// Who is there does not answer.
    Silent,
    /// The token of the offer is not that which is asked for.
    WrongToken,
    /// A file of another size.
    WrongSize,
    /// A file that can shrink.
    Unsealed,
    /// Two files.
    TwoFiles,
    /// No file.
    NoFile,
}

/// A broken rule of copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The last harvest before the switch loses its pages.
    DropDirtyBits,
    /// The last round's chunks are not sent.
    DropChunk,
    /// Pages are read before their dirty bits are cleared.
    LookBeforeClear,
}

impl Faults {
    /// To be called where a phase begins.
    pub(super) fn at(&self, phase: Phase) -> Result<()> {
        if let Some((slow, time)) = self.slow
            && slow == phase
        {
            std::thread::sleep(time);
        }
        if self.fail == Some(phase) && !self.failed.swap(true, Ordering::SeqCst) {
            return Err(DWCPError::Migration(format!("injected fault at {phase:?}")));
        }
        Ok(())
    }

    /// What is to be sent in the pause.
    pub(super) fn last_harvest(&self, harvest: &mut Harvest) {
        if self.mutation == Some(Mutation::DropDirtyBits) {
            harvest.pages = PageBitmap::new(harvest.pages.pages());
        }
    }
}
