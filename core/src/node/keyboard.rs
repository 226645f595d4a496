//! The keyboard of a VM's console: any number read, one types at a time.
//!
//! Whoever has the console open and types first has the keyboard until it has closed all its streams of
//! that console; its connection's end closes them too. Who types without having it open keeps nobody from
//! it. A writer is a text, which the door of the node where it came in puts a name before.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{DWCPError, Result};
use crate::model::Timestamp;

/// Stands between the name of who came in by a door and what its client calls itself. No name has it.
const BETWEEN: char = '/';

/// Says in `writer` by which name it was let in; `else_` is what tells apart those that call themselves
/// nothing.
pub(super) fn let_in(writer: &mut Option<String>, name: &str, else_: &str) {
    let own = writer.as_deref().unwrap_or(else_);
    *writer = Some(format!("{name}{BETWEEN}{own}"));
}

/// A keyboard, of one run of a VM.
#[derive(Debug, Default)]
pub(super) struct Keyboard(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How many streams of the console each writer has open: no more than the node has streams.
    open: HashMap<String, usize>,
    holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    writer: String,
    since: Timestamp,
}

impl Keyboard {
    /// A writer has opened the console, until the answer is dropped.
    pub(super) fn open(self: &Arc<Self>, writer: String) -> Seat {
        *self.lock().open.entry(writer.clone()).or_default() += 1;
        Seat {
            keyboard: Arc::clone(self),
            writer,
        }
    }

    /// Lets a writer type, and nobody else from now on if it has the console open.
    ///
    /// # Errors
    ///
    /// `invalid_operation` naming whoever has the keyboard.
    pub(super) fn take(&self, writer: &str) -> Result<()> {
        let mut inner = self.lock();
        match &inner.holder {
            Some(holder) if holder.writer != writer => {
                let name = holder.writer.split(BETWEEN).next().unwrap_or_default();
                return Err(DWCPError::InvalidOperation(format!(
                    "console: another client types on it ({name}, since {}); read it, or wait until that one \
                     has closed it",
                    holder.since
                )));
            }
            Some(_) => {}
            None if inner.open.contains_key(writer) => {
                inner.holder = Some(Holder {
                    writer: writer.to_owned(),
                    since: Timestamp::now(),
                });
            }
            None => {}
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A console that somebody has open.
#[derive(Debug)]
pub(super) struct Seat {
    keyboard: Arc<Keyboard>,
    writer: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.keyboard.lock();
        if let Some(count) = inner.open.get_mut(&self.writer) {
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        inner.open.remove(&self.writer);
        if inner
            .holder
            .as_ref()
            .is_some_and(|holder| holder.writer == self.writer)
        {
            inner.holder = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(keyboard: &Keyboard, writer: &str) -> String {
        match keyboard.take(writer) {
            Err(DWCPError::InvalidOperation(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_has_it_open_and_types_first_keeps_it_until_all_is_closed() {
        let keyboard = Arc::new(Keyboard::default());
        let (first, again) = (
            keyboard.open("hand/1".into()),
            keyboard.open("hand/1".into()),
        );
        let other = keyboard.open("hand/2".into());
        keyboard.take("hand/1").unwrap();
        keyboard.take("hand/1").unwrap();
        assert!(refused(&keyboard, "hand/2").contains("(hand, since 2"));
        refused(&keyboard, "nobody/3");
        drop(first);
        refused(&keyboard, "hand/2");
        drop(again);
        keyboard.take("hand/2").unwrap();
        refused(&keyboard, "hand/1");
        drop(other);
        assert!(keyboard.lock().open.is_empty() && keyboard.lock().holder.is_none());
    }

    #[test]
    fn who_does_not_have_it_open_keeps_nobody_from_it() {
        let keyboard = Arc::new(Keyboard::default());
        keyboard.take("hand/1").unwrap();
        keyboard.take("hand/2").unwrap();
        let seat = keyboard.open("hand/2".into());
        keyboard.take("hand/1").unwrap();
        keyboard.take("hand/2").unwrap();
        refused(&keyboard, "hand/1");
        drop(seat);
        keyboard.take("hand/1").unwrap();
    }

    #[test]
    fn the_name_is_that_of_the_door() {
        let mut writer = Some("eye/7".to_owned());
        let_in(&mut writer, "hand", "c");
        assert_eq!(writer.as_deref(), Some("hand/eye/7"));
        let mut writer = None;
        let_in(&mut writer, "hand", "c");
        assert_eq!(writer.as_deref(), Some("hand/c"));
    }
}
