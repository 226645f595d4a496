//! Where what a person reads goes: standard output, or standard error while standard output is kept for JSON.

use std::io::{self, Write};

/// The place for text meant for people.
///
/// A reader that went away (`cargo xtask test | head`) is no reason to stop: errors of writing are ignored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Screen {
    /// Standard output.
    Output,
    /// Standard error, because standard output carries one JSON object.
    Error,
}

impl Screen {
    /// The screen of a command that was, or was not, asked for JSON.
    pub(crate) fn beside_json(json: bool) -> Self {
        if json { Self::Error } else { Self::Output }
    }

    /// Writes text as it is and shows it at once.
    pub(crate) fn write(self, text: &str) {
        self.write_bytes(text.as_bytes());
    }

    /// Writes text and ends the line.
    pub(crate) fn line(self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Writes bytes of a child process as they came.
    pub(crate) fn write_bytes(self, bytes: &[u8]) {
        let _ = match self {
            Self::Output => write_to(&mut io::stdout().lock(), bytes),
            Self::Error => write_to(&mut io::stderr().lock(), bytes),
        };
    }
}

fn write_to(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
