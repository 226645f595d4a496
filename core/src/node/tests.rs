//! Tests of a whole node that need its insides. What programs can see is tested in
//! `core/tests/lifecycle.rs`.

use futures::StreamExt;

use super::registry::Running;
use super::*;
use crate::hypervisor::{HostFacts, Kvm, NewVm, Sim};
use crate::machine::News;
use crate::memory::GuestRam;
use crate::model::{VMConfig, VMEventType, VMState};

async fn nodes(test: &str) -> Vec<Node> {
    let sim = Node::builder("node-01").backend(Backend::Sim).start();
    let mut nodes = vec![sim.await.unwrap()];
    match Kvm::open() {
        Ok(_) => nodes.push(Node::builder("node-01").start().await.unwrap()),
        Err(error) => crate::test_support::skipped(&format!("{test} on KVM"), &error),
    }
    nodes
}

fn config() -> VMConfig {
    VMConfig {
        name: "web".into(),
        memory: 16 << 20,
        cpus: 1,
        annotations: [
            ("dwcp.pulse/fill".to_owned(), "1048576".to_owned()),
            ("dwcp.pulse/beat-hz".to_owned(), "1000".to_owned()),
        ]
        .into(),
        ..VMConfig::default()
    }
}

/// A running VM of a node.
async fn running(node: &Node) -> (String, Running) {
    let vms = node.client().vm();
    let vm = vms.create(config()).await.unwrap();
    vms.start(&vm.id).await.unwrap();
    let (entry, _) = node.0.shared.registry.find(&vm.id).unwrap();
    (vm.id, entry.machine().unwrap())
}

#[tokio::test]
async fn a_guest_that_crashes_is_failed_with_a_reason() {
    let Ok(node) = Node::builder("node-01").start().await else {
        return crate::test_support::skipped("a_guest_that_crashes_is_failed", &"no KVM");
    };
    let vms = node.client().vm();
    let (id, Running { machine, .. }) = running(&node).await;
    let mut events = vms.watch(&id).await.unwrap();
    let mut console = vms.console(&id).await.unwrap();
    let printed = console.next().await.unwrap();
    // ud2 over the guest's code: nobody handles it.
    let crash = [0x0f, 0x0b].repeat(512);
    machine.ram().write(0x8000, &crash).unwrap();
    drop(machine);
    let event = loop {
        let event = events.next().await.unwrap();
        if event.event_type == VMEventType::Failed {
            break event;
        }
    };
    assert_eq!(event.vm.state, VMState::Failed);
    let reason = event.vm.reason.unwrap();
    assert!(!reason.is_empty());
    assert!(event.vm.stopped_at.is_some());
    let vm = vms.get(&id).await.unwrap();
    assert_eq!((vm.state, vm.reason), (VMState::Failed, Some(reason)));
    // What it printed can still be read, to its end, and nothing typed any more.
    let mut console = vms.console(&id).await.unwrap();
    assert!(console.next().await.unwrap().starts_with(&printed));
    while console.next().await.is_some() {}
    assert_eq!(console.error(), None);
    let typed = console.write(b"help").await;
    assert!(
        matches!(typed, Err(DWCPError::InvalidOperation(_))),
        "{typed:?}"
    );
    // It can be started again, or destroyed.
    vms.start(&id).await.unwrap();
    assert_eq!(vms.get(&id).await.unwrap().reason, None);
    vms.stop(&id, true).await.unwrap();
    vms.destroy(&id).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_powers_itself_off_is_stopped() {
    for node in nodes("a_guest_that_powers_itself_off_is_stopped").await {
        let vms = node.client().vm();
        let (id, Running { machine, .. }) = running(&node).await;
        let mut events = vms.watch(&id).await.unwrap();
        let mut figures = vms
            .stream_metrics(&id, Duration::from_millis(1))
            .await
            .unwrap();
        let mut console = vms.console(&id).await.unwrap();
        machine.pulse().unwrap().ask_off();
        drop(machine);
        loop {
            let event = events.next().await.unwrap();
            if event.event_type == VMEventType::Stopped {
                assert_eq!(event.vm.reason.as_deref(), Some("the guest powered off"));
                break;
            }
        }
        while figures.next().await.is_some() {}
        assert_eq!(figures.error(), None);
        while console.next().await.is_some() {}
        assert_eq!(console.error(), None);
        assert!(!node.0.shared.registry.find(&id).unwrap().0.has_machine());
        vms.destroy(&id).await.unwrap();
        while events.next().await.is_some() {}
        assert_eq!(events.error(), None, "the end of a VM ends its watch");
    }
}

#[tokio::test]
async fn what_the_guest_says_are_events() {
    for node in nodes("what_the_guest_says_are_events").await {
        let vms = node.client().vm();
        let vm = vms.create(config()).await.unwrap();
        let mut events = vms.watch(&vm.id).await.unwrap();
        vms.start(&vm.id).await.unwrap();
        let said = async |events: &mut crate::client::Events| loop {
            let event = events.next().await.unwrap();
            if event.event_type == VMEventType::Guest {
                return event.message;
            }
        };
        assert_eq!(said(&mut events).await, "memory filled");
        let (entry, _) = node.0.shared.registry.find(&vm.id).unwrap();
        // A page beyond the working set, which nobody writes again.
        let gpa = (4 << 20) + (1 << 20) - 4096;
        let Running { machine, .. } = entry.machine().unwrap();
        machine.ram().write(gpa, &[0xee; 64]).unwrap();
        drop(machine);
        let report = vms.verify(&vm.id).await.unwrap();
        assert!(!report.verified);
        assert_eq!((report.faults, report.first_fault), (1, Some(gpa)));
        let message = said(&mut events).await;
        assert!(message.contains(&format!("{gpa:#x}")), "{message}");
    }
}

#[tokio::test]
async fn a_check_of_memory_ends_whatever_happens() {
    for node in nodes("a_check_of_memory_ends_whatever_happens").await {
        let vms = node.client().vm();
        // A guest that looks for commands once a second does not check before we come.
        let mut slow = config();
        slow.annotations
            .insert("dwcp.pulse/beat-hz".into(), "1".into());
        let vm = vms.create(slow).await.unwrap();
        let (entry, _) = node.0.shared.registry.find(&vm.id).unwrap();
        for what in ["pause", "reset", "stop", "shut down"] {
            vms.start(&vm.id).await.unwrap();
            let (own, id) = (vms.clone(), vm.id.clone());
            let check = tokio::spawn(async move { own.verify(&id).await });
            while entry.verifying.try_lock().is_ok() && !check.is_finished() {
                tokio::task::yield_now().await;
            }
            match what {
                "pause" => vms.pause(&vm.id).await.unwrap(),
                "reset" => vms.reset(&vm.id).await.unwrap(),
                "stop" => vms.stop(&vm.id, true).await.unwrap(),
                _ => node.shutdown(Duration::ZERO).await.unwrap(),
            }
            let result = check.await.unwrap();
            match (what, &result) {
                // The guest may have been faster than we.
                (_, Ok(report)) => assert!(report.verified),
                // Whether the guest or the node was first.
                ("shut down", Err(DWCPError::Unavailable(_) | DWCPError::InvalidOperation(_))) => {
                    break;
                }
                ("pause", Err(DWCPError::InvalidOperation(why))) => {
                    assert!(why.contains("is paused"), "{why}");
                }
                ("reset", Err(DWCPError::InvalidOperation(why))) => {
                    assert!(why.contains("was reset"), "{why}");
                }
                ("stop", Err(DWCPError::InvalidOperation(_))) => continue,
                _ => panic!("{what}: {result:?}"),
            }
            if what != "shut down" && what != "stop" {
                vms.stop(&vm.id, true).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_guest_cannot_flood_the_log() {
    let [node] = &nodes("").await[..1] else {
        panic!("there is always one")
    };
    let (
        id,
        Running {
            machine: _machine,
            run,
        },
    ) = running(node).await;
    let hooks = run.hooks();
    let first = node.0.shared.registry.look(None, &Default::default());
    for gpa in 0..1000 {
        (hooks.on_news)(News::Fault(gpa));
        tokio::task::yield_now().await;
    }
    drop(_machine);
    node.client().vm().stop(&id, true).await.unwrap();
    let last = node.0.shared.registry.look(None, &Default::default());
    let events = last.unwrap().next - first.unwrap().next;
    assert!(events <= u64::from(run::GUEST_EVENTS_MAX) + 2, "{events}");
}

#[tokio::test]
async fn a_vm_under_migration_keeps_its_machine_when_the_guest_ends() {
    for node in nodes("a_vm_under_migration_keeps_its_machine").await {
        let registry = &node.0.shared.registry;
        let vms = node.client().vm();
        let (id, Running { machine, .. }) = running(&node).await;
        let (entry, _) = registry.find(&id).unwrap();
        let departure = registry.begin_migration(&id, "node-02").unwrap();
        assert!(departure.running.is_some());
        assert!(vms.verify(&id).await.unwrap().verified, "it runs on");
        for refused in [
            vms.stop(&id, true).await,
            vms.reset(&id).await,
            vms.destroy(&id).await,
        ] {
            // This test is the migration, and gives nothing back.
            assert!(
                matches!(refused, Err(DWCPError::InvalidOperation(_))),
                "{refused:?}"
            );
        }
        assert!(vms.pause(&id).await.is_err());
        machine.pulse().unwrap().ask_off();
        while machine.ended().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(entry.has_machine());
        drop((machine, departure.running));
        let mut events = vms.watch(&id).await.unwrap();
        registry
            .end_migration(&id, VMState::Running, "cancelled")
            .unwrap();
        loop {
            let event = events.next().await.unwrap();
            if event.event_type == VMEventType::Stopped {
                assert_eq!(event.vm.reason.as_deref(), Some("the guest powered off"));
                break;
            }
        }
        assert!(!entry.has_machine());
    }
}

#[tokio::test]
async fn a_vm_moves_between_two_registries() {
    for node in nodes("a_vm_moves_between_two_registries").await {
        let there = Node::builder("node-02").backend(node.backend());
        let there = there.start().await.unwrap();
        let (id, _) = running(&node).await;
        let (from, to) = (&node.0.shared, &there.0.shared);
        let departure = from.registry.begin_migration(&id, "node-02").unwrap();
        let before = VM::clone(&departure.before);
        let mut watch = node.client().vm().watch(&id).await.unwrap();
        to.registry.insert_arriving(before, "node-01").unwrap();
        // The machine is handed over as it is: both nodes are in this process.
        let machine = from.registry.moved_away(&id, "node-02").unwrap().unwrap();
        drop(departure);
        let run = run::Run::new();
        let running = Running {
            machine,
            run: Arc::clone(&run),
        };
        to.registry
            .arrived(&id, Some(running), VMState::Running)
            .unwrap();
        let (entry, _) = to.registry.find(&id).unwrap();
        to.keep(&entry, run);
        let vms = there.client().vm();
        assert!(vms.verify(&id).await.unwrap().verified);
        assert_eq!(vms.get(&id).await.unwrap().node, "node-02");
        // The node it left knows no way to that one, and says where it is.
        let error = node.client().vm().get(&id).await.unwrap_err();
        assert!(
            matches!(&error, DWCPError::Unavailable(text) if text.contains("moved to the node node-02")),
            "{error}"
        );
        let mut last = None;
        while let Some(event) = watch.next().await {
            last = Some(event.event_type);
        }
        assert_eq!(last, Some(VMEventType::Migrated));
        let ended = watch.error().unwrap().to_string();
        assert!(ended.contains("moved to the node node-02"), "{ended}");
        vms.stop(&id, true).await.unwrap();
        vms.destroy(&id).await.unwrap();
    }
}

#[tokio::test]
async fn a_console_goes_on_over_a_reset_and_ends_with_the_vm() {
    for node in nodes("a_console_goes_on_over_a_reset").await {
        let vms = node.client().vm();
        let (id, Running { machine, .. }) = running(&node).await;
        machine.console().print(b"before anybody looked, ");
        let mut console = vms.console(&id).await.unwrap();
        let mut read = async |text: &str| {
            // The guest prints too, in between.
            let mut all = Vec::new();
            while !String::from_utf8_lossy(&all).contains(text) {
                all.extend(console.next().await.unwrap());
            }
        };
        read("looked, ").await;
        vms.reset(&id).await.unwrap();
        machine.console().print(b"\x07");
        read("\x07").await;
        vms.pause(&id).await.unwrap();
        console.write(b"x").await.unwrap();
        drop(machine);
        vms.stop(&id, true).await.unwrap();
        while console.next().await.is_some() {}
        assert_eq!(console.error(), None);
    }
}

/// The simulation, with something that happens first when a VM is made.
struct Troubled {
    sim: Sim,
    first: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl fmt::Debug for Troubled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Troubled")
    }
}

impl Hypervisor for Troubled {
    fn name(&self) -> &'static str {
        self.sim.name()
    }
    fn facts(&self) -> &HostFacts {
        self.sim.facts()
    }
    fn create_vm(&self, ram: &Arc<GuestRam>, cpus: u32, guest: &HostFacts) -> Result<NewVm> {
        (self.first)()?;
        self.sim.create_vm(ram, cpus, guest)
    }
}

async fn troubled(first: impl Fn() -> Result<()> + Send + Sync + 'static) -> Node {
    let hypervisor = Troubled {
        sim: Sim::new(),
        first: Box::new(first),
    };
    let node = Node::builder("node-01").backend(Backend::Sim);
    node.start_on(Arc::new(hypervisor)).await.unwrap()
}

#[tokio::test]
async fn a_start_that_fails_leaves_the_vm_stopped_with_a_reason() {
    let error = DWCPError::ResourceLimit("this host has no more of it".into());
    let fails = error.clone();
    let node = troubled(move || Err(fails.clone())).await;
    let vms = node.client().vm();
    let vm = vms.create(config()).await.unwrap();
    assert_eq!(vms.start(&vm.id).await, Err(error));
    let vm = vms.get(&vm.id).await.unwrap();
    assert_eq!((vm.state, vm.started_at), (VMState::Stopped, None));
    let reason = vm.reason.unwrap();
    assert!(reason.contains("no more of it"), "{reason}");
    vms.destroy(&vm.id).await.unwrap();
}

#[tokio::test]
async fn a_start_that_panics_is_told_and_the_vm_can_be_removed() {
    let node = troubled(|| panic!("a defect")).await;
    let vms = node.client().vm();
    let vm = vms.create(config()).await.unwrap();
    let error = vms.start(&vm.id).await.unwrap_err();
    assert!(matches!(error, DWCPError::Internal(_)), "{error}");
    assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
    vms.destroy(&vm.id).await.unwrap();
}

#[tokio::test]
async fn a_node_that_ends_while_a_vm_starts_leaves_nothing() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (came, waits) = std::sync::mpsc::channel();
    let gate = std::sync::Mutex::new(gate);
    let node = troubled(move || {
        came.send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
        Ok(())
    })
    .await;
    let vms = node.client().vm();
    let vm = vms.create(config()).await.unwrap();
    let (own, id) = (vms.clone(), vm.id.clone());
    let start = tokio::spawn(async move { own.start(&id).await });
    let waits = tokio::task::spawn_blocking(move || waits.recv());
    waits.await.unwrap().unwrap();
    let entry = node.0.shared.registry.find(&vm.id).unwrap().0;
    let own = node.clone();
    let shutdown = tokio::spawn(async move { own.shutdown(Duration::ZERO).await });
    while node.0.shared.registry.phase() != registry::Phase::Closed {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    open.send(()).unwrap();
    assert_eq!(start.await.unwrap(), Err(registry::closed()));
    shutdown.await.unwrap().unwrap();
    assert!(!entry.has_machine());
}
