//! What came of the steps, added up and written down.

use std::time::Duration;

use serde_json::{Value, json};

use super::skips::Skip;
use crate::table::Table;

/// How many tests, or steps, ended which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Done and good.
    pub(super) passed: u64,
    /// Done and not good.
    pub(super) failed: u64,
    /// Not done.
    pub(super) skipped: u64,
}

impl Counts {
    /// With `--require-all`, what was skipped has failed.
    fn required(self, require_all: bool) -> Self {
        if require_all {
            Self {
                failed: self.failed + self.skipped,
                skipped: 0,
                ..self
            }
        } else {
            self
        }
    }

    fn result(self) -> &'static str {
        match self {
            Self { failed: 1.., .. } => "FAILED",
            Self {
                passed: 0,
                skipped: 1..,
                ..
            } => "skipped",
            _ => "passed",
        }
    }
}

/// What came of one step.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The tests it ran, or itself as one.
    pub(super) counts: Counts,
    /// What else there is to say: why it failed, why it was skipped, what it saw.
    pub(super) note: String,
    /// The tests in it that did not run.
    pub(super) skips: Vec<Skip>,
    /// The tests in it that failed.
    pub(super) failed_tests: Vec<String>,
    /// What it printed, if it failed.
    pub(super) transcript: String,
    /// Whether its counts are tests and not the step itself.
    pub(super) made_of_tests: bool,
}

impl Outcome {
    /// The step as one, good.
    pub(super) fn passed(note: String) -> Self {
        Self::whole(
            Counts {
                passed: 1,
                ..Counts::default()
            },
            note,
            "",
        )
    }

    /// The step as one, not good.
    pub(super) fn failed(note: String, transcript: &str) -> Self {
        Self::whole(
            Counts {
                failed: 1,
                ..Counts::default()
            },
            note,
            transcript,
        )
    }

    /// The step as one, not done.
    pub(super) fn skipped(reason: String) -> Self {
        Self::whole(
            Counts {
                skipped: 1,
                ..Counts::default()
            },
            reason,
            "",
        )
    }

    fn whole(counts: Counts, note: String, transcript: &str) -> Self {
        Self {
            counts,
            note,
            skips: Vec::new(),
            failed_tests: Vec::new(),
            transcript: transcript.to_owned(),
            made_of_tests: false,
        }
    }
}

/// A step that is over.
#[derive(Debug)]
pub(super) struct Done {
    /// The step's name.
    pub(super) name: &'static str,
    /// What came of it.
    pub(super) outcome: Outcome,
    /// How long it took.
    pub(super) time: Duration,
}

/// All steps that are over.
#[derive(Debug)]
pub(super) struct Summary {
    /// The steps, in the order in which they ran.
    pub(super) steps: Vec<Done>,
    /// Whether what was skipped has failed.
    pub(super) require_all: bool,
}

impl Summary {
    /// `passed`, `FAILED` or `skipped`.
    pub(super) fn result(&self, done: &Done) -> &'static str {
        self.counts(done).result()
    }

    /// Everything added up.
    pub(super) fn totals(&self) -> Counts {
        self.steps
            .iter()
            .map(|done| self.counts(done))
            .fold(Counts::default(), |sum, counts| Counts {
                passed: sum.passed + counts.passed,
                failed: sum.failed + counts.failed,
                skipped: sum.skipped + counts.skipped,
            })
    }

    /// The line that a run ends with.
    pub(super) fn last_line(&self) -> String {
        let Counts {
            passed,
            failed,
            skipped,
        } = self.totals();
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// The table, the tests that were skipped and the tests that failed, for people.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(&["step", "result", "time", "note"]).align_right(2);
        for done in &self.steps {
            table.row([
                done.name.into(),
                self.result(done).into(),
                seconds(done.time),
                self.note(done),
            ]);
        }
        let mut text = table.to_string();
        let skips: Vec<&Skip> = self
            .steps
            .iter()
            .flat_map(|done| &done.outcome.skips)
            .collect();
        if !skips.is_empty() {
            let mut table = Table::new(&["skipped test", "reason"]);
            for skip in skips {
                table.row([skip.name.clone(), skip.reason.clone()]);
            }
            text.push_str(&format!("\n{table}"));
        }
        let failed: Vec<&String> = self
            .steps
            .iter()
            .flat_map(|done| &done.outcome.failed_tests)
            .collect();
        if !failed.is_empty() {
            text.push_str("\nfailed tests\n------------\n");
            for name in failed {
                text.push_str(&format!("{name}\n"));
            }
        }
        text
    }

    /// The same as one JSON object.
    pub(super) fn json(&self) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|done| {
                let Counts {
                    passed,
                    failed,
                    skipped,
                } = self.counts(done);
                json!({
                    "name": done.name,
                    "result": self.result(done).to_lowercase(),
                    "seconds": done.time.as_millis() as f64 / 1000.0,
                    "note": self.note(done),
                    "passed": passed,
                    "failed": failed,
                    "skipped": skipped,
                    "failed_tests": done.outcome.failed_tests,
                    "skipped_tests": done.outcome.skips.iter()
                        .map(|skip| json!({"name": skip.name, "reason": skip.reason}))
                        .collect::<Vec<_>>(),
                })
            })
            .collect();
        let Counts {
            passed,
            failed,
            skipped,
        } = self.totals();
        json!({"steps": steps, "passed": passed, "failed": failed, "skipped": skipped})
    }

    fn counts(&self, done: &Done) -> Counts {
        done.outcome.counts.required(self.require_all)
    }

    fn note(&self, done: &Done) -> String {
        let outcome = &done.outcome;
        let mut parts = Vec::new();
        if outcome.made_of_tests {
            let Counts {
                passed,
                failed,
                skipped,
            } = outcome.counts;
            parts.push(format!(
                "{passed} passed, {failed} failed, {skipped} skipped"
            ));
        }
        if !outcome.note.is_empty() {
            parts.push(outcome.note.clone());
        }
        if self.require_all && outcome.counts.skipped > 0 {
            parts.push("nothing may be skipped".into());
        }
        parts.join("; ")
    }
}

/// A duration for people: `0.4 s`, `2 min 05 s`.
pub(super) fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Counts, Done, Outcome, Skip, Summary, seconds};

    fn summary(require_all: bool) -> Summary {
        let tests = Outcome {
            counts: Counts {
                passed: 7,
                failed: 0,
                skipped: 2,
            },
            note: String::new(),
            skips: vec![Skip {
                name: "kvm::boots".into(),
                reason: "no /dev/kvm".into(),
            }],
            failed_tests: Vec::new(),
            transcript: String::new(),
            made_of_tests: true,
        };
        let steps = [
            ("fmt", Outcome::passed(String::new())),
            ("tests", tests),
            ("example", Outcome::skipped("not built yet".into())),
        ];
        let steps = steps
            .into_iter()
            .map(|(name, outcome)| Done {
                name,
                outcome,
                time: Duration::from_millis(1500),
            })
            .collect();
        Summary { steps, require_all }
    }

    #[test]
    fn totals_count_tests_and_steps() {
        assert_eq!(summary(false).last_line(), "8 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn require_all_makes_failures_of_skips() {
        let summary = summary(true);
        assert_eq!(summary.last_line(), "8 passed, 3 failed, 0 skipped");
        assert_eq!(summary.result(&summary.steps[0]), "passed");
        assert_eq!(summary.result(&summary.steps[1]), "FAILED");
        assert_eq!(summary.result(&summary.steps[2]), "FAILED");
    }

    #[test]
    fn a_failure_fails_a_step_and_one_skipped_test_does_not_skip_it() {
        let mut summary = summary(false);
        assert_eq!(summary.result(&summary.steps[1]), "passed");
        assert_eq!(summary.result(&summary.steps[2]), "skipped");
        summary.steps[1].outcome.counts.failed = 1;
        assert_eq!(summary.result(&summary.steps[1]), "FAILED");
        assert_eq!(summary.totals().failed, 1);
    }

    #[test]
    fn the_text_names_steps_reasons_and_failed_tests() {
        let mut summary = summary(false);
        summary.steps[1]
            .outcome
            .failed_tests
            .push("wire::frames".into());
        let text = summary.text();
        for word in [
            "example",
            "skipped",
            "not built yet",
            "kvm::boots",
            "no /dev/kvm",
            "wire::frames",
            "1.5 s",
        ] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
    }

    #[test]
    fn the_json_says_the_same() {
        let json = summary(true).json();
        assert_eq!(json["failed"], 3);
        assert_eq!(json["steps"][0]["result"], "passed");
        assert_eq!(json["steps"][1]["result"], "failed");
        assert_eq!(
            json["steps"][1]["skipped_tests"][0]["reason"],
            "no /dev/kvm"
        );
        assert_eq!(json["steps"][2]["seconds"], 1.5);
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(seconds(Duration::from_millis(440)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
