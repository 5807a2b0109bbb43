use super::*;
use crate::progress::{Progress, Style};
use crate::train::frame::tests::{assert_same_run, journal};
use crate::train::{Config, Plan, frame};

/// A small network and small crops.
fn small(run: RunSettings) -> Config<VaeSettings> {
    let crops = CropSettings { frames: 5, side: 16, batch: 2 };
    let stage = VaeSettings {
        width: 4,
        clips: vec![[32, 9]],
        late_share: 0.5,
        look_clips: 1,
        look_side: 32,
        look_frames: 5,
        early: crops,
        late: CropSettings { side: 32, batch: 1, ..crops },
        optimiser: OptimiserSettings { warm_up: 2, ema: 0.5, ..OptimiserSettings::default() },
        ..VaeSettings::default()
    };
    Config { run, stage }
}

fn go(config: &Config<VaeSettings>, folder: &Path, resumes: bool, until: Option<u64>) {
    frame::train(config, folder, Plan { resumes, until }, &Progress::new(Style::Silent.listener())).unwrap();
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_bits_and_learns() {
    let config = small(RunSettings { steps: 8, seed: 5, log_every: 2, checkpoint_every: 3, look_every: 0 });
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(&config, whole.path(), false, None);
    go(&config, parts.path(), false, Some(3));
    go(&config, parts.path(), true, Some(5));
    go(&config, parts.path(), true, None);
    assert_same_run(whole.path(), parts.path());
    let lines = journal(whole.path());
    let loss = |line: usize| lines[line]["loss"].as_f64().unwrap();
    assert!(loss(3) < 0.9 * loss(0), "{lines:?}");
    assert!(lines[4]["look"]["psnr"].as_f64().unwrap() > 0.0);
    assert!(whole.path().join("looks/step-000008.png").exists());
}

#[test]
fn a_frozen_encoder_stays_as_it_was() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = folders.each_ref().map(tempfile::TempDir::path);
    let run = RunSettings { steps: 2, ..RunSettings::default() };
    go(&small(run.clone()), first, false, None);
    let start = first.join("weights.safetensors");
    let mut config = small(run);
    config.stage = VaeSettings { start: Some(start.clone()), freeze_encoder: true, latent_noise: 0.1, ..config.stage };
    go(&config, second, false, None);
    let specs = VaeConfig::of_width(4).tensors();
    let [before, after] =
        [start, second.join("weights.safetensors")].map(|path| Parameters::read(&Checkpoint::open(path).unwrap(), &specs).unwrap());
    for (before, after) in before.iter().zip(after.iter()) {
        if before.name().starts_with("conv1.") {
            // the statistics that were folded into it are those that it has: folded again they change the last bits
            let far = before.values().iter().zip(after.values()).any(|(a, b)| (a - b).abs() > 1e-3 * (1.0 + a.abs()));
            assert!(!far, "{}", before.name());
        } else {
            assert_eq!(before.values() == after.values(), before.name().starts_with("encoder."), "{}", before.name());
        }
    }
}

#[test]
fn a_new_encoder_begins_with_little_noise() {
    let config = VaeConfig::of_width(4);
    let parameters = drawn(&config, 1).unwrap();
    let bias = parameters.get("conv1.bias").unwrap().values();
    assert!(bias[config.z_dim..].iter().all(|value| *value == -4.0) && bias[..config.z_dim].iter().all(|value| value.abs() < 1.0));
}
