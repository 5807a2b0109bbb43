//! The dense linear layers: bf16 operands on a device, any on the host.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::gemm::device::{DeviceMatrix, GemmBf16, KERNELS};
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, Then, gemm};
use turbowan_reference::gemm as truth;

use super::{FAR_ROWS, HALF_STEP, bf16s, square_sums};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn, no_kernels};

const AXES: &[Axis] = &[Axis::new("rows", 1, 300, 1), Axis::new("out", 1, 300, 1), Axis::new("input", 8, 1200, 8)];

/// Rows that share a gate.
const ROWS_PER_GATE: usize = 50;

/// What the product ends in.
#[derive(Clone, Copy, PartialEq)]
enum End {
    F32,
    Store,
    AddGated,
    Gelu,
    GeluErf,
    Silu,
}

/// One operation an end.
pub const OPS: [Op; 6] = [
    Op {
        kernels: |chip| vec![(KERNELS[1].choose)(chip).1],
        ..op("bf16-gemm-f32", "x w^T + bias of bf16 operands, in f32", |case| Product::prepare(case, End::F32))
    },
    Op {
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        ..op("bf16-gemm", "the same in bf16, with the sums of the squares of each 128 results", |case| Product::prepare(case, End::Store))
    },
    Op {
        kernels: |chip| vec![(KERNELS[2].choose)(chip).1],
        ..op("bf16-gemm-gated", "x + gate (x w^T + bias) in bf16", |case| Product::prepare(case, End::AddGated))
    },
    op("linear-gelu", "gelu(x w^T + bias), tanh form, in bf16", |case| Product::prepare(case, End::Gelu)),
    op("linear-gelu-erf", "gelu(x w^T + bias), exact form, in bf16", |case| Product::prepare(case, End::GeluErf)),
    op("linear-silu", "silu(x w^T + bias) in bf16", |case| Product::prepare(case, End::Silu)),
];

const fn op(name: &'static str, about: &'static str, prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>) -> Op {
    Op {
        name,
        about,
        axes: AXES,
        // one row, one column, ragged in every direction, one stage of the sum and many
        cases: || {
            let shapes: [&[usize]; 6] = [&[1, 1, 8], &[5, 130, 64], &[127, 257, 128], &[17, 33, 1160], &[64, 300, 256], &[130, 136, 200]];
            Case::cross(&shapes, &[129, 130, 72], &Kind::ALL[1..])
        },
        tame: as_drawn,
        kernels: no_kernels,
        far: &[Far { shape: &[5, 128, 128], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 128, 1) }],
        prepare,
    }
}

struct Product {
    end: End,
    shape: [usize; 3],
    x: Vec<bf16>,
    w: Vec<bf16>,
    bias: (Vec<bf16>, Vec<f32>),
    residual: (Vec<bf16>, Vec<f32>),
    gate: Vec<f32>,
    sums: Vec<f64>,
    magnitudes: Vec<f64>,
}

impl Product {
    fn prepare(case: &Case, end: End) -> Result<Box<dyn Prepared>, Fault> {
        let shape @ [rows, out, input] = case.sizes();
        let (x, wide_x) = bf16s(&case.kind.values(rows, input, case.seed));
        // sums of about 1, where activations bend
        let scale = (input as f32).sqrt().recip();
        let weight: Vec<f32> = Kind::Plain.values(out, input, case.seed + 1).into_iter().map(|w| w * scale).collect();
        let (w, wide_w) = bf16s(&weight);
        let bias = bf16s(&Kind::Plain.values(1, out, case.seed + 2));
        let residual = bf16s(&Kind::Plain.values(rows, out, case.seed + 3));
        let gate = Kind::Plain.values(rows.div_ceil(ROWS_PER_GATE), out, case.seed + 4);
        let sums = truth::linear(&wide_x, &wide_w, Some(&bias.1), input);
        let magnitudes = truth::linear_magnitude(&wide_x, &wide_w, Some(&bias.1), input);
        Ok(Box::new(Self { end, shape, x, w, bias, residual, gate, sums, magnitudes }))
    }

    fn gate_of(&self, index: usize) -> f64 {
        let out = self.shape[1];
        self.gate[index / out / ROWS_PER_GATE * out + index % out].into()
    }

    /// Error of the sum: each step of it at most one unit in the last place, for tensor cores cut off.
    fn of_sum(&self, index: usize) -> f64 {
        self.magnitudes[index] * f64::from(f32::EPSILON) * (self.shape[2] as f64 / 4.0 + 4.0)
    }

    /// What the end makes of a sum.
    fn want(&self, index: usize) -> f64 {
        let sum = self.sums[index];
        match self.end {
            End::F32 | End::Store => sum,
            End::AddGated => f64::from(self.residual.1[index]) + self.gate_of(index) * sum,
            End::Gelu => truth::gelu_tanh(sum),
            End::GeluErf => truth::gelu_erf(sum),
            End::Silu => truth::silu(sum),
        }
    }

    fn allowed(&self, index: usize, want: f64) -> f64 {
        let (sum, size) = (self.of_sum(index), self.sums[index].abs());
        match self.end {
            End::F32 => sum,
            End::Store => sum + 1.01 * HALF_STEP * want.abs(),
            End::AddGated => {
                let gate = self.gate_of(index).abs();
                gate * (sum + 1.01 * HALF_STEP * size) + 1.01 * HALF_STEP * (gate * size + want.abs())
            }
            // slopes are below 1.13
            End::Gelu | End::GeluErf | End::Silu => 1.13 * (sum + 1.01 * HALF_STEP * size) + 1.01 * HALF_STEP * want.abs() + 1e-6,
        }
    }
}

impl Prepared for Product {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let [rows, n, input] = self.shape;
        let gated = Then::AddGated { gate: &self.gate, rows_per_group: ROWS_PER_GATE };
        let (then, rounding) = match self.end {
            End::F32 => (Then::Store, Rounding::None),
            End::Store => (Then::Store, Rounding::Bf16),
            End::AddGated => (gated, Rounding::Bf16),
            End::Gelu => (Then::Gelu, Rounding::Bf16),
            End::GeluErf => (Then::GeluErf, Rounding::Bf16),
            End::Silu => (Then::Silu, Rounding::Bf16),
        };
        let mut out = self.residual.1.clone();
        let packed = PackedMatrix::pack(&self.w, n, input)?;
        gemm(&self.x, rows, &packed, &Epilogue { bias: Some(&self.bias.1), then, rounding }, &mut out)?;
        Ok(vec![Output::new("out", n, &out)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let [rows, n, input] = self.shape;
        let product = GemmBf16::load(stand.device())?;
        let lead = stand.lead();
        let (x, w, bias) = (stand.upload_behind(lead * input, &self.x)?, stand.upload(&self.w)?, stand.upload(&self.bias.0)?);
        let (x, w) = (DeviceMatrix::new(lead + rows, input, x.view())?, DeviceMatrix::new(n, input, w.view())?);
        let (bias, len, before, parts) = (Some(bias.view()), rows * n, lead * n, n.div_ceil(128));
        match self.end {
            End::F32 => {
                let mut out = stand.room_behind::<f32>(before, len)?;
                stand.launch(|stream| Ok(product.store_f32(stream, x, w, bias, out.view_mut())?))?;
                Ok(vec![Output::new("out", n, &stand.results(&out, len)?)])
            }
            End::Store => {
                let (mut out, mut sums) = (stand.room_behind::<bf16>(before, len)?, stand.room_behind::<f32>(lead * parts, rows * parts)?);
                stand.launch(|stream| Ok(product.store(stream, x, w, bias, out.view_mut(), Some(sums.view_mut()))?))?;
                let (out, sums) = (stand.results(&out, len)?, stand.results(&sums, rows * parts)?);
                Ok(vec![Output::new("out", n, &out), Output::new("sums of squares", parts, &sums)])
            }
            End::AddGated => {
                let mut out = stand.upload_behind(before, &self.residual.0)?;
                let gate = stand.upload_behind(lead / ROWS_PER_GATE * n, &self.gate)?;
                stand.launch(|stream| Ok(product.add_gated(stream, x, w, bias, gate.view(), ROWS_PER_GATE, out.view_mut())?))?;
                Ok(vec![Output::new("out", n, &stand.results(&out, len)?)])
            }
            End::Gelu | End::GeluErf | End::Silu => Err(Fault::HostOnly),
        }
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let want: Vec<f64> = (0..self.sums.len()).map(|index| self.want(index)).collect();
        let (bound, why) = match self.end {
            End::F32 => ("(depth / 4 + 4) 2^-23 |x||w|", "a sum in f32, each step of it off by one unit at most"),
            End::Store => ("2^-8 |y|", "a sum in f32, then rounded to bf16"),
            _ => ("2^-8 of each step", "a sum in f32, and each step after it rounded to bf16"),
        };
        let mut held = vec![Held::each(&outputs[0], &want, |index, want| self.allowed(index, want), bound, why)];
        held.extend(outputs.get(1).map(|sums| square_sums(&outputs[0], sums)));
        Ok(held)
    }
}
