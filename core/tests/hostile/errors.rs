//! Every code of the protocol's table, brought about through a socket.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use dwcp::{ErrorCode, NodeLimits, VMEventType, VMState};
use serde_json::{Value, json};

use super::support::raw::{Raw, kind, request};
use super::support::{config, wait, with};
use super::{NOBODY, OPERATOR, PEER, Target, VIEWER, is_error};

fn vm(operation: &str, id: &str) -> Value {
    json!({"operation": operation, "vm_id": id})
}

fn create(name: &str) -> Value {
    json!({"operation": "create", "request": {"config": {
        "name": name, "memory": 32 << 20, "cpus": 1,
    }}})
}

/// Codes whose request is one frame, and whose answer is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_of_the_table_is_reached_and_changes_nothing() {
    let mut limits = NodeLimits::default();
    limits.max_vms = 2;
    let target = Target::with(|node| node.limits(limits)).await;
    let (runs, rests) = (&target.running.id, &target.stopped.id);
    let before = target.state().await;
    let mut seen = BTreeSet::new();

    let move_to = |node: &str| {
        let options = json!({"encrypt_transport": false, "compression": false});
        json!({"vm_id": runs, "target_node": node, "options": options})
    };
    let status = json!({"operation": "status", "migration_id": NOBODY});
    let rows = [
        (VIEWER, kind::VM, json!({"operation": "fly"}), 0x1001, "fly"),
        (VIEWER, kind::VM, vm("get", NOBODY), 0x1002, NOBODY),
        (OPERATOR, kind::VM, vm("destroy", NOBODY), 0x1002, NOBODY),
        (OPERATOR, kind::VM, create("third"), 0x1003, "max_vms"),
        (OPERATOR, kind::VM, vm("start", runs), 0x1005, "running"),
        (OPERATOR, kind::VM, vm("destroy", runs), 0x1005, "running"),
        (OPERATOR, kind::VM, vm("stop", rests), 0x1005, "stopped"),
        (
            VIEWER,
            kind::METRICS,
            json!({"vm_id": rests}),
            0x1005,
            "stopped",
        ),
        (
            OPERATOR,
            kind::MIGRATION,
            move_to("node-01"),
            0x1005,
            "node-01",
        ),
        (OPERATOR, kind::VM, create("a b"), 0x1008, "name"),
        (
            OPERATOR,
            kind::MIGRATION,
            move_to("no-such-node"),
            0x100b,
            "no-such-node",
        ),
        (VIEWER, kind::MIGRATION, status, 0x100b, NOBODY),
        (VIEWER, kind::VM, vm("start", rests), 0x100e, "operator"),
    ];
    for (key, kind, payload, code, says) in rows {
        // A base client gets the same error, in the form that it expects.
        let base = Raw::base(&target.address, Some(key)).call(kind, &payload);
        is_error(&base, code, says);
        let extended = Raw::extended(&target.address, Some(key)).call(kind, &payload);
        is_error(&extended, code, says);
        assert_eq!(extended.kind, kind::ERROR);
        let error = extended.json();
        let known = ErrorCode::from_number(code).unwrap();
        assert_eq!(error["name"], known.name(), "{error}");
        assert_eq!(error["retryable"], known.is_retryable(), "{error}");
        assert_eq!(error["request"], extended.id, "{error}");
        assert!(error["details"].is_object(), "{error}");
        seen.insert(code);
    }
    let tpm =
        json!({"operation": "create", "request": {"config": {"name": "x", "enable_tpm": true}}});
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    is_error(&raw.call(kind::VM, &tpm), 0x1009, "enable_tpm");
    seen.insert(0x1009);

    // A wrong key.
    let mut raw = Raw::connect(&target.address);
    let answer = raw.call(
        kind::AUTH,
        &super::support::raw::extended_auth(Some("not-the-key-at-all")),
    );
    assert_eq!(answer.json()["success"], false, "{answer:?}");
    is_error(&answer, 0x1000, "key");
    assert_eq!(raw.rest(), []);
    seen.insert(0x1000);

    // A stream that its receiver takes back.
    let mut raw = Raw::extended(&target.address, Some(VIEWER));
    let id = raw.ask(kind::STREAM, &json!({"operation": "watch", "credit": 0}));
    assert_eq!(raw.next().kind, kind::OK);
    raw.send(&request(kind::CANCEL, &id, &json!({})));
    let end = raw.next();
    assert_eq!(end.id, id);
    is_error(&end, 0x100d, "");
    seen.insert(0x100d);

    assert_eq!(target.state().await, before);

    // Those that need more than a request have tests of their own below; of two, migration and
    // already_exists, it is peers that learn.
    let elsewhere = BTreeSet::from([0x1004, 0x1006, 0x1007, 0x100a, 0x100c, 0x10ff]);
    assert!(seen.is_disjoint(&elsewhere));
    let all: BTreeSet<u32> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    assert_eq!(&seen | &elsewhere, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeout_says_so_and_leaves_the_others_alone() {
    let target = Target::start().await;
    let before = target.state().await;
    let vms = target.vms();
    // It looks for commands once in a second only.
    let slow = with(config("slow"), &[("beat-hz", "1")]);
    let slow = vms.create(slow).await.unwrap();
    let mut events = vms.watch(&slow.id).await.unwrap();
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    let stop = json!({"operation": "stop", "vm_id": slow.id, "timeout": "1ns"});
    loop {
        vms.start(&slow.id).await.unwrap();
        wait(&mut events, |event| event.event_type == VMEventType::Guest).await;
        let answer = raw.call(kind::VM, &stop);
        // It may have looked at that very moment.
        if answer.kind == kind::ERROR {
            is_error(&answer, 0x1006, &slow.id);
            assert_eq!(answer.json()["retryable"], true);
            break;
        }
    }
    vms.stop(&slow.id, true).await.unwrap_or(());
    // It was asked, and may have been as fast.
    wait(&mut events, |event| {
        event.vm.state == dwcp::VMState::Stopped
    })
    .await;
    vms.destroy(&slow.id).await.unwrap();
    assert_eq!(target.state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_says_unavailable() {
    let target = Target::start().await;
    let mut known = Raw::extended(&target.address, Some(OPERATOR));
    target.node.drain();
    let before = target.state().await;
    let mut base = Raw::base(&target.address, Some(OPERATOR));
    for raw in [&mut known, &mut base] {
        for payload in [create("late"), vm("start", &target.stopped.id)] {
            let answer = raw.call(kind::VM, &payload);
            assert_ne!(answer.kind, kind::GOAWAY, "draining, not shutting down");
            is_error(&answer, 0x100c, "");
        }
        // What changes nothing is still answered.
        let answer = raw.call(kind::VM, &vm("get", &target.stopped.id));
        assert_eq!(answer.error(), None, "{answer:?}");
    }
    assert_eq!(target.state().await, before);
}

/// A node whose store is broken while it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_the_host_is_internal() {
    let directory = tempfile::tempdir().unwrap();
    let target = Target::with(|node| node.data_dir(directory.path())).await;
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    let store = rusqlite::Connection::open(directory.path().join("node.db")).unwrap();
    let broken =
        "CREATE TRIGGER broken BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'disk'); END";
    store.execute_batch(broken).unwrap();
    let answer = raw.call(kind::VM, &create("unwritten"));
    is_error(&answer, 0x10ff, "store");
    assert_eq!(answer.json()["retryable"], false);
    // The connection, and the node, go on; and so does the store when it can.
    let get = raw.call(kind::VM, &vm("get", &target.running.id));
    assert_eq!(get.kind, kind::OK, "{}", get.text());
    store.execute_batch("DROP TRIGGER broken").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while raw.call(kind::VM, &create("written")).kind == kind::ERROR {
        assert!(Instant::now() < end, "the store is not written again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_does_not_fit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let target = Target::with(|node| node.data_dir(directory.path())).await;
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    let mut base = Raw::base(&target.address, Some(OPERATOR));
    let taken = raw.call(
        kind::SNAPSHOT,
        &json!({"vm_id": target.running.id, "name": "first"}),
    );
    assert_eq!(taken.kind, kind::OK, "{}", taken.text());
    let snapshot = taken.json()["id"].clone();
    let before = target.state().await;
    let restore = |vm_id: &str| json!({"operation": 23, "vm_id": vm_id, "snapshot_id": snapshot});

    // That of another VM.
    for raw in [&mut raw, &mut base] {
        let answer = raw.call(kind::SNAPSHOT, &restore(&target.stopped.id));
        is_error(&answer, 0x100b, &target.stopped.id);
    }
    // One of which a byte was changed, in whichever file.
    let files = directory
        .path()
        .join("snapshots")
        .join(snapshot.as_str().unwrap());
    let mut spoiled = 0;
    for file in std::fs::read_dir(files).unwrap() {
        let path = file.unwrap().path();
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        // Where something is: at the end of what is not zero.
        let at = bad.iter().rposition(|byte| *byte != 0).unwrap();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let answer = raw.call(kind::SNAPSHOT, &restore(&target.running.id));
        is_error(&answer, 0x1007, snapshot.as_str().unwrap());
        std::fs::write(&path, &good).unwrap();
        spoiled += 1;
    }
    assert!(spoiled > 1, "{spoiled} files");
    assert_eq!(target.state().await, before);
    let answer = raw.call(kind::SNAPSHOT, &restore(&target.running.id));
    assert_eq!(answer.text(), "{}");
}

/// What one peer sends to another, caught on its way: a real offer of the VM that runs.
async fn catch_offer(target: &Target) -> Value {
    let vms = target.vms();
    let mut events = vms.watch(&target.running.id).await.unwrap();
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = trap.local_addr().unwrap().to_string();
    let added = target
        .node
        .add_peer_with_credential("trap", &address, "the-key-of-the-trap");
    added.unwrap();
    let options = json!({"encrypt_transport": false, "compression": false});
    let migrate = json!({"vm_id": target.running.id, "target_node": "trap", "options": options});
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    let started = raw.call(kind::MIGRATION, &migrate);
    assert_eq!(started.kind, kind::OK, "{}", started.text());
    let mut caught = Raw::over(trap.accept().unwrap().0);
    let offer = loop {
        let frame = caught.next();
        match frame.kind {
            kind::AUTH => {
                let reply = json!({"success": true, "message": "", "features": ["x3.1"]});
                caught.send(&request(kind::VM, &frame.id, &reply));
            }
            kind::MIGRATION => break frame.json(),
            _ => panic!("{frame:?}"),
        }
    };
    // It is gone, and the VM stays and runs.
    drop((caught, trap));
    wait(&mut events, |event| {
        event.event_type == VMEventType::MigrationFailed
    })
    .await;
    let vm = vms.get(&target.running.id).await.unwrap();
    assert_eq!(vm.state, VMState::Running);
    offer
}

/// Codes that nodes tell each other, as reasons why a VM does not fit: an offer of a VM that is here
/// already, and one that nobody can make sense of. And an offer that is good, with others who try to
/// have a part in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_refused_what_does_not_fit() {
    let target = Target::start().await;
    let offer = catch_offer(&target).await;
    let before = target.state().await;
    let changed = |number: u32, payload: &str| {
        let mut offer = offer.clone();
        offer["session"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
        offer["epoch"] = json!(1_000_000);
        offer["payload"] = json!(payload);
        offer
    };
    let ask = |message: &Value| {
        let mut raw = Raw::extended(&target.address, Some(PEER));
        raw.send(&request(kind::MIGRATION, "m", message));
        let answer = raw.next();
        (raw, answer)
    };
    let payload = offer["payload"].as_str().unwrap();
    let newer = payload.replacen("\"format\":1", "\"format\":99", 1);
    let misfits = [
        (payload, "already exists: "),
        ("{}", "migration: "),
        ("hello", "migration: "),
        (&newer, "migration: "),
    ];
    for (number, (payload, why)) in (1..).zip(misfits) {
        let (_raw, answer) = ask(&changed(number, payload));
        let answer = answer.json();
        assert_eq!(answer["operation"], "unfit", "{answer}");
        let reason = answer["reasons"][0].as_str().unwrap();
        assert!(reason.starts_with(why), "{why:?}: {answer}");
    }
    // What is no message at all is an error.
    for message in [
        json!({"epoch": "one"}),
        json!({"epoch": 1}),
        json!({"epoch": null}),
    ] {
        let (mut raw, answer) = ask(&message);
        is_error(&answer, 0x1001, "");
        raw.half_close();
        assert_eq!(raw.rest(), [], "{message}");
    }

    // Room is made for one that fits; a channel needs its token; and when it is gone, so is all.
    let mut good = changed(9, &payload.replace(&target.running.id, NOBODY));
    good["vm_id"] = json!(NOBODY);
    let (control, answer) = ask(&good);
    let answer = answer.json();
    assert_eq!(answer["operation"], "prepared", "{answer}");
    let token = answer["token"].as_str().unwrap();
    assert_eq!(token.len(), 32, "128 bits");
    for guess in ["", "0", &"0".repeat(32), &token[1..], &token.to_uppercase()] {
        let (mut raw, answer) = ask(&json!({
            "operation": "attach", "migration_id": good["session"], "token": guess, "channel": 0,
        }));
        assert!(answer.error().is_some(), "{guess:?}: {}", answer.text());
        raw.half_close();
        assert_eq!(raw.rest(), []);
    }
    drop(control);
    let end = Instant::now() + Duration::from_secs(60);
    while target.state().await != before {
        assert!(Instant::now() < end, "{} is left", target.state().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
