//! How alike two videos are: PSNR, SSIM and MS-SSIM. Fidelity to another video of the same noise, never quality.

use serde::{Deserialize, Serialize};

use super::luma::Luma;
use crate::video::Frames;

/// Side of a window of the structural similarity, in pixels.
const WINDOW: usize = 8;
/// From one window to the next, in pixels.
const STRIDE: usize = 4;
/// The constants of the structural similarity: `(0.01 * 255)^2` and `(0.03 * 255)^2`.
const STEADY: [f64; 2] = [6.5025, 58.5225];
/// Exponents of the scales of MS-SSIM, from the finest (Wang, Simoncelli and Bovik, 2003, section 3.2).
const SCALES: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// How alike two videos are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    /// Mean squared difference of 8-bit levels.
    pub mse: f64,
    /// Structural similarity of the luma, mean over windows and frames, at most 1.
    pub ssim: f64,
    /// The same over five scales, each half the one before; none where the coarsest is smaller than a window (a side under
    /// 128 pixels).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ms_ssim: Option<f64>,
    /// Distance in the features of a network that the user brought: [`super::lpips`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lpips: Option<f64>,
}

/// Peak signal-to-noise ratio of a mean squared difference of 8-bit levels, in dB; infinite for equal pictures.
pub fn psnr(mse: f64) -> f64 {
    10.0 * (255.0 * 255.0 / mse).log10()
}

/// Mean squared difference of 8-bit levels of two buffers of one length.
pub fn mean_squared(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    sum as f64 / a.len().min(b.len()).max(1) as f64
}

impl Likeness {
    /// Of two videos of one size and length, without LPIPS.
    pub fn of(a: &Frames, b: &Frames) -> Self {
        let count = a.count() as f64;
        let (mut ssim, mut ms_ssim) = (0.0, Some(0.0));
        for (frame_a, frame_b) in a.iter().zip(b.iter()) {
            let [one, other] = [frame_a, frame_b].map(|frame| Luma::of(frame, a.width()));
            let finest = Similarity::of(&one, &other);
            ssim += finest.ssim;
            ms_ssim = ms_ssim.zip(multi_scale(finest, one, other)).map(|(sum, frame)| sum + frame);
        }
        Self { mse: mean_squared(a.rgb(), b.rgb()), ssim: ssim / count, ms_ssim: ms_ssim.map(|sum| sum / count), lpips: None }
    }
}

/// Means over the windows of two pictures.
#[derive(Debug, Clone, Copy)]
struct Similarity {
    /// Luminance, contrast and structure.
    ssim: f64,
    /// Contrast and structure alone.
    structure: f64,
}

impl Similarity {
    /// Over windows of 8 x 8 that overlap by half (Wang and others, 2004, with uniform windows); a picture smaller than a
    /// window is one.
    fn of(a: &Luma, b: &Luma) -> Self {
        let (width, height) = (a.width, a.height);
        let starts = |side: usize| (0..=side.saturating_sub(WINDOW)).step_by(STRIDE);
        let (mut sums, mut windows) = ([0.0; 2], 0usize);
        for top in starts(height) {
            for left in starts(width) {
                let rows = top..(top + WINDOW).min(height);
                let pixels = || rows.clone().flat_map(|row| row * width + left..row * width + (left + WINDOW).min(width));
                let count = pixels().count() as f64;
                let mean = |of: &Luma| pixels().map(|at| of.levels[at]).sum::<f64>() / count;
                let (mean_a, mean_b) = (mean(a), mean(b));
                let spread = |x: &Luma, mean_x: f64, y: &Luma, mean_y: f64| {
                    pixels().map(|at| (x.levels[at] - mean_x) * (y.levels[at] - mean_y)).sum::<f64>() / (count - 1.0).max(1.0)
                };
                let (var_a, var_b) = (spread(a, mean_a, a, mean_a), spread(b, mean_b, b, mean_b));
                let structure = (2.0 * spread(a, mean_a, b, mean_b) + STEADY[1]) / (var_a + var_b + STEADY[1]);
                let luminance = (2.0 * mean_a * mean_b + STEADY[0]) / (mean_a.powi(2) + mean_b.powi(2) + STEADY[0]);
                sums[0] += luminance * structure;
                sums[1] += structure;
                windows += 1;
            }
        }
        let [ssim, structure] = sums.map(|sum| sum / windows as f64);
        Self { ssim, structure }
    }
}

/// Contrast and structure of all scales but the coarsest, and the coarsest's whole similarity, each to the power of its
/// scale; a scale whose mean is below zero counts as zero.
fn multi_scale(finest: Similarity, mut a: Luma, mut b: Luma) -> Option<f64> {
    if a.width.min(a.height) >> (SCALES.len() - 1) < WINDOW {
        return None;
    }
    let (mut at, mut product) = (finest, 1.0);
    for (scale, power) in SCALES.iter().enumerate() {
        if scale > 0 {
            (a, b) = (a.halved(), b.halved());
            at = Similarity::of(&a, &b);
        }
        let value = if scale + 1 == SCALES.len() { at.ssim } else { at.structure };
        product *= value.max(0.0).powf(*power);
    }
    Some(product)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::FrameRate;

    fn video(frames: &[Vec<u8>], width: usize) -> Frames {
        Frames::new(width, frames[0].len() / 3 / width, FrameRate::WAN, frames.concat()).unwrap()
    }

    fn noise(seed: u32, count: usize) -> Vec<u8> {
        (0..count as u32).map(|at| ((at.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 24) as u8).collect()
    }

    #[test]
    fn equal_videos_are_as_alike_as_can_be() {
        let one = video(&[noise(1, 128 * 128 * 3), noise(2, 128 * 128 * 3)], 128);
        let likeness = Likeness::of(&one, &one);
        assert!(likeness.mse == 0.0 && (likeness.ssim - 1.0).abs() < 1e-12 && psnr(likeness.mse).is_infinite());
        assert!((likeness.ms_ssim.unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn flat_pictures_follow_the_formulas_and_unrelated_noise_is_unlike() {
        let flat = |level: u8| video(&[vec![level; 128 * 144 * 3]], 144);
        let likeness = Likeness::of(&flat(100), &flat(110));
        let want = (2.0 * 100.0 * 110.0 + STEADY[0]) / (100.0f64.powi(2) + 110.0f64.powi(2) + STEADY[0]);
        assert!(likeness.mse == 100.0 && (likeness.ssim - want).abs() < 1e-9, "{likeness:?}");
        // only the coarsest scale sees luminance
        assert!((likeness.ms_ssim.unwrap() - want.powf(SCALES[4])).abs() < 1e-9, "{likeness:?}");
        assert!((psnr(100.0) - 28.1308).abs() < 1e-4);
        let noises = [video(&[noise(1, 32 * 32 * 3)], 32), video(&[noise(9, 32 * 32 * 3)], 32)];
        assert!(Likeness::of(&noises[0], &noises[1]).ssim < 0.2);
    }

    #[test]
    fn fine_noise_matters_less_to_coarse_scales_and_small_pictures_have_none() {
        let smooth = |x: usize, y: usize| 60.0 + 40.0 * ((x as f64) / 20.0).sin() + 40.0 * ((y as f64) / 26.0).cos();
        let picture = |ripple: f64| -> Vec<u8> {
            let level = |at: usize| smooth(at % 128, at / 128) + if (at % 128 + at / 128).is_multiple_of(2) { ripple } else { -ripple };
            (0..128 * 128).flat_map(|at| [level(at).round() as u8; 3]).collect()
        };
        let likeness = Likeness::of(&video(&[picture(0.0)], 128), &video(&[picture(12.0)], 128));
        assert!(likeness.ssim < 0.5 && likeness.ms_ssim.unwrap() > 0.9, "{likeness:?}");
        let small = video(&[noise(1, 64 * 128 * 3)], 128);
        assert_eq!(Likeness::of(&small, &small).ms_ssim, None);
    }
}
