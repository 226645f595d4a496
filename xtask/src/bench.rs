//! `cargo xtask bench NAME`: measurements, each beside a peer doing the same work in the same run.

use std::process::ExitCode;

/// The exit status for something the project names but does not have yet.
pub(crate) const UNSUPPORTED: u8 = 3;

/// What can be measured. Each entry is run by [`Bench::run`], or is named here without one, so that asking for it
/// says "not built yet" and not "unknown".
pub(crate) const BENCHES: &[Bench] = &[Bench {
    name: "migration",
    about: "move a running VM between two nodes on this host, beside QEMU doing the same",
    run: None,
}];

/// One measurement.
#[derive(Debug)]
pub(crate) struct Bench {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it measures, in a line.
    pub(crate) about: &'static str,
    /// The measurement, once there is one.
    run: Option<fn(&BenchOptions) -> ExitCode>,
}

/// What `cargo xtask bench` was asked.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "read by measurements, of which none is built yet")
)]
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
    match BENCHES
        .iter()
        .find(|bench| bench.name == options.name)
        .and_then(|bench| bench.run)
    {
        Some(measure) => measure(options),
        None => {
            eprintln!("unsupported: bench '{}' is not built yet", options.name);
            ExitCode::from(UNSUPPORTED)
        }
    }
}
