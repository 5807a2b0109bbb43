//! An evaluation as a person reads it: adherence, the held-out part of it, pictures, and the confusion of shapes.

use turbowan_world::judge::Confusion;

use crate::compare::aligned;
use crate::eval::row::{Against, Row};
use crate::eval::score::{Adherence, Constant, Mean, Scores, Share};
use crate::metrics::NoReference;
use crate::metrics::likeness::psnr;

/// Everything in one text.
pub fn table(rows: &[Row], scores: &[Scores], constant: Option<Constant>) -> String {
    let mut text = String::new();
    let named: Vec<(String, &Scores)> = rows.iter().enumerate().map(|(index, row)| format!("{} {row}", index + 1)).zip(scores).collect();
    let clips = |of: fn(&Scores) -> &Adherence| scores.iter().map(|scores| of(scores).clips()).max().unwrap_or(0);
    let (all, held_out) = (clips(|scores| &scores.all), clips(|scores| &scores.held_out));
    if all > 0 {
        text +=
            &format!("share read right of {all} captions, in percent, [95% interval]; a clip passes with all four right and no fault\n");
        text += &adherence(&named, |scores| &scores.all, constant);
        if held_out > 0 && held_out < all {
            text += &format!("\nthe {held_out} of combinations that training never sees\n");
            text += &adherence(&named, |scores| &scores.held_out, None);
        }
        text.push('\n');
    }
    text += &pictures(&named);
    for ((name, scores), _) in named.iter().zip(rows).filter(|((_, scores), row)| scores.all.clips() > 0 && **row != Row::Real) {
        text += &format!("\nshapes, {name}\n{}", shapes(&scores.all.tally.shape));
    }
    text
}

fn adherence(named: &[(String, &Scores)], of: impl Fn(&Scores) -> &Adherence, constant: Option<Constant>) -> String {
    let mut lines =
        vec![["", "shape", "colour", "background", "motion", "mean", "all four", "no fault", "passes", "frame 0"].map(str::to_owned)];
    if let Some(Constant { attributes: [shape, colour, background, motion], all_four }) = constant {
        let mean = (shape + colour + background + motion) / 4.0;
        let cells = [shape, colour, background, motion, mean, all_four].map(percent);
        let [shape, colour, background, motion, mean, all_four] = cells;
        let none = || "-".to_owned();
        lines.push(["best constant answer".to_owned(), shape, colour, background, motion, mean, all_four, none(), none(), none()]);
    }
    for (name, scores) in named {
        let adherence = of(scores);
        if adherence.clips() == 0 {
            continue;
        }
        let [shape, colour, background, motion] = adherence.attributes().map(with_interval);
        lines.push([
            name.clone(),
            shape,
            colour,
            background,
            motion,
            percent(adherence.tally.mean()),
            with_interval(adherence.all_four()),
            with_interval(adherence.sound()),
            with_interval(adherence.passed()),
            with_interval(adherence.first_frame()),
        ]);
    }
    aligned(&lines)
}

fn pictures(named: &[(String, &Scores)]) -> String {
    let has = |against: Against| named.iter().any(|(_, scores)| scores.compared.contains_key(&against));
    let columns: Vec<Against> = [Against::Real, Against::Teacher, Against::Dense].into_iter().filter(|against| has(*against)).collect();
    let mut text = String::from(
        "pictures: motion, flicker of the background, warp error and colour drift in 8-bit levels, sharpness in squared ones, \
         clipped pixels in percent",
    );
    if !columns.is_empty() {
        text += "; fidelity, which is no quality: PSNR of the mean squared difference in dB, SSIM, MS-SSIM (and LPIPS where its weights are given), to ";
        text += &columns.iter().map(|against| against.name()).collect::<Vec<_>>().join(", to ");
        text += if columns == [Against::Real] { ", the clips that went in" } else { ", same noise" };
    }
    text += "; denoising: the median clip\n";
    // columns that no row has anything for are left out
    let mut head = vec![String::new()];
    head.extend(NoReference::NAMES.map(str::to_owned));
    head.extend(columns.iter().map(|against| against.name().to_owned()));
    let has_first = named.iter().any(|(_, scores)| scores.first_frame_mse.value().is_some());
    let has_time = named.iter().any(|(_, scores)| !scores.denoising.0.is_empty());
    let has_failed = named.iter().any(|(_, scores)| scores.failed > 0);
    head.extend(has_first.then(|| "first frame, dB".to_owned()));
    head.extend(has_time.then(|| "denoising, s".to_owned()));
    head.extend(has_failed.then(|| "not made".to_owned()));
    let mut lines = vec![head];
    for (name, scores) in named {
        let number = |value: Option<f64>, decimals: usize| value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"));
        let [levels @ .., clipped] = scores.alone.map(Mean::value);
        let mut line = vec![name.clone()];
        line.extend(levels.map(|value| number(value, 2)));
        line.push(number(clipped.map(|share| share * 100.0), 1));
        for against in &columns {
            line.push(match scores.compared.get(against) {
                None => "-".to_owned(),
                Some(alike) => {
                    let numbers = [alike.ssim(), alike.ms_ssim()].map(|value| number(value, 3));
                    let lpips = alike.lpips().map_or(String::new(), |value| format!(" {value:.3}"));
                    format!("{} {}{lpips}", decibels(alike.psnr()), numbers.join(" "))
                }
            });
        }
        line.extend(has_first.then(|| decibels(scores.first_frame_mse.value().map(psnr))));
        line.extend(has_time.then(|| number(scores.denoising.summary().map(|seconds| seconds.median), 3)));
        line.extend(has_failed.then(|| scores.failed.to_string()));
        lines.push(line);
    }
    text + &aligned(&lines)
}

/// Rows are asked, columns are read.
fn shapes(confusion: &Confusion) -> String {
    let mut lines = vec![["", "circle", "square", "triangle", "star", "unread"].map(str::to_owned)];
    for (value, counts) in confusion.values.iter().zip(&confusion.counts) {
        let mut cells = std::iter::once((*value).to_owned()).chain(counts.iter().map(usize::to_string));
        lines.push(std::array::from_fn(|_| cells.next().unwrap_or_default()));
    }
    aligned(&lines)
}

fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

fn with_interval(share: Share) -> String {
    let [low, high] = share.interval().map(|end| end * 100.0);
    share.value().map_or("-".to_owned(), |value| format!("{:.1} [{low:.0}-{high:.0}]", value * 100.0))
}

fn decibels(psnr: Option<f64>) -> String {
    match psnr {
        None => "-".to_owned(),
        Some(psnr) if psnr.is_infinite() => "equal".to_owned(),
        Some(psnr) => format!("{psnr:.1}"),
    }
}
