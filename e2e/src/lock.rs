//! Who has the lock of a disk, and who runs the guest, looked at from outside and all the time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

use crate::guest::text;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(2);
/// How long somebody who has had the lock may take to say so.
const PATIENCE: Duration = Duration::from_secs(10);
/// Place of `guest_time` among the fields of `/proc/…/stat` behind the name (`proc_pid_stat(5)`): it only grows where
/// a tick of the host's clock finds the thread running guest code.
const GUEST_TIME: usize = 40;

/// Somebody who has nothing to do with the nodes, and waits for the lock of a disk: it gets it in the moment in which
/// whoever has it gives it up, before the node that it is given up for.
pub(crate) struct Thief {
    over: oneshot::Receiver<Result<(), String>>,
}

impl Thief {
    /// Waits for the lock in the folder of a VM's disk, and keeps it for so long then.
    ///
    /// # Errors
    ///
    /// Why it does not wait.
    pub(crate) async fn start(folder: &Path, keeps: Duration) -> Result<Thief, String> {
        let path = folder.join("lock");
        let file = fs::File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let inode = inode(&file.metadata().map_err(text)?);
        let (told, over) = oneshot::channel();
        // Nobody waits for the thread: where the lock is never given up, it ends with the process.
        std::thread::spawn(move || {
            let had = flock(&file, FlockOperation::LockExclusive).map_err(text);
            std::thread::sleep(keeps);
            drop(file);
            // Who does not listen any more has failed for another reason.
            let _ = told.send(had);
        });
        let own = format!(" {} ", std::process::id());
        let waits = |line: &str| line.contains("->") && line.contains(&own);
        while lines(&inode).iter().all(|line| !waits(line)) {
            if !over.is_empty() {
                return Err("nobody had the disk's lock".into());
            }
            tokio::time::sleep(PERIOD).await;
        }
        Ok(Thief { over })
    }

    /// It had the lock, and has given it up.
    ///
    /// # Errors
    ///
    /// When it never had it.
    pub(crate) async fn end(self) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.over).await {
            Ok(had) => had.map_err(text)?,
            Err(_) => Err("the disk's lock was never given up".into()),
        }
    }
}

/// Looks until it is asked what it saw.
pub(crate) struct Watcher {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) looks: u64,
    /// Looks between which a guest ran.
    pub(crate) running: u64,
    /// Times at which another process had the lock than before.
    pub(crate) changes: u64,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

impl Watcher {
    /// Watches the lock in the folder of a VM's disk, and the vCPU threads called `name` in those processes.
    pub(crate) fn start(folder: &Path, name: &str, processes: Vec<u32>) -> Result<Watcher, String> {
        let path = folder.join("lock");
        let lock = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let inode = inode(&lock);
        let threads = format!("{name}/vcpu");
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            let mut before = Look::take(&inode, &threads, &processes);
            while !ended.load(Ordering::SeqCst) {
                std::thread::sleep(PERIOD);
                let now = Look::take(&inode, &threads, &processes);
                seen.compare(&before, &now);
                before = now;
            }
            seen
        });
        Ok(Watcher { over, thread })
    }

    /// Ends it.
    pub(crate) fn end(self) -> Result<Seen, String> {
        self.over.store(true, Ordering::SeqCst);
        let seen = self.thread.join().map_err(|_| "a watcher panicked")?;
        match seen.wrong.first() {
            Some(first) => Err(format!(
                "{} of {} looks at the disk's lock were wrong, the first: {first}",
                seen.wrong.len(),
                seen.looks
            )),
            None => Ok(seen),
        }
    }
}

/// One look.
#[derive(Debug, Default)]
struct Look {
    holder: Option<u32>,
    /// Time that all vCPU threads ran guest code, by their process.
    times: BTreeMap<u32, u64>,
}

impl Look {
    fn take(inode: &str, threads: &str, processes: &[u32]) -> Look {
        Look {
            holder: holder(inode),
            times: processes
                .iter()
                .map(|&id| (id, guest_time(id, threads)))
                .collect(),
        }
    }
}

impl Seen {
    /// Whose guest ran between two looks had the lock at the first or at the second of them.
    fn compare(&mut self, before: &Look, now: &Look) {
        self.looks += 1;
        self.changes += u64::from(now.holder.is_some() && now.holder != before.holder);
        let ran: Vec<u32> = now
            .times
            .iter()
            .filter(|(id, time)| {
                let earlier = before.times.get(id).copied().unwrap_or(0);
                **time > earlier
            })
            .map(|(id, _)| *id)
            .collect();
        self.running += u64::from(!ran.is_empty());
        for id in &ran {
            if ![before.holder, now.holder].contains(&Some(*id)) {
                self.wrong
                    .push(format!("{id} ran its guest: {before:?}, {now:?}"));
            }
        }
    }
}

/// A file as `/proc/locks` names it. Only the inode: what the kernel calls the device may differ from what `stat` does.
fn inode(file: &fs::Metadata) -> String {
    format!(":{} ", file.ino())
}

/// What the kernel says of the locks on a file, and of who waits for one (`proc_locks(5)`).
fn lines(inode: &str) -> Vec<String> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let of_file = locks
        .lines()
        .filter(|line| line.contains(inode) && line.contains("FLOCK"));
    of_file.map(str::to_owned).collect()
}

/// The process that has the lock.
fn holder(inode: &str) -> Option<u32> {
    let lines = lines(inode);
    let line = lines.iter().find(|line| !line.contains("->"))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// Time that the threads of a process whose names begin so ran guest code, in ticks. One that ends meanwhile counts
/// as nothing.
fn guest_time(process: u32, threads: &str) -> u64 {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let Ok(tasks) = fs::read_dir(tasks) else {
        return 0;
    };
    let time = |task: PathBuf| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        if !name.starts_with(threads) {
            return None;
        }
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let field = fields.split(' ').nth(GUEST_TIME)?;
        field.trim().parse::<u64>().ok()
    };
    tasks.filter_map(|task| time(task.ok()?.path())).sum()
}
