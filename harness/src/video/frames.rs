//! Decoded video: RGB bytes, how many a second, and several clips side by side.

use std::fmt;
use std::str::FromStr;

use super::Error;

/// A video in memory: `rgb` is `[T, H, W, 3]`, 8 bits a channel, sRGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    width: usize,
    height: usize,
    rate: FrameRate,
    rgb: Vec<u8>,
}

impl Frames {
    /// Takes `rgb` as whole frames of `width` x `height` pixels.
    ///
    /// # Errors
    /// [`Error::Empty`] when there is no pixel or no frame, [`Error::Length`] when the bytes are not a whole number of frames.
    pub fn new(width: usize, height: usize, rate: FrameRate, rgb: Vec<u8>) -> Result<Self, Error> {
        let frame_bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)).unwrap_or(usize::MAX);
        if frame_bytes == 0 || rgb.is_empty() {
            return Err(Error::Empty { width, height, bytes: rgb.len() });
        }
        if !rgb.len().is_multiple_of(frame_bytes) {
            return Err(Error::Length { width, height, bytes: rgb.len() });
        }
        Ok(Self { width, height, rate, rgb })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows in a frame.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Frames a second.
    pub fn rate(&self) -> FrameRate {
        self.rate
    }

    /// How many frames; at least one.
    pub fn count(&self) -> usize {
        self.rgb.len() / self.frame_bytes()
    }

    /// All bytes, `[T, H, W, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The frames in order, each `[H, W, 3]`.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.rgb.chunks_exact(self.frame_bytes())
    }

    /// Samples tiled into one video, row by row, `columns` to a row (0 counts as 1); places left over are black.
    ///
    /// # Errors
    /// [`Error::NoSample`] for an empty list, [`Error::GridMisfit`] when a sample differs from the first in size, rate or length.
    pub fn grid(samples: &[Self], columns: usize) -> Result<Self, Error> {
        let first = samples.first().ok_or(Error::NoSample)?;
        for (sample, other) in samples.iter().enumerate() {
            if other.shape() != first.shape() {
                return Err(Error::GridMisfit { sample, expected: first.shape(), found: other.shape() });
            }
        }
        let columns = columns.clamp(1, samples.len());
        let rows = samples.len().div_ceil(columns);
        let (width, height) = (first.width * columns, first.height * rows);
        let (row_bytes, wide_row_bytes) = (first.width * 3, width * 3);
        let mut rgb = vec![0; first.count() * width * height * 3];
        for (tiled, t) in rgb.chunks_exact_mut(width * height * 3).zip(0..) {
            for (index, sample) in samples.iter().enumerate() {
                let (left, top) = (index % columns * row_bytes, index / columns * first.height);
                let frame = &sample.rgb[t * sample.frame_bytes()..][..sample.frame_bytes()];
                for (y, row) in frame.chunks_exact(row_bytes).enumerate() {
                    tiled[(top + y) * wide_row_bytes + left..][..row_bytes].copy_from_slice(row);
                }
            }
        }
        Self::new(width, height, first.rate, rgb)
    }

    /// Columns that make a grid of `samples` as near to a square of samples as it gets, wider rather than higher.
    pub fn square_columns(samples: usize) -> usize {
        (1..=samples).find(|columns| columns * columns >= samples).unwrap_or(1)
    }

    fn frame_bytes(&self) -> usize {
        self.width * self.height * 3
    }

    fn shape(&self) -> Shape {
        Shape { width: self.width, height: self.height, frames: self.count(), rate: self.rate }
    }
}

/// What must agree before clips can be tiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Pixels in a row.
    pub width: usize,
    /// Rows in a frame.
    pub height: usize,
    /// Frames.
    pub frames: usize,
    /// Frames a second.
    pub rate: FrameRate,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames of {}x{} at {} fps", self.frames, self.width, self.height, self.rate)
    }
}

/// Frames a second as a reduced fraction, so that 24000/1001 stays exact; between 1/1000 and 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRate {
    numerator: u32,
    denominator: u32,
}

impl FrameRate {
    /// What Wan 2.1 and 2.2 are trained at.
    pub const WAN: Self = Self { numerator: 16, denominator: 1 };

    /// `numerator / denominator` frames a second.
    ///
    /// # Errors
    /// [`Error::FrameRate`] when it lies outside 1/1000 to 1000 or the reduced fraction has a part above 1,000,000.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self, Error> {
        const LARGEST_PART: u32 = 1_000_000;
        let wrong = || Error::FrameRate { text: format!("{numerator}/{denominator}") };
        if numerator == 0 || denominator == 0 {
            return Err(wrong());
        }
        let divisor = greatest_common_divisor(numerator, denominator);
        let (n, d) = (numerator / divisor, denominator / divisor);
        let is_in_range = u64::from(n) <= 1000 * u64::from(d) && u64::from(d) <= 1000 * u64::from(n);
        if !is_in_range || n.max(d) > LARGEST_PART {
            return Err(wrong());
        }
        Ok(Self { numerator: n, denominator: d })
    }

    /// The fraction's upper part.
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// The fraction's lower part.
    pub fn denominator(self) -> u32 {
        self.denominator
    }

    /// Frames a second as one number.
    pub fn as_f64(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// When frame `index` begins, in ticks of `1 / per_second` s, rounded to the nearest.
    ///
    /// A format with coarse ticks takes the difference of two neighbours as a frame's length: the rounding never adds up.
    pub fn start_ticks(self, index: usize, per_second: u32) -> u64 {
        let (n, d) = (u128::from(self.numerator), u128::from(self.denominator));
        let ticks = (2 * index as u128 * d * u128::from(per_second) + n) / (2 * n);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Length of frame `index` in ticks of `1 / per_second` s; see [`Self::start_ticks`].
    pub fn frame_ticks(self, index: usize, per_second: u32) -> u64 {
        self.start_ticks(index + 1, per_second) - self.start_ticks(index, per_second)
    }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denominator == 1 { write!(f, "{}", self.numerator) } else { write!(f, "{}/{}", self.numerator, self.denominator) }
    }
}

impl FromStr for FrameRate {
    type Err = Error;

    /// `16`, `23.976` (at most three decimals) or `24000/1001`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::FrameRate { text: text.to_owned() };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        if let Some((numerator, denominator)) = text.split_once('/') {
            return Self::new(digits(numerator).ok_or_else(wrong)?, digits(denominator).ok_or_else(wrong)?);
        }
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        if decimals.len() > 3 {
            return Err(wrong());
        }
        let scale = 10_u32.pow(decimals.len() as u32);
        let whole: u32 = digits(whole).ok_or_else(wrong)?;
        let decimals: u32 = digits(decimals).ok_or_else(wrong)?;
        let thousandths = whole.checked_mul(scale).and_then(|value| value.checked_add(decimals)).ok_or_else(wrong)?;
        Self::new(thousandths, scale).map_err(|_| wrong())
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(width: usize, height: usize, count: usize, value: u8) -> Frames {
        Frames::new(width, height, FrameRate::WAN, vec![value; width * height * count * 3]).unwrap()
    }

    #[test]
    fn bytes_must_be_whole_frames() {
        assert!(matches!(Frames::new(2, 2, FrameRate::WAN, vec![0; 13]), Err(Error::Length { bytes: 13, .. })));
        assert!(matches!(Frames::new(0, 2, FrameRate::WAN, vec![]), Err(Error::Empty { .. })));
        assert!(matches!(Frames::new(2, 2, FrameRate::WAN, vec![]), Err(Error::Empty { .. })));
        assert!(matches!(Frames::new(usize::MAX, 3, FrameRate::WAN, vec![0; 9]), Err(Error::Length { .. })));
        assert_eq!(Frames::new(2, 2, FrameRate::WAN, vec![0; 24]).unwrap().count(), 2);
    }

    #[test]
    fn a_grid_puts_samples_side_by_side_and_leaves_the_rest_black() {
        let samples = [clip(2, 1, 2, 10), clip(2, 1, 2, 20), clip(2, 1, 2, 30)];
        let grid = Frames::grid(&samples, 2).unwrap();
        assert_eq!((grid.width(), grid.height(), grid.count()), (4, 2, 2));
        let red: Vec<u8> = grid.iter().nth(1).unwrap().iter().step_by(3).copied().collect();
        assert_eq!(red, [10, 10, 20, 20, 30, 30, 0, 0]);
    }

    #[test]
    fn a_grid_of_one_is_the_sample_itself() {
        let sample = clip(3, 5, 2, 7);
        assert_eq!(Frames::grid(std::slice::from_ref(&sample), 9).unwrap(), sample);
    }

    #[test]
    fn a_grid_refuses_samples_that_differ() {
        let samples = [clip(2, 1, 2, 10), clip(2, 1, 3, 20)];
        assert!(matches!(Frames::grid(&samples, 2), Err(Error::GridMisfit { sample: 1, .. })));
        assert!(matches!(Frames::grid(&[], 2), Err(Error::NoSample)));
    }

    #[test]
    fn columns_make_a_square() {
        let columns: Vec<usize> = (0..=10).map(Frames::square_columns).collect();
        assert_eq!(columns, [1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4]);
    }

    #[test]
    fn rates_are_read_as_written() {
        for (text, shown) in [("16", "16"), ("23.976", "2997/125"), ("24000/1001", "24000/1001"), ("32/2", "16"), ("0.5", "1/2")] {
            assert_eq!(text.parse::<FrameRate>().unwrap().to_string(), shown);
        }
        for text in ["", "0", "-1", "16/0", "1e3", "1001", "nan", "+5", "1.2345", "99999999999", ".", "4294967295.5", "1/1001"] {
            assert!(matches!(text.parse::<FrameRate>(), Err(Error::FrameRate { text: t }) if !t.is_empty() || text.is_empty()), "{text}");
        }
    }

    #[test]
    fn coarse_ticks_never_drift() {
        let cs: Vec<u64> = (0..8).map(|index| FrameRate::WAN.frame_ticks(index, 100)).collect();
        assert_eq!(cs, [6, 7, 6, 6, 6, 7, 6, 6]);
        let odd = FrameRate::new(24000, 1001).unwrap();
        let sum: u64 = (0..24000).map(|index| odd.frame_ticks(index, 1000)).sum();
        assert_eq!(sum, 1_001_000);
    }
}
