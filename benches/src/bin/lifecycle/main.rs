//! `lifecycle`: what it takes to make, start, watch, stop and destroy VMs, through the public API.
//!
//! One node in this process, on KVM, or simulated where there is none, which the report says. Its VMs have the
//! built-in guest, which fills no memory and writes next to nothing, so that what is measured is the node's work.
//! `story` takes one VM through its life, `crowd` many at once, `idle` weighs VMs that do nothing, each time in a
//! process of its own, and `support` has the node and the VMs.

#![forbid(unsafe_code)]

mod crowd;
mod idle;
mod measure;
mod story;
mod support;

use std::process::ExitCode;

use dwcp_benches::{
    Failure, finish,
    options::{self, Invocation},
};

fn main() -> ExitCode {
    finish("lifecycle", run())
}

fn run() -> Result<(), Failure> {
    let invocation = options::read(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let work = match invocation {
        Invocation::Measure { runs, .. } => runtime.spawn(measure::run(runs)),
        Invocation::Helper { role, .. } if role == "idle" => runtime.spawn(idle::weigh()),
        Invocation::Helper { role, .. } => return Err(format!("no helper '{role}'").into()),
    };
    runtime.block_on(work)?
}
