//! `turbowan conform DIR`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::conform::{self, Row};
use crate::error::Error;

/// Replays recorded runs of the official code and holds every number to the recording's own tolerance.
#[derive(Debug, Args)]
pub struct Conform {
    /// A folder with fixtures (folders with a meta.json) at any depth.
    pub dir: PathBuf,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// When nothing could be replayed, or a comparison failed.
pub fn run(args: &Conform) -> Result<(), Error> {
    let rows = conform::run(&args.dir)?;
    let failed = rows.iter().filter(|row| !row.passes).count();
    if args.json {
        println!("{:#}", report(&rows, failed));
    } else {
        print!("{}", table(&rows));
        println!("\n{} comparisons, {} passed, {failed} failed", rows.len(), rows.len() - failed);
    }
    if failed > 0 { Err(Error::Mismatch { failed, total: rows.len() }) } else { Ok(()) }
}

fn report(rows: &[Row], failed: usize) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let distance = row.verdict.as_ref().map(|verdict| verdict.distance);
            json!({
                "component": row.component,
                "case": row.case,
                "max_abs": distance.map(|d| d.max_abs),
                "relative_l2": distance.map(|d| d.relative_l2),
                "cosine": distance.map(|d| d.cosine),
                "bound": row.verdict.as_ref().map(|verdict| verdict.bound.to_string()),
                "passes": row.passes,
                "note": row.note,
            })
        })
        .collect();
    json!({ "failed": failed, "total": rows.len(), "rows": rows })
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![["component", "case", "max abs", "rel L2", "cosine", "bound", "verdict"].map(str::to_owned)];
    for row in rows {
        let verdict = if row.passes { "pass" } else { "FAIL" }.to_owned();
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
