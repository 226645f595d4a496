//! The ids that a peer has in use.

use std::collections::HashMap;

use super::{DATA_WINDOW, Id};
use crate::wire::message::Style;

/// What an id stands for until its terminal frame.
#[derive(Debug)]
pub(super) enum Entry {
    Call(Call),
    Stream(Stream),
    /// A frame between nodes, which the application looks at before anything else is read.
    Peer,
}

/// A request with one answer.
#[derive(Debug)]
pub(super) struct Call {
    /// That of the request; the answer carries it too.
    pub(super) timestamp: u64,
    /// How its answer is written.
    pub(super) style: Style,
    /// Whether clients of the base profile parse its answer.
    pub(super) parsed: bool,
    pub(super) read_only: bool,
    pub(super) cancelled: bool,
    pub(super) request_bytes: usize,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) opened: bool,
    pub(super) cancelled: bool,
    /// An item was held back because too much waits to be sent.
    pub(super) starved: bool,
    /// Items that may be sent.
    pub(super) credit: u32,
    /// What the peer may type; `None` where nothing can be typed.
    pub(super) typing: Option<Typing>,
}

/// The window for what is typed on a console.
#[derive(Debug, Default)]
pub(super) struct Typing {
    /// Bytes that the peer may still send.
    window: u32,
    /// Bytes that went on to the console and were not granted again.
    taken: u32,
}

impl Typing {
    /// What a peer is granted as the stream opens.
    pub(super) fn open(&mut self) -> u32 {
        self.window = DATA_WINDOW;
        DATA_WINDOW
    }

    /// Whether the peer may send so much.
    pub(super) fn receive(&mut self, bytes: usize) -> bool {
        let rest = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.window.checked_sub(bytes));
        if let Some(rest) = rest {
            self.window = rest;
        }
        rest.is_some()
    }

    /// The console took bytes. What to grant, once it is half of the window.
    pub(super) fn take(&mut self, bytes: u32) -> Option<u32> {
        // Never more than has arrived, so that the window stays what it is.
        let outstanding = DATA_WINDOW - self.window;
        self.taken = self.taken.saturating_add(bytes).min(outstanding);
        if self.taken < DATA_WINDOW / 2 {
            return None;
        }
        self.window += self.taken;
        Some(std::mem::take(&mut self.taken))
    }
}

/// The live ids of a connection, and what they add up to.
#[derive(Debug, Default)]
pub(super) struct Live {
    entries: HashMap<Id, Entry>,
    pub(super) calls: u32,
    pub(super) streams: u32,
    pub(super) request_bytes: usize,
}

impl Live {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.entries.contains_key(id)
    }

    /// The caller has looked whether it is free.
    pub(super) fn insert(&mut self, id: Id, entry: Entry) {
        match &entry {
            Entry::Call(call) => {
                self.calls += 1;
                self.request_bytes += call.request_bytes;
            }
            Entry::Stream(_) => self.streams += 1,
            Entry::Peer => {}
        }
        let before = self.entries.insert(id, entry);
        debug_assert!(before.is_none(), "an id was given twice");
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        match &entry {
            Entry::Call(call) => {
                self.calls -= 1;
                self.request_bytes -= call.request_bytes;
            }
            Entry::Stream(_) => self.streams -= 1,
            Entry::Peer => {}
        }
        Some(entry)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.get_mut(id)
    }

    pub(super) fn stream(&self, id: &str) -> Option<&Stream> {
        match self.entries.get(id) {
            Some(Entry::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    pub(super) fn stream_mut(&mut self, id: &str) -> Option<&mut Stream> {
        match self.entries.get_mut(id) {
            Some(Entry::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Marks every stream as not wanted any more; those that were wanted until now.
    pub(super) fn cancel_streams(&mut self) -> Vec<Id> {
        let mut cancelled = Vec::new();
        for (id, entry) in &mut self.entries {
            if let Entry::Stream(stream) = entry
                && !std::mem::replace(&mut stream.cancelled, true)
            {
                stream.credit = 0;
                cancelled.push(Id::clone(id));
            }
        }
        // In an order that does not depend on the table's.
        cancelled.sort_unstable();
        cancelled
    }
}
