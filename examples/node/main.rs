//! A node as a program of its own: `cargo run --release --example node -- --help`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

mod options;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use dwcp::Node;
use tokio::signal::unix::{SignalKind, signal};

use self::options::{HELP, Options};

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
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    // Before the node starts, so that no signal is lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let mut builder = Node::builder(&options.name).backend(options.backend);
    for address in &options.listen {
        builder = builder.listen(address);
    }
    if let Some(dir) = options.data_dir {
        builder = builder.data_dir(dir);
    }
    if let Some(dir) = options.disk_dir {
        builder = builder.disk_dir(dir);
    }
    for (key, role) in options.keys {
        builder = builder.api_key(key, role);
    }
    if let Some(dir) = options.tls_dir {
        builder = builder.tls_dir(dir);
    }
    if options.insecure {
        builder = builder.insecure();
    }
    if let Some(timeout) = options.peer_timeout {
        builder = builder.peer_timeout(timeout);
    }
    for (name, address, credential) in options.peers {
        builder = match credential {
            Some(credential) => builder.peer_with_credential(name, address, credential),
            None => builder.peer(name, address),
        };
    }
    let node = builder.start().await?;
    let address = match node.address() {
        Some(address) => address.to_string(),
        None => options.listen[0].clone(),
    };
    println!("READY {address}");
    std::io::stdout().flush()?;

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("ending: VMs get {} s to stop", options.shutdown_timeout);
    node.shutdown(Duration::from_secs(options.shutdown_timeout))
        .await?;
    Ok(())
}
