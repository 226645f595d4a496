//! Peers that leave: with a half-close in every state, and without a word.

use std::time::{Duration, Instant};

use dwcp::{Backend, VMEventType, VMState};
use serde_json::json;
use socket2::SockRef;

use super::support::node_process::NodeProcess;
use super::support::raw::{Frame, Raw, extended_auth, kind, request};
use super::support::{config, wait, with};
use super::{ADMIN, OPERATOR, Target, VIEWER, is_served};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_before_auth() {
    for target in [Target::start().await, Target::open().await] {
        let mut raw = Raw::connect(&target.address);
        raw.half_close();
        assert_eq!(raw.rest(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_right_behind_auth() {
    let target = Target::start().await;
    let base = json!({"api_key": VIEWER, "version": 3});
    for (auth, good) in [
        (base, true),
        (extended_auth(Some(VIEWER)), true),
        (extended_auth(Some("not-the-key-at-all")), false),
    ] {
        let mut raw = Raw::connect(&target.address);
        raw.send(&request(kind::AUTH, "a", &auth));
        raw.half_close();
        let answers = raw.rest();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0].json()["success"], good);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_when_idle() {
    let target = Target::start().await;
    for mut raw in [
        Raw::base(&target.address, Some(VIEWER)),
        Raw::extended(&target.address, Some(VIEWER)),
    ] {
        raw.half_close();
        assert_eq!(raw.rest(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_with_calls_in_flight() {
    let target = Target::start().await;
    let vms = target.vms();
    let slow = with(config("slow"), &[("beat-hz", "2")]);
    for mut raw in [
        Raw::base(&target.address, Some(OPERATOR)),
        Raw::extended(&target.address, Some(OPERATOR)),
    ] {
        // One that takes a while: its guest looks for commands twice in a second.
        let vm = vms.create(slow.clone()).await.unwrap();
        let mut events = vms.watch(&vm.id).await.unwrap();
        vms.start(&vm.id).await.unwrap();
        wait(&mut events, |event| event.event_type == VMEventType::Guest).await;
        let stop = json!({"operation": "stop", "vm_id": vm.id});
        let mut bytes = request(kind::VM, "stop", &stop);
        for number in 0..50 {
            let get = json!({"operation": "get", "vm_id": target.running.id});
            bytes.extend(request(kind::VM, &number.to_string(), &get));
        }
        raw.send(&bytes);
        raw.half_close();
        let answers = raw.rest();
        assert_eq!(answers.len(), 51);
        assert!(answers.iter().all(|f| f.error().is_none()), "{answers:?}");
        let stopped = answers.iter().find(|frame| frame.id == "stop").unwrap();
        assert_eq!(stopped.text(), "{}");
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
        vms.destroy(&vm.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_with_streams_open() {
    let target = Target::start().await;
    let id = &target.running.id;
    for credit in [0, 10] {
        let mut raw = Raw::extended(&target.address, Some(OPERATOR));
        let streams = [
            json!({"operation": "watch", "credit": credit}),
            json!({"operation": "watch", "vm_id": id, "credit": credit}),
            json!({"operation": "stream_metrics", "vm_id": id, "interval": "1h", "credit": credit}),
            json!({"operation": "console", "vm_id": id, "credit": credit}),
        ];
        let mut ids: Vec<String> = Vec::new();
        for stream in &streams {
            ids.push(raw.ask(kind::STREAM, stream));
        }
        let mut opened = 0;
        while opened < streams.len() {
            opened += usize::from(raw.next().kind == kind::OK);
        }
        raw.half_close();
        let answers = raw.rest();
        // Each has one terminal frame, and nothing comes behind that.
        for id in &ids {
            let own: Vec<&Frame> = answers.iter().filter(|f| f.id == *id).collect();
            let terminal = |f: &&&Frame| matches!(f.kind, kind::END | kind::ERROR);
            assert_eq!(own.iter().filter(terminal).count(), 1, "{own:?}");
            assert!(own.last().as_ref().is_some_and(terminal), "{own:?}");
        }
    }
}

/// Peers that vanish, in every state: nothing of them stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_every_state_leaves_nothing_behind() {
    let key = format!("{ADMIN}:admin");
    let mut node = NodeProcess::start(Backend::Sim, &["--api-key", &key]);
    let create = json!({"operation": "create", "request": {"config": {
        "name": "web", "memory": 32 << 20, "cpus": 1,
        "annotations": {"dwcp.pulse/fill": "1048576", "dwcp.pulse/beat-hz": "100"},
    }}});
    let mut first = Raw::extended(&node.address, Some(ADMIN));
    let id = first.call(kind::VM, &create).json()["id"].clone();
    let id = id.as_str().unwrap();
    first.call(kind::VM, &json!({"operation": "start", "vm_id": id}));
    let files = || {
        std::fs::read_dir(format!("/proc/{}/fd", node.id()))
            .unwrap()
            .count()
    };
    let before = files();

    let reset = |raw: Raw| {
        SockRef::from(&raw.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    };
    for _ in 0..20 {
        reset(Raw::connect(&node.address));
        let mut raw = Raw::connect(&node.address);
        raw.send(&request(kind::AUTH, "a", &extended_auth(Some(ADMIN))));
        reset(raw);
        let mut raw = Raw::connect(&node.address);
        raw.send(&request(kind::AUTH, "a", &extended_auth(Some(ADMIN)))[..20]);
        reset(raw);
        reset(Raw::extended(&node.address, Some(ADMIN)));
        let mut raw = Raw::extended(&node.address, Some(ADMIN));
        for _ in 0..50 {
            raw.ask(kind::VM, &json!({"operation": "get", "vm_id": id}));
        }
        reset(raw);
        let mut raw = Raw::extended(&node.address, Some(ADMIN));
        for stream in ["watch", "stream_metrics", "console"] {
            raw.ask(
                kind::STREAM,
                &json!({"operation": stream, "vm_id": id, "credit": 9}),
            );
        }
        raw.next();
        reset(raw);
    }
    let end = Instant::now() + Duration::from_secs(10);
    while files() > before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(files(), before, "descriptors");
    assert!(node.is_running());
    is_served(&node.address, Some(ADMIN));
}
