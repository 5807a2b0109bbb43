//! `turbowan compare A B`: two attention types, two machines or two records side by side.

pub mod attention;
pub mod gate;
pub mod machines;
pub mod records;

use std::time::Instant;

use serde_json::{Value, json};
use turbowan_reference::metrics::Distance;

/// How far A's result is from B's, and what each took.
#[derive(Debug, Clone)]
pub struct Pair {
    /// What was computed.
    pub what: String,
    /// A against B.
    pub distance: Distance,
    /// The part that is worst: a head, or a row and its column.
    pub worst: String,
    /// Milliseconds of one call of A and of B, the median of several; none where a time says nothing.
    pub milliseconds: [Option<f64>; 2],
}

/// The table of pairs.
pub fn table(pairs: &[Pair], names: [&str; 2]) -> String {
    let mut lines = vec![["", "cosine", "rel L1", "RMSE", "max abs", "worst", names[0], names[1]].map(str::to_owned)];
    for pair in pairs {
        let d = &pair.distance;
        let time = |index: usize| pair.milliseconds[index].map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
        lines.push([
            pair.what.clone(),
            format!("{:.7}", d.cosine),
            format!("{:.2e}", d.relative_l1),
            format!("{:.2e}", d.rmse),
            format!("{:.2e}", d.max_abs),
            pair.worst.clone(),
            time(0),
            time(1),
        ]);
    }
    aligned(&lines)
}

/// Lines of cells as columns.
pub fn aligned(lines: &[impl AsRef<[String]>]) -> String {
    let columns = lines.iter().map(|line| line.as_ref().len()).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.as_ref().get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<_> = line.as_ref().iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A pair as a JSON object.
pub fn json(pair: &Pair, names: [&str; 2]) -> Value {
    let d = &pair.distance;
    let finite = |value: f64| value.is_finite().then_some(value);
    json!({
        "what": pair.what,
        "a": names[0],
        "b": names[1],
        "cosine": d.cosine,
        "relative_l1": finite(d.relative_l1),
        "relative_l2": finite(d.relative_l2),
        "rmse": d.rmse,
        "max_abs": d.max_abs,
        "not_finite": d.not_finite,
        "worst": pair.worst,
        "a_ms": pair.milliseconds[0],
        "b_ms": pair.milliseconds[1],
    })
}

/// The result of `work`, and the median of its times over `runs` calls in milliseconds.
fn timed<T, E>(runs: usize, mut work: impl FnMut() -> Result<T, E>) -> Result<(T, f64), E> {
    let mut times = Vec::new();
    let mut once = || {
        let start = Instant::now();
        let result = work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        Ok(result)
    };
    let mut result = once()?;
    for _ in 1..runs.max(1) {
        result = once()?;
    }
    times.sort_by(f64::total_cmp);
    Ok((result, times[times.len() / 2]))
}
