//! The peer: a script that moves a guest of the same load between two QEMU processes, and prints one JSON object.

use std::process::{Command, Stdio};

use dwcp_benches::Failure;
use serde_json::Value;

use crate::{
    cases::{BEAT_HZ, Case, DOWNTIME_MS, Mode, Sizes, TIMEOUT_S},
    outcome::{self, Figures, Outcome},
};

/// When a post-copy switches, in seconds after it began. One that is over before was none.
const SWITCH_AFTER_S: f64 = 0.3;

/// Moves a guest once.
///
/// # Errors
///
/// When the script cannot be started.
pub(crate) fn run(script: &str, case: Case, sizes: Sizes) -> Result<Outcome, Failure> {
    let mode = match case.mode {
        Mode::Precopy => "precopy",
        Mode::Parallel => "multifd",
        Mode::Postcopy => "postcopy",
        Mode::SameHost | Mode::Cold => return Err(format!("{case} is not QEMU's").into()),
    };
    let mut command = Command::new(script);
    let options: [(&str, &dyn ToString); 10] = [
        ("--mode", &mode),
        ("--memory-mb", &(sizes.memory >> 20)),
        ("--fill-mb", &(sizes.fill >> 20)),
        ("--ws-mb", &(sizes.working_set(case.load) >> 20)),
        ("--pages-per-s", &case.load.rate),
        ("--beat-hz", &BEAT_HZ),
        ("--downtime-ms", &DOWNTIME_MS),
        ("--postcopy-after-s", &SWITCH_AFTER_S),
        ("--timeout-s", &TIMEOUT_S),
        ("--runs", &1),
    ];
    for (option, value) in options {
        command.args([option, &value.to_string()]);
    }
    let output = outcome::output(&mut command)?;
    Ok(match outcome::object(&output) {
        Ok(report) => read(&report, case.mode),
        Err(why) => Outcome::Failed(why),
    })
}

/// QEMU's version, such as `7.2.22`; `None` where there is no QEMU.
pub(crate) fn version() -> Option<String> {
    let mut command = Command::new("qemu-system-x86_64");
    let output = command
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    named(&String::from_utf8_lossy(&output.stdout))
}

/// The version in what QEMU says of itself.
fn named(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == "version")?;
    words.next().map(str::to_owned)
}

/// What the script's report says. The total is from the request to its end, as the caller saw it.
fn read(report: &Value, mode: Mode) -> Outcome {
    match report["status"].as_str().unwrap_or_default() {
        "completed" => {}
        "timeout" => return Outcome::Failed(format!("not over after {TIMEOUT_S} s")),
        other => {
            let error = report["error"].as_str().unwrap_or("no reason given");
            return Outcome::Failed(format!("{other}: {error}"));
        }
    }
    match report["wall_s"].as_f64() {
        Some(wall) if mode == Mode::Postcopy && wall < SWITCH_AFTER_S => {
            Outcome::failed("over before it switched: not post-copy")
        }
        Some(wall) => Outcome::Measured(Figures {
            total_ms: wall * 1e3,
            downtime_seen_ms: report["downtime_seen_ms"].as_f64(),
            first_round_mb_s: None,
            dirty: None,
            remark: None,
        }),
        None => Outcome::failed("its report has no wall_s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Mode, Outcome, named, read};

    #[test]
    fn a_move_has_its_total_and_its_downtime() {
        let report = json!({"status": "completed", "wall_s": 2.5, "total_qemu_ms": 2490, "downtime_seen_ms": 12.5});
        let Outcome::Measured(figures) = read(&report, Mode::Postcopy) else {
            panic!("no figures");
        };
        assert_eq!(figures.total_ms, 2500.0);
        assert_eq!(figures.downtime_seen_ms, Some(12.5));
        assert_eq!((figures.first_round_mb_s, figures.dirty), (None, None));
    }

    #[test]
    fn what_did_not_complete_is_no_figure() {
        for (report, why) in [
            (
                json!({"status": "timeout", "wall_s": 60.0}),
                "not over after 60 s",
            ),
            (
                json!({"status": "error", "error": "no KVM"}),
                "error: no KVM",
            ),
            (
                json!({"status": "failed", "wall_s": 1.0}),
                "failed: no reason given",
            ),
            (json!({"status": "completed"}), "its report has no wall_s"),
        ] {
            assert_eq!(read(&report, Mode::Precopy), Outcome::failed(why));
        }
    }

    #[test]
    fn a_post_copy_that_never_switched_is_no_figure() {
        let report = json!({"status": "completed", "wall_s": 0.1});
        let why = Outcome::failed("over before it switched: not post-copy");
        assert_eq!(read(&report, Mode::Postcopy), why);
        let precopy = read(&report, Mode::Precopy);
        assert!(matches!(precopy, Outcome::Measured(_)), "{precopy:?}");
    }

    #[test]
    fn the_version_is_found() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright\n";
        assert_eq!(named(text).as_deref(), Some("7.2.22"));
        assert_eq!(named("no such thing"), None);
    }
}
