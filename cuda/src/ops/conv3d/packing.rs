//! A weight in the order in which the device's kernels read it: `kernels/conv3d_tile.cuh`.

use half::bf16;

use super::ConvShape;
use crate::Error;

/// Channels of a 16-byte chunk: a pixel is stored in whole ones.
const CHUNK: usize = 8;

/// Channels of a step of the sum.
const DEPTH: usize = 32;

/// Channels that a pixel of `channels` takes on a device, those past the last zero: the next multiple of 8.
pub const fn stored(channels: usize) -> usize {
    channels.next_multiple_of(CHUNK)
}

/// Output channels that a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    /// 96: the width of every stage of the network, or a divisor of it.
    Wide,
    /// 16: latents and colours.
    Narrow,
}

impl Panel {
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Wide => 96,
            Self::Narrow => 16,
        }
    }
}

/// How the weight and the bias of a convolution lie in device memory.
///
/// ```text
/// weight   [panels, kernel frames, ceil(stored input / 32), kernel lines * columns, 4, panel channels, 8]
/// bias     [panels, panel channels]
/// ```
/// The output channels are those of the parts one after another, each padded to its stored channels; what is padded is
/// zero, and so are the channels that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    shape: ConvShape,
    parts: usize,
    panel: Panel,
}

impl Packing {
    /// For a convolution whose output channels make `parts` frames that follow one another: 1, or 2 in the upsampling in
    /// time.
    ///
    /// # Errors
    /// [`Error::Size`] when no kernel has this shape: a kernel side is 1 or 3, both alike, and the parts divide the output
    /// channels.
    pub fn new(shape: ConvShape, parts: usize) -> Result<Self, Error> {
        shape.check()?;
        let [_, lines, columns] = shape.kernel;
        if !matches!([lines, columns], [1, 1] | [3, 3]) {
            let found = if matches!(lines, 1 | 3) { columns } else { lines };
            return Err(Error::Size { what: "kernel side on a device", must: "1 by 1 or 3 by 3", found });
        }
        if !matches!(parts, 1 | 2) || !shape.output.is_multiple_of(parts) {
            return Err(Error::Size { what: "parts of a convolution", must: "1 or 2, which divide the output channels", found: parts });
        }
        for found in [shape.input, shape.output, shape.kernel[0]] {
            if found > i32::MAX as usize / 4 {
                return Err(Error::Size { what: "side of a weight", must: "below 2^29", found });
            }
        }
        let channels = parts * stored(shape.output / parts);
        // three of its panels have half the channels of a wide one, at less than half the work
        let is_narrow = shape.sampling == super::Sampling::Same && channels <= 3 * Panel::Narrow.channels();
        Ok(Self { shape, parts, panel: if is_narrow { Panel::Narrow } else { Panel::Wide } })
    }

    /// The convolution.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Frames that its output channels make.
    pub fn parts(&self) -> usize {
        self.parts
    }

    pub(super) fn panel(&self) -> Panel {
        self.panel
    }

    /// Whether a block has all channels of its pixels, so that the norm of the next layer fits in the end of this one: up to 16
    /// channels, or from 49 to 96.
    pub fn has_whole_pixels(&self) -> bool {
        self.parts == 1 && self.panels() == 1
    }

    /// Panels of output channels.
    pub(super) fn panels(&self) -> usize {
        (self.parts * self.out_channels()).div_ceil(self.panel.channels())
    }

    /// Channels of a pixel of a part as it is stored.
    pub(super) fn out_channels(&self) -> usize {
        stored(self.shape.output / self.parts)
    }

    /// Values of a packed weight.
    pub fn weight_values(&self) -> usize {
        let [frames, lines, columns] = self.shape.kernel;
        let steps = frames * self.shape.input.div_ceil(DEPTH) * lines * columns;
        self.panels().saturating_mul(self.panel.channels() * DEPTH).saturating_mul(steps)
    }

    /// Values of a packed bias.
    pub fn bias_values(&self) -> usize {
        self.panels() * self.panel.channels()
    }

    /// Packs `weight [out, input, kt, kh, kw]` and `bias [out]`, both rounded to bf16.
    ///
    /// # Errors
    /// [`Error::Length`] when an operand has another number of values.
    pub fn pack(&self, weight: &[f32], bias: &[f32]) -> Result<(Vec<bf16>, Vec<bf16>), Error> {
        let shape = &self.shape;
        Error::expect_len("convolution weight", weight, shape.weight_values())?;
        Error::expect_len("convolution bias", bias, shape.output)?;
        let taps = shape.kernel[1] * shape.kernel[2];
        let (frames, steps) = (shape.kernel[0], shape.input.div_ceil(DEPTH));
        let panel = self.panel.channels();
        let mut packed = vec![bf16::ZERO; self.weight_values()];
        let mut packed_bias = vec![bf16::ZERO; self.bias_values()];
        let part_channels = shape.output / self.parts;
        for (channel, weight) in weight.chunks_exact(shape.input * frames * taps).enumerate() {
            let place = channel / part_channels * self.out_channels() + channel % part_channels;
            packed_bias[place] = bf16::from_f32(bias[channel]);
            let (first, row) = (place / panel * frames, place % panel);
            for (input, weight) in weight.chunks_exact(frames * taps).enumerate() {
                let (step, plane, value) = (input / DEPTH, input % DEPTH / CHUNK, input % CHUNK);
                for (index, weight) in weight.iter().enumerate() {
                    let (frame, tap) = (index / taps, index % taps);
                    let block = ((first + frame) * steps + step) * taps + tap;
                    packed[((block * (DEPTH / CHUNK) + plane) * panel + row) * CHUNK + value] = bf16::from_f32(*weight);
                }
            }
        }
        Ok((packed, packed_bias))
    }
}

/// Pixels `[pixels, channels]` as a device stores them: rounded to bf16, each padded to [`stored`] channels.
///
/// # Errors
/// [`Error::Size`] without channels, [`Error::Length`] when the values are no whole pixels.
pub fn to_stored(values: &[f32], channels: usize) -> Result<Vec<bf16>, Error> {
    if channels == 0 {
        return Err(Error::Size { what: "channels of a pixel", must: "at least 1", found: 0 });
    }
    Error::expect_len("pixels", values, values.len() / channels * channels)?;
    let mut out = vec![bf16::ZERO; values.len() / channels * stored(channels)];
    for (out, pixel) in out.chunks_exact_mut(stored(channels)).zip(values.chunks_exact(channels)) {
        for (out, value) in out.iter_mut().zip(pixel) {
            *out = bf16::from_f32(*value);
        }
    }
    Ok(out)
}

/// The way back: the channels of stored pixels.
///
/// # Errors
/// As [`to_stored`].
pub fn from_stored(values: &[bf16], channels: usize) -> Result<Vec<f32>, Error> {
    if channels == 0 {
        return Err(Error::Size { what: "channels of a pixel", must: "at least 1", found: 0 });
    }
    Error::expect_len("stored pixels", values, values.len() / stored(channels) * stored(channels))?;
    Ok(values.chunks_exact(stored(channels)).flat_map(|pixel| &pixel[..channels]).map(|value| value.to_f32()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Sampling;
    use super::*;

    fn shape(input: usize, output: usize, kernel: [usize; 3], sampling: Sampling) -> ConvShape {
        ConvShape { input, output, kernel, sampling }
    }

    #[test]
    fn every_weight_has_its_place_and_the_rest_is_zero() {
        for (shape, parts) in [
            (shape(3, 5, [3, 3, 3], Sampling::Same), 1),
            (shape(40, 98, [2, 1, 1], Sampling::Same), 2),
            (shape(33, 7, [1, 3, 3], Sampling::Double), 1),
        ] {
            let packing = Packing::new(shape, parts).unwrap();
            // whole numbers up to 256 are exact in bf16, and so are they times a power of two
            let exact = |index: usize| (index % 255 + 1) as f32 * 2f32.powi((index / 255 % 16) as i32);
            let weight: Vec<f32> = (0..shape.weight_values()).map(exact).collect();
            let bias: Vec<f32> = (0..shape.output).map(|index| 1.0 + index as f32).collect();
            let (packed, packed_bias) = packing.pack(&weight, &bias).unwrap();
            let sorted = |mut values: Vec<f32>| {
                values.retain(|value| *value != 0.0);
                values.sort_by(f32::total_cmp);
                values
            };
            assert_eq!(sorted(packed.iter().map(|value| value.to_f32()).collect()), sorted(weight.clone()));
            let [frames, lines, columns] = shape.kernel;
            let (taps, steps, panel) = (lines * columns, shape.input.div_ceil(32), packing.panel().channels());
            for channel in 0..shape.output {
                let part = shape.output / parts;
                let place = channel / part * packing.out_channels() + channel % part;
                assert_eq!(packed_bias[place].to_f32(), bias[channel]);
                for c in 0..shape.input {
                    for (i, tap) in (0..frames).flat_map(|i| (0..taps).map(move |tap| (i, tap))) {
                        let at = (((place / panel * frames + i) * steps + c / 32) * taps + tap) * 32 * panel
                            + (c % 32 / 8 * panel + place % panel) * 8
                            + c % 8;
                        assert_eq!(packed[at].to_f32(), weight[((channel * shape.input + c) * frames + i) * taps + tap]);
                    }
                }
            }
        }
    }

    #[test]
    fn the_networks_convolutions_fill_their_panels() {
        for (output, parts, panels, panel) in [
            (96, 1, 1, Panel::Wide),
            (384, 1, 4, Panel::Wide),
            (768, 2, 8, Panel::Wide),
            (3, 1, 1, Panel::Narrow),
            (32, 1, 2, Panel::Narrow),
        ] {
            let packing = Packing::new(shape(96, output, [3, 3, 3], Sampling::Same), parts).unwrap();
            assert_eq!((packing.panels(), packing.panel()), (panels, panel), "{output}");
        }
    }

    #[test]
    fn shapes_without_a_kernel_are_refused() {
        for (shape, parts) in [
            (shape(8, 8, [1, 5, 5], Sampling::Same), 1),
            (shape(8, 8, [1, 1, 3], Sampling::Same), 1),
            (shape(8, 8, [3, 3, 3], Sampling::Same), 3),
            (shape(8, 7, [3, 1, 1], Sampling::Same), 2),
            (shape(0, 8, [1, 1, 1], Sampling::Same), 1),
            (shape(usize::MAX, 8, [1, 1, 1], Sampling::Same), 1),
        ] {
            assert!(matches!(Packing::new(shape, parts), Err(Error::Size { .. })), "{shape:?} {parts}");
        }
        let packing = Packing::new(shape(2, 3, [1, 1, 1], Sampling::Same), 1).unwrap();
        assert!(matches!(packing.pack(&[0.0; 5], &[0.0; 3]), Err(Error::Length { .. })));
        assert!(matches!(packing.pack(&[0.0; 6], &[0.0; 2]), Err(Error::Length { .. })));
    }

    #[test]
    fn pixels_come_back_as_they_went() {
        let values: Vec<f32> = (0..30).map(|value| value as f32).collect();
        for channels in [1, 3, 5, 10, 15] {
            let there = to_stored(&values, channels).unwrap();
            assert_eq!(there.len(), 30 / channels * stored(channels));
            assert_eq!(from_stored(&there, channels).unwrap(), values);
        }
        assert!(to_stored(&values, 7).is_err() && to_stored(&values, 0).is_err() && from_stored(&[bf16::ONE; 9], 3).is_err());
    }
}
