//! Running child processes and keeping what they say.

use std::{
    env,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use crate::screen::Screen;

/// How often a silent child is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How long after a child's end its output may stay open. A grandchild that outlives the child keeps the pipes open;
/// waiting for it would be waiting for ever.
const GRACE: Duration = Duration::from_secs(2);

/// What a child left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Whether it ended with status 0.
    pub(crate) success: bool,
    /// How it ended, in words: `exit status: 101`.
    pub(crate) status: String,
    /// Its standard output alone.
    pub(crate) stdout: String,
    /// Standard output and standard error in the order they arrived.
    pub(crate) transcript: String,
}

#[derive(Clone, Copy)]
enum Stream {
    Output,
    Error,
}

/// Runs a command to its end, without input, and keeps its output; also shows it on `echo` while it runs, if given.
///
/// # Errors
///
/// When the program cannot be started or waited for. A program that starts and fails is no error here: see
/// [`Finished::success`].
pub(crate) fn run(command: &mut Command, echo: Option<Screen>) -> io::Result<Finished> {
    watch(command.stdin(Stdio::null()), echo, |_| true)
}

/// The same with an input, and asks `lives` now and then, which may write to it: a child for which it says no is
/// killed.
///
/// # Errors
///
/// See [`run`].
pub(crate) fn run_watched(
    command: &mut Command,
    echo: Option<Screen>,
    mut lives: impl FnMut(&mut ChildStdin) -> bool,
) -> io::Result<Finished> {
    watch(command.stdin(Stdio::piped()), echo, |child| {
        child.stdin.as_mut().is_none_or(&mut lives)
    })
}

fn watch(
    command: &mut Command,
    echo: Option<Screen>,
    mut lives: impl FnMut(&mut Child) -> bool,
) -> io::Result<Finished> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (sender, receiver) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        pump(pipe, Stream::Output, sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        pump(pipe, Stream::Error, sender.clone());
    }
    drop(sender);

    let mut stdout = Vec::new();
    let mut transcript = Vec::new();
    let mut ended: Option<Instant> = None;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok((stream, bytes)) => {
                if let Some(screen) = echo {
                    screen.write_bytes(&bytes);
                }
                transcript.extend_from_slice(&bytes);
                if matches!(stream, Stream::Output) {
                    stdout.extend_from_slice(&bytes);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        match ended {
            None => {
                if !lives(&mut child) {
                    child.kill()?;
                }
                ended = child.try_wait()?.map(|_| Instant::now());
            }
            Some(at) if at.elapsed() > GRACE => {
                transcript.extend_from_slice(
                    b"\n[a process outlived this one and still holds its output]\n",
                );
                break;
            }
            Some(_) => {}
        }
    }
    let status = child.wait()?;
    Ok(Finished {
        success: status.success(),
        status: status.to_string(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        transcript: String::from_utf8_lossy(&transcript).into_owned(),
    })
}

/// Hands on what a pipe brings, until it closes or nobody listens any more.
fn pump(mut pipe: impl Read + Send + 'static, stream: Stream, sender: Sender<(Stream, Vec<u8>)>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if sender.send((stream, buffer[..count].to_vec())).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
}

/// The folder of the workspace.
pub(crate) fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `cargo`, the one that started us, in the folder of the workspace, with these arguments.
///
/// The variables that `cargo run` sets for us alone are taken away: a build script that watches one of them would
/// else run again each time the caller changes between plain `cargo` and `cargo xtask`.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace_root());
    for (name, _) in env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if ours {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use std::io::Write;

    use super::{run, run_watched};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_kept_apart_and_together() {
        let finished = run(&mut shell("echo out; echo err >&2; exit 7"), None).unwrap();
        assert!(!finished.success);
        assert!(finished.status.contains('7'), "{}", finished.status);
        assert_eq!(finished.stdout, "out\n");
        assert!(finished.transcript.contains("out\n") && finished.transcript.contains("err\n"));
    }

    #[test]
    fn one_that_is_watched_is_written_to_and_killed() {
        let mut looks = 0;
        let finished = run_watched(
            &mut shell("read word; echo $word; sleep 1000"),
            None,
            |to| {
                looks += 1;
                looks == 1 && to.write_all(b"hello\n").is_ok()
            },
        );
        let finished = finished.unwrap();
        assert!(!finished.success && looks >= 2, "{}", finished.status);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(run(&mut Command::new("no-such-program-anywhere"), None).is_err());
    }

    /// The grandchild would hold the pipe open for ever if the end of the output were waited for; it is ended here
    /// by its id, which it prints.
    #[test]
    fn a_grandchild_that_stays_does_not_hold_us() {
        let finished = run(&mut shell("sleep 1000 & echo $!"), None).unwrap();
        let id = finished.stdout.trim().to_owned();
        let ended = Command::new("kill").arg(&id).status().unwrap();
        assert!(finished.success);
        assert!(
            finished.transcript.contains("outlived"),
            "{}",
            finished.transcript
        );
        assert!(
            ended.success(),
            "the grandchild had ended before us: the test showed nothing"
        );
    }
}
