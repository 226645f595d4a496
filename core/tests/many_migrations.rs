//! Many migrations between two nodes that are processes of their own: one after the other, which leave
//! nothing behind, and all at once.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

#[path = "many_migrations/drain.rs"]
mod drain;
#[path = "many_migrations/leaks.rs"]
mod leaks;
#[path = "many_migrations/level.rs"]
mod level;

use dwcp::{
    Backend, MigrationOptions, MigrationState, MigrationStatus, SameHost, VMClient, VMConfig,
    VMState,
};
use futures::StreamExt;
use futures::future::join_all;
use support::node_process::{NodeProcess, backends};
use support::place::{PEER, Place};
use support::{config, skipped, started, whole, with};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// The tests of this binary take turns: each has enough to do for the whole host.
static TURN: Mutex<()> = Mutex::const_new(());

const NAMES: [&str; 2] = ["node-01", "node-02"];

/// Two nodes that know each other.
struct Pair {
    dir: TempDir,
    processes: [NodeProcess; 2],
    vms: [VMClient; 2],
}

impl Pair {
    async fn start(backend: Backend) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let [mut here, mut there] = NAMES.map(|name| Place::new(name, backend));
        here.introduce(NAMES[1], &there, PEER);
        there.introduce(NAMES[0], &here, PEER);
        // One after the other: the first makes the authority of both.
        let processes = [here.start(dir.path()), there.start(dir.path())];
        let clients = [
            here.client(dir.path()).await,
            there.client(dir.path()).await,
        ];
        Pair {
            dir,
            processes,
            vms: clients.map(|client| client.vm()),
        }
    }

    /// Moves a VM away from a node, to the other, and waits for the end.
    async fn moved(&self, from: usize, id: &str, options: MigrationOptions) -> MigrationStatus {
        let vms = &self.vms[from];
        let begun = vms.migrate(id, NAMES[1 - from], options).await.unwrap();
        let mut progress = vms.migration_progress(&begun.id).await.unwrap();
        let mut last = begun;
        while let Some(status) = progress.next().await {
            last = status;
        }
        assert_eq!(progress.error(), None);
        assert!(last.state.is_terminal(), "{last:?}");
        last
    }
}

/// Where there is no KVM, that is said.
async fn all_backends(test: &str) -> Vec<Backend> {
    backends(|reason| skipped(&format!("{test} on KVM"), &reason)).await
}

/// The defaults, with time for a host that does other things too: nothing here is about the limit.
fn options(same_host: SameHost) -> MigrationOptions {
    MigrationOptions {
        same_host,
        max_downtime: 60_000,
        ..MigrationOptions::default()
    }
}

/// VMs that move at once: half of what a node allows where nothing else is said.
const AT_ONCE: usize = 32;

/// A small guest that writes now and then.
fn one_of_many(number: usize) -> VMConfig {
    let config = VMConfig {
        memory: 16 << 20,
        ..config(&format!("traveller-{number}"))
    };
    let writes = [
        ("fill", "2097152"),
        ("working-set", "262144"),
        ("dirty-pages-per-second", "500"),
        ("beat-hz", "20"),
    ];
    with(config, &writes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_vms_move_at_once_and_all_arrive() {
    let _turn = TURN.lock().await;
    for backend in all_backends("thirty_two_vms_move_at_once").await {
        let pair = Pair::start(backend).await;
        let vms: Vec<_> = (0..AT_ONCE).map(one_of_many).collect();
        let vms = vms.into_iter().map(|vm| started(&pair.vms[0], vm));
        let vms = join_all(vms).await;
        for (from, same_host) in [
            (0, SameHost::Never),
            (1, SameHost::Never),
            (0, SameHost::Require),
            (1, SameHost::Require),
        ] {
            let began = std::time::Instant::now();
            let (here, there) = (&pair.vms[from], &pair.vms[1 - from]);
            let moves = vms
                .iter()
                .map(|vm| pair.moved(from, &vm.id, options(same_host)));
            for status in join_all(moves).await {
                assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            }
            println!(
                "{backend:?}: {AT_ONCE} VMs, {same_host:?}: {:?}",
                began.elapsed()
            );
            assert!(here.list(()).await.unwrap().is_empty());
            let arrived = there.list(()).await.unwrap();
            assert_eq!(arrived.len(), vms.len());
            for vm in arrived {
                assert_eq!(
                    (vm.state, vm.node.as_str()),
                    (VMState::Running, NAMES[1 - from])
                );
            }
            join_all(vms.iter().map(|vm| whole(there, &vm.id))).await;
        }
    }
}
