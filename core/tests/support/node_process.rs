//! A node as a process of its own: the example `node`, and children of Python that talk to it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dwcp::{Backend, DWCPError, Node};

/// Time in which a program has to begin.
const START_TIME: Duration = Duration::from_secs(30);

/// A node that runs until this is dropped.
pub struct NodeProcess {
    child: Child,
    /// Where it listens first.
    pub address: String,
}

impl NodeProcess {
    /// Starts the example with these arguments, on a port that the system chooses, and waits until it
    /// serves.
    pub fn start<S: AsRef<OsStr>>(backend: Backend, arguments: &[S]) -> NodeProcess {
        let backend = match backend {
            Backend::Sim => "sim",
            _ => "kvm",
        };
        // As many descriptors as this host allows, as a service would be given them.
        let mut child = Command::new("sh")
            .args(["-c", r#"ulimit -n "$(ulimit -H -n)"; exec "$0" "$@""#])
            .arg(example("node"))
            .args(["--listen", "127.0.0.1:0", "--backend", backend])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        // So that it is ended, whatever comes next.
        let mut node = NodeProcess {
            child,
            address: String::new(),
        };
        let Some(address) = line.trim().strip_prefix("READY ") else {
            let ended = node.child.wait();
            panic!("the node said {line:?} and ended: {ended:?}");
        };
        node.address = address.to_owned();
        node
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory it has, in bytes.
    pub fn resident(&self) -> u64 {
        status_kib(self.id(), "VmRSS:") << 10
    }

    /// Memory of its own that it has, in bytes.
    pub fn anonymous(&self) -> u64 {
        status_kib(self.id(), "RssAnon:") << 10
    }

    /// Shared memory that it has, as that of guests is, in bytes.
    pub fn shared(&self) -> u64 {
        status_kib(self.id(), "RssShmem:") << 10
    }

    /// The most memory it ever had, in bytes.
    pub fn peak(&self) -> u64 {
        status_kib(self.id(), "VmHWM:") << 10
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as an operator does, and waits: whether it ended well.
    pub fn terminate(mut self) -> bool {
        let told = Command::new("kill").arg(self.id().to_string()).status();
        assert!(told.unwrap().success());
        let end = Instant::now() + START_TIME;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status_kib(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.parse().unwrap()
}

/// An example, which `cargo test` builds beside the tests.
pub fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.parent().and_then(Path::parent).unwrap();
    let path = target.join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo build -p dwcp --example {name}` does it, and so does `cargo test` \
         where no `--test` narrows it",
        path.display()
    );
    path
}

/// The back ends this host has. For one that it has not, the reason goes to `skip`.
pub async fn backends(skip: impl Fn(&str)) -> Vec<Backend> {
    let mut found = vec![Backend::Sim];
    match Node::builder("probe").backend(Backend::Kvm).start().await {
        Ok(_) => found.push(Backend::Kvm),
        Err(DWCPError::Unsupported(reason)) => skip(&reason),
        Err(error) => panic!("{error}"),
    }
    found
}

/// Whether there is a Python that can run the client.
///
/// # Errors
///
/// Why not.
pub fn python_is_there() -> Result<(), String> {
    match Command::new("python3").args(["-c", "import ssl"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("python3: {}", output.status)),
        Err(error) => Err(format!("python3: {error}")),
    }
}

/// The client that knows the base profile only, with its arguments.
pub fn base_client(mode: &str, address: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/base_client.py");
    let mut command = Command::new("python3");
    command
        .arg("-B")
        .arg(script)
        .args([mode, "--address", address]);
    command
}

/// What a child said, as text: standard output and standard error.
pub fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Connections that another process holds, and that say nothing.
pub struct Idle {
    child: Child,
    /// How many they are.
    pub open: usize,
}

impl Idle {
    /// Opens as many, or as many as this host lets one process open.
    pub fn open(address: &str, count: usize, key: Option<&str>) -> Idle {
        let mut command = base_client("idle", address);
        if let Some(key) = key {
            command.args(["--key", key]);
        }
        let mut child = command
            .args(["--count", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let Some(open) = line.trim().strip_prefix("OPEN ") else {
            let ended = child.wait();
            panic!("the client said {line:?} and ended: {ended:?}");
        };
        let open = open.parse().unwrap();
        Idle { child, open }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        if let Some(mut output) = self.child.stdout.take() {
            let _ = output.read_to_end(&mut Vec::new());
        }
        let _ = self.child.wait();
    }
}
