//! Laws of the autoencoder on tiny random weights; its numbers are held to recorded runs of the official code elsewhere.

use std::collections::HashMap;

use turbowan_cuda::Rounding;
use turbowan_reference::inputs;
use turbowan_reference::metrics::Distance;

use super::*;
use crate::backend::host::vae::HostFrames;
use crate::checkpoint::{Dtype, TensorView};

/// Random tensors of a configuration: weights that keep activations near 1, gammas near 1.
struct Weights(HashMap<String, (Vec<usize>, Vec<u8>)>);

impl Weights {
    fn of(config: &VaeConfig) -> Self {
        let tensors = config.tensors().into_iter().zip(1..).map(|(spec, seed)| {
            let values: usize = spec.shape.iter().product();
            let fan_in = (values / spec.shape[0]) as f32;
            let is_gamma = spec.name.ends_with("gamma");
            let values = inputs::normal(values, seed).into_iter().map(|v| if is_gamma { 1.0 + 0.1 * v } else { v * (2.0 / fan_in).sqrt() });
            (spec.name, (spec.shape, values.flat_map(f32::to_le_bytes).collect()))
        });
        Self(tensors.collect())
    }
}

impl TensorSource for Weights {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.get(name).map(|(shape, bytes)| TensorView { dtype: Dtype::F32, shape, bytes })
    }
}

fn tiny() -> Vae<HostFrames> {
    loaded(&VaeConfig::of_width(5), Rounding::None)
}

fn loaded(config: &VaeConfig, rounding: Rounding) -> Vae<HostFrames> {
    let statistics = LatentStatistics::of_channels(config.z_dim);
    Vae::load(HostFrames::new(rounding), &Weights::of(config), config, statistics, &[Side::Encoder, Side::Decoder]).unwrap()
}

fn latent(frames: usize, height: usize, width: usize) -> Clip {
    Clip::new([16, frames, height, width], inputs::normal(16 * frames * height * width, 3)).unwrap()
}

fn prefix(clip: &Clip, frames: usize) -> Clip {
    let mut out = Clip::zeros([clip.channels, frames, clip.height, clip.width]).unwrap();
    (0..frames).for_each(|frame| out.set_pixels(frame, &clip.pixels(frame, clip.window())));
    out
}

fn unwatched(_: Progress<'_>) -> Result<()> {
    Ok(())
}

#[test]
fn a_prefix_of_the_latent_decodes_to_the_prefix_of_the_video() {
    let vae = tiny();
    let whole = latent(4, 3, 5);
    let video = vae.decode_clip(&whole, Tiling::Whole).unwrap();
    assert_eq!(video.shape(), [3, 13, 24, 40]);
    for frames in 1..4 {
        let part = vae.decode_clip(&prefix(&whole, frames), Tiling::Whole).unwrap();
        assert!(part == prefix(&video, 4 * frames - 3), "{frames} latent frames");
    }
}

#[test]
fn a_prefix_of_the_video_encodes_to_the_prefix_of_the_latent() {
    let vae = tiny();
    let video = Clip::new([3, 9, 16, 24], inputs::normal(3 * 9 * 16 * 24, 4)).unwrap();
    let latent = vae.encode(&video, Tiling::Whole, &mut unwatched).unwrap();
    assert_eq!(latent.shape(), [16, 3, 2, 3]);
    for frames in [1, 5] {
        let part = vae.encode(&prefix(&video, frames), Tiling::Whole, &mut unwatched).unwrap();
        assert!(part == prefix(&latent, frames.div_ceil(4)), "{frames} frames");
    }
}

#[test]
fn another_depth_and_width_runs_too() {
    let config = VaeConfig { dim: 4, z_dim: 6, dim_mult: vec![1, 2, 3], num_res_blocks: 1, temporal_downsample: vec![true, false] };
    let vae = loaded(&config, Rounding::None);
    let video = Clip::new([3, 5, 8, 12], inputs::normal(3 * 5 * 8 * 12, 4)).unwrap();
    let latent = vae.encode(&video, Tiling::Whole, &mut unwatched).unwrap();
    assert_eq!(latent.shape(), [6, 3, 2, 3]);
    assert_eq!(vae.decode_clip(&latent, Tiling::Whole).unwrap().shape(), video.shape());
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (vae, latent) = (tiny(), latent(2, 6, 7));
    let by = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| vae.decode_clip(&latent, Tiling::Whole).unwrap())
    };
    assert!(by(1) == by(3));
}

#[test]
fn one_tile_that_covers_the_frame_changes_nothing() {
    let (vae, latent) = (tiny(), latent(2, 6, 7));
    let whole = vae.decode_clip(&latent, Tiling::Whole).unwrap();
    assert!(vae.decode_clip(&latent, Tiling::Tiles { side: 56, overlap: 16 }).unwrap() == whole);
}

#[test]
fn tiles_stay_near_the_whole_and_leave_no_seam() {
    /// Attention that sees a tile instead of the frame, on random weights that make the most of it.
    const NEAR: f64 = 0.1;
    /// Chance makes the worst column about 1.8 times the average one; tiles that are not blended make it 7.
    const SEAM: f32 = 2.5;
    let (vae, latent) = (tiny(), latent(2, 12, 20));
    let whole = vae.decode_clip(&latent, Tiling::Whole).unwrap();
    let difference = |overlap| -> Vec<f32> {
        let tiled = vae.decode_clip(&latent, Tiling::Tiles { side: 96, overlap }).unwrap();
        let distance = Distance::between(&tiled.values, &whole.values);
        assert!(overlap == 0 || distance.relative_l2 < NEAR, "relative L2 {}", distance.relative_l2);
        tiled.values.iter().zip(&whole.values).map(|(a, b)| a - b).collect()
    };
    // a seam is a column at which the difference from the whole steps more than at others
    let seam = |values: &[f32]| -> f32 {
        let step =
            |column: usize| values.chunks_exact(whole.width).map(|line| (line[column + 1] - line[column]).powi(2)).sum::<f32>().sqrt();
        let steps: Vec<f32> = (0..whole.width - 1).map(step).collect();
        steps.iter().copied().fold(0.0, f32::max) * steps.len() as f32 / steps.iter().sum::<f32>()
    };
    let (blended, cut) = (seam(&difference(48)), seam(&difference(0)));
    assert!(blended < SEAM && cut > SEAM, "{blended} blended, {cut} cut");
}

#[test]
fn tiled_encoding_stays_near_the_whole() {
    let vae = tiny();
    let video = Clip::new([3, 5, 96, 160], inputs::normal(3 * 5 * 96 * 160, 4)).unwrap();
    let whole = vae.encode(&video, Tiling::Whole, &mut unwatched).unwrap();
    let tiled = vae.encode(&video, Tiling::Tiles { side: 80, overlap: 48 }, &mut unwatched).unwrap();
    let distance = Distance::between(&tiled.values, &whole.values);
    assert!(distance.relative_l2 < 0.2, "relative L2 {}", distance.relative_l2);
}

#[test]
fn bf16_stays_near_f32_and_gives_bf16_values() {
    let latent = latent(2, 4, 4);
    let exact = tiny().decode_clip(&latent, Tiling::Whole).unwrap();
    let rounded = loaded(&VaeConfig::of_width(5), Rounding::Bf16).decode_clip(&latent, Tiling::Whole).unwrap();
    assert!(rounded.values.iter().all(|v| Rounding::Bf16.apply(*v) == *v));
    let distance = Distance::between(&rounded.values, &exact.values);
    assert!(distance.relative_l2 < 0.05, "relative L2 {}", distance.relative_l2);
}

#[test]
fn frames_arrive_in_order_and_an_error_stops_the_work() {
    let vae = tiny();
    let mut seen = Vec::new();
    let stopped = vae.decode(&latent(3, 2, 2), Tiling::Whole, &mut |progress| match progress {
        Progress::Frame { index: 6, .. } => Err(Error::Cancelled),
        Progress::Frame { index, of, pixels } => {
            seen.push((index, of, pixels.len()));
            Ok(())
        }
        Progress::Passed { .. } => Ok(()),
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(seen, (0..6).map(|index| (index, 9, 16 * 16 * 3)).collect::<Vec<_>>());
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_frame() {
    let vae = tiny();
    let mut latent = latent(3, 2, 2);
    latent.values[5] = f32::NAN; // channel 0, latent frame 1
    let refused = vae.decode_clip(&latent, Tiling::Whole).unwrap_err().to_string();
    assert!(refused.contains("frame 1 of 9"), "{refused}");
    assert!(sound(&[0.5; 12], || "here".into()).unwrap_err().to_string().contains("every value is 0.5"));
}

#[test]
fn the_plan_covers_what_a_run_takes() {
    let config = VaeConfig::of_width(8);
    let vae = loaded(&config, Rounding::None);
    let plan = config.plan(Side::Decoder, [4, 8, 8], Tiling::Whole).unwrap();
    vae.decode_clip(&latent(4, 8, 8), Tiling::Whole).unwrap();
    let taken = vae.peak_frame_bytes();
    assert!(taken <= plan.frames && plan.frames < taken * 5 / 4, "planned {}, taken {taken}", plan.frames);
    let video = Clip::new([3, 9, 64, 64], inputs::normal(3 * 9 * 64 * 64, 4)).unwrap();
    let plan = config.plan(Side::Encoder, [3, 8, 8], Tiling::Whole).unwrap();
    vae.encode(&video, Tiling::Whole, &mut unwatched).unwrap();
    let taken = vae.peak_frame_bytes();
    assert!(taken <= plan.frames && plan.frames < taken * 5 / 4, "planned {}, taken {taken}", plan.frames);
}

#[test]
fn clips_that_do_not_fit_are_refused() {
    let vae = tiny();
    let encode = |shape: [usize; 4]| vae.encode(&Clip::zeros(shape).unwrap(), Tiling::Whole, &mut unwatched);
    assert!(encode([3, 3, 16, 16]).is_err());
    assert!(encode([3, 5, 12, 16]).is_err());
    assert!(encode([4, 5, 16, 16]).is_err());
    assert!(vae.decode_clip(&Clip::zeros([8, 1, 2, 2]).unwrap(), Tiling::Whole).is_err());
    let config = VaeConfig::of_width(5);
    let half = Vae::load(HostFrames::default(), &Weights::of(&config), &config, LatentStatistics::wan_2_1(), &[Side::Encoder]).unwrap();
    assert!(half.decode_clip(&latent(1, 2, 2), Tiling::Whole).is_err());
    let mut missing = Weights::of(&config);
    missing.0.remove("decoder.head.2.bias");
    let refused = Vae::load(HostFrames::default(), &missing, &config, LatentStatistics::wan_2_1(), &[Side::Decoder]).err().unwrap();
    assert!(refused.to_string().contains("decoder.head.2.bias"));
}
