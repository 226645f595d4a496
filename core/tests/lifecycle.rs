//! The life of VMs on a node, as programs see it.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use dwcp::{VMConfig, VMState};
use support::nodes;

fn config(name: &str) -> VMConfig {
    VMConfig {
        name: name.into(),
        memory: 32 << 20,
        cpus: 1,
        annotations: [("dwcp.pulse/fill".to_owned(), "1048576".to_owned())].into(),
        ..VMConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_lives_its_life() {
    for node in nodes("a_vm_lives_its_life", |node| node).await {
        let vms = node.client().vm();
        let vm = vms.create(config("web")).await.unwrap();
        assert_eq!(vm.state, VMState::Stopped);
        vms.start(&vm.id).await.unwrap();
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
        vms.stop(&vm.id, false).await.unwrap();
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Stopped);
        vms.destroy(&vm.id).await.unwrap();
        assert!(vms.get(&vm.id).await.is_err());
    }
}
