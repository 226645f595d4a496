//! A Linux guest of `debian-12-mini`, talked to over its console as a person would.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dwcp::{Client, Console, VM, VMClient, VMConfig, VMState};
use futures::StreamExt;

use crate::options::Options;

/// How long a guest may take to come up, or to do what it was told, on a host whose processors are emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// A guest that runs.
pub(crate) struct Guest {
    pub(crate) vms: VMClient,
    pub(crate) vm: VM,
    console: Console,
    /// What it printed and nobody has looked at.
    printed: String,
    verbose: bool,
}

/// Number of the last command, of any guest: what a console has kept holds the answers to earlier ones.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Any error as text.
pub(crate) fn text(error: impl Display) -> String {
    error.to_string()
}

/// The config of a guest.
pub(crate) fn config(name: &str, cpus: u32) -> VMConfig {
    VMConfig {
        name: name.into(),
        memory: 256 << 20,
        cpus,
        image: "debian-12-mini".into(),
        ..VMConfig::default()
    }
}

impl Guest {
    /// Makes and starts one, and waits until it is up.
    pub(crate) async fn boot(
        client: &Client,
        config: VMConfig,
        options: &Options,
    ) -> Result<Guest, String> {
        let vms = client.vm();
        let vm = vms.create(config).await.map_err(text)?;
        vms.start(&vm.id).await.map_err(text)?;
        let mut guest = Guest::attach(client, vm, options).await?;
        guest.wait_up().await?;
        Ok(guest)
    }

    /// Reads the console of one that runs already.
    pub(crate) async fn attach(
        client: &Client,
        vm: VM,
        options: &Options,
    ) -> Result<Guest, String> {
        let vms = client.vm();
        let console = vms.console(&vm.id).await.map_err(text)?;
        Ok(Guest {
            vms,
            vm,
            console,
            printed: String::new(),
            verbose: options.verbose,
        })
    }

    /// Waits until its first program says that it is up, and for the shell.
    pub(crate) async fn wait_up(&mut self) -> Result<(), String> {
        self.wait("debian-12-mini is up").await?;
        self.wait_shell().await
    }

    /// Waits until the shell answers.
    pub(crate) async fn wait_shell(&mut self) -> Result<(), String> {
        self.run("true").await.map(drop)
    }

    /// Waits for a text, and returns what was printed up to its end.
    pub(crate) async fn wait(&mut self, wanted: &str) -> Result<String, String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.printed.find(wanted) {
                let rest = self.printed.split_off(at + wanted.len());
                return Ok(std::mem::replace(&mut self.printed, rest));
            }
            let more = tokio::time::timeout_at(deadline, self.console.next()).await;
            match more {
                Ok(Some(bytes)) => {
                    let more = String::from_utf8_lossy(&bytes);
                    if self.verbose {
                        eprint!("{more}");
                    }
                    self.printed.push_str(&more);
                }
                Ok(None) => {
                    let why = self.console.error();
                    return Err(format!(
                        "the console ended ({why:?}) before `{wanted}` came:\n{}",
                        self.printed
                    ));
                }
                Err(_) => {
                    let vm = self.vms.get(&self.vm.id).await;
                    return Err(format!(
                        "`{wanted}` did not come, the VM is {:?}:\n{}",
                        vm.map(|vm| (vm.state, vm.reason)),
                        self.printed
                    ));
                }
            }
        }
    }

    /// Types a command and returns what it prints; an error where it fails.
    pub(crate) async fn run(&mut self, command: &str) -> Result<String, String> {
        // Put together by the guest's shell, so that the echo of what is typed is not taken for the answer.
        let number = ASKED.fetch_add(1, Ordering::Relaxed) + 1;
        self.type_in(&format!(
            "echo \"=be\"\"gin {number}=\"; {command}; echo \"=$?=\"\"end {number}=\"\n"
        ))
        .await?;
        self.wait(&format!("=begin {number}=")).await?;
        let end = format!("=end {number}=");
        let printed = self.wait(&end).await?.replace('\r', "");
        let (output, status) = printed
            .trim_end_matches(&end)
            .rsplit_once('=')
            .ok_or_else(|| format!("`{command}` answered without a status:\n{printed}"))?;
        let output = output.trim_start_matches('\n').to_owned();
        if status == "0" {
            Ok(output)
        } else {
            Err(format!("`{command}` ended with {status}:\n{output}"))
        }
    }

    /// Types on the console.
    pub(crate) async fn type_in(&mut self, line: &str) -> Result<(), String> {
        self.console.write(line.as_bytes()).await.map_err(text)
    }

    /// Waits for a state of the VM.
    pub(crate) async fn wait_state(&self, wanted: VMState) -> Result<VM, String> {
        let mut events = self.vms.watch(&self.vm.id).await.map_err(text)?;
        let wait = async {
            while let Some(event) = events.next().await {
                if event.vm.state == wanted {
                    return Ok(event.vm);
                }
            }
            Err(format!(
                "the watch ended before {wanted}: {:?}",
                events.error()
            ))
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => Err(format!("the VM did not become {wanted}")),
        }
    }
}
