//! Medians, spreads, and tables in Markdown.

use std::fmt::Write as _;

use crate::run::Sample;

/// The middle of some figures, and their ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (figures.first(), figures.last()) else {
            return Self::default();
        };
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Self {
            median,
            least: *least,
            most: *most,
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}–{})",
            number(self.median),
            number(self.least),
            number(self.most)
        )
    }
}

/// Three figures that mean something.
pub(crate) fn number(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

/// Octets in MiB.
pub(crate) fn mebibytes(octets: f64) -> String {
    number(octets / 1024.0 / 1024.0)
}

/// A time in microseconds, in milliseconds.
pub(crate) fn millis(micros: f64) -> String {
    number(micros / 1000.0)
}

/// CPU seconds for a thousand messages, of one process.
pub(crate) fn cpu(samples: &[Sample], name: &str, messages: u64) -> Option<Spread> {
    let figures: Vec<f64> = samples
        .iter()
        .filter_map(|sample| {
            let (_, usage) = sample.usage.iter().find(|(known, _)| *known == name)?;
            Some(usage.cpu.as_secs_f64() * 1000.0 / messages as f64)
        })
        .collect();
    (!figures.is_empty()).then(|| Spread::of(figures))
}

/// The names of the processes of a system, in order.
pub(crate) fn processes(samples: &[Sample]) -> Vec<&'static str> {
    let first = samples.first();
    first
        .map(|sample| sample.usage.iter().map(|(name, _)| *name).collect())
        .unwrap_or_default()
}

/// A table that grows row by row.
#[derive(Debug, Default)]
pub(crate) struct Table(String);

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(columns.iter().map(|column| (*column).to_owned()));
        table.0.push('|');
        table.0.push_str(&"---|".repeat(columns.len()));
        table.0.push('\n');
        table
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "| {} |", cells.join(" | "));
    }

    pub(crate) fn text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Spread, Table, number};

    #[test]
    fn medians() {
        for (figures, shown) in [
            (vec![], "0.000 (0.000–0.000)"),
            (vec![3.0, 1.0, 2.0], "2.00 (1.00–3.00)"),
            (vec![40.0, 10.0, 20.0, 30.0], "25.0 (10.0–40.0)"),
        ] {
            assert_eq!(Spread::of(figures).to_string(), shown);
        }
        assert_eq!(number(12_345.6), "12346");
    }

    #[test]
    fn a_table() {
        let mut table = Table::new(&["a", "b"]);
        table.row(["1".to_owned(), "2".to_owned()]);
        assert_eq!(table.text(), "| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
