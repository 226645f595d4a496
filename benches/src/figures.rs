//! From what was measured to a row of a report.

use serde::Serialize;

/// Everything that was measured under one name.
#[derive(Debug, Clone)]
pub struct Samples {
    name: String,
    unit: &'static str,
    note: Option<String>,
    runs: u32,
    values: Vec<f64>,
    /// What has to be known of a run, and of how many that.
    remarks: Vec<(String, u32)>,
    /// Why a run has no figure, and how many have none for this reason.
    failures: Vec<(String, u32)>,
}

/// A row of a report: what was measured, and how it is spread. Where all runs failed it has no figures, and its note
/// says why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured, such as `raw/seq`.
    pub name: String,
    /// In what, such as `us` or `1/s`.
    pub unit: &'static str,
    /// Runs that the values come from, spread over the whole measurement.
    pub runs: u32,
    /// Values in all runs together.
    pub samples: usize,
    /// The least of them.
    pub min: Option<f64>,
    /// Half of them are not above this one.
    pub p50: Option<f64>,
    /// Of a hundred, 99 are not above this one.
    pub p99: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// What has to be known about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Samples {
    /// None yet.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            note: None,
            runs: 0,
            values: Vec::new(),
            remarks: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The name of its row.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says what has to be known about it.
    pub fn note(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }

    /// Adds what one run measured. A run that measured nothing does not count.
    pub fn add_run(&mut self, values: impl IntoIterator<Item = f64>) {
        let before = self.values.len();
        self.values.extend(values);
        if self.values.len() > before {
            self.runs += 1;
        }
    }

    /// Says what has to be known about one run that has a figure.
    pub fn add_remark(&mut self, remark: impl Into<String>) {
        count(&mut self.remarks, remark.into());
    }

    /// Counts a run that was made and has no figure, with the reason: the row says so, and its figures are of the
    /// other runs.
    pub fn add_failure(&mut self, why: impl Into<String>) {
        count(&mut self.failures, why.into());
    }

    /// The row, or `None` where nothing was measured and nothing failed.
    #[must_use]
    pub fn row(&self) -> Option<Row> {
        if self.values.is_empty() && self.failures.is_empty() {
            return None;
        }
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Row {
            name: self.name.clone(),
            unit: self.unit,
            runs: self.runs,
            samples: sorted.len(),
            min: sorted.first().copied(),
            p50: rank(&sorted, 50),
            p99: rank(&sorted, 99),
            max: sorted.last().copied(),
            note: self.notes(),
        })
    }

    /// What has to be known, of all runs and of some, and what failed.
    fn notes(&self) -> Option<String> {
        let failed: u32 = self.failures.iter().map(|(_, count)| count).sum();
        let all = self.runs + failed;
        let some = self.remarks.iter().chain(&self.failures);
        let some = some.map(|(why, count)| {
            if *count == all {
                why.clone()
            } else {
                format!("{count} of {all} runs: {why}")
            }
        });
        let notes: Vec<String> = self.note.iter().cloned().chain(some).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// Counts one more of those that are known by this text.
fn count(all: &mut Vec<(String, u32)>, text: String) {
    match all.iter_mut().find(|(known, _)| *known == text) {
        Some((_, count)) => *count += 1,
        None => all.push((text, 1)),
    }
}

/// The nearest rank: the least value that so many of a hundred are not above. It is one that was measured.
fn rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let position = (sorted.len() * percent).div_ceil(100);
    sorted.get(position.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::{Row, Samples};

    fn figures(row: &Row) -> [Option<f64>; 4] {
        [row.min, row.p50, row.p99, row.max]
    }

    #[test]
    fn a_row_has_the_nearest_ranks() {
        let mut samples = Samples::new("raw/seq", "us");
        samples.add_run((51..=100).rev().map(f64::from));
        samples.add_run((1..=50).map(f64::from));
        let row = samples.row().unwrap();
        assert_eq!((row.runs, row.samples), (2, 100));
        assert_eq!(figures(&row), [1.0, 50.0, 99.0, 100.0].map(Some));
    }

    #[test]
    fn one_value_is_every_rank() {
        let mut samples = Samples::new("raw/64", "1/s");
        samples.add_run([7.0]);
        let row = samples.row().unwrap();
        assert_eq!(figures(&row), [Some(7.0); 4]);
    }

    #[test]
    fn nothing_measured_is_no_row() {
        let mut samples = Samples::new("raw/64", "1/s");
        samples.add_run([]);
        assert_eq!(samples.row(), None);
    }

    #[test]
    fn a_run_that_failed_is_said_and_not_counted() {
        let mut samples = Samples::new("qemu/idle/precopy/total-ms", "ms");
        samples.add_failure("not over after 60 s");
        samples.add_failure("not over after 60 s");
        let row = samples.row().unwrap();
        assert_eq!((row.runs, figures(&row)), (0, [None; 4]));
        assert_eq!(row.note.as_deref(), Some("not over after 60 s"));
        samples.note("on one connection");
        samples.add_run([2.0]);
        let row = samples.row().unwrap();
        assert_eq!((row.runs, figures(&row)), (1, [Some(2.0); 4]));
        assert_eq!(
            row.note.as_deref(),
            Some("on one connection; 2 of 3 runs: not over after 60 s")
        );
    }

    #[test]
    fn what_is_known_of_some_runs_is_said_with_their_number() {
        let mut samples = Samples::new("dwcp/idle/postcopy/total-ms", "ms");
        samples.add_run([2.0]);
        samples.add_remark("by pre-copy");
        let note = |samples: &Samples| samples.row().unwrap().note.unwrap();
        assert_eq!(note(&samples), "by pre-copy");
        samples.add_run([3.0]);
        samples.add_failure("lost");
        assert_eq!(
            note(&samples),
            "1 of 3 runs: by pre-copy; 1 of 3 runs: lost"
        );
    }
}
