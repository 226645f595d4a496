//! One VM goes there and back, in all ways in turn, and neither node has more than it had after the first
//! times.

use std::time::{Duration, Instant};

use dwcp::MigrationMode;

use super::level::Level;
use super::*;

/// How the VM is asked to move, by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Over one connection, with as little as can be.
    OneConnection,
    /// Over several, encrypted and with checksums, as by default.
    Default,
    Compressed,
    /// The guest outruns its copy, and is switched first.
    PostCopy,
    /// In its memory.
    SameHost,
    /// The VM is paused before.
    Paused,
    /// The migration pauses it.
    NotLive,
    /// The VM is stopped.
    Offline,
    /// A migration is cancelled, and then it moves.
    Cancelled,
}

/// An odd number, so that each goes both ways by turns.
const WAYS: [Way; 9] = [
    Way::OneConnection,
    Way::Default,
    Way::Compressed,
    Way::PostCopy,
    Way::SameHost,
    Way::Paused,
    Way::NotLive,
    Way::Offline,
    Way::Cancelled,
];

/// Time for what has to come, on a host that does other things too.
const END: Duration = Duration::from_secs(60);
/// The time between two looks.
const AGAIN: Duration = Duration::from_millis(20);

/// Migrations after which the nodes are looked at first: each way was gone there and back, so that what is
/// opened, allocated and remembered once is.
const FIRST: usize = 2 * WAYS.len();

/// Migrations in all; an even number, so that the VM is at last where it was at first.
fn how_many() -> usize {
    match std::env::var_os("DWCP_LONG") {
        Some(_) => 1_000,
        None => 50,
    }
}

impl Way {
    fn options(self) -> MigrationOptions {
        let usual = options(SameHost::Never);
        match self {
            Way::OneConnection => MigrationOptions {
                parallel: 1,
                compression: false,
                verify_checksum: false,
                encrypt_transport: false,
                ..usual
            },
            Way::Default | Way::Paused | Way::Cancelled => usual,
            // So slow that compressing saves time where anything can be.
            Way::Compressed => MigrationOptions {
                bandwidth: 64 << 20,
                ..usual
            },
            Way::PostCopy => MigrationOptions {
                post_copy: true,
                bandwidth: 16 << 20,
                ..usual
            },
            Way::SameHost => options(SameHost::Require),
            Way::NotLive => MigrationOptions {
                live: false,
                ..usual
            },
            Way::Offline => MigrationOptions {
                offline: true,
                ..usual
            },
        }
    }

    /// Moves the VM from a node to the other in this way; it runs before and after.
    async fn take(self, pair: &Pair, from: usize, id: &str) -> MigrationStatus {
        let (here, there) = (&pair.vms[from], &pair.vms[1 - from]);
        match self {
            Way::Paused => here.pause(id).await.unwrap(),
            Way::Cancelled => {
                let slow = MigrationOptions {
                    bandwidth: 1 << 20,
                    ..self.options()
                };
                let begun = here.migrate(id, NAMES[1 - from], slow).await.unwrap();
                let status = here.cancel_migration(&begun.id).await.unwrap();
                assert_eq!(status.state, MigrationState::Cancelled, "{status:?}");
            }
            _ => {}
        }
        let status = pair.moved(from, id, self.options()).await;
        assert_eq!(
            status.state,
            MigrationState::Completed,
            "{self:?}: {status:?}"
        );
        let state = there.get(id).await.unwrap().state;
        match self {
            Way::Paused => {
                assert_eq!(state, VMState::Paused);
                there.resume(id).await.unwrap();
            }
            Way::Offline => {
                assert_eq!(state, VMState::Stopped);
                there.start(id).await.unwrap();
            }
            _ => assert_eq!(state, VMState::Running, "{self:?}"),
        }
        status
    }
}

/// A guest that writes all of its working set while some of it is sent, where that is slow.
fn busy() -> VMConfig {
    let busy = [
        ("fill", "4194304"),
        ("working-set", "2097152"),
        ("dirty-pages-per-second", "40000"),
    ];
    let config = VMConfig {
        memory: 16 << 20,
        ..config("traveller")
    };
    with(config, &busy)
}

fn levels(pair: &Pair) -> [Level; 2] {
    [0, 1].map(|node| Level::of(&pair.processes[node], &pair.dir.path().join(NAMES[node])))
}

/// The same, once the node that the VM has left, the second one, has let go of it.
async fn settled(pair: &Pair) -> [Level; 2] {
    let deadline = Instant::now() + END;
    loop {
        let levels = levels(pair);
        assert!(levels[0].has_guest(), "the VM is on the first node");
        if !levels[1].has_guest() {
            return levels;
        }
        assert!(Instant::now() < deadline, "{levels:?}");
        tokio::time::sleep(AGAIN).await;
    }
}

fn tell(what: &str, levels: &[Level; 2]) {
    for (name, level) in NAMES.iter().zip(levels) {
        println!(
            "{what}: {name} has {} threads, {} files, {} mappings, {:?}",
            level.threads(),
            level.files(),
            level.mappings(),
            level.memory,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_migrations_in_a_pair_of_processes_leak_nothing() {
    let _turn = TURN.lock().await;
    for backend in all_backends("fifty_migrations").await {
        let began = Instant::now();
        let pair = Pair::start(backend).await;
        let vm = started(&pair.vms[0], busy()).await;
        let mut before = None;
        let mut modes = Vec::new();
        for n in 0..how_many() {
            if n == FIRST {
                let levels = settled(&pair).await;
                tell(&format!("{backend:?}, {n} migrations"), &levels);
                before = Some(levels);
            }
            let from = n % 2;
            let status = WAYS[n % WAYS.len()].take(&pair, from, &vm.id).await;
            if !modes.contains(&status.mode) {
                modes.push(status.mode);
            }
            whole(&pair.vms[1 - from], &vm.id).await;
            if (n + 1) % 100 == 0 {
                let what = format!("{backend:?}, {} migrations in {:?}", n + 1, began.elapsed());
                tell(&what, &levels(&pair));
            }
        }
        for mode in [
            MigrationMode::Precopy,
            MigrationMode::Postcopy,
            MigrationMode::StopAndCopy,
            MigrationMode::SameHost,
            MigrationMode::Offline,
        ] {
            assert!(modes.contains(&mode), "none was by {mode}: {modes:?}");
        }
        let (before, since) = (before.unwrap(), how_many() - FIRST);
        let deadline = Instant::now() + END;
        loop {
            let now = levels(&pair);
            let more = [0, 1].map(|node| now[node].more_than(&before[node], since));
            if more.iter().all(Vec::is_empty) {
                tell(
                    &format!("{backend:?}, at last, after {:?}", began.elapsed()),
                    &now,
                );
                break;
            }
            assert!(Instant::now() < deadline, "{NAMES:?} have {more:#?}");
            tokio::time::sleep(AGAIN).await;
        }
    }
}
