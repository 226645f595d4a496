//! Kills a node at random points: whatever it had acknowledged is there afterwards.
//!
//! The test starts itself again as the node that is killed. That process does seeded operations, several
//! at a time, and says of each that it begins and that it was acknowledged; some moment after a
//! random number of lines it gets a SIGKILL. The same directory is opened here then, and held
//! against what was said. `DWCP_SEED` runs the chain of sequences with that seed alone.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dwcp::{Backend, Node, VM, VMClient, VMConfig, VMEventType, VMState};
use futures::StreamExt;
use support::with;

/// Directories, each of which goes through a chain of sequences.
const CHAINS: u64 = 50;
const SEQUENCES: u64 = 10;
/// Operations of one process at the same time.
const WORKERS: u64 = 3;
/// Lines after which the process is killed, at most.
const LINES_MAX: u64 = 60;
const SEED: u64 = 0x5eed;

const DIR: &str = "DWCP_CRASH_DIR";
const CHILD_SEED: &str = "DWCP_CRASH_SEED";
const SINCE: &str = "DWCP_CRASH_SINCE";

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn config(name: &str) -> VMConfig {
    let config = VMConfig {
        name: name.into(),
        memory: 16 << 20,
        cpus: 1,
        ..VMConfig::default()
    };
    with(config, &[("fill", "65536"), ("beat-hz", "10")])
}

async fn open(dir: &Path) -> Node {
    Node::builder("node-01")
        .backend(Backend::Sim)
        .data_dir(dir)
        .start()
        .await
        .unwrap()
}

// ---- the process that is killed ----

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever listens may have gone: then the end is near.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[test]
fn a_node_to_be_killed() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (seed, since) = (number(CHILD_SEED), number(SINCE));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let node = open(Path::new(&dir)).await;
        let vms = node.client().vm();
        let known = vms.list(()).await.unwrap();
        let mut events = vms.watch_since(None, (), since).await.unwrap();
        say("@READY");
        let workers = (0..WORKERS).map(|worker| {
            let mine: Vec<_> = known
                .iter()
                .skip(usize::try_from(worker).unwrap())
                .step_by(usize::try_from(WORKERS).unwrap())
                .map(|vm| vm.id.clone())
                .collect();
            work(vms.clone(), seed, worker, mine)
        });
        let watch = async {
            while let Some(event) = events.next().await {
                say(&format!(
                    "@E {} {} {}",
                    event.seq, event.event_type, event.vm.id
                ));
            }
        };
        futures::future::join(futures::future::join_all(workers), watch).await;
    });
}

/// One worker's operations on VMs that are its own, until the process is killed.
async fn work(vms: VMClient, seed: u64, worker: u64, mut mine: Vec<String>) {
    let mut random = Random(seed ^ (worker << 56));
    for step in 0..10_000_u64 {
        let dice = random.below(100);
        let at = random.below(mine.len().max(1) as u64);
        let at = usize::try_from(at).unwrap();
        if mine.is_empty() || dice < 35 {
            let name = format!("s{seed:x}-w{worker}-{step}");
            let keyed = random.below(2) == 0;
            let kind = if keyed { "create-keyed" } else { "create" };
            say(&format!("@B {worker} {kind} {name}"));
            let made = if keyed {
                vms.create_with_key(config(&name), &name).await.unwrap()
            } else {
                vms.create(config(&name)).await.unwrap()
            };
            say(&format!("@A {worker} {kind} {name} {}", made.id));
            mine.push(made.id);
            continue;
        }
        let id = mine[at].clone();
        let state = vms.get(&id).await.unwrap().state;
        let (word, value) = match (dice, state) {
            (35..65, _) => ("update", step + 1),
            (_, VMState::Running) => ("stop", 0),
            (65..80, _) => ("start", 0),
            _ => ("destroy", 0),
        };
        say(&format!("@B {worker} {word} {id} {value}"));
        match word {
            "update" => {
                let labels = BTreeMap::from([("n".to_owned(), format!("{seed:x}.{value}"))]);
                vms.update(&id, Some(labels), None).await.map(drop)
            }
            "stop" => vms.stop(&id, true).await,
            "start" => vms.start(&id).await,
            _ => vms.destroy(&id).await,
        }
        .unwrap();
        say(&format!("@A {worker} {word} {id} {value}"));
        if word == "destroy" {
            mine.remove(at);
        }
    }
}

// ---- the test ----

/// What is known of a VM.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Its label, as acknowledged.
    label: Option<String>,
    running: bool,
    failed: bool,
    destroyed: bool,
    /// What was begun and not acknowledged: it may have happened.
    begun: Option<(String, String)>,
}

/// What a process said before it was killed.
#[derive(Debug, Default)]
struct Said {
    vms: BTreeMap<String, Known>,
    /// Names of VMs whose creation was begun.
    creating: BTreeSet<String>,
    /// Names and ids of VMs that were created with a key.
    keyed: Vec<(String, String)>,
    /// Names of VMs whose creation with a key was begun.
    keyed_begun: Vec<String>,
    events: Vec<(u64, String, String)>,
    acknowledged: u64,
}

impl Said {
    fn hear(&mut self, line: &str, seed: u64) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["@E", seq, kind, id] => {
                let event = (seq.parse().unwrap(), kind.to_owned(), id.to_owned());
                self.events.push(event);
            }
            ["@B", _, "create", name] => drop(self.creating.insert(name.to_owned())),
            ["@B", _, "create-keyed", name] => {
                self.creating.insert(name.to_owned());
                self.keyed_begun.push(name.to_owned());
            }
            ["@A", _, kind @ ("create" | "create-keyed"), name, id] => {
                self.acknowledged += 1;
                self.creating.remove(name);
                self.keyed_begun.retain(|begun| begun != name);
                if kind == "create-keyed" {
                    self.keyed.push((name.to_owned(), id.to_owned()));
                }
                self.vms.insert(id.to_owned(), Known::default());
            }
            ["@B", _, word, id, value] => {
                let vm = self.vms.get_mut(id).unwrap();
                vm.begun = Some((word.to_owned(), format!("{seed:x}.{value}")));
            }
            ["@A", _, word, id, value] => {
                self.acknowledged += 1;
                let vm = self.vms.get_mut(id).unwrap();
                vm.begun = None;
                match word {
                    "update" => vm.label = Some(format!("{seed:x}.{value}")),
                    "start" => (vm.running, vm.failed) = (true, false),
                    "stop" => vm.running = false,
                    "destroy" => vm.destroyed = true,
                    other => panic!("{other}"),
                }
            }
            // What the test harness prints.
            _ => assert!(!line.starts_with('@') || line == "@READY", "{line}"),
        }
    }
}

/// Lets a process work in a directory and kills it.
fn kill_one(dir: &Path, seed: u64, since: u64, vms: BTreeMap<String, Known>) -> Said {
    let mut random = Random(!seed);
    let lines = random.below(LINES_MAX);
    let moment = Duration::from_micros(random.below(3000));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_node_to_be_killed", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .env(SINCE, since.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Said {
        vms,
        ..Said::default()
    };
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut heard = 0;
    if lines == 0 {
        // While it opens what the one before left.
        std::thread::sleep(moment * 10);
        child.kill().unwrap();
    }
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        // The last one may have been cut.
        if let Some(whole) = line.strip_suffix('\n') {
            // The harness does not end its own line before ours.
            let whole = whole.find('@').map_or(whole, |at| &whole[at..]);
            said.hear(whole, seed);
            heard += u64::from(whole.starts_with('@'));
            if lines > 0 && heard == lines {
                std::thread::sleep(moment);
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    let status = child.wait().unwrap();
    assert!(!status.success(), "it ended by itself: {status}");
    assert_eq!(status.code(), None, "it was not killed, but failed");
    said
}

fn label(vm: &VM) -> Option<&String> {
    vm.labels.get("n")
}

fn check(said: &Said, found: &BTreeMap<String, VM>) {
    for (id, known) in &said.vms {
        let begun = |word: &str| known.begun.as_ref().filter(|(own, _)| own == word);
        let Some(vm) = found.get(id) else {
            assert!(
                known.destroyed || begun("destroy").is_some(),
                "{id} is lost: {known:?}"
            );
            continue;
        };
        assert!(!known.destroyed, "{id} is here again: {known:?}");
        let labels = [
            known.label.as_ref(),
            begun("update").map(|(_, value)| value),
        ];
        let own = label(vm);
        assert!(
            own == labels[0] || own.is_some() && own == labels[1],
            "{id} has the label {own:?}: {known:?}"
        );
        let ran = known.running || begun("start").is_some();
        let stood = !known.running || begun("stop").is_some();
        match vm.state {
            VMState::Failed if known.failed => {}
            VMState::Failed if ran => {
                let reason = vm.reason.as_deref().unwrap();
                assert!(reason.starts_with("the node ended while"), "{reason}");
            }
            VMState::Stopped if stood => {}
            other => panic!("{id} is {other}: {known:?}"),
        }
    }
    for (id, vm) in found {
        assert!(
            said.vms.contains_key(id) || said.creating.contains(&vm.name),
            "{id} was never asked for: {vm:?}"
        );
    }
}

/// What survives from one sequence to the next.
#[derive(Default)]
struct Chain {
    uuid: Option<String>,
    vms: BTreeMap<String, Known>,
    /// The last event that was seen.
    seq: u64,
}

/// Opens the directory of a process that was killed, and compares.
async fn look(dir: &Path, chain: &mut Chain, said: &Said) {
    let node = open(dir).await;
    let uuid = chain.uuid.get_or_insert_with(|| node.uuid().to_owned());
    assert_eq!(node.uuid(), uuid);
    let vms = node.client().vm();
    let all = vms.list(()).await.unwrap();
    let found: BTreeMap<_, _> = all.iter().map(|vm| (vm.id.clone(), vm.clone())).collect();
    check(said, &found);
    for (name, id) in &said.keyed {
        if !said.vms[id].destroyed && said.vms[id].begun.is_none() {
            let again = vms.create_with_key(config(name), name).await.unwrap();
            assert_eq!(again.id, *id, "{name} was made twice");
        }
    }
    for name in &said.keyed_begun {
        let made = vms.create_with_key(config(name), name).await.unwrap();
        let before = all.iter().find(|vm| vm.name == *name);
        assert!(
            before.is_none_or(|vm| vm.id == made.id),
            "{name} was made twice"
        );
    }
    // Everything that a watcher was told, and the rest, in order.
    let marker = vms.create(config("marker")).await.unwrap();
    let mut events = vms.watch_since(None, (), chain.seq).await.unwrap();
    let mut told = BTreeMap::new();
    loop {
        let event = events.next().await.unwrap();
        assert_eq!(event.seq, chain.seq + 1, "{event:?}");
        chain.seq = event.seq;
        if event.vm.id == marker.id && event.event_type == VMEventType::Created {
            break;
        }
        let kind = event.event_type.to_string();
        told.insert(event.seq, (kind, event.vm.id));
    }
    for (seq, kind, id) in &said.events {
        assert_eq!(told.get(seq), Some(&(kind.clone(), id.clone())), "{seq}");
    }
    vms.destroy(&marker.id).await.unwrap();
    chain.vms = vms
        .list(())
        .await
        .unwrap()
        .into_iter()
        .map(|vm| {
            let known = Known {
                label: label(&vm).cloned(),
                failed: vm.state == VMState::Failed,
                ..Known::default()
            };
            (vm.id, known)
        })
        .collect();
    node.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// One directory; how many operations were acknowledged there.
fn run(seed: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut chain, mut acknowledged) = (Chain::default(), 0);
    for sequence in 0..SEQUENCES {
        let own = Random(seed.wrapping_mul(0x1_0001).wrapping_add(sequence)).next() >> 8;
        let vms = std::mem::take(&mut chain.vms);
        let said = kill_one(dir.path(), own, chain.seq, vms);
        acknowledged += said.acknowledged;
        runtime.block_on(look(dir.path(), &mut chain, &said));
    }
    acknowledged
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    if std::env::var_os(DIR).is_some() {
        return;
    }
    if let Ok(seed) = std::env::var("DWCP_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let (next, acknowledged) = (AtomicU64::new(SEED), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEED + CHAINS {
                        return;
                    }
                    let outcome = std::panic::catch_unwind(|| run(seed));
                    match outcome {
                        Ok(count) => drop(acknowledged.fetch_add(count, Ordering::Relaxed)),
                        Err(panic) => {
                            eprintln!("DWCP_SEED={seed} runs this chain alone");
                            std::panic::resume_unwind(panic);
                        }
                    }
                }
            });
        }
    });
    let acknowledged = acknowledged.into_inner();
    println!("{acknowledged} operations were acknowledged");
    // A test in which nothing happens before the end shows nothing.
    assert!(acknowledged > CHAINS * SEQUENCES, "{acknowledged}");
}
