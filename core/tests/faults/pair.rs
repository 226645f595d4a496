//! Two nodes as processes, a proxy between them, and a VM that moves from one to the other.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dwcp::{
    Backend, Client, ClientConfig, MigrationMode, MigrationOptions, MigrationState,
    MigrationStatus, SameHost, VM, VMClient, VMConfig, VMState,
};
use tempfile::TempDir;

use super::stamps::{Memory, Seen, Stamps, wait_beats};
use crate::support::fault_proxy::{FaultProxy, Way};
use crate::support::held::{Held, threads_and_files};
use crate::support::node_process::NodeProcess;
use crate::support::{config, with};

/// How long a node is silent before the other takes it for lost.
pub(crate) const PEER_TIMEOUT: Duration = Duration::from_millis(1500);
/// The limit on downtime: longer than what does not count on it.
pub(crate) const MAX_DOWNTIME: Duration = Duration::from_secs(6);
/// How an error begins that no slow host excuses.
pub(crate) const NEVER: &str = "this must never be: ";
/// Time for anything to come to its end on a busy host.
const END: Duration = Duration::from_secs(60);
/// Time for one question to a node that may be stopped.
const ANSWER: Duration = Duration::from_secs(1);
/// The time between two questions.
const AGAIN: Duration = Duration::from_millis(10);
const NAMES: [&str; 2] = ["node-a", "node-b"];
/// Bytes per second of a copy that its guest outruns: less than a third of what that writes.
const OUTRUN: u64 = 6 << 20;

/// How a VM gets from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its memory is copied before the switch.
    PreCopy,
    /// Its memory is copied, and some of it after the switch: the guest writes faster.
    PostCopy,
    /// Its memory is handed over.
    SameHost,
}

/// Who has the VM, and whether it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Outcome {
    RunsAtSource,
    RunsAtDestination,
    FailedAtSource,
    FailedAtDestination,
}

/// What happens by itself after a while, such as that a stopped process continues.
pub(crate) type Timers = Arc<Mutex<Vec<JoinHandle<()>>>>;

pub(crate) struct Pair {
    dir: TempDir,
    backend: Backend,
    kind: Kind,
    pub(crate) proxy: Arc<FaultProxy>,
    addresses: [SocketAddr; 2],
    /// Nowhere while a node that was killed is started again.
    processes: [Option<NodeProcess>; 2],
    vms: [VMClient; 2],
    vm: String,
    /// The node that has the VM.
    pub(crate) at: usize,
    /// The most that a node without the VM, and with it, held after moves that went well.
    levels: [Held; 2],
    /// Verdicts that may stay: a node that was killed tells one only when it is asked, and if the source's
    /// last word to it is lost then, nobody asks again.
    verdicts_stay: u32,
    /// Which nodes were started again since a migration was last begun.
    restarted: [bool; 2],
    /// The migration that was settled last told the destination which pages come late.
    pub(crate) switched: bool,
    /// Nodes that were killed and have not been started again.
    pub(crate) killed: Arc<Mutex<Vec<u32>>>,
}

impl Pair {
    /// A VM that has been on both nodes runs on the first.
    pub(crate) async fn start(backend: Backend, kind: Kind) -> Pair {
        let dir = directory();
        let addresses = [address(), address()];
        let proxy = Arc::new(FaultProxy::start(addresses[0], addresses[1]));
        let ways = [proxy.to_b, proxy.to_a];
        let run = |node: usize| start(dir.path(), backend, node, addresses[node], ways[node]);
        let processes = [0, 1].map(|node| Some(run(node)));
        let vms = [client(addresses[0]).await, client(addresses[1]).await];
        let vm = vms[0].create(guest(kind)).await.unwrap();
        vms[0].start(&vm.id).await.unwrap();
        let mut pair = Pair {
            dir,
            backend,
            kind,
            proxy,
            addresses,
            processes,
            vms,
            vm: vm.id,
            at: 0,
            levels: [Held::new(), Held::new()],
            verdicts_stay: 0,
            restarted: [false; 2],
            switched: false,
            killed: Arc::default(),
        };
        // Twice, so that what is opened once is open.
        for hop in 0..4 {
            pair.moves_well().await;
            if hop >= 2 {
                for node in [0, 1] {
                    let now = threads_and_files(pair.process(node));
                    let level = &mut pair.levels[usize::from(node == pair.at)];
                    for (what, count) in now {
                        let most = level.entry(what).or_default();
                        *most = count.max(*most);
                    }
                }
            }
        }
        pair
    }

    /// The process id of a node.
    pub(crate) fn process(&self, node: usize) -> u32 {
        self.processes[node].as_ref().unwrap().id()
    }

    /// The way from the node that has the VM to the other.
    pub(crate) fn forth(&self) -> Way {
        [Way::AToB, Way::BToA][self.at]
    }

    /// Begins to move the VM to the other node; the migration's id, if the node lived to tell.
    pub(crate) async fn begin(&mut self) -> Option<String> {
        let bandwidth = match self.kind {
            Kind::PostCopy => OUTRUN,
            _ => 0,
        };
        self.begin_at(bandwidth).await.ok()
    }

    /// The same over a link of so many bytes a second; 0: without a limit.
    async fn begin_at(&mut self, bandwidth: u64) -> Result<String, String> {
        let base = MigrationOptions {
            encrypt_transport: false,
            verify_checksum: false,
            parallel: 2,
            same_host: SameHost::Never,
            max_downtime: u64::try_from(MAX_DOWNTIME.as_millis()).unwrap(),
            ..MigrationOptions::default()
        };
        let options = match self.kind {
            Kind::PreCopy => base,
            Kind::PostCopy => MigrationOptions {
                post_copy: true,
                auto_converge: false,
                // What would make it faster than the limit says.
                compression: false,
                bandwidth,
                ..base
            },
            Kind::SameHost => MigrationOptions {
                same_host: SameHost::Require,
                ..base
            },
        };
        self.restarted = [false; 2];
        let begun = self.vms[self.at].migrate(&self.vm, NAMES[1 - self.at], options);
        // A node that is killed meanwhile does not answer.
        let begun = tokio::time::timeout(END, begun).await;
        let begun = begun.map_err(|e| e.to_string())?;
        begun.map(|status| status.id).map_err(|e| e.to_string())
    }

    /// Watches the guest's stamps.
    pub(crate) fn watch(&self) -> Stamps {
        let (source, destination) = (self.process(self.at), self.process(1 - self.at));
        match self.kind {
            Kind::PreCopy => Stamps::watch(source, destination),
            Kind::PostCopy => Stamps::watch_late(source, destination),
            Kind::SameHost => Stamps::watch_one(source, destination),
        }
    }

    /// Waits until nothing is open any more, no fault is at work, and none can come: who has the VM. Nodes
    /// that were killed are started again. With `all`, every fault must have come.
    pub(crate) async fn settle(
        &mut self,
        migration: Option<&str>,
        timers: &Timers,
        all: bool,
    ) -> Result<Outcome, String> {
        self.rest(migration).await?;
        let seen = self.proxy.seen();
        self.switched = seen.iter().any(|seen| seen.operation == "missing");
        let end = Instant::now() + ANSWER;
        // The last message may still be on its way.
        while all && self.proxy.rules_left() > 0 && Instant::now() < end {
            tokio::time::sleep(AGAIN).await;
        }
        if all && self.proxy.rules_left() > 0 {
            return Err("the message did not come".into());
        }
        self.proxy.heal();
        while let Some(timer) = next(timers) {
            tokio::task::block_in_place(|| timer.join().unwrap());
        }
        self.rest(migration).await
    }

    /// Waits until nothing is open at this moment: who has the VM.
    async fn rest(&mut self, migration: Option<&str>) -> Result<Outcome, String> {
        let end = Instant::now() + END;
        let (source, destination) = (self.at, 1 - self.at);
        loop {
            self.revive();
            let states = [self.state(source).await, self.state(destination).await];
            let over = self.is_over(source, migration).await;
            if let (true, [Ok(here), Ok(there)]) = (over, &states)
                && self.proxy.waiting() == 0
            {
                let outcome = match (here, there) {
                    (Some(VMState::Running), None) => Some(Outcome::RunsAtSource),
                    (None, Some(VMState::Running)) => Some(Outcome::RunsAtDestination),
                    (Some(VMState::Failed), None) => Some(Outcome::FailedAtSource),
                    (None, Some(VMState::Failed)) => Some(Outcome::FailedAtDestination),
                    _ => None,
                };
                if let Some(outcome) = outcome
                    && (outcome != Outcome::RunsAtDestination || self.is_whole(destination).await)
                {
                    return Ok(outcome);
                }
            }
            if Instant::now() > end {
                let status = self.status(source, migration).await;
                return Err(format!(
                    "not settled after {END:?}: source and destination {states:?}, {status:?}"
                ));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// After a migration that came to its end: the guest's stamps, its memory, and a migration that goes
    /// well. The pair is as before, with the VM on the other node than the one that had it.
    pub(crate) async fn check(&mut self, outcome: Outcome, stamps: Stamps) -> Result<Seen, String> {
        let (source, destination) = (self.at, 1 - self.at);
        let runs = match outcome {
            Outcome::RunsAtSource => Some(source),
            Outcome::RunsAtDestination => Some(destination),
            Outcome::FailedAtSource | Outcome::FailedAtDestination => None,
        };
        if let Some(runner) = runs {
            let memory = Memory::of(self.process(runner)).ok_or("the runner has no memory")?;
            // Where there is one memory, it takes longer to see who runs.
            let beats = match self.kind {
                Kind::PreCopy => 20,
                Kind::PostCopy | Kind::SameHost => 500,
            };
            wait_beats(&memory, beats, END);
        }
        let seen = stamps.end();
        if !seen.wrong.is_empty() {
            return Err(format!("{NEVER}{:?}; {seen:?}", seen.wrong));
        }
        let there = matches!(
            outcome,
            Outcome::RunsAtDestination | Outcome::FailedAtDestination
        );
        // What was taken just before the node was killed may not have beaten once.
        if seen.ran_there != there && (runs.is_some() || seen.ran_there) {
            return Err(format!("{NEVER}{outcome:?}, and the stamps say: {seen:?}"));
        }
        self.at = if there { destination } else { source };
        let vms = &self.vms[self.at];
        if runs.is_some() {
            let report = vms
                .guest_report(&self.vm)
                .await
                .map_err(|e| e.to_string())?;
            if report.beats < seen.source.max(seen.destination) {
                return Err(format!("{NEVER}it lost beats: {report:?}, {seen:?}"));
            }
        } else {
            vms.start(&self.vm).await.map_err(|e| e.to_string())?;
        }
        let report = vms.verify(&self.vm).await.map_err(|e| e.to_string())?;
        if !report.verified || report.faults > 0 {
            return Err(format!("{NEVER}its memory is wrong: {report:?}"));
        }
        self.moves_well().await;
        self.leaks_nothing().await?;
        Ok(seen)
    }

    /// Moves the VM to the other node, and nothing goes wrong.
    async fn moves_well(&mut self) {
        let stamps = self.watch();
        // Without a limit: there is nothing to be hit by a fault.
        let id = self.begin_at(0).await.unwrap();
        let outcome = self.rest(Some(&id)).await.unwrap();
        let status = self.status(self.at, Some(&id)).await;
        let seen = stamps.end();
        assert!(seen.wrong.is_empty(), "{NEVER}{seen:?}");
        assert_eq!(outcome, Outcome::RunsAtDestination, "{status:?}");
        self.at = 1 - self.at;
        let report = self.vms[self.at].verify(&self.vm).await.unwrap();
        assert!(report.verified && report.faults == 0, "{NEVER}{report:?}");
        let memory = Memory::of(self.process(self.at)).unwrap();
        let beats = memory.beats();
        let report = self.vms[self.at].guest_report(&self.vm).await.unwrap();
        assert!(
            (beats..=memory.beats()).contains(&report.beats),
            "{report:?}"
        );
    }

    /// Waits until both nodes hold no more than they did.
    async fn leaks_nothing(&self) -> Result<(), String> {
        let end = Instant::now() + END;
        loop {
            let mut more = Vec::new();
            for node in [0, 1] {
                let level = &self.levels[usize::from(node == self.at)];
                for (what, count) in threads_and_files(self.process(node)) {
                    let before = level.get(&what).copied().unwrap_or(0);
                    if count > before {
                        let name = NAMES[node];
                        more.push(format!("{name} has {count} of {what}, and had {before}"));
                    }
                }
            }
            let verdicts = self.verdicts();
            if verdicts > self.verdicts_stay {
                let stay = self.verdicts_stay;
                more.push(format!(
                    "there are {verdicts} verdicts, and {stay} may stay"
                ));
            }
            if more.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(more.join("; "));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Verdicts in the stores of both nodes, which their sources have not settled.
    fn verdicts(&self) -> u32 {
        let count = |name: &str| {
            let file = self.dir.path().join(name).join("node.db");
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let store = rusqlite::Connection::open_with_flags(file, flags).unwrap();
            store.busy_timeout(ANSWER).unwrap();
            let query = "SELECT count(*) FROM verdicts";
            store
                .query_row(query, [], |row| row.get::<_, u32>(0))
                .unwrap()
        };
        NAMES.into_iter().map(count).sum()
    }

    /// Starts the nodes that were killed again.
    fn revive(&mut self) {
        let killed = std::mem::take(&mut *self.killed.lock().unwrap());
        for node in [0, 1] {
            if killed.contains(&self.process(node)) {
                let way = [self.proxy.to_b, self.proxy.to_a][node];
                let address = self.addresses[node];
                self.verdicts_stay += u32::from(node != self.at);
                self.restarted[node] = true;
                // First the old one ends altogether: it has the data directory.
                self.processes[node] = None;
                let process = start(self.dir.path(), self.backend, node, address, way);
                self.processes[node] = Some(process);
            }
        }
    }

    /// Whether all of the VM's memory is on the node where it runs. It is to be moved to nowhere, which is
    /// refused in any case: first of all for what is still to come.
    async fn is_whole(&self, node: usize) -> bool {
        if self.kind != Kind::PostCopy {
            return true;
        }
        let moved = self.vms[node].migrate(&self.vm, "nowhere", MigrationOptions::default());
        match tokio::time::timeout(ANSWER, moved).await {
            Ok(Err(error)) => !error.to_string().contains("still on its way here"),
            _ => false,
        }
    }

    /// Whether a post-copy that came to its end is told as what it was: by the source, unless that was started
    /// again, and by the destination where it has lost the VM. With `unsure`, the source may not have heard that all
    /// had come.
    pub(crate) async fn told(
        &self,
        migration: Option<&str>,
        outcome: Outcome,
        unsure: bool,
    ) -> Result<(), String> {
        if self.kind != Kind::PostCopy {
            return Ok(());
        }
        let (source, destination) = (self.at, 1 - self.at);
        let lost = match outcome {
            Outcome::RunsAtSource | Outcome::FailedAtSource => return Ok(()),
            Outcome::RunsAtDestination => false,
            Outcome::FailedAtDestination => true,
        };
        if !self.restarted[source] {
            let status = self.status(source, migration).await.unwrap_or_default();
            if status.mode != MigrationMode::Postcopy {
                return Err(format!("the switch did not come first: {status:?}"));
            }
            let error = status.error.as_deref().unwrap_or_default();
            let told = match status.state {
                // It may have been killed when all had come.
                MigrationState::Completed => !lost || self.restarted[destination],
                MigrationState::Failed => (lost || unsure) && error.contains("(post-copy)"),
                _ => false,
            };
            if !told {
                return Err(format!("{outcome:?}, and the source says {status:?}"));
            }
        }
        let vm = self.arrived(destination).await?;
        let reason = vm.and_then(|vm| vm.reason).unwrap_or_default();
        let told = match self.restarted[destination] {
            true => !reason.is_empty(),
            false => reason.contains("(post-copy)"),
        };
        if lost && !told {
            return Err(format!("the destination has lost it, and says `{reason}`"));
        }
        Ok(())
    }

    /// The state of the VM on a node; none where it is not.
    async fn state(&self, node: usize) -> Result<Option<VMState>, String> {
        Ok(self.arrived(node).await?.map(|vm| vm.state))
    }

    /// The VM as a node has it.
    async fn arrived(&self, node: usize) -> Result<Option<VM>, String> {
        let list = tokio::time::timeout(ANSWER, self.vms[node].list(())).await;
        let list = list.map_err(|e| e.to_string())?;
        let list = list.map_err(|e| e.to_string())?;
        Ok(list.into_iter().find(|vm| vm.id == self.vm))
    }

    async fn is_over(&self, node: usize, migration: Option<&str>) -> bool {
        match self.status(node, migration).await {
            Some(status) => status.state.is_terminal(),
            // It was not told, or killed before it wrote it down.
            None => true,
        }
    }

    async fn status(&self, node: usize, migration: Option<&str>) -> Option<MigrationStatus> {
        let asked = self.vms[node].get_migration_status(migration?);
        let answered = tokio::time::timeout(ANSWER, asked).await;
        match answered {
            Ok(Ok(status)) => Some(status),
            Ok(Err(dwcp::DWCPError::NotFound(_))) => None,
            // It cannot tell at this moment: by default a migration is not over.
            _ => Some(MigrationStatus::default()),
        }
    }
}

fn next(timers: &Timers) -> Option<JoinHandle<()>> {
    timers.lock().unwrap().pop()
}

/// A small guest that writes to its memory all the time, and beats a thousand times a second.
fn guest(kind: Kind) -> VMConfig {
    let (cpus, busy): (u32, &[_]) = match kind {
        // Twenty megabytes a second, and two thirds of one for a round of what it wrote. One vCPU may write behind what
        // is sent unasked all the time; the other then needs what is far from it.
        Kind::PostCopy => (
            2,
            &[
                ("fill", "5242880"),
                ("working-set", "4194304"),
                ("dirty-pages-per-second", "5000"),
                ("beat-hz", "1000"),
            ],
        ),
        Kind::PreCopy | Kind::SameHost => (
            1,
            &[
                ("working-set", "262144"),
                ("dirty-pages-per-second", "2000"),
                ("beat-hz", "1000"),
            ],
        ),
    };
    VMConfig {
        cpus,
        memory: 16 << 20,
        ..with(config("traveller"), busy)
    }
}

/// For the data of both nodes, in memory where that can be: a disk that is slow for others has nothing to
/// do with these tests, and what a killed process wrote is there all the same.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// An address of loopback that nobody else uses, so that it is free while its node is away.
fn address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

fn start(
    dir: &Path,
    backend: Backend,
    node: usize,
    address: SocketAddr,
    other: SocketAddr,
) -> NodeProcess {
    let data = dir
        .join(NAMES[node])
        .into_os_string()
        .into_string()
        .unwrap();
    let peer = format!("{}={other}", NAMES[1 - node]);
    let timeout = PEER_TIMEOUT.as_secs_f64().to_string();
    let listen = address.to_string();
    let arguments = [
        ("--name", NAMES[node]),
        ("--listen", &listen),
        ("--data-dir", &data),
        ("--peer", &peer),
        ("--peer-timeout", &timeout),
    ];
    let arguments: Vec<&str> = arguments.into_iter().flat_map(|(a, b)| [a, b]).collect();
    NodeProcess::start(backend, &arguments)
}

async fn client(address: SocketAddr) -> VMClient {
    let config = ClientConfig::new(address.ip().to_string())
        .with_port(address.port())
        .with_tls_enabled(false)
        .with_retry_backoff(Duration::from_millis(10));
    Client::new(config).await.unwrap().vm()
}

/// Tells a process something by a signal; one that is gone cannot be told.
pub(crate) fn signal(process: u32, name: &str) {
    let told = Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .stderr(Stdio::null())
        .status();
    let gone = !Path::new(&format!("/proc/{process}")).exists();
    assert!(told.unwrap().success() || gone, "kill -{name} {process}");
}

/// Stops a process, and waits until nothing of it runs.
pub(crate) fn stop(process: u32) {
    signal(process, "STOP");
    // A thread that has ended is not there. One that waits in the kernel (`D`), as for a thread of KVM
    // that is stopped already, stops before it is back in the program.
    let runs = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        !state.is_empty() && !state.starts_with(['T', 'D', 'Z', 'X'])
    };
    wait_until(process, "task", |tasks| !tasks.flatten().any(runs));
}

/// Kills a process, and waits until nothing of it runs any more.
pub(crate) fn kill(process: u32) {
    signal(process, "KILL");
    // It stays as a zombie until its parent looks.
    wait_until(process, "fd", |files| files.count() == 0);
}

/// Waits for what a directory of a process shows, or until it shows nothing any more.
fn wait_until(process: u32, what: &str, is: impl Fn(std::fs::ReadDir) -> bool) {
    let end = Instant::now() + END;
    while !std::fs::read_dir(format!("/proc/{process}/{what}")).map_or(true, &is) {
        assert!(Instant::now() < end, "process {process}: {what} stays");
        std::thread::yield_now();
    }
}
