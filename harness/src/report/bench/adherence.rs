//! What a model makes of captions, by what decides it: steps, attention, arithmetic, network.

use serde_json::Value;

use super::figure::{self, Figure};
use super::source::Evaluation;
use crate::bench::table::Table;
use crate::report::bars::{Bar, Bars};
use crate::report::chart::{Axis, Chart, ChartError, Line, Scale};

/// A share in percent, with its interval.
fn share(value: &Value) -> String {
    match (value["share"].as_f64(), interval(value)) {
        (Some(share), Some([low, high])) => format!("{:.1} [{:.0}-{:.0}]", 100.0 * share, 100.0 * low, 100.0 * high),
        _ => "-".to_owned(),
    }
}

fn interval(value: &Value) -> Option<[f64; 2]> {
    Some([value["interval_95"][0].as_f64()?, value["interval_95"][1].as_f64()?])
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |share| format!("{:.1}", 100.0 * share))
}

fn rows(evaluation: &Evaluation) -> impl Iterator<Item = &Value> {
    evaluation.findings["rows"].as_array().into_iter().flatten()
}

/// What was asked for, in a line.
pub fn asked(evaluation: &Evaluation) -> String {
    let settings = &evaluation.findings["settings"];
    let number = |name: &str| settings[name].to_string();
    let [width, height, frames, seed] = ["width", "height", "num_frames", "seed"].map(number);
    let held_out =
        settings["source"]["world"]["held_out"].as_u64().map(|count| format!(", {count} of combinations that training never sees"));
    let model = match settings["models"]["files"]["dit"]["hash"].as_str() {
        Some(hash) => format!("Transformer with BLAKE3 {}", &hash[..hash.len().min(16)]),
        None => "The embedded model".to_owned(),
    };
    format!(
        "{model}: {} of {} captions measured{}; {width}x{height}, {frames} frames, seed {seed}.",
        evaluation.findings["measured"],
        evaluation.findings["captions"],
        held_out.unwrap_or_default(),
    )
}

/// Shares read right, in percent, a row each; none where nothing was judged.
pub fn table(evaluation: &Evaluation) -> Option<Table> {
    let mut table =
        Table::new(&["row", "shape", "colour", "background", "motion", "mean", "all four", "no fault", "frame 0", "all four, held out"]);
    let constant = &evaluation.findings["constant_answer"];
    if constant.is_object() {
        let shares = ["shape", "colour", "background", "motion"].map(|name| percent(&constant[name]));
        let told = ["best constant answer".to_owned()].into_iter().chain(shares);
        let none = || "-".to_owned();
        table.row(told.chain([none(), percent(&constant["all_four"]), none(), none(), none()]));
    }
    for row in rows(evaluation).filter(|row| row["scores"]["adherence"]["clips"].as_u64() > Some(0)) {
        let adherence = &row["scores"]["adherence"];
        let name = row["row"].as_str().unwrap_or_default().to_owned();
        let attributes = ["shape", "colour", "background", "motion"].map(|name| share(&adherence["attributes"][name]));
        let rest = [share(&adherence["all_four"]), share(&adherence["no_fault"]), share(&adherence["first_frame"])];
        let held_out = share(&row["scores"]["held_out"]["all_four"]);
        table.row([name].into_iter().chain(attributes).chain([percent(&adherence["mean"])]).chain(rest).chain([held_out]));
    }
    (table.rows().len() > 1).then_some(table)
}

/// Likeness to other rows, first frames, motion, flicker, failures.
pub fn pictures(evaluation: &Evaluation) -> Table {
    let mut table = Table::new(&["row", "likeness", "first frame", "motion, levels", "flicker, levels", "no clip"]);
    for row in rows(evaluation) {
        let scores = &row["scores"];
        let likeness = scores["fidelity"].as_object().into_iter().flatten().map(|(other, alike)| match alike["psnr_db"].as_f64() {
            Some(psnr) => format!("{psnr:.1} dB, SSIM {:.3} to {other}", alike["ssim"].as_f64().unwrap_or(f64::NAN)),
            None if alike["equal"] == true => format!("equal to {other}"),
            None => format!("none to {other}"),
        });
        let likeness: Vec<String> = likeness.collect();
        let level = |name: &str| scores[name].as_f64().map_or("-".to_owned(), |level| format!("{level:.2}"));
        table.row([
            row["row"].as_str().unwrap_or_default().to_owned(),
            if likeness.is_empty() { "-".to_owned() } else { likeness.join("; ") },
            scores["first_frame_psnr_db"].as_f64().map_or("-".to_owned(), |psnr| format!("{psnr:.1} dB")),
            level("motion_levels"),
            level("background_flicker_levels"),
            scores["failed"].as_u64().map_or("-".to_owned(), |count| count.to_string()),
        ]);
    }
    table
}

/// All four attributes right: a bar with its interval for each row, and lines over steps where a network, a way of attention
/// and an arithmetic were sampled in several.
///
/// # Errors
/// What drawing says.
pub fn figures(evaluation: &Evaluation) -> Result<Vec<Figure>, ChartError> {
    let judged: Vec<(&str, &Value, f64, Option<[f64; 2]>)> = rows(evaluation)
        .filter_map(|row| {
            let all_four = &row["scores"]["adherence"]["all_four"];
            Some((row["row"].as_str()?, &row["settings"]["made"], all_four["share"].as_f64()?, interval(all_four)))
        })
        .collect();
    let mut figures = Vec::new();
    if judged.is_empty() {
        return Ok(figures);
    }
    let bar = |(name, made, value, interval): &(&str, &Value, f64, Option<[f64; 2]>)| Bar {
        name: (*name).to_owned(),
        value: *value,
        told: format!("{:.1}%", 100.0 * value),
        interval: *interval,
        // the truth, the control, the model
        colour: if made.is_null() { 2 } else { usize::from(made["net"] == "teacher") },
    };
    let mut bars: Vec<Bar> = judged.iter().map(bar).collect();
    if let Some(constant) = evaluation.findings["constant_answer"]["all_four"].as_f64() {
        let told = format!("{:.1}%", 100.0 * constant);
        bars.push(Bar { name: "best constant answer".to_owned(), value: constant, told, interval: None, colour: 8 });
    }
    let title = || "All four attributes read right".to_owned();
    let bars = Bars { title: title(), scale: Scale::Linear, base: 0.0, spans: (0.0, 1.0), bars };
    figures.push(figure::bars(&bars, "Share of captions with its 95% interval (Wilson).".to_owned())?);
    let mut lines: Vec<Line> = Vec::new();
    for (name, made, value, _) in &judged {
        let steps = ["few", "guided"].into_iter().find_map(|kind| made["steps"][kind].as_f64());
        // the row's name without its steps: network, attention, arithmetic
        let (Some(steps), Some(name)) = (steps, without_steps(name)) else { continue };
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push((steps, *value)),
            None => lines.push(Line::joined(name, vec![(steps, *value)])),
        }
    }
    if lines.iter().any(|line| line.points.len() > 1) {
        lines.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        let share = Axis { spans: Some((0.0, 1.0)), ..Axis::linear("share of captions") };
        let chart = Chart { title: format!("{}, by steps", title()), x: Axis::log("steps"), y: share, lines };
        figures.push(figure::lines(&chart, "Intervals stand in the bars and in the table.".to_owned())?);
    }
    Ok(figures)
}

/// `undistilled, 4 steps, original, bf16` without its steps.
fn without_steps(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split(", ").collect();
    let is_steps = |part: &&str| part.ends_with(" step") || part.ends_with(" steps");
    let rest: Vec<&str> = parts.iter().filter(|part| !is_steps(part)).copied().collect();
    (rest.len() + 1 == parts.len()).then(|| rest.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_configuration_have_one_line() {
        for (name, rest) in [
            ("4 steps, sagesla 0.34, bf16+w8a8", "sagesla 0.34, bf16+w8a8"),
            ("undistilled, 1 step, original, bf16", "undistilled, original, bf16"),
            ("teacher, 50 guided steps, original, bf16", "teacher, original, bf16"),
        ] {
            assert_eq!(without_steps(name).as_deref(), Some(rest));
        }
        assert_eq!(without_steps("real clips"), None);
    }
}
