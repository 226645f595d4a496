//! The steps of `cargo xtask test`, and how each is run.

use std::{ffi::OsStr, process::Command};

use super::{
    TestOptions, bindings, fuzz, libtest, live_migration,
    skips::{self, Skip, SkipLog},
    summary::{Counts, Outcome},
};
use crate::{
    dist,
    e2e::{self, E2eOptions},
    install::{self, CC, CLIPPY, CXX, NODE, Need, PKG_CONFIG, PYTHON, RUSTFMT, VALGRIND},
    process::{self, Finished},
    screen::Screen,
};

/// One step.
#[derive(Debug)]
pub(super) struct Step {
    /// What it is called.
    pub(super) name: &'static str,
    /// What it does, in a line.
    pub(super) about: &'static str,
    /// What it cannot do without.
    needs: &'static [Need],
    work: Work,
    /// Begins in its turn, and the steps after it do not wait for it: it takes one processor, and no notice of time.
    pub(super) runs_beside: bool,
}

#[derive(Debug)]
enum Work {
    /// A call of cargo that succeeds or fails as one.
    Cargo {
        arguments: &'static [&'static str],
        environment: &'static [(&'static str, &'static str)],
    },
    /// A call of cargo that runs tests, which are counted.
    Tests { arguments: &'static [&'static str] },
    /// The example, whose report is checked.
    LiveMigration,
    /// The suite with real Linux guests.
    E2e,
    /// The C ABI.
    C,
    /// The language package with that name.
    Language(&'static str),
    /// All languages, by one suite.
    Conformance,
    /// The packages.
    Dist,
    /// The targets of fuzzing.
    Fuzz,
}

/// All steps, in the order in which they run.
///
/// `lock` comes first because every later call of cargo would bring `Cargo.lock` into step and hide what it looks for.
/// So does the `cargo run` behind `cargo xtask`, which is why `.ci/run` passes `--locked` to that too.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "lock",
        about: "Cargo.lock is in step with the manifests",
        needs: &[],
        work: cargo(&["metadata", "--locked", "--format-version", "1"]),
        runs_beside: false,
    },
    Step {
        name: "fmt",
        about: "the sources are formatted",
        needs: &[RUSTFMT],
        work: cargo(&["fmt", "--all", "--check"]),
        runs_beside: false,
    },
    Step {
        name: "clippy",
        about: "no lint, in anything",
        needs: &[CLIPPY, CC],
        work: cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
        runs_beside: false,
    },
    Step {
        name: "clippy-client",
        about: "no lint, in the client alone",
        needs: &[CLIPPY, CC],
        work: cargo(&[
            "clippy",
            "-p",
            "dwcp",
            "--no-default-features",
            "--features",
            "client",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
        runs_beside: false,
    },
    Step {
        name: "check-client",
        about: "the client alone compiles: what macOS and Windows get",
        needs: &[CC],
        work: cargo(&[
            "check",
            "-p",
            "dwcp",
            "--no-default-features",
            "--features",
            "client",
        ]),
        runs_beside: false,
    },
    Step {
        name: "doc",
        about: "the documentation builds, and its links lead somewhere",
        needs: &[CC],
        work: Work::Cargo {
            arguments: &["doc", "--no-deps", "-p", "dwcp", "--all-features"],
            environment: &[("RUSTDOCFLAGS", "-D warnings")],
        },
        runs_beside: false,
    },
    Step {
        name: "unit+integration",
        about: "the tests of all crates, doctests included",
        needs: &[CC],
        work: Work::Tests {
            arguments: &["test", "--workspace", "--no-fail-fast"],
        },
        runs_beside: false,
    },
    Step {
        name: "live-migration",
        about: "the example of the README moves a running VM, and its memory arrives whole",
        needs: &[CC],
        work: Work::LiveMigration,
        runs_beside: false,
    },
    Step {
        name: "e2e",
        about: "real Linux guests on a stock KVM: boot, devices, power, snapshots, migration",
        needs: e2e::NEEDS,
        work: Work::E2e,
        runs_beside: true,
    },
    Step {
        name: "c",
        about: "the C ABI: its header, its programs, their memory, and what is visible of it",
        needs: &[CC, CXX, VALGRIND],
        work: Work::C,
        runs_beside: false,
    },
    Step {
        name: "python",
        about: "the Python package: its tests, types and examples",
        needs: &[CC, PYTHON],
        work: Work::Language("python"),
        runs_beside: false,
    },
    Step {
        name: "typescript",
        about: "the TypeScript package: its tests, types and examples",
        needs: &[CC, NODE],
        work: Work::Language("typescript"),
        runs_beside: false,
    },
    Step {
        name: "go",
        about: "the Go package: its tests and examples, with Go's own checks",
        needs: &[CC, PYTHON, PKG_CONFIG],
        work: Work::Language("go"),
        runs_beside: false,
    },
    Step {
        name: "conformance",
        about: "one suite for all languages; after their own steps, which prepare them",
        needs: &[CC],
        work: Work::Conformance,
        runs_beside: false,
    },
    Step {
        name: "dist",
        about: "the packages, of what the languages' steps built, installed where nothing else is",
        needs: dist::NEEDS,
        work: Work::Dist,
        runs_beside: false,
    },
    Step {
        name: "fuzz",
        about: "no bytes make what reads them panic, hang or take memory",
        needs: &[CC, CXX],
        work: Work::Fuzz,
        runs_beside: false,
    },
];

/// How long each target of fuzzing runs, in seconds.
const FUZZ_SECONDS: u32 = 5;
/// The same with `--long`.
const FUZZ_SECONDS_LONG: u32 = 120;

const fn cargo(arguments: &'static [&'static str]) -> Work {
    Work::Cargo {
        arguments,
        environment: &[],
    }
}

impl Step {
    /// Installs what it cannot do without.
    pub(super) fn provide(&self, screen: Screen) -> Result<(), String> {
        install::provide(self.needs, screen)
    }

    /// Runs the step, whatever that takes, and says what came of it.
    pub(super) fn run(&self, options: &TestOptions, screen: Screen) -> Outcome {
        if let Err(reason) = self.provide(screen) {
            return Outcome::skipped(reason);
        }
        let child = Child {
            long: options.long,
            echo: options.verbose.then_some(screen),
        };
        match self.work {
            Work::Cargo {
                arguments,
                environment,
            } => child.cargo(arguments, environment),
            Work::Tests { arguments } => child.tests(arguments),
            Work::LiveMigration => child.live_migration(),
            Work::E2e => child.e2e(),
            Work::C => child.c(),
            Work::Language(name) => child.language(name),
            Work::Conformance => child.conformance(),
            Work::Dist => child.dist(),
            Work::Fuzz => child.fuzz(),
        }
        .unwrap_or_else(|reason| Outcome::failed(reason, ""))
    }
}

/// How the children of a step are run. The errors are reasons why a step could not be carried out, and so failed.
struct Child {
    long: bool,
    echo: Option<Screen>,
}

impl Child {
    fn run(&self, command: &mut Command) -> Result<Finished, String> {
        // Colours would hide the words that are looked for.
        command.env("CARGO_TERM_COLOR", "never");
        if self.long {
            command.env("DWCP_LONG", "1");
        } else {
            command.env_remove("DWCP_LONG");
        }
        process::run(command, self.echo)
            .map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))
    }

    fn cargo(
        &self,
        arguments: &[&str],
        environment: &[(&str, impl AsRef<OsStr>)],
    ) -> Result<Outcome, String> {
        let finished = self.run(
            process::cargo(arguments).envs(environment.iter().map(|(name, value)| (name, value))),
        )?;
        Ok(if finished.success {
            Outcome::passed(String::new())
        } else {
            Outcome::failed(finished.status, &finished.transcript)
        })
    }

    fn tests(&self, arguments: &[&str]) -> Result<Outcome, String> {
        let log =
            SkipLog::create().map_err(|error| format!("cannot make a temporary file: {error}"))?;
        let finished = self.run(process::cargo(arguments).env(skips::VARIABLE, log.path()))?;
        let skips = log
            .read()
            .map_err(|error| format!("cannot read which tests were skipped: {error}"))?;
        Ok(count(finished, skips))
    }

    fn live_migration(&self) -> Result<Outcome, String> {
        let metadata = self.quietly().run(&mut process::cargo(&[
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
        ]))?;
        if !live_migration::is_declared(&metadata.stdout)? {
            return Ok(Outcome::skipped(format!(
                "the example {} is not built yet",
                live_migration::EXAMPLE
            )));
        }
        let finished = self.run(&mut process::cargo(live_migration::COMMAND))?;
        if !finished.success {
            return Ok(Outcome::failed(finished.status, &finished.transcript));
        }
        Ok(
            match live_migration::check(&finished.stdout, install::kvm_is_usable()) {
                Ok(note) => Outcome::passed(note),
                Err(reason) => Outcome::failed(reason, &finished.transcript),
            },
        )
    }

    fn e2e(&self) -> Result<Outcome, String> {
        let report = e2e::play(&E2eOptions::default(), self.echo)?;
        let mut outcome = Outcome {
            made_of_tests: true,
            ..Outcome::passed(match &report.again {
                Some(why) => format!("on {}; {why}", report.place),
                None => format!("on {}", report.place),
            })
        };
        outcome.counts = Counts {
            passed: report.passed,
            failed: report.failed.len() as u64,
            skipped: 0,
        };
        if !report.failed.is_empty() {
            outcome.transcript = report.transcript;
        }
        outcome.failed_tests = report.failed;
        Ok(outcome)
    }

    fn c(&self) -> Result<Outcome, String> {
        let built = self.build()?;
        let shared = bindings::built(&built, "libdwcp.so")?;
        let archive = bindings::built(&built, "libdwcp.a")?;
        let folder = bindings::folder(&shared, "c")?;
        self.checks(bindings::c::checks(&shared, &archive, &folder))
    }

    fn language(&self, name: &str) -> Result<Outcome, String> {
        let language = bindings::LANGUAGES
            .iter()
            .find(|language| language.name == name);
        let language = language.ok_or_else(|| format!("there is no package for {name}"))?;
        let built = self.build()?;
        let library = bindings::built(&built, language.library)?;
        self.checks(vec![language.check(&library)])
    }

    fn conformance(&self) -> Result<Outcome, String> {
        let built = self.build()?;
        let shared = bindings::built(&built, "libdwcp.so")?;
        let mut judge = bindings::conformance(
            &bindings::built(&built, "judge")?,
            &bindings::built(&built, "testee-rust")?,
            &bindings::built(&built, "story")?,
            &bindings::folder(&shared, "c")?,
        );
        let finished = self.run(&mut judge)?;
        let Some((passed, failed)) = bindings::verdict(&finished.stdout) else {
            return Ok(Outcome::failed(finished.status, &finished.transcript));
        };
        let readme = std::fs::read_to_string(process::workspace_root().join("README.md"));
        let told = readme.is_ok_and(|text| text.contains(&bindings::matrix(&finished.stdout)));
        let mut outcome = Outcome {
            made_of_tests: true,
            ..Outcome::passed(String::new())
        };
        outcome.counts = Counts {
            passed: passed + u64::from(told),
            failed: failed + u64::from(!told),
            skipped: 0,
        };
        if !told {
            outcome
                .failed_tests
                .push("README.md has another matrix".into());
        }
        if outcome.counts.failed > 0 {
            outcome.transcript = finished.transcript;
        }
        Ok(outcome)
    }

    fn dist(&self) -> Result<Outcome, String> {
        let built = self.build()?;
        let libraries = dist::Libraries::find(|name| bindings::built(&built, name))?;
        let out = bindings::folder(&libraries.shared, "dist")?;
        let report = dist::pack_and_try(libraries, &out, self.echo)?;
        let mut outcome = Outcome {
            made_of_tests: true,
            ..Outcome::passed(String::new())
        };
        outcome.counts = Counts::default();
        for check in report.checks {
            match check.result {
                Ok(_) => outcome.counts.passed += 1,
                Err(reason) => {
                    outcome.counts.failed += 1;
                    outcome.transcript += &format!("{}: {reason}\n", check.name);
                    outcome.failed_tests.push(check.name);
                }
            }
        }
        Ok(outcome)
    }

    /// Builds what the languages try; what cargo says of it.
    fn build(&self) -> Result<String, String> {
        let finished = self.quietly().run(&mut process::cargo(bindings::BUILD))?;
        if finished.success {
            Ok(finished.stdout)
        } else {
            Err(finished.transcript)
        }
    }

    /// Runs commands that count as one test each.
    fn checks(&self, checks: Vec<bindings::Check>) -> Result<Outcome, String> {
        let mut outcome = Outcome {
            made_of_tests: true,
            ..Outcome::passed(String::new())
        };
        outcome.counts = Counts::default();
        for mut check in checks {
            let (how, transcript) = match self.run(&mut check.command) {
                Ok(finished) if finished.success && finished.transcript.contains(check.says) => {
                    outcome.counts.passed += 1;
                    continue;
                }
                Ok(finished) => (finished.status, finished.transcript),
                Err(reason) => (reason, String::new()),
            };
            outcome.counts.failed += 1;
            let how = format!("{}: {how}", check.name);
            outcome.transcript += &format!("{how}\n{transcript}\n");
            outcome.failed_tests.push(how);
        }
        Ok(outcome)
    }

    fn fuzz(&self) -> Result<Outcome, String> {
        if !fuzz::is_for_this_host() {
            return Ok(Outcome::skipped(
                "needs Linux on x86-64, with the GNU C library".into(),
            ));
        }
        let metadata = self.quietly().run(&mut process::cargo(&[
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
        ]))?;
        let places = fuzz::Places::new(process::workspace_root(), &metadata.stdout)?;
        let arguments = places.build();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let built = self.cargo(&arguments, &[fuzz::flags()])?;
        if built.counts.failed > 0 {
            return Ok(built);
        }

        // By default a run is to find today what it found yesterday; a long one may find something new.
        let (seconds, seed) = if self.long {
            (FUZZ_SECONDS_LONG, std::process::id())
        } else {
            (FUZZ_SECONDS, 1)
        };
        let mut outcome = Outcome {
            made_of_tests: true,
            ..Outcome::passed(String::new())
        };
        outcome.counts = Counts::default();
        let mut tried = 0;
        for target in fuzz::TARGETS {
            places
                .prepare(target)
                .map_err(|error| format!("{target}: {error}"))?;
            let finished = self.run(&mut places.run(target, seconds, seed))?;
            let inputs = fuzz::tried(&finished.transcript);
            tried += inputs;
            if finished.success && inputs > 0 {
                outcome.counts.passed += 1;
            } else {
                outcome.counts.failed += 1;
                outcome.failed_tests.push(places.explain(
                    target,
                    &finished.status,
                    &finished.transcript,
                ));
                outcome.transcript.push_str(&finished.transcript);
            }
        }
        outcome.note = format!("{tried} inputs");
        Ok(outcome)
    }

    /// For a child whose output is for us and not for people.
    fn quietly(&self) -> Self {
        Self {
            long: self.long,
            echo: None,
        }
    }
}

/// What `cargo test` did, with the tests that said that they could not run.
fn count(finished: Finished, mut skips: Vec<Skip>) -> Outcome {
    let tally = libtest::tally(&finished.stdout, &finished.transcript, finished.success);
    let told = skips.len() as u64;
    skips.extend(tally.ignored_tests);
    let note = if tally.died > 0 {
        format!("test binaries that ended without a result: {}", tally.died)
    } else if tally.failed > 0 && tally.failed_tests.is_empty() {
        // Without a failed test to name, how cargo ended is all there is to say.
        finished.status
    } else {
        String::new()
    };
    Outcome {
        // libtest counts the tests that told us as passed: all that a test can do is return.
        counts: Counts {
            passed: tally.passed.saturating_sub(told),
            failed: tally.failed,
            skipped: told + tally.ignored,
        },
        note,
        skips,
        failed_tests: tally.failed_tests,
        transcript: if tally.failed > 0 {
            finished.transcript
        } else {
            String::new()
        },
        made_of_tests: true,
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Finished, STEPS, Skip, count};

    #[test]
    fn step_names_differ() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(
                STEPS[..index].iter().all(|other| other.name != step.name),
                "{}",
                step.name
            );
        }
    }

    fn finished(stdout: &str, success: bool) -> Finished {
        Finished {
            success,
            status: "exit status: 101".into(),
            stdout: stdout.into(),
            transcript: stdout.into(),
        }
    }

    #[test]
    fn a_test_that_says_it_was_skipped_has_not_passed() {
        let stdout = "test b ... ignored\n\
                      test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0s\n";
        let skip = Skip {
            name: "a".into(),
            reason: "no /dev/kvm".into(),
        };
        let outcome = count(finished(stdout, true), vec![skip]);
        assert_eq!(
            outcome.counts,
            Counts {
                passed: 2,
                failed: 0,
                skipped: 2
            }
        );
        assert_eq!(outcome.skips.len(), 2);
        assert!(outcome.transcript.is_empty());
    }

    #[test]
    fn a_failure_keeps_the_output() {
        let outcome = count(finished("did not compile", false), vec![]);
        assert_eq!(
            outcome.counts,
            Counts {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
        assert_eq!(outcome.transcript, "did not compile");
        assert_eq!(outcome.note, "exit status: 101");
    }
}
