//! Helpers of the unit tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Says that a test, or a part of one, cannot run on this host. The project's test command counts it
/// as skipped with the reason, from the file that it names in `DWCP_SKIP_LOG`.
pub(crate) fn skipped(test: &str, reason: &dyn Display) {
    let Some(path) = std::env::var_os("DWCP_SKIP_LOG") else {
        eprintln!("SKIPPED {test}: {reason}");
        return;
    };
    let line = format!("{test}\t{reason}\n");
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    log.write_all(line.as_bytes()).unwrap();
}
