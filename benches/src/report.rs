//! The one JSON object of a measurement.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    figures::{Row, Samples},
    host::{self, Host},
};

/// What a measurement found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The measurement's name.
    pub bench: &'static str,
    /// The revision that was measured; ends with `+` where the work tree had changes.
    pub commit: String,
    /// The day, in universal time, such as `2024-02-29`. `None` where the host does not know it.
    pub date: Option<String>,
    /// What it was measured on.
    pub host: Host,
    /// What was measured.
    pub rows: Vec<Row>,
    /// How rows compare, by their p50.
    pub ratios: Vec<Ratio>,
    /// What was to be reached, and whether it was.
    pub goals: Vec<Goal>,
    /// What has to be known about all of it, such as a peer that is missing.
    pub notes: Vec<String>,
    /// What the measurement was made with, such as the sizes of payloads.
    pub setting: Map<String, Value>,
}

/// How two rows compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    /// What it is called.
    pub name: String,
    /// The row above the line.
    pub of: String,
    /// The row below it.
    pub to: String,
    /// The p50 of the one by that of the other.
    pub value: f64,
}

/// What was to be reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goal {
    /// What is looked at.
    pub name: String,
    /// The bound, in words: `<= 2`.
    pub goal: String,
    /// What was found; `None` where it could not be measured.
    pub value: Option<f64>,
    /// Whether it was reached; what was not measured was not.
    pub met: bool,
}

/// The bound of a goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This, or less.
    AtMost(f64),
    /// This, or more.
    AtLeast(f64),
}

impl Report {
    /// A report without rows, on this host, of the revision in this work tree.
    #[must_use]
    pub fn new(bench: &'static str) -> Self {
        Self {
            bench,
            commit: host::commit(),
            date: host::date(),
            host: Host::look(),
            rows: Vec::new(),
            ratios: Vec::new(),
            goals: Vec::new(),
            notes: Vec::new(),
            setting: Map::new(),
        }
    }

    /// Says what the measurement was made with.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.setting.insert(key.to_owned(), value.into());
    }

    /// Adds the row of what was measured, where anything was, or failed.
    pub fn add(&mut self, samples: &Samples) {
        self.rows.extend(samples.row());
    }

    /// The p50 of a row. `None` where there is no such row, or it has no figures.
    #[must_use]
    pub fn p50(&self, row: &str) -> Option<f64> {
        let row = self.rows.iter().find(|candidate| candidate.name == row)?;
        row.p50
    }

    /// Compares two rows, and keeps the result. `None` where one of them is missing.
    pub fn compare(&mut self, of: &str, to: &str) -> Option<f64> {
        let value = self.p50(of)? / self.p50(to)?;
        self.ratios.push(Ratio {
            name: format!("{of} : {to}"),
            of: of.to_owned(),
            to: to.to_owned(),
            value,
        });
        Some(value)
    }

    /// Says whether a goal was reached.
    pub fn goal(&mut self, name: impl Into<String>, bound: Bound, value: Option<f64>) {
        let (goal, met) = match bound {
            Bound::AtMost(most) => (
                format!("<= {most}"),
                value.is_some_and(|value| value <= most),
            ),
            Bound::AtLeast(least) => (
                format!(">= {least}"),
                value.is_some_and(|value| value >= least),
            ),
        };
        self.goals.push(Goal {
            name: name.into(),
            goal,
            value,
            met,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Bound, Report, Samples};

    fn report() -> Report {
        let mut report = Report::new("rpc");
        for (name, value) in [("raw/seq", 20.0), ("dwcp-tcp/seq", 30.0)] {
            let mut samples = Samples::new(name, "us");
            samples.add_run([value]);
            report.add(&samples);
        }
        report
    }

    #[test]
    fn rows_are_compared_by_their_p50() {
        let mut report = report();
        assert_eq!(report.compare("dwcp-tcp/seq", "raw/seq"), Some(1.5));
        assert_eq!(report.compare("dwcp-tcp/seq", "tonic/seq"), None);
        assert_eq!(report.ratios.len(), 1);
        assert_eq!(report.ratios[0].name, "dwcp-tcp/seq : raw/seq");
    }

    #[test]
    fn a_goal_is_met_or_not_and_what_is_missing_is_not() {
        let mut report = report();
        for (bound, value, met) in [
            (Bound::AtMost(2.0), Some(2.0), true),
            (Bound::AtMost(2.0), Some(2.1), false),
            (Bound::AtLeast(4.0), Some(4.0), true),
            (Bound::AtLeast(4.0), Some(3.9), false),
            (Bound::AtMost(2.0), None, false),
            (Bound::AtMost(2.0), Some(f64::NAN), false),
        ] {
            report.goal("it", bound, value);
            assert_eq!(
                report.goals.last().map(|goal| goal.met),
                Some(met),
                "{bound:?} {value:?}"
            );
        }
        assert_eq!(report.goals[0].goal, "<= 2");
    }

    #[test]
    fn the_object_has_the_agreed_keys() {
        let mut report = report();
        report.compare("dwcp-tcp/seq", "raw/seq");
        report.goal("it", Bound::AtMost(2.0), None);
        let value = serde_json::to_value(&report).unwrap();
        for key in ["bench", "commit", "host", "rows", "ratios", "goals"] {
            assert!(value.get(key).is_some(), "{key}");
        }
        for key in ["cpu", "cores", "kernel", "kvm"] {
            assert!(value["host"].get(key).is_some(), "host.{key}");
        }
        for key in ["name", "unit", "runs", "min", "p50", "p99", "max"] {
            assert!(value["rows"][0].get(key).is_some(), "rows.{key}");
        }
        for key in ["name", "of", "to", "value"] {
            assert!(value["ratios"][0].get(key).is_some(), "ratios.{key}");
        }
        for key in ["name", "goal", "value", "met"] {
            assert!(value["goals"][0].get(key).is_some(), "goals.{key}");
        }
    }
}
