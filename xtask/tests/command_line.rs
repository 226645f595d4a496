//! The runner as it is called: exit statuses, and which stream says what.

#![allow(clippy::expect_used, reason = "a helper of tests fails the test")]

use std::process::{Command, Output};

fn xtask(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(line.split_whitespace())
        .output()
        .expect("the runner was built with this test")
}

#[track_caller]
fn assert_ends(line: &str, status: i32) -> Output {
    let output = xtask(line);
    assert_eq!(output.status.code(), Some(status), "{line:?}: {output:?}");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_goes_to_standard_output() {
    for line in [
        "--help",
        "help test",
        "test --help",
        "bench --help",
        "build --help",
        "dist --help",
    ] {
        let output = assert_ends(line, 0);
        assert!(
            text(&output.stdout).contains("Usage: cargo xtask"),
            "{line:?}"
        );
        assert!(output.stderr.is_empty(), "{line:?}");
    }
}

#[test]
fn bad_usage_ends_with_2_and_says_why() {
    for line in [
        "",
        "tset",
        "test --only nothing",
        "bench",
        "bench nothing",
        "bench migration --runs 0",
        "bench rpc --svg picture.svg",
        "build all",
        "dist --out",
    ] {
        let output = assert_ends(line, 2);
        assert!(text(&output.stderr).starts_with("error: "), "{line:?}");
        assert!(output.stdout.is_empty(), "{line:?}");
    }
}

#[test]
fn comparing_revisions_is_not_built_and_measures_nothing() {
    let output = assert_ends("bench rpc --against HEAD", 3);
    assert!(text(&output.stderr).starts_with("unsupported: --against"));
    assert!(output.stdout.is_empty());
}

#[test]
fn steps_are_listed_and_not_run() {
    let output = assert_ends("test --list", 0);
    assert!(
        text(&output.stdout)
            .lines()
            .any(|line| line.starts_with("unit+integration "))
    );
    let output = assert_ends("test --list --json --only fmt", 0);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(list["steps"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["steps"][0]["name"], "fmt");
}

#[test]
fn a_run_ends_with_the_counts() {
    let output = assert_ends("test --only lock", 0);
    assert_eq!(
        text(&output.stdout).lines().last(),
        Some("1 passed, 0 failed, 0 skipped")
    );
    assert!(output.stderr.is_empty(), "{output:?}");

    let output = assert_ends("test --only lock --json", 0);
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(
        (report["passed"].as_u64(), report["failed"].as_u64()),
        (Some(1), Some(0))
    );
    assert_eq!(
        text(&output.stderr).lines().last(),
        Some("1 passed, 0 failed, 0 skipped")
    );
}
