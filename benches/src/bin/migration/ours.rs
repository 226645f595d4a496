//! Our side: the example `live_migration`, two nodes in one process.

use std::process::Command;

use dwcp_benches::{Failure, host};
use serde_json::Value;

use crate::{
    cases::{BEAT_HZ, Case, DOWNTIME_MS, Mode, Sizes, TIMEOUT_S},
    outcome::{self, Figures, Outcome},
};

/// Of a guest that may be moved by post-copy, and whose memory was there before the switch would have come.
const UNUSED: &str = "by pre-copy: no switch was needed";

/// Moves a guest once.
///
/// # Errors
///
/// When the example cannot be started.
pub(crate) fn run(example: &str, case: Case, sizes: Sizes) -> Result<Outcome, Failure> {
    let mut command = Command::new(example);
    // Neither side slows its guest down, or the totals would be of different work.
    command.args(["--json", "--spin", "--no-auto-converge"]);
    let mode = match case.mode {
        Mode::Postcopy => "postcopy",
        Mode::SameHost => "same-host",
        Mode::Precopy | Mode::Parallel | Mode::Cold => "precopy",
    };
    let options: [(&str, &dyn ToString); 10] = [
        ("--backend", &backend()),
        ("--mode", &mode),
        ("--parallel", &case.mode.connections()),
        ("--memory", &sizes.memory),
        ("--fill", &sizes.fill),
        ("--working-set", &sizes.working_set(case.load)),
        ("--dirty-pages-per-second", &case.load.rate),
        ("--beat-hz", &BEAT_HZ),
        ("--max-downtime", &DOWNTIME_MS),
        ("--timeout", &TIMEOUT_S),
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

/// KVM, or where there is none the simulation.
pub(crate) fn backend() -> &'static str {
    if host::kvm_is_usable() { "kvm" } else { "sim" }
}

/// What the example's report says.
fn read(report: &Value, mode: Mode) -> Outcome {
    let text = |name: &str| report[name].as_str().unwrap_or_default();
    // As the library calls the way that was used.
    let wanted = match mode {
        Mode::Precopy | Mode::Parallel | Mode::Cold => "precopy",
        Mode::Postcopy => "postcopy",
        Mode::SameHost => "same_host",
    };
    // Of post-copy there is only the permission: what it comes to for this guest is what its user gets.
    let unused = mode == Mode::Postcopy && text("mode") == "precopy";
    match text("status") {
        "completed" if report["memory_verified"] != true => {
            Outcome::failed("the guest's memory did not arrive whole")
        }
        "completed" if text("mode") != wanted && !unused => {
            Outcome::Failed(format!("moved by {}, not {wanted}", text("mode")))
        }
        "completed" => match outcome::figures(report) {
            Outcome::Measured(figures) if unused => Outcome::Measured(Figures {
                remark: Some(UNUSED),
                ..figures
            }),
            outcome => outcome,
        },
        "unsupported" => Outcome::Unsupported(text("error").to_owned()),
        other => Outcome::Failed(format!("{other}: {}", text("error"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Mode, Outcome, UNUSED, read};

    fn report() -> Value {
        json!({
            "status": "completed", "mode": "precopy", "memory_verified": true, "total_ms": 900.0,
            "downtime_seen_ms": 5.0, "first_round_mb_s": 1100.0, "dirty_pages_per_second_achieved": 40_000.0,
        })
    }

    #[test]
    fn a_move_has_all_figures() {
        let Outcome::Measured(figures) = read(&report(), Mode::Parallel) else {
            panic!("no figures");
        };
        assert_eq!(figures.total_ms, 900.0);
        assert_eq!(figures.downtime_seen_ms, Some(5.0));
        assert_eq!(figures.first_round_mb_s, Some(1100.0));
        assert_eq!(figures.dirty, Some(40_000.0));
    }

    #[test]
    fn memory_that_is_not_whole_is_no_figure() {
        let mut report = report();
        for verified in [json!(false), Value::Null] {
            report["memory_verified"] = verified;
            let why = Outcome::failed("the guest's memory did not arrive whole");
            assert_eq!(read(&report, Mode::Precopy), why);
        }
    }

    #[test]
    fn another_way_than_was_to_be_measured_is_no_figure() {
        let why = Outcome::failed("moved by precopy, not same_host");
        assert_eq!(read(&report(), Mode::SameHost), why);
        let mut report = report();
        report["mode"] = json!("postcopy");
        let why = Outcome::failed("moved by postcopy, not precopy");
        assert_eq!(read(&report, Mode::Precopy), why);
    }

    #[test]
    fn a_permission_that_was_not_needed_is_said() {
        let Outcome::Measured(figures) = read(&report(), Mode::Postcopy) else {
            panic!("no figures");
        };
        assert_eq!((figures.total_ms, figures.remark), (900.0, Some(UNUSED)));
    }

    #[test]
    fn what_is_not_built_is_told_apart_from_what_failed() {
        let report = |status| json!({"status": status, "error": "why"});
        let unsupported = Outcome::Unsupported("why".into());
        assert_eq!(read(&report("unsupported"), Mode::SameHost), unsupported);
        let failed = Outcome::failed("failed: why");
        assert_eq!(read(&report("failed"), Mode::Precopy), failed);
    }
}
