//! Frames out of a stream of bytes, however it was cut on its way.

use std::ops::ControlFlow;

use bytes::{Buf, Bytes, BytesMut};

use super::{FrameRef, Refused};

/// A buffer larger than this is given back as soon as it is empty.
const KEEP_MAX: usize = 64 << 10;

/// Collects bytes until they are a frame.
///
/// Frames that arrive whole are handed on from where they lie; only the beginning of one that does not
/// is copied. So an idle connection holds no buffer, and one that sends holds at most a frame and what
/// arrived in one piece.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// Longest frame, as its length field says it.
    max: usize,
    buffer: BytesMut,
}

impl FrameReader {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            buffer: BytesMut::new(),
        }
    }

    /// Sets the limit for the frames that follow, and for one that is not complete.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Bytes that arrived and were not handed on.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes `bytes` without looking at them.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes `bytes`, and hands on all frames that are complete until `each` breaks: what follows that
    /// frame is kept for the next call, which may bring no bytes.
    ///
    /// # Errors
    ///
    /// See [`FrameRef::parse`]. What follows cannot be read any more; frames before it were handed on.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        each: impl FnMut(FrameRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Refused> {
        if self.buffer.is_empty() {
            let (taken, result) = split(bytes, self.max, each);
            self.buffer.extend_from_slice(&bytes[taken..]);
            return result;
        }
        self.buffer.extend_from_slice(bytes);
        let (taken, result) = split(&self.buffer, self.max, each);
        self.buffer.advance(taken);
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_MAX {
            self.buffer = BytesMut::new();
        }
        result
    }

    /// Bytes that arrived and were not handed on, for whoever reads the connection from here on.
    pub(crate) fn into_rest(self) -> Bytes {
        self.buffer.freeze()
    }
}

/// Hands on the frames that `bytes` begin with; how many bytes they are.
fn split(
    bytes: &[u8],
    max: usize,
    mut each: impl FnMut(FrameRef<'_>) -> ControlFlow<()>,
) -> (usize, Result<(), Refused>) {
    let mut taken = 0;
    loop {
        match FrameRef::parse(&bytes[taken..], max) {
            Ok(Some((frame, length))) => {
                taken += length;
                if each(frame).is_break() {
                    return (taken, Ok(()));
                }
            }
            Ok(None) => return (taken, Ok(())),
            Err(refused) => return (taken, Err(refused)),
        }
    }
}
