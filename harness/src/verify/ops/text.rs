//! The text encoder's operations: attention with a bias by distance, the gated GELU, its RMS norm.

use turbowan_cuda::Rounding;
use turbowan_reference::metrics::Bound;
use turbowan_reference::{norm as norm_truth, umt5 as truth};
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::backend::text::TextBackend;

use super::HALF_STEP;
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, as_drawn, no_kernels};

/// `keys` of the rows are seen.
const ATTENTION: &[Axis] = &[
    Axis::new("rows", 1, 200, 1),
    Axis::new("keys", 1, 200, 1),
    Axis::new("heads", 1, 6, 1),
    Axis::new("dim", 1, 64, 1),
    Axis::choice("bf16", 1),
];

const ROWS: &[Axis] = &[Axis::new("rows", 1, 60, 1), Axis::new("width", 1, 4096, 1), Axis::choice("bf16", 1)];

/// Three of them.
pub const OPS: [Op; 3] = [
    Op {
        name: "umt5-attention",
        about: "softmax_j(q . k_j + bias[j - i]) v over the first keys, no scale",
        axes: ATTENTION,
        cases: || {
            let shapes: [&[usize]; 6] =
                [&[1, 1, 1, 1, 0], &[7, 7, 3, 5, 0], &[64, 10, 2, 16, 0], &[65, 65, 2, 64, 1], &[130, 1, 1, 32, 0], &[97, 61, 4, 8, 0]];
            Case::cross(&shapes, &[65, 50, 2, 32, 0], &[Kind::Constant, Kind::Zero, Kind::ZeroBlock])
        },
        tame: |case| {
            case.shape[1] = case.shape[1].min(case.shape[0]);
            if matches!(case.kind, Kind::OutlierChannel | Kind::Biased | Kind::Large) {
                case.kind = Kind::Plain;
            }
        },
        kernels: no_kernels,
        far: &[],
        prepare: |case| {
            let [rows, keys, heads, dim, is_bf16] = case.sizes();
            let mut drawn = Rows::draw(case, Step::Attention { keys }, [rows, heads * dim], is_bf16);
            // scores have no scale of their own: queries of 1 / sqrt(D) make them about 1
            drawn.x[0].iter_mut().for_each(|q| *q /= (dim as f32).sqrt());
            drawn.weight = Kind::Plain.values(heads, rows + keys - 1, case.seed + 3);
            drawn.weight_width = rows + keys - 1;
            drawn.rounded()
        },
    },
    Op {
        name: "umt5-gelu-gate",
        about: "up gelu(gate), tanh form",
        axes: ROWS,
        cases: rows,
        tame: as_drawn,
        kernels: no_kernels,
        far: &[],
        prepare: |case| {
            let [rows, width, is_bf16] = case.sizes();
            Rows::draw(case, Step::Gate, [rows, width], is_bf16).rounded()
        },
    },
    Op {
        name: "umt5-rms-norm",
        about: "RMS(x) weight",
        axes: ROWS,
        cases: rows,
        tame: as_drawn,
        kernels: no_kernels,
        far: &[],
        prepare: |case| {
            let [rows, width, is_bf16] = case.sizes();
            let mut drawn = Rows::draw(case, Step::Norm, [rows, width], is_bf16);
            (drawn.weight, drawn.weight_width) = (Kind::Plain.values(1, width, case.seed + 3), width);
            drawn.rounded()
        },
    },
];

fn rows() -> Vec<Case> {
    Case::cross(&[&[1, 1, 0], &[3, 97, 0], &[40, 1024, 1], &[5, 4096, 0]], &[7, 300, 1], &Kind::ALL[1..])
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Attention { keys: usize },
    Gate,
    Norm,
}

struct Rows {
    step: Step,
    shape: [usize; 2],
    x: [Vec<f32>; 3],
    weight: Vec<f32>,
    weight_width: usize,
    rounding: Rounding,
    want: Vec<f64>,
}

impl Rows {
    fn draw(case: &Case, step: Step, shape @ [rows, width]: [usize; 2], is_bf16: usize) -> Self {
        let x = [0, 1, 2].map(|more| case.kind.values(rows, width, case.seed + more));
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        Self { step, shape, x, weight: vec![], weight_width: 1, rounding, want: vec![] }
    }

    /// Inputs in the asked format, and their truth.
    fn rounded(mut self) -> Result<Box<dyn Prepared>, Fault> {
        self.x.iter_mut().chain([&mut self.weight]).for_each(|values| self.rounding.apply_row(values));
        let [a, b, c] = &self.x;
        self.want = match self.step {
            Step::Attention { keys } => {
                let heads = self.weight.len() / self.weight_width;
                truth::relative_attention([a, b, c], self.shape[0], heads, &self.weight, keys)
            }
            Step::Gate => truth::gelu_gate(a, b),
            Step::Norm => norm_truth::rms_norm(a, self.shape[1], EPS.into(), &self.weight),
        };
        Ok(Box::new(self))
    }
}

const EPS: f32 = 1e-6;

impl Prepared for Rows {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let host = Host { rounding: self.rounding };
        let [a, b, c] = self.x.each_ref().map(|values| HostTensor { width: self.shape[1], values: values.clone() });
        let weight = HostTensor { width: self.weight_width, values: self.weight.clone() };
        let out = match self.step {
            Step::Attention { keys } => host.relative_attention([&a, &b, &c], &weight, keys)?.rows,
            Step::Gate => host.gelu_gate(&a, &b)?.rows,
            Step::Norm => host.rms_norm(&a, &weight, EPS)?,
        };
        Ok(vec![Output::new("out", self.shape[1], &out.values)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let got = &outputs[0];
        let is_bf16 = self.rounding == Rounding::Bf16;
        Ok(vec![match self.step {
            Step::Attention { .. } => {
                let (bound, why) = if is_bf16 { (1.2e-2, "scores and weights round to bf16") } else { (4e-6, "sums in f32") };
                Held::within(got, &self.want, Bound::relative_l2(bound), why)
            }
            // far below zero GELU is the small difference of one and its tanh
            Step::Gate if is_bf16 => {
                let allowed = |index: usize, _| 8.0 * HALF_STEP * (f64::from(self.x[0][index]) * f64::from(self.x[1][index])).abs();
                Held::each(
                    got,
                    &self.want,
                    allowed,
                    "2^-5 |gate up|",
                    "nine roundings to bf16 on the way, as the official code stores them",
                )
            }
            Step::Gate => {
                let allowed =
                    |index: usize, want: f64| 4e-7 * ((f64::from(self.x[0][index]) * f64::from(self.x[1][index])).abs() + want.abs());
                Held::each(got, &self.want, allowed, "4e-7 (|gate up| + |y|)", "tanh and its products in f32")
            }
            Step::Norm => {
                let share = if is_bf16 { 2.02 * HALF_STEP } else { 2e-6 };
                Held::each(
                    got,
                    &self.want,
                    |_, want| share * want.abs() + 1e-30,
                    "2^-7 |y|, in f32 2e-6 |y|",
                    "rounded before the weight and after it",
                )
            }
        }])
    }
}
