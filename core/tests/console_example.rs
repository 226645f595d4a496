//! The example `console`, in a terminal of its own: a pair of pseudo-terminals.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use support::node_process::example;

/// Time for what the program does next.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, and the terminal it runs in as somebody who sits there sees it.
struct Session {
    child: Child,
    keys: File,
    /// The program's end, kept open so that what the terminal is set to can be seen.
    line: File,
    shown: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: String,
    before: Termios,
}

impl Session {
    fn start(arguments: &[&str]) -> Session {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let line = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.to_str().unwrap())
            .unwrap();
        let before = tcgetattr(&line).unwrap();
        let end = || Stdio::from(line.try_clone().unwrap());
        let child = Command::new(example("console"))
            .args(arguments)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keys = File::from(master);
        let mut screen = keys.try_clone().unwrap();
        let (sender, shown) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Session {
            child,
            keys,
            line,
            shown,
            seen: String::new(),
            before,
        }
    }

    /// Waits until this is on the screen.
    fn sees(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} was not shown, but {:?}", self.seen),
            }
        }
    }

    /// Whether keys go through as they are pressed.
    fn is_raw(&self) -> bool {
        let now = tcgetattr(&self.line).unwrap();
        let of_lines = LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO;
        !now.local_modes.intersects(of_lines)
    }

    /// Waits until the program ends: whether well. The terminal is what it was before.
    fn ends(mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it goes on: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        };
        let now = tcgetattr(&self.line).unwrap();
        assert_eq!(now.local_modes, self.before.local_modes);
        assert_eq!(now.input_modes, self.before.input_modes);
        assert_eq!(now.output_modes, self.before.output_modes);
        status.success()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_the_guest_prints_is_shown_until_ctrl_bracket() {
    let mut session = Session::start(&["--backend", "sim", "--memory", "32"]);
    session.sees("Ctrl-] leaves");
    session.sees("dwcp/pulse: started\r\n");
    assert!(session.is_raw());
    // Neither ends the program: they are the guest's.
    session.keys.write_all(b"text\r\x03\x04").unwrap();
    session.sees("dwcp/pulse: memory filled\r\n");
    assert!(session.is_raw());
    session.keys.write_all(b"more\x1d").unwrap();
    session.sees("left; console is destroyed");
    assert!(session.ends());
}

#[test]
fn the_terminal_is_what_it_was_after_errors_and_signals() {
    let mut session = Session::start(&["--backend", "sim", "--image", "none-such"]);
    session.sees("no image `none-such`");
    assert!(!session.ends());

    let mut session = Session::start(&["--backend", "sim", "--memory", "32"]);
    session.sees("dwcp/pulse: started\r\n");
    let told = Command::new("kill")
        .arg(session.child.id().to_string())
        .status();
    assert!(told.unwrap().success());
    session.sees("ended by a signal");
    assert!(session.ends());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_type_is_told_why_and_reads_on() {
    let node = dwcp::Node::builder("node-01").backend(dwcp::Backend::Sim);
    let node = node.listen("127.0.0.1:0").start().await.unwrap();
    let vms = node.client().vm();
    let vm = support::started(&vms, support::config("web")).await;
    let held = vms.console(&vm.id).await.unwrap();
    held.write(b"a").await.unwrap();
    let address = node.address().unwrap().to_string();
    let id = vm.id.clone();
    let sessions = tokio::task::spawn_blocking(move || {
        let attach = ["--connect", &address, "--attach", &id];
        let mut session = Session::start(&attach);
        session.sees("dwcp/pulse: memory filled\r\n");
        session.keys.write_all(b"x").unwrap();
        session.sees("[console: another client types on it (node-01, since ");
        let mut reads = Session::start(&[&attach[..], &["--read-only"]].concat());
        reads.sees("dwcp/pulse: memory filled\r\n");
        reads.keys.write_all(b"x").unwrap();
        reads.sees("\x07");
        (session, reads)
    });
    let (mut session, mut reads) = sessions.await.unwrap();
    drop(held);
    let ended = tokio::task::spawn_blocking(move || {
        for session in [&mut session, &mut reads] {
            session.keys.write_all(b"\x1d").unwrap();
            session.sees("left; web stays");
        }
        session.ends() && reads.ends()
    });
    assert!(ended.await.unwrap());
    vms.stop(&vm.id, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_elsewhere_is_asked_and_left_as_it_was() {
    let node = dwcp::Node::builder("node-01").backend(dwcp::Backend::Sim);
    let node = node.listen("127.0.0.1:0").start().await.unwrap();
    let vms = node.client().vm();
    let address = node.address().unwrap().to_string();
    let session = tokio::task::spawn_blocking(move || {
        let mut session = Session::start(&["--connect", &address, "--memory", "32"]);
        session.sees("dwcp/pulse: started\r\n");
        session
    });
    let mut session = session.await.unwrap();
    let vm = vms.list(()).await.unwrap().remove(0);
    // It is stopped from elsewhere.
    vms.stop(&vm.id, true).await.unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        session.sees("the VM has stopped; console is destroyed");
        session.ends()
    });
    assert!(ended.await.unwrap());
    assert!(vms.list(()).await.unwrap().is_empty());
}
