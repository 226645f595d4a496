//! Streams: pulled, so that the caller's pace is the pace.

use dwcp_bindings_support::{Batch, Result, StreamHandle};
use std::mem::MaybeUninit;

use crate::args::{handle, timeout};
use crate::cq::Given;
use crate::document::dwcp_document;
use crate::error::{DWCP_END, dwcp_error};
use crate::give::{give, guard, quietly, wait, wanted};
use crate::reply::{dwcp_op, dwcp_reply_to, start};

/// A stream. Any thread may use it, one at a time may wait for items.
pub struct dwcp_stream(StreamHandle);

impl dwcp_stream {
    pub(crate) fn new(handle: StreamHandle) -> dwcp_stream {
        dwcp_stream(handle)
    }
}

impl Drop for dwcp_stream {
    fn drop(&mut self) {
        // In a child of the process that opened it there is nothing to end.
        let _ = self.0.close();
    }
}

/// What a batch is in C: a single item is what it is, several are a list.
fn given(batch: Batch, several: bool) -> Result<Given> {
    if batch.is_end() {
        return Ok(Given::End);
    }
    let bytes = match batch.0.first() {
        Some(item) if !several => item.to_json()?,
        _ => batch.to_json()?,
    };
    Ok(Given::Document(dwcp_document::of_bytes(bytes)))
}

/// Waits for the next item at most so long. `DWCP_OK` with the item, `DWCP_END` at the end,
/// `DWCP_ERR_TIMEOUT` when none has come: the stream goes on, and nothing is lost.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_stream_next(
    stream: Option<&dwcp_stream>,
    timeout_ms: u64,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_document>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        let next = handle(stream, "stream")?.0.next(1)?;
        match given(wait(timeout(timeout_ms), next)?, false)? {
            Given::Document(item) => give(out, item),
            _ => Ok(DWCP_END),
        }
    })
}

/// Waits for the next item without blocking, and takes with it what else is there, up to `max` items. The
/// completion has a list of them as its document (of a console, their bytes one after the other), or the
/// status `DWCP_END`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_stream_next_async(
    stream: Option<&dwcp_stream>,
    max: usize,
    reply_to: Option<&dwcp_reply_to>,
    op: Option<&mut MaybeUninit<Option<Box<dwcp_op>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    start(reply_to, op, error, || {
        let next = handle(stream, "stream")?.0.next(max)?;
        Ok(async move { given(next.await?, true) })
    })
}

/// Ends it, at the node too. Whoever waits for an item gets `DWCP_END`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_stream_close(stream: Option<&dwcp_stream>) {
    quietly((), || {
        if let Some(stream) = stream {
            // In a child of the process that opened it there is nothing to end.
            let _ = stream.0.close();
        }
    });
}

/// Ends it and frees it; NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_stream_free(stream: Option<Box<dwcp_stream>>) {
    quietly((), || drop(stream));
}
