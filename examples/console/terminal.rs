//! The terminal that this program runs in: raw while a console is shown, and what is typed there.

use std::io::{IsTerminal, Read, stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Ctrl-], which leaves, as with telnet.
const LEAVE: u8 = 0x1d;
/// Bytes typed at a time: a quarter of what a serial port takes before its guest has read any.
const PIECE: usize = 16;

/// While it lives, keys go to the guest as they are pressed, Ctrl-C too. Dropping it brings the terminal
/// back as it was.
pub(crate) struct RawMode(Option<Termios>);

impl RawMode {
    /// Input that is no terminal is left alone.
    pub(crate) fn enter() -> std::io::Result<RawMode> {
        if !stdin().is_terminal() {
            return Ok(RawMode(None));
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(RawMode(Some(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// What somebody typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Bytes(Vec<u8>),
    Leave,
}

/// What is typed from now on. Where the input ends (it was no terminal) nothing follows.
pub(crate) fn typed() -> Receiver<Typed> {
    // Few: who types faster than the guest reads waits here.
    let (sender, receiver) = channel(4);
    // A thread of its own, which may wait for a key when the program ends.
    std::thread::spawn(move || forward(stdin().lock(), &sender));
    receiver
}

fn forward(mut input: impl Read, to: &Sender<Typed>) {
    let mut piece = [0; PIECE];
    while let Ok(length @ 1..) = input.read(&mut piece) {
        for what in split(&piece[..length]) {
            if to.blocking_send(what).is_err() {
                return;
            }
        }
    }
}

/// What was typed before the key that leaves, and that key.
fn split(bytes: &[u8]) -> Vec<Typed> {
    let end = bytes.iter().position(|byte| *byte == LEAVE);
    let (before, leaves) = (&bytes[..end.unwrap_or(bytes.len())], end.is_some());
    let before = (!before.is_empty()).then(|| Typed::Bytes(before.to_vec()));
    before
        .into_iter()
        .chain(leaves.then_some(Typed::Leave))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_on_until_the_one_that_leaves() {
        assert_eq!(split(b"ls\r"), [Typed::Bytes(b"ls\r".to_vec())]);
        assert_eq!(split(b"\x1d"), [Typed::Leave]);
        let both = [Typed::Bytes(b"\x03a".to_vec()), Typed::Leave];
        assert_eq!(split(b"\x03a\x1db"), both);
    }

    #[test]
    fn the_end_of_the_input_is_the_end_of_what_is_typed() {
        let (sender, mut receiver) = channel(4);
        forward(&b"twenty letters of text"[..], &sender);
        drop(sender);
        let mut all = Vec::new();
        while let Some(Typed::Bytes(bytes)) = receiver.blocking_recv() {
            assert!(bytes.len() <= PIECE);
            all.extend(bytes);
        }
        assert_eq!(all, b"twenty letters of text");
    }
}
