//! What a node that is a process of its own has at a moment, and what it has more of later.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::held::{Held, mappings, threads_and_files};
use crate::support::node_process::NodeProcess;

/// Mappings of memory without a name that may come, for what the allocator gets, and the stacks of a few
/// threads that have ended, which the C library keeps for the next ones. A stack takes two.
const MAPPINGS_MAY_COME: usize = 12;
/// Mappings of the index of the store's log that may come: one for each 16 MiB of log, which is written to its
/// file now and then.
const LOG_MAY_COME: usize = 6;
/// Threads of the runtime that may come: work that comes back every second keeps some from ending.
const RUNTIME_THREADS_MAY_COME: usize = 4;
/// Memory that may come, in bytes: the allocator's. All memory of one guest is more than that.
const MEMORY_MAY_COME: u64 = 8 << 20;
/// What a node remembers of a migration, in bytes: its status with the rounds, up to 1,024 times, and the
/// events of its VM, up to as many as a node keeps.
const REMEMBERED: u64 = 32 << 10;

/// What a node has.
#[derive(Debug)]
pub(crate) struct Level {
    /// Threads, files and mappings by their kinds.
    held: Held,
    /// Threads of the runtime: those that wait for work end by and by.
    runtime_threads: usize,
    /// Memory of its own, and shared memory, which that of guests is, in bytes.
    pub(crate) memory: BTreeMap<&'static str, u64>,
    /// Files in its data directory, and what of this library is in the host's shared memory.
    left: Held,
}

impl Level {
    pub(crate) fn of(node: &NodeProcess, data: &Path) -> Level {
        let process = node.id();
        let mut held = threads_and_files(process);
        held.extend(mappings(process));
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let named: usize = held
            .iter()
            .filter(|(what, _)| what.starts_with("thread "))
            .map(|(_, count)| count)
            .sum();
        let mut left = Held::new();
        files(data, &mut left);
        for file in std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.contains("dwcp") {
                left.insert(format!("/dev/shm/{name}"), 1);
            }
        }
        Level {
            runtime_threads: tasks.count().saturating_sub(named),
            held,
            memory: BTreeMap::from([
                ("memory of its own", node.anonymous()),
                ("shared memory", node.shared()),
            ]),
            left,
        }
    }

    /// Whether it has the memory of a guest.
    pub(crate) fn has_guest(&self) -> bool {
        self.of_kind("mapping of /memfd:dwcp-guest-memory") > 0
    }

    /// All threads, with those of the runtime.
    pub(crate) fn threads(&self) -> usize {
        self.of_kind("thread ") + self.runtime_threads
    }

    /// All files.
    pub(crate) fn files(&self) -> usize {
        self.of_kind("file ")
    }

    /// All mappings.
    pub(crate) fn mappings(&self) -> usize {
        self.of_kind("mapping ")
    }

    /// What there is more of than so many migrations before, and more than may be.
    pub(crate) fn more_than(&self, before: &Level, migrations: usize) -> Vec<String> {
        let mut more = Vec::new();
        let mut compare = |what: &str, now: usize, before: usize| {
            if now > before {
                more.push(format!("{now} of {what}, and {before} may be"));
            }
        };
        for (all, was) in [(&self.held, &before.held), (&self.left, &before.left)] {
            for (what, now) in all {
                let before = was.get(what).copied().unwrap_or_default();
                let may_come = match what.as_str() {
                    "mapping of no name" => MAPPINGS_MAY_COME,
                    what if what.starts_with("mapping ") && what.ends_with("/node.db-shm") => {
                        LOG_MAY_COME
                    }
                    _ => 0,
                };
                compare(what, *now, before + may_come);
            }
        }
        let may_be = before.runtime_threads + RUNTIME_THREADS_MAY_COME;
        compare("the runtime's threads", self.runtime_threads, may_be);
        let may_come = MEMORY_MAY_COME + REMEMBERED * migrations as u64;
        for (what, now) in &self.memory {
            let before = before.memory[what];
            if *now > before + may_come {
                more.push(format!("{now} bytes of {what}, and {before} before"));
            }
        }
        more
    }

    fn of_kind(&self, kind: &str) -> usize {
        let all = self.held.iter();
        all.filter(|(what, _)| what.starts_with(kind))
            .map(|(_, count)| count)
            .sum()
    }
}

/// The files below a directory.
fn files(dir: &Path, found: &mut Held) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        }
        found.insert(path.to_string_lossy().into_owned(), 1);
    }
}
