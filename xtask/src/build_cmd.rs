//! `cargo xtask build`: everything that is handed out, optimised. The measurements are not.

use std::process::ExitCode;

use crate::process;

/// Builds the workspace in release mode, with cargo's own output on the terminal.
pub(crate) fn run() -> ExitCode {
    let arguments = [
        "build",
        "--release",
        "--workspace",
        "--exclude",
        "dwcp-benches",
    ];
    match process::cargo(&arguments).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}
