//! The text encoder's operations on rows: the gated GELU, and its RMS norm, which is that of queries without a rotation.

use half::bf16;
use turbowan_cuda::ops::elementwise::device::{self as elementwise, Gated, GeluGate};
use turbowan_cuda::ops::norm::RmsRule;
use turbowan_cuda::ops::rope::device::{self as rope, HeadRows, RmsRope};
use turbowan_cuda::{HeadLayout, Rounding};
use turbowan_reference::{norm as norm_truth, umt5 as truth};
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::backend::text::TextBackend;

use super::{FAR_ROWS, HALF_STEP, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `bf16` 0 keeps the host's results in f32; a device stores bf16. `joined` rows hold the gate and then what it gates.
const ROWS: &[Axis] = &[Axis::new("rows", 1, 60, 1), Axis::new("width", 8, 4096, 8), Axis::choice("bf16", 1), Axis::choice("joined", 1)];

/// Two of them.
pub const OPS: [Op; 2] = [
    Op {
        name: "umt5-gelu-gate",
        about: "up gelu(gate), tanh form",
        axes: ROWS,
        cases: rows,
        tame: as_drawn,
        kernels: |chip| vec![(elementwise::KERNELS[1].choose)(chip).1],
        // 16 rows a block
        far: &[
            Far { shape: &[5, 128, 1, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 16, 1) },
            Far { shape: &[5, 128, 1, 1], lead: FAR_ROWS / 2, blocks: (FAR_ROWS as u64 / 32, 1) },
        ],
        prepare: |case| Rows::prepare(case, Step::Gate),
    },
    Op {
        name: "umt5-rms-norm",
        about: "RMS(x) weight",
        axes: ROWS,
        cases: rows,
        tame: as_drawn,
        kernels: |chip| vec![(rope::KERNELS[0].choose)(chip).1],
        far: &[Far { shape: &[3, 128, 1, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64, 3) }],
        prepare: |case| Rows::prepare(case, Step::Norm),
    },
];

fn rows() -> Vec<Case> {
    let shapes: [&[usize]; 5] = [&[1, 8, 0, 0], &[3, 104, 0, 1], &[40, 1024, 1, 0], &[5, 4096, 0, 1], &[2, 4096, 1, 0]];
    Case::cross(&shapes, &[7, 304, 1, 1], &Kind::ALL[1..])
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Gate,
    Norm,
}

struct Rows {
    step: Step,
    width: usize,
    /// The gate or the rows, and what is gated.
    x: [(Vec<bf16>, Vec<f32>); 2],
    weight: Vec<f32>,
    is_joined: bool,
    rounding: Rounding,
    want: Vec<f64>,
}

impl Rows {
    fn prepare(case: &Case, step: Step) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, width, is_bf16, joined] = case.sizes();
        let x = [0, 1].map(|more| bf16s(&case.kind.values(rows, width, case.seed + more)));
        let weight = bf16s(&Kind::Plain.values(1, width, case.seed + 3)).1;
        let want = match step {
            Step::Gate => truth::gelu_gate(&x[0].1, &x[1].1),
            Step::Norm => norm_truth::rms_norm(&x[0].1, width, EPS.into(), &weight),
        };
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        Ok(Box::new(Self { step, width, x, weight, is_joined: joined == 1, rounding, want }))
    }

    /// The gate and what is gated, side by side in each row.
    fn joined(&self) -> Vec<bf16> {
        let [gate, up] = self.x.each_ref().map(|(narrow, _)| narrow.chunks(self.width));
        gate.zip(up).flat_map(|(gate, up)| gate.iter().chain(up)).copied().collect()
    }
}

const EPS: f32 = 1e-6;

impl Prepared for Rows {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let host = Host { rounding: self.rounding };
        let tensor = |values: &[f32]| HostTensor { width: self.width, values: values.to_vec() };
        let [a, b] = self.x.each_ref().map(|(_, wide)| tensor(wide));
        let out = match self.step {
            Step::Gate => host.gelu_gate(&a, &b)?.rows,
            Step::Norm => host.rms_norm(&a, &tensor(&self.weight), EPS)?,
        };
        Ok(vec![Output::new("out", self.width, &out.values)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (width, [(a, _), (b, _)]) = (self.width, &self.x);
        let (before, rows) = (stand.lead() * width, stand.lead() + a.len() / width);
        let mut out = stand.room_behind::<bf16>(before, a.len())?;
        if self.step == Step::Norm {
            let (kernel, x, weight) = (RmsRope::load(stand.device())?, stand.upload_behind(before, a)?, stand.upload(&self.weight)?);
            let x = HeadRows { values: x.view(), tokens: rows, heads: 1, head_dim: width, stride: width };
            let (rule, layout) = (RmsRule::Standard, HeadLayout::Blhd);
            stand.launch(|stream| Ok(kernel.run(stream, rule, EPS, x, weight.view(), None, layout, out.view_mut())?))?;
        } else if self.is_joined {
            let (kernel, both) = (GeluGate::load(stand.device())?, stand.upload_behind(2 * before, &self.joined())?);
            stand.launch(|stream| Ok(kernel.run(stream, Gated::Joined(both.view()), width, out.view_mut())?))?;
        } else {
            let (kernel, gate, up) = (GeluGate::load(stand.device())?, stand.upload_behind(before, a)?, stand.upload_behind(before, b)?);
            let operands = Gated::Apart { gate: gate.view(), up: up.view() };
            stand.launch(|stream| Ok(kernel.run(stream, operands, width, out.view_mut())?))?;
        }
        Ok(vec![Output::new("out", width, &stand.results(&out, a.len())?)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let got = &outputs[0];
        let is_bf16 = self.rounding == Rounding::Bf16 || place != Place::Host;
        let product = |index: usize| (f64::from(self.x[0].1[index]) * f64::from(self.x[1].1[index])).abs();
        Ok(vec![match self.step {
            // far below zero GELU is the small difference of one and its tanh
            Step::Gate if is_bf16 => {
                let why = "nine roundings to bf16 on the way, as the official code stores them";
                Held::each(got, &self.want, |index, _| 8.0 * HALF_STEP * product(index), "2^-5 |gate up|", why)
            }
            Step::Gate => {
                let allowed = |index: usize, want: f64| 4e-7 * (product(index) + want.abs());
                Held::each(got, &self.want, allowed, "4e-7 (|gate up| + |y|)", "tanh and its products in f32")
            }
            Step::Norm => {
                let share = if is_bf16 { 2.02 * HALF_STEP } else { 2e-6 };
                let allowed = |_, want: f64| share * want.abs() + 1e-30;
                Held::each(got, &self.want, allowed, "2^-7 |y|, in f32 2e-6 |y|", "rounded before the weight and after it")
            }
        }])
    }
}
