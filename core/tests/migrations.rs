//! Moving VMs between nodes, as a user does. A binary of its own: it counts threads, files and
//! mappings.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dwcp::{
    Backend, DWCPError, MigrationMode, MigrationOptions, MigrationState, MigrationStatus, Node,
    NodeLimits, SameHost, VMClient, VMConfig, VMEventType, VMState,
};
use futures::StreamExt;
use support::{config, skipped, started, wait, with};
use tokio::sync::{Mutex, MutexGuard};

/// The tests of this binary take turns: what one leaves behind must not be another's.
static TURN: Mutex<()> = Mutex::const_new(());

/// Two nodes that know each other, for each back end that this host has.
async fn pairs(test: &str) -> (Vec<[Node; 2]>, MutexGuard<'static, ()>) {
    let turn = TURN.lock().await;
    let mut all = Vec::new();
    for backend in [Backend::Sim, Backend::Kvm] {
        match node("node-01", backend, NodeLimits::default()).await {
            Ok(a) => {
                let b = node("node-02", backend, NodeLimits::default())
                    .await
                    .unwrap();
                introduce(&a, &b);
                all.push([a, b]);
            }
            Err(DWCPError::Unsupported(reason)) if backend == Backend::Kvm => {
                skipped(&format!("{test} on KVM"), &reason);
            }
            Err(error) => panic!("{backend:?}: {error}"),
        }
    }
    (all, turn)
}

async fn node(name: &str, backend: Backend, limits: NodeLimits) -> dwcp::Result<Node> {
    let node = Node::builder(name).backend(backend).limits(limits);
    node.listen("127.0.0.1:0").start().await
}

fn introduce(a: &Node, b: &Node) {
    for (one, other) in [(a, b), (b, a)] {
        let address = other.address().unwrap().to_string();
        one.add_peer(other.name(), address).unwrap();
    }
}

/// Between nodes without TLS. They are on one host, and most tests are about copying.
fn plain() -> MigrationOptions {
    MigrationOptions {
        same_host: SameHost::Never,
        encrypt_transport: false,
        verify_checksum: false,
        max_downtime: 5_000,
        ..MigrationOptions::default()
    }
}

/// Moves a VM and waits for the end.
async fn moved(vms: &VMClient, id: &str, to: &Node, options: MigrationOptions) -> MigrationStatus {
    let migration = vms.migrate(id, to.name(), options).await.unwrap();
    let progress = vms.migration_progress(&migration.id).await.unwrap();
    let all: Vec<MigrationStatus> = progress.collect().await;
    all.into_iter().next_back().unwrap()
}

fn busy(cpus: u32) -> VMConfig {
    let busy = [
        ("fill", "8388608"),
        ("working-set", "2097152"),
        ("dirty-pages-per-second", "100000"),
        ("beat-hz", "1000"),
    ];
    VMConfig {
        cpus,
        ..with(config("traveller"), &busy)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_moves_and_the_node_it_left_answers_for_it() {
    let (pairs, _turn) = pairs("a_vm_moves").await;
    for [a, b] in &pairs {
        let (here, there) = (a.client().vm(), b.client().vm());
        let vm = started(&here, busy(2)).await;
        let mut events = here.watch(&vm.id).await.unwrap();
        let status = moved(&here, &vm.id, b, plain()).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!((status.progress, status.error.clone()), (100.0, None));
        assert_eq!(
            (status.source_node.as_str(), status.target_node.as_str()),
            ("node-01", "node-02")
        );
        assert!(status.bytes_sent >= 8 << 20 && status.bytes.data >= 8 << 20);
        assert!(status.downtime_us > 0 && status.downtime >= status.downtime_us / 1000);
        assert!(!status.rounds.is_empty());

        let now = there.get(&vm.id).await.unwrap();
        assert_eq!(
            (now.state, now.node.as_str()),
            (VMState::Running, "node-02")
        );
        assert_eq!((now.name, now.created_at), (vm.name, vm.created_at));
        let report = there.verify(&vm.id).await.unwrap();
        assert!(report.verified, "{report:?}");

        // What it printed came along.
        let mut console = there.console(&vm.id).await.unwrap();
        let printed = console.next().await.unwrap();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        assert!(printed.contains("dwcp/pulse: memory filled"), "{printed}");
        drop(console);

        let moving = wait(&mut events, |e| e.event_type == VMEventType::Migrating).await;
        assert_eq!(moving.vm.state, VMState::Migrating);
        wait(&mut events, |e| e.event_type == VMEventType::Migrated).await;
        let on_there = wait(&mut events, |e| e.event_type == VMEventType::Current).await;
        assert_eq!(on_there.vm.node, "node-02");
        // Whoever was away meanwhile hears what happened here, and then what happens there.
        let since = here.watch_since(Some(&vm.id), (), moving.seq).await;
        let away: Vec<_> = since.unwrap().take(2).collect().await;
        let types: Vec<_> = away.iter().map(|event| &event.event_type).collect();
        assert_eq!(types, [&VMEventType::Migrated, &VMEventType::Current]);
        let forwarded = here.get(&vm.id).await.unwrap();
        assert_eq!(
            (forwarded.state, forwarded.node.as_str()),
            (VMState::Running, "node-02")
        );
        assert_eq!(here.list_migrations().await.unwrap(), vec![status.clone()]);
        assert_eq!(here.get_migration_status(&status.id).await.unwrap(), status);
        let late = here.cancel_migration(&status.id).await;
        assert!(
            matches!(late, Err(DWCPError::InvalidOperation(_))),
            "{late:?}"
        );

        // It lives on there like any other.
        there.stop(&vm.id, false).await.unwrap();
        there.destroy(&vm.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_vm_arrives_paused() {
    let (pairs, _turn) = pairs("a_paused_vm").await;
    for [a, b] in &pairs {
        let (here, there) = (a.client().vm(), b.client().vm());
        let vm = started(&here, busy(1)).await;
        here.pause(&vm.id).await.unwrap();
        let before = here.guest_report(&vm.id).await.unwrap();
        let checked = MigrationOptions {
            verify_checksum: true,
            ..plain()
        };
        let status = moved(&here, &vm.id, b, checked).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(there.get(&vm.id).await.unwrap().state, VMState::Paused);
        let after = there.guest_report(&vm.id).await.unwrap();
        assert_eq!(before.beats, after.beats);
        there.resume(&vm.id).await.unwrap();
        assert!(there.verify(&vm.id).await.unwrap().verified);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_by_name_and_the_guest_runs_on() {
    let (pairs, _turn) = pairs("what_cannot_be_done").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let vm = started(&vms, busy(1)).await;
        let refused = async |target: &str, options: MigrationOptions| {
            let error = vms.migrate(&vm.id, target, options).await.unwrap_err();
            assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
            error.to_string()
        };
        type Ask = fn(&mut MigrationOptions);
        let table: [(&str, Ask); 1] = [("encrypt_transport", |o| o.encrypt_transport = true)];
        for (name, ask) in table {
            let mut options = plain();
            ask(&mut options);
            let text = refused(b.name(), options).await;
            assert!(text.contains(name), "{text}");
        }
        let text = refused("node-09", plain()).await;
        assert!(
            text.contains("node-09") && text.contains("node-02"),
            "{text}"
        );
        let text = refused(a.name(), plain()).await;
        assert!(text.contains("already"), "{text}");
        assert!(
            vms.list_migrations().await.unwrap().is_empty(),
            "none of them began"
        );
    }
}

/// As a user asks who says nothing of it.
fn by_default() -> MigrationOptions {
    MigrationOptions {
        same_host: SameHost::Auto,
        ..plain()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_one_host_memory_is_handed_over() {
    let (pairs, _turn) = pairs("within_one_host").await;
    let second = Duration::from_secs(1);
    for [a, b] in &pairs {
        let (here, there) = (a.client().vm(), b.client().vm());
        let vm = started(&here, busy(2)).await;
        let used = here.get_metrics(&vm.id, second).await.unwrap().memory_used;
        let plan = here.plan_migration(&vm.id, b.name(), by_default()).await;
        let plan = plan.unwrap();
        assert_eq!((plan.mode, plan.misfits), (MigrationMode::SameHost, vec![]));
        let status = moved(&here, &vm.id, b, by_default()).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(status.mode, MigrationMode::SameHost);
        assert!(status.bytes_sent > 0 && status.bytes_sent < 1 << 20);
        assert_eq!((status.bytes.data, status.rounds.len()), (0, 0));
        assert_eq!(here.get_migration_status(&status.id).await.unwrap(), status);
        let report = there.verify(&vm.id).await.unwrap();
        assert!(report.verified, "{report:?}");
        let now = there.get_metrics(&vm.id, second).await.unwrap().memory_used;
        assert!(now >= used, "{used} bytes before, {now} now");

        // Paused, it comes back so; and what is done to it then is as with any other.
        there.pause(&vm.id).await.unwrap();
        let status = moved(&there, &vm.id, a, by_default()).await;
        assert_eq!(status.mode, MigrationMode::SameHost, "{status:?}");
        assert_eq!(here.get(&vm.id).await.unwrap().state, VMState::Paused);
        here.resume(&vm.id).await.unwrap();
        assert!(here.verify(&vm.id).await.unwrap().verified);
        here.reset(&vm.id).await.unwrap();
        assert!(here.verify(&vm.id).await.unwrap().verified);

        let status = moved(&here, &vm.id, b, by_default()).await;
        assert_eq!(status.mode, MigrationMode::SameHost, "{status:?}");
        there.stop(&vm.id, true).await.unwrap();
        // What is stopped has no memory.
        let stopped = MigrationOptions {
            offline: true,
            ..by_default()
        };
        let status = moved(&there, &vm.id, a, stopped).await;
        assert_eq!(status.mode, MigrationMode::Offline, "{status:?}");
        here.destroy(&vm.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_a_vm_has_to_itself_is_copied_or_refused_by_name() {
    let (pairs, _turn) = pairs("memory_to_itself").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let huge = VMConfig {
            huge_pages: true,
            ..busy(1)
        };
        let vm = match vms.create(huge).await {
            Ok(vm) => vm,
            Err(DWCPError::Unsupported(reason)) => {
                skipped("memory_that_a_vm_has_to_itself", &reason);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        vms.start(&vm.id).await.unwrap();
        assert!(vms.verify(&vm.id).await.unwrap().verified);
        let required = MigrationOptions {
            same_host: SameHost::Require,
            ..plain()
        };
        let refused = vms.migrate(&vm.id, b.name(), required).await.unwrap_err();
        assert!(matches!(refused, DWCPError::Unsupported(_)), "{refused}");
        let refused = refused.to_string();
        assert!(
            refused.contains("same_host: `require`") && refused.contains("huge_pages"),
            "{refused}"
        );
        assert!(vms.list_migrations().await.unwrap().is_empty());
        let status = moved(&vms, &vm.id, b, by_default()).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(status.mode, MigrationMode::Precopy);
        let there = b.client().vm();
        assert!(there.verify(&vm.id).await.unwrap().verified);
        there.stop(&vm.id, true).await.unwrap();
        there.destroy(&vm.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_tells_a_guest_that_writes_from_one_that_does_not() {
    let (pairs, _turn) = pairs("a_plan_tells").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let quiet = with(
            busy(1),
            &[("dirty-pages-per-second", "10"), ("beat-hz", "10")],
        );
        let idle = started(&vms, quiet).await;
        let vm = started(&vms, busy(1)).await;
        let plan = async |id: &str, options| vms.plan_migration(id, b.name(), options).await;
        let (idle, plan_of) = (
            plan(&idle.id, plain()).await.unwrap(),
            plan(&vm.id, plain()).await,
        );
        let busy = plan_of.unwrap();
        assert!(
            idle.dirty_rate < busy.dirty_rate / 10.0,
            "{idle:?} {busy:?}"
        );
        assert!(busy.misfits.is_empty() && busy.mode == MigrationMode::Precopy);
        assert!(
            busy.downtime_us > 0 && busy.total_us > busy.downtime_us,
            "{busy:?}"
        );
        // A link that takes a page a second moves nothing in time.
        let slow = MigrationOptions {
            bandwidth: 4096,
            ..plain()
        };
        let slow = plan(&vm.id, slow).await.unwrap();
        assert!(slow.downtime_us > 5_000_000, "{slow:?}");
        // Paused, it is down for all of the copying.
        vms.pause(&vm.id).await.unwrap();
        let paused = plan(&vm.id, plain()).await.unwrap();
        assert_eq!(
            (paused.dirty_rate, paused.total_us),
            (0.0, paused.downtime_us)
        );
        vms.resume(&vm.id).await.unwrap();
        // It was looked at, and nothing else: it runs here, nothing is there, and it can be moved.
        assert!(b.client().vm().list(()).await.unwrap().is_empty());
        assert!(vms.list_migrations().await.unwrap().is_empty());
        let status = moved(&vms, &vm.id, b, plain()).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert!(b.client().vm().verify(&vm.id).await.unwrap().verified);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_beside_a_migration_lose_nothing() {
    let (pairs, _turn) = pairs("plans_beside").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let vm = started(&vms, busy(2)).await;
        // Watched from before the migration begins until it is under way, again and again.
        let plans: Vec<_> = (0..4)
            .map(|_| {
                let (vms, id, to) = (vms.clone(), vm.id.clone(), b.name().to_owned());
                tokio::spawn(async move { vms.plan_migration(&id, &to, plain()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(150)).await;
        let slow = MigrationOptions {
            bandwidth: 32 << 20,
            ..plain()
        };
        let status = moved(&vms, &vm.id, b, slow).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        for plan in plans {
            plan.await.unwrap().unwrap();
        }
        assert!(b.client().vm().verify(&vm.id).await.unwrap().verified);
    }
}

/// As a user asks for it.
fn offline() -> MigrationOptions {
    MigrationOptions {
        offline: true,
        ..plain()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_vm_moves_with_its_record_and_starts_there() {
    let (pairs, _turn) = pairs("a_stopped_vm_moves").await;
    for [a, b] in &pairs {
        let (here, there) = (a.client().vm(), b.client().vm());
        let vm = here.create(busy(1)).await.unwrap();
        let error = here.migrate(&vm.id, b.name(), plain()).await.unwrap_err();
        assert!(error.to_string().contains("offline"), "{error}");
        let plan = here
            .plan_migration(&vm.id, b.name(), offline())
            .await
            .unwrap();
        assert_eq!((plan.downtime_us, plan.mode), (0, MigrationMode::Offline));
        let status = moved(&here, &vm.id, b, offline()).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(
            (status.mode, status.bytes_sent),
            (MigrationMode::Offline, 0)
        );
        assert_eq!(status.downtime, 0);
        // The node that it left answers for it.
        let arrived = here.get(&vm.id).await.unwrap();
        assert_eq!(
            (arrived.state, arrived.node.as_str()),
            (VMState::Stopped, b.name())
        );
        assert_eq!(arrived.config, vm.config);
        there.start(&vm.id).await.unwrap();
        // Running, it gets stopped, and goes back.
        let status = moved(&there, &vm.id, a, offline()).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        let back = there.get(&vm.id).await.unwrap();
        assert_eq!(
            (back.state, back.node.as_str()),
            (VMState::Stopped, a.name())
        );
        here.start(&vm.id).await.unwrap();
        assert_eq!(here.get(&vm.id).await.unwrap().state, VMState::Running);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_vm_that_is_not_taken_stays_stopped() {
    let (pairs, _turn) = pairs("a_stopped_vm_that").await;
    for [a, _] in &pairs {
        let mut none = NodeLimits::default();
        none.max_vms = 1;
        let c = node("node-03", a.backend(), none).await.unwrap();
        introduce(a, &c);
        c.client().vm().create(config("alone")).await.unwrap();
        let vms = a.client().vm();
        let vm = vms.create(busy(1)).await.unwrap();
        let status = moved(&vms, &vm.id, &c, offline()).await;
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        assert!(status.error.unwrap().contains("max_vms"));
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
        vms.start(&vm.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_migration_more_than_a_node_allows_is_refused() {
    const PLACES: u32 = 4;
    let _turn = TURN.lock().await;
    for direction in ["max_migrations_out", "max_migrations_in"] {
        let (mut ours, mut theirs) = (NodeLimits::default(), NodeLimits::default());
        match direction {
            "max_migrations_out" => ours.max_migrations_out = PLACES,
            _ => theirs.max_migrations_in = PLACES,
        }
        let a = node("node-01", Backend::Sim, ours).await.unwrap();
        let b = node("node-02", Backend::Sim, theirs).await.unwrap();
        introduce(&a, &b);
        let vms = a.client().vm();
        let other = started(&vms, config("other")).await;
        let mut slow_ones = Vec::new();
        for _ in 0..PLACES {
            slow_ones.push(started(&vms, busy(1)).await);
        }
        // Half a minute for the 8 MiB of each.
        let slow = MigrationOptions {
            bandwidth: 256 << 10,
            ..plain()
        };
        let mut begun = Vec::new();
        for one in &slow_ones {
            let migration = vms.migrate(&one.id, b.name(), slow.clone()).await.unwrap();
            let mut progress = vms.migration_progress(&migration.id).await.unwrap();
            while progress.next().await.unwrap().state != MigrationState::Running {}
            begun.push(migration);
        }
        let refused = match vms.migrate(&other.id, b.name(), plain()).await {
            Err(DWCPError::ResourceLimit(text)) => text,
            Err(error) => panic!("{error}"),
            Ok(second) => {
                let mut progress = vms.migration_progress(&second.id).await.unwrap();
                let mut last = second;
                while let Some(status) = progress.next().await {
                    last = status;
                }
                assert_eq!(last.state, MigrationState::Failed, "{last:?}");
                last.error.unwrap()
            }
        };
        assert!(refused.contains(direction), "{refused}");
        assert!(
            refused.contains(&format!("{PLACES} migrations")),
            "{refused}"
        );
        assert_eq!(vms.get(&other.id).await.unwrap().state, VMState::Running);
        // Nothing of it is there, and the others go on.
        let there = b.client().vm().list(()).await.unwrap();
        assert!(there.iter().all(|vm| vm.id != other.id), "{there:?}");
        for migration in &begun {
            let status = vms.get_migration_status(&migration.id).await.unwrap();
            assert_eq!(status.state, MigrationState::Running, "{status:?}");
        }
        // Its place is free again when it is over.
        vms.cancel_migration(&begun[0].id).await.unwrap();
        let gone = Instant::now() + Duration::from_secs(30);
        loop {
            match vms.migrate(&other.id, b.name(), plain()).await {
                Ok(second) => {
                    let mut progress = vms.migration_progress(&second.id).await.unwrap();
                    let mut last = second;
                    while let Some(status) = progress.next().await {
                        last = status;
                    }
                    if last.state == MigrationState::Completed {
                        break;
                    }
                    // The other side hears of the end a moment later.
                    assert!(last.error.unwrap().contains(direction));
                }
                Err(error) => assert!(error.to_string().contains(direction), "{error}"),
            }
            assert!(Instant::now() < gone, "no place came free");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_moves_everything_away_and_says_what_became_of_it() {
    let (pairs, _turn) = pairs("a_drained_node").await;
    for [a, b] in &pairs {
        let mut one = NodeLimits::default();
        one.max_vms = 1;
        let c = node("node-03", a.backend(), one).await.unwrap();
        introduce(a, &c);
        let vms = a.client().vm();
        let running = started(&vms, busy(1)).await;
        let paused = started(&vms, busy(1)).await;
        vms.pause(&paused.id).await.unwrap();
        let stopped = vms.create(busy(1)).await.unwrap();
        let more = vms.create(busy(1)).await.unwrap();
        let none: [&str; 0] = [];
        for (targets, word) in [(&none[..], "targets"), (&["node-09"][..], "node-09")] {
            let error = a.drain_to(targets.to_vec(), plain()).await.unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        // Nothing has begun: it takes VMs still.
        let extra = vms.create(busy(1)).await.unwrap();
        vms.destroy(&extra.id).await.unwrap();
        let drained = a.drain_to([b.name(), c.name()], plain()).await.unwrap();
        let ids: Vec<_> = drained.iter().map(|own| own.vm_id.as_str()).collect();
        assert_eq!(ids, [&running.id, &paused.id, &stopped.id, &more.id]);
        for (own, state) in drained.iter().zip([
            VMState::Running,
            VMState::Paused,
            VMState::Stopped,
            VMState::Stopped,
        ]) {
            assert_eq!(own.error, None, "{own:?}");
            let vm = vms.get(&own.vm_id).await.unwrap();
            assert_eq!(own.node.as_deref(), Some(vm.node.as_str()), "{own:?}");
            assert_eq!(vm.state, state, "{own:?}");
            let migration = own.migration.as_ref().unwrap();
            assert_eq!(migration.state, MigrationState::Completed);
        }
        // They took turns, and the one with room for one VM was passed over then.
        let nodes: Vec<_> = drained
            .iter()
            .map(|own| own.node.clone().unwrap())
            .collect();
        assert_eq!(nodes, ["node-02", "node-03", "node-02", "node-02"]);
        assert!(vms.create(busy(1)).await.is_err(), "it is drained");
        assert!(vms.list(()).await.unwrap().is_empty());
        // Back is no way: the node that is drained takes none, and the VM stays where it is.
        let back = b.drain_to([a.name()], plain()).await.unwrap();
        assert_eq!(back.len(), 3);
        for own in &back {
            assert_eq!(own.node, None, "{own:?}");
            assert!(own.error.as_ref().unwrap().contains("draining"), "{own:?}");
        }
        assert!(b.client().vm().verify(&running.id).await.unwrap().verified);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_names_what_does_not_fit() {
    let (pairs, _turn) = pairs("a_plan_names").await;
    for [a, _] in &pairs {
        let mut small = NodeLimits::default();
        small.max_memory = 16 << 20;
        let c = Node::builder("node-03").backend(a.backend());
        let c = c.listen("127.0.0.1:0").limits(small).start().await.unwrap();
        introduce(a, &c);
        let vms = a.client().vm();
        let vm = started(&vms, busy(1)).await;
        let plan = vms.plan_migration(&vm.id, c.name(), plain()).await.unwrap();
        let kinds: Vec<&str> = plan.misfits.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["room"], "{plan:?}");
        assert!(
            plan.misfits[0].to_string().contains("max_memory"),
            "{plan:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misfit_is_named_before_anything_moves() {
    let (pairs, _turn) = pairs("a_misfit").await;
    for [a, _] in &pairs {
        let mut small = NodeLimits::default();
        small.max_memory = 16 << 20;
        let small = node("small", a.backend(), small).await.unwrap();
        introduce(a, &small);
        let mut misfits = vec![(small, "max_memory")];
        if a.backend() == Backend::Kvm {
            let other = node("other", Backend::Sim, NodeLimits::default())
                .await
                .unwrap();
            introduce(a, &other);
            misfits.push((other, "backend"));
        }
        let vms = a.client().vm();
        let vm = started(&vms, busy(1)).await;
        for (target, name) in &misfits {
            let status = moved(&vms, &vm.id, target, plain()).await;
            assert_eq!(status.state, MigrationState::Failed);
            let error = status.error.unwrap();
            assert!(
                error.contains("does not fit") && error.contains(name),
                "{error}"
            );
            assert_eq!((status.bytes_sent, status.downtime_us), (0, 0));
            let now = vms.get(&vm.id).await.unwrap();
            assert_eq!(
                (now.state, now.node.as_str()),
                (VMState::Running, "node-01")
            );
            assert!(vms.verify(&vm.id).await.unwrap().verified);
            assert!(target.client().vm().list(()).await.unwrap().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_moves_is_held_and_a_cancel_gives_it_back() {
    let (pairs, _turn) = pairs("a_vm_that_moves_is_held").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let vm = started(&vms, busy(1)).await;
        // Slow enough to be caught in the middle: 8 MiB at 1 MiB/s.
        let slow = MigrationOptions {
            bandwidth: 1 << 20,
            ..plain()
        };
        let first = vms.migrate(&vm.id, b.name(), slow.clone()).await.unwrap();
        let again = vms
            .migrate(&vm.id, b.name(), slow.clone())
            .await
            .unwrap_err();
        assert!(again.to_string().contains(&first.id), "{again}");
        assert!(vms.pause(&vm.id).await.is_err());
        assert!(
            b.client().vm().start(&vm.id).await.is_err(),
            "not there yet"
        );
        // Nobody is in doubt who has it.
        let nothing = vms.resolve_migration(&first.id, false).await.unwrap_err();
        assert!(
            matches!(&nothing, DWCPError::InvalidOperation(why) if why.contains(&first.id)),
            "{nothing}"
        );
        let status = vms.cancel_migration(&first.id).await.unwrap();
        assert_eq!(
            vms.resolve_migration(&first.id, false).await.unwrap().state,
            MigrationState::Cancelled
        );
        assert_eq!(
            (status.state, status.error),
            (MigrationState::Cancelled, None)
        );
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
        assert!(vms.verify(&vm.id).await.unwrap().verified);
        let forgotten = async {
            while !b.client().vm().list(()).await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), forgotten)
            .await
            .unwrap();

        // A stop cancels it first.
        let second = vms.migrate(&vm.id, b.name(), slow).await.unwrap();
        vms.stop(&vm.id, true).await.unwrap();
        let status = vms.get_migration_status(&second.id).await.unwrap();
        assert_eq!(status.state, MigrationState::Cancelled);
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
        vms.destroy(&vm.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_out_ends_a_migration_that_takes_too_long() {
    let (pairs, _turn) = pairs("a_time_out").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let vm = started(&vms, busy(1)).await;
        let limited = MigrationOptions {
            bandwidth: 1 << 20,
            timeout: Some(Duration::from_millis(300)),
            ..plain()
        };
        let status = moved(&vms, &vm.id, b, limited).await;
        assert_eq!(status.state, MigrationState::Failed);
        assert!(status.error.unwrap().contains("300ms"));
        assert!(vms.verify(&vm.id).await.unwrap().verified);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_outruns_its_copy_is_held_back() {
    let (pairs, _turn) = pairs("auto_converge").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let fast = [
            ("fill", "8388608"),
            ("working-set", "4194304"),
            ("dirty-pages-per-second", "0"),
            ("spin", "true"),
        ];
        let vm = started(&vms, with(config("fast"), &fast)).await;
        // 4 MiB are left again and again, which takes 100 ms; a quarter of that may be.
        let options = MigrationOptions {
            bandwidth: 40 << 20,
            max_downtime: 25,
            compression: false,
            timeout: Some(Duration::from_secs(60)),
            ..plain()
        };
        let tries = MigrationOptions {
            auto_converge: false,
            timeout: Some(Duration::from_secs(2)),
            ..options.clone()
        };
        let status = moved(&vms, &vm.id, b, tries).await;
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        assert_eq!(status.throttle, 0);
        // The limit is for the rule that switches: a busy host may take longer for the switch itself.
        let status = moved(&vms, &vm.id, b, options).await;
        assert!(status.throttle > 0, "{status:?}");
        let here = match status.state {
            MigrationState::Completed => b.client().vm(),
            _ => vms,
        };
        assert!(here.verify(&vm.id).await.unwrap().verified);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_outruns_its_copy_is_switched_first() {
    let (pairs, _turn) = pairs("post_copy").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let fast = [
            ("fill", "16777216"),
            ("working-set", "12582912"),
            ("dirty-pages-per-second", "0"),
        ];
        let vm = started(&vms, with(config("fast"), &fast)).await;
        let options = MigrationOptions {
            post_copy: true,
            bandwidth: 16 << 20,
            compression: false,
            ..plain()
        };
        let migration = vms.migrate(&vm.id, b.name(), options).await.unwrap();
        let there = b.client().vm();
        let mut refused = 0;
        while let Ok(status) = vms.get_migration_status(&migration.id).await
            && !status.state.is_terminal()
        {
            let arrived = there.get(&vm.id).await;
            if arrived.is_ok_and(|vm| vm.state == VMState::Running) {
                // Neither can be while memory is in two places.
                let asked = there.migrate(&vm.id, a.name(), plain()).await;
                if let Err(error) = asked.map(drop) {
                    refused += u32::from(error.to_string().contains("still on its way here"));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let status = vms.get_migration_status(&migration.id).await.unwrap();
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(status.mode, MigrationMode::Postcopy, "{status:?}");
        assert!(refused > 0);
        assert!(there.verify(&vm.id).await.unwrap().verified);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_shut_down_takes_its_migrations_along() {
    let (pairs, _turn) = pairs("a_node_that_is_shut_down").await;
    for [a, b] in &pairs {
        let vms = a.client().vm();
        let slow = MigrationOptions {
            bandwidth: 1 << 20,
            ..plain()
        };
        let vm = started(&vms, busy(1)).await;
        let first = vms.migrate(&vm.id, b.name(), slow).await.unwrap();
        b.shutdown(Duration::ZERO).await.unwrap();
        let mut progress = vms.migration_progress(&first.id).await.unwrap();
        let mut last = first;
        while let Some(status) = progress.next().await {
            last = status;
        }
        assert_eq!(last.state, MigrationState::Failed, "{last:?}");
        assert!(
            vms.verify(&vm.id).await.unwrap().verified,
            "it runs on where it was"
        );
        a.shutdown(Duration::ZERO).await.unwrap();
    }
}

/// Threads, files and mappings of guest memory of this process.
fn inventory() -> BTreeMap<&'static str, usize> {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/self/{what}"))
            .unwrap()
            .count()
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    BTreeMap::from([
        ("threads", count("task")),
        ("files", count("fd")),
        (
            "mappings of guest memory",
            maps.matches("dwcp-guest-memory").count(),
        ),
    ])
}

/// Migrations to and fro of each kind of VM: enough on KVM to meet what happens once in a hundred.
fn how_many(node: &Node) -> usize {
    match node.backend() {
        Backend::Kvm => 100,
        _ => 10,
    }
}

#[test]
fn a_hundred_times_there_and_back_leaves_nothing_behind() {
    // Threads for blocking work end when they have been idle for this long, so that what is left over
    // can be counted.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_keep_alive(Duration::from_millis(50))
        .build()
        .unwrap();
    runtime.block_on(async {
        // What the runtime itself opens is open by then.
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pairs, _turn) = pairs("a_hundred_times").await;
        for nodes in &pairs {
            let before = inventory();
            for cpus in [1, 4] {
                let vm = started(&nodes[0].client().vm(), busy(cpus)).await;
                let times = how_many(&nodes[0]);
                for n in 0..times {
                    let (from, to) = (&nodes[n % 2], &nodes[(n + 1) % 2]);
                    // There and back by copying, then in the same memory.
                    let same_host = [SameHost::Never, SameHost::Require][n / 2 % 2];
                    let options = MigrationOptions {
                        same_host,
                        ..plain()
                    };
                    let status = moved(&from.client().vm(), &vm.id, to, options).await;
                    assert_eq!(status.state, MigrationState::Completed, "{n}: {status:?}");
                    let report = to.client().vm().verify(&vm.id).await.unwrap();
                    assert!(report.verified, "{n} with {cpus} vCPUs: {report:?}");
                }
                let last = nodes[times % 2].client().vm();
                last.stop(&vm.id, true).await.unwrap();
                last.destroy(&vm.id).await.unwrap();
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let now = inventory();
                if now.iter().all(|(what, count)| count <= &before[what]) {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{before:?} before, {now:?} after"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}
