//! A scenario's limit for a runtime that stands still: its own clock stands with it.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// How long the runtime may take to keep the limit by itself.
const GRACE: Duration = Duration::from_secs(30);

/// A thread that ends the suite, with a word on where every thread of it is, unless this is dropped before.
pub(crate) struct Watchdog {
    _ended: Sender<()>,
}

impl Watchdog {
    pub(crate) fn of(name: &'static str, limit: Duration) -> Self {
        let (ended, over) = mpsc::channel();
        thread::spawn(move || {
            if over.recv_timeout(limit + GRACE) == Err(RecvTimeoutError::Timeout) {
                println!("{}", threads());
                println!("FAILED {name}: the suite's runtime stood still for {limit:?}");
                println!("end");
                std::process::exit(1);
            }
        });
        Self { _ended: ended }
    }
}

/// Where the kernel has the threads of this process, and of the nodes that it started.
fn threads() -> String {
    let mut lines = Vec::new();
    for process in folders("/proc") {
        let words = fs::read(format!("{process}/cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&words).contains("dwcp-e2e") {
            continue;
        }
        for thread in folders(&format!("{process}/task")) {
            let about =
                |what: &str| fs::read_to_string(format!("{thread}/{what}")).unwrap_or_default();
            let status = about("status");
            let state = status
                .lines()
                .find(|line| line.starts_with("State"))
                .unwrap_or_default();
            lines.push(format!(
                "{thread} {} {state} syscall {}\n{}",
                about("comm").trim(),
                about("syscall").trim(),
                about("stack").trim_end()
            ));
        }
    }
    lines.join("\n")
}

/// The folders in one of `/proc` that have a number for a name.
fn folders(of: &str) -> Vec<String> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    numbers.map(|name| format!("{of}/{name}")).collect()
}
