//! Helpers of the unit tests, and by its path of those from outside (`tests/support`).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Says that a test, or a part of one, cannot run on this host. The project's test command counts it
/// as skipped with the reason, from the file that it names in `DWCP_SKIP_LOG`.
pub(crate) fn skipped(test: &str, reason: &dyn Display) {
    let Some(path) = std::env::var_os("DWCP_SKIP_LOG") else {
        eprintln!("SKIPPED {test}: {reason}");
        return;
    };
    let line = format!("{test}\t{reason}\n");
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    log.write_all(line.as_bytes()).unwrap();
}

/// The smallest kernel: an ELF file with one segment of 16 bytes, to be loaded at 16 MiB.
pub(crate) fn smallest_kernel() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes()); // executable, x86-64
    }
    file.extend(1_u32.to_le_bytes());
    for word in [16_u64 << 20, 64, 0] {
        file.extend(word.to_le_bytes()); // entry, program headers, sections
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes()); // sizes and counts
    }
    for half in [1_u32, 5] {
        file.extend(half.to_le_bytes()); // a segment to load, read and executed
    }
    for word in [120_u64, 16 << 20, 16 << 20, 16, 16, 4096] {
        file.extend(word.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    file.extend([0xf4; 16]);
    file
}

/// A thread that sleeps for moments, again and again: how late it woke at worst says how long this host,
/// which does other things too, kept a thread waiting that was ready.
pub(crate) struct Witness {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Witness {
    /// Sleeps so long each time.
    pub(crate) fn start(nap: Duration) -> Witness {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(nap);
                worst = worst.max(began.elapsed().saturating_sub(nap));
            }
            worst
        });
        Witness { over, thread }
    }

    pub(crate) fn worst(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
