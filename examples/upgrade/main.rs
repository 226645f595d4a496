//! A node's program is exchanged while its VMs run: `cargo run --release --example upgrade -- --help`.
//!
//! The old process serves; the new one, which may be another version, has all its VMs handed over: their
//! memory stays where it is in the host, so that each stands still for a few milliseconds, whatever its size.
//! Then it tells the old one to end.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

mod options;
mod take_over;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use dwcp::{Node, VMClient, VMConfig};
use tokio::signal::unix::{SignalKind, signal};

use self::options::{Command, HELP, Options};

type Failure = Box<dyn std::error::Error>;

/// Time for guests to stop where a process is told to end that still has some.
const SHUTDOWN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Failure> {
    // Before the node starts, so that no signal is lost.
    let mut told = signal(SignalKind::terminate())?;
    let mut builder = Node::builder(&options.name)
        .backend(options.backend)
        .listen(&options.listen)
        .data_dir(options.data.join(&options.name))
        // One for both processes: a VM's disk is not moved, only its lock is.
        .disk_dir(options.data.join("disks"));
    if let Some((name, address)) = &options.next {
        // It need not be there yet.
        builder = builder.peer(name, address);
    }
    let node = builder.start().await?;
    let pid = pid_file(&options.data, &options.name);
    std::fs::write(&pid, std::process::id().to_string())?;
    println!("READY {}", options.listen);
    let begun = match &options.command {
        Command::Serve { vms } => create(&node.client().vm(), *vms).await,
        Command::TakeOver { from } => take_over::all(&node, from, &options.data).await,
    };
    if begun.is_ok() {
        told.recv().await;
        println!("ENDS");
    }
    node.shutdown(SHUTDOWN).await?;
    std::fs::remove_file(&pid)?;
    begun
}

/// Where a process says which one it is.
fn pid_file(data: &Path, name: &str) -> PathBuf {
    data.join(format!("{name}.pid"))
}

/// Guests to be handed over: they keep writing, and beat a hundred times a second.
async fn create(vms: &VMClient, count: u32) -> Result<(), Failure> {
    for number in 1..=count {
        let config = VMConfig::builder()
            .name(format!("guest-{number}"))
            .memory(256 << 20)
            .annotations([("dwcp.pulse/beat-hz", "100")]);
        let vm = vms.create(config.build()?).await?;
        vms.start(&vm.id).await?;
        println!("RUNS {}", vm.name);
    }
    Ok(())
}
