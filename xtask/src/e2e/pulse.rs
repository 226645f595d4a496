//! Whether a virtual host lives, and what keeps it alive.
//!
//! It says that it lives every five seconds, on the port of its kernel. QEMU's emulation of SVM takes marks out of the
//! set of its processor's pending interrupts without a lock, and so loses one that comes at that moment: the local
//! APIC has it (IRR), the processor is halted with interrupts on (HLT=1, RFL=…202), and nothing ever happens again. But
//! any other interrupt has the processor look at all of them. So it is poked every second, by a byte for a port that
//! nobody reads; and where that was not all, what its processor was doing is asked of the emulator before it is ended.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ChildStdin,
    time::{Duration, Instant},
};

use super::suite::Built;

/// How long it may say nothing. It starts within a few seconds, and on a machine with other work it beats late.
const SILENCE: Duration = Duration::from_secs(90);
/// How often it is poked.
const POKE: Duration = Duration::from_secs(1);
/// How long it may take in all. Each scenario has its own limit, which the suite keeps: this one is for a suite that
/// does not end although its host lives.
const LIMIT: Duration = Duration::from_secs(2400);
/// How long the emulator may take to answer.
const ANSWER: Duration = Duration::from_millis(500);
/// What it is asked: two looks at the processor, to see whether it is still at the same place.
const QUESTIONS: [&str; 3] = ["info registers", "info lapic", "info registers"];

/// The signs of life of one virtual host.
pub(super) struct Pulse {
    /// What the host's kernel says.
    pub(super) log: PathBuf,
    /// Where the emulator answers.
    pub(super) monitor: PathBuf,
    started: Instant,
    heard: Instant,
    poked: Instant,
    length: u64,
    /// Why the host is ended.
    verdict: Option<String>,
}

impl Pulse {
    /// Of a host that is about to start.
    pub(super) fn of(built: &Built) -> Self {
        let now = Instant::now();
        Self {
            log: built.folder.join("host.log"),
            monitor: built.folder.join("host.monitor"),
            started: now,
            heard: now,
            poked: now,
            length: 0,
            verdict: None,
        }
    }

    /// Whether it still lives; asked while it runs. `port` is one that it listens to.
    pub(super) fn beats(&mut self, port: &mut ChildStdin) -> bool {
        // One that has ended meanwhile takes no byte, and that it has ended is seen elsewhere.
        if self.poked.elapsed() > POKE && port.write_all(b"\n").is_ok() {
            self.poked = Instant::now();
        }
        let length = fs::metadata(&self.log).map_or(0, |file| file.len());
        if length != self.length {
            self.length = length;
            self.heard = Instant::now();
        }
        if self.verdict.is_none() {
            let what = if self.heard.elapsed() > SILENCE {
                format!("It said nothing for {SILENCE:?}")
            } else if self.started.elapsed() > LIMIT {
                format!("It was not over after {LIMIT:?}")
            } else {
                return true;
            };
            let answers = ask(&self.monitor).unwrap_or_else(|error| format!("nothing: {error}"));
            self.verdict = Some(format!("{what}; the emulator says of it:\n{answers}"));
        }
        false
    }

    /// Why it was ended, and what its kernel said last.
    pub(super) fn last_words(&self) -> String {
        let kernel = fs::read(&self.log).unwrap_or_default();
        let kernel = String::from_utf8_lossy(&kernel);
        let lines = kernel.lines().filter(|line| !line.starts_with("beat "));
        let mut last: Vec<&str> = lines.rev().take(15).collect();
        last.reverse();
        format!(
            "{}\nIts kernel's last words:\n{}",
            self.verdict.as_deref().unwrap_or_default(),
            last.join("\n")
        )
    }
}

/// What the emulator's monitor says to the questions.
fn ask(monitor: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(monitor)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut answers = Vec::new();
    for question in QUESTIONS {
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut part = [0; 4096];
        // It has no mark at its end but a silence.
        while let Ok(count @ 1..) = stream.read(&mut part) {
            answers.extend_from_slice(&part[..count]);
        }
    }
    Ok(String::from_utf8_lossy(&answers).replace('\r', ""))
}
