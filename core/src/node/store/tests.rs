//! Tests of the store by itself.

use std::path::Path;

use super::super::events::Logged;
use super::*;
use crate::action::Role;
use crate::model::{Timestamp, VM, VMConfig, VMEventType, VMState};

fn vm(id: &str) -> Arc<VM> {
    let config = VMConfig::builder()
        .name(format!("vm-{id}"))
        .label("env", "prod")
        .build()
        .unwrap();
    let mut vm = VM::new(id, "node-01", config);
    vm.state = VMState::Stopped;
    Arc::new(vm)
}

fn put(vm: &Arc<VM>, position: u64) -> Write {
    Write::Vm {
        vm: Arc::clone(vm),
        position,
        arriving: None,
        interrupted: false,
    }
}

fn event(seq: u64, vm: &Arc<VM>, floor: u64) -> Write {
    let event = Arc::new(Logged {
        seq,
        event_type: VMEventType::Updated,
        vm: Arc::clone(vm),
        before: None,
        timestamp: Timestamp::now(),
        message: format!("number {seq}"),
        last: false,
    });
    Write::Event { event, floor }
}

fn open(at: &Path) -> (Store, Loaded) {
    Store::open(Some(at)).unwrap()
}

#[test]
fn what_was_flushed_is_there_again_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, loaded) = open(dir.path());
    let uuid = loaded.uuid;
    assert!(loaded.vms.is_empty() && loaded.events.is_empty());
    let (a, b) = (vm("a"), vm("b"));
    store.write([put(&b, 7), event(1, &b, 1)]);
    store.write([put(&a, 8), event(2, &a, 1)]);
    store.write([put(&vm("c"), 9), event(3, &a, 1)]);
    store.write([Write::ForgetVm("c".into()), event(4, &a, 2)]);
    for (id, node) in [("z", "node-03"), ("y", "node-02"), ("x", "node-02")] {
        store.write([Write::Moved {
            vm_id: id.into(),
            position: 1 + u64::from(id != "z"),
            node: node.into(),
        }]);
    }
    store.write([Write::ForgetMoved("x".into())]);
    store.flush().wait().unwrap();
    assert_eq!(store.durable_seq(), 4);
    drop(store);

    let (store, loaded) = open(dir.path());
    assert_eq!(loaded.uuid, uuid);
    let vms: Vec<_> = loaded
        .vms
        .iter()
        .map(|own| (own.position, own.vm.clone()))
        .collect();
    assert_eq!(vms, [(7, VM::clone(&b)), (8, VM::clone(&a))]);
    let events: Vec<_> = loaded
        .events
        .iter()
        .map(|event| (event.seq, event.message.as_str(), event.vm.id.as_str()))
        .collect();
    assert_eq!(
        events,
        [
            (2, "number 2", "a"),
            (3, "number 3", "a"),
            (4, "number 4", "a")
        ],
        "what is below the floor is gone"
    );
    assert!(loaded.events[0].before.is_none());
    assert_eq!(loaded.events[2].before.as_deref(), Some(&*a));
    let moved = |id: &str, node: &str| (id.to_owned(), node.to_owned());
    assert_eq!(loaded.moved, [moved("z", "node-03"), moved("y", "node-02")]);
    assert_eq!(store.durable_seq(), 4);
}

#[test]
fn one_directory_is_for_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    match Store::open(Some(dir.path())) {
        Err(DWCPError::AlreadyExists(text)) => assert!(text.contains("in use"), "{text}"),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
    open(dir.path());
}

#[test]
fn a_store_of_a_newer_version_or_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (first, loaded) = open(dir.path());
    drop(first);
    let raw = || rusqlite::Connection::open(dir.path().join("node.db")).unwrap();
    let version = |version: i64| raw().pragma_update(None, "user_version", version).unwrap();
    version(schema::VERSION + 1);
    match Store::open(Some(dir.path())) {
        Err(DWCPError::Unsupported(text)) => assert!(text.contains("newer version"), "{text}"),
        other => panic!("{other:?}"),
    }
    version(schema::VERSION);
    assert_eq!(open(dir.path()).1.uuid, loaded.uuid, "nothing was changed");
    raw().pragma_update(None, "application_id", 7).unwrap();
    match Store::open(Some(dir.path())) {
        Err(DWCPError::Config(text)) => assert!(text.contains("no store of a node"), "{text}"),
        other => panic!("{other:?}"),
    }
    std::fs::write(dir.path().join("node.db"), b"something else altogether").unwrap();
    assert!(Store::open(Some(dir.path())).is_err());
}

#[test]
fn what_cannot_be_used_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    match Store::open(Some(&file)) {
        Err(DWCPError::Config(text)) => assert!(text.starts_with("data_dir: "), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[cfg(unix)]
#[test]
fn only_the_nodes_user_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep").join("down");
    let (store, _) = open(&path);
    store.write([put(&vm("a"), 0)]);
    store.flush().wait().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in ["node.db", "node.db-wal"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
}

#[test]
fn those_who_wait_share_a_transaction() {
    const WRITERS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    // While the writer is at work, more come: each thread queues one and waits for it.
    std::thread::scope(|scope| {
        for n in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                store.write([put(&vm(&n.to_string()), n)]);
                store.flush().wait().unwrap();
            });
        }
    });
    let commits = store.commits();
    assert!((1..=WRITERS).contains(&commits), "{commits} commits");
    drop(store);
    assert_eq!(open(dir.path()).1.vms.len() as u64, WRITERS);
    // Queued at once, they are one.
    let (store, _) = open(dir.path());
    store.hold(true);
    for n in 0..WRITERS {
        store.write([put(&vm(&n.to_string()), n)]);
    }
    let waiting: Vec<_> = (0..WRITERS).map(|_| store.flush()).collect();
    store.hold(false);
    for one in waiting {
        one.wait().unwrap();
    }
    assert_eq!(store.commits(), 1);
}

#[test]
fn a_failure_is_told_to_all_who_wait_and_nothing_is_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let a = vm("a");
    store.break_down(true);
    store.write([put(&a, 0), event(1, &a, 1)]);
    let waiting = [store.flush(), store.flush()];
    for one in waiting {
        match one.wait() {
            Err(DWCPError::Internal(text)) => assert!(text.contains("test"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.durable_seq(), 0);
    assert!(matches!(store.check(), Err(DWCPError::Unavailable(_))));
    assert!(store.flush().wait().is_err(), "it is not there yet");
    store.break_down(false);
    // What comes after carries what was before.
    store.write([Write::ForgetVm("a".into()), event(2, &a, 1)]);
    store.flush().wait().unwrap();
    assert_eq!((store.durable_seq(), store.trouble()), (2, None));
    store.check().unwrap();
    drop(store);
    let (_store, loaded) = open(dir.path());
    assert!(loaded.vms.is_empty());
    assert_eq!(loaded.events.len(), 2);
}

#[test]
fn what_could_not_be_written_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.break_down(true);
    store.write([put(&vm("a"), 0)]);
    assert!(store.flush().wait().is_err());
    store.break_down(false);
    // Nobody comes: the writer tries by itself, or with this flush.
    store.flush().wait().unwrap();
    store.break_down(true);
    store.write([put(&vm("b"), 1)]);
    match store.close() {
        Err(DWCPError::Internal(text)) => assert!(text.contains("cannot be written"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(open(dir.path()).1.vms.len(), 1);
}

#[tokio::test]
async fn a_store_without_a_directory_is_done_at_once() {
    let (store, loaded) = Store::open(None).unwrap();
    assert!(!loaded.uuid.is_empty());
    let a = vm("a");
    store.write([put(&a, 0), event(1, &a, 1)]);
    assert_eq!(store.durable_seq(), 1);
    store.flush().done().await.unwrap();
    store.close().unwrap();
    assert_ne!(Store::open(None).unwrap().1.uuid, loaded.uuid);
}

#[tokio::test]
async fn a_store_that_was_closed_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.write([put(&vm("a"), 0)]);
    store.close().unwrap();
    store.close().unwrap();
    store.flush().done().await.unwrap();
    store.write([put(&vm("b"), 1)]);
    assert_eq!(store.flush().done().await, Err(closed()));
    assert_eq!(open(dir.path()).1.vms.len(), 1);
}

#[test]
fn keys_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let key = |name: &str, byte: u8| ApiKey {
        name: name.into(),
        role: Role::Operator,
        hash: [byte; 32],
        created: Timestamp::from_unix_micros(i64::from(byte)),
    };
    let (store, _) = open(dir.path());
    for (name, byte) in [("b", 1), ("a", 2), ("c", 3)] {
        store.add_key(key(name, byte)).unwrap().wait().unwrap();
    }
    for known in [key("a", 9), key("d", 3)] {
        let error = store.add_key(known).unwrap_err();
        assert!(matches!(error, DWCPError::AlreadyExists(_)), "{error}");
    }
    store.remove_key("c").unwrap().wait().unwrap();
    assert!(matches!(store.remove_key("c"), Err(DWCPError::NotFound(_))));
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(store.keys(), [key("b", 1), key("a", 2)]);
}

#[test]
fn the_log_does_not_grow_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let a = vm("a");
    // Many times what is written between two checkpoints, with an event ring of 100.
    for seq in 1..=20_000_u64 {
        store.write([put(&a, 0), event(seq, &a, seq.saturating_sub(99).max(1))]);
        if seq.is_multiple_of(50) {
            store.flush().wait().unwrap();
        }
    }
    let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
    assert!(size("node.db-wal") < 2 * schema::LOG_SIZE_MAX);
    drop(store);
    assert!(size("node.db") < 4 << 20, "{}", size("node.db"));
    let (_store, loaded) = open(dir.path());
    assert_eq!((loaded.events.len(), loaded.last_seq()), (100, 20_000));
}
