//! `migration`: a running VM moved on this host, beside QEMU doing the same and beside a plain copy of as many bytes.
//!
//! `dwcp` is the example `live_migration`, two nodes in one process; `qemu` is a script that moves a guest of the same
//! load between two QEMU processes; `raw` copies the filled memory over loopback TCP while such a guest spins and stays
//! where it is, which is the most that a first round could do. Each run is a process of its own. A row is
//! `ENGINE/LOAD/MODE/FIGURE`: `total-ms` from the request to the end, `downtime-seen-ms` the longest silence of the
//! guest's heartbeat, `first-round-mb-s` the rate at which all memory was sent once, `dirty-achieved` the pages a second
//! that the guest wrote meanwhile. What failed, or is not built, is a row without figures that says so.
//!
//! `cases` says what there is to measure, `ours`, `qemu` and `raw` run one case, `outcome` has what a run leaves,
//! `measure` takes the turns.

#![forbid(unsafe_code)]

mod cases;
mod measure;
mod ours;
mod outcome;
mod qemu;
mod raw;

use std::process::ExitCode;

use dwcp_benches::{
    Failure, finish,
    options::{self, Invocation},
};

fn main() -> ExitCode {
    finish("migration", run())
}

fn run() -> Result<(), Failure> {
    match options::read(measure::WORDS)? {
        Invocation::Measure { runs, words } => measure::run(runs, &words),
        Invocation::Helper { role, arguments } if role == "raw" => raw::copy(&arguments),
        Invocation::Helper { role, .. } => Err(format!("no helper '{role}'").into()),
    }
}
