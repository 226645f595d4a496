//! `bindings`: what it costs to call across the border of a language.
//!
//! Every language does the same work with a node in its own process: a simulated one, for what is measured is the way
//! to it. Rust's own calls are the base: the figure of a language that goals are held against is what it takes beyond
//! them. Rows `…/seq` ask for one stopped VM, one call after the other; `…/500` begin 500 such calls and wait for
//! all; `…/stream-item` read the events of a watch that wait at the node. What is not asked for need not be decoded,
//! and `…-whole` read what a VM has: its config, labels, annotations and times.
//!
//! `programs` starts one process for each language, which stays for the whole measurement, and tells it what to do;
//! `rust` is that of Rust, `measure` takes the turns. The other programs are in `benches/bindings`.

#![forbid(unsafe_code)]

mod measure;
mod programs;
mod rust;

use std::process::ExitCode;

use dwcp_benches::{
    Failure, finish,
    options::{self, Invocation},
};

fn main() -> ExitCode {
    finish("bindings", run())
}

fn run() -> Result<(), Failure> {
    match options::read(&[programs::PROGRAM, programs::MISSING])? {
        Invocation::Measure { runs, words } => measure::run(runs, &words),
        Invocation::Helper { role, arguments } if role == "rust" => rust::run(&arguments),
        Invocation::Helper { role, .. } => Err(format!("no helper '{role}'").into()),
    }
}
