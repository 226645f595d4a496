//! Tests of the registry by itself: no machine runs here.

use std::sync::atomic::{AtomicBool, Ordering};

use super::moved::MOVED_MAX;
use super::*;
use crate::model::{StopOptions, VMConfig};

fn limits() -> NodeLimits {
    NodeLimits {
        max_memory: 64 << 20,
        max_cpus: 4,
        max_vms: 3,
        max_streams: 9,
        ..NodeLimits::default()
    }
}

fn registry() -> Registry {
    let (store, mut loaded) = Store::open(None).unwrap();
    Registry::new("node-01", limits(), 1000, Arc::new(store), &mut loaded)
}

fn vm(id: &str) -> VM {
    let config = VMConfig {
        name: format!("vm-{id}"),
        memory: 32 << 20,
        cpus: 1,
        ..VMConfig::default()
    };
    VM::new(id, "node-01", config)
}

fn create(registry: &Registry, vm: VM) -> Result<Arc<VM>> {
    registry.create(vm, |_| Ok(None))
}

fn start(id: &str) -> Action {
    Action::Start { vm_id: id.into() }
}

fn stop(id: &str) -> Action {
    Action::Stop {
        vm_id: id.into(),
        options: StopOptions::default(),
    }
}

fn to(state: VMState, event: VMEventType) -> Change {
    Change::new(state, event, "because of a test")
}

fn run(registry: &Registry, id: &str) {
    registry.starting(&start(id)).unwrap();
    let change = to(VMState::Running, VMEventType::Started);
    registry.change(id, change).unwrap();
}

/// All events that are kept.
fn events(registry: &Registry) -> Vec<Arc<Logged>> {
    match registry.book().log.read(1, u64::MAX, usize::MAX) {
        Read::Events(events) => events,
        Read::Nothing => Vec::new(),
        Read::Lost(lost) => panic!("{lost:?}"),
    }
}

#[test]
fn every_change_is_an_event_of_the_same_moment() {
    let registry = registry();
    create(&registry, vm("a")).unwrap();
    run(&registry, "a");
    let change = to(VMState::Failed, VMEventType::Failed).because();
    registry.change("a", change).unwrap();
    run(&registry, "a");
    let change = to(VMState::Stopped, VMEventType::Stopped);
    registry.change("a", change).unwrap();
    let destroy = Action::Destroy { vm_id: "a".into() };
    registry.destroy(&destroy).unwrap();
    let events = events(&registry);
    let words: Vec<_> = events
        .iter()
        .map(|event| format!("{} {}", event.event_type, event.vm.state))
        .collect();
    assert_eq!(
        words.join(", "),
        "created stopped, starting starting, started running, failed failed, starting starting, \
         started running, stopped stopped, destroyed stopped"
    );
    for pair in events.windows(2) {
        assert_eq!(pair[0].seq + 1, pair[1].seq);
        assert!(Arc::ptr_eq(&pair[0].vm, pair[1].before.as_ref().unwrap()));
        assert!(pair[0].vm.updated_at <= pair[1].vm.updated_at);
        assert_eq!(pair[1].timestamp, pair[1].vm.updated_at);
    }
    assert_eq!(
        events[3].vm.reason.as_deref(),
        Some("because of a test"),
        "of the failure"
    );
    assert_eq!(events[4].vm.reason, None, "it is over");
    assert!(events[7].last && !events[6].last);
    assert!(matches!(
        registry.find("a"),
        Err(DWCPError::VMNotFound(id)) if id == "a"
    ));
}

#[test]
fn times_are_those_of_what_happened() {
    let registry = registry();
    let made = create(&registry, vm("a")).unwrap();
    assert_eq!((made.started_at, made.stopped_at), (None, None));
    // A start that fails is no run.
    registry.starting(&start("a")).unwrap();
    let change = to(VMState::Stopped, VMEventType::Stopped);
    let failed = registry.change("a", change).unwrap();
    assert_eq!((failed.started_at, failed.stopped_at), (None, None));
    run(&registry, "a");
    let (_, running) = registry.find("a").unwrap();
    assert_eq!(running.started_at, Some(running.updated_at));
    for (state, event) in [
        (VMState::Paused, VMEventType::Paused),
        (VMState::Running, VMEventType::Resumed),
    ] {
        let vm = registry.change("a", to(state, event)).unwrap();
        assert_eq!(vm.started_at, running.started_at);
        assert_eq!(vm.stopped_at, None);
    }
    let change = to(VMState::Stopped, VMEventType::Stopped);
    let stopped = registry.change("a", change).unwrap();
    assert_eq!(stopped.stopped_at, Some(stopped.updated_at));
    registry.begin_migration("a", "node-02").unwrap();
    registry
        .end_migration("a", VMState::Stopped, "cancelled")
        .unwrap();
    let (_, back) = registry.find("a").unwrap();
    assert_eq!(back.stopped_at, stopped.stopped_at, "it did not run");
}

#[test]
fn limits_are_named() {
    let registry = registry();
    let create = |id: &str, memory: u64, cpus: u32| {
        let mut vm = vm(id);
        (vm.config.memory, vm.config.cpus) = (memory, cpus);
        create(&registry, vm).map(drop)
    };
    let limit = |result: Result<()>, name: &str| match result {
        Err(DWCPError::ResourceLimit(text)) => assert!(text.starts_with(name), "{text}"),
        other => panic!("{name}: {other:?}"),
    };
    limit(create("big", 128 << 20, 1), "max_memory");
    limit(create("wide", 16 << 20, 5), "max_cpus");
    create("a", 32 << 20, 3).unwrap();
    create("b", 32 << 20, 2).unwrap();
    create("c", 48 << 20, 1).unwrap();
    limit(create("d", 16 << 20, 1), "max_vms");
    run(&registry, "a");
    limit(registry.starting(&start("b")).map(drop), "max_cpus");
    limit(registry.starting(&start("c")).map(drop), "max_memory");
    registry
        .change("a", to(VMState::Paused, VMEventType::Paused))
        .unwrap();
    limit(registry.starting(&start("b")).map(drop), "max_cpus");
    registry
        .change("a", to(VMState::Stopped, VMEventType::Stopped))
        .unwrap();
    registry.starting(&start("b")).unwrap();
}

#[test]
fn a_first_look_and_what_follows_have_no_gap_and_no_repeat() {
    const CHANGES: usize = 2000;
    let registry = registry();
    create(&registry, vm("a")).unwrap();
    let over = AtomicBool::new(false);
    let number = |vm: &VM| vm.labels.get("n").map_or(0, |n| n.parse::<u64>().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut looks = 0;
                while !over.load(Ordering::Relaxed) || looks == 0 {
                    let look = registry.look(Some("a"), &Filters::new()).unwrap();
                    let mut expected = number(&look.vms[0]);
                    // A few of what follows, as far as it is there already.
                    if let Read::Events(events) = registry.book().log.read(look.next, u64::MAX, 50)
                    {
                        for event in events {
                            expected += 1;
                            assert_eq!(number(&event.vm), expected);
                        }
                    }
                    looks += 1;
                }
            });
        }
        for n in 1..=CHANGES {
            let update = Action::Update {
                vm_id: "a".into(),
                labels: Some([("n".to_owned(), n.to_string())].into()),
                annotations: None,
            };
            registry.update(&update).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_migration_holds_a_vm_and_gives_it_back() {
    let registry = registry();
    create(&registry, vm("a")).unwrap();
    run(&registry, "a");
    let departure = registry.begin_migration("a", "node-02").unwrap();
    assert_eq!(departure.before.state, VMState::Running);
    assert!(departure.running.is_none(), "no machine in this test");
    let (_, vm) = registry.find("a").unwrap();
    assert_eq!(
        (vm.state, vm.reason.as_deref()),
        (
            VMState::Migrating,
            Some("is being moved to the node node-02")
        )
    );
    let error = registry.begin_migration("a", "node-03").unwrap_err();
    assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
    let pause = Action::Pause { vm_id: "a".into() };
    assert!(registry.find_legal(&pause).is_err());
    assert!(registry.find_legal(&stop("a")).is_ok(), "it cancels first");
    registry
        .end_migration("a", VMState::Paused, "the peer is gone")
        .unwrap();
    let (_, vm) = registry.find("a").unwrap();
    assert_eq!(
        (vm.state, vm.reason.as_deref()),
        (VMState::Paused, Some("the peer is gone"))
    );
    registry.begin_migration("a", "node-02").unwrap();
    registry
        .end_migration("a", VMState::Running, "cancelled")
        .unwrap();
    registry.begin_migration("a", "node-02").unwrap();
    registry.leave_unresolved("a", "who has it?").unwrap();
    let (_, vm) = registry.find("a").unwrap();
    assert_eq!(vm.state, VMState::Unknown);
    for action in [start("a"), stop("a"), pause] {
        assert!(registry.find_legal(&action).is_err(), "{}", action.name());
    }
    let words: Vec<_> = events(&registry)
        .iter()
        .map(|event| event.event_type.to_string())
        .collect();
    assert_eq!(
        words[3..].join(" "),
        "migrating migration_failed migrating migration_failed migrating migration_failed"
    );
}

#[test]
fn a_vm_that_moved_away_is_remembered() {
    let registry = registry();
    create(&registry, vm("a")).unwrap();
    run(&registry, "a");
    let (entry, _) = registry.find("a").unwrap();
    registry.begin_migration("a", "node-02").unwrap();
    assert!(registry.moved_away("a", "node-02").unwrap().is_none());
    assert!(entry.standing().borrow().gone);
    for result in [
        registry.find("a").map(drop),
        registry.find_legal(&start("a")).map(drop),
        registry.look(Some("a"), &Filters::new()).map(drop),
        registry.moved_away("a", "node-03").map(drop),
    ] {
        match result {
            Err(DWCPError::Unavailable(text)) => assert!(text.contains("node-02"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(registry.list(&Filters::new()).is_empty());
    assert!(matches!(
        registry.why_over(Some("a")),
        Some(DWCPError::Unavailable(_))
    ));
    assert_eq!(registry.why_over(Some("never")), None);
    let last = events(&registry).pop().unwrap();
    assert_eq!(last.event_type, VMEventType::Migrated);
    assert_eq!(last.vm.node, "node-02");
    assert!(last.last);
    // Its room is free, and it may come back.
    registry.insert_arriving(vm("a"), "node-02").unwrap();
    registry.arrived("a", None, VMState::Running).unwrap();
    assert!(registry.book().moved.to.is_empty());
    assert!(registry.find("a").is_ok());
}

#[test]
fn an_arriving_vm_refuses_everything_until_it_is_here() {
    let registry = registry();
    let mut from_there = vm("a");
    from_there.node = "node-02".into();
    from_there.state = VMState::Running;
    let entry = registry
        .insert_arriving(from_there.clone(), "node-02")
        .unwrap();
    let (_, vm) = registry.find("a").unwrap();
    assert_eq!(
        (vm.state, vm.node.as_str()),
        (VMState::Migrating, "node-01")
    );
    let refused = |action: &Action| match registry.find_legal(action) {
        Err(DWCPError::InvalidOperation(text)) => assert!(text.contains("arriving"), "{text}"),
        other => panic!("{}: {other:?}", action.name()),
    };
    let (id, again) = (
        || "a".to_owned(),
        || registry.insert_arriving(from_there.clone(), "x"),
    );
    for action in [
        start("a"),
        stop("a"),
        Action::Destroy { vm_id: id() },
        Action::Pause { vm_id: id() },
        Action::Resume { vm_id: id() },
        Action::Reset { vm_id: id() },
        Action::Verify { vm_id: id() },
        Action::Metrics {
            vm_id: id(),
            window: std::time::Duration::ZERO,
        },
    ] {
        refused(&action);
    }
    assert!(registry.find_legal(&Action::Get { vm_id: id() }).is_ok());
    assert!(matches!(again(), Err(DWCPError::AlreadyExists(_))));
    let before = entry.standing().borrow().incarnation;
    registry.arrived("a", None, VMState::Paused).unwrap();
    assert!(entry.standing().borrow().incarnation > before);
    let (_, vm) = registry.find("a").unwrap();
    assert_eq!((vm.state, vm.reason.as_deref()), (VMState::Paused, None));
    assert!(registry.find_legal(&stop("a")).is_ok());
    let (error, _) = registry.arrived("a", None, VMState::Running).unwrap_err();
    assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
    assert!(registry.discard_arriving("a", "no").is_err());
}

#[test]
fn an_arriving_vm_has_its_share_of_the_limits() {
    let registry = registry();
    create(&registry, vm("a")).unwrap();
    run(&registry, "a");
    let arrive = |id: &str, memory| {
        let mut vm = vm(id);
        (vm.state, vm.config.memory) = (VMState::Running, memory);
        registry.insert_arriving(vm, "node-02").map(drop)
    };
    for memory in [48 << 20, 128 << 20] {
        let refused = arrive("b", memory);
        assert!(matches!(refused, Err(DWCPError::ResourceLimit(_))));
    }
    arrive("b", 32 << 20).unwrap();
    create(&registry, vm("c")).unwrap();
    let full = registry.starting(&start("c"));
    assert!(matches!(full, Err(DWCPError::ResourceLimit(_))));
    registry.discard_arriving("b", "the peer is gone").unwrap();
    assert!(matches!(registry.find("b"), Err(DWCPError::VMNotFound(_))));
    registry.starting(&start("c")).unwrap();
    registry.drain();
    let refused = arrive("d", 16 << 20);
    assert!(matches!(refused, Err(DWCPError::Unavailable(_))));
}

#[test]
fn what_is_known_of_a_vm_that_moved_outlives_one_that_does_not_come_back() {
    let registry = registry();
    create(&registry, vm("a")).unwrap();
    registry.begin_migration("a", "node-02").unwrap();
    registry.moved_away("a", "node-02").unwrap();
    registry.insert_arriving(vm("a"), "node-02").unwrap();
    registry.discard_arriving("a", "cancelled").unwrap();
    assert!(matches!(registry.find("a"), Err(DWCPError::Unavailable(_))));
}

#[test]
fn memories_of_moved_vms_are_bounded() {
    let mut moved = Moved::default();
    for n in 0..MOVED_MAX + 10 {
        moved.remember(&n.to_string(), "node-02");
        moved.remember(&n.to_string(), "node-03");
    }
    assert_eq!((moved.to.len(), moved.order.len()), (MOVED_MAX, MOVED_MAX));
    assert!(!moved.to.contains_key("9"));
    assert_eq!(moved.to["10"], "node-03");
}

#[test]
fn a_node_that_is_over_takes_nothing() {
    let registry = registry();
    create(&registry, vm("a")).unwrap();
    registry.drain();
    for refused in [
        create(&registry, vm("b")).map(drop),
        registry.starting(&start("a")).map(drop),
    ] {
        match refused {
            Err(DWCPError::Unavailable(text)) => assert!(text.contains("draining"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(registry.close().len(), 1);
    registry.closed();
    let change = to(VMState::Running, VMEventType::Started);
    for refused in [
        registry.change("a", change).map(drop),
        registry.starting(&start("a")).map(drop),
        registry.destroy(&Action::Destroy { vm_id: "a".into() }),
    ] {
        assert_eq!(refused, Err(closed()));
    }
    registry.drain();
    assert_eq!(registry.phase(), Phase::Closed);
}
