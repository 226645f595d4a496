//! `cargo xtask bench NAME`: measurements, each beside a peer doing the same work in the same run.
//!
//! A measurement is a program of the crate `dwcp-benches` that prints one JSON object. It is built optimised and run
//! here, and [`report`] makes a table of what it prints.

mod bindings;
mod report;

use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use crate::{
    install::{self, CC},
    process,
    screen::Screen,
    test::bindings::{built, command},
};

/// The exit status for something the project names but does not have yet.
pub(crate) const UNSUPPORTED: u8 = 3;

/// What can be measured. One that is named without a program is not built yet, and asking for it says so, and not
/// "unknown".
pub(crate) const BENCHES: &[Bench] = &[
    Bench {
        name: "rpc",
        about: "ask a node for a VM, over TCP, a Unix socket and in process, beside an echo and gRPC",
        program: Some(Program {
            name: "rpc",
            features: "tonic",
            packages: &[],
        }),
    },
    Bench {
        name: "lifecycle",
        about: "create, start, stop and destroy VMs, and ask for their figures",
        program: Some(Program {
            name: "lifecycle",
            features: "",
            packages: &[],
        }),
    },
    Bench {
        name: "migration",
        about: "move a running VM between two nodes on this host, beside QEMU doing the same",
        program: None,
    },
    Bench {
        name: "bindings",
        about: "ask for a VM and watch it in Python, TypeScript, Go and C, beside Rust",
        program: Some(Program {
            name: "bindings",
            features: "",
            packages: bindings::PACKAGES,
        }),
    },
];

/// One measurement.
#[derive(Debug)]
pub(crate) struct Bench {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it measures, in a line.
    pub(crate) about: &'static str,
    /// The program, once there is one.
    program: Option<Program>,
}

/// A program that measures: a binary of the crate `dwcp-benches`.
#[derive(Debug)]
struct Program {
    name: &'static str,
    /// The features it is built with, as cargo takes them: the peers that it measures beside us.
    features: &'static str,
    /// What is built with it as cargo takes it: the language packages, where it measures those.
    packages: &'static [&'static str],
}

/// What `cargo xtask bench` was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BenchOptions {
    /// The measurement's name, one of [`BENCHES`].
    pub(crate) name: String,
    /// How many times each side runs, where that is not left to the measurement.
    pub(crate) runs: Option<u32>,
    /// Print one JSON object and not a table.
    pub(crate) json: bool,
    /// A revision to build beside the work tree and to compare with.
    pub(crate) against: Option<String>,
}

/// Runs a measurement.
pub(crate) fn run(options: &BenchOptions) -> ExitCode {
    let bench = BENCHES.iter().find(|bench| bench.name == options.name);
    let Some(program) = bench.and_then(|bench| bench.program.as_ref()) else {
        return unsupported(&format!("bench '{}' is not built yet", options.name));
    };
    if options.against.is_some() {
        return unsupported("--against, comparing with another revision, is not built yet");
    }
    match measure(program, options) {
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
    if !program.packages.is_empty() {
        command.args(bindings::words(&messages)?);
    }
    let output = output(&mut command)?;
    let report: Value = serde_json::from_slice(&output)
        .map_err(|error| format!("the report is no JSON: {error}"))?;
    let text = if options.json {
        format!("{report}\n")
    } else {
        report::text(&report)?
    };
    Screen::Output.write(&text);
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
