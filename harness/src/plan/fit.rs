//! Which settings fit a card, and what to change where one does not.

use serde::Serialize;
use turbowan_wan_model::resolution::{AspectRatio, FrameCount, Resolution};

use super::gpu::Gpu;
use super::model::{Model, NAMES};
use super::stages::{DryRuns, Stage};
use super::{Setting, page};
use crate::error::Error;

/// What a card does not have for us: the driver's context, its code, and what its allocator keeps in pieces (assumed).
pub const RESERVE_BYTES: u64 = 1 << 30;

/// Memory of cards that people have, in GiB.
const CARDS_GIB: [u64; 9] = [8, 12, 16, 24, 32, 40, 48, 80, 141];

/// The stage that takes the most, in bytes of the device.
pub fn peak_bytes(stages: &[Stage]) -> u64 {
    stages.iter().map(|stage| stage.peak_bytes).max().unwrap_or(0)
}

/// Whether a peak fits a memory.
pub fn fits(peak_bytes: u64, memory_bytes: u64) -> bool {
    peak_bytes + RESERVE_BYTES <= memory_bytes
}

/// The smallest memory that holds a peak, in GiB; none where no card does.
pub fn card_gib(peak_bytes: u64) -> Option<u64> {
    CARDS_GIB.into_iter().find(|gib| fits(peak_bytes, gib << 30))
}

/// A setting of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Model, size and linears.
    pub setting: String,
    /// The most that is in use on the device.
    pub peak_bytes: u64,
    /// The smallest memory that holds it, in GiB.
    pub card_gib: Option<u64>,
}

/// The released models at both presets, with bf16 and with int8 linears, on a chip like that of `runs`.
///
/// # Errors
/// What a network or a launcher refuses.
pub fn table(base: &Setting, runs: &mut DryRuns<'_>) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for name in NAMES.into_iter().filter(|name| *name != "embedded") {
        for (resolution, quant_linear) in [Resolution::P480, Resolution::P720].into_iter().flat_map(|size| [(size, true), (size, false)]) {
            let size = resolution.size(AspectRatio::Wide);
            let setting = Setting { model: Model::named(name)?, size, frames: FrameCount::DEFAULT, quant_linear, ..base.clone() };
            let peak_bytes = peak_bytes(&runs.stages(&setting, 1)?);
            rows.push(Row { setting: page::heading(&setting), peak_bytes, card_gib: card_gib(peak_bytes) });
        }
    }
    Ok(rows)
}

/// A change that makes a setting fit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fix {
    /// What to change, as flags.
    pub change: String,
    /// The most that is in use on the device then.
    pub peak_bytes: u64,
}

/// The three cheapest changes after which a run fits: what costs the eye least first, one change before two; a larger card where
/// fewer than three do.
///
/// # Errors
/// What a network or a launcher refuses.
pub fn fixes(setting: &Setting, runs: &mut DryRuns<'_>) -> Result<Vec<Fix>, Error> {
    let mut changes: Vec<(String, Setting)> = Vec::new();
    if !setting.quant_linear {
        changes.push(("--quant_linear".to_owned(), Setting { quant_linear: true, ..setting.clone() }));
    }
    let small = Resolution::P480.size(AspectRatio::Wide);
    if setting.size.width() * setting.size.height() > small.width() * small.height() {
        changes.push(("--resolution 480p".to_owned(), Setting { size: small, ..setting.clone() }));
    }
    for frames in [49, 33, 17].into_iter().filter(|frames| *frames < setting.frames.get()) {
        changes.push((format!("--num_frames {frames}"), Setting { frames: FrameCount::new(frames)?, ..setting.clone() }));
    }
    if setting.model.name != NAMES[0] && !setting.model.is_embedded() {
        changes.push((format!("--model {}", NAMES[0]), Setting { model: Model::named(NAMES[0])?, ..setting.clone() }));
    }
    let singles = changes.clone();
    for (index, (first, with)) in singles.iter().enumerate() {
        for (second, other) in &singles[index + 1..] {
            if first.split(' ').next() != second.split(' ').next() {
                changes.push((format!("{first} {second}"), with.changed_as(setting, other)));
            }
        }
    }
    let mut fixes = Vec::new();
    for (change, with) in changes {
        if fixes.len() == 3 {
            break;
        }
        let peak_bytes = peak_bytes(&runs.stages(&with, 1)?);
        if fits(peak_bytes, runs.gpu().memory_bytes()) {
            fixes.push(Fix { change, peak_bytes });
        }
    }
    let peak_bytes = peak_bytes(&runs.stages(setting, 1)?);
    if let (0..3, Some(larger)) = (fixes.len(), Gpu::smallest(|gpu| fits(peak_bytes, gpu.memory_bytes()))) {
        fixes.push(Fix { change: format!("--gpu {}", larger.flag()), peak_bytes });
    }
    Ok(fixes)
}

impl Setting {
    /// This one, and beside it what `other` has unlike `base`.
    fn changed_as(&self, base: &Self, other: &Self) -> Self {
        let mut changed = self.clone();
        if other.model.name != base.model.name {
            changed.model = other.model.clone();
        }
        if other.size != base.size {
            changed.size = other.size;
        }
        if other.frames != base.frames {
            changed.frames = other.frames;
        }
        changed.quant_linear |= other.quant_linear;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::AttentionChoice;

    fn setting(name: &str, resolution: Resolution, quant_linear: bool) -> Setting {
        let (model, size) = (Model::named(name).unwrap(), resolution.size(AspectRatio::Wide));
        Setting { model, size, frames: FrameCount::DEFAULT, attention: AttentionChoice::SageSla(0.1), quant_linear }
    }

    fn card(setting: &Setting, runs: &mut DryRuns<'_>) -> u64 {
        card_gib(peak_bytes(&runs.stages(setting, 4).unwrap())).unwrap()
    }

    #[test]
    fn settings_fit_the_cards_that_the_field_names() {
        let gpu = Gpu::named("RTX4090").unwrap();
        let mut runs = DryRuns::on(&gpu);
        assert!((12..=16).contains(&card(&setting("Wan2.1-1.3B", Resolution::P480, true), &mut runs)));
        assert!(card(&setting("Wan2.1-1.3B", Resolution::P720, true), &mut runs) <= 24);
        assert!(card(&setting("Wan2.1-14B", Resolution::P480, true), &mut runs) <= 24);
        let large = card(&setting("Wan2.1-14B", Resolution::P720, true), &mut runs);
        assert_eq!(large, 24, "14B at 720p with int8 linears, fused");
        let whole = card(&setting("Wan2.1-14B", Resolution::P720, false), &mut runs);
        assert!(whole > large, "{whole}");
    }

    #[test]
    fn what_does_not_fit_is_told_what_would() {
        let gpu = Gpu::named("RTX4090").unwrap();
        let mut runs = DryRuns::on(&gpu);
        let asked = setting("Wan2.1-14B", Resolution::P720, false);
        let fixes = fixes(&asked, &mut runs).unwrap();
        assert_eq!(fixes.len(), 3, "{fixes:?}");
        assert!(fixes.iter().all(|fix| fits(fix.peak_bytes, gpu.memory_bytes())), "{fixes:?}");
        assert!(fixes.iter().any(|fix| fix.change == "--quant_linear --resolution 480p"), "{fixes:?}");
        let changes: Vec<usize> = fixes.iter().map(|fix| fix.change.matches("--").count()).collect();
        assert_eq!(changes, [1, 1, 2], "one change comes before two: {fixes:?}");
    }
}
