//! Nodes that end and start again. A node that is killed is one whose files are copied while it runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tempfile::TempDir;

use super::super::{Backend, Node};
use super::*;
use crate::client::Events;
use crate::migration::{Progress, Verdict};
use crate::model::{Filters, HealthStatus, MigrationState, MigrationStatus, VMConfig, VMEvent};

fn config(name: &str) -> VMConfig {
    VMConfig {
        name: name.into(),
        memory: 16 << 20,
        cpus: 1,
        annotations: [("dwcp.pulse/fill".to_owned(), "65536".to_owned())].into(),
        ..VMConfig::default()
    }
}

fn restarting(name: &str, policy: &str) -> VMConfig {
    let labels = [(RESTART.to_owned(), policy.to_owned())].into();
    VMConfig {
        labels,
        ..config(name)
    }
}

async fn open(dir: &Path) -> Node {
    let builder = Node::builder("node-01").backend(Backend::Sim);
    builder.data_dir(dir).start().await.unwrap()
}

/// What a node that is killed now leaves.
async fn killed(node: &Node, dir: &Path) -> TempDir {
    node.0.shared.registry.flush().done().await.unwrap();
    let left = tempfile::tempdir().unwrap();
    for file in ["node.db", "node.db-wal"] {
        std::fs::copy(dir.join(file), left.path().join(file)).unwrap();
    }
    left
}

async fn next(events: &mut Events) -> VMEvent {
    let next = tokio::time::timeout(Duration::from_secs(10), events.next());
    next.await.unwrap().unwrap()
}

async fn state(node: &Node, id: &str) -> (VMState, Option<String>) {
    let vm = node.client().vm().get(id).await.unwrap();
    (vm.state, vm.reason)
}

async fn until_running(node: &Node, id: &str) {
    let mut events = node.client().vm().watch(id).await.unwrap();
    while next(&mut events).await.vm.state != VMState::Running {}
}

#[tokio::test]
async fn vms_come_back_and_say_what_became_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let vms = node.client().vm();
    let mut ids = Vec::new();
    for name in ["stopped", "running", "paused", "destroyed", "labelled"] {
        ids.push(vms.create(config(name)).await.unwrap().id);
    }
    vms.start(&ids[1]).await.unwrap();
    vms.start(&ids[2]).await.unwrap();
    vms.pause(&ids[2]).await.unwrap();
    vms.destroy(&ids[3]).await.unwrap();
    let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    vms.update(&ids[4], Some(labels.clone()), None)
        .await
        .unwrap();
    let before = vms.list(()).await.unwrap();
    let left = killed(&node, dir.path()).await;
    let uuid = node.uuid().to_owned();
    let node = open(left.path()).await;
    assert_eq!(node.uuid(), uuid);
    let vms = node.client().vm();
    let after = vms.list(()).await.unwrap();
    let names = |vms: &[VM]| -> Vec<_> { vms.iter().map(|vm| vm.name.clone()).collect() };
    assert_eq!(names(&after), names(&before), "in their order");
    assert_eq!(after[0], before[0]);
    assert_eq!(after[3].labels, labels);
    for (at, what) in [(1, "while it ran"), (2, "while it was paused")] {
        let (state, reason) = state(&node, &ids[at]).await;
        let reason = reason.unwrap();
        assert_eq!(state, VMState::Failed);
        assert!(reason.contains(what), "{reason}");
        assert_eq!(after[at].config, before[at].config);
        assert!(after[at].stopped_at > after[at].started_at);
    }
    // They can be used again.
    vms.start(&ids[1]).await.unwrap();
    vms.stop(&ids[1], true).await.unwrap();
    vms.destroy(&ids[2]).await.unwrap();
    assert!(vms.get(&ids[3]).await.is_err());
}

#[tokio::test]
async fn events_go_on_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let vms = node.client().vm();
    let mut events = vms.watch_all(()).await.unwrap();
    let vm = vms.create(config("a")).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let mut last = 0;
    while last < 3 {
        last = next(&mut events).await.seq;
    }
    let left = killed(&node, dir.path()).await;
    node.shutdown(Duration::from_secs(5)).await.unwrap();
    let node = open(left.path()).await;
    let vms = node.client().vm();
    // Not one is lost or comes again for whoever was there before.
    for since in [0, last] {
        let mut events = vms.watch_since(None, (), since).await.unwrap();
        let mut expected = since;
        loop {
            let event = next(&mut events).await;
            expected += 1;
            assert_eq!(event.seq, expected);
            if event.event_type == VMEventType::Failed {
                assert_eq!(event.vm.reason, Some(event.message));
                break;
            }
        }
    }
    // A filter that a VM leaves sees it leave, also across a restart.
    let filters = Filters::from([("state", "running")]);
    let mut events = vms.watch_since(None, filters, last).await.unwrap();
    let event = loop {
        let event = next(&mut events).await;
        if event.event_type == VMEventType::Failed {
            break event;
        }
    };
    assert_eq!(event.vm.id, vm.id);
    // Nor after a node that was shut down.
    let end = event.seq;
    node.shutdown(Duration::from_secs(5)).await.unwrap();
    let node = open(left.path()).await;
    let vms = node.client().vm();
    let mut events = vms.watch_since(None, (), end).await.unwrap();
    vms.create(config("b")).await.unwrap();
    assert_eq!(next(&mut events).await.seq, end + 1);
}

#[tokio::test]
async fn a_key_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let vms = node.client().vm();
    let made = vms.create_with_key(config("a"), "k").await.unwrap();
    let left = killed(&node, dir.path()).await;
    let node = open(left.path()).await;
    let vms = node.client().vm();
    assert_eq!(vms.create_with_key(config("a"), "k").await.unwrap(), made);
    let other = vms.create_with_key(config("b"), "k").await;
    assert!(matches!(other, Err(DWCPError::InvalidOperation(_))));
    assert_eq!(vms.list(()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn where_vms_went_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let vms = node.client().vm();
    let vm = vms.create(config("a")).await.unwrap();
    let registry = &node.0.shared.registry;
    registry.begin_migration(&vm.id, "node-02").unwrap();
    registry.moved_away(&vm.id, "node-02").unwrap();
    node.shutdown(Duration::from_secs(5)).await.unwrap();
    let node = open(dir.path()).await;
    match node.client().vm().get(&vm.id).await {
        Err(DWCPError::Unavailable(text)) => assert!(text.contains("node-02"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// A VM that was being moved when its node was killed, with this record.
async fn leaving(record: Option<Record>) -> (Node, TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let vms = node.client().vm();
    let vm = vms.create(config("a")).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let shared = Arc::clone(&node.0.shared);
    shared.registry.begin_migration(&vm.id, "node-02").unwrap();
    let status = MigrationStatus {
        id: "m".into(),
        vm_id: vm.id.clone(),
        target_node: "node-02".into(),
        ..MigrationStatus::default()
    };
    let id = vm.id.clone();
    let work = move || {
        let progress = Arc::new(Progress::new(status));
        shared.migrations.enter(&id, &progress);
        match record {
            Some(record) => shared.migrations.record("m", &id, &record),
            None => Ok(()),
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap().unwrap();
    let left = killed(&node, dir.path()).await;
    (open(left.path()).await, left, vm.id)
}

#[tokio::test]
async fn a_vm_that_was_leaving_is_what_its_record_says() {
    let there = || "there".to_owned();
    let granted = Record::Granted {
        epoch: 1,
        destination_uuid: there(),
    };
    let released = Record::Released {
        epoch: 1,
        node_uuid: there(),
    };
    for record in [
        None,
        Some(Record::Mine { epoch: 2 }),
        Some(Record::Aborted { epoch: 1 }),
    ] {
        let (node, _dir, id) = leaving(record).await;
        let (state, reason) = state(&node, &id).await;
        let reason = reason.unwrap();
        assert_eq!(state, VMState::Failed);
        for word in ["node-02", "memory is lost", "`start`"] {
            assert!(reason.contains(word), "{reason}");
        }
        let status = node.client().vm().get_migration_status("m").await.unwrap();
        assert_eq!(status.state, MigrationState::Failed);
        node.client().vm().start(&id).await.unwrap();
    }
    let (node, dir, id) = leaving(Some(granted)).await;
    let vms = node.client().vm();
    let (state, reason) = state(&node, &id).await;
    assert_eq!(state, VMState::Unknown);
    let reason = reason.unwrap();
    for word in ["node-02", "runs there, if", "`resolve_migration m`"] {
        assert!(reason.contains(word), "{reason}");
    }
    assert!(vms.start(&id).await.is_err(), "it may run there");
    let status = vms.get_migration_status("m").await.unwrap();
    assert!(!status.state.is_terminal() && status.error.unwrap().contains("unresolved"));
    // And so it stays, until somebody knows.
    node.shutdown(Duration::from_secs(5)).await.unwrap();
    let node = open(dir.path()).await;
    let vm = node.client().vm().get(&id).await.unwrap();
    assert_eq!(vm.state, VMState::Unknown);

    let (node, _dir, id) = leaving(Some(released)).await;
    match node.client().vm().get(&id).await {
        Err(DWCPError::Unavailable(text)) => assert!(text.contains("node-02"), "{text}"),
        other => panic!("{other:?}"),
    }
    let status = node.client().vm().get_migration_status("m").await.unwrap();
    assert_eq!(status.state, MigrationState::Completed);
}

#[tokio::test]
async fn a_vm_that_was_arriving_is_here_if_it_was_taken() {
    for taken in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path()).await;
        let shared = Arc::clone(&node.0.shared);
        let mut vm = VM::new("a", "node-02", config("a"));
        vm.state = VMState::Running;
        vm.started_at = Some(vm.created_at);
        let work = move || {
            shared.registry.insert_arriving(vm, "node-02")?;
            shared.migrations.accept_epoch("a", 4)?;
            if taken {
                let verdict = Verdict::Taken { epoch: 4 };
                shared.migrations.judge("m", "a", &verdict)?;
            }
            Ok::<_, DWCPError>(())
        };
        tokio::task::spawn_blocking(work).await.unwrap().unwrap();
        let left = killed(&node, dir.path()).await;
        let node = open(left.path()).await;
        let found = node.client().vm().get("a").await;
        if taken {
            let vm = found.unwrap();
            assert_eq!((vm.state, vm.node.as_str()), (VMState::Failed, "node-01"));
            assert!(vm.reason.unwrap().contains("taken"));
            node.client().vm().start("a").await.unwrap();
        } else {
            assert!(matches!(found, Err(DWCPError::VMNotFound(_))), "{found:?}");
        }
        assert!(node.0.shared.migrations.accept_epoch("a", 4).is_err());
    }
}

/// Nothing of it was lost, and nobody who has it started when it fails wants it started.
#[tokio::test]
async fn a_vm_that_was_moving_stopped_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let vms = node.client().vm();
    let vm = vms.create(restarting("left", "on-failure")).await.unwrap();
    let shared = Arc::clone(&node.0.shared);
    shared.registry.begin_migration(&vm.id, "node-02").unwrap();
    let arriving = VM::new("a", "node-02", restarting("came", "always"));
    let work = move || {
        shared.registry.insert_arriving(arriving, "node-02")?;
        shared.migrations.accept_epoch("a", 4)?;
        let verdict = Verdict::Taken { epoch: 4 };
        shared.migrations.judge("m", "a", &verdict)
    };
    tokio::task::spawn_blocking(work).await.unwrap().unwrap();
    let left = killed(&node, dir.path()).await;
    let node = open(left.path()).await;
    for id in [vm.id.as_str(), "a"] {
        assert_eq!(state(&node, id).await.0, VMState::Stopped, "{id}");
    }
}

#[tokio::test]
async fn vms_are_started_again_as_they_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let vms = node.client().vm();
    let mut ids = Vec::new();
    for policy in ["never", "on-failure", "always"] {
        for asked_to_stop in [false, true] {
            let vm = vms.create(restarting(policy, policy)).await.unwrap();
            vms.start(&vm.id).await.unwrap();
            if asked_to_stop {
                vms.stop(&vm.id, true).await.unwrap();
            }
            ids.push(vm.id);
        }
    }
    let left = killed(&node, dir.path()).await;
    drop(node);
    let node = open(left.path()).await;
    for id in [&ids[2], &ids[4]] {
        until_running(&node, id).await;
    }
    assert_eq!(state(&node, &ids[0]).await.0, VMState::Failed);
    for id in [&ids[1], &ids[3], &ids[5]] {
        assert_eq!(state(&node, id).await.0, VMState::Stopped);
    }
    node.client().vm().start(&ids[0]).await.unwrap();
    // Being shut down is no failure.
    node.shutdown(Duration::from_secs(5)).await.unwrap();
    let node = open(left.path()).await;
    until_running(&node, &ids[4]).await;
    for id in [&ids[0], &ids[1], &ids[2], &ids[3], &ids[5]] {
        assert_eq!(state(&node, id).await.0, VMState::Stopped);
    }
}

#[tokio::test]
async fn a_policy_that_is_none_is_refused() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let named = |error: DWCPError| match error {
        DWCPError::Config(text) => assert!(text.starts_with(RESTART), "{text}"),
        other => panic!("{other:?}"),
    };
    named(vms.create(restarting("a", "often")).await.unwrap_err());
    let vm = vms.create(restarting("a", "always")).await.unwrap();
    let word = |word: &str| Some(BTreeMap::from([(RESTART.to_owned(), word.to_owned())]));
    named(vms.update(&vm.id, word("often"), None).await.unwrap_err());
    named(vms.update(&vm.id, None, word("never")).await.unwrap_err());
    assert_eq!(vms.get(&vm.id).await.unwrap(), vm);
    vms.update(&vm.id, word("on-failure"), None).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_written_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let (client, store) = (node.client(), &node.0.shared.store);
    let vms = client.vm();
    let vm = vms.create(config("a")).await.unwrap();
    let mut events = vms.watch(&vm.id).await.unwrap();
    assert_eq!(next(&mut events).await.event_type, VMEventType::Current);
    store.break_down(true);
    let labels = BTreeMap::from([("n".to_owned(), "1".to_owned())]);
    let error = vms.update(&vm.id, Some(labels), None).await.unwrap_err();
    assert!(matches!(error, DWCPError::Internal(_)), "{error}");
    let health = client.health().await.unwrap();
    assert_eq!(health.status, HealthStatus::Degraded);
    assert!(health.message.contains("store"), "{}", health.message);
    for refused in [
        vms.create(config("b")).await.map(drop),
        vms.start(&vm.id).await,
    ] {
        assert!(
            matches!(refused, Err(DWCPError::Unavailable(_))),
            "{refused:?}"
        );
    }
    // Nobody was told.
    let told = tokio::time::timeout(Duration::from_millis(50), events.next());
    assert!(told.await.is_err());
    store.break_down(false);
    assert_eq!(next(&mut events).await.event_type, VMEventType::Updated);
    store.flush().done().await.unwrap();
    vms.start(&vm.id).await.unwrap();
    assert_eq!(client.health().await.unwrap().status, HealthStatus::Healthy);
    node.shutdown(Duration::from_secs(5)).await.unwrap();
    let node = open(dir.path()).await;
    let vm = node.client().vm().get(&vm.id).await.unwrap();
    assert_eq!(vm.labels["n"], "1");
}

#[tokio::test]
async fn a_directory_is_free_when_its_node_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).await;
    let second = Node::builder("node-02").backend(Backend::Sim);
    let refused = second.data_dir(dir.path()).start().await;
    assert!(matches!(refused, Err(DWCPError::AlreadyExists(_))));
    node.shutdown(Duration::from_secs(5)).await.unwrap();
    let again = open(dir.path()).await;
    drop(node);
    drop(again);
    open(dir.path()).await;
}

#[test]
fn a_policy_is_a_label_or_an_annotation() {
    let map = |word: &str| BTreeMap::from([(RESTART.to_owned(), word.to_owned())]);
    let none = BTreeMap::new();
    let of = RestartPolicy::of;
    assert_eq!(of(&none, &none), Ok(RestartPolicy::Never));
    assert_eq!(of(&map("always"), &none), Ok(RestartPolicy::Always));
    assert_eq!(of(&none, &map("on-failure")), Ok(RestartPolicy::OnFailure));
    assert_eq!(
        of(&map("always"), &map("always")),
        Ok(RestartPolicy::Always)
    );
    for (labels, annotations) in [
        (map("sometimes"), none.clone()),
        (none.clone(), map("Always")),
        (map("always"), map("never")),
    ] {
        match of(&labels, &annotations) {
            Err(DWCPError::Config(text)) => assert!(text.starts_with(RESTART), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_forced_vm_is_stopped_by_its_destination_as_soon_as_that_hears_of_it() {
    let there = Node::builder("node-02").backend(Backend::Sim);
    let there = there.listen("127.0.0.1:0").start().await.unwrap();
    let granted = Record::Granted {
        epoch: 1,
        destination_uuid: there.uuid().to_owned(),
    };
    let (node, _dir, id) = leaving(Some(granted)).await;
    // It runs there, and that node cannot be reached.
    let (far, moved) = (Arc::clone(&there.0.shared), id.clone());
    let took = move || {
        let mut vm = VM::new(&moved, "node-01", config("a"));
        vm.state = VMState::Running;
        far.registry.insert_arriving(vm, "node-01")?;
        far.migrations.accept_epoch(&moved, 1)?;
        let verdict = Verdict::Taken { epoch: 1 };
        far.migrations.judge("m", &moved, &verdict)?;
        let arrived = far.registry.arrived(&moved, None, VMState::Running);
        arrived.map(drop).map_err(|(error, _)| error)
    };
    tokio::task::spawn_blocking(took).await.unwrap().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap().to_string();
    drop(closed);
    node.add_peer("node-02", nobody).unwrap();

    let vms = node.client().vm();
    let status = vms.resolve_migration("m", true).await.unwrap();
    assert_eq!(status.state, MigrationState::Failed);
    let (now, reason) = state(&node, &id).await;
    let reason = reason.unwrap();
    assert_eq!(now, VMState::Failed, "its memory was lost with the process");
    assert!(reason.contains("forced"), "{reason}");
    let (now, _) = state(&there, &id).await;
    assert_eq!(now, VMState::Running, "it has not heard");

    let address = there.address().unwrap().to_string();
    node.add_peer("node-02", address).unwrap();
    let heard = async {
        loop {
            let (now, reason) = state(&there, &id).await;
            if now == VMState::Failed {
                return reason.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(20), heard).await;
    let reason = reason.expect("it hears in time");
    assert!(reason.contains("forced the node it came from"), "{reason}");
}

#[tokio::test]
async fn one_command_resolves_what_the_destination_knows() {
    for taken in [true, false] {
        let there = Node::builder("node-02").backend(Backend::Sim);
        let there = there.listen("127.0.0.1:0").start().await.unwrap();
        let granted = Record::Granted {
            epoch: 1,
            destination_uuid: there.uuid().to_owned(),
        };
        let (node, dir, id) = leaving(Some(granted)).await;
        let vms = node.client().vm();
        let unknown = vms.resolve_migration("m", false).await;
        assert!(matches!(unknown, Err(DWCPError::NotFound(_))), "no address");
        // The target saw the offer before it was granted anything.
        let (far, vm) = (Arc::clone(&there.0.shared), id.clone());
        let seen = move || {
            far.migrations.accept_epoch(&vm, 1)?;
            if taken {
                let verdict = Verdict::Taken { epoch: 1 };
                far.migrations.judge("m", &vm, &verdict)?;
            }
            Ok::<_, DWCPError>(())
        };
        tokio::task::spawn_blocking(seen).await.unwrap().unwrap();
        let address = there.address().unwrap().to_string();
        node.add_peer("node-02", address).unwrap();
        let status = vms.resolve_migration("m", false).await.unwrap();
        // Also after one more restart.
        let left = killed(&node, dir.path()).await;
        let again = open(left.path()).await;
        for node in [&node, &again] {
            let found = node.client().vm().get(&id).await;
            let now = node.client().vm().get_migration_status("m").await.unwrap();
            assert_eq!(now.state, status.state);
            if taken {
                assert_eq!(status.state, MigrationState::Completed);
                let moved = node.0.shared.registry.moved_to(&id);
                assert_eq!(moved.as_deref(), Some("node-02"), "{found:?}");
            } else {
                assert_eq!(status.state, MigrationState::Failed);
                let vm = found.unwrap();
                assert_eq!(vm.state, VMState::Failed);
                let reason = vm.reason.unwrap();
                assert!(reason.contains("the source restarted"), "{reason}");
            }
        }
        if !taken {
            vms.start(&id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn after_a_restart_too_only_the_right_store_is_believed() {
    let there = Node::builder("node-02").backend(Backend::Sim);
    let there = there.listen("127.0.0.1:0").start().await.unwrap();
    for (uuid, word) in [
        ("another-store", "reinstalled"),
        // It has not seen the offer.
        (there.uuid(), "backup"),
    ] {
        let granted = Record::Granted {
            epoch: 1,
            destination_uuid: uuid.to_owned(),
        };
        let (node, _dir, id) = leaving(Some(granted)).await;
        let address = there.address().unwrap().to_string();
        node.add_peer("node-02", address).unwrap();
        let vms = node.client().vm();
        match vms.resolve_migration("m", false).await {
            Err(DWCPError::Migration(text)) => assert!(text.contains(word), "{text}"),
            other => panic!("{other:?}"),
        }
        let (state, reason) = state(&node, &id).await;
        let status = vms.get_migration_status("m").await.unwrap();
        assert_eq!((state, reason), (VMState::Unknown, status.error));
        assert!(!status.state.is_terminal());
        assert!(vms.start(&id).await.is_err(), "it may run there");
    }
}
