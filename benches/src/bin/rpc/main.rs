//! `rpc`: what a request costs, beside a plain echo of as many bytes and beside gRPC.
//!
//! Client and server are two processes with two worker threads each, all connections without delay (`TCP_NODELAY`),
//! and every reply carries the same VM. `raw` echoes a length-delimited frame with as many bytes as dwcp's reply has;
//! `tonic` serves the VM as a protobuf message; `dwcp-tcp` and `dwcp-unix` ask a node for it; `dwcp-inproc` asks a
//! node in the process of the client. Rows `…/seq` are microseconds of one call after the other, rows `…/N` are
//! requests per second with N of them in flight on one connection.
//!
//! `measure` takes the turns, `contenders` has one client for each, `serve` is the other process, `subject` the VM.

#![forbid(unsafe_code)]

mod contenders;
mod measure;
mod serve;
mod subject;

use std::process::ExitCode;

use dwcp_benches::{
    Failure, finish,
    options::{self, Invocation},
};

/// Threads that run tasks, in either process.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    finish("rpc", run())
}

fn run() -> Result<(), Failure> {
    let invocation = options::read(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    // Spawned, so that all is done by the workers: this thread only waits.
    let work = match invocation {
        Invocation::Measure { runs, .. } => runtime.spawn(measure::run(runs)),
        Invocation::Helper { role, arguments } if role == "serve" => {
            runtime.spawn(serve::run(arguments))
        }
        Invocation::Helper { role, .. } => return Err(format!("no helper '{role}'").into()),
    };
    runtime.block_on(work)?
}
