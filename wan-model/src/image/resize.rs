//! Antialiased bilinear resize of 8-bit pictures in torch's fixed-point arithmetic (`antialias=True` on uint8 tensors).
//!
//! Along an axis of `n` pixels that becomes `m`, output `i` weighs the inputs around `c = (i + 1/2) n/m` by a triangle of half-width
//! `max(n/m, 1)`; the weights sum to one. They are rounded to 16-bit integers with the most fractional bits that the largest weight allows, the
//! products are summed exactly, and the sum is rounded back to 8 bits: rows first, then columns.

use std::borrow::Cow;

use super::RgbImage;

/// Weights of the inputs that one output reads.
struct Taps {
    first: usize,
    weights: Vec<i16>,
}

/// All taps along an axis, and the fractional bits of their weights.
struct Axis {
    taps: Vec<Taps>,
    precision: u32,
}

impl Axis {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let narrowing = if scale >= 1.0 { 1.0 / scale } else { 1.0 };
        let exact: Vec<(usize, Vec<f64>)> = (0..to)
            .map(|output| {
                let centre = scale * (output as f64 + 0.5);
                let first = (centre - support + 0.5).max(0.0) as usize;
                let end = ((centre + support + 0.5) as usize).min(from);
                let triangle = |input: usize| (1.0 - ((input as f64 - centre + 0.5) * narrowing).abs()).max(0.0);
                let weights: Vec<f64> = (first..end).map(triangle).collect();
                let sum: f64 = weights.iter().sum();
                (first, weights.into_iter().map(|weight| if sum == 0.0 { weight } else { weight / sum }).collect())
            })
            .collect();
        let largest = exact.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
        let precision = precision_of(largest);
        let unit = f64::from(1u32 << precision);
        let fixed = |(first, weights): (usize, Vec<f64>)| {
            let weights = weights.into_iter().map(|weight| (weight * unit + 0.5) as i16).collect();
            Taps { first, weights }
        };
        Self { taps: exact.into_iter().map(fixed).collect(), precision }
    }

    /// One output from its inputs, which stand `stride` apart from `source[0]`.
    fn weigh(&self, taps: &Taps, source: &[u8], stride: usize) -> u8 {
        let inputs = source[taps.first * stride..].iter().step_by(stride);
        let half = 1i32 << (self.precision - 1);
        let sum = taps.weights.iter().zip(inputs).fold(half, |sum, (weight, input)| sum + i32::from(*weight) * i32::from(*input));
        (sum >> self.precision).clamp(0, 255) as u8
    }
}

/// Most fractional bits, up to 22, with which the largest weight still fits 16 bits with its sign.
fn precision_of(largest: f64) -> u32 {
    (1..=22).take_while(|bits| ((largest * f64::from(1u32 << bits) + 0.5) as i64) < 1 << 15).last().unwrap_or(1)
}

/// The picture at `width` x `height`, both above zero.
pub(super) fn bilinear(picture: &RgbImage, width: usize, height: usize) -> RgbImage {
    const CHANNELS: usize = 3;
    let mut bytes = Cow::Borrowed(picture.bytes.as_slice());
    if width != picture.width {
        let axis = Axis::new(picture.width, width);
        let row = |row: &[u8]| -> Vec<u8> {
            let pixels = axis.taps.iter();
            pixels.flat_map(|taps| [0, 1, 2].map(|channel| axis.weigh(taps, &row[channel..], CHANNELS))).collect()
        };
        bytes = bytes.chunks_exact(picture.width * CHANNELS).flat_map(row).collect();
    }
    if height != picture.height {
        let axis = Axis::new(picture.height, height);
        let stride = width * CHANNELS;
        let row = |taps: &Taps| -> Vec<u8> { (0..stride).map(|column| axis.weigh(taps, &bytes[column..], stride)).collect() };
        bytes = axis.taps.iter().flat_map(row).collect();
    }
    RgbImage { width, height, bytes: bytes.into_owned() }
}
