//! Time and throughput against length: how an operation grows, by the slope of its times on two logarithmic axes.

use serde_json::Value;

use super::figure::{self, Figure};
use super::timing::{Run, Timing};
use crate::bench::against::shape_text;
use crate::report::chart::{Axis, Chart, ChartError, Line};

/// One operation over several lengths.
#[derive(Debug, Clone, PartialEq)]
struct Series {
    /// What a length counts.
    unit: &'static str,
    op: String,
    /// The rest of its shape.
    rest: String,
    /// Length, seconds, T op/s, samples; the shortest first.
    points: Vec<(f64, f64, Option<f64>, usize)>,
}

/// What a length counts, the length, and the shape without it; none for a shape that has no one length.
fn length(shape: &Value) -> Option<(&'static str, f64, String)> {
    let sides = shape.as_object()?;
    let (side, unit) = [("len", "tokens"), ("grid", "tokens"), ("rows", "rows"), ("latent", "positions of the latent")]
        .into_iter()
        .find(|(side, _)| sides.contains_key(*side))?;
    // attention to another text has two lengths
    if sides.contains_key("keys") {
        return None;
    }
    let length = match &sides[side] {
        Value::Array(sides) => sides.iter().map(Value::as_f64).product::<Option<f64>>()?,
        one => one.as_f64()?,
    };
    let rest: serde_json::Map<String, Value> =
        sides.iter().filter(|(name, _)| *name != side).map(|(name, value)| (name.clone(), value.clone())).collect();
    Some((unit, length, shape_text(&rest.into())))
}

fn series(timings: &[Timing]) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    let runs: Vec<Run<'_>> = timings.iter().flat_map(Timing::runs).filter(|run| run.op != "naive").collect();
    for run in &runs {
        let Some((unit, length, rest)) = length(run.shape) else { continue };
        let point = (length, run.median, run.effective_tops, run.count);
        let known = all.iter_mut().find(|series| series.unit == unit && series.op == run.op && series.rest == rest);
        match known {
            None => all.push(Series { unit, op: run.op.to_owned(), rest, points: vec![point] }),
            // Two cases of one shape: the one with more samples stands for both.
            Some(series) => match series.points.iter_mut().find(|known| known.0 == length) {
                Some(known) if known.3 < point.3 => *known = point,
                Some(_) => {}
                None => series.points.push(point),
            },
        }
    }
    all.retain(|series| series.points.len() > 1);
    all.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    all
}

/// Whether an operation was timed at two lengths.
pub fn is_told(timings: &[Timing]) -> bool {
    !series(timings).is_empty()
}

/// The exponent of `y ~ x^exponent` by least squares on logarithms; none without two different lengths.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (over, under) =
        logs.iter().fold((0.0, 0.0), |(over, under), point| (over + (point.0 - x) * (point.1 - y), under + (point.0 - x).powi(2)));
    (under > 0.0).then(|| over / under)
}

/// A chart of times and one of throughput for each kind of length.
///
/// # Errors
/// What drawing says.
pub fn figures(timings: &[Timing]) -> Result<Vec<Figure>, ChartError> {
    let all = series(timings);
    let mut figures = Vec::new();
    let mut units: Vec<&str> = all.iter().map(|series| series.unit).collect();
    units.dedup();
    units.sort_unstable();
    units.dedup();
    for unit in units {
        let of_unit: Vec<&Series> = all.iter().filter(|series| series.unit == unit).collect();
        let is_one_shape = of_unit.iter().all(|series| series.rest == of_unit[0].rest);
        let name = |series: &Series| if is_one_shape { series.op.clone() } else { format!("{} ({})", series.op, series.rest) };
        let shape = if is_one_shape { format!("{}. ", of_unit[0].rest) } else { String::new() };
        let times = of_unit.iter().map(|series| {
            let points: Vec<(f64, f64)> = series.points.iter().map(|point| (point.0, 1e3 * point.1)).collect();
            let grows = exponent(&points).map(|exponent| format!(": length^{exponent:.2}")).unwrap_or_default();
            let few = if points.len() == 2 { " (two lengths)" } else { "" };
            Line::joined(format!("{}{grows}{few}", name(series)), points)
        });
        let chart = Chart { title: format!("Time against {unit}"), x: Axis::log(unit), y: Axis::log("ms"), lines: times.collect() };
        figures.push(figure::lines(
            &chart,
            format!("{shape}Medians; the exponent is the slope of a line through them.").trim_start().to_owned(),
        )?);
        let rates = of_unit.iter().filter_map(|series| {
            let points: Vec<(f64, f64)> = series.points.iter().filter_map(|point| Some((point.0, point.2?))).collect();
            (!points.is_empty()).then(|| Line::joined(name(series), points))
        });
        let rates: Vec<Line> = rates.collect();
        if !rates.is_empty() {
            let chart =
                Chart { title: format!("Throughput against {unit}"), x: Axis::log(unit), y: Axis::log("effective T op/s"), lines: rates };
            let note = format!("{shape}Effective: operations of the dense formula, also where blocks were left out.");
            figures.push(figure::lines(&chart, note)?);
        }
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exponent_of_a_power_is_found() {
        let power = |exponent: f64| [512.0f64, 1024.0, 4096.0].map(|x| (x, 3e-9 * x.powf(exponent)));
        assert!((exponent(&power(2.0)).unwrap() - 2.0).abs() < 1e-12 && (exponent(&power(0.9)).unwrap() - 0.9).abs() < 1e-12);
        assert_eq!(exponent(&[(5.0, 1.0), (5.0, 2.0)]), None);
        assert_eq!(exponent(&[]), None);
    }

    #[test]
    fn a_length_is_told_by_the_shape() {
        assert_eq!(length(&json!({ "len": 64, "heads": 2, "batch": 1 })), Some(("tokens", 64.0, "heads 2".to_owned())));
        assert_eq!(
            length(&json!({ "latent": [8, 4, 2], "model": "1.3b" })),
            Some(("positions of the latent", 64.0, "model 1.3b".to_owned()))
        );
        assert_eq!(length(&json!({ "len": 64, "keys": 8 })), None);
        assert_eq!(length(&json!({ "frames": 2, "size": [8, 8] })), None);
    }
}
