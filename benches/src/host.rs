//! What was measured, and on what.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use serde::Serialize;

/// What this host is, as far as it bears on figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    /// Model of its processors.
    pub cpu: String,
    /// Processors that we may use.
    pub cores: usize,
    /// Release of its kernel.
    pub kernel: String,
    /// Whether we may use KVM.
    pub kvm: bool,
    /// Processes that wanted a processor in the minute before the measurement began, on average: on a quiet host
    /// near 0. `None` where the host does not say.
    pub load: Option<f64>,
}

impl Host {
    /// Looks at this host.
    #[must_use]
    pub fn look() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").ok();
        let cpu = cpu.as_deref().and_then(model_name);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        let load = fs::read_to_string("/proc/loadavg").ok();
        Self {
            cpu: cpu.unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism().map_or(1, Into::into),
            kernel: kernel.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned()),
            kvm: kvm_is_usable(),
            load: load.and_then(|text| text.split_whitespace().next()?.parse().ok()),
        }
    }
}

/// Whether this host lets us open `/dev/kvm` for reading and writing.
#[must_use]
pub fn kvm_is_usable() -> bool {
    let kvm = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    kvm.is_ok()
}

/// The kind of file system a path is on, such as `ext4`: what is made durable on a `tmpfs` costs nothing.
#[must_use]
pub fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounted_at(&mounts, &path).map(str::to_owned)
}

/// The revision of this work tree.
pub(crate) fn commit() -> String {
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain"]).as_deref() {
        Some("") => commit,
        _ => format!("{commit}+"),
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn model_name(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim())
}

/// The type of the file system with the longest mount point that the path is below. Among equals the last is on top.
fn mounted_at<'m>(mounts: &'m str, path: &Path) -> Option<&'m str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    mounts.max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Host, model_name, mounted_at};

    #[test]
    fn the_model_is_found() {
        let text = "processor\t: 0\nmodel name\t: A fast one @ 3 GHz\nflags\t: fpu\n";
        assert_eq!(model_name(text), Some("A fast one @ 3 GHz"));
        assert_eq!(model_name("processor: 0\n"), None);
    }

    #[test]
    fn the_longest_mount_point_says_the_file_system() {
        let mounts =
            "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/x xfs rw 0 0\n";
        for (path, kind) in [
            ("/home/a", "ext4"),
            ("/tmp/a", "tmpfs"),
            ("/tmp/x/a", "xfs"),
            ("/tmpfile", "ext4"),
        ] {
            assert_eq!(mounted_at(mounts, Path::new(path)), Some(kind), "{path}");
        }
    }

    #[test]
    fn every_host_has_a_processor() {
        assert!(Host::look().cores > 0);
    }
}
