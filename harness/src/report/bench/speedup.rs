//! How much faster: beside peers, and beside our own other ways of the same operation.

use super::figure::{self, Figure};
use super::timing::{Paired, Timing};
use crate::report::bars::{Bar, Bars};
use crate::report::chart::{ChartError, Scale};

/// A factor in two digits, in more where it is near one.
pub fn factor(by: f64) -> String {
    let decimals = if by >= 9.95 {
        0
    } else if by >= 1.95 {
        1
    } else {
        2
    };
    format!("{by:.decimals$}x")
}

/// A bar for each pair of ours and a peer's; none without pairs.
///
/// # Errors
/// What drawing says.
pub fn beside_peers(pairs: &[Paired]) -> Result<Option<Figure>, ChartError> {
    let bar = |pair: &Paired| Bar {
        name: pair.case.clone(),
        value: pair.ratio.middle,
        told: factor(pair.ratio.middle),
        interval: pair.ratio.interval,
        colour: usize::from(pair.ratio.middle < 1.0),
    };
    let note = "Median of the peer over ours, same shape, machine and day, on a logarithmic axis from 1; the line is the 95% interval. \
                Left of 1 the peer is faster.";
    drawn("Faster than the peer by", pairs.iter().map(bar).collect(), note)
}

/// A bar for each other side that was timed in turns with ours; none without such.
///
/// # Errors
/// What drawing says.
pub fn beside_ours(timings: &[Timing]) -> Result<Option<Figure>, ChartError> {
    let sides = timings.iter().flat_map(|timing| timing.sides.iter().map(move |side| (timing, side)));
    let bar = |(timing, side): (&Timing, &crate::record::Beside)| {
        let [q1, median, q3] = side.ratio.filter(|quartiles| quartiles[0] > 0.0)?;
        let value = 1.0 / median;
        let name = format!("{}, beside {}", timing.record.name, side.name);
        Some(Bar { name, value, told: factor(value), interval: Some([1.0 / q3, 1.0 / q1]), colour: usize::from(value < 1.0) })
    };
    let note = "Our own other ways of the same shape, timed in turns: median of the pairs' ratios, the line spans their quartiles.";
    drawn("Faster than our own by", sides.filter_map(bar).collect(), note)
}

fn drawn(title: &str, bars: Vec<Bar>, note: &str) -> Result<Option<Figure>, ChartError> {
    if bars.is_empty() {
        return Ok(None);
    }
    let bars = Bars { title: title.to_owned(), scale: Scale::Log, base: 1.0, spans: (0.8, 2.0), bars };
    figure::bars(&bars, note.to_owned()).map(Some)
}
