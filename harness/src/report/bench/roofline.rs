//! Throughput against what the machine can do at best, as it was measured in the same run.

use super::figure::{self, Figure};
use super::timing::Timing;
use crate::bench::ceiling::Measured;
use crate::report::bars::{Bar, Bars};
use crate::report::chart::{Axis, Chart, ChartError, Line, Mark, Scale};

/// How far the ceilings reach beyond the points.
const ROOM: f64 = 1.6;

/// The ceilings that were measured with a case.
pub fn ceilings(timing: &Timing) -> Option<Measured> {
    let measured: Measured = serde_json::from_value(timing.record.ceilings["measured"].clone()).ok()?;
    (measured != Measured::default()).then_some(measured)
}

/// Operations a second over operations a byte, under the ceilings of the run; none without both.
///
/// # Errors
/// What drawing says.
pub fn roofline(timings: &[Timing]) -> Result<Option<Figure>, ChartError> {
    // the best that any run of the section measured
    let best = |of: fn(&Measured) -> Option<f64>| timings.iter().filter_map(ceilings).filter_map(|one| of(&one)).reduce(f64::max);
    let mut lines: Vec<Line> = Vec::new();
    for timing in timings.iter().filter(|timing| ceilings(timing).is_some()) {
        let point = timing.cost("actual").zip(timing.cost("bytes")).zip(timing.rates.actual_tops);
        let Some(((operations, bytes), tops)) = point else { continue };
        let family = timing.record.op.as_str();
        match lines.iter_mut().find(|line| line.name == family) {
            Some(line) => line.points.push((operations / bytes, tops)),
            None => lines.push(Line { name: family.to_owned(), points: vec![(operations / bytes, tops)], mark: Mark::Apart }),
        }
    }
    let places = || lines.iter().flat_map(|line| &line.points).map(|point| point.0);
    let (Some(copy), true) = (best(|one| one.copy_gigabytes_per_s), places().next().is_some()) else { return Ok(None) };
    let (low, high) = (places().fold(f64::MAX, f64::min) / ROOM, places().fold(f64::MIN, f64::max) * ROOM);
    let roofs = [("int8 product", best(|one| one.int8_tops)), ("floating-point product", best(|one| one.float_tops))];
    for (name, most) in roofs.into_iter().filter_map(|(name, most)| Some((name, most?))) {
        // 10^9 bytes a second times operations a byte
        let under = |x: f64| (x * copy * 1e-3).min(most);
        let knee = most / (copy * 1e-3);
        let points = [low, knee, high].into_iter().filter(|x| (low..=high).contains(x)).map(|x| (x, under(x))).collect();
        lines.push(Line { name: format!("copy, then {name}"), points, mark: Mark::Dashed });
    }
    let chart = Chart {
        title: "Throughput under the measured ceilings".to_owned(),
        x: Axis::log("operations a byte"),
        y: Axis::log("actual T op/s"),
        lines,
    };
    let note = "Operations that were carried out, over bytes that a perfect cache would move. Ceilings: best samples of a copy and of our own \
                products in the same runs, so a point may lie above one.";
    figure::lines(&chart, note.to_owned()).map(Some)
}

/// Each case's least time by the measured ceilings over its median; none where no record has one.
///
/// # Errors
/// What drawing says.
pub fn shares(timings: &[Timing]) -> Result<Option<Figure>, ChartError> {
    let mut told: Vec<(&Timing, f64)> = timings.iter().filter_map(|timing| Some((timing, timing.rates.of_measured_roofline?))).collect();
    if told.is_empty() {
        return Ok(None);
    }
    told.sort_by(|a, b| b.1.total_cmp(&a.1));
    let bar = |(timing, share): &(&Timing, f64)| Bar {
        name: timing.record.name.clone(),
        value: *share,
        told: format!("{:.0}%", 100.0 * share),
        interval: None,
        colour: 0,
    };
    let bars = Bars {
        title: "Share of the measured roofline".to_owned(),
        scale: Scale::Linear,
        base: 0.0,
        spans: (0.0, 1.0),
        bars: told.iter().map(bar).collect(),
    };
    let note = "The least time that the measured ceilings allow, over the median. Above 100%: operands came from a cache, or the product \
                was faster than the one that the ceiling was measured by.";
    figure::bars(&bars, note.to_owned()).map(Some)
}
