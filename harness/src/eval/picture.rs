//! Measures of pictures that need no captions: motion, flicker, and likeness to another video.

use serde::{Deserialize, Serialize};

use crate::video::Frames;

/// Side of a window of the structural similarity, in pixels.
const WINDOW: usize = 8;
/// From one window to the next, in pixels.
const STRIDE: usize = 4;
/// The constants of the structural similarity: `(0.01 * 255)^2` and `(0.03 * 255)^2`.
const STEADY: [f64; 2] = [6.5025, 58.5225];
/// Farthest that a background's pixel may be from the border's median, in levels of each channel.
const NEAR_GROUND: i32 = 40;

/// How alike two videos are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    /// Mean squared difference of 8-bit levels.
    pub mse: f64,
    /// Structural similarity of the luma, mean over windows and frames, at most 1.
    pub ssim: f64,
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
    /// Of two videos of one size and length.
    pub fn of(a: &Frames, b: &Frames) -> Self {
        let width = a.width();
        let ssim: f64 = a.iter().zip(b.iter()).map(|(a, b)| structural([a, b].map(luma), width)).sum();
        Self { mse: mean_squared(a.rgb(), b.rgb()), ssim: ssim / a.count() as f64 }
    }
}

/// Rec. 601 luma.
fn luma(rgb: &[u8]) -> Vec<f64> {
    rgb.as_chunks::<3>().0.iter().map(|[r, g, b]| 0.299 * f64::from(*r) + 0.587 * f64::from(*g) + 0.114 * f64::from(*b)).collect()
}

/// Structural similarity of two pictures, mean over windows of 8 x 8 that overlap by half (Wang and others, 2004, with
/// uniform windows); a picture smaller than a window is one.
fn structural([a, b]: [Vec<f64>; 2], width: usize) -> f64 {
    let height = a.len() / width;
    let starts = |side: usize| (0..=side.saturating_sub(WINDOW)).step_by(STRIDE);
    let (mut sum, mut windows) = (0.0, 0usize);
    for top in starts(height) {
        for left in starts(width) {
            let rows = top..(top + WINDOW).min(height);
            let pixels = || rows.clone().flat_map(|row| row * width + left..row * width + (left + WINDOW).min(width));
            let count = pixels().count() as f64;
            let mean = |of: &[f64]| pixels().map(|at| of[at]).sum::<f64>() / count;
            let (mean_a, mean_b) = (mean(&a), mean(&b));
            let spread = |x: &[f64], mean_x: f64, y: &[f64], mean_y: f64| {
                pixels().map(|at| (x[at] - mean_x) * (y[at] - mean_y)).sum::<f64>() / (count - 1.0).max(1.0)
            };
            let (var_a, var_b) = (spread(&a, mean_a, &a, mean_a), spread(&b, mean_b, &b, mean_b));
            let both = spread(&a, mean_a, &b, mean_b);
            sum += (2.0 * mean_a * mean_b + STEADY[0]) * (2.0 * both + STEADY[1])
                / ((mean_a.powi(2) + mean_b.powi(2) + STEADY[0]) * (var_a + var_b + STEADY[1]));
            windows += 1;
        }
    }
    sum / windows as f64
}

/// Mean absolute difference of neighbouring frames, in 8-bit levels; none of a single frame.
pub fn motion(frames: &Frames) -> Option<f64> {
    let pairs = frames.iter().zip(frames.iter().skip(1));
    let of_pair = |(a, b): (&[u8], &[u8])| a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
    let sum: u64 = pairs.map(of_pair).sum();
    let values = frames.rgb().len() / frames.count() * (frames.count() - 1);
    (values > 0).then(|| sum as f64 / values as f64)
}

/// Mean absolute difference of neighbouring frames where both show the background, which stands still: pixels near the
/// median of the border, in 8-bit levels. None where there is no such pixel.
pub fn flicker(frames: &Frames) -> Option<f64> {
    let ground = border_median(frames);
    let is_ground =
        |pixel: &[u8; 3]| pixel.iter().zip(ground).all(|(value, ground)| (i32::from(*value) - i32::from(ground)).abs() <= NEAR_GROUND);
    let (mut sum, mut values) = (0u64, 0u64);
    for (a, b) in frames.iter().zip(frames.iter().skip(1)) {
        for (a, b) in a.as_chunks::<3>().0.iter().zip(b.as_chunks::<3>().0) {
            if is_ground(a) && is_ground(b) {
                sum += a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
                values += 3;
            }
        }
    }
    (values > 0).then(|| sum as f64 / values as f64)
}

/// Median of each channel over the outermost pixels of all frames.
fn border_median(frames: &Frames) -> [u8; 3] {
    let (width, height) = (frames.width(), frames.height());
    let is_border = |at: usize| at.is_multiple_of(width) || at % width == width - 1 || at < width || at >= width * (height - 1);
    let mut counts = [[0usize; 256]; 3];
    for frame in frames.iter() {
        for (_, pixel) in frame.as_chunks::<3>().0.iter().enumerate().filter(|(at, _)| is_border(*at)) {
            pixel.iter().zip(&mut counts).for_each(|(value, counts)| counts[usize::from(*value)] += 1);
        }
    }
    counts.map(|counts| {
        let half = counts.iter().sum::<usize>() / 2;
        let mut below = 0;
        let median = counts.iter().position(|count| {
            below += count;
            below > half
        });
        median.unwrap_or(0) as u8
    })
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
        let one = video(&[noise(1, 16 * 16 * 3), noise(2, 16 * 16 * 3)], 16);
        let likeness = Likeness::of(&one, &one);
        assert!(likeness.mse == 0.0 && (likeness.ssim - 1.0).abs() < 1e-12 && psnr(likeness.mse).is_infinite());
    }

    #[test]
    fn flat_pictures_follow_the_formulas_and_unrelated_noise_is_unlike() {
        let flat = |level: u8| video(&[vec![level; 16 * 24 * 3]], 24);
        let likeness = Likeness::of(&flat(100), &flat(110));
        let want = (2.0 * 100.0 * 110.0 + STEADY[0]) / (100.0f64.powi(2) + 110.0f64.powi(2) + STEADY[0]);
        assert!(likeness.mse == 100.0 && (likeness.ssim - want).abs() < 1e-9, "{likeness:?}");
        assert!((psnr(100.0) - 28.1308).abs() < 1e-4);
        let noises = [video(&[noise(1, 32 * 32 * 3)], 32), video(&[noise(9, 32 * 32 * 3)], 32)];
        assert!(Likeness::of(&noises[0], &noises[1]).ssim < 0.2);
    }

    #[test]
    fn motion_is_the_mean_change_and_flicker_only_that_of_the_background() {
        // A white square jumps over black; the black itself changes by 2 levels in one of two steps.
        let frame = |ground: u8, left: usize| -> Vec<u8> {
            (0..16 * 16)
                .flat_map(|at| if (4..8).contains(&(at / 16)) && (left..left + 4).contains(&(at % 16)) { [255; 3] } else { [ground; 3] })
                .collect()
        };
        let clip = video(&[frame(0, 4), frame(2, 4), frame(2, 9)], 16);
        assert!((flicker(&clip).unwrap() - (2.0 * 240.0 / (240.0 + 224.0))).abs() < 1e-12);
        assert!((motion(&clip).unwrap() - (2.0 * 240.0 + 253.0 * 32.0) / 512.0).abs() < 1e-9);
        let still = video(&[frame(7, 4)], 16);
        assert_eq!((motion(&still), flicker(&still)), (None, None));
    }
}
