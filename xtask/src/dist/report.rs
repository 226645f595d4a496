//! What was packed and what was tried, written down: for people, for programs, and for `sha256sum --check`.

#![forbid(unsafe_code)]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::table::Table;

/// The file beside the packages with the hash of each.
pub(super) const SUMS: &str = "SHA256SUMS";

/// A package that was made.
#[derive(Debug)]
pub(super) struct Packed {
    /// Whose it is.
    pub(super) language: String,
    /// The file's name.
    pub(super) file: String,
    /// Its size in bytes.
    size: usize,
    /// Its hash, in hexadecimal.
    sha256: String,
}

impl Packed {
    /// A package with those bytes.
    pub(super) fn new(language: &str, file: &str, bytes: &[u8]) -> Self {
        let mut sha256 = String::new();
        for byte in Sha256::digest(bytes) {
            let _ = write!(sha256, "{byte:02x}");
        }
        Self {
            language: language.to_owned(),
            file: file.to_owned(),
            size: bytes.len(),
            sha256,
        }
    }
}

/// Something that was tried.
#[derive(Debug)]
pub(crate) struct Checked {
    /// What it is called.
    pub(crate) name: String,
    /// What was seen, or why it failed.
    pub(crate) result: Result<String, String>,
    /// How long it took.
    time: Duration,
}

impl Checked {
    /// Something that was begun then and has ended now.
    pub(super) fn new(name: &str, begin: Instant, result: Result<String, String>) -> Self {
        Self {
            name: name.to_owned(),
            result,
            time: begin.elapsed(),
        }
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Report {
    version: String,
    out: PathBuf,
    /// What was made.
    pub(super) packages: Vec<Packed>,
    /// What was tried, in order.
    pub(crate) checks: Vec<Checked>,
}

impl Report {
    /// A report of nothing yet.
    pub(super) fn new(version: &str, out: &Path) -> Self {
        Self {
            version: version.to_owned(),
            out: out.to_owned(),
            packages: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Adds what came of something.
    pub(super) fn add(&mut self, name: &str, begin: Instant, result: Result<String, String>) {
        self.checks.push(Checked::new(name, begin, result));
    }

    /// How much of what was tried failed.
    pub(crate) fn failed(&self) -> usize {
        self.checks
            .iter()
            .filter(|check| check.result.is_err())
            .count()
    }

    /// The lines of [`SUMS`].
    pub(super) fn sums(&self) -> String {
        self.packages
            .iter()
            .map(|packed| format!("{}  {}\n", packed.sha256, packed.file))
            .collect()
    }

    /// The tables; what failed is told whole below them.
    pub(super) fn text(&self) -> String {
        let mut packages = Table::new(&["package", "file", "bytes", "sha256"]).align_right(2);
        for packed in &self.packages {
            let Packed {
                language,
                file,
                size,
                sha256,
            } = packed;
            packages.row([language, file, &size.to_string(), sha256].map(Clone::clone));
        }
        let mut checks = Table::new(&["tried", "result", "time", "what"]).align_right(2);
        let mut failures = String::new();
        for check in &self.checks {
            let (result, what) = match &check.result {
                Ok(what) => ("ok", what.as_str()),
                Err(reason) => {
                    failures += &format!("\n{}: {}\n", check.name, reason.trim_end());
                    ("FAILED", "see below")
                }
            };
            let time = format!("{:.1} s", check.time.as_secs_f64());
            checks.row([&check.name, result, &time, what].map(str::to_owned));
        }
        format!(
            "dwcp {}, in {}\n\n{packages}\n{checks}{failures}",
            self.version,
            self.out.display()
        )
    }

    /// The same as one JSON object.
    pub(super) fn json(&self) -> Value {
        let packages: Vec<Value> = self
            .packages
            .iter()
            .map(|packed| {
                json!({
                    "language": packed.language,
                    "file": packed.file,
                    "bytes": packed.size,
                    "sha256": packed.sha256,
                })
            })
            .collect();
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                let (Ok(note) | Err(note)) = &check.result;
                json!({
                    "name": check.name,
                    "passed": check.result.is_ok(),
                    "note": note,
                    "seconds": check.time.as_millis() as f64 / 1000.0,
                })
            })
            .collect();
        json!({
            "version": self.version,
            "out": self.out.display().to_string(),
            "packages": packages,
            "checks": checks,
            "failed": self.failed(),
        })
    }
}

/// The files that the lines of [`SUMS`] name, as far as they are beside it.
pub(super) fn names(sums: &str) -> Vec<String> {
    sums.lines()
        .filter_map(|line| line.split_once("  "))
        .filter(|(_, name)| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
        .map(|(_, name)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Instant};

    use super::{Packed, Report, names};

    fn report() -> Report {
        let mut report = Report::new("3.0.0", Path::new("/out"));
        report.packages.push(Packed::new("c", "dwcp.tar.gz", b""));
        let begin = Instant::now();
        report.add("c", begin, Ok("the story".into()));
        report.add("go", begin, Err("no\nGo".into()));
        report
    }

    #[test]
    fn sums_are_as_sha256sum_writes_them() {
        let sums = report().sums();
        assert_eq!(
            sums,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  dwcp.tar.gz\n"
        );
        assert_eq!(names(&sums), ["dwcp.tar.gz"]);
        assert!(names("abc  ../Cargo.toml\nabc  /etc/passwd\nabc  \nabc\n").is_empty());
    }

    #[test]
    fn the_text_has_what_was_packed_tried_and_failed() {
        let text = report().text();
        for words in [
            "dwcp 3.0.0, in /out",
            "dwcp.tar.gz",
            "e3b0c442",
            "the story",
            "go: no\nGo",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn the_json_says_the_same() {
        let json = report().json();
        assert_eq!(json["packages"][0]["bytes"], 0);
        assert_eq!(json["checks"][0]["passed"], true);
        assert_eq!(json["checks"][1]["note"], "no\nGo");
        assert_eq!(json["failed"], 1);
    }
}
