//! Disks of a node's VMs, through its API: what they hold, who may write them.
//!
//! The guests are the built-in one, which does not look at its disk: the tests write it in its place.
#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dwcp::{
    Backend, DWCPError, MigrationOptions, MigrationState, MigrationStatus, Node, SnapshotOptions,
    VMConfig, VMState,
};
use futures::StreamExt;
use rustix::fs::{FlockOperation, flock};

fn named(name: &str) -> VMConfig {
    VMConfig {
        name: name.into(),
        memory: 32 << 20,
        ..VMConfig::default()
    }
}

/// One with a disk of 1 GiB.
fn with_disk() -> VMConfig {
    VMConfig {
        disk: 1 << 30,
        ..named("vm")
    }
}

async fn node(name: &str, dir: &Path) -> Node {
    Node::builder(name)
        .backend(Backend::Sim)
        .data_dir(dir.join(name))
        .disk_dir(dir.join("disks"))
        .listen("127.0.0.1:0")
        .start()
        .await
        .unwrap()
}

/// Two that know each other and share their disks.
async fn pair(dir: &Path) -> (Node, Node) {
    let (here, there) = (node("here", dir).await, node("there", dir).await);
    let address = |node: &Node| node.address().unwrap().to_string();
    here.add_peer("there", address(&there)).unwrap();
    there.add_peer("here", address(&here)).unwrap();
    (here, there)
}

/// The files of a VM's disk.
struct Files(PathBuf);

impl Files {
    fn of(dir: &Path, vm: &str) -> Files {
        Files(dir.join("disks").join(vm))
    }

    fn write(&self, text: &[u8]) {
        let disk = fs::OpenOptions::new().write(true).open(self.disk());
        disk.unwrap().write_all_at(text, 4096).unwrap();
    }

    fn holds(&self, text: &[u8]) -> bool {
        let mut found = vec![0; text.len()];
        let disk = fs::File::open(self.disk()).unwrap();
        disk.read_exact_at(&mut found, 4096).unwrap();
        found == text
    }

    fn disk(&self) -> PathBuf {
        self.0.join("disk.img")
    }

    /// Takes the lock as another process would, if nobody has it.
    fn try_lock(&self) -> Option<fs::File> {
        let lock = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.0.join("lock"))
            .unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .is_ok()
            .then_some(lock)
    }
}

#[tokio::test]
async fn a_disk_lives_as_long_as_its_vm() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let start = async || {
        Node::builder("n")
            .backend(Backend::Sim)
            .data_dir(&data)
            .start()
            .await
            .unwrap()
    };
    let node = start().await;
    let vms = node.client().vm();
    let config = with_disk();
    let vm = vms.create(config.clone()).await.unwrap();
    let disk = data.join("disks").join(&vm.id).join("disk.img");
    let made = fs::metadata(&disk).unwrap();
    assert_eq!((made.len(), made.blocks()), (1 << 30, 0), "sparse");
    let odd = VMConfig {
        disk: 1000,
        ..config.clone()
    };
    match vms.create(odd).await {
        Err(DWCPError::Config(text)) => assert!(text.starts_with("disk: "), "{text}"),
        other => panic!("{other:?}"),
    }
    node.shutdown(std::time::Duration::ZERO).await.unwrap();
    drop(node);

    let node = start().await;
    assert!(disk.exists());
    node.client().vm().destroy(&vm.id).await.unwrap();
    assert_eq!(fs::read_dir(data.join("disks")).unwrap().count(), 0);
    node.shutdown(std::time::Duration::ZERO).await.unwrap();

    let none = Node::builder("n")
        .backend(Backend::Sim)
        .start()
        .await
        .unwrap();
    match none.client().vm().create(config).await {
        Err(DWCPError::Unsupported(text)) => assert!(text.starts_with("disk: "), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restore_brings_the_disk_back_too() {
    let dir = tempfile::tempdir().unwrap();
    let node = node("here", dir.path()).await;
    let vms = node.client().vm();
    let vm = vms.create(with_disk()).await.unwrap();
    let files = Files::of(dir.path(), &vm.id);
    files.write(b"first");
    let without = SnapshotOptions {
        include_memory: false,
        ..SnapshotOptions::default()
    };
    let stopped = vms
        .snapshot(&vm.id, "stopped", without.clone())
        .await
        .unwrap();
    vms.start(&vm.id).await.unwrap();
    files.write(b"again");
    let all = SnapshotOptions::default();
    let running = vms.snapshot(&vm.id, "running", all).await.unwrap();
    let disk_only = vms.snapshot(&vm.id, "disk-only", without).await.unwrap();
    assert!(running.include_memory && !disk_only.include_memory);
    files.write(b"later");

    vms.restore_snapshot(&vm.id, &running.id).await.unwrap();
    assert!(files.holds(b"again"));
    assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
    assert!(files.try_lock().is_none(), "it runs, so it is this node's");
    files.write(b"later");
    vms.restore_snapshot(&vm.id, &disk_only.id).await.unwrap();
    assert!(files.holds(b"again"));
    assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
    vms.restore_snapshot(&vm.id, &stopped.id).await.unwrap();
    assert!(files.holds(b"first"));
    assert!(files.try_lock().is_some(), "nobody runs it");
    let left = fs::read_dir(&files.0).unwrap().count();
    assert_eq!(left, 3, "the disk, its id, its lock");
    node.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_whose_disk_is_damaged_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = node("here", dir.path()).await;
    let vms = node.client().vm();
    let vm = vms.create(with_disk()).await.unwrap();
    let files = Files::of(dir.path(), &vm.id);
    files.write(b"first");
    let options = SnapshotOptions::default();
    let taken = vms.snapshot(&vm.id, "s", options).await.unwrap();
    files.write(b"later");
    let kept = dir
        .path()
        .join("here/snapshots")
        .join(&taken.id)
        .join("disk.img");
    let disk = fs::OpenOptions::new().write(true).open(&kept).unwrap();
    disk.write_all_at(b"F", 4096).unwrap();
    for length in [1 << 30, (1 << 30) - 512] {
        disk.set_len(length).unwrap();
        match vms.restore_snapshot(&vm.id, &taken.id).await {
            Err(DWCPError::Snapshot(text)) => assert!(text.contains("disk.img"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert!(files.holds(b"later"));
    }
    // One whose disk cannot be locked is not replaced either.
    let _other = files.try_lock().unwrap();
    disk.set_len(1 << 30).unwrap();
    disk.write_all_at(b"f", 4096).unwrap();
    match vms.restore_snapshot(&vm.id, &taken.id).await {
        Err(DWCPError::Unavailable(text)) => assert!(text.contains("lock"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(files.holds(b"later"));
    assert_eq!(fs::read_dir(&files.0).unwrap().count(), 3);
    node.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn the_lock_is_with_who_runs_the_vm() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = pair(dir.path()).await;
    let vms = here.client().vm();
    let vm = vms.create(with_disk()).await.unwrap();
    let files = Files::of(dir.path(), &vm.id);

    let other = files.try_lock().unwrap();
    match vms.start(&vm.id).await {
        Err(DWCPError::Unavailable(text)) => assert!(text.contains("another node"), "{text}"),
        other => panic!("{other:?}"),
    }
    drop(other);
    vms.start(&vm.id).await.unwrap();
    assert!(files.try_lock().is_none());
    vms.pause(&vm.id).await.unwrap();
    assert!(files.try_lock().is_none(), "it may run again");
    vms.resume(&vm.id).await.unwrap();

    let migrated = migrate(&here, &vm.id, "there").await;
    assert_eq!(migrated.0, MigrationState::Completed, "{:?}", migrated.1);
    assert!(files.try_lock().is_none());
    let over_there = there.client().vm();
    over_there.stop(&vm.id, true).await.unwrap();
    drop(files.try_lock().unwrap());
    over_there.destroy(&vm.id).await.unwrap();
    assert!(!files.0.exists());
    for node in [here, there] {
        node.shutdown(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_target_that_does_not_have_the_disk_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let here = node("here", dir.path()).await;
    let elsewhere = Node::builder("there")
        .backend(Backend::Sim)
        .data_dir(dir.path().join("there"))
        .listen("127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let address = elsewhere.address().unwrap().to_string();
    here.add_peer("there", address).unwrap();
    let vms = here.client().vm();
    let vm = vms.create(with_disk()).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let (state, error) = migrate(&here, &vm.id, "there").await;
    assert_eq!(state, MigrationState::Failed);
    let error = error.unwrap();
    assert!(
        error.contains("disk: ") && error.contains("disk_dir"),
        "{error}"
    );

    // Another disk under the same name.
    let theirs = dir.path().join("there/disks").join(&vm.id);
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("id"), "another").unwrap();
    let disk = fs::File::create(theirs.join("disk.img")).unwrap();
    disk.set_len(1 << 30).unwrap();
    let (state, error) = migrate(&here, &vm.id, "there").await;
    assert_eq!(state, MigrationState::Failed);
    let error = error.unwrap();
    assert!(error.contains("disk: another one"), "{error}");
    assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
    assert!(Files::of(dir.path(), &vm.id).try_lock().is_none());
    for node in [here, elsewhere] {
        node.shutdown(Duration::ZERO).await.unwrap();
    }
}

/// Two that know each other, each with disks of its own.
async fn apart(dir: &Path) -> (Node, Node) {
    let alone = async |name: &str| {
        Node::builder(name)
            .backend(Backend::Sim)
            .data_dir(dir.join(name))
            .listen("127.0.0.1:0")
            .start()
            .await
            .unwrap()
    };
    let (here, there) = (alone("here").await, alone("there").await);
    let address = |node: &Node| node.address().unwrap().to_string();
    here.add_peer("there", address(&there)).unwrap();
    there.add_peer("here", address(&here)).unwrap();
    (here, there)
}

fn with_disks() -> MigrationOptions {
    MigrationOptions {
        with_disks: true,
        encrypt_transport: false,
        ..MigrationOptions::default()
    }
}

#[tokio::test]
async fn a_disk_that_the_target_does_not_reach_is_taken_along() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = apart(dir.path()).await;
    let vms = here.client().vm();
    let vm = vms.create(with_disk()).await.unwrap();
    let files = [&here, &there].map(|node| Files::of(&dir.path().join(node.name()), &vm.id));
    files[0].write(b"from here");
    vms.start(&vm.id).await.unwrap();
    let plan = vms.plan_migration(&vm.id, "there", with_disks()).await;
    assert_eq!(plan.unwrap().misfits, []);
    let mut nodes = [&here, &there];
    for turn in 0..4 {
        let [from, to] = nodes;
        let (left, came) = (&files[turn % 2], &files[(turn + 1) % 2]);
        let status = migrate_as(from, &vm.id, to.name(), with_disks()).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert!(status.bytes.disk >= 4096, "{:?}", status.bytes);
        assert!(!left.0.exists(), "its files are gone from where it was");
        assert!(came.holds(b"from here"));
        let names = fs::read_dir(&came.0).unwrap().count();
        assert_eq!(names, 3, "the disk, its id, its lock");
        let disk = fs::metadata(came.disk()).unwrap();
        assert_eq!(disk.len(), 1 << 30);
        assert!(disk.blocks() * 512 < 1 << 20, "its holes are holes");
        assert!(came.try_lock().is_none(), "who runs it has it");
        let state = to.client().vm().get(&vm.id).await.unwrap().state;
        assert_eq!(state, VMState::Running);
        nodes.reverse();
    }
    vms.stop(&vm.id, true).await.unwrap();
    vms.destroy(&vm.id).await.unwrap();
    assert!(!files[0].0.exists());
    for node in [here, there] {
        node.shutdown(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_taken_along_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = pair(dir.path()).await;
    let vms = here.client().vm();
    let vm = vms.create(with_disk()).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let files = Files::of(dir.path(), &vm.id);
    files.write(b"shared");
    let status = migrate_as(&here, &vm.id, "there", with_disks()).await;
    assert_eq!(status.state, MigrationState::Failed);
    let error = status.error.unwrap();
    assert!(error.contains("leave `with_disks` off"), "{error}");
    let names = fs::read_dir(&files.0).unwrap().count();
    assert!(files.holds(b"shared") && names == 3, "{names} files");
    let offline = MigrationOptions {
        offline: true,
        ..with_disks()
    };
    let handed = MigrationOptions {
        same_host: dwcp::SameHost::Require,
        ..with_disks()
    };
    for options in [offline, handed] {
        match vms.migrate(&vm.id, "there", options).await {
            Err(DWCPError::Unsupported(text)) => {
                assert!(text.starts_with("with_disks: "), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
    // It is still the one that both reach.
    let migrated = migrate(&here, &vm.id, "there").await;
    assert_eq!(migrated.0, MigrationState::Completed, "{:?}", migrated.1);
    assert!(files.holds(b"shared"));
    for node in [here, there] {
        node.shutdown(Duration::ZERO).await.unwrap();
    }
}

/// Moves a VM; how that ended.
async fn migrate(from: &Node, vm: &str, to: &str) -> (MigrationState, Option<String>) {
    let options = MigrationOptions {
        encrypt_transport: false,
        ..MigrationOptions::default()
    };
    let status = migrate_as(from, vm, to, options).await;
    (status.state, status.error)
}

/// The same in that way, with all that is told of it.
async fn migrate_as(from: &Node, vm: &str, to: &str, options: MigrationOptions) -> MigrationStatus {
    let vms = from.client().vm();
    let migration = vms.migrate(vm, to, options).await.unwrap();
    let mut progress = vms.migration_progress(&migration.id).await.unwrap();
    let mut last = migration;
    while let Some(status) = progress.next().await {
        last = status;
    }
    last
}
