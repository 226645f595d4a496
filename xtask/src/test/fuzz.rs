//! The step that fuzzes: every target of `fuzz/` for some seconds, beginning with its corpus.
//!
//! cargo-fuzz does the same with the address sanitizer, for which it needs a nightly compiler. The library has next
//! to no unsafe code where a fuzzer comes, so the instruments of the stable compiler are enough: which lines a run
//! reaches, and what it compares.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The targets, each a program of `fuzz/Cargo.toml` and a folder of `fuzz/corpus`.
pub(super) const TARGETS: &[&str] = &[
    "frames",
    "messages",
    "sessions",
    "migration",
    "snapshot",
    "virtio_mmio",
    "virtio_block",
    "virtio_rng",
    "virtio_balloon",
];

/// The host that the library's node half is for, and with it the targets. Naming it keeps the instruments out of
/// what runs while building: build scripts and macros.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Whether this host can run the targets.
pub(super) const fn is_for_this_host() -> bool {
    cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    ))
}

/// What cargo-fuzz gives the compiler, without the sanitizer.
const FLAGS: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// The variable in which cargo takes flags before it looks anywhere else, and what it holds.
pub(super) fn flags() -> (&'static str, String) {
    ("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
}

/// Where the step keeps its things.
#[derive(Debug)]
pub(super) struct Places {
    /// The folder of the workspace.
    root: PathBuf,
    /// The folder of all that is built.
    target: PathBuf,
}

impl Places {
    /// Takes the folder of all that is built from the output of `cargo metadata`.
    ///
    /// # Errors
    ///
    /// When the output is not what cargo is documented to write.
    pub(super) fn new(root: PathBuf, metadata: &str) -> Result<Self, String> {
        let metadata: Value =
            serde_json::from_str(metadata).map_err(|error| format!("cargo metadata: {error}"))?;
        let target = metadata["target_directory"]
            .as_str()
            .ok_or("cargo metadata names no target directory")?;
        Ok(Self {
            root,
            target: target.into(),
        })
    }

    /// What is built for fuzzing does not fit with anything else.
    fn built(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// The arguments of the call of cargo that builds the targets.
    pub(super) fn build(&self) -> Vec<String> {
        [
            "build",
            "--release",
            "--locked",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--target",
            HOST,
            "--target-dir",
        ]
        .map(String::from)
        .into_iter()
        .chain([self.built().display().to_string()])
        .collect()
    }

    fn program(&self, target: &str) -> PathBuf {
        self.built().join(HOST).join("release").join(target)
    }

    /// Where a target's inputs of this run are kept until the next one; those that it has from git are only read.
    fn found(&self, target: &str) -> PathBuf {
        self.target.join("fuzz-corpus").join(target)
    }

    fn artifacts(&self) -> PathBuf {
        self.target.join("fuzz-artifacts")
    }

    /// Empties the folders that a run of the target writes to, and makes them where they are missing. What crashed
    /// a target stays where it is.
    ///
    /// # Errors
    ///
    /// When a folder cannot be written to, or the target has no corpus.
    pub(super) fn prepare(&self, target: &str) -> io::Result<()> {
        let corpus = self.corpus(target);
        if fs::read_dir(&corpus)?.next().is_none() {
            let message = format!("{} is empty", corpus.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let found = self.found(target);
        match fs::remove_dir_all(&found) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&found)?,
        }
        fs::create_dir_all(self.artifacts())
    }

    fn corpus(&self, target: &str) -> PathBuf {
        self.root.join("fuzz").join("corpus").join(target)
    }

    /// The call that runs a target for `seconds`; with the same seed it tries the same.
    pub(super) fn run(&self, target: &str, seconds: u32, seed: u32) -> Command {
        let artifacts = self.artifacts().join(format!("{target}-"));
        let mut command = Command::new(self.program(target));
        command
            .current_dir(&self.root)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-seed={seed}"))
            .args(["-rss_limit_mb=1024", "-timeout=5", "-max_len=4096"])
            .args(["-print_final_stats=1", "-verbosity=0", "-print_funcs=0"])
            .arg(format!("-artifact_prefix={}", artifacts.display()))
            .args([self.found(target), self.corpus(target)]);
        command
    }

    /// Why a target failed, and how that is seen again.
    pub(super) fn explain(&self, target: &str, status: &str, transcript: &str) -> String {
        match artifact(transcript) {
            None if tried(transcript) == 0 => format!("{target}: it tried nothing, {status}"),
            Some(path) => format!(
                "{target}: {status}; to see it again: {} {path}",
                shown(&self.root, &self.program(target))
            ),
            None => format!("{target}: {status}"),
        }
    }
}

/// Below the workspace, the way there is shorter.
fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The file with the bytes that made a target fail, as it says itself.
fn artifact(transcript: &str) -> Option<&str> {
    transcript
        .lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| path.trim())
}

/// How many inputs a target tried, from the figures it ends with; 0 where it gives none.
pub(super) fn tried(transcript: &str) -> u64 {
    transcript
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Places, TARGETS, artifact, flags, tried};
    use crate::process::workspace_root;

    fn places() -> Places {
        Places::new("/w".into(), r#"{"target_directory":"/w/target"}"#).unwrap()
    }

    #[test]
    fn the_targets_are_those_of_the_folder_and_each_has_a_corpus() {
        let fuzz = workspace_root().join("fuzz");
        let known: BTreeSet<String> = TARGETS.iter().map(|&target| target.into()).collect();
        for (folder, ending) in [("fuzz_targets", ".rs"), ("corpus", "")] {
            let names = std::fs::read_dir(fuzz.join(folder)).unwrap().map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.trim_end_matches(ending).to_owned()
            });
            assert_eq!(names.collect::<BTreeSet<_>>(), known, "{folder}");
        }
    }

    #[test]
    fn a_run_has_its_limits_and_only_reads_what_is_in_git() {
        let command = places().run("frames", 10, 1);
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_str().unwrap())
            .collect();
        for wanted in [
            "-max_total_time=10",
            "-seed=1",
            "-rss_limit_mb=1024",
            "-timeout=5",
            "-artifact_prefix=/w/target/fuzz-artifacts/frames-",
        ] {
            assert!(arguments.contains(&wanted), "{wanted}");
        }
        // The first folder is the one that is written to.
        assert_eq!(
            arguments[arguments.len() - 2..],
            ["/w/target/fuzz-corpus/frames", "/w/fuzz/corpus/frames"]
        );
    }

    #[test]
    fn a_failure_says_how_to_see_it_again() {
        let transcript = "==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='a/'; \
                          Test unit written to a/crash-00\nBase64: AA==\n";
        assert_eq!(artifact(transcript), Some("a/crash-00"));
        let said = places().explain("frames", "exit status: 77", transcript);
        assert_eq!(
            said,
            "frames: exit status: 77; to see it again: \
             target/fuzz/x86_64-unknown-linux-gnu/release/frames a/crash-00"
        );
        assert_eq!(
            places().explain("frames", "exit status: 1", ""),
            "frames: it tried nothing, exit status: 1"
        );
    }

    #[test]
    fn what_was_tried_is_counted() {
        assert_eq!(tried("stat::number_of_executed_units: 28\nstat::x: 1"), 28);
        assert_eq!(tried("INFO: nothing"), 0);
    }

    #[test]
    fn cargo_and_its_flags_are_understood() {
        assert!(Places::new("/w".into(), "{}").is_err());
        assert!(Places::new("/w".into(), "no").is_err());
        assert!(flags().1.starts_with("--cfg\x1ffuzzing\x1f-Cpasses"));
    }
}
