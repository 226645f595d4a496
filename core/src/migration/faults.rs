//! Faults that tests put into a migration: to prove that one is survived, or that it is noticed.

use std::ops::Range;
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
    /// What the guest does to its disk at some moments of copying.
    pub(crate) guest: Option<Guest>,
}

/// When a guest writes its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A piece of the disk was taken to be sent, and is about to be read.
    Sending,
    /// It was read, and is about to be sent.
    Sent,
    /// All but the last of it was sent: what the device still had to do is done.
    Paused,
}

/// What a guest does at such a moment.
#[derive(Clone)]
pub(crate) struct Guest(pub(crate) Arc<dyn Fn(Moment) + Send + Sync>);

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guest")
    }
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
    /// The last look at the disk before the switch loses a cluster.
    DropCluster,
    /// Clusters of the disk are read before their marks are cleared.
    ReadBeforeClear,
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

    /// Lets the guest write its disk.
    pub(super) fn writes(&self, moment: Moment) {
        if let Some(guest) = &self.guest {
            (guest.0)(moment);
        }
    }

    /// What of the disk is to be sent in the pause.
    pub(super) fn last_clusters(&self, mut clusters: Vec<Range<u64>>) -> Vec<Range<u64>> {
        if self.mutation == Some(Mutation::DropCluster) {
            clusters.pop();
        }
        clusters
    }

    /// What is to be sent in the pause.
    pub(super) fn last_harvest(&self, harvest: &mut Harvest) {
        if self.mutation == Some(Mutation::DropDirtyBits) {
            harvest.pages = PageBitmap::new(harvest.pages.pages());
        }
    }
}
