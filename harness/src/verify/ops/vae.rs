//! What the autoencoder does beside convolutions: the channel norm, and attention of a frame to itself.

use turbowan_cuda::Rounding;
use turbowan_reference::attention::{Mask, attend};
use turbowan_reference::metrics::Bound;
use turbowan_reference::norm as truth;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::vae::{FrameSize, VaeBackend};

use super::HALF_STEP;
use super::attention::head_of;
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, as_drawn, no_kernels};

const AXES: &[Axis] =
    &[Axis::new("height", 1, 12, 1), Axis::new("width", 1, 20, 1), Axis::new("channels", 1, 400, 1), Axis::choice("bf16", 1)];

/// Norm, norm with SiLU, attention.
pub const OPS: [Op; 3] = [
    op("vae-norm", "x / |x| sqrt(C) gamma of every pixel", |case| Frame::prepare(case, Step::Norm)),
    op("vae-norm-silu", "SiLU of that", |case| Frame::prepare(case, Step::NormSilu)),
    Op {
        cases: || {
            let shapes: [&[usize]; 4] = [&[1, 1, 16, 0], &[3, 5, 96, 0], &[8, 9, 384, 0], &[5, 13, 64, 1]];
            Case::cross(&shapes, &[6, 12, 64, 0], &[Kind::Constant, Kind::Zero, Kind::ZeroBlock])
        },
        tame: |case| {
            if matches!(case.kind, Kind::OutlierChannel | Kind::Biased | Kind::Large) {
                case.kind = Kind::Plain;
            }
        },
        ..op("vae-attention", "every pixel of a frame to every other, one head", |case| Frame::prepare(case, Step::Attention))
    },
];

const fn op(name: &'static str, about: &'static str, prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>) -> Op {
    Op {
        name,
        about,
        axes: AXES,
        cases: || Case::cross(&[&[1, 1, 1, 0], &[3, 5, 96, 0], &[4, 7, 192, 1], &[2, 9, 384, 0]], &[4, 5, 96, 1], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: no_kernels,
        far: &[],
        prepare,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Norm,
    NormSilu,
    Attention,
}

struct Frame {
    step: Step,
    size: FrameSize,
    rounding: Rounding,
    x: [Vec<f32>; 3],
    gamma: Vec<f32>,
    /// Before SiLU.
    normed: Vec<f64>,
    want: Vec<f64>,
}

impl Frame {
    fn prepare(case: &Case, step: Step) -> Result<Box<dyn Prepared>, Fault> {
        let [height, width, channels, is_bf16] = case.sizes();
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        let mut x = [0, 1, 2].map(|more| case.kind.values(height * width, channels, case.seed + more));
        let mut gamma = Kind::Plain.values(1, channels, case.seed + 3);
        x.iter_mut().chain([&mut gamma]).for_each(|values| rounding.apply_row(values));
        let [q, k, v] = &x;
        let normed = truth::channel_norm(q, channels, &gamma);
        let want = match step {
            Step::Norm => normed.clone(),
            Step::NormSilu => normed.iter().copied().map(truth::silu).collect(),
            Step::Attention => attend(head_of([q, k, v], channels), Mask::None).out,
        };
        let size = FrameSize { height, width, channels };
        Ok(Box::new(Self { step, size, rounding, x, gamma, normed, want }))
    }
}

impl Prepared for Frame {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let host = HostFrames::new(self.rounding);
        let [q, k, v] = [0, 1, 2].map(|index| host.upload(&self.x[index], self.size));
        let gamma = host.load_gamma(self.gamma.clone())?;
        let out = match self.step {
            Step::Norm => host.norm(&q?, &gamma)?,
            Step::NormSilu => host.norm_silu(&q?, &gamma)?,
            Step::Attention => host.attend(q?, k?, v?)?,
        };
        Ok(vec![Output::new("out", self.size.channels, &host.download(&out)?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let is_bf16 = self.rounding == Rounding::Bf16;
        if self.step == Step::Attention {
            let (bound, why) = if is_bf16 { (8e-3, "probabilities and output round to bf16") } else { (4e-6, "sums in f32") };
            return Ok(vec![Held::within(&outputs[0], &self.want, Bound::relative_l2(bound), why)]);
        }
        let share = if is_bf16 { 8.0 * HALF_STEP } else { 4e-6 };
        let why = "length, quotient, root, weight and activation each round";
        Ok(vec![Held::each(
            &outputs[0],
            &self.want,
            |index, _| share * self.normed[index].abs() + 1e-30,
            "2^-5 |normed|, in f32 4e-6",
            why,
        )])
    }
}
