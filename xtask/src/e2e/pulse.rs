//! Whether a virtual host lives, and what keeps it alive.
//!
//! It says that it lives every five seconds, on the port of its kernel. QEMU's emulation of SVM takes marks out of the
//! set of its processor's pending interrupts without a lock (7.2, `interrupt_request` in its `svm_helper.c`), and so
//! loses one that comes at that moment. What was seen of it: the local APIC has the timer's (IRR), the processor is
//! halted with interrupts on (HLT=1, RFL=…202), and nothing ever happens again. But any other interrupt has the processor
//! look at all of them. So it is poked every second, by a byte for a port that
//! nobody reads; and where that was not all, what its processor was doing is asked of the emulator before it is ended.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
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
        Self::within(&built.folder)
    }

    fn within(folder: &Path) -> Self {
        let now = Instant::now();
        Self {
            log: folder.join("host.log"),
            monitor: folder.join("host.monitor"),
            started: now,
            heard: now,
            poked: now,
            length: 0,
            verdict: None,
        }
    }

    /// Whether it still lives; asked while it runs. `port` is one that it listens to.
    pub(super) fn beats(&mut self, port: &mut impl Write) -> bool {
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

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// So long ago, of something that is looked at now.
    fn before(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn one_that_falls_silent_is_ended_and_the_emulator_asked() {
        let folder = tempfile::tempdir().unwrap();
        let mut pulse = Pulse::within(folder.path());
        let late = SILENCE + Duration::from_secs(1);
        let mut port = Vec::new();
        pulse.heard = before(late);
        fs::write(&pulse.log, "booted\nbeat 5\n").unwrap();
        assert!(pulse.beats(&mut port), "it has just said something");
        pulse.heard = before(late);
        let monitor = UnixListener::bind(&pulse.monitor).unwrap();
        let emulator = thread::spawn(move || {
            let (mut asked, _) = monitor.accept().unwrap();
            asked.write_all(b"HLT=1\r\n").unwrap();
            let mut questions = String::new();
            asked.read_to_string(&mut questions).unwrap();
            questions
        });
        assert!(!pulse.beats(&mut port));
        assert!(!pulse.beats(&mut port), "it is not asked again");
        assert!(emulator.join().unwrap().contains("info lapic\n"));
        let words = pulse.last_words();
        assert!(words.contains("said nothing") && words.contains("HLT=1\n"));
        assert!(words.ends_with("booted"), "{words}");
    }

    #[test]
    fn one_that_lives_is_poked_but_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut pulse = Pulse::within(folder.path());
        let mut port = Vec::new();
        assert!(pulse.beats(&mut port) && port.is_empty());
        pulse.poked = before(POKE * 2);
        assert!(pulse.beats(&mut port) && pulse.beats(&mut port));
        assert_eq!(port, b"\n");
        pulse.started = before(LIMIT * 2);
        assert!(!pulse.beats(&mut port));
        assert!(pulse.last_words().contains("was not over"));
    }
}
