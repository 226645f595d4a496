//! The terminal: a progress bar where there is one, the report at the end.

use std::io::{IsTerminal, Write, stderr};

use dwcp::MigrationStatus;

use crate::options::Options;
use crate::report::Report;

/// Width of the bar in characters.
const WIDTH: usize = 30;

/// Where things are shown.
pub(crate) struct Screen {
    json: bool,
    /// Whether a line can be drawn over.
    live: bool,
}

impl Screen {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            json: options.json,
            live: stderr().is_terminal(),
        }
    }

    /// Something to know, beside the report.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    /// A bar: `done` of `all`, or just the words where nothing is counted.
    pub(crate) fn bar(&self, what: &str, done: u64, all: u64, note: &str) {
        if !self.live {
            return;
        }
        let mut line = format!("{what:<16}");
        if let Some(share) = (done.min(all) * 100).checked_div(all) {
            let full = usize::try_from(share).unwrap_or(100) * WIDTH / 100;
            let bar = format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full));
            line.push_str(&format!("{bar} {share:>3} %  {note}"));
        }
        // A terminal that is gone wants no picture.
        let _ = write!(stderr(), "\r\x1b[2K{line}");
        let _ = stderr().flush();
    }

    /// How a migration goes.
    pub(crate) fn migrating(&self, status: &MigrationStatus) {
        let note = format!(
            "{}, round {}, {} MB/s",
            status.state,
            status.round,
            status.throughput / 1_000_000
        );
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 1,000
        let permille = (status.progress * 10.0) as u64;
        self.bar("migrating", permille, 1000, &note);
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if self.live {
            // As above.
            let _ = write!(stderr(), "\r\x1b[2K");
        }
    }

    /// The result.
    pub(crate) fn report(&self, report: &Report) {
        if self.json {
            println!("{}", report.json());
        } else {
            print!("{report}");
        }
    }
}
