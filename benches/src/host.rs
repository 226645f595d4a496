//! What was measured, and on what.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// What this host is, as far as it bears on figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    /// Model of its processors.
    pub cpu: String,
    /// Processors that we may use.
    pub cores: usize,
    /// Its memory in MiB. `None` where the host does not say.
    pub memory_mib: Option<u64>,
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
        let memory = fs::read_to_string("/proc/meminfo").ok();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        let load = fs::read_to_string("/proc/loadavg").ok();
        Self {
            cpu: cpu.unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism().map_or(1, Into::into),
            memory_mib: memory.as_deref().and_then(memory_mib),
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

fn memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024)
}

/// Today, in the form `2024-02-29`, in universal time. `None` on a host whose clock is before 1970.
pub(crate) fn date() -> Option<String> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(day(time.as_secs() / 86_400))
}

/// So many days after the first of January 1970, by walking there year by year and month by month.
fn day(mut days: u64) -> String {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
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

    use super::{Host, day, memory_mib, model_name, mounted_at};

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
    fn memory_is_in_mib() {
        let text = "MemTotal:       24684132 kB\nMemFree:        100 kB\n";
        assert_eq!(memory_mib(text), Some(24_105));
        assert_eq!(memory_mib("MemFree: 100 kB\n"), None);
    }

    #[test]
    fn days_have_their_dates() {
        for (days, date) in [
            (0, "1970-01-01"),
            (364, "1970-12-31"),
            (365, "1971-01-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (19_783, "2024-03-01"),
            (20_453, "2025-12-31"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(day(days), date);
        }
    }

    #[test]
    fn every_host_has_a_processor() {
        assert!(Host::look().cores > 0);
    }
}
