//! `cargo xtask bench NAME`: measurements, each beside a peer doing the same work in the same run.
//!
//! A measurement is a program of the crate `dwcp-benches` that prints one JSON object. It is built optimised and run
//! here, [`report`] makes a table of what it prints, and [`picture`] a picture where one is asked for. [`bindings`] and
//! [`migration`] prepare what those two need.

mod bindings;
mod migration;
mod picture;
mod report;

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use serde_json::Value;

use crate::{
    install::{self, CC},
    process,
    screen::Screen,
    test::bindings::{built, command},
};

/// The exit status for something the project names but does not have yet.
pub(crate) const UNSUPPORTED: u8 = 3;

/// What can be measured.
pub(crate) const BENCHES: &[Bench] = &[
    Bench {
        name: "rpc",
        about: "ask a node for a VM, over TCP, a Unix socket and in process, beside an echo and gRPC",
        program: Program {
            name: "rpc",
            features: "tonic",
            packages: &[],
            words: no_words,
        },
        options: &[],
    },
    Bench {
        name: "lifecycle",
        about: "create, start, stop and destroy VMs, and ask for their figures",
        program: Program {
            name: "lifecycle",
            features: "",
            packages: &[],
            words: no_words,
        },
        options: &[],
    },
    Bench {
        name: "migration",
        about: "move a running VM between two nodes on this host, beside QEMU doing the same and a plain copy",
        program: Program {
            name: "migration",
            features: "",
            packages: migration::PACKAGES,
            words: migration::words,
        },
        options: migration::OPTIONS,
    },
    Bench {
        name: "bindings",
        about: "ask for a VM and watch it in Python, TypeScript, Go and C, beside Rust",
        program: Program {
            name: "bindings",
            features: "",
            packages: bindings::PACKAGES,
            words: bindings::words,
        },
        options: &[],
    },
];

/// One measurement.
#[derive(Debug)]
pub(crate) struct Bench {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it measures, in a line.
    pub(crate) about: &'static str,
    /// What measures it.
    program: Program,
    /// The options that it alone takes.
    pub(crate) options: &'static [BenchOption],
}

/// An option with a value that one measurement takes, and no other.
#[derive(Debug)]
pub(crate) struct BenchOption {
    /// Such as `--only`.
    pub(crate) name: &'static str,
    /// What its value is called in the help.
    pub(crate) value: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
}

/// A program that measures: a binary of the crate `dwcp-benches`.
#[derive(Debug)]
struct Program {
    name: &'static str,
    /// The features it is built with, as cargo takes them: the peers that it measures beside us.
    features: &'static str,
    /// What is built with it as cargo takes it: the language packages, or the example, where it measures those.
    packages: &'static [&'static str],
    /// Its own words, from what cargo says it built and what was asked.
    words: fn(&str, &BenchOptions) -> Result<Vec<String>, String>,
}

/// Of a program that needs none.
#[allow(clippy::unnecessary_wraps, reason = "others may fail")]
fn no_words(_messages: &str, _options: &BenchOptions) -> Result<Vec<String>, String> {
    Ok(Vec::new())
}

/// What `cargo xtask bench` was asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BenchOptions {
    /// The measurement's name, one of [`BENCHES`].
    pub(crate) name: String,
    /// How many times each side runs, where that is not left to the measurement.
    pub(crate) runs: Option<u32>,
    /// Print one JSON object and not a table.
    pub(crate) json: bool,
    /// A revision to build beside the work tree and to compare with.
    pub(crate) against: Option<String>,
    /// The options of this measurement alone, in the order they were given.
    pub(crate) own: Vec<(&'static str, String)>,
}

impl BenchOptions {
    /// The last value that was given for an option of this measurement alone.
    fn own(&self, name: &str) -> Option<&str> {
        let mut given = self.own.iter().rev();
        let (_, value) = given.find(|(option, _)| *option == name)?;
        Some(value)
    }
}

/// Runs a measurement.
pub(crate) fn run(options: &BenchOptions) -> ExitCode {
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == options.name) else {
        eprintln!("error: there is no bench '{}'", options.name);
        return ExitCode::FAILURE;
    };
    if options.against.is_some() {
        return unsupported("--against, comparing with another revision, is not built yet");
    }
    match measure(&bench.program, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: bench {}: {why}", options.name);
            ExitCode::FAILURE
        }
    }
}

fn unsupported(what: &str) -> ExitCode {
    eprintln!("unsupported: {what}");
    ExitCode::from(UNSUPPORTED)
}

/// Builds the program, runs it and shows what it reports. Goals that are not met are shown, and no failure.
fn measure(program: &Program, options: &BenchOptions) -> Result<(), String> {
    install::provide(&[CC], Screen::Error)?;
    let mut arguments = vec![
        "build",
        "--release",
        "--quiet",
        "--message-format=json-render-diagnostics",
        "-p",
        "dwcp-benches",
        "--features",
        program.features,
        "--bin",
        program.name,
    ];
    arguments.extend(program.packages);
    Screen::Error.line(&format!("building {}, optimised", program.name));
    let messages = output(&mut process::cargo(&arguments))?;
    let messages = String::from_utf8_lossy(&messages);
    let mut command = command(built(&messages, program.name)?);
    if let Some(runs) = options.runs {
        command.args(["--runs", &runs.to_string()]);
    }
    command.args((program.words)(&messages, options)?);
    let output = output(&mut command)?;
    let report: Value = serde_json::from_slice(&output)
        .map_err(|error| format!("the report is no JSON: {error}"))?;
    let text = if options.json {
        format!("{report}\n")
    } else {
        report::text(&report)?
    };
    Screen::Output.write(&text);
    if let Some(path) = options.own(migration::SVG) {
        picture::write(&report, Path::new(path))?;
        Screen::Error.line(&format!("the picture is {path}"));
    }
    Ok(())
}

/// What a command prints. Its progress, and what it complains of, are for the person in front of it.
fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        return Err(output.status.to_string());
    }
    Ok(output.stdout)
}
