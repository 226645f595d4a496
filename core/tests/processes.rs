//! Nodes as processes of their own: VMs move between them, and they are ended in every way.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dwcp::{
    Backend, DWCPError, MigrationMode, MigrationOptions, MigrationState, MigrationStatus, SameHost,
    VMClient, VMConfig, VMEventType, VMState,
};
use futures::StreamExt;
use support::node_process::backends;
use support::place::{OPERATOR, PEER, Place};
use support::{config, skipped, started, wait, wait_for, whole, with};
use tempfile::TempDir;

/// Where there is no KVM, that is said.
async fn all_backends(test: &str) -> Vec<Backend> {
    backends(|reason| skipped(&format!("{test} on KVM"), &reason)).await
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A guest that writes to its memory all the time.
fn busy(name: &str) -> VMConfig {
    let busy = [
        ("fill", "8388608"),
        ("working-set", "2097152"),
        ("dirty-pages-per-second", "10000"),
    ];
    with(config(name), &busy)
}

/// The defaults promise encryption and checksums. Time for a host that does other things too.
fn options(same_host: SameHost) -> MigrationOptions {
    let options = MigrationOptions {
        same_host,
        max_downtime: 10_000,
        ..MigrationOptions::default()
    };
    assert!(options.encrypt_transport && options.verify_checksum);
    options
}

/// Copies a VM to another node and waits for the end.
async fn moved(vms: &VMClient, id: &str, to: &str) -> MigrationStatus {
    moved_by(SameHost::Never, vms, id, to).await
}

/// The same, with its memory copied or handed over.
async fn moved_by(same_host: SameHost, vms: &VMClient, id: &str, to: &str) -> MigrationStatus {
    moved_as(options(same_host), vms, id, to).await
}

/// The same, as these options say.
async fn moved_as(
    options: MigrationOptions,
    vms: &VMClient,
    id: &str,
    to: &str,
) -> MigrationStatus {
    let migration = vms.migrate(id, to, options).await.unwrap();
    let mut progress = vms.migration_progress(&migration.id).await.unwrap();
    let mut last = migration;
    while let Some(status) = progress.next().await {
        assert!(!last.state.is_terminal(), "{last:?} and then {status:?}");
        assert_eq!(
            (&status.id, status.vm_id.as_str()),
            (&last.id, id),
            "of another migration"
        );
        last = status;
    }
    assert_eq!(progress.error(), None);
    assert_eq!(vms.get_migration_status(&last.id).await.unwrap(), last);
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_goes_there_and_back_twice_over_tls() {
    there_and_back("a_vm_goes_there_and_back_twice", SameHost::Never).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_goes_there_and_back_twice_in_the_same_memory() {
    there_and_back("a_vm_goes_in_the_same_memory", SameHost::Require).await;
}

async fn there_and_back(test: &str, same_host: SameHost) {
    for backend in all_backends(test).await {
        let dir = directory();
        let mut here = Place::new("node-01", backend);
        let mut there = Place::new("node-02", backend);
        here.introduce("node-02", &there, PEER);
        there.introduce("node-01", &here, PEER);
        // One after the other: the first makes the authority of both.
        let _processes = [here.start(dir.path()), there.start(dir.path())];
        let clients = [
            here.client(dir.path()).await.vm(),
            there.client(dir.path()).await.vm(),
        ];
        let vm = started(&clients[0], busy("traveller")).await;
        let mut events = clients[0].watch(&vm.id).await.unwrap();
        for hop in 0..4 {
            let (from, to) = (&clients[hop % 2], &clients[(hop + 1) % 2]);
            let target = [there.name, here.name][hop % 2];
            let status = moved_by(same_host, from, &vm.id, target).await;
            assert_eq!(status.state, MigrationState::Completed, "{hop}: {status:?}");
            assert_eq!((status.progress, status.error), (100.0, None));
            assert_eq!(status.target_node, target);
            if same_host == SameHost::Never {
                assert!(status.bytes_sent >= 8 << 20, "{hop}");
            } else {
                assert_eq!(status.mode, MigrationMode::SameHost, "{hop}");
                assert!(status.bytes_sent < 1 << 20, "{hop}: only the state");
                // All of its memory, and it is the target's to count.
                let used = to.get_metrics(&vm.id, Duration::from_secs(1)).await;
                assert!(used.unwrap().memory_used >= 8 << 20, "{hop}");
            }
            assert!(status.downtime_us > 0, "{hop}");
            let now = to.get(&vm.id).await.unwrap();
            assert_eq!((now.state, now.node.as_str()), (VMState::Running, target));
            whole(to, &vm.id).await;
            // The node that it left says where it is, and its watchers go on there.
            let now = from.get(&vm.id).await.unwrap();
            assert_eq!((now.state, now.node.as_str()), (VMState::Running, target));
            wait(&mut events, |event| {
                (event.vm.node.as_str(), event.vm.state) == (target, VMState::Running)
            })
            .await;
        }
        // It can be ended where it is.
        clients[0].stop(&vm.id, false).await.unwrap();
        clients[0].destroy(&vm.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_let_in_keeps_its_vm() {
    for backend in all_backends("a_node_that_is_not_let_in").await {
        let dir = directory();
        let mut here = Place::new("node-01", backend);
        let there = Place::new("node-02", backend);
        here.introduce("wrong-key", &there, "the-key-of-nobody");
        here.introduce("wrong-role", &there, OPERATOR);
        here.introduce("node-02", &there, PEER);
        let _processes = [here.start(dir.path()), there.start(dir.path())];
        let vms = here.client(dir.path()).await.vm();
        let vms_there = there.client(dir.path()).await.vm();
        let vm = started(&vms, busy("stays")).await;
        for (target, word) in [
            ("wrong-key", "authentication"),
            ("wrong-role", "permission"),
        ] {
            let status = moved(&vms, &vm.id, target).await;
            assert_eq!(status.state, MigrationState::Failed, "{status:?}");
            let error = status.error.unwrap();
            assert!(error.contains(word), "{target}: {error}");
            assert_eq!((status.bytes_sent, status.downtime_us), (0, 0));
            let now = vms.get(&vm.id).await.unwrap();
            assert_eq!(
                (now.state, now.node.as_str()),
                (VMState::Running, "node-01")
            );
            whole(&vms, &vm.id).await;
            assert!(vms_there.list(()).await.unwrap().is_empty());
        }
        // With the right one it goes.
        let status = moved(&vms, &vm.id, "node-02").await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        whole(&vms_there, &vm.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_may_not_use_a_pinned_cpu_says_so() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    let mut numbers = list.unwrap().split(['-', ',']);
    let (first, last) = (numbers.next().unwrap(), numbers.next_back());
    let Some(last) = last else {
        return skipped("a_target_that_may_not_use_a_pinned_cpu", &"one CPU only");
    };
    for backend in all_backends("a_target_that_may_not_use_a_pinned_cpu").await {
        let dir = directory();
        let mut here = Place::new("node-01", backend);
        let there = Place::new("node-02", backend);
        here.introduce("node-02", &there, PEER);
        let processes = [here.start(dir.path()), there.start(dir.path())];
        let target = processes[1].id().to_string();
        let bound = Command::new("taskset")
            .args(["-p", "-c", first, &target])
            .output();
        assert!(bound.unwrap().status.success());
        let vms = here.client(dir.path()).await.vm();
        let pinned = VMConfig {
            cpu_pinning: vec![last.parse().unwrap()],
            ..busy("pinned")
        };
        let vm = started(&vms, pinned).await;
        let status = moved(&vms, &vm.id, "node-02").await;
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        let error = status.error.unwrap();
        let says = format!("cpu_pinning: this node may not use host CPU {last}, only {first}");
        assert!(error.contains(&says), "{error}");
        assert_eq!((status.bytes_sent, status.downtime_us), (0, 0));
        whole(&vms, &vm.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_stops_guests_and_a_watch_goes_on_after_it() {
    for backend in all_backends("sigterm_stops_guests").await {
        let dir = directory();
        let place = Place::new("node-01", backend);
        let process = place.start(dir.path());
        let client = place.client(dir.path()).await;
        let vms = client.vm();
        let never = started(&vms, config("never")).await;
        let always = with_restart(config("always"), "always");
        let always = started(&vms, always).await;
        let mut events = vms.watch(&always.id).await.unwrap();
        wait(&mut events, |event| event.vm.state == VMState::Running).await;

        assert!(process.terminate(), "it did not end well");
        let process = place.start(dir.path());
        // The same stream, of the same client.
        wait(&mut events, |e| e.event_type == VMEventType::Stopped).await;
        wait(&mut events, |e| e.event_type == VMEventType::Started).await;
        assert_eq!(vms.get(&always.id).await.unwrap().state, VMState::Running);
        whole(&vms, &always.id).await;
        assert_eq!(vms.get(&never.id).await.unwrap().state, VMState::Stopped);
        vms.start(&never.id).await.unwrap();
        whole(&vms, &never.id).await;
        assert!(process.terminate());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_a_vm_is_failed_or_started_again() {
    for backend in all_backends("after_kill_9").await {
        let dir = directory();
        let place = Place::new("node-01", backend);
        let process = place.start(dir.path());
        let client = place.client(dir.path()).await;
        let vms = client.vm();
        let ran = started(&vms, config("ran")).await;
        let rested = vms.create(config("rested")).await.unwrap();
        let always = started(&vms, with_restart(config("always"), "always")).await;
        let on_failure = with_restart(config("on-failure"), "on-failure");
        let on_failure = started(&vms, on_failure).await;

        // Kill -9.
        drop(process);
        let process = place.start(dir.path());
        let failed = vms.get(&ran.id).await.unwrap();
        assert_eq!(failed.state, VMState::Failed);
        let reason = failed.reason.unwrap();
        assert!(
            reason.contains("the node ended while it ran") && reason.contains("memory is lost"),
            "{reason}"
        );
        assert_eq!(vms.get(&rested.id).await.unwrap().state, VMState::Stopped);
        for vm in [&always, &on_failure] {
            wait_for(&vms, &vm.id, VMState::Running).await;
            whole(&vms, &vm.id).await;
            let now = vms.get(&vm.id).await.unwrap();
            assert_eq!((now.state, now.reason), (VMState::Running, None));
        }
        // What failed is nobody's: it can be started or removed.
        let refused = vms.pause(&ran.id).await;
        assert!(
            matches!(refused, Err(DWCPError::InvalidOperation(_))),
            "{refused:?}"
        );
        vms.start(&ran.id).await.unwrap();
        whole(&vms, &ran.id).await;
        vms.stop(&ran.id, true).await.unwrap();
        vms.destroy(&ran.id).await.unwrap();
        assert!(process.terminate());
    }
}

fn with_restart(mut config: VMConfig, policy: &str) -> VMConfig {
    config.labels.insert("dwcp.restart".into(), policy.into());
    config
}

/// The files of a VM's disk in the data of a node.
fn disk_of(dir: &Path, node: &str, vm: &str) -> std::path::PathBuf {
    dir.join(node).join("disks").join(vm)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_killed_while_a_disk_comes_keeps_nothing_of_it() {
    let contents = vec![7; 32 << 20];
    for backend in all_backends("a_target_that_is_killed_while_a_disk_comes").await {
        let dir = directory();
        let mut here = Place::new("node-01", backend);
        let there = Place::new("node-02", backend);
        here.introduce("node-02", &there, PEER);
        let (_source, target) = (here.start(dir.path()), there.start(dir.path()));
        let vms = here.client(dir.path()).await.vm();
        let with_disk = VMConfig {
            disk: contents.len() as u64,
            ..config("keeper")
        };
        let vm = vms.create(with_disk).await.unwrap();
        let own = disk_of(dir.path(), here.name, &vm.id).join("disk.img");
        std::fs::write(&own, &contents).unwrap();
        vms.start(&vm.id).await.unwrap();
        // So slow that it is killed while the disk comes.
        let slow = MigrationOptions {
            with_disks: true,
            bandwidth: 8 << 20,
            ..options(SameHost::Auto)
        };
        let migration = vms.migrate(&vm.id, there.name, slow.clone()).await.unwrap();
        let comes = disk_of(dir.path(), there.name, &vm.id);
        let mut progress = vms.migration_progress(&migration.id).await.unwrap();
        let mut last = migration;
        while !std::fs::metadata(comes.join("disk.img")).is_ok_and(|file| file.blocks() > 0) {
            last = progress.next().await.unwrap();
            assert!(!last.state.is_terminal(), "{last:?}");
        }
        drop(target);
        while let Some(status) = progress.next().await {
            last = status;
        }
        assert_eq!(last.state, MigrationState::Failed, "{last:?}");
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
        assert!(comes.exists(), "it was killed before");
        let _target = there.start(dir.path());
        assert!(!comes.exists(), "it is removed when the node starts again");
        // And then it goes.
        let fast = MigrationOptions {
            bandwidth: 0,
            ..slow
        };
        let moved = moved_as(fast, &vms, &vm.id, there.name).await;
        assert_eq!(moved.state, MigrationState::Completed, "{moved:?}");
        assert!(!own.exists());
        assert!(std::fs::read(comes.join("disk.img")).unwrap() == contents);
        let vms_there = there.client(dir.path()).await.vm();
        whole(&vms_there, &vm.id).await;
    }
}
