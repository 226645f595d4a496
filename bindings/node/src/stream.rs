//! A stream, as JavaScript holds it.

#![allow(
    unsafe_code,
    reason = "the macros of napi-derive write the functions that Node.js calls"
)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dwcp_bindings_support::StreamHandle;
use napi_derive::napi;

use crate::answer::{Answer, Payload, Thrown};
use crate::bridge::Bridge;

#[derive(Default)]
enum State {
    #[default]
    Opening,
    Open(StreamHandle),
    Closed,
}

/// Where a stream is put when the node has opened it.
#[derive(Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<State>>);

impl Slot {
    /// Puts it there, unless nobody wants it any more: then it ends at the node with this.
    pub(crate) fn open(&self, handle: StreamHandle) {
        let mut state = self.state();
        if matches!(*state, State::Opening) {
            *state = State::Open(handle);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that is opened by `NativeClient.subscribe`. When it is collected, it ends at the node too.
#[napi]
pub struct NativeStream(Slot);

impl fmt::Debug for NativeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NativeStream")
    }
}

#[napi]
impl NativeStream {
    #[napi(constructor)]
    #[allow(clippy::new_without_default, reason = "made by JavaScript only")]
    pub fn new() -> NativeStream {
        NativeStream(Slot::default())
    }

    /// Waits for an item, and takes with it what else is there, up to `max`; empty at the end.
    #[napi]
    pub fn next_batch(
        &self,
        bridge: &Bridge,
        tag: i64,
        max: u32,
    ) -> Result<Option<Payload>, Thrown> {
        let handle = match &*self.0.state() {
            State::Open(handle) => Some(handle.clone()),
            _ => None,
        };
        let operation = handle.as_ref().map_or("next", StreamHandle::operation);
        bridge.start(tag, (operation, None), || {
            let next = handle.map(|handle| handle.next(max as usize)).transpose()?;
            Ok(async move {
                match next {
                    Some(next) => Answer::batch(&next.await?),
                    None => Ok(Answer::done()),
                }
            })
        })
    }

    /// Ends it, at the node too; whoever waits for an item gets the end.
    #[napi]
    pub fn close(&self) {
        let before = std::mem::replace(&mut *self.0.state(), State::Closed);
        if let State::Open(handle) = before {
            // It fails only in a fork, where there is nothing to end.
            let _ = handle.close();
        }
    }
}

impl NativeStream {
    pub(crate) fn slot(&self) -> Slot {
        self.0.clone()
    }
}
