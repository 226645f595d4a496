//! A VM's console in this terminal: `cargo run --release --example console -- --help`.
//!
//! Starts a node, or asks one that runs elsewhere; makes a VM of an image, runs it, and puts its serial
//! port and this terminal together until Ctrl-] is pressed or the VM stops. The VM is then destroyed. Or shows
//! the console of a VM that is there, which it leaves alone.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

mod options;
mod terminal;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use dwcp::{Client, ClientConfig, DWCPError, Node, VM, VMClient, VMConfig};
use futures::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

use self::options::{HELP, Options};
use self::terminal::{RawMode, Typed};

type Failure = Box<dyn std::error::Error>;

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

/// Gets at a node, uses it, and leaves it as it was.
async fn run(options: &Options) -> Result<(), Failure> {
    if let Some((host, port)) = &options.connect {
        let mut config = ClientConfig::new(host).with_port(*port);
        config.api_key.clone_from(&options.api_key);
        config.ca_file.clone_from(&options.ca_file);
        if options.ca_file.is_none() {
            config = config.with_tls_enabled(false);
        }
        let client = Client::new(config).await?;
        let told = boot(&client.vm(), options).await;
        client.close().await;
        return told;
    }
    // Images need a directory; one that nobody named is nobody's afterwards.
    let scratch = tempfile::tempdir()?;
    let data_dir = options.data_dir.as_deref().unwrap_or(scratch.path());
    let builder = Node::builder("console").backend(options.backend);
    let node = builder.data_dir(data_dir).start().await?;
    let told = boot(&node.client().vm(), options).await;
    node.shutdown(Duration::ZERO).await?;
    told
}

/// Makes the VM, shows its console, and removes it again, whatever happened; or shows that of another.
async fn boot(vms: &VMClient, options: &Options) -> Result<(), Failure> {
    if let Some(id) = &options.attach {
        let vm = vms.get(id).await?;
        let why = show(vms, &vm, options).await?;
        eprintln!("{why}; {} stays", vm.name);
        return Ok(());
    }
    let mut image = options.image.clone();
    if let Some(path) = &options.import {
        image = vms
            .import_image(path, options.image.as_deref())
            .await?
            .name
            .into();
    }
    let mut config = VMConfig::builder()
        .name(&options.name)
        .memory(options.memory)
        .cpus(options.cpus);
    if let Some(image) = &image {
        config = config.image(image);
    }
    if !options.cmdline.is_empty() {
        config = config.annotations([("dwcp.kernel/cmdline", options.cmdline.as_str())]);
    }
    let vm = vms.create(config.build()?).await?;
    let shown = show(vms, &vm, options).await;
    let removed = remove(vms, &vm).await;
    let why = shown?;
    removed?;
    eprintln!("{why}; {} is destroyed", vm.name);
    Ok(())
}

async fn remove(vms: &VMClient, vm: &VM) -> Result<(), DWCPError> {
    match vms.stop(&vm.id, true).await {
        // It has stopped by itself.
        Ok(()) | Err(DWCPError::InvalidOperation(_)) => vms.destroy(&vm.id).await,
        Err(error) => Err(error),
    }
}

/// Runs the VM, if it is this program's, with its console in this terminal; why that ended.
async fn show(vms: &VMClient, vm: &VM, options: &Options) -> Result<&'static str, Failure> {
    // Before the terminal is changed, so that no signal ends the program in between.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;

    if options.attach.is_none() {
        vms.start(&vm.id).await?;
    }
    let mut console = vms.console(&vm.id).await?;
    let writer = console.writer();
    eprintln!("{} runs {}; Ctrl-] leaves", vm.name, vm.config.image);
    // Dropped on each way out of here, and the terminal is what it was.
    let _raw = RawMode::enter()?;
    let mut typed = terminal::typed();
    // Whether what was typed last arrived.
    let mut heard = true;
    loop {
        tokio::select! {
            printed = console.next() => match printed {
                Some(bytes) => {
                    let mut out = std::io::stdout().lock();
                    out.write_all(&bytes)?;
                    out.flush()?;
                }
                None => return match console.error() {
                    Some(error) => Err(error.into()),
                    None => Ok("the VM has stopped"),
                },
            },
            Some(what) = typed.recv() => match what {
                Typed::Leave => return Ok("left"),
                Typed::Bytes(_) if options.read_only => ring()?,
                Typed::Bytes(bytes) => match writer.write(&bytes).await {
                    Ok(()) => heard = true,
                    // Somebody else types, which is told once; or it has stopped: the stream ends next,
                    // and says so.
                    Err(DWCPError::InvalidOperation(why)) if heard => {
                        heard = false;
                        eprint!("\r\n[{why}]\r\n");
                    }
                    // The same again; or the guest does not read as fast.
                    Err(DWCPError::InvalidOperation(_) | DWCPError::ResourceLimit(_)) => ring()?,
                    Err(error) => return Err(error.into()),
                },
            },
            _ = terminate.recv() => return Ok("ended by a signal"),
            _ = interrupt.recv() => return Ok("ended by a signal"),
            _ = hang_up.recv() => return Ok("ended by a signal"),
        }
    }
}

/// The terminal rings: what was typed went nowhere.
fn ring() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(b"\x07")?;
    out.flush()
}
