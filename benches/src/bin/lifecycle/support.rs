//! The node, its VMs, and waiting.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use dwcp::{Backend, NodeBuilder, VMClient, VMConfig};
use dwcp_benches::{Failure, host};

/// Between two looks at a guest: short beside what is measured, long enough to leave it a processor.
const LOOK: Duration = Duration::from_micros(50);
/// How long a guest may take to its first beat.
const BEAT: Duration = Duration::from_secs(10);

/// A node on what this host has.
pub(crate) fn node() -> NodeBuilder {
    dwcp::Node::builder("bench").backend(backend())
}

/// KVM, or where there is none the simulation.
pub(crate) fn backend() -> Backend {
    if host::kvm_is_usable() {
        Backend::Kvm
    } else {
        Backend::Sim
    }
}

/// A VM with one vCPU whose guest beats ten times a second, and leaves its memory alone.
pub(crate) fn config(name: &str, memory: u64) -> dwcp::Result<VMConfig> {
    VMConfig::builder()
        .name(name)
        .memory(memory)
        .cpus(1)
        .labels([("env", "bench"), ("tier", "web")])
        .annotations([
            ("dwcp.pulse/fill", "0"),
            ("dwcp.pulse/working-set", "0"),
            ("dwcp.pulse/dirty-pages-per-second", "1"),
        ])
        .build()
}

/// Waits until the guest has beaten: its code runs, and not only its vCPUs were let go.
pub(crate) async fn first_beat(vms: &VMClient, id: &str) -> Result<(), Failure> {
    let began = Instant::now();
    while vms.guest_report(id).await?.beats == 0 {
        if began.elapsed() > BEAT {
            return Err(format!("the guest of VM {id} does not beat").into());
        }
        // Tokio's own sleep has steps of a millisecond.
        tokio::task::spawn_blocking(|| thread::sleep(LOOK)).await?;
    }
    Ok(())
}

/// A folder of this process's own, beside the program: on the disk that is built on, and not in a place that may be
/// memory. Gone with the value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn create() -> Result<Self, Failure> {
        let program = env::current_exe()?;
        let place = program.parent().ok_or("the program is in no folder")?;
        let path = place.join(format!("bench-lifecycle-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether anything was put there.
    pub(crate) fn is_used(&self) -> bool {
        fs::read_dir(&self.0).is_ok_and(|mut entries| entries.next().is_some())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("lifecycle: {} stays: {error}", self.0.display());
        }
    }
}

/// The time since then, in milliseconds.
pub(crate) fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
