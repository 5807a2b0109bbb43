//! How single frames look: sharpness, colour that drifts, pixels at the end of their range.

use super::luma::Luma;
use crate::video::Frames;

/// Mean over frames of the variance of the luma's Laplacian (four neighbours, inner pixels), in squared 8-bit levels; none of
/// frames without inner pixels. Noise is sharp too: it is to be read beside another video of the same thing.
pub fn sharpness(frames: &Frames) -> Option<f64> {
    let (width, height) = (frames.width(), frames.height());
    if width < 3 || height < 3 {
        return None;
    }
    let of_frame = |frame: &[u8]| {
        let luma = Luma::of(frame, width);
        let at = |y: usize, x: usize| luma.levels[y * width + x];
        let laplacian = |y: usize, x: usize| at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1) - 4.0 * at(y, x);
        let values: Vec<f64> = (1..height - 1).flat_map(|y| (1..width - 1).map(move |x| (y, x))).map(|(y, x)| laplacian(y, x)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64
    };
    Some(frames.iter().map(of_frame).sum::<f64>() / frames.count() as f64)
}

/// Farthest that the mean of a channel goes from where it is in the first frame, in 8-bit levels; none of a single frame.
/// What enters or leaves the picture moves it too.
pub fn colour_drift(frames: &Frames) -> Option<f64> {
    let means: Vec<[f64; 3]> = frames.iter().map(channel_means).collect();
    let (first, later) = means.split_first()?;
    let farthest = later.iter().flat_map(|mean| mean.iter().zip(first).map(|(now, then)| (now - then).abs()));
    farthest.reduce(f64::max)
}

fn channel_means(frame: &[u8]) -> [f64; 3] {
    let pixels = frame.as_chunks::<3>().0;
    let mut sums = [0u64; 3];
    pixels.iter().for_each(|pixel| pixel.iter().zip(&mut sums).for_each(|(value, sum)| *sum += u64::from(*value)));
    sums.map(|sum| sum as f64 / pixels.len().max(1) as f64)
}

/// Share of pixels with a channel at 0 or 255. A black or white ground is there by right: real clips tell how much of it.
pub fn clipped(frames: &Frames) -> f64 {
    let pixels = frames.rgb().as_chunks::<3>().0;
    let at_end = pixels.iter().filter(|pixel| pixel.iter().any(|value| matches!(value, 0 | 255))).count();
    at_end as f64 / pixels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::FrameRate;

    fn video(frames: &[Vec<u8>], width: usize) -> Frames {
        Frames::new(width, frames[0].len() / 3 / width, FrameRate::WAN, frames.concat()).unwrap()
    }

    #[test]
    fn a_point_is_sharper_than_a_ramp_which_is_not_sharp_at_all() {
        let ramp: Vec<u8> = (0..8 * 8).flat_map(|at: usize| [(at % 8 * 10) as u8; 3]).collect();
        assert!(sharpness(&video(&[ramp], 8)).unwrap() < 1e-18);
        let point: Vec<u8> = (0..5 * 5).flat_map(|at: usize| if at == 12 { [100; 3] } else { [0; 3] }).collect();
        // nine inner pixels: -400, four times 100, four zeros, whose mean is zero
        let want = (400.0f64.powi(2) + 4.0 * 100.0f64.powi(2)) / 9.0;
        assert!((sharpness(&video(&[point], 5)).unwrap() - want).abs() < 1e-6);
        assert_eq!(sharpness(&video(&[vec![1; 2 * 4 * 3]], 2)), None);
    }

    #[test]
    fn drift_is_the_farthest_of_any_channel_from_the_first_frame() {
        let flat = |rgb: [u8; 3]| rgb.repeat(4);
        let clip = video(&[flat([10, 20, 30]), flat([13, 20, 30]), flat([10, 20, 25]), flat([10, 20, 30])], 2);
        assert_eq!(colour_drift(&clip), Some(5.0));
        assert_eq!(colour_drift(&video(&[flat([1, 2, 3])], 2)), None);
    }

    #[test]
    fn a_pixel_is_clipped_once_whichever_channel_is() {
        let clip = video(&[vec![0, 255, 9, 1, 2, 3, 254, 1, 255, 7, 7, 7]], 2);
        assert_eq!(clipped(&clip), 0.5);
    }
}
