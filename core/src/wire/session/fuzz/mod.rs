//! The entries of fuzzing. The tests run them too, with bytes of proptest's.
//!
//! `pair` has our two sides talk over a link that cuts and delays as the bytes say; `hostile` is a peer
//! that sends a node whatever the bytes say. Both hold the session to what the protocol promises.

use std::ops::ControlFlow;

use crate::wire::frame::{Frame, FrameReader, Refused};

mod hostile;
mod pair;

/// Reads the bytes as frames in one piece, and cut; what is found is the same, and is written as it
/// came.
///
/// # Panics
///
/// Where that is not so.
pub(crate) fn fuzz_frames(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    let max = 1 << 16;
    let whole = frames(bytes, bytes.len().max(1), max);
    let pieces = frames(bytes, usize::from(cut) % 29 + 1, max);
    assert_eq!(whole, pieces, "the cuts are seen");

    let mut written = Vec::new();
    for frame in &whole.0 {
        written.extend_from_slice(&frame.encode(max).unwrap_or_default());
    }
    assert_eq!(
        written,
        bytes[..written.len()],
        "what is read is not what is written"
    );
    if whole.1.is_ok() {
        assert_eq!(bytes[written.len()..], whole.2, "bytes are lost");
    }
}

/// The frames of a stream of bytes that arrives in pieces, how it ends, and what is left over.
pub(super) fn frames(
    bytes: &[u8],
    piece: usize,
    max: usize,
) -> (Vec<Frame>, Result<(), Refused>, Vec<u8>) {
    let mut reader = FrameReader::new(max);
    let mut frames = Vec::new();
    let mut result = Ok(());
    for piece in bytes.chunks(piece) {
        result = reader.feed(piece, |frame| {
            frames.push(frame.to_frame());
            ControlFlow::Continue(())
        });
        if result.is_err() {
            // What came behind it is read by nobody.
            return (frames, result, Vec::new());
        }
    }
    (frames, result, reader.into_rest().to_vec())
}

/// Does what the bytes say to the sessions of a connection.
///
/// # Panics
///
/// Where a session breaks a promise of the protocol.
pub(crate) fn fuzz_session(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let mut bytes = Bytes { rest };
    match choice % 4 {
        0 | 1 => pair::run(&mut bytes),
        2 => hostile::run(&mut bytes, true),
        _ => hostile::run(&mut bytes, false),
    }
}

/// Choices, made by bytes.
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
}

impl Bytes<'_> {
    /// The next byte; `None` at the end.
    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// A number below `count`; 0 at the end.
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % count.max(1)
    }

    /// One of them; `None` where there is none.
    fn one_of<'b, T>(&mut self, all: &'b [T]) -> Option<&'b T> {
        all.get(self.below(all.len()))
    }
}
