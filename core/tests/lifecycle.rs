//! The life of VMs on a node, as programs see it. Every test runs on each back end this host has.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use dwcp::{
    Action, Backend, DWCPError, Filters, HealthStatus, Item, MigrationOptions, Node, NodeLimits,
    Outcome, SnapshotOptions, StopOptions, Subscription, VMClient, VMConfig, VMEventType, VMState,
};
use futures::StreamExt;
use support::{config, nodes, started, wait, wait_for, with};

/// The error of a result that has to be one.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: dwcp::Result<T>) -> DWCPError {
    result.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_lives_its_life() {
    for node in nodes("a_vm_lives_its_life", |node| node).await {
        let vms = node.client().vm();
        let vm = vms.create(config("web")).await.unwrap();
        assert_eq!((vm.state, vm.name.as_str()), (VMState::Stopped, "web"));
        assert_eq!(vm.node, "node-01");

        let mut events = vms.watch(&vm.id).await.unwrap();
        let first = events.next().await.unwrap();
        assert_eq!(first.event_type, VMEventType::Current);
        assert_eq!(first.vm, vm);

        vms.start(&vm.id).await.unwrap();
        let running = vms.get(&vm.id).await.unwrap();
        assert_eq!(running.state, VMState::Running);
        assert!(running.started_at.is_some() && running.metrics.is_some());
        vms.pause(&vm.id).await.unwrap();
        let paused = vms.get(&vm.id).await.unwrap();
        assert_eq!(paused.state, VMState::Paused);
        assert_eq!(paused.reason.as_deref(), Some("on request"));
        vms.reset(&vm.id).await.unwrap();
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Paused);
        vms.resume(&vm.id).await.unwrap();
        vms.reset(&vm.id).await.unwrap();
        let report = vms.verify(&vm.id).await.unwrap();
        assert!(report.verified, "{report:?}");
        assert_eq!((report.pages_filled, report.faults), (256, 0));
        assert!(report.pages_verified >= 256 && report.vm_id == vm.id);
        vms.stop(&vm.id, false).await.unwrap();
        let stopped = vms.get(&vm.id).await.unwrap();
        assert_eq!(stopped.state, VMState::Stopped);
        assert!(stopped.stopped_at >= stopped.started_at);
        assert_eq!((stopped.metrics, stopped.reason), (None, None));
        vms.destroy(&vm.id).await.unwrap();
        assert_eq!(
            refused(vms.get(&vm.id).await),
            DWCPError::VMNotFound(vm.id.clone())
        );

        let mut told = Vec::new();
        let mut seq = first.seq;
        while let Some(event) = events.next().await {
            assert_eq!(event.seq, seq + 1);
            seq = event.seq;
            if event.event_type != VMEventType::Guest {
                told.push(event.event_type.to_string());
            }
        }
        assert_eq!(
            told.join(" "),
            "starting started paused reset resumed reset stopping stopped destroyed"
        );
        assert_eq!(events.error(), None);
    }
}

#[tokio::test]
async fn a_loop_that_waits_for_running_ends() {
    for node in nodes("a_loop_that_waits_for_running_ends", |node| node).await {
        let vms = node.client().vm();
        let vm = vms.create(config("web")).await.unwrap();
        let (own, id) = (vms.clone(), vm.id.clone());
        let start = tokio::spawn(async move { own.start(&id).await });
        wait_for(&vms, &vm.id, VMState::Running).await;
        start.await.unwrap().unwrap();
        // And when it runs already.
        let now = wait_for(&vms, &vm.id, VMState::Running).await;
        assert_eq!(now.event_type, VMEventType::Current);
        vms.stop(&vm.id, true).await.unwrap();
        vms.start(&vm.id).await.unwrap();
        vms.stop(&vm.id, true).await.unwrap();
    }
}

/// Every operation that depends on the state, by its name.
async fn operation(vms: &VMClient, name: &str, id: &str) -> dwcp::Result<()> {
    match name {
        "start" => vms.start(id).await,
        "stop" => vms.stop(id, true).await,
        "destroy" => vms.destroy(id).await,
        "pause" => vms.pause(id).await,
        "resume" => vms.resume(id).await,
        "reset" => vms.reset(id).await,
        "verify" => vms.verify(id).await.map(drop),
        "get_metrics" => vms.get_metrics(id, Duration::from_secs(1)).await.map(drop),
        "stream_metrics" => vms
            .stream_metrics(id, Duration::from_secs(1))
            .await
            .map(drop),
        "console" => vms.console(id).await.map(drop),
        "migrate" => {
            let options = MigrationOptions::default();
            vms.migrate(id, "node-02", options).await.map(drop)
        }
        "snapshot" => {
            let options = SnapshotOptions::default();
            vms.snapshot(id, "snap", options).await.map(drop)
        }
        "restore_snapshot" => vms.restore_snapshot(id, "snap").await,
        _ => panic!("{name}"),
    }
}

#[tokio::test]
async fn what_is_not_legal_in_a_state_is_refused_by_name() {
    let table = [
        (
            VMState::Stopped,
            "stop pause resume reset verify get_metrics stream_metrics console migrate",
        ),
        (
            VMState::Running,
            "start destroy resume restore_snapshot_is_legal",
        ),
        (VMState::Paused, "start destroy pause verify"),
        (
            VMState::Stopping,
            "start destroy pause resume reset verify get_metrics stream_metrics console migrate \
             snapshot restore_snapshot",
        ),
    ];
    for node in nodes("what_is_not_legal_in_a_state", |node| node).await {
        let vms = node.client().vm();
        for (state, names) in &table {
            // Looks for commands once a second only, so that it is seen to be stopping.
            let slow = with(config("web"), &[("beat-hz", "1")]);
            let vm = vms.create(slow).await.unwrap();
            let mut stopping = None;
            if *state != VMState::Stopped {
                vms.start(&vm.id).await.unwrap();
                let mut events = vms.watch(&vm.id).await.unwrap();
                wait(&mut events, |event| {
                    event.event_type == VMEventType::Guest || event.vm.state == VMState::Running
                })
                .await;
            }
            match state {
                VMState::Paused => vms.pause(&vm.id).await.unwrap(),
                VMState::Stopping => {
                    let (own, id) = (vms.clone(), vm.id.clone());
                    stopping = Some(tokio::spawn(async move { own.stop(&id, false).await }));
                    wait_for(&vms, &vm.id, VMState::Stopping).await;
                }
                _ => {}
            }
            for name in names.split(' ').filter(|name| !name.ends_with("legal")) {
                let result = operation(&vms, name, &vm.id).await;
                let now = vms.get(&vm.id).await.unwrap().state;
                match result {
                    Err(DWCPError::InvalidOperation(text)) => {
                        let says = text.contains(&vm.id) && text.contains(state.as_str());
                        assert!(says || now != *state, "{name} in {state}: {text}");
                        if name == "destroy" {
                            assert!(text.contains("stop it first"), "{text}");
                        }
                    }
                    // The guest stopped meanwhile.
                    _ if *state == VMState::Stopping && now != VMState::Stopping => break,
                    other => panic!("{name} in {state}: {other:?}"),
                }
            }
            if *state != VMState::Stopped {
                // Overtakes the one that waits for the guest.
                let _ = vms.stop(&vm.id, true).await;
            }
            if let Some(stopping) = stopping {
                stopping.await.unwrap().unwrap();
            }
            // One that was refused `start` after the guest had stopped may have been started.
            vms.destroy(&vm.id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    for name in [
        "start",
        "stop",
        "destroy",
        "pause",
        "resume",
        "reset",
        "verify",
        "get_metrics",
        "stream_metrics",
        "console",
        "migrate",
        "snapshot",
        "restore_snapshot",
    ] {
        let error = refused(operation(&vms, name, "nobody").await);
        assert_eq!(error, DWCPError::VMNotFound("nobody".into()), "{name}");
    }
    assert!(matches!(
        refused(vms.watch("nobody").await),
        DWCPError::VMNotFound(_)
    ));
    assert!(matches!(
        refused(vms.update("nobody", None, None).await),
        DWCPError::VMNotFound(_)
    ));
}

#[tokio::test]
async fn what_this_node_cannot_do_says_so() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let vm = vms.create(config("web")).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let options = MigrationOptions::default;
    for (name, error) in [
        (
            "encrypt_transport",
            refused(vms.migrate(&vm.id, "n", options()).await),
        ),
        (
            "encrypt_transport",
            refused(vms.plan_migration(&vm.id, "n", options()).await),
        ),
    ] {
        match error {
            DWCPError::Unsupported(text) => assert!(text.starts_with(name), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_guest_that_does_not_stop_in_time_runs_on() {
    for node in nodes("a_guest_that_does_not_stop_in_time", |node| node).await {
        let vms = node.client().vm();
        let slow = with(config("web"), &[("beat-hz", "1")]);
        let vm = vms.create(slow).await.unwrap();
        let no_time = StopOptions {
            force: false,
            timeout: Some(Duration::ZERO),
        };
        let mut events = vms.watch(&vm.id).await.unwrap();
        loop {
            vms.start(&vm.id).await.unwrap();
            // Its first look for commands is over when its memory is filled.
            wait(&mut events, |event| event.event_type == VMEventType::Guest).await;
            match vms.stop_with(&vm.id, no_time.clone()).await {
                Ok(()) => {} // it looked at that very moment
                Err(DWCPError::Timeout(text)) => {
                    assert!(text.contains("it is running"), "{text}");
                    break;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        wait(&mut events, |event| {
            event.event_type == VMEventType::Started && event.message.contains("did not stop")
        })
        .await;
        // It was asked, and does it when it looks next.
        let last = wait(&mut events, |event| event.vm.state == VMState::Stopped).await;
        assert_eq!(last.vm.reason.as_deref(), Some("the guest powered off"));

        // A paused guest runs again to stop.
        vms.start(&vm.id).await.unwrap();
        vms.pause(&vm.id).await.unwrap();
        vms.stop(&vm.id, false).await.unwrap();
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
    }
}

#[tokio::test]
async fn operations_at_once_end_in_one_state() {
    for node in nodes("operations_at_once", |node| node).await {
        let vms = node.client().vm();
        let vm = vms.create(config("web")).await.unwrap();
        let starts = (0..8).map(|_| vms.start(&vm.id));
        let started = futures::future::join_all(starts).await;
        let ok = started.iter().filter(|result| result.is_ok()).count();
        assert_eq!(ok, 1, "{started:?}");
        let stops = (0..8).map(|n| vms.stop(&vm.id, n % 2 == 0));
        for result in futures::future::join_all(stops).await {
            // Who comes too late finds it stopped already.
            assert!(
                matches!(result, Ok(()) | Err(DWCPError::InvalidOperation(_))),
                "{result:?}"
            );
        }
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
    }
}

#[tokio::test]
async fn lists_are_filtered_and_in_order() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    for (name, env) in [("a", "prod"), ("b", "test"), ("c", "prod")] {
        let mut config = config(name);
        config.labels.insert("env".into(), env.into());
        vms.create(config).await.unwrap();
    }
    let names = async |filters: &[(&str, &str)]| {
        let vms = vms.list(filters).await.unwrap();
        vms.into_iter().map(|vm| vm.name).collect::<String>()
    };
    assert_eq!(names(&[]).await, "abc");
    assert_eq!(names(&[("env", "prod")]).await, "ac");
    assert_eq!(names(&[("env", "prod"), ("name", "c")]).await, "c");
    assert_eq!(names(&[("state", "running")]).await, "");
    assert_eq!(names(&[("node", "node-01")]).await, "abc");
    assert_eq!(names(&[("image", "other")]).await, "");
    let a = &vms.list([("name", "a")]).await.unwrap()[0];
    vms.start(&a.id).await.unwrap();
    let running = vms.list([("state", "running")]).await.unwrap();
    assert_eq!(running.len(), 1);
    assert!(running[0].metrics.is_some());
    // Names need not be unique.
    vms.create(config("a")).await.unwrap();
    assert_eq!(names(&[("name", "a")]).await, "aa");

    let (mut told, mut page) = (String::new(), None);
    loop {
        let list = Action::List {
            filters: Filters::new(),
            limit: 3,
            page,
        };
        let Outcome::Page { vms, next } = node.client().call(list).await.unwrap() else {
            panic!("a page");
        };
        assert!((1..=3).contains(&vms.len()));
        told.extend(vms.iter().map(|vm| vm.name.as_str()));
        page = next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!(told, "abca");
}

#[tokio::test]
async fn labels_and_annotations_are_replaced() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let vm = vms.create(config("web")).await.unwrap();
    let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let updated = vms
        .update(&vm.id, Some(labels.clone()), None)
        .await
        .unwrap();
    assert_eq!(
        (&updated.labels, &updated.annotations),
        (&labels, &vm.annotations)
    );
    assert_eq!(vms.list([("env", "prod")]).await.unwrap().len(), 1);
    let wrong = BTreeMap::from([("dwcp.pulse/fill".to_owned(), "much".to_owned())]);
    let error = refused(vms.update(&vm.id, None, Some(wrong)).await);
    assert!(
        matches!(&error, DWCPError::Config(text) if text.contains("dwcp.pulse/fill")),
        "{error}"
    );
    let less = BTreeMap::from([("dwcp.pulse/fill".to_owned(), "4096".to_owned())]);
    vms.update(&vm.id, None, Some(less)).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    assert_eq!(
        vms.verify(&vm.id).await.unwrap().pages_filled,
        1,
        "as updated"
    );
}

#[tokio::test]
async fn what_a_node_cannot_do_is_named() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let ask = VMConfig {
        disk: 1 << 30,
        enable_tpm: true,
        ..config("web")
    };
    match refused(vms.create(ask).await) {
        DWCPError::Unsupported(text) => {
            assert!(text.starts_with("disk, enable_tpm:"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    let other = VMConfig {
        image: "ubuntu-22.04".into(),
        ..config("web")
    };
    assert!(matches!(
        refused(vms.create(other).await),
        DWCPError::NotFound(_)
    ));
    let huge = VMConfig {
        huge_pages: true,
        ..config("web")
    };
    let can = node.client().node_info().await.unwrap().capabilities;
    if !can.huge_pages {
        let error = refused(vms.create(huge).await);
        assert!(error.message().starts_with("huge_pages:"), "{error}");
        return;
    }
    let vm = vms.create(huge).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    assert!(vms.verify(&vm.id).await.unwrap().verified);
    let metrics = vms
        .get_metrics(&vm.id, Duration::from_secs(1))
        .await
        .unwrap();
    assert!(metrics.memory_used >= 1 << 20);
}

#[tokio::test]
async fn pinning_and_quota_are_kept_or_refused_by_name() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    let first = list.unwrap().split(['-', ',']).next().unwrap();
    let first: u32 = first.parse().unwrap();
    for node in nodes("pinning_and_quota", |node| node).await {
        let vms = node.client().vm();
        let pinned = |cpu_pinning| VMConfig {
            cpus: 2,
            cpu_pinning,
            cpu_quota: 50,
            ..config("pinned")
        };
        match refused(vms.create(pinned(vec![first, 8191])).await) {
            DWCPError::Config(text) => {
                let says = "cpu_pinning: this node may not use host CPU 8191, only ";
                assert!(text.starts_with(says), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let vm = started(&vms, pinned(vec![first])).await;
        assert_eq!(vm.config.cpu_pinning, [first]);
        // Its threads have the name of the VM.
        let mut threads = 0;
        for task in std::fs::read_dir("/proc/self/task").unwrap() {
            let task = task.unwrap().path();
            let read = |file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
            if read("comm").starts_with("pinned/vcpu") {
                let own = format!("Cpus_allowed_list:\t{first}\n");
                assert!(read("status").contains(&own));
                threads += 1;
            }
        }
        assert_eq!(threads, 2);
    }
}

fn limits(set: impl FnOnce(&mut NodeLimits)) -> NodeLimits {
    let mut limits = NodeLimits::default();
    set(&mut limits);
    limits
}

#[tokio::test]
async fn every_limit_is_met_and_named() {
    let with = limits(|limits| {
        limits.max_memory = 64 << 20;
        limits.max_cpus = 3;
        limits.max_vms = 4;
        limits.max_streams = 2;
    });
    for node in nodes("every_limit_is_met", |node| node.limits(with)).await {
        let vms = node.client().vm();
        let limit = |error: DWCPError, name: &str| match error {
            DWCPError::ResourceLimit(text) => assert!(text.starts_with(name), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        };
        let make = |name: &str, memory, cpus| VMConfig {
            memory,
            cpus,
            ..config(name)
        };
        limit(
            refused(vms.create(make("a", 65 << 20, 1)).await),
            "max_memory",
        );
        limit(
            refused(vms.create(make("a", 32 << 20, 4)).await),
            "max_cpus",
        );
        let a = vms.create(make("a", 32 << 20, 1)).await.unwrap();
        let b = vms.create(make("b", 33 << 20, 1)).await.unwrap();
        let c = vms.create(make("c", 16 << 20, 3)).await.unwrap();
        vms.create(make("d", 16 << 20, 1)).await.unwrap();
        limit(refused(vms.create(config("e")).await), "max_vms");
        vms.start(&a.id).await.unwrap();
        limit(refused(vms.start(&b.id).await), "max_memory");
        limit(refused(vms.start(&c.id).await), "max_cpus");
        assert_eq!(vms.get(&b.id).await.unwrap().state, VMState::Stopped);

        let mut console = vms.console(&a.id).await.unwrap();
        // The built-in guest does not read: 64 KiB wait, and the port's FIFO has 64 bytes.
        console.write(&[b'x'; 64 << 10]).await.unwrap();
        console.write(&[b'x'; 64]).await.unwrap();
        let error = refused(console.write(b"yz").await);
        assert_eq!(
            error,
            DWCPError::ResourceLimit(
                "console: the guest took 0 of 2 bytes; it does not read its console as fast".into()
            )
        );
        let watch = vms.watch_all(()).await.unwrap();
        limit(refused(vms.watch(&a.id).await), "max_streams");
        drop(watch);
        // The node notices that the stream is gone, and its place is free.
        let mut again = vms.watch(&a.id).await;
        while let Err(DWCPError::ResourceLimit(_)) = again {
            tokio::time::sleep(Duration::from_millis(1)).await;
            again = vms.watch(&a.id).await;
        }
        again.unwrap();
        vms.stop(&a.id, true).await.unwrap();
        // It ends with the VM, after what the guest had printed.
        while console.next().await.is_some() {}
        assert_eq!(console.error(), None);
        vms.start(&c.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_watcher_is_told_what_it_lost() {
    const CHANGES: usize = 200;
    let node = Node::builder("node-01").backend(Backend::Sim).event_ring(8);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let vm = vms.create(config("web")).await.unwrap();
    let mut slow = vms.watch_all(()).await.unwrap();
    let first = slow.next().await.unwrap();
    assert_eq!(first.event_type, VMEventType::Current);
    let change = async |n: usize| {
        let labels = BTreeMap::from([("n".to_owned(), n.to_string())]);
        vms.update(&vm.id, Some(labels), None).await.unwrap();
        // Now and then the watcher's turn comes, and it is full.
        tokio::task::yield_now().await;
    };
    for n in 1..=CHANGES {
        change(n).await;
    }
    let mut next = first.seq + 1;
    let (mut seen, mut lost) = (0, 0);
    while next <= first.seq + CHANGES as u64 {
        let event = slow.next().await.unwrap();
        if let Some(missed) = event.lost {
            assert_eq!(event.event_type, VMEventType::Lost);
            assert_eq!(missed.count, missed.next - next);
            lost += missed.count;
            next = missed.next;
        } else {
            assert_eq!(event.seq, next);
            assert_eq!(event.vm.labels["n"], (next - first.seq).to_string());
            seen += 1;
            next += 1;
        }
    }
    assert!(lost > 0);
    assert_eq!(seen + lost, CHANGES as u64);

    // Who comes back goes on where it was, or is told that it cannot.
    let now = first.seq + CHANGES as u64;
    let mut back = vms.watch_since(Some(&vm.id), (), now - 3).await.unwrap();
    for seq in now - 2..=now {
        assert_eq!(back.next().await.unwrap().seq, seq);
    }
    change(CHANGES + 1).await;
    assert_eq!(back.next().await.unwrap().seq, now + 1);
    for (since, count) in [(first.seq, CHANGES as u64 + 1), (now + 1000, 0)] {
        let mut back = vms.watch_since(None, (), since).await.unwrap();
        let missed = back.next().await.unwrap().lost.unwrap();
        assert_eq!((missed.count, missed.next), (count, now + 2));
        let present = back.next().await.unwrap();
        assert_eq!(present.event_type, VMEventType::Current);
        assert_eq!(present.vm.labels["n"], (CHANGES + 1).to_string());
    }

    // A number counts only with the store that it is of.
    for (store, event_type) in [
        (node.uuid(), VMEventType::Updated),
        ("another", VMEventType::Lost),
    ] {
        let watch = Subscription::Watch {
            vm_id: Some(vm.id.clone()),
            filters: Filters::new(),
            since: Some(now),
            store: Some(store.into()),
        };
        let mut items = node.client().subscribe(watch).await.unwrap();
        let Some(Item::Event(first)) = items.next().await else {
            panic!("an event");
        };
        assert_eq!(first.event_type, event_type, "{store}");
        let count = first.lost.map(|lost| (lost.count, lost.next));
        let lost = (event_type == VMEventType::Lost).then_some((now + 1, now + 2));
        assert_eq!(count, lost, "{store}");
    }
}

#[tokio::test]
async fn what_happened_to_a_vm_until_it_went_is_told_to_who_comes_back() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let vm = vms.create(config("web")).await.unwrap();
    let seen = vms.watch(&vm.id).await.unwrap().next().await.unwrap().seq;
    vms.start(&vm.id).await.unwrap();
    vms.stop(&vm.id, true).await.unwrap();
    vms.destroy(&vm.id).await.unwrap();
    let mut back = vms.watch_since(Some(&vm.id), (), seen).await.unwrap();
    let (mut last, mut types) = (seen, Vec::new());
    while let Some(event) = back.next().await {
        assert!(event.seq > last, "{event:?}");
        last = event.seq;
        types.push(event.event_type);
    }
    assert_eq!(back.error(), None);
    assert!(types.contains(&VMEventType::Started), "{types:?}");
    assert_eq!(types.last(), Some(&VMEventType::Destroyed));
    // Whoever has seen it all, or was never here, is told that it is not there.
    for since in [last, 0] {
        let gone = vms.watch_since(Some(&vm.id), (), since).await;
        assert_eq!(gone.is_err(), since == last, "{since}");
    }
}

#[tokio::test]
async fn a_filtered_watch_sees_vms_come_and_go() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let other = vms.create(config("other")).await.unwrap();
    let mut running = vms.watch_all([("state", "running")]).await.unwrap();
    let vm = vms.create(config("web")).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    vms.stop(&vm.id, true).await.unwrap();
    vms.destroy(&other.id).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = running.next().await.unwrap();
        if event.event_type != VMEventType::Guest {
            assert_eq!(event.vm.id, vm.id);
            told.push(event.event_type.to_string());
        }
    }
    assert_eq!(told.join(" "), "started stopping started");
}

#[tokio::test]
async fn creating_with_a_key_makes_one_vm() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let creates = (0..10).map(|_| vms.create_with_key(config("web"), "k"));
    let made = futures::future::join_all(creates).await;
    let first = made[0].as_ref().unwrap();
    assert!(made.iter().all(|vm| vm.as_ref() == Ok(first)));
    assert_eq!(vms.list(()).await.unwrap().len(), 1);
    let error = refused(vms.create_with_key(config("db"), "k").await);
    assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
    let other = vms.create_with_key(config("web"), "l").await.unwrap();
    assert_ne!(other.id, first.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_plausible() {
    for node in nodes("figures_are_plausible", |node| node).await {
        let vms = node.client().vm();
        let busy = VMConfig {
            cpus: 2,
            ..with(config("busy"), &[("spin", "true")])
        };
        let idle = with(config("idle"), &[("working-set", "0"), ("beat-hz", "10")]);
        let mut streams = Vec::new();
        let mut ids = Vec::new();
        for config in [busy, idle] {
            let vm = vms.create(config).await.unwrap();
            vms.start(&vm.id).await.unwrap();
            let interval = Duration::from_millis(200);
            streams.push(vms.stream_metrics(&vm.id, interval).await.unwrap());
            ids.push(vm.id);
        }
        // How much of a CPU a guest gets depends on what else this host does; that one which keeps two
        // busy gets more than one which sleeps does not.
        let mut tries = 0;
        loop {
            let (busy, idle) = futures::join!(streams[0].next(), async {
                vms.get_metrics(&ids[1], Duration::from_secs(300)).await
            });
            let (busy, idle) = (busy.unwrap(), idle.unwrap());
            for (one, most) in [(&busy, 200.0), (&idle, 100.0)] {
                assert!((0.0..=most).contains(&one.cpu_usage), "{one:?}");
                assert_eq!(one.memory_used + one.memory_available, 32 << 20);
                assert!(one.dirty_pages_per_second.is_some());
            }
            if busy.cpu_usage > 10.0 && busy.cpu_usage > 3.0 * idle.cpu_usage {
                break;
            }
            tries += 1;
            assert!(tries < 300, "{busy:?} {idle:?}");
        }
        for (id, mut figures) in ids.iter().zip(streams) {
            // Its memory is filled when it has been checked.
            vms.verify(id).await.unwrap();
            let whole = vms.get_metrics(id, Duration::from_secs(300)).await.unwrap();
            assert!(whole.vm_exits > 0 && whole.memory_used >= 1 << 20);
            assert_eq!(whole.stall_us, 0);
            // Figures that come after everybody's time end with the VM, too.
            let mut never = vms.stream_metrics(id, Duration::MAX).await.unwrap();
            vms.stop(id, true).await.unwrap();
            assert_eq!(never.next().await, None);
            while figures.next().await.is_some() {}
            assert_eq!(figures.error(), None);
        }
    }
}

#[tokio::test]
async fn shutdown_ends_guests_and_answers() {
    for node in nodes("shutdown_ends_guests", |node| node).await {
        let client = node.client();
        let vms = client.vm();
        let mut ids = Vec::new();
        // One that stops when asked, one that is held, and one that does not listen in time.
        for (name, beat) in [("quick", "1000"), ("held", "1000"), ("slow", "1")] {
            let vm = with(config(name), &[("beat-hz", beat)]);
            let vm = vms.create(vm).await.unwrap();
            vms.start(&vm.id).await.unwrap();
            ids.push(vm.id);
        }
        vms.pause(&ids[1]).await.unwrap();
        let mut events = vms.watch_all(()).await.unwrap();
        node.drain();
        let health = client.health().await.unwrap();
        assert_eq!(health.status, HealthStatus::Draining);
        assert_eq!((health.vms, health.vms_running), (3, 2));
        for error in [
            refused(vms.create(config("late")).await),
            refused(vms.start(&ids[0]).await),
        ] {
            let draining = matches!(error, DWCPError::Unavailable(_));
            // `start` of one that runs is refused for that.
            assert!(
                draining || matches!(error, DWCPError::InvalidOperation(_)),
                "{error}"
            );
        }
        node.shutdown(Duration::from_millis(100)).await.unwrap();
        let mut stopped = 0;
        while let Some(event) = events.next().await {
            stopped += usize::from(event.event_type == VMEventType::Stopped);
        }
        assert_eq!(stopped, 3);
        for error in [
            events.error().unwrap(),
            refused(vms.get(&ids[0]).await),
            refused(vms.list(()).await),
            refused(vms.watch_all(()).await),
            refused(client.health().await),
        ] {
            assert_eq!(
                error,
                DWCPError::Unavailable("the node was shut down".into())
            );
        }
        assert!(!client.is_connected());
        node.shutdown(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_ends_with_its_last_handle() {
    for node in nodes("a_node_ends_with_its_last_handle", |node| node).await {
        let client = node.client();
        let vm = client.vm().create(config("web")).await.unwrap();
        client.vm().start(&vm.id).await.unwrap();
        let mut events = client.vm().watch(&vm.id).await.unwrap();
        let other = node.clone();
        drop(node);
        assert!(client.is_connected());
        drop(other);
        assert!(!client.is_connected());
        let last = wait(&mut events, |event| event.vm.state == VMState::Stopped).await;
        assert_eq!(last.vm.reason.as_deref(), Some("the node was shut down"));
        assert_eq!(events.next().await, None);
        assert!(matches!(events.error(), Some(DWCPError::Unavailable(_))));
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_ends_nevertheless() {
    let node = Node::builder("node-01").backend(Backend::Sim);
    let node = node.start().await.unwrap();
    let vms = node.client().vm();
    let vm = vms.create(config("web")).await.unwrap();
    {
        let start = vms.start(&vm.id);
        tokio::pin!(start);
        // Polled once, then dropped.
        let _ = futures::poll!(&mut start);
    }
    wait_for(&vms, &vm.id, VMState::Running).await;
}

#[tokio::test]
async fn a_node_says_what_it_is() {
    let kvm = |node: &Node| node.backend() == Backend::Kvm;
    let data = tempfile::tempdir().unwrap();
    for node in nodes("a_node_says_what_it_is", |node| {
        // One for each: a directory is for one node at a time.
        let own = dwcp::model::new_uuid();
        node.labels([("rack", "7")])
            .peer("node-02", "10.0.0.2:9000")
            .listen("127.0.0.1:0")
            .data_dir(data.path().join(own))
    })
    .await
    {
        let client = node.client();
        let info = client.node_info().await.unwrap();
        assert_eq!(
            (info.name.as_str(), info.uuid.as_str()),
            (node.name(), node.uuid())
        );
        assert_eq!(info.backend, if kvm(&node) { "kvm" } else { "sim" });
        assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(info.labels["rack"], "7");
        assert_eq!(info.peers, ["node-02"]);
        let can = info.capabilities;
        assert!(can.cpu_pinning && can.cpu_quota && can.disk && !can.tpm);
        assert_eq!(info.limits.max_vms, dwcp::NodeBuilder::MAX_VMS_DEFAULT);
        assert!(info.limits.max_memory > 0 && info.cpus > 0);
        assert!(node.address().unwrap().ip().is_loopback());
        let health = client.health().await.unwrap();
        assert_eq!(health.status, HealthStatus::Healthy);
        assert_eq!(health.node, "node-01");
        // Anything can be asked in one form, too.
        assert!(client.call(Action::Node).await.is_ok());
    }
}

#[tokio::test]
async fn settings_that_are_not_allowed_are_named() {
    let sim = |name: &str| Node::builder(name).backend(Backend::Sim);
    for (builder, says) in [
        (sim("a node"), "name:"),
        (sim("n").event_ring(0), "event_ring:"),
        (sim("n").peer_timeout(Duration::ZERO), "peer_timeout:"),
        (sim("n").default_image("ubuntu"), "default_image:"),
        (sim("n").peer("b b", "x"), "peer:"),
    ] {
        let error = refused(builder.start().await);
        assert!(error.message().starts_with(says), "{error}");
    }
}
