//! Causal 3-D convolution of channels-last frames, one output frame a call.
//!
//! ```text
//! y[h, w, o] = round(bias[o] + sum_{i, j, k, c} x_i[h s + j - top, w s + k - left, c] * weight[o, c, i, j, k])
//!
//! x_i      kt frames [height, width, channels], the oldest first; a frame may be absent, which counts as all zero
//! weight   [out, input, kt, kh, kw], packed once into panels of output channels
//! y        [height', width', out]
//! ```
//!
//! It is a matrix product without the matrix: the pixels that a row of the kernel touches lie side by side in a
//! channels-last line, so one `(i, j)` of the kernel is a product of depth `kw * channels` whose rows overlap, read where
//! they are. Only tiles that touch a border are copied, with their zeros. A block of lines times a panel of output
//! channels is a task; the order of every sum is fixed, so the bytes do not depend on the number of threads.
//!
//! [`Sampling::Double`] folds nearest-neighbour upsampling into the kernel: each of the four parities of an output
//! pixel sees two source lines and two source columns, so nine taps become four and the doubled frame is never stored.

pub mod device;
pub mod gradient;
mod packed;
pub mod packing;
mod run;
mod tile;

use crate::host::{Aligned, Isa};
use crate::{Error, Rounding};
use packed::Phase;

/// How output pixels lie over input pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampling {
    /// One for one, with `kernel / 2` zeros on each side; odd kernels.
    #[default]
    Same,
    /// Every second pixel of every second line, with one zero line below and one zero column on the right; 3 x 3.
    Halve,
    /// The frame is doubled by nearest neighbour first, then as [`Sampling::Same`]; 3 x 3.
    Double,
}

/// Shape of a convolution, checked when its weight is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels of a pixel read.
    pub input: usize,
    /// Channels of a pixel written.
    pub output: usize,
    /// Time, height and width of the kernel.
    pub kernel: [usize; 3],
    /// How output pixels lie over input pixels.
    pub sampling: Sampling,
}

impl ConvShape {
    /// Values of the weight.
    pub fn weight_values(&self) -> usize {
        self.input * self.output * self.kernel.iter().product::<usize>()
    }

    /// Height and width of the output for a frame of `[height, width]`.
    pub fn output_size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        match self.sampling {
            Sampling::Same => [height, width],
            Sampling::Halve => [height.saturating_sub(2) / 2 + height.min(1), width.saturating_sub(2) / 2 + width.min(1)],
            Sampling::Double => [2 * height, 2 * width],
        }
    }

    /// Multiply-adds for a frame of `[height, width]`, as the formula counts them.
    pub fn multiply_adds(&self, size: [usize; 2]) -> u64 {
        self.output_size(size).into_iter().map(|n| n as u64).product::<u64>() * self.weight_values() as u64
    }

    fn check(&self) -> Result<(), Error> {
        for (what, found) in [("input channels", self.input), ("output channels", self.output), ("kernel frames", self.kernel[0])] {
            if found == 0 {
                return Err(Error::Size { what, must: "at least 1", found });
            }
        }
        for found in [self.kernel[1], self.kernel[2]] {
            match self.sampling {
                Sampling::Same if found % 2 == 0 => return Err(Error::Size { what: "kernel side", must: "odd", found }),
                Sampling::Halve | Sampling::Double if found != 3 => {
                    return Err(Error::Size { what: "kernel side of a resampling convolution", must: "3", found });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What is done with `convolution + bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvThen {
    /// Store it.
    Store,
    /// Add it to what the output holds; under bf16 the sum rounds again.
    Add,
}

/// A convolution, its weight packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Conv3d {
    shape: ConvShape,
    isa: Isa,
    phases: Vec<Phase>,
    panels: Aligned<f32>,
    bias: Vec<f32>,
    rounding: Rounding,
}

impl Conv3d {
    /// Packs `weight` = `[out, input, kt, kh, kw]` and `bias` = `[out]`; both are rounded first as `rounding` says, and so
    /// is every stored result.
    ///
    /// # Errors
    /// When the shape is not supported or an operand has another number of values.
    pub fn pack(shape: ConvShape, weight: &[f32], bias: &[f32], rounding: Rounding) -> Result<Self, Error> {
        Self::pack_on(Isa::detect(), shape, weight, bias, rounding)
    }

    /// [`Conv3d::pack`] for a chosen instruction set.
    ///
    /// # Errors
    /// Also when this machine lacks it.
    pub fn pack_on(isa: Isa, shape: ConvShape, weight: &[f32], bias: &[f32], rounding: Rounding) -> Result<Self, Error> {
        isa.demand()?;
        shape.check()?;
        Error::expect_len("convolution weight", weight, shape.weight_values())?;
        Error::expect_len("convolution bias", bias, shape.output)?;
        let (phases, panels) = packed::pack(isa, &shape, weight, rounding);
        let bias = bias.iter().map(|b| rounding.apply(*b)).collect();
        Ok(Self { shape, isa, phases, panels, bias, rounding })
    }

    /// Its shape.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Bytes that the packed weight takes.
    pub fn bytes(&self) -> usize {
        self.panels.bytes() + self.bias.len() * size_of::<f32>()
    }

    /// Convolves `kt` frames of `[height, width]`, the oldest first, into `out` = `[height', width', out]`.
    ///
    /// # Errors
    /// When a slice does not fit, or a frame is too small for the kernel.
    pub fn run(&self, frames: &[Option<&[f32]>], size: [usize; 2], then: ConvThen, out: &mut [f32]) -> Result<(), Error> {
        Error::expect_len("frames of a convolution", frames, self.shape.kernel[0])?;
        let [height, width] = self.shape.output_size(size);
        if height == 0 || width == 0 {
            return Err(Error::Size { what: "side of a frame", must: "at least 1", found: 0 });
        }
        for frame in frames.iter().flatten() {
            Error::expect_len("input frame", frame, size[0] * size[1] * self.shape.input)?;
        }
        Error::expect_len("output frame", out, height * width * self.shape.output)?;
        self.run_checked(frames, size, then, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::conv3d as truth;
    use turbowan_reference::inputs;
    use turbowan_reference::metrics::{Bound, Verdict};

    /// Sums of up to 1,200 products of size 1: the last bits of 24.
    const CLOSE: Bound = Bound { max_abs: Some(2e-4), relative_l2: Some(2e-6), cosine: None };

    struct Case {
        shape: ConvShape,
        size: [usize; 2],
        /// Frames of the window that are absent, from the oldest.
        absent: usize,
    }

    fn case(channels: [usize; 2], kernel: [usize; 3], sampling: Sampling, size: [usize; 2], absent: usize) -> Case {
        Case { shape: ConvShape { input: channels[0], output: channels[1], kernel, sampling }, size, absent }
    }

    fn cases() -> Vec<Case> {
        use Sampling::{Double, Halve, Same};
        vec![
            case([3, 5], [3, 3, 3], Same, [4, 6], 0),
            case([5, 3], [3, 3, 3], Same, [1, 1], 2),
            case([1, 33], [1, 3, 3], Same, [3, 29], 0),
            case([16, 20], [3, 3, 3], Same, [5, 31], 1),
            case([33, 48], [3, 1, 1], Same, [7, 15], 0),
            case([20, 40], [1, 1, 1], Same, [3, 17], 0),
            case([40, 97], [1, 3, 3], Halve, [8, 10], 0),
            case([7, 6], [1, 3, 3], Halve, [9, 5], 0),
            case([7, 6], [1, 3, 3], Halve, [2, 2], 0),
            case([12, 10], [1, 3, 3], Double, [3, 16], 0),
            case([5, 70], [1, 3, 3], Double, [1, 1], 0),
            case([4, 4], [3, 5, 1], Same, [6, 3], 0),
        ]
    }

    fn operands(case: &Case) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (shape, [height, width]) = (&case.shape, case.size);
        let mut x = inputs::normal(shape.kernel[0] * height * width * shape.input, 1);
        x[..case.absent * height * width * shape.input].fill(0.0);
        let scale = 1.0 / (shape.weight_values() as f32 / shape.output as f32).sqrt();
        let weight = inputs::normal(shape.weight_values(), 2).iter().map(|w| w * scale).collect();
        (x, weight, inputs::normal(shape.output, 3))
    }

    fn want(case: &Case, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let (shape, [height, width]) = (&case.shape, case.size);
        let [kt, kh, kw] = shape.kernel;
        let (doubled, stride, border) = match shape.sampling {
            Sampling::Same => (false, 1, [kh / 2, kh / 2, kw / 2, kw / 2]),
            Sampling::Halve => (false, 2, [0, 1, 0, 1]),
            Sampling::Double => (true, 1, [1; 4]),
        };
        let conv = truth::Conv { weight, bias, kernel: shape.kernel, stride: [1, stride, stride], border };
        if doubled {
            let x = truth::double(x, kt * height, width, shape.input);
            return truth::conv3d(&x, [kt, 2 * height, 2 * width], shape.input, &conv).0;
        }
        truth::conv3d(x, [kt, height, width], shape.input, &conv).0
    }

    fn window<'a>(case: &Case, x: &'a [f32]) -> Vec<Option<&'a [f32]>> {
        x.chunks(case.size[0] * case.size[1] * case.shape.input).enumerate().map(|(i, f)| (i >= case.absent).then_some(f)).collect()
    }

    fn name(case: &Case) -> String {
        format!("{:?} on {:?}, {} frames absent", case.shape, case.size, case.absent)
    }

    #[test]
    fn every_kernel_and_sampling_matches_the_oracle_on_every_instruction_set() {
        for case in cases() {
            let (x, weight, bias) = operands(&case);
            let want = want(&case, &x, &weight, &bias);
            for isa in Isa::available() {
                let conv = Conv3d::pack_on(isa, case.shape, &weight, &bias, Rounding::None).unwrap();
                let mut out = vec![f32::NAN; want.len()];
                conv.run(&window(&case, &x), case.size, ConvThen::Store, &mut out).unwrap();
                Verdict::of(&out, &want, CLOSE).demand(&format!("{} {isa:?}", name(&case)));
            }
        }
    }

    #[test]
    fn a_deep_sum_cut_into_blocks_matches_the_oracle() {
        let case = case([400, 35], [3, 3, 3], Sampling::Same, [2, 5], 0);
        let (x, weight, bias) = operands(&case);
        let want = want(&case, &x, &weight, &bias);
        for isa in Isa::available() {
            let conv = Conv3d::pack_on(isa, case.shape, &weight, &bias, Rounding::None).unwrap();
            let mut out = vec![f32::NAN; want.len()];
            conv.run(&window(&case, &x), case.size, ConvThen::Store, &mut out).unwrap();
            Verdict::of(&out, &want, CLOSE).demand(&format!("{isa:?}"));
        }
    }

    #[test]
    fn adding_to_the_output_is_storing_and_adding_afterwards() {
        for rounding in [Rounding::None, Rounding::Bf16] {
            let case = case([6, 37], [3, 3, 3], Sampling::Same, [5, 9], 0);
            let (x, weight, bias) = operands(&case);
            let conv = Conv3d::pack(case.shape, &weight, &bias, rounding).unwrap();
            let residual: Vec<f32> = inputs::normal(5 * 9 * 37, 9).iter().map(|v| rounding.apply(*v)).collect();
            let (mut stored, mut added) = (vec![0.0; residual.len()], residual.clone());
            conv.run(&window(&case, &x), case.size, ConvThen::Store, &mut stored).unwrap();
            conv.run(&window(&case, &x), case.size, ConvThen::Add, &mut added).unwrap();
            let want: Vec<f32> = residual.iter().zip(&stored).map(|(r, s)| rounding.apply(r + s)).collect();
            assert_eq!(added, want, "{rounding:?}");
            assert!(stored.iter().all(|s| rounding.apply(*s) == *s));
        }
    }

    #[test]
    fn bf16_rounds_the_weight_and_the_result_once() {
        let case = case([16, 16], [3, 3, 3], Sampling::Same, [4, 9], 0);
        let (x, weight, bias) = operands(&case);
        let x: Vec<f32> = x.iter().map(|v| Rounding::Bf16.apply(*v)).collect();
        let narrow = |v: &[f32]| -> Vec<f32> { v.iter().map(|v| Rounding::Bf16.apply(*v)).collect() };
        let want = want(&case, &x, &narrow(&weight), &narrow(&bias));
        let conv = Conv3d::pack(case.shape, &weight, &bias, Rounding::Bf16).unwrap();
        let mut out = vec![0.0; want.len()];
        conv.run(&window(&case, &x), case.size, ConvThen::Store, &mut out).unwrap();
        // half a unit of eight bits
        let off = out.iter().zip(&want).filter(|(o, w)| (f64::from(**o) - **w).abs() > w.abs() / 256.0 + 1e-6).count();
        assert_eq!(off, 0);
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let case = case([24, 70], [3, 3, 3], Sampling::Same, [13, 33], 1);
        let (x, weight, bias) = operands(&case);
        let conv = Conv3d::pack(case.shape, &weight, &bias, Rounding::None).unwrap();
        let by = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; 13 * 33 * 70];
            pool.install(|| conv.run(&window(&case, &x), case.size, ConvThen::Store, &mut out).unwrap());
            out
        };
        assert!(by(1) == by(2) && by(1) == by(5));
    }

    #[test]
    fn shapes_and_operands_that_do_not_fit_are_refused() {
        let shape = ConvShape { input: 2, output: 3, kernel: [1, 3, 3], sampling: Sampling::Same };
        let refused =
            |shape: ConvShape| Conv3d::pack(shape, &vec![0.0; shape.weight_values()], &vec![0.0; shape.output], Rounding::None).is_err();
        assert!(refused(ConvShape { kernel: [1, 2, 3], ..shape }));
        assert!(refused(ConvShape { kernel: [0, 3, 3], ..shape }));
        assert!(refused(ConvShape { input: 0, ..shape }));
        assert!(refused(ConvShape { kernel: [1, 5, 5], sampling: Sampling::Halve, ..shape }));
        assert!(Conv3d::pack(shape, &[0.0; 53], &[0.0; 3], Rounding::None).is_err());
        let conv = Conv3d::pack(shape, &[0.0; 54], &[0.0; 3], Rounding::None).unwrap();
        let run = |frames: &[Option<&[f32]>], size, values| conv.run(frames, size, ConvThen::Store, &mut vec![0.0; values]);
        assert!(run(&[Some(&[0.0; 8])], [2, 2], 12).is_ok());
        assert!(run(&[Some(&[0.0; 8])], [2, 2], 11).is_err());
        assert!(run(&[Some(&[0.0; 7])], [2, 2], 12).is_err());
        assert!(run(&[None, None], [2, 2], 12).is_err());
        assert!(run(&[None], [0, 2], 0).is_err());
    }
}
