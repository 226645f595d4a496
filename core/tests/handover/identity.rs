//! Whose word counts: chains of nodes with a hop that nobody can tell of, and nodes that were
//! reinstalled or have an old store.

use super::*;

/// Three nodes in a ring, and a VM on the first.
struct Ring {
    nodes: [Node; 3],
    vm: VM,
}

impl Ring {
    async fn new(backend: Backend) -> Ring {
        let mut nodes = Vec::new();
        for name in ["node-01", "node-02", "node-03"] {
            nodes.push(node(name, backend).await);
        }
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            introduce(&nodes[a], &nodes[b]);
        }
        let vm = started(&nodes[0].client().vm(), small("traveller")).await;
        let nodes = nodes.try_into().unwrap();
        Ring { nodes, vm }
    }

    fn at(&self, n: usize) -> (&Node, VMClient) {
        let node = &self.nodes[n % 3];
        (node, node.client().vm())
    }

    async fn hop(&self, n: usize) {
        moved(&self.at(n).1, &self.vm.id, self.at(n + 1).0).await;
    }

    /// It runs on one node, no other has it, and all say so.
    async fn is_only_at(&self, n: usize) {
        let id = &self.vm.id;
        whole(&self.at(n).1, id).await;
        for other in 0..3 {
            let (node, vms) = self.at(other);
            assert_eq!(has(node, id).await, other == n % 3, "{}", node.name());
            let seen = vms.get(id).await.unwrap();
            assert_eq!(
                (seen.state, seen.node.as_str()),
                (VMState::Running, self.at(n).0.name())
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_with_an_unresolved_hop_is_settled_when_the_vm_comes_back() {
    for backend in backends("a_chain_with_an_unresolved_hop").await {
        for lost in 0..3 {
            let ring = Ring::new(backend).await;
            for n in 0..lost {
                ring.hop(n).await;
            }
            let ((from, vms), (to, _)) = (ring.at(lost), ring.at(lost + 1));
            let broken = link(from, to);
            let id = &ring.vm.id;
            let first = lost_at(&broken, Way::BToA, "running", &vms, id, to).await;
            whole(&ring.at(lost + 1).1, id).await;
            // It moves on, and arrives where nobody could tell what became of it.
            ring.hop(lost + 1).await;
            ring.hop(lost + 2).await;
            let status = vms.get_migration_status(&first.id).await.unwrap();
            assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            assert!(has(from, id).await && !has(to, id).await);
            whole(&vms, id).await;
            // Who answers at last changes nothing.
            broken.heal();
            ring.is_only_at(lost).await;
            ring.hop(lost).await;
            ring.is_only_at(lost + 1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unresolved_hop_is_resolved_after_the_vm_has_moved_on() {
    for backend in backends("an_unresolved_hop_is_resolved").await {
        let ring = Ring::new(backend).await;
        let ((from, vms), (to, _)) = (ring.at(0), ring.at(1));
        let broken = link(from, to);
        let first = lost_at(&broken, Way::BToA, "running", &vms, &ring.vm.id, to).await;
        ring.hop(1).await;
        assert_eq!(vms.get(&ring.vm.id).await.unwrap().state, VMState::Unknown);
        // The second node's verdict has outlived that the VM left it.
        broken.heal();
        let status = ended(&vms, &first.id).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        ring.is_only_at(2).await;
    }
}

/// Two nodes whose second has a directory, and a VM that was granted to the second, which has not
/// heard of that.
struct Granted {
    here: Node,
    there: Node,
    link: Arc<FaultProxy>,
    vm: VM,
    migration: MigrationStatus,
    /// What the second node had before.
    before: tempfile::TempDir,
    dir: tempfile::TempDir,
}

async fn granted(backend: Backend) -> Granted {
    let [dir, before] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let here = node("node-01", backend).await;
    let there = builder("node-02", backend)
        .data_dir(dir.path())
        .listen("127.0.0.1:0");
    let there = there.start().await.unwrap();
    backup(dir.path(), before.path());
    let link = link(&here, &there);
    let vms = here.client().vm();
    let vm = started(&vms, small("granted")).await;
    let migration = lost_at(&link, Way::AToB, "commit", &vms, &vm.id, &there).await;
    Granted {
        here,
        there,
        link,
        vm,
        migration,
        before,
        dir,
    }
}

impl Granted {
    /// Ends the second node as a crash would, and starts another with this directory in its place.
    async fn exchange(&self, dir: &Path) -> Node {
        let (at, name) = (address(&self.there), self.there.name());
        let next = builder(name, self.there.backend())
            .data_dir(dir)
            .listen(at.to_string());
        // What it would write while it ends is not kept.
        let kept = tempfile::tempdir().unwrap();
        backup(self.dir.path(), kept.path());
        self.there.shutdown(Duration::ZERO).await.unwrap();
        backup(kept.path(), self.dir.path());
        let next = next.start().await.unwrap();
        self.link.refuse(false);
        next
    }

    /// Nobody runs the VM, and the source says why.
    async fn stays_unresolved(&self, there: &Node, word: &str) {
        let (vms, id) = (self.here.client().vm(), &self.vm.id);
        let says = || async {
            let reason = vms.get(id).await.unwrap().reason.unwrap();
            reason.contains(word)
        };
        until(word, says).await;
        // Also when it is asked at once.
        let status = vms
            .resolve_migration(&self.migration.id, false)
            .await
            .unwrap();
        assert_says(
            &status.error.unwrap(),
            &[
                "unresolved",
                "cannot be believed",
                word,
                "resolve_migration",
                "force",
            ],
        );
        assert_eq!(status.state, MigrationState::Completing);
        assert_eq!(vms.get(id).await.unwrap().state, VMState::Unknown);
        assert!(!has(there, id).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reinstalled_destination_is_a_stranger() {
    for backend in backends("a_reinstalled_destination").await {
        let case = granted(backend).await;
        let empty = tempfile::tempdir().unwrap();
        let reinstalled = case.exchange(empty.path()).await;
        assert_ne!(reinstalled.uuid(), case.there.uuid());
        case.stays_unresolved(&reinstalled, "reinstalled").await;
        // It is a node like any other for all else.
        let vms = case.here.client().vm();
        let other = started(&vms, small("other")).await;
        moved(&vms, &other.id, &reinstalled).await;
        reinstalled.shutdown(Duration::ZERO).await.unwrap();
        // The one that was meant comes back: it never took the VM, and says so.
        let at = address(&case.there).to_string();
        let back = builder("node-02", backend)
            .data_dir(case.dir.path())
            .listen(at);
        let back = back.start().await.unwrap();
        assert_eq!(back.uuid(), case.there.uuid());
        let status = ended(&vms, &case.migration.id).await;
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        whole(&vms, &case.vm.id).await;
        assert!(!has(&back, &case.vm.id).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_with_an_old_store_is_not_believed() {
    for backend in backends("a_destination_with_an_old_store").await {
        let case = granted(backend).await;
        // The same store, as it was before the hand-over: it would say that it never took the VM, and
        // cannot know.
        let restored = case.exchange(case.before.path()).await;
        assert_eq!(restored.uuid(), case.there.uuid());
        case.stays_unresolved(&restored, "backup").await;
    }
}
