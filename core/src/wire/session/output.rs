//! The bytes that wait to be sent.

use bytes::BytesMut;

use crate::error::Result;
use crate::wire::frame::{FrameType, Head};

/// A buffer larger than this is given back when it is empty.
const KEEP_MAX: usize = 64 << 10;

/// Frames, one behind the other, ready to be sent.
#[derive(Debug)]
pub(super) struct Output {
    bytes: BytesMut,
    /// Longest frame.
    pub(super) frame_max: usize,
    /// Bytes beyond which it is full.
    max: usize,
}

impl Output {
    pub(super) fn new(frame_max: usize, max: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            frame_max,
            max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= self.max
    }

    /// For the driver, which takes from its front.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP_MAX {
            self.bytes = BytesMut::new();
        }
        &mut self.bytes
    }

    /// # Errors
    ///
    /// `resource_limit` when it is too long for a frame; nothing was added then.
    pub(super) fn frame(
        &mut self,
        frame_type: FrameType,
        timestamp: u64,
        id: &str,
        payload: &[u8],
    ) -> Result<()> {
        self.frame_with(frame_type, timestamp, id, |out| {
            out.extend_from_slice(payload);
            Ok(())
        })
    }

    /// The same with a payload that is written straight into the buffer.
    pub(super) fn frame_with(
        &mut self,
        frame_type: FrameType,
        timestamp: u64,
        id: &str,
        write: impl FnOnce(&mut BytesMut) -> Result<()>,
    ) -> Result<()> {
        let head = Head {
            frame_type,
            timestamp,
            id,
        };
        head.encode_with(&mut self.bytes, self.frame_max, write)
    }

    /// A frame that is never too long: an id that arrived in a frame, and a payload of a few bytes.
    pub(super) fn small(&mut self, frame_type: FrameType, id: &str, payload: &[u8]) {
        let sent = self.frame(frame_type, 0, id, payload);
        debug_assert!(sent.is_ok(), "{frame_type:?}: {sent:?}");
    }
}
