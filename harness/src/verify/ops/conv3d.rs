//! The causal convolution of the autoencoder.

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::conv3d::{Conv3d, ConvShape, ConvThen, Sampling};
use turbowan_reference::conv3d as truth;

use super::HALF_STEP;
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, no_kernels};

/// `sampling` 0 is one for one, 1 halves, 2 doubles; `absent` frames of the past are not there; `add` 1 adds onto a residual.
const AXES: &[Axis] = &[
    Axis::new("input", 1, 48, 1),
    Axis::new("output", 1, 100, 1),
    Axis::new("height", 2, 12, 1),
    Axis::new("width", 2, 40, 1),
    Axis::new("kt", 1, 3, 2),
    Axis::new("side", 1, 3, 2),
    Axis::choice("sampling", 2),
    Axis::choice("absent", 2),
    Axis::choice("add", 1),
    Axis::choice("bf16", 1),
];

/// It is one.
pub const OPS: [Op; 1] = [Op {
    name: "conv3d",
    about: "sum of x[t + i, h + j, w + k] weight[o, :, i, j, k] over channels and taps, causal in time",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 9] = [
            &[1, 33, 3, 29, 1, 3, 0, 0, 0, 0],
            &[5, 3, 1, 1, 3, 3, 0, 2, 0, 0],
            &[33, 48, 7, 15, 3, 1, 0, 0, 0, 0],
            &[20, 40, 3, 17, 1, 1, 0, 0, 1, 0],
            &[40, 97, 8, 10, 1, 3, 1, 0, 0, 0],
            &[7, 6, 9, 5, 1, 3, 1, 0, 0, 1],
            &[12, 10, 3, 16, 1, 3, 2, 0, 0, 0],
            &[5, 70, 1, 1, 1, 3, 2, 0, 0, 1],
            &[16, 20, 5, 31, 3, 3, 0, 1, 1, 1],
        ];
        Case::cross(&shapes, &[16, 24, 6, 9, 3, 3, 0, 0, 0, 0], &Kind::ALL[1..])
    },
    tame: |case| {
        if case.shape[6] != 0 {
            (case.shape[4], case.shape[5]) = (1, 3);
        }
        // a multiple of two below three is one
        case.shape[4] = if case.shape[4] < 3 { 1 } else { 3 };
        case.shape[5] = if case.shape[5] < 3 { 1 } else { 3 };
        case.shape[7] = case.shape[7].min(case.shape[4] - 1);
    },
    kernels: no_kernels,
    far: &[],
    prepare: Convolve::prepare,
}];

struct Convolve {
    shape: ConvShape,
    size: [usize; 2],
    absent: usize,
    adds: bool,
    rounding: Rounding,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    want: Vec<f64>,
    magnitudes: Vec<f64>,
}

impl Convolve {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [input, output, height, width, kt, side, sampling, absent, add, is_bf16] = case.sizes();
        let sampling = *[Sampling::Same, Sampling::Halve, Sampling::Double].get(sampling).ok_or(Fault::Case("sampling is 0, 1 or 2"))?;
        let shape = ConvShape { input, output, kernel: [kt, side, side], sampling };
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        let mut x = case.kind.values(kt * height * width, input, case.seed);
        x[..absent.min(kt) * height * width * input].fill(0.0);
        let scale = ((shape.weight_values() / output) as f32).sqrt().recip();
        let mut weight: Vec<f32> =
            Kind::Plain.values(output, shape.weight_values() / output, case.seed + 1).iter().map(|w| w * scale).collect();
        let mut bias = Kind::Plain.values(1, output, case.seed + 2);
        let [out_height, out_width] = shape.output_size([height, width]);
        let mut residual = Kind::Plain.values(out_height * out_width, output, case.seed + 3);
        [&mut x, &mut weight, &mut bias, &mut residual].into_iter().for_each(|values| rounding.apply_row(values));
        let run = |x: &[f32], weight: &[f32], bias: &[f32]| convolved(&shape, [kt, height, width], x, weight, bias);
        let sizes = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
        let (want, magnitudes) = (run(&x, &weight, &bias), run(&sizes(&x), &sizes(&weight), &sizes(&bias)));
        let size = [height, width];
        Ok(Box::new(Self { shape, size, absent, adds: add == 1, rounding, x, weight, bias, residual, want, magnitudes }))
    }
}

fn convolved(shape: &ConvShape, [kt, height, width]: [usize; 3], x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let [_, kh, kw] = shape.kernel;
    let (stride, border) = match shape.sampling {
        Sampling::Same => (1, [kh / 2, kh / 2, kw / 2, kw / 2]),
        Sampling::Halve => (2, [0, 1, 0, 1]),
        Sampling::Double => (1, [1; 4]),
    };
    let conv = truth::Conv { weight, bias, kernel: shape.kernel, stride: [1, stride, stride], border };
    if shape.sampling == Sampling::Double {
        let x = truth::double(x, kt * height, width, shape.input);
        return truth::conv3d(&x, [kt, 2 * height, 2 * width], shape.input, &conv).0;
    }
    truth::conv3d(x, [kt, height, width], shape.input, &conv).0
}

impl Prepared for Convolve {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let conv = Conv3d::pack(self.shape, &self.weight, &self.bias, self.rounding)?;
        let frame = self.size[0] * self.size[1] * self.shape.input;
        let frames: Vec<_> = self.x.chunks(frame).enumerate().map(|(index, frame)| (index >= self.absent).then_some(frame)).collect();
        let mut out = self.residual.clone();
        conv.run(&frames, self.size, if self.adds { ConvThen::Add } else { ConvThen::Store }, &mut out)?;
        Ok(vec![Output::new("out", self.shape.output, &out)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let want: Vec<f64> = match self.adds {
            true => self.want.iter().zip(&self.residual).map(|(sum, residual)| sum + f64::from(*residual)).collect(),
            false => self.want.clone(),
        };
        let terms = (self.shape.weight_values() / self.shape.output) as f64;
        let rounding = if self.rounding == Rounding::Bf16 { 1.01 * HALF_STEP } else { f64::from(f32::EPSILON) };
        let allowed = |index: usize, want: f64| {
            let sum = self.magnitudes[index] * f64::from(f32::EPSILON) * (terms / 4.0 + 4.0);
            sum + rounding * (self.want[index].abs() + want.abs()) + 1e-7
        };
        let why = "a sum in f32, each step of it off by one unit at most; stored rounded";
        Ok(vec![Held::each(&outputs[0], &want, allowed, "(terms / 4 + 4) 2^-23 |x||w|", why)])
    }
}
