//! `cargo xtask build`: everything that is handed out, optimised.

use std::process::ExitCode;

use crate::process;

/// Builds the workspace in release mode, with cargo's own output on the terminal.
pub(crate) fn run() -> ExitCode {
    match process::cargo(&["build", "--release", "--workspace"]).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}
