//! What `cargo test` says, counted.
//!
//! The counts come from libtest's `test result:` lines, one for each test binary and each run of doctests. A binary
//! that dies (a signal, an abort) writes none, so cargo's own list of failed targets is held against them.

use super::skips::Skip;

/// The tests of all binaries together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Tests that passed, those that said themselves that they were skipped included.
    pub(super) passed: u64,
    /// Tests that failed, and binaries that failed without a result.
    pub(super) failed: u64,
    /// Tests that libtest ignored.
    pub(super) ignored: u64,
    /// How many of [`Tally::failed`] are binaries that ended without a result.
    pub(super) died: u64,
    /// The ignored tests by name; fewer than [`Tally::ignored`] where a line was disturbed.
    pub(super) ignored_tests: Vec<Skip>,
    /// The failed tests by name, likewise.
    pub(super) failed_tests: Vec<String>,
}

/// Reads the output of `cargo test`: its standard output, and everything including what cargo says on standard error.
pub(super) fn tally(stdout: &str, transcript: &str, success: bool) -> Tally {
    let mut tally = Tally::default();
    let mut results = 0_u64;
    let mut failed_results = 0_u64;
    let mut unreadable = 0_u64;
    for line in stdout.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            match read_result(result) {
                Some((ok, [passed, failed, ignored])) => {
                    results += 1;
                    failed_results += u64::from(!ok);
                    tally.passed += passed;
                    tally.failed += failed;
                    tally.ignored += ignored;
                }
                None => unreadable += 1,
            }
        } else if let Some(test) = line.strip_prefix("test ") {
            read_test(test, &mut tally);
        }
    }
    tally.died = failed_targets(transcript).saturating_sub(failed_results);
    tally.failed += tally.died + unreadable;
    if tally.failed == 0 && (!success || results == 0) {
        // It did not compile, or nothing at all was run: neither may count as a success.
        tally.failed = 1;
    }
    tally
}

/// `ok. 3 passed; 0 failed; 1 ignored; …` as whether it was ok, and the three counts.
fn read_result(text: &str) -> Option<(bool, [u64; 3])> {
    let (verdict, counts) = text.split_once(". ")?;
    let ok = match verdict {
        "ok" => true,
        "FAILED" => false,
        _ => return None,
    };
    let mut counts = counts.split("; ");
    let mut count = |word: &str| -> Option<u64> {
        let (number, name) = counts.next()?.split_once(' ')?;
        if name == word {
            number.parse().ok()
        } else {
            None
        }
    };
    Some((ok, [count("passed")?, count("failed")?, count("ignored")?]))
}

/// `NAME ... ok`, `NAME ... FAILED`, `NAME ... ignored`, `NAME ... ignored, REASON`.
fn read_test(text: &str, tally: &mut Tally) {
    let Some((name, verdict)) = text.rsplit_once(" ... ") else {
        return;
    };
    if verdict == "FAILED" {
        tally.failed_tests.push(name.to_owned());
    } else if let Some(reason) = verdict.strip_prefix("ignored") {
        let reason = reason.strip_prefix(", ").unwrap_or("ignored");
        tally.ignored_tests.push(Skip {
            name: name.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

/// The length of cargo's list: ``error: 2 targets failed:``.
fn failed_targets(transcript: &str) -> u64 {
    transcript
        .lines()
        .filter_map(|line| {
            let (count, rest) = line.strip_prefix("error: ")?.split_once(' ')?;
            let is_list = matches!(rest, "target failed:" | "targets failed:");
            if is_list {
                count.parse::<u64>().ok()
            } else {
                None
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::{Skip, tally};

    const UNIT: &str = "
running 3 tests
test a::one ... ok
test a::two ... ignored
test a::three ... ignored, needs the moon

test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    const FAILING: &str = "
running 2 tests
test one ... FAILED
test two - should panic ... ok

failures:

---- one stdout ----
thread 'one' panicked

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.20s
";

    #[test]
    fn counts_are_summed_over_binaries() {
        let output = format!("{UNIT}{FAILING}{UNIT}");
        let tally = tally(
            &output,
            &format!("{output}error: 1 target failed:\n    `--lib`\n"),
            false,
        );
        assert_eq!((tally.passed, tally.failed, tally.ignored), (3, 1, 4));
        assert_eq!(tally.failed_tests, ["one"]);
        assert_eq!(
            tally.ignored_tests[0],
            Skip {
                name: "a::two".into(),
                reason: "ignored".into()
            }
        );
        assert_eq!(tally.ignored_tests[1].reason, "needs the moon");
    }

    #[test]
    fn doctests_have_names_with_spaces() {
        let output = "test core/src/lib.rs - wire::Frame (line 3) ... FAILED\n\
                      test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";
        assert_eq!(
            tally(output, output, false).failed_tests,
            ["core/src/lib.rs - wire::Frame (line 3)"]
        );
    }

    #[test]
    fn a_binary_that_dies_counts_as_failed() {
        let transcript =
            "error: 2 targets failed:\n    `-p dwcp --lib`\n    `-p dwcp --test layers`\n";
        let one = tally(FAILING, transcript, false);
        assert_eq!((one.failed, one.died), (2, 1));
        let two = tally(UNIT, transcript, false);
        assert_eq!((two.failed, two.died), (2, 2));
    }

    #[test]
    fn what_does_not_compile_counts_as_one_failure() {
        assert_eq!(
            tally("", "error: could not compile `dwcp`\n", false).failed,
            1
        );
    }

    #[test]
    fn a_run_without_a_result_is_no_success() {
        assert_eq!(tally("", "", true).failed, 1);
        assert_eq!(tally(UNIT, UNIT, true).failed, 0);
    }

    #[test]
    fn a_result_that_cannot_be_read_counts_as_failed() {
        let output = format!("{UNIT}test result: ok. many passed; 0 failed; 0 ignored;\n");
        assert_eq!(tally(&output, &output, true).failed, 1);
    }
}
