//! A program for guests: it checks, while its VM is stopped, copied and moved, that clocks do not go back and that
//! the disk holds what was written, and says in a status file what it saw.
//!
//! `checks clocks STATUS`, `checks disk FILE STATUS` run until they are killed; `checks now` prints the clocks.
//! A status is one line, written anew several times a second: `ok NAME=NUMBER …`, or `BAD` and what was wrong.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

mod clocks;
mod disk;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["clocks", status] => clocks::check(Path::new(status)),
        ["disk", file, status] => disk::check(Path::new(file), Path::new(status)),
        ["now"] => {
            println!("{}", clocks::now());
            Ok(())
        }
        _ => {
            eprintln!("usage: checks clocks STATUS | checks disk FILE STATUS | checks now");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("checks: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Replaces the status; who reads it sees the old one or the new one.
fn tell(status: &Path, line: &str) -> io::Result<()> {
    let new = status.with_extension("new");
    fs::write(&new, format!("{line}\n"))?;
    fs::rename(new, status)
}
