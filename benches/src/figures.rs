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
}

/// A row of a report: what was measured, and how it is spread.
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
    pub min: f64,
    /// Half of them are not above this one.
    pub p50: f64,
    /// Of a hundred, 99 are not above this one.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
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

    /// The row, or `None` where nothing was measured.
    #[must_use]
    pub fn row(&self) -> Option<Row> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Row {
            name: self.name.clone(),
            unit: self.unit,
            runs: self.runs,
            samples: sorted.len(),
            min: *sorted.first()?,
            p50: rank(&sorted, 50)?,
            p99: rank(&sorted, 99)?,
            max: *sorted.last()?,
            note: self.note.clone(),
        })
    }
}

/// The nearest rank: the least value that so many of a hundred are not above. It is one that was measured.
fn rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let position = (sorted.len() * percent).div_ceil(100);
    sorted.get(position.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn a_row_has_the_nearest_ranks() {
        let mut samples = Samples::new("raw/seq", "us");
        samples.add_run((51..=100).rev().map(f64::from));
        samples.add_run((1..=50).map(f64::from));
        let row = samples.row().unwrap();
        assert_eq!((row.runs, row.samples), (2, 100));
        assert_eq!(
            (row.min, row.p50, row.p99, row.max),
            (1.0, 50.0, 99.0, 100.0)
        );
    }

    #[test]
    fn one_value_is_every_rank() {
        let mut samples = Samples::new("raw/64", "1/s");
        samples.add_run([7.0]);
        let row = samples.row().unwrap();
        assert_eq!((row.min, row.p50, row.p99, row.max), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn nothing_measured_is_no_row() {
        let mut samples = Samples::new("raw/64", "1/s");
        samples.add_run([]);
        assert_eq!(samples.row(), None);
    }
}
