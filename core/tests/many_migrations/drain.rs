//! A node with many VMs is emptied.

use std::collections::BTreeMap;

use dwcp::Node;

use super::*;

const VMS: usize = 20;

/// A node in this process: only in Rust a node can be told to move everything away.
async fn node(name: &str, backend: Backend) -> Node {
    let node = Node::builder(name).backend(backend).listen("127.0.0.1:0");
    node.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_twenty_vms_is_drained() {
    let _turn = TURN.lock().await;
    for backend in all_backends("a_node_with_twenty_vms").await {
        let a = node(NAMES[0], backend).await;
        let targets = [
            node(NAMES[1], backend).await,
            node("node-03", backend).await,
        ];
        for target in &targets {
            let address = target.address().unwrap().to_string();
            a.add_peer(target.name(), address).unwrap();
            let address = a.address().unwrap().to_string();
            target.add_peer(a.name(), address).unwrap();
        }
        let vms = a.client().vm();
        // Every second one runs; the others are paused and stopped by turns.
        let begin = async |number: usize| {
            if number % 4 == 3 {
                let vm = vms.create(one_of_many(number)).await.unwrap();
                return (vm.id, VMState::Stopped);
            }
            let vm = started(&vms, one_of_many(number)).await;
            if number % 4 == 1 {
                vms.pause(&vm.id).await.unwrap();
                return (vm.id, VMState::Paused);
            }
            (vm.id, VMState::Running)
        };
        let states: BTreeMap<String, VMState> =
            join_all((0..VMS).map(begin)).await.into_iter().collect();
        let plain = MigrationOptions {
            encrypt_transport: false,
            ..options(SameHost::Never)
        };
        let began = std::time::Instant::now();
        let names = targets.each_ref().map(|target| target.name());
        let drained = a.drain_to(names, plain).await.unwrap();
        println!("{backend:?}: {VMS} VMs in {:?}", began.elapsed());
        assert_eq!(drained.len(), VMS);
        for own in &drained {
            assert_eq!(own.error, None, "{own:?}");
            let migration = own.migration.as_ref().unwrap();
            assert_eq!(migration.state, MigrationState::Completed, "{own:?}");
        }
        assert!(vms.list(()).await.unwrap().is_empty());
        let refused = vms.create(one_of_many(VMS)).await.unwrap_err();
        assert!(refused.to_string().contains("draining"), "{refused}");
        for target in &targets {
            let there = target.client().vm();
            let arrived = there.list(()).await.unwrap();
            // They took turns.
            assert_eq!(arrived.len(), VMS / 2, "{}", target.name());
            for vm in arrived {
                let own = drained.iter().find(|own| own.vm_id == vm.id).unwrap();
                assert_eq!(own.node.as_deref(), Some(target.name()), "{own:?}");
                assert_eq!(vm.state, states[&vm.id], "{vm:?}");
                match vm.state {
                    VMState::Paused => there.resume(&vm.id).await.unwrap(),
                    VMState::Stopped => there.start(&vm.id).await.unwrap(),
                    _ => {}
                }
                whole(&there, &vm.id).await;
            }
        }
    }
}
