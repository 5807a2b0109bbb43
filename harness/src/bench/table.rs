//! Records as tables for people: on a screen, and in Markdown.

use super::against::{Pairing, shape_text};
use super::ceiling::Measured;
use crate::record::Record;

/// Cells under a heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table of these columns.
    pub fn new(heading: &[&str]) -> Self {
        Self(vec![heading.iter().map(|cell| (*cell).to_owned()).collect()])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    /// Columns padded with spaces.
    pub fn text(&self) -> String {
        let columns = self.0[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.0.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.0 {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// The heading, then the rows.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.0
    }

    /// Columns between bars.
    pub fn markdown(&self) -> String {
        let line = |row: &[String]| format!("| {} |\n", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "));
        let mut text = line(&self.0[0]);
        text += &format!("|{}\n", "---|".repeat(self.0[0].len()));
        text + &self.0[1..].iter().map(|row| line(row)).collect::<String>()
    }
}

/// The table of a run.
pub fn records(records: &[Record]) -> Table {
    let mut table = Table::new(&["case", "op", "median", "min", "q1..q3", "T op/s (actual)", "GB/s", "of roofline", "against", "check"]);
    for record in records {
        let rates = &record.rates;
        let tops = match (rates.effective_tops, rates.actual_tops) {
            (Some(effective), Some(actual)) if (effective - actual).abs() > 1e-9 * effective => {
                format!("{} ({})", number(effective), number(actual))
            }
            (Some(effective), _) => number(effective),
            (None, Some(actual)) => format!("({})", number(actual)),
            (None, None) => "-".to_owned(),
        };
        let (median, min, spread) = match &record.seconds {
            Some(seconds) => {
                let percent = |part: f64| format!("{:+.1}%", (part / seconds.median - 1.0) * 100.0);
                (time(seconds.median), time(seconds.min), format!("{}..{}", percent(seconds.q1), percent(seconds.q3)))
            }
            None => ("not timed".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        let against = record.against.iter().map(|side| match side.ratio {
            Some([_, median, _]) if median > 0.0 => format!("{:.2}x {}", 1.0 / median, side.name),
            _ if side.check.passes => side.name.clone(),
            _ => format!("{}: WRONG", side.name),
        });
        let roofline = [(rates.of_measured_roofline, "measured"), (rates.of_datasheet_roofline, "sheet")];
        let roofline: Vec<String> = roofline.into_iter().filter_map(|(share, of)| Some(format!("{:.0}% {of}", share? * 100.0))).collect();
        let verdict = if record.check.passes {
            format!("cosine {:.6}", record.check.cosine)
        } else {
            format!("WRONG: rel L2 {:.1e}", record.check.relative_l2)
        };
        table.row([
            record.name.clone(),
            format!("{} {}", record.op, shape_text(&record.shape)),
            median,
            min,
            spread,
            tops,
            rates.gigabytes_per_s.map_or("-".to_owned(), number),
            if roofline.is_empty() { "-".to_owned() } else { roofline.join(", ") },
            against.collect::<Vec<_>>().join(", "),
            verdict,
        ]);
    }
    table
}

/// The table of a comparison.
pub fn pairings(rows: &[Pairing]) -> Table {
    let mut table = Table::new(&["case", "what", "ours", "theirs", "who", "faster by", "note"]);
    for row in rows {
        let cells = [row.case.clone(), row.what.clone(), time(row.ours_s), time(row.theirs_s), row.theirs.clone()];
        table.row(cells.into_iter().chain([format!("{:.2}", row.faster_by), row.note.clone()]));
    }
    table
}

/// The ceilings in a line.
pub fn ceilings(measured: &Measured) -> String {
    let said = [
        ("copy", measured.copy_gigabytes_per_s, "GB/s"),
        ("triad", measured.triad_gigabytes_per_s, "GB/s"),
        ("floating-point product", measured.float_tops, "T op/s"),
        ("int8 product", measured.int8_tops, "T op/s"),
    ];
    let said = said.into_iter().filter_map(|(what, value, unit)| Some(format!("{what} {} {unit}", number(value?))));
    said.collect::<Vec<_>>().join(", ")
}

/// A number in three digits that say something.
pub fn number(value: f64) -> String {
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else if value >= 1.0 {
        2
    } else if value >= 0.01 || value <= 0.0 {
        3
    } else {
        return format!("{value:.1e}");
    };
    format!("{value:.decimals$}")
}

/// Seconds in three digits, in the unit that suits them.
pub fn time(seconds: f64) -> String {
    let (value, unit) = if seconds >= 1.0 {
        (seconds, "s")
    } else if seconds >= 1e-3 {
        (seconds * 1e3, "ms")
    } else {
        (seconds * 1e6, "us")
    };
    format!("{} {unit}", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_times_their_unit() {
        assert_eq!([1979.0, 83.25, 1.234, 0.0825, 0.000_181].map(number), ["1979", "83.2", "1.23", "0.083", "1.8e-4"]);
        assert_eq!([1.5, 0.0123, 0.000_45].map(time), ["1.50 s", "12.3 ms", "450 us"]);
    }

    #[test]
    fn a_table_has_the_same_cells_on_a_screen_and_in_markdown() {
        let mut table = Table::new(&["a", "long"]);
        table.row(["one".to_owned(), "2".to_owned()]);
        assert_eq!(table.text(), "a    long\none  2\n");
        assert_eq!(table.markdown(), "| a | long |\n|---|---|\n| one | 2 |\n");
        table.row(["a|b".to_owned(), String::new()]);
        assert!(table.markdown().ends_with("| a\\|b |  |\n"));
    }
}
