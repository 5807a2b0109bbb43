//! What the records lack, by name: a blank would read as nothing to tell.

use super::machine::Section;
use super::source::Sources;
use super::{lengths, roofline};
use crate::bench::interval::LEAST;

/// What was not measured, a line each.
pub fn not_measured(sources: &Sources, sections: &[Section]) -> Vec<String> {
    let mut lines = Vec::new();
    let timings = || sections.iter().flat_map(|section| &section.timings);
    let counted = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    for (device, what) in [("host", "The CPU: no record of the host's operations"), ("cuda", "Any GPU: no record of a kernel's time")] {
        if !timings().any(|timing| timing.record.device == device) {
            lines.push(what.to_owned());
        }
    }
    if sections.iter().all(|section| section.pairs.is_empty()) && !sections.is_empty() {
        lines.push("Peers: no time of another library of the same shape, machine and day, so no speed-up over one is told".to_owned());
    }
    for section in sections {
        let title = section.title();
        let of = |is_lacking: &dyn Fn(&super::timing::Timing) -> bool| section.timings.iter().filter(|timing| is_lacking(timing)).count();
        let gaps = [
            counted(of(&|timing| timing.seconds.is_none()), "cases have no time: their results were wrong, or only checked"),
            counted(
                of(&|timing| roofline::ceilings(timing).is_none()),
                "cases were timed without the machine's ceilings: no share of a roofline",
            ),
            counted(of(&|timing| timing.samples.0.len() < 7 && timing.seconds.is_some()), "cases have fewer than 7 samples"),
            counted(of(&|timing| timing.record.build.commit.is_none()), "cases do not tell their commit"),
            counted(
                section.pairs.iter().filter(|pair| pair.ratio.interval.is_none()).count(),
                &format!("ratios to a peer have no interval: a side has fewer than {LEAST} samples"),
            ),
        ];
        lines.extend(gaps.into_iter().flatten().map(|gap| format!("{title}: {gap}")));
        if !lengths::is_told(&section.timings) {
            lines.push(format!("{title}: no operation was timed at two lengths, so no growth with length is told"));
        }
    }
    if timings().any(|timing| timing.record.how.clock_rates.starts_with("unknown")) {
        lines.push("Clock rates, power and temperature: neither set nor read".to_owned());
    }
    let is_undated = |peer: &&crate::bench::against::Peer| peer.date.is_none() || peer.cpu.is_none() && peer.gpu.is_none();
    lines.extend(counted(
        sources.peers.iter().filter(is_undated).count(),
        "times of peers tell no machine or no day, and stand in no ratio",
    ));
    if sources.verified.is_empty() {
        lines.push("Operations against the f64 truth: no record of `turbowan verify --json`".to_owned());
    }
    for verified in &sources.verified {
        let told = |missing: &serde_json::Value| {
            let text = |name: &str| missing[name].as_str().unwrap_or_default();
            format!("{}: not held to the truth on {}: {}", verified.name, text("device"), text("why"))
        };
        lines.extend(verified.missing.iter().map(told));
        let ran = |device: &str| verified.cases.iter().any(|case| case["device"] == device);
        let absent = ["host", "emulator", "cuda"]
            .into_iter()
            .filter(|device| !ran(device) && !verified.missing.iter().any(|one| one["device"] == *device));
        lines.extend(absent.map(|device| format!("{}: not held to the truth on {device}: it was not asked for", verified.name)));
    }
    if sources.evaluations.is_empty() {
        lines.push("What the model makes of captions: no record of `turbowan eval`".to_owned());
    } else {
        let has = |name: &str| sources.evaluations.iter().any(|one| one.findings["rows"].to_string().contains(name));
        if !has("\"teacher\":{") {
            lines.push("Likeness to the dense teacher's videos: no evaluation has its rows (`turbowan eval --teacher`)".to_owned());
        }
    }
    lines.push("Released checkpoints, VBench, FVD and human raters: this program's records hold none of them".to_owned());
    lines
}
