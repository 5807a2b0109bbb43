//! What moves from frame to frame, and what should not.

use super::luma::Luma;
use crate::video::Frames;

/// Farthest that a background's pixel may be from the border's median, in levels of each channel.
const NEAR_GROUND: i32 = 40;
/// Side of a block that is looked for in the frame before, in pixels.
const BLOCK: usize = 8;
/// Farthest that it is looked for, in pixels, up and across.
const REACH: usize = 8;

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

/// Mean absolute difference of luma between each frame and the frame before with its blocks moved to where they fit best, in
/// 8-bit levels; none of a single frame. Blocks are 8 x 8 and move by whole pixels, at most 8 in each direction, and never over
/// the border; the last rows and columns of a side that is no multiple of 8 are left out. What comes into view, turns or moves
/// by parts of a pixel counts too, so real clips are not at zero: theirs is what a made clip is to be held to.
pub fn warp_error(frames: &Frames) -> Option<f64> {
    let lumas: Vec<Luma> = frames.iter().map(|frame| Luma::of(frame, frames.width())).collect();
    let [across, down] = [frames.width() / BLOCK, frames.height() / BLOCK];
    let blocks = across * down * (frames.count() - 1);
    if blocks == 0 {
        return None;
    }
    let tops = || (0..down).flat_map(|row| (0..across).map(move |column| [row * BLOCK, column * BLOCK]));
    let of_pair = |pair: &[Luma]| tops().map(|top| least_difference(&pair[0], &pair[1], top)).sum::<f64>();
    let sum: f64 = lumas.windows(2).map(of_pair).sum();
    Some(sum / (blocks * BLOCK * BLOCK) as f64)
}

/// Sum of absolute differences of a block of `after` to where it fits best in `before`.
fn least_difference(before: &Luma, after: &Luma, [top, left]: [usize; 2]) -> f64 {
    let places = |start: usize, side: usize| start.saturating_sub(REACH)..=(start + REACH).min(side - BLOCK);
    let mut least = f64::INFINITY;
    for from_top in places(top, before.height) {
        for from_left in places(left, before.width) {
            let mut sum = 0.0;
            for row in 0..BLOCK {
                let of = |luma: &Luma, top: usize, left: usize| (top + row) * luma.width + left;
                let (one, other) = (of(after, top, left), of(before, from_top, from_left));
                let rows = after.levels[one..one + BLOCK].iter().zip(&before.levels[other..other + BLOCK]);
                sum += rows.map(|(a, b)| (a - b).abs()).sum::<f64>();
                if sum >= least {
                    break;
                }
            }
            least = least.min(sum);
        }
    }
    least
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

    #[test]
    fn what_only_moves_has_no_warp_error_and_what_changes_has() {
        let textured = |at: usize, shift: usize| ((at % 32 + 32 - shift) * 37 % 64 + at / 32 * 11 % 64) as u8;
        // the texture goes on at the side that it comes from: within reach of every block but those at the border
        let frame = |shift: usize| -> Vec<u8> { (0..32 * 32).flat_map(|at| [textured(at, shift); 3]).collect() };
        let moving = warp_error(&video(&[frame(0), frame(3)], 32)).unwrap();
        let change = motion(&video(&[frame(0), frame(3)], 32)).unwrap();
        assert!(change > 10.0 && moving < change / 4.0, "{moving} of {change}");
        let flash = video(&[vec![10; 16 * 16 * 3], vec![30; 16 * 16 * 3]], 16);
        assert!((warp_error(&flash).unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(warp_error(&video(&[vec![10; 16 * 16 * 3]], 16)), None);
        assert_eq!(warp_error(&video(&[vec![10; 4 * 4 * 3], vec![10; 4 * 4 * 3]], 4)), None);
    }
}
