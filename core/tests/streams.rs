//! Streams that outlive connections and nodes, and calls that are repeated: nothing is lost, nothing
//! comes twice.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dwcp::{
    Backend, Client, ClientConfig, DWCPError, Events, LostEvents, MigrationOptions, Node, VMClient,
    VMEvent, VMEventType, VMState,
};
use futures::StreamExt;
use futures::future::join_all;
use support::config;
use support::node_process::NodeProcess;
use support::proxy::Proxy;
use tokio::sync::watch;

/// The changes of the long story.
const CHANGES: u64 = 10_000;
/// VMs they are made to.
const VMS: usize = 8;
/// How many are asked for at once.
const WORKERS: usize = 64;
/// So that a mistake is a failure and no endless run.
const PATIENCE: Duration = Duration::from_secs(50);
/// The label that numbers the changes.
const LABEL: &str = "n";

/// A node in this process with simulated VMs.
async fn node(event_ring: usize, data_dir: Option<&Path>) -> Node {
    let mut builder = Node::builder("node-01")
        .backend(Backend::Sim)
        .event_ring(event_ring)
        .listen("127.0.0.1:0");
    if let Some(dir) = data_dir {
        builder = builder.data_dir(dir);
    }
    builder.start().await.unwrap()
}

/// A client that reaches a node over TCP, and does not wait long before it tries again.
async fn remote(port: u16) -> Client {
    let config = ClientConfig::new("127.0.0.1")
        .with_port(port)
        .with_tls_enabled(false)
        .with_retry_backoff(Duration::from_millis(5));
    Client::new(config).await.unwrap()
}

/// Stopped VMs.
async fn stopped(vms: &VMClient, count: usize) -> Vec<String> {
    let made = (0..count).map(|number| vms.create(config(&format!("vm-{number}"))));
    let made = join_all(made).await;
    made.into_iter().map(|vm| vm.unwrap().id).collect()
}

/// Changes a VM, which makes one event.
async fn change(vms: &VMClient, id: &str, number: u64) -> dwcp::Result<()> {
    let labels = BTreeMap::from([(LABEL.to_owned(), number.to_string())]);
    vms.update(id, Some(labels), None).await.map(drop)
}

/// Changes a VM many times, many at once.
async fn change_all(vms: &VMClient, id: &str, numbers: std::ops::Range<u64>) {
    let changes = futures::stream::iter(numbers.map(|number| change(vms, id, number)));
    let all: Vec<_> = changes.buffer_unordered(WORKERS).collect().await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}

fn number(event: &VMEvent) -> u64 {
    event.vm.labels[LABEL].parse().unwrap()
}

/// The next item, before long.
async fn next(events: &mut Events) -> VMEvent {
    let next = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
    next.unwrap_or_else(|| panic!("the stream ended: {:?}", events.error()))
}

/// The present state of so many VMs, with which a watch begins.
async fn currents(events: &mut Events, count: usize) -> Vec<VMEvent> {
    let mut all = Vec::new();
    for _ in 0..count {
        let event = next(events).await;
        assert_eq!(event.event_type, VMEventType::Current);
        all.push(event);
    }
    all
}

/// Many changes by many workers, who wait for another client when theirs fails.
struct Work {
    ids: Vec<String>,
    clients: watch::Receiver<VMClient>,
    /// Changes that were begun to be made.
    begun: AtomicU64,
    /// The number of the next try: no two have the same.
    numbers: AtomicU64,
    acknowledged: watch::Sender<BTreeSet<u64>>,
    /// Tries that failed while the node went away: they may have happened.
    unsure: Mutex<BTreeSet<u64>>,
}

impl Work {
    async fn work(self: Arc<Self>) {
        let mut clients = self.clients.clone();
        while self.begun.fetch_add(1, Ordering::Relaxed) < CHANGES {
            loop {
                let vms = clients.borrow_and_update().clone();
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                let id = &self.ids[usize::try_from(number).unwrap() % self.ids.len()];
                match change(&vms, id, number).await {
                    Ok(()) => {
                        self.acknowledged.send_modify(|all| {
                            assert!(all.insert(number));
                        });
                        break;
                    }
                    Err(DWCPError::Unavailable(_)) => {
                        self.unsure.lock().unwrap().insert(number);
                        clients.changed().await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// Bytes between the cuts: 20 of them where events pass, in the middle of a frame as likely as not, and
/// between those some where a connection has only begun.
fn plan() -> Vec<usize> {
    let mut plan = Vec::new();
    for cut in 0..20 {
        plan.push(9_973 + 14_741 * cut);
        match cut {
            // Before the answer to AUTH, in the middle of it, and about where the stream is opened.
            3 => plan.push(1),
            7 => plan.push(60),
            11 => plan.extend([350, 450]),
            _ => {}
        }
    }
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_survive_twenty_cuts_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ring = 2 * usize::try_from(CHANGES).unwrap();
    let first = node(ring, Some(dir.path())).await;
    let proxy = Proxy::start(first.address().unwrap()).await;
    let ids = stopped(&first.client().vm(), VMS).await;

    let client = remote(proxy.port).await;
    let mut events = client.vm().watch_all(()).await.unwrap();
    let began = currents(&mut events, VMS).await[0].seq;
    let cuts = plan();
    proxy.cut_after(cuts.iter().copied());

    let (clients, of_workers) = watch::channel(first.client().vm());
    let work = Arc::new(Work {
        ids: ids.clone(),
        clients: of_workers,
        begun: AtomicU64::new(0),
        numbers: AtomicU64::new(0),
        acknowledged: watch::Sender::new(BTreeSet::new()),
        unsure: Mutex::default(),
    });
    let mut progress = work.acknowledged.subscribe();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(Arc::clone(&work).work()))
        .collect();

    let reader = tokio::spawn(async move {
        let mut seen = BTreeSet::new();
        let mut last = began;
        loop {
            let event = next(&mut events).await;
            assert_eq!(event.event_type, VMEventType::Updated, "{event:?}");
            // Every event is about one of these VMs, so there is no gap.
            assert_eq!(event.seq, last + 1);
            last = event.seq;
            let number = number(&event);
            if number == u64::MAX {
                return seen;
            }
            assert!(seen.insert(number), "{number} came twice");
        }
    });

    // In the middle, with changes under way, the node ends and another begins where it was.
    let half = |all: &BTreeSet<u64>| all.len() as u64 >= CHANGES / 2;
    drop(progress.wait_for(half).await.unwrap());
    first.shutdown(Duration::from_secs(10)).await.unwrap();
    drop(first);
    let second = node(ring, Some(dir.path())).await;
    proxy.lead_to(second.address());
    clients.send(second.client().vm()).unwrap();
    for worker in workers {
        worker.await.unwrap();
    }
    change(&second.client().vm(), &ids[0], u64::MAX)
        .await
        .unwrap();

    let seen = reader.await.unwrap();
    assert_eq!(proxy.cuts(), cuts.len(), "not all cuts were made");
    let acknowledged = progress.borrow().clone();
    assert_eq!(acknowledged.len() as u64, CHANGES);
    let missing: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}");
    let unsure = work.unsure.lock().unwrap();
    let strange: Vec<_> = seen.difference(&acknowledged).collect();
    assert!(
        strange.iter().all(|number| unsure.contains(number)),
        "nobody made them: {strange:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_told_how_many_it_lost() {
    let node = node(64, None).await;
    let vms = node.client().vm();
    let ids = stopped(&vms, 1).await;
    let client = remote(node.address().unwrap().port()).await;
    let mut of_all = client.vm().watch_all(()).await.unwrap();
    let mut of_one = client.vm().watch(&ids[0]).await.unwrap();
    let began = currents(&mut of_all, 1).await[0].seq;
    assert_eq!(currents(&mut of_one, 1).await[0].seq, began);

    // More than a ring, a window and all that is between them.
    const MADE: u64 = 3000;
    change_all(&vms, &ids[0], 0..MADE - 1).await;
    change(&vms, &ids[0], u64::MAX).await.unwrap();

    for events in [&mut of_all, &mut of_one] {
        let (mut seen, mut lost, mut last) = (0, 0, began);
        loop {
            let event = next(events).await;
            if let Some(LostEvents { count, next, .. }) = event.lost {
                assert_eq!(event.event_type, VMEventType::Lost);
                assert_eq!(last + count + 1, next, "seq says another number");
                assert!(count > 0);
                lost += count;
                last = next - 1;
                continue;
            }
            assert_eq!(
                (event.event_type.clone(), event.seq),
                (VMEventType::Updated, last + 1)
            );
            seen += 1;
            last = event.seq;
            if number(&event) == u64::MAX {
                break;
            }
        }
        assert!(seen > 0 && lost > 0, "{seen} seen, {lost} lost");
        assert_eq!(seen + lost, MADE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_comes_back_too_late_is_told_how_many_it_lost() {
    let node = node(64, None).await;
    let vms = node.client().vm();
    let ids = stopped(&vms, 2).await;
    let proxy = Proxy::start(node.address().unwrap()).await;
    let client = remote(proxy.port).await;
    let mut events = client.vm().watch_all(()).await.unwrap();
    currents(&mut events, 2).await;
    change(&vms, &ids[0], 1).await.unwrap();
    let before = next(&mut events).await;
    assert_eq!(number(&before), 1);

    // Nothing of what follows can reach it.
    proxy.lead_to(None);
    proxy.cut();
    const MISSED: u64 = 500;
    change_all(&vms, &ids[0], 2..MISSED + 1).await;
    change(&vms, &ids[1], 7).await.unwrap();
    proxy.lead_to(node.address());

    let lost = next(&mut events).await;
    assert_eq!(lost.event_type, VMEventType::Lost);
    let lost = lost.lost.unwrap();
    assert_eq!(
        (lost.count, lost.next),
        (MISSED, before.seq + MISSED + 1),
        "{lost:?}"
    );
    // How things are now follows, and then what happens.
    let now = currents(&mut events, 2).await;
    let second = now.iter().find(|event| event.vm.id == ids[1]).unwrap();
    assert_eq!(number(second), 7);
    change(&vms, &ids[1], 8).await.unwrap();
    let event = next(&mut events).await;
    assert_eq!((event.seq, number(&event)), (lost.next, 8));

    // Whoever is back in time misses nothing.
    proxy.cut();
    change_all(&vms, &ids[0], 0..50).await;
    for missed in 1..=50 {
        let event = next(&mut events).await;
        assert_eq!(
            (event.event_type, event.seq),
            (VMEventType::Updated, lost.next + missed)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_follows_a_vm_that_moves_also_over_another_connection() {
    let start = async |name| {
        let node = Node::builder(name).backend(Backend::Sim);
        node.listen("127.0.0.1:0").start().await.unwrap()
    };
    let (here, there) = (start("node-01").await, start("node-02").await);
    for (one, other) in [(&here, &there), (&there, &here)] {
        let address = other.address().unwrap().to_string();
        one.add_peer(other.name(), address).unwrap();
    }
    let proxy = Proxy::start(here.address().unwrap()).await;
    let client = remote(proxy.port).await;
    let vms = client.vm();
    let vm = vms.create(config("traveller")).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    // So that the events here have higher numbers than those there.
    change_all(&here.client().vm(), &vm.id, 1000..1100).await;
    let mut events = vms.watch(&vm.id).await.unwrap();
    let before = currents(&mut events, 1).await[0].clone();
    assert_eq!(before.store.as_deref(), Some(here.uuid()));

    let options = MigrationOptions {
        encrypt_transport: false,
        max_downtime: 10_000,
        ..MigrationOptions::default()
    };
    vms.migrate(&vm.id, "node-02", options).await.unwrap();
    let arrived = loop {
        let event = next(&mut events).await;
        if event.event_type == VMEventType::Current {
            break event;
        }
    };
    assert_eq!(arrived.store.as_deref(), Some(there.uuid()));
    assert_eq!(arrived.vm.node, "node-02");
    assert!(arrived.seq < before.seq, "{} here", before.seq);
    // The node it left answers for it.
    let now = vms.get(&vm.id).await.unwrap();
    assert_eq!(
        (now.state, now.node.as_str()),
        (VMState::Running, "node-02")
    );

    let mut last = arrived.seq;
    for round in 0..3 {
        if round > 0 {
            proxy.cut();
        }
        let numbers = 20 * round..20 * (round + 1);
        for number in numbers.clone() {
            change(&there.client().vm(), &vm.id, number).await.unwrap();
        }
        for wanted in numbers {
            let event = loop {
                let event = next(&mut events).await;
                assert!(event.seq > last, "{event:?}");
                last = event.seq;
                assert!(
                    !matches!(event.event_type, VMEventType::Current | VMEventType::Lost),
                    "it did not go on where it was: {event:?}"
                );
                if event.event_type == VMEventType::Updated {
                    break event;
                }
            };
            assert_eq!(number(&event), wanted, "round {round}");
        }
    }
    // What it changes through the node it left happens where it is.
    change(&vms, &vm.id, 2000).await.unwrap();
    assert_eq!(
        there.client().vm().get(&vm.id).await.unwrap().labels[LABEL],
        "2000"
    );
    vms.stop(&vm.id, true).await.unwrap();
    vms.destroy(&vm.id).await.unwrap();
    loop {
        let event = next(&mut events).await;
        if event.event_type == VMEventType::Destroyed {
            break;
        }
    }
    assert!(events.next().await.is_none());
    assert_eq!(events.error(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_go_on_over_a_broken_connection() {
    let node = node(64, None).await;
    let proxy = Proxy::start(node.address().unwrap()).await;
    let client = remote(proxy.port).await;
    let vms = client.vm();
    let vm = vms.create(config("measured")).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let interval = Duration::from_millis(20);
    let mut figures = vms.stream_metrics(&vm.id, interval).await.unwrap();
    let mut last = None;
    for round in 0..4 {
        if round > 0 {
            proxy.cut();
        }
        for _ in 0..3 {
            let next = tokio::time::timeout(PATIENCE, figures.next()).await;
            let Some(metrics) = next.unwrap() else {
                panic!("round {round}: {:?}", figures.error());
            };
            assert_eq!(metrics.memory_used + metrics.memory_available, 32 << 20);
            assert!(last < Some(metrics.timestamp), "round {round}");
            last = Some(metrics.timestamp);
        }
    }
    assert!(client.metrics().connections_total >= 4);
    // Its end is the VM's.
    vms.stop(&vm.id, true).await.unwrap();
    while figures.next().await.is_some() {}
    assert_eq!(figures.error(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_with_a_key_makes_one_vm_over_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let data_dir = dir.path().join("data");
        let arguments = ["--data-dir".into(), data_dir.into_os_string()];
        NodeProcess::start(Backend::Sim, &arguments)
    };
    let port = |process: &NodeProcess| {
        let address: SocketAddr = process.address.parse().unwrap();
        address.port()
    };
    let mut process = start();
    let mut client = remote(port(&process)).await;
    let mut ids = BTreeSet::new();
    for round in 0..4 {
        let (name, key) = (format!("vm-{round}"), format!("key-{round}"));
        // Also before the answer is there, or while the request is on its way.
        let answer = match round {
            0 | 1 => {
                let vm = client.vm().create_with_key(config(&name), &key).await;
                Some(vm.unwrap())
            }
            _ => {
                let vms = client.vm();
                let mut create = Box::pin(vms.create_with_key(config(&name), &key));
                // Sent, or about to be.
                assert!(futures::poll!(&mut create).is_pending());
                if round == 3 {
                    tokio::task::yield_now().await;
                }
                None
            }
        };
        // Kill -9.
        drop(process);
        process = start();
        client = remote(port(&process)).await;
        let vms = client.vm();
        let vm = vms.create_with_key(config(&name), &key).await.unwrap();
        if let Some(first) = answer {
            assert_eq!(vm, first, "the answer is another");
        }
        let again = vms.create_with_key(config(&name), &key).await.unwrap();
        assert_eq!(again, vm);
        let other = vms.create_with_key(config("another"), &key).await;
        assert!(
            matches!(other, Err(DWCPError::InvalidOperation(_))),
            "{other:?}"
        );
        ids.insert(vm.id.clone());
        let listed = vms.list(()).await.unwrap();
        assert!(listed.iter().all(|vm| vm.state == VMState::Stopped));
        let listed: BTreeSet<_> = listed.into_iter().map(|vm| vm.id).collect();
        assert_eq!(listed, ids, "round {round}");
    }
}
