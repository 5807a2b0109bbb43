//! Error against speed, of operations that were held to the same truth on the same shape.

use super::figure::{self, Figure};
use super::timing::{Run, Timing};
use crate::report::chart::{Axis, Chart, ChartError, Line, Mark};

/// Errors of one shape that lie closer are no trade.
const APART: f64 = 2.0;

/// A chart for each truth that two or more operations of one shape were held to, with errors that differ.
///
/// # Errors
/// What drawing says.
pub fn figures(timings: &[Timing]) -> Result<Vec<Figure>, ChartError> {
    let runs: Vec<Run<'_>> = timings.iter().flat_map(Timing::runs).filter(|run| run.op != "naive" && run.relative_l2 > 0.0).collect();
    let mut truths: Vec<&str> = runs.iter().map(|run| run.truth).collect();
    truths.sort_unstable();
    truths.dedup();
    let mut figures = Vec::new();
    for truth in truths {
        let of_truth: Vec<&Run<'_>> = runs.iter().filter(|run| run.truth == truth).collect();
        let trades = |run: &&&Run<'_>| {
            of_truth.iter().any(|other| {
                let by = other.relative_l2 / run.relative_l2;
                other.op != run.op && other.shape == run.shape && !(1.0 / APART..=APART).contains(&by)
            })
        };
        let mut lines: Vec<Line> = Vec::new();
        for run in of_truth.iter().filter(trades) {
            let Some(tops) = run.effective_tops else { continue };
            match lines.iter_mut().find(|line| line.name == run.op) {
                Some(line) => line.points.push((tops, run.relative_l2)),
                None => lines.push(Line { name: run.op.to_owned(), points: vec![(tops, run.relative_l2)], mark: Mark::Apart }),
            }
        }
        if lines.len() < 2 {
            continue;
        }
        let chart = Chart { title: "Error against speed".to_owned(), x: Axis::log("effective T op/s"), y: Axis::log("relative L2"), lines };
        figures.push(figure::lines(&chart, format!("Held to {truth}: right is faster, down is closer. A point is a case."))?);
    }
    Ok(figures)
}
