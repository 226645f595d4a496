//! What the measurements have in common.
//!
//! Each binary in `src/bin` is one measurement: it says on standard error how far it is, and prints one JSON object
//! on standard output. `cargo xtask bench NAME` builds it optimised, runs it, and makes a table of the object.
//! [`options`] reads a measurement's command line, [`figures`] turns what was measured into rows, [`host`] says what
//! it was measured on, and [`report`] puts all into the object.
//!
//! Nothing here is asserted: a goal that is not met is reported as not met.

#![forbid(unsafe_code)]

use std::process::ExitCode;

pub mod figures;
pub mod host;
pub mod options;
pub mod report;

/// Whatever ends a measurement early.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How a measurement's process ends; what ended it early is said with its name.
#[must_use]
pub fn finish(name: &str, done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
