//! One stream: the items that may come, and what was typed and may go.

use bytes::{Buf, BytesMut};

#[cfg(any(test, fuzzing))]
use super::super::DATA_WINDOW;
use super::super::output::Output;
#[cfg(any(test, fuzzing))]
use crate::error::{DWCPError, Result};
use crate::wire::frame::FrameType;
use crate::wire::message::ItemKind;

/// A stream from its request to its terminal frame.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) kind: ItemKind,
    pub(super) opened: bool,
    /// Nobody wants its items any more.
    pub(super) cancelled: bool,
    /// Its end was told already: an item could not be read.
    pub(super) ended: bool,
    /// Items that may be on their way or with the user at once.
    credit: u32,
    /// Items that the node may still send.
    window: u32,
    /// Items that the user took and that were not granted again.
    consumed: u32,
    /// Bytes that may be sent.
    data_window: u32,
    /// Bytes that wait for the window.
    waiting: BytesMut,
}

impl Stream {
    pub(super) fn new(kind: ItemKind, credit: u32) -> Self {
        Self {
            kind,
            opened: false,
            cancelled: false,
            ended: false,
            credit,
            window: credit,
            consumed: 0,
            data_window: 0,
            waiting: BytesMut::new(),
        }
    }

    /// An item came. Whether it might.
    pub(super) fn spend(&mut self) -> bool {
        let rest = self.window.checked_sub(1);
        self.window = rest.unwrap_or(0);
        rest.is_some()
    }

    /// What to grant, once it is half of the window.
    pub(super) fn consume(&mut self, items: u32) -> Option<u32> {
        if self.cancelled {
            return None;
        }
        // Never more than came.
        let came = self.credit - self.window;
        self.consumed = self.consumed.saturating_add(items).min(came);
        if self.consumed == 0 || self.consumed < self.credit / 2 {
            return None;
        }
        self.window += self.consumed;
        Some(std::mem::take(&mut self.consumed))
    }

    /// Whether it was wanted until now.
    pub(super) fn cancel(&mut self) -> bool {
        self.waiting = BytesMut::new();
        !std::mem::replace(&mut self.cancelled, true)
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn room(&self) -> usize {
        if self.cancelled {
            return 0;
        }
        (DATA_WINDOW as usize + self.data_window as usize).saturating_sub(self.waiting.len())
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.cancelled {
            return Err(DWCPError::NotFound("the stream has ended".into()));
        }
        if bytes.len() > self.room() {
            return Err(DWCPError::ResourceLimit(format!(
                "{} bytes typed, where {} have room",
                bytes.len(),
                self.room()
            )));
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn grant(&mut self, bytes: u32) {
        self.data_window = self.data_window.saturating_add(bytes);
    }

    /// Sends what waits, as far as the window allows.
    pub(super) fn flush(&mut self, id: &str, out: &mut Output) {
        while self.data_window > 0 && !self.waiting.is_empty() {
            let length = self
                .waiting
                .len()
                .min(self.data_window as usize)
                // Far below every frame limit.
                .min(16 << 10);
            out.small(FrameType::Data, id, &self.waiting[..length]);
            self.waiting.advance(length);
            self.data_window -= u32::try_from(length).unwrap_or(self.data_window);
        }
    }
}
