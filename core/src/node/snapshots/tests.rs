//! Snapshots through a node: what they do to VMs.

use std::os::unix::fs::FileExt;
use std::path::Path;

use futures::StreamExt;
use tempfile::TempDir;

use super::book::SNAPSHOTS_MAX;
use super::*;
use crate::action::Outcome;
use crate::client::VMClient;
use crate::hypervisor::Kvm;
use crate::model::{NodeLimits, VMConfig};
use crate::node::{Backend, Node, NodeBuilder};
use crate::snapshot::Step;

/// Where the guest of `config` writes nothing.
const FREE: u64 = 12 << 20;

fn config() -> VMConfig {
    let annotations = [("fill", "1048576"), ("beat-hz", "1000")];
    VMConfig {
        name: "web".into(),
        memory: 16 << 20,
        cpus: 2,
        annotations: annotations
            .map(|(key, value)| (format!("dwcp.pulse/{key}"), value.to_owned()))
            .into(),
        ..VMConfig::default()
    }
}

/// A node with a directory, and a VM of it that runs.
struct Place {
    node: Node,
    vms: VMClient,
    id: String,
    dir: TempDir,
}

async fn place_on(builder: NodeBuilder) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let node = builder.data_dir(dir.path()).start().await.unwrap();
    let vms = node.client().vm();
    let id = vms.create(config()).await.unwrap().id;
    let place = Place { node, vms, id, dir };
    place.vms.start(&place.id).await.unwrap();
    place.wait(|report| report.pages_filled == 256).await;
    place
}

fn sim() -> NodeBuilder {
    Node::builder("node-01").backend(Backend::Sim)
}

/// One for each back end that this host has.
async fn places(test: &str) -> Vec<Place> {
    let mut places = vec![place_on(sim()).await];
    match Kvm::open() {
        Ok(_) => places.push(place_on(Node::builder("node-01")).await),
        Err(error) => crate::test_support::skipped(&format!("{test} on KVM"), &error),
    }
    places
}

impl Place {
    async fn wait(&self, done: impl Fn(&crate::model::GuestReport) -> bool) {
        let all = async {
            while !done(&self.vms.guest_report(&self.id).await.unwrap()) {
                tokio::task::yield_now().await;
            }
        };
        // So that a mistake is a failure and no endless run.
        let limit = std::time::Duration::from_secs(120);
        tokio::time::timeout(limit, all).await.unwrap();
    }

    async fn goes_on(&self) {
        let beats = self.vms.guest_report(&self.id).await.unwrap().beats;
        self.wait(|report| report.beats > beats + 3).await;
        assert_eq!(self.state().await, VMState::Running);
    }

    async fn take(&self, name: &str) -> Snapshot {
        let options = SnapshotOptions::default();
        self.vms.snapshot(&self.id, name, options).await.unwrap()
    }

    async fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        self.vms.restore_snapshot(&self.id, &snapshot.id).await
    }

    async fn state(&self) -> VMState {
        self.vms.get(&self.id).await.unwrap().state
    }

    async fn names(&self) -> Vec<String> {
        let all = self.vms.list_snapshots(&self.id).await.unwrap();
        all.into_iter().map(|one| one.name).collect()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.node.0.shared
    }

    /// A byte of guest memory, which the guest leaves alone.
    fn byte(&self) -> u8 {
        let (entry, _) = self.shared().registry.find(&self.id).unwrap();
        let mut byte = [0];
        let ram = Arc::clone(entry.machine().unwrap().machine.ram());
        ram.read(FREE, &mut byte).unwrap();
        byte[0]
    }

    fn set_byte(&self, byte: u8) {
        let (entry, _) = self.shared().registry.find(&self.id).unwrap();
        let ram = Arc::clone(entry.machine().unwrap().machine.ram());
        ram.write(FREE, &[byte]).unwrap();
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("snapshots")).map_or(0, Iterator::count)
    }
}

#[tokio::test]
async fn a_vm_is_what_it_was_whatever_it_is_now() {
    for place in places("a_vm_is_what_it_was").await {
        let Place { vms, id, .. } = &place;
        place.set_byte(1);
        let live = place.take("running").await;
        assert!(live.include_memory && !live.quiesced && live.size > 1 << 20);
        place.goes_on().await;
        vms.pause(id).await.unwrap();
        place.set_byte(2);
        let still = place.take("paused").await;
        assert_eq!(place.state().await, VMState::Paused);
        let then = vms.guest_report(id).await.unwrap();
        vms.resume(id).await.unwrap();
        place.goes_on().await;
        place.set_byte(3);

        // From running to paused, and the counters are back.
        place.restore(&still).await.unwrap();
        assert_eq!((place.state().await, place.byte()), (VMState::Paused, 2));
        let now = vms.guest_report(id).await.unwrap();
        assert_eq!(
            (now.beats, now.laps, now.pages_written),
            (then.beats, then.laps, then.pages_written)
        );
        vms.resume(id).await.unwrap();
        place.goes_on().await;
        assert!(vms.verify(id).await.unwrap().verified);

        // From running, paused, stopped and failed to running.
        for from in ["running", "paused", "stopped", "failed"] {
            match from {
                "paused" => vms.pause(id).await.unwrap(),
                "running" => {}
                _ => vms.stop(id, true).await.unwrap(),
            }
            if from == "failed" {
                let change = Change::new(VMState::Failed, VMEventType::Failed, "broken");
                place.shared().registry.change(id, change).unwrap();
            }
            place.restore(&live).await.unwrap();
            assert_eq!(place.byte(), 1, "{from}");
            place.goes_on().await;
            let report = vms.verify(id).await.unwrap();
            assert!(report.verified && report.faults == 0, "{from}");
        }
        let vm = vms.get(id).await.unwrap();
        assert!(vm.reason.is_none() && vm.started_at > vm.stopped_at);
    }
}

#[tokio::test]
async fn a_stopped_vm_and_one_without_memory() {
    let place = place_on(sim()).await;
    let Place { vms, id, .. } = &place;
    let options = SnapshotOptions {
        include_memory: false,
        ..SnapshotOptions::default()
    };
    let bare = vms.snapshot(id, "bare", options).await.unwrap();
    assert!(!bare.include_memory);
    place.goes_on().await;
    vms.stop(id, true).await.unwrap();
    let stopped = place.take("stopped").await;
    assert!(!stopped.include_memory);
    for snapshot in [bare, stopped] {
        vms.start(id).await.unwrap();
        let labels = [("a".to_owned(), "b".to_owned())].into();
        vms.update(id, Some(labels), None).await.unwrap();
        place.restore(&snapshot).await.unwrap();
        let vm = vms.get(id).await.unwrap();
        assert_eq!(vm.state, VMState::Stopped);
        assert!(vm.labels.is_empty(), "they are as they were, too");
    }
    vms.start(id).await.unwrap();
    place.wait(|report| report.pages_filled == 256).await;
}

#[tokio::test]
async fn what_happens_is_told() {
    let place = place_on(sim()).await;
    let mut events = place.vms.watch(&place.id).await.unwrap();
    let first = place.take("one").await;
    place.restore(&first).await.unwrap();
    place.vms.delete_snapshot(&first.id).await.unwrap();
    for (event, message) in [
        (VMEventType::Current, "is running"),
        (VMEventType::SnapshotCreated, "snapshot one was taken"),
        (VMEventType::SnapshotRestored, "is running, as it was"),
        (VMEventType::SnapshotDeleted, "snapshot one was deleted"),
    ] {
        let next = loop {
            let next = events.next().await.unwrap();
            if next.event_type != VMEventType::Guest {
                break next;
            }
        };
        assert_eq!(next.event_type, event);
        assert!(next.message.contains(message), "{}", next.message);
        assert_eq!(next.vm.state, VMState::Running);
    }
}

/// Changes one byte of a file.
fn flip(path: &Path, at: u64) {
    let mut file = std::fs::OpenOptions::new();
    let file = file.read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[tokio::test]
async fn a_damaged_snapshot_changes_nothing() {
    for place in places("a_damaged_snapshot_changes_nothing").await {
        place.set_byte(1);
        let snapshot = place.take("one").await;
        place.set_byte(2);
        let dir = place.dir.path().join("snapshots").join(&snapshot.id);
        for (file, at) in [
            ("snapshot.json", 40),
            ("state.bin", 100),
            ("memory.idx", 40),
            ("memory.img", FREE),
        ] {
            flip(&dir.join(file), at);
            let error = place.restore(&snapshot).await.unwrap_err();
            match &error {
                DWCPError::Snapshot(text) => assert!(text.contains(file), "{text}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(place.byte(), 2);
            place.goes_on().await;
            flip(&dir.join(file), at);
        }
        place.restore(&snapshot).await.unwrap();
        assert_eq!(place.byte(), 1);
    }
}

#[tokio::test]
async fn what_cannot_be_written_leaves_nothing() {
    for place in places("what_cannot_be_written_leaves_nothing").await {
        let root = place.shared().snapshots.root().unwrap();
        for step in [Step::Memory, Step::Sync] {
            *root.fault.lock().unwrap() = Some(step);
            let options = SnapshotOptions::default();
            let taken = place.vms.snapshot(&place.id, "s", options).await;
            assert!(matches!(taken, Err(DWCPError::Snapshot(_))), "{taken:?}");
            place.goes_on().await;
            assert_eq!((place.names().await.len(), place.files()), (0, 0));
        }
    }
}

#[tokio::test]
async fn lists_deletes_and_the_end() {
    let place = place_on(sim()).await;
    let Place { vms, id, .. } = &place;
    let mut all = Vec::new();
    for name in ["one", "two", "three"] {
        all.push(place.take(name).await);
    }
    assert_eq!(place.names().await, ["one", "two", "three"]);
    assert_eq!(vms.list_snapshots(id).await.unwrap(), all);

    let shared = place.shared();
    let reading = shared.snapshots.read(id, &all[1].id).unwrap();
    let error = vms.delete_snapshot(&all[1].id).await.unwrap_err();
    assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
    drop(reading);
    vms.delete_snapshot(&all[1].id).await.unwrap();
    assert_eq!(place.names().await, ["one", "three"]);
    assert_eq!(place.files(), 2);
    for gone in [
        vms.delete_snapshot(&all[1].id).await,
        vms.delete_snapshot("../../etc").await,
        place.restore(&all[1]).await,
    ] {
        assert!(matches!(gone, Err(DWCPError::NotFound(_))), "{gone:?}");
    }
    // That of another VM is not this one's.
    let other = vms.create(config()).await.unwrap();
    let taken = vms.restore_snapshot(&other.id, &all[0].id).await;
    assert!(matches!(taken, Err(DWCPError::NotFound(_))), "{taken:?}");

    vms.stop(id, true).await.unwrap();
    vms.destroy(id).await.unwrap();
    assert_eq!(place.files(), 0, "they go with their VM");
    let gone = vms.delete_snapshot(&all[0].id).await;
    assert!(matches!(gone, Err(DWCPError::NotFound(_))), "{gone:?}");
}

#[tokio::test]
async fn a_node_that_starts_anew_finds_them() {
    for place in places("a_node_that_starts_anew").await {
        place.set_byte(1);
        let one = take_with_key(&place.node, &place.id, "one").await.unwrap();
        let two = place.take("two").await;
        let backend = place.node.backend();
        place
            .node
            .shutdown(std::time::Duration::ZERO)
            .await
            .unwrap();
        let rest = place.dir.path().join("snapshots/.new-half");
        std::fs::create_dir(&rest).unwrap();
        let torn = place.dir.path().join("snapshots").join(&two.id);
        flip(&torn.join("snapshot.json"), 40);

        let node = Node::builder("node-01").backend(backend);
        let node = node.data_dir(place.dir.path()).start().await.unwrap();
        assert!(!rest.exists());
        let vms = node.client().vm();
        assert_eq!(vms.get(&place.id).await.unwrap().state, VMState::Stopped);
        let again = take_with_key(&node, &place.id, "one").await;
        assert_eq!(again.as_ref(), Ok(&one), "the key is kept, too");
        let all = vms.list_snapshots(&place.id).await.unwrap();
        assert_eq!(all, std::slice::from_ref(&one));
        let error = vms.restore_snapshot(&place.id, &two.id).await.unwrap_err();
        assert!(error.to_string().contains("snapshot.json"), "{error}");
        vms.delete_snapshot(&two.id).await.unwrap();
        assert!(!torn.exists());

        vms.restore_snapshot(&place.id, &one.id).await.unwrap();
        let again = Place {
            node,
            vms,
            id: place.id.clone(),
            dir: tempfile::tempdir().unwrap(),
        };
        assert_eq!(again.byte(), 1);
        again.goes_on().await;
        assert!(again.vms.verify(&again.id).await.unwrap().verified);
    }
}

#[tokio::test]
async fn a_node_without_a_directory_says_so() {
    let node = sim().start().await.unwrap();
    let vms = node.client().vm();
    let vm = vms.create(config()).await.unwrap();
    let options = SnapshotOptions::default();
    let error = vms.snapshot(&vm.id, "s", options).await.unwrap_err();
    assert!(
        matches!(&error, DWCPError::InvalidOperation(text) if text.contains("data_dir")),
        "{error}"
    );
    assert_eq!(vms.list_snapshots(&vm.id).await.unwrap(), []);
    for gone in [
        vms.restore_snapshot(&vm.id, "s").await,
        vms.delete_snapshot("s").await,
    ] {
        assert!(matches!(gone, Err(DWCPError::NotFound(_))), "{gone:?}");
    }
    vms.destroy(&vm.id).await.unwrap();
}

/// Asks for a snapshot with the key `k`.
async fn take_with_key(node: &Node, id: &str, name: &str) -> Result<Snapshot> {
    let action = Action::Snapshot {
        vm_id: id.into(),
        name: name.into(),
        options: SnapshotOptions::default(),
        key: Some("k".into()),
    };
    match node.client().call(action).await? {
        Outcome::Snapshot(snapshot) => Ok(*snapshot),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_key_makes_one() {
    let place = place_on(sim()).await;
    let ask = |name| take_with_key(&place.node, &place.id, name);
    let (one, again) = tokio::join!(ask("one"), ask("one"));
    assert_eq!(one.unwrap(), again.unwrap());
    assert_eq!(place.names().await, ["one"]);
    let other = ask("two").await;
    assert!(
        matches!(other, Err(DWCPError::InvalidOperation(_))),
        "{other:?}"
    );
    // It is joined also where it would not be legal any more.
    let change = Change::new(VMState::Failed, VMEventType::Failed, "broken");
    place.shared().registry.change(&place.id, change).unwrap();
    assert!(ask("one").await.is_ok());
}

#[tokio::test]
async fn limits_have_names() {
    let limits = NodeLimits {
        max_memory: 24 << 20,
        ..NodeLimits::default()
    };
    let place = place_on(sim().limits(limits)).await;
    let Place { vms, id, .. } = &place;
    let snapshot = place.take("one").await;
    let error = place.restore(&snapshot).await.unwrap_err();
    match &error {
        DWCPError::ResourceLimit(text) => {
            assert!(text.starts_with("max_memory:") && text.contains("stop it first"));
        }
        other => panic!("{other:?}"),
    }
    place.goes_on().await;
    vms.stop(id, true).await.unwrap();
    place.restore(&snapshot).await.unwrap();
    place.goes_on().await;

    for n in 1..SNAPSHOTS_MAX {
        place.shared().snapshots.add(Snapshot {
            id: n.to_string(),
            vm_id: id.clone(),
            ..Snapshot::default()
        });
    }
    let options = SnapshotOptions::default();
    let error = vms.snapshot(id, "more", options).await.unwrap_err();
    assert!(matches!(error, DWCPError::ResourceLimit(_)), "{error}");
    place.goes_on().await;
}

#[tokio::test]
async fn a_forced_stop_overtakes() {
    let place = place_on(sim()).await;
    let Place { vms, id, .. } = &place;
    let snapshot = place.take("one").await;
    // As if another VM were being restored, for ever.
    let shared = Arc::clone(place.shared());
    let turn = shared.snapshots.restoring.lock().await;
    let restore = {
        let (vms, id) = (vms.clone(), id.clone());
        tokio::spawn(async move { vms.restore_snapshot(&id, &snapshot.id).await })
    };
    let (entry, _) = shared.registry.find(id).unwrap();
    let free = async || {
        let lock = tokio::time::timeout(std::time::Duration::ZERO, entry.lock());
        lock.await.is_ok()
    };
    while free().await {
        tokio::task::yield_now().await;
    }
    let stop = {
        let (vms, id) = (vms.clone(), id.clone());
        tokio::spawn(async move { vms.stop(&id, true).await })
    };
    entry.is_forced().await;
    // Nobody else waits for it.
    assert_eq!(place.state().await, VMState::Running);
    // The restore has had its turn in the select before it gets the other one.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(turn);
    let restored = restore.await.unwrap();
    assert!(
        matches!(restored, Err(DWCPError::Cancelled(_))),
        "{restored:?}"
    );
    stop.await.unwrap().unwrap();
    assert_eq!(place.state().await, VMState::Stopped);
}

#[tokio::test]
async fn the_end_of_a_node_ends_what_is_under_way() {
    let place = place_on(sim()).await;
    let snapshot = place.take("one").await;
    let (own, id) = (place.vms.clone(), place.id.clone());
    let restores =
        tokio::spawn(async move { while own.restore_snapshot(&id, &snapshot.id).await.is_ok() {} });
    let (own, id) = (place.vms.clone(), place.id.clone());
    let takes = tokio::spawn(async move {
        let options = SnapshotOptions::default;
        while own.snapshot(&id, "s", options()).await.is_ok() {}
    });
    while place.names().await.len() < 3 {
        tokio::task::yield_now().await;
    }
    place
        .node
        .shutdown(std::time::Duration::ZERO)
        .await
        .unwrap();
    restores.await.unwrap();
    takes.await.unwrap();
    let (entry, _) = place.shared().registry.find(&place.id).unwrap();
    assert!(!entry.has_machine());
    let left = std::fs::read_dir(place.dir.path().join("snapshots")).unwrap();
    for name in left.map(|entry| entry.unwrap().file_name()) {
        assert!(!name.to_str().unwrap().starts_with('.'), "{name:?}");
    }
}
