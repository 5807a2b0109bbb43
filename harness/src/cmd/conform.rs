//! `turbowan conform DIR`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cmd::flags::{DeviceFlag, ProcessorFlags};
use crate::conform::{self, DEVICE_BOUNDS, Outcome, Row};
use crate::error::Error;

/// Replays recorded runs of the official code and holds every number to the recording's own tolerance.
#[derive(Debug, Args)]
pub struct Conform {
    /// A folder with fixtures (folders with a meta.json) at any depth.
    pub dir: PathBuf,
    /// Where the networks work.
    #[command(flatten)]
    pub place: ProcessorFlags,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// When nothing could be replayed, or a comparison failed.
pub fn run(args: &Conform) -> Result<(), Error> {
    let processor = args.place.open()?;
    let rows = conform::run(&args.dir, &processor)?;
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    let [passed, failed, skipped] = [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(count);
    let bounds = (args.place.device != DeviceFlag::Host).then_some(DEVICE_BOUNDS);
    if args.json {
        let head = json!({
            "networks_on": processor.name(),
            "total": rows.len(),
            "passed": passed,
            "failed": failed,
            "skipped": skipped,
            "bounds": bounds,
            "rows": report(&rows),
        });
        println!("{head:#}");
    } else {
        print!("{}", table(&rows));
        if let Some(bounds) = bounds {
            println!("\n{bounds}");
        }
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        println!("\n{} comparisons, {passed} passed, {failed} failed{skipped}", rows.len());
    }
    if failed > 0 { Err(Error::Mismatch { failed, total: rows.len() }) } else { Ok(()) }
}

fn report(rows: &[Row]) -> Vec<serde_json::Value> {
    rows.iter()
        .map(|row| {
            let distance = row.verdict.as_ref().map(|verdict| verdict.distance);
            json!({
                "component": row.component,
                "case": row.case,
                "max_abs": distance.map(|d| d.max_abs),
                "relative_l2": distance.map(|d| d.relative_l2),
                "cosine": distance.map(|d| d.cosine),
                "bound": row.verdict.as_ref().map(|verdict| verdict.bound.to_string()),
                "outcome": word(row.outcome),
                "note": row.note,
            })
        })
        .collect()
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "pass",
        Outcome::Failed => "FAIL",
        Outcome::Skipped => "skipped",
    }
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![["component", "case", "max abs", "rel L2", "cosine", "bound", "verdict"].map(str::to_owned)];
    for row in rows {
        let verdict = word(row.outcome).to_owned();
        let [component, case] = [row.component.clone(), row.case.clone()];
        lines.push(match &row.verdict {
            Some(held) => {
                let d = &held.distance;
                let numbers = [format!("{:.2e}", d.max_abs), format!("{:.2e}", d.relative_l2), format!("{:.6}", d.cosine)];
                let [max_abs, relative, cosine] = numbers;
                [component, case, max_abs, relative, cosine, held.bound.to_string(), verdict]
            }
            None => [component, case, String::new(), String::new(), String::new(), row.note.clone(), verdict],
        });
    }
    let widths: Vec<usize> = (0..7).map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
