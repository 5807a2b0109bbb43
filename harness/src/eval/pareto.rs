//! Closeness and adherence against time: which ways of making a video no other way beats in both.

use crate::eval::row::{Against, Configuration, Row};
use crate::eval::score::Scores;
use crate::report::chart::{self, Axis, Chart, ChartError, Line, Mark};

/// A way's place: seconds of denoising of the median clip, and what is to be high or low.
type Place = (f64, f64);

/// Two charts where the judge could read something, one where not, as one picture.
///
/// # Errors
/// Where no row has a time.
pub fn picture(rows: &[Row], scores: &[Scores]) -> Result<String, ChartError> {
    chart::svg(&charts(rows, scores))
}

fn charts(rows: &[Row], scores: &[Scores]) -> Vec<Chart> {
    // Likeness is to the same steps: what few steps change is not in it, so each way of sampling has a front of its own.
    let mut charts = Vec::new();
    let unlike = |scores: &Scores| scores.compared.get(&Against::Dense).and_then(|alike| alike.ssim()).map(|ssim| 1.0 - ssim);
    let closeness = lines(rows, scores, &Configuration::sampling, unlike);
    if !closeness.is_empty() {
        charts.push(Chart {
            title: "Difference from dense f32 at the same steps (fidelity, which is no quality)".to_owned(),
            x: seconds(),
            y: Axis::linear("1 - SSIM"),
            lines: closeness,
        });
    }
    let wrong = |scores: &Scores| scores.all.all_four().value().map(|share| 100.0 * (1.0 - share));
    let adherence = lines(rows, scores, &|_| "all".to_owned(), wrong);
    if !adherence.is_empty() {
        charts.push(Chart {
            title: "Clips in which the judge misreads an attribute".to_owned(),
            x: seconds(),
            y: Axis::linear("percent"),
            lines: adherence,
        });
    }
    charts
}

fn seconds() -> Axis {
    Axis::log("seconds of denoising, the median clip")
}

/// The points of each group, and its front.
fn lines(rows: &[Row], scores: &[Scores], group: &dyn Fn(&Configuration) -> String, measure: impl Fn(&Scores) -> Option<f64>) -> Vec<Line> {
    let mut groups: Vec<(String, Vec<Place>)> = Vec::new();
    for (row, scores) in rows.iter().zip(scores) {
        let Row::Made(configuration) = row else { continue };
        let (Some(time), Some(value)) = (scores.denoising.summary(), measure(scores)) else { continue };
        let (name, place) = (group(configuration), (time.median, value));
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, places)) => places.push(place),
            None => groups.push((name, vec![place])),
        }
    }
    let apart = |(name, places): &(String, Vec<Place>)| Line { name: name.clone(), points: places.clone(), mark: Mark::Apart };
    let fronts = |(name, places): &(String, Vec<Place>)| Line { name: format!("front, {name}"), points: front(places), mark: Mark::Dashed };
    groups.iter().flat_map(|group| [apart(group), fronts(group)]).collect()
}

/// The places that no other beats in both, from the quickest.
fn front(places: &[Place]) -> Vec<Place> {
    let mut sorted = places.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut least = f64::INFINITY;
    sorted.retain(|place| {
        let is_better = place.1 < least;
        least = least.min(place.1);
        is_better
    });
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_has_what_nothing_beats_in_both() {
        let places = [(3.0, 0.1), (1.0, 0.5), (2.0, 0.5), (2.5, 0.2), (4.0, 0.3), (1.0, 0.6)];
        assert_eq!(front(&places), [(1.0, 0.5), (2.5, 0.2), (3.0, 0.1)]);
        assert_eq!(front(&[]), []);
    }
}
