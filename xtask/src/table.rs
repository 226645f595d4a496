//! Plain tables for the terminal.

use std::fmt;

/// Rows of text under a heading, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
    right_aligned: Vec<usize>,
}

impl Table {
    /// An empty table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(ToString::to_string).collect()],
            columns: headings.len(),
            right_aligned: Vec::new(),
        }
    }

    /// Aligns a column, counted from 0, to the right: for figures.
    pub(crate) fn align_right(mut self, column: usize) -> Self {
        self.right_aligned.push(column);
        self
    }

    /// Adds a row. Cells that are missing stay empty, cells too many are left out, and a line break in a cell becomes
    /// a space, so that a row is one line whatever it holds.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let mut row: Vec<String> = cells
            .into_iter()
            .map(|cell| cell.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        row.resize(self.columns, String::new());
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns)
            .map(|column| {
                self.rows
                    .iter()
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for (number, row) in self.rows.iter().enumerate() {
            write_row(formatter, row, &widths, &self.right_aligned)?;
            if number == 0 {
                let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                write_row(formatter, &rule, &widths, &[])?;
            }
        }
        Ok(())
    }
}

fn write_row(
    formatter: &mut fmt::Formatter<'_>,
    row: &[String],
    widths: &[usize],
    right_aligned: &[usize],
) -> fmt::Result {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        if column > 0 {
            line.push_str("  ");
        }
        let padding = " ".repeat(width - cell.chars().count());
        if right_aligned.contains(&column) {
            line.push_str(&padding);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            line.push_str(&padding);
        }
    }
    writeln!(formatter, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::Table;

    fn cells<const N: usize>(cells: [&str; N]) -> [String; N] {
        cells.map(String::from)
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["step", "time", "note"]).align_right(1);
        table.row(cells(["fmt", "0.1 s", ""]));
        table.row(cells(["clippy-client", "12.0 s", "µs"]));
        assert_eq!(
            table.to_string(),
            "step             time  note\n\
             -------------  ------  ----\n\
             fmt             0.1 s\n\
             clippy-client  12.0 s  µs\n"
        );
    }

    #[test]
    fn a_row_stays_one_line_of_the_declared_columns() {
        let mut table = Table::new(&["a", "b"]);
        table.row(cells(["one\ntwo"]));
        table.row(cells(["1", "2", "3"]));
        assert_eq!(
            table.to_string(),
            "a        b\n-------  -\none two\n1        2\n"
        );
    }
}
