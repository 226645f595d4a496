//! What a run leaves.

use std::process::Output;

use dwcp_benches::{Failure, figures::Samples};
use serde_json::Value;

use crate::cases::{Case, Engine};

/// What was measured in one run. What an engine does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    pub(crate) total_ms: f64,
    pub(crate) downtime_seen_ms: Option<f64>,
    pub(crate) first_round_mb_s: Option<f64>,
    pub(crate) dirty: Option<f64>,
    /// What has to be known of how it was done.
    pub(crate) remark: Option<&'static str>,
}

/// What came of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Measured(Figures),
    /// It failed, or did something else than was to be measured; why.
    Failed(String),
    /// It is not built, as its own error says, and will say each time.
    Unsupported(String),
}

impl Outcome {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}

/// The figures of the JSON object that the example and `raw` print.
pub(crate) fn figures(object: &Value) -> Outcome {
    let figure = |name: &str| object[name].as_f64();
    match figure("total_ms") {
        Some(total_ms) => Outcome::Measured(Figures {
            total_ms,
            downtime_seen_ms: figure("downtime_seen_ms"),
            first_round_mb_s: figure("first_round_mb_s"),
            dirty: figure("dirty_pages_per_second_achieved"),
            remark: None,
        }),
        None => Outcome::failed("its report has no total_ms"),
    }
}

/// The JSON object in the last line of what a program printed.
///
/// # Errors
///
/// Where there is none: how the program ended, and the last that it complained of.
pub(crate) fn object(output: &Output) -> Result<Value, String> {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut lines = text.lines().rev().map(str::trim);
        lines.find(|line| !line.is_empty()).map(str::to_owned)
    };
    let object = last(&output.stdout).and_then(|line| serde_json::from_str::<Value>(&line).ok());
    object.filter(Value::is_object).ok_or_else(|| {
        let complaint = last(&output.stderr).unwrap_or_default();
        format!("no report, {}: {complaint}", output.status)
    })
}

/// A case, and what was measured of it.
pub(crate) struct Entry {
    pub(crate) case: Case,
    /// It answered that it is not built: no need to ask again.
    pub(crate) is_unsupported: bool,
    total: Samples,
    downtime: Samples,
    first_round: Samples,
    dirty: Samples,
}

impl Entry {
    pub(crate) fn new(case: Case) -> Self {
        let samples = |figure, unit| Samples::new(format!("{case}/{figure}"), unit);
        let mut entry = Self {
            case,
            is_unsupported: false,
            total: samples("total-ms", "ms"),
            downtime: samples("downtime-seen-ms", "ms"),
            first_round: samples("first-round-mb-s", "MB/s"),
            dirty: samples("dirty-achieved", "1/s"),
        };
        if case.engine == Engine::Raw {
            entry.downtime.note("its guest stays");
        }
        entry
    }

    /// Keeps what came of a run. A failure is kept with the total, which every run has.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Measured(figures) => {
                self.total.add_run([figures.total_ms]);
                self.downtime.add_run(figures.downtime_seen_ms);
                self.first_round.add_run(figures.first_round_mb_s);
                self.dirty.add_run(figures.dirty);
                if let Some(remark) = figures.remark {
                    self.total.add_remark(remark);
                }
            }
            Outcome::Failed(why) => self.total.add_failure(why),
            Outcome::Unsupported(why) => {
                self.is_unsupported = true;
                self.total.add_failure(why);
            }
        }
    }

    /// The rows.
    pub(crate) fn samples(&self) -> [&Samples; 4] {
        [&self.total, &self.downtime, &self.first_round, &self.dirty]
    }
}

/// Runs a program to its end and keeps what it prints.
///
/// # Errors
///
/// When it cannot be started: there is nothing to measure then.
pub(crate) fn output(command: &mut std::process::Command) -> Result<Output, Failure> {
    let program = command.get_program().display().to_string();
    command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {program}: {error}").into())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::{Entry, Figures, Outcome, Output, figures, object};
    use crate::cases::select;

    fn printed(stdout: &str, stderr: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(0x100),
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn the_last_line_is_the_report() {
        let object = object(&printed("filling\n{\"total_ms\": 5.5}\n\n", "")).unwrap();
        let Outcome::Measured(figures) = figures(&object) else {
            panic!("{object}");
        };
        assert_eq!((figures.total_ms, figures.dirty), (5.5, None));
    }

    #[test]
    fn without_a_report_it_is_said_how_the_program_ended() {
        for stdout in ["", "done\n", "[]\n", "{\"a\": 1}\nthen it crashed\n"] {
            let why = object(&printed(stdout, "first\nno such option\n")).unwrap_err();
            assert_eq!(why, "no report, exit status: 1: no such option");
        }
    }

    #[test]
    fn a_report_without_a_total_is_a_failure() {
        let why = Outcome::failed("its report has no total_ms");
        assert_eq!(figures(&serde_json::json!({"downtime_ms": 1.0})), why);
    }

    #[test]
    fn what_failed_is_a_row_and_no_figure() {
        let mut entry = Entry::new(select(&["qemu/idle/precopy"]).unwrap()[0]);
        entry.add(Outcome::failed("not over after 60 s"));
        entry.add(Outcome::Measured(Figures {
            total_ms: 5.0,
            downtime_seen_ms: Some(1.0),
            first_round_mb_s: None,
            dirty: None,
            remark: None,
        }));
        let rows: Vec<_> = entry
            .samples()
            .iter()
            .filter_map(|samples| samples.row())
            .collect();
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "qemu/idle/precopy/total-ms",
                "qemu/idle/precopy/downtime-seen-ms"
            ]
        );
        assert_eq!((rows[0].runs, rows[0].p50), (1, Some(5.0)));
        let note = "1 of 2 runs: not over after 60 s";
        assert_eq!(rows[0].note.as_deref(), Some(note));
        assert!(!entry.is_unsupported);
        entry.add(Outcome::Unsupported("unsupported: it".into()));
        assert!(entry.is_unsupported);
    }
}
