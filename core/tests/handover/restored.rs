//! A node that was restored from an old backup of its store does not run what has moved away since.

use dwcp::VMEventType;

use super::*;

/// Two nodes, the first with a directory, and a backup of that from when its VM ran there.
struct Backup {
    here: Node,
    there: Node,
    vm: VM,
    backup: tempfile::TempDir,
    _dir: tempfile::TempDir,
}

/// A VM with this restart policy.
async fn backed_up(backend: Backend, policy: &str) -> Backup {
    let [dir, kept] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let here = builder("node-01", backend)
        .data_dir(dir.path())
        .listen("127.0.0.1:0");
    let here = here.start().await.unwrap();
    let there = node("node-02", backend).await;
    introduce(&here, &there);
    let mut config = small("moved-away");
    config.labels.insert("dwcp.restart".into(), policy.into());
    let vm = started(&here.client().vm(), config).await;
    backup(dir.path(), kept.path());
    Backup {
        here,
        there,
        vm,
        backup: kept,
        _dir: dir,
    }
}

impl Backup {
    /// Ends the first node, and starts it again from the backup; these are its peers.
    async fn restore(&self, peers: &[(&str, SocketAddr)]) -> Node {
        self.here.shutdown(Duration::ZERO).await.unwrap();
        let at = address(&self.here).to_string();
        let mut node = builder("node-01", self.here.backend())
            .data_dir(self.backup.path())
            .listen(at);
        for (name, address) in peers {
            node = node.peer(*name, address.to_string());
        }
        let node = node.start().await.unwrap();
        assert_eq!(node.uuid(), self.here.uuid());
        node
    }

    fn there(&self) -> [(&'static str, SocketAddr); 1] {
        [("node-02", address(&self.there))]
    }

    /// The restored node learns where the VM is, and answers for it from there.
    async fn finds_it(&self, restored: &Node, on: &str) {
        let id = &self.vm.id;
        until("that it is elsewhere", || async {
            !has(restored, id).await
        })
        .await;
        let seen = restored.client().vm().get(id).await.unwrap();
        assert_eq!((seen.state, seen.node.as_str()), (VMState::Running, on));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_node_does_not_start_what_moved_away() {
    for backend in backends("a_restored_node").await {
        let case = backed_up(backend, "always").await;
        moved(&case.here.client().vm(), &case.vm.id, &case.there).await;
        let before = case
            .there
            .client()
            .vm()
            .guest_report(&case.vm.id)
            .await
            .unwrap();
        let restored = case.restore(&case.there()).await;
        case.finds_it(&restored, "node-02").await;
        // It was never started here meanwhile, and runs on there.
        let mut events = restored
            .client()
            .vm()
            .watch_since(None, (), 0)
            .await
            .unwrap();
        let starts = std::cell::Cell::new(0);
        let told = support::wait(&mut events, |event| {
            let is_start = event.event_type == VMEventType::Starting;
            starts.set(starts.get() + u32::from(is_start));
            event.message.contains("as it turned out")
        })
        .await;
        assert_eq!(starts.get(), 1, "only when it was made");
        assert_says(&told.message, &["node-02", "older", "epoch 1"]);
        let vms = case.there.client().vm();
        whole(&vms, &case.vm.id).await;
        assert!(vms.guest_report(&case.vm.id).await.unwrap().beats > before.beats);
        // And can come back.
        case.there
            .add_peer("node-01", address(&restored).to_string())
            .unwrap();
        moved(&vms, &case.vm.id, &restored).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_peer_cannot_be_asked_nothing_is_started_by_policy() {
    for backend in backends("while_a_peer_cannot_be_asked").await {
        let case = backed_up(backend, "on-failure").await;
        moved(&case.here.client().vm(), &case.vm.id, &case.there).await;
        let link = FaultProxy::start(address(&case.here), address(&case.there));
        link.refuse(true);
        let restored = case.restore(&[("node-02", link.to_b)]).await;
        let vms = restored.client().vm();
        let mut events = vms.watch(&case.vm.id).await.unwrap();
        let told = support::wait(&mut events, |event| {
            event
                .vm
                .reason
                .as_ref()
                .is_some_and(|why| why.contains("not started again"))
        })
        .await;
        assert_eq!(told.vm.state, VMState::Failed);
        assert_says(
            &told.vm.reason.unwrap(),
            &[
                "the node ended while it ran",
                "node-02",
                "cannot be asked",
                "`start`",
            ],
        );
        link.refuse(false);
        case.finds_it(&restored, "node-02").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_peer_has_is_started_again() {
    for backend in backends("what_no_peer_has").await {
        let case = backed_up(backend, "always").await;
        let restored = case.restore(&case.there()).await;
        wait_for(&restored.client().vm(), &case.vm.id, VMState::Running).await;
        whole(&restored.client().vm(), &case.vm.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_cannot_start_a_second_one_by_mistake() {
    for backend in backends("an_operator_cannot_start").await {
        let case = backed_up(backend, "never").await;
        moved(&case.here.client().vm(), &case.vm.id, &case.there).await;
        let restored = case.restore(&case.there()).await;
        let vms = restored.client().vm();
        assert_eq!(vms.get(&case.vm.id).await.unwrap().state, VMState::Failed);
        let refused = vms.start(&case.vm.id).await.unwrap_err();
        assert_says(&refused.to_string(), &["moved to the node node-02"]);
        // From then on the node that has it is asked.
        let refused = vms.start(&case.vm.id).await.unwrap_err();
        assert_says(&refused.to_string(), &["running"]);
        case.finds_it(&restored, "node-02").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_start_it_when_nobody_can_be_asked() {
    for backend in backends("an_operator_may_start_it").await {
        let case = backed_up(backend, "never").await;
        let gone = FaultProxy::start(address(&case.here), address(&case.there));
        gone.refuse(true);
        let restored = case.restore(&[("node-02", gone.to_b)]).await;
        restored.client().vm().start(&case.vm.id).await.unwrap();
        whole(&restored.client().vm(), &case.vm.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_node_finds_what_went_on_from_its_peer() {
    for backend in backends("a_restored_node_finds").await {
        let case = backed_up(backend, "always").await;
        let third = node("node-03", backend).await;
        introduce(&case.there, &third);
        moved(&case.here.client().vm(), &case.vm.id, &case.there).await;
        moved(&case.there.client().vm(), &case.vm.id, &third).await;
        // It knows both, of which the second does not have the VM any more, and the third is away.
        let away = FaultProxy::start(address(&case.here), address(&third));
        away.refuse(true);
        let peers = [case.there()[0], ("node-03", away.to_b)];
        let restored = case.restore(&peers).await;
        until("that it is elsewhere", || async {
            !has(&restored, &case.vm.id).await
        })
        .await;
        away.refuse(false);
        case.finds_it(&restored, "node-03").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_destroyed_elsewhere_does_not_come_back_by_itself() {
    for backend in backends("what_was_destroyed_elsewhere").await {
        let case = backed_up(backend, "always").await;
        moved(&case.here.client().vm(), &case.vm.id, &case.there).await;
        let there = case.there.client().vm();
        there.stop(&case.vm.id, true).await.unwrap();
        there.destroy(&case.vm.id).await.unwrap();
        let restored = case.restore(&case.there()).await;
        let vms = restored.client().vm();
        let mut events = vms.watch(&case.vm.id).await.unwrap();
        let told = support::wait(&mut events, |event| {
            event
                .vm
                .reason
                .as_ref()
                .is_some_and(|why| why.contains("not started again"))
        })
        .await;
        assert_says(
            &told.vm.reason.unwrap(),
            &["node-02", "has it no more", "old"],
        );
        // Who wants the old one back says so.
        vms.start(&case.vm.id).await.unwrap();
        whole(&vms, &case.vm.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_comes_back_replaces_an_old_copy() {
    for backend in backends("a_vm_that_comes_back").await {
        let case = backed_up(backend, "never").await;
        moved(&case.here.client().vm(), &case.vm.id, &case.there).await;
        let restored = case.restore(&case.there()).await;
        let (vms, id) = (restored.client().vm(), &case.vm.id);
        assert_eq!(vms.get(id).await.unwrap().state, VMState::Failed);
        case.there
            .add_peer("node-01", address(&restored).to_string())
            .unwrap();
        moved(&case.there.client().vm(), id, &restored).await;
        assert_eq!(vms.get(id).await.unwrap().state, VMState::Running);
        assert!(!has(&case.there, id).await);
        // And leaves again, under an epoch that is later still.
        moved(&vms, id, &case.there).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_among_its_own_peers_starts_its_vms() {
    for backend in backends("a_node_that_is_among_its_own_peers").await {
        let case = backed_up(backend, "always").await;
        let peers = [case.there()[0], ("node-01", address(&case.here))];
        let restored = case.restore(&peers).await;
        wait_for(&restored.client().vm(), &case.vm.id, VMState::Running).await;
    }
}
