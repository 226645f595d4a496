//! The example `upgrade`: processes that take VMs over from each other.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dwcp::{Backend, Client, ClientConfig, VMClient, VMState};
use support::node_process::{backends, example};
use support::{skipped, whole};

/// Time for what has to come, on a host that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, and what it says.
struct Upgrade {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Upgrade {
    fn start(command: &str, backend: Backend, dir: &Path, name: &str, more: &[&str]) -> Upgrade {
        let backend = match backend {
            Backend::Sim => "sim",
            _ => "kvm",
        };
        let mut child = Command::new(example("upgrade"))
            .arg(command)
            .arg("--data")
            .arg(dir)
            .args(["--name", name, "--listen", &address(dir, name)])
            .args(["--backend", backend])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        Upgrade { child, says }
    }

    /// What it says next.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn says(&mut self, begin: &str) -> String {
        let line = self.line();
        assert!(line.starts_with(begin), "{line:?} is not {begin:?}");
        line
    }

    /// Waits until it ends: whether well.
    fn ends(mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(dir: &Path, name: &str) -> String {
    format!("unix:{}", dir.join(format!("{name}.sock")).display())
}

async fn client(dir: &Path, name: &str) -> VMClient {
    let config = ClientConfig::new(address(dir, name)).with_tls_enabled(false);
    Client::new(config).await.unwrap().vm()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_all_vms_over_and_the_old_one_ends() {
    let skip = |reason: &str| skipped("a_new_process_takes_all_vms_over on KVM", &reason);
    for backend in backends(skip).await {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let next = |name: &str| format!("{name}={}", address(dir, name));
        let mut old = Upgrade::start(
            "serve",
            backend,
            dir,
            "one",
            &["--next", &next("two"), "--vms", "3"],
        );
        old.says("READY unix:");
        for number in 1..=3 {
            old.says(&format!("RUNS guest-{number}"));
        }
        let vms = client(dir, "one").await;
        let mut all = vms.list(()).await.unwrap();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        // Each in the state it has.
        vms.pause(&all[1].id).await.unwrap();
        vms.stop(&all[2].id, true).await.unwrap();
        let mut beats = vms.guest_report(&all[0].id).await.unwrap().beats;

        for (from, name, then) in [("one", "two", "three"), ("two", "three", "one")] {
            let arguments = ["--from", &address(dir, from), "--next", &next(then)];
            let mut new = Upgrade::start("take-over", backend, dir, name, &arguments);
            new.says("READY unix:");
            let mut moved = [new.line(), new.line(), new.line()];
            moved.sort();
            for (line, guest) in moved
                .iter()
                .zip(["guest-1 (same", "guest-2 (same", "guest-3,"])
            {
                assert!(line.starts_with(&format!("MOVED {guest}")), "{line:?}");
            }
            new.says("TOOK OVER 3 VMs from unix:");
            old.says("ENDS");
            assert!(old.ends(), "{from} did not end well");
            old = new;

            // They are where it says, and nothing listens in the old one's place.
            let vms = client(dir, name).await;
            let states = [VMState::Running, VMState::Paused, VMState::Stopped];
            for (vm, state) in all.iter().zip(states) {
                let now = vms.get(&vm.id).await.unwrap();
                assert_eq!((now.state, now.node.as_str()), (state, name));
            }
            // The guest has gone on, not begun anew.
            let report = vms.verify(&all[0].id).await.unwrap();
            assert!(report.verified && report.beats > beats, "{report:?}");
            beats = report.beats;
        }
        let vms = client(dir, "three").await;
        vms.resume(&all[1].id).await.unwrap();
        vms.start(&all[2].id).await.unwrap();
        for vm in &all {
            whole(&vms, &vm.id).await;
        }
    }
}

#[test]
fn what_cannot_be_taken_over_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = address(dir.path(), "nobody");
    let arguments = ["--from", &nobody];
    let new = Upgrade::start("take-over", Backend::Sim, dir.path(), "new", &arguments);
    assert!(!new.ends(), "nobody is there to take over from");
}
