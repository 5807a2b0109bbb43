//! The int8 linear layer and its ends.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::gemm::{Epilogue, Then};
use turbowan_cuda::ops::gemm_int8::device::{DeviceRows, DeviceWeight, GemmInt8, KERNELS};
use turbowan_cuda::ops::gemm_int8::{PackedInt8, gemm_int8};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight, padded, padded_rows};
use turbowan_reference::gemm::gelu_tanh;
use turbowan_reference::quant::{Int8Matrix, int8_linear};

use super::{FAR_ROWS, HALF_STEP, bf16s, square_sums};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `token` 1 quantises the rows one by one, 0 in blocks of 128.
const AXES: &[Axis] =
    &[Axis::new("rows", 1, 300, 1), Axis::new("out", 1, 300, 1), Axis::new("input", 1, 1152, 1), Axis::choice("token", 1)];

/// Rows that share a gate.
const ROWS_PER_GATE: usize = 50;

/// The rows of the case begin a tile of 128, and share a gate with the last row of zeros before them.
const FAR: &[Far] = &[Far { shape: &[5, 128, 128, 1], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 128, 1) }];

/// What the product ends in.
#[derive(Clone, Copy, PartialEq)]
enum End {
    F32,
    Store,
    GeluQuantise,
    AddGated,
}

/// One operation an end.
pub const OPS: [Op; 4] = [
    Op {
        name: "int8-gemm-f32",
        about: "a w^T + bias of int8 operands with their scales, in f32",
        axes: AXES,
        cases: || Case::cross(&SHAPES, AWKWARD, &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[1].choose)(chip).1],
        far: FAR,
        prepare: |case| Product::prepare(case, End::F32),
    },
    Op {
        name: "int8-gemm",
        about: "the same in bf16, with the sums of the squares of each 128 results",
        axes: AXES,
        cases: || Case::cross(&SHAPES, AWKWARD, &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        far: FAR,
        prepare: |case| Product::prepare(case, End::Store),
    },
    Op {
        name: "int8-gemm-gelu-quantise",
        about: "gelu(a w^T + bias) as int8, a scale for each 128 values of a row",
        axes: AXES,
        cases: || {
            let shapes: [&[usize]; 5] = [&[1, 128, 128, 1], &[130, 256, 256, 0], &[130, 128, 384, 1], &[5, 1, 64, 1], &[66, 200, 192, 0]];
            Case::cross(&shapes, &[70, 256, 256, 1], &Kind::ALL[1..])
        },
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[2].choose)(chip).1],
        far: FAR,
        prepare: |case| Product::prepare(case, End::GeluQuantise),
    },
    Op {
        name: "int8-gemm-gated",
        about: "x + gate (a w^T + bias) in bf16",
        axes: AXES,
        cases: || {
            Case::cross(
                &[&[5, 37, 128, 0], &[129, 128, 384, 1], &[130, 136, 256, 1], &[7, 64, 576, 1]],
                &[70, 130, 256, 1],
                &Kind::ALL[1..],
            )
        },
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[3].choose)(chip).1],
        far: FAR,
        prepare: |case| Product::prepare(case, End::AddGated),
    },
];

/// One row, one column, ragged in both directions, odd widths, one block of the sum and several, ragged last blocks.
const SHAPES: [&[usize]; 10] = [
    &[1, 1, 128, 1],
    &[5, 130, 256, 0],
    &[127, 257, 128, 0],
    &[17, 33, 1152, 1],
    &[64, 300, 256, 1],
    &[130, 136, 640, 1],
    &[3, 2, 1, 1],
    &[7, 65, 64, 0],
    &[129, 192, 192, 1],
    &[20, 40, 577, 0],
];
const AWKWARD: &[usize] = &[129, 130, 256, 1];

struct Product {
    end: End,
    a: Int8Rows,
    w: QuantizedWeight,
    bias: (Vec<bf16>, Vec<f32>),
    residual: (Vec<bf16>, Vec<f32>),
    gate: Vec<f32>,
    /// `a w^T + bias`, and the sum of the magnitudes behind it.
    sums: Vec<f64>,
    magnitudes: Vec<f64>,
}

impl Product {
    fn prepare(case: &Case, end: End) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, out, input, token] = case.sizes();
        let rule = if token == 1 { Int8Rule::PerToken } else { Int8Rule::Official };
        let a = Int8Rows::quantise(rule, &case.kind.values(rows, input, case.seed), rows, input)?;
        let w = QuantizedWeight::quantise(&Kind::Plain.values(out, input, case.seed + 1), out, input)?;
        let bias = bf16s(&Kind::Plain.values(1, out, case.seed + 2));
        let residual = bf16s(&Kind::Plain.values(rows, out, case.seed + 3));
        let gate = Kind::Plain.values(rows.div_ceil(ROWS_PER_GATE), out, case.seed + 4);
        let product = |a_values: &[i8], w_values: &[i8]| {
            let a = Int8Matrix { values: a_values, scales: a.scales(), width: input, block_rows: rule.block_rows() };
            int8_linear(&a, &Int8Matrix { values: w_values, scales: w.scales(), width: input, block_rows: 128 })
        };
        let with_bias = |mut sums: Vec<f64>, sign: fn(f32) -> f32| {
            sums.iter_mut().enumerate().for_each(|(index, sum)| *sum += f64::from(sign(bias.1[index % out])));
            sums
        };
        let sizes = |values: &[i8]| values.iter().map(|value| value.saturating_abs()).collect::<Vec<_>>();
        let sums = with_bias(product(a.values(), w.values()), |bias| bias);
        let magnitudes = with_bias(product(&sizes(a.values()), &sizes(w.values())), f32::abs);
        Ok(Box::new(Self { end, a, w, bias, residual, gate, sums, magnitudes }))
    }

    fn out(&self) -> usize {
        self.w.out()
    }

    fn gate_of(&self, index: usize) -> f32 {
        self.gate[index / self.out() / ROWS_PER_GATE * self.out() + index % self.out()]
    }

    /// Error of the sum in f32: integer sums are exact, each block's is scaled twice and added.
    fn of_sum(&self, index: usize) -> f64 {
        f64::from(f32::EPSILON) * (self.a.width() as f64 / 128.0 + 4.0) * self.magnitudes[index]
    }

    /// Error of the sum in bf16: the product is rounded, and again with the bias.
    fn of_stored(&self, index: usize) -> f64 {
        let bias = f64::from(self.bias.1[index % self.out()]).abs();
        self.of_sum(index) + HALF_STEP * 1.01 * (2.0 * self.sums[index].abs() + bias)
    }

    fn on_host(&self, then: Then<'_>, rounding: Rounding, mut out: Vec<f32>) -> Result<Vec<f32>, Fault> {
        out.resize(self.sums.len(), 0.0);
        gemm_int8(&self.a, &PackedInt8::pack(&self.w), &Epilogue { bias: Some(&self.bias.1), then, rounding }, &mut out)?;
        Ok(out)
    }

    /// Int8 rows as a device holds them, zeros to the end of each one's last block.
    fn quantised(&self, values: &[i8], scales: &[f32]) -> Vec<Output> {
        vec![Output::new("values", padded(self.out()), values), Output::new("scales", self.out().div_ceil(128), scales)]
    }
}

impl Prepared for Product {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let store = |then, rounding, from| Ok::<_, Fault>(vec![Output::new("out", self.out(), &self.on_host(then, rounding, from)?)]);
        match self.end {
            End::F32 => store(Then::Store, Rounding::None, vec![]),
            End::Store => store(Then::Store, Rounding::Bf16, vec![]),
            End::AddGated => {
                let then = Then::AddGated { gate: &self.gate, rows_per_group: ROWS_PER_GATE };
                store(then, Rounding::Bf16, self.residual.1.clone())
            }
            End::GeluQuantise => {
                let rows = self.on_host(Then::Gelu, Rounding::Bf16, vec![])?;
                let int8 = Int8Rows::quantise(Int8Rule::PerToken, &rows, self.a.rows(), self.out())?;
                Ok(self.quantised(&padded_rows(int8.values(), self.out()), int8.scales()))
            }
        }
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let product = GemmInt8::load(stand.device())?;
        let (lead, rows, n, input) = (stand.lead(), self.a.rows(), self.out(), self.a.width());
        let lead_scales = lead / self.a.rule().block_rows() * input.div_ceil(128);
        let a_values = stand.upload_behind(lead * padded(input), &padded_rows(self.a.values(), input))?;
        let a_scales = stand.upload_behind(lead_scales, self.a.scales())?;
        let (w_values, w_scales) = (stand.upload(&padded_rows(self.w.values(), input))?, stand.upload(self.w.scales())?);
        let bias = stand.upload(&self.bias.0)?;
        let bias = Some(bias.view());
        let a = DeviceRows::new(self.a.rule(), lead + rows, input, a_values.view(), a_scales.view())?;
        let w = DeviceWeight::new(n, self.w.input(), w_values.view(), w_scales.view())?;
        let (len, before, parts) = (rows * n, lead * n, n.div_ceil(128));
        match self.end {
            End::F32 => {
                let mut out = stand.room_behind::<f32>(before, len)?;
                stand.launch(|stream| Ok(product.store_f32(stream, a, w, bias, out.view_mut())?))?;
                Ok(vec![Output::new("out", n, &stand.results(&out, len)?)])
            }
            End::Store => {
                let (mut out, mut sums) = (stand.room_behind::<bf16>(before, len)?, stand.room_behind::<f32>(lead * parts, rows * parts)?);
                stand.launch(|stream| Ok(product.store(stream, a, w, bias, out.view_mut(), Some(sums.view_mut()))?))?;
                let (out, sums) = (stand.results(&out, len)?, stand.results(&sums, rows * parts)?);
                Ok(vec![Output::new("out", n, &out), Output::new("sums of squares", parts, &sums)])
            }
            End::GeluQuantise => {
                let mut values = stand.room_behind::<i8>(lead * parts * 128, rows * parts * 128)?;
                let mut scales = stand.room_behind::<f32>(lead * parts, rows * parts)?;
                stand.launch(|stream| Ok(product.gelu_quantise(stream, a, w, bias, values.view_mut(), scales.view_mut())?))?;
                Ok(self.quantised(&stand.results(&values, rows * parts * 128)?, &stand.results(&scales, rows * parts)?))
            }
            End::AddGated => {
                let mut out = stand.upload_behind(before, &self.residual.0)?;
                let gate = stand.upload_behind(lead / ROWS_PER_GATE * n, &self.gate)?;
                stand.launch(|stream| Ok(product.add_gated(stream, a, w, bias, gate.view(), ROWS_PER_GATE, out.view_mut())?))?;
                Ok(vec![Output::new("out", n, &stand.results(&out, len)?)])
            }
        }
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let got = &outputs[0];
        let exact = "integer sums are exact; each block's is scaled twice and added in f32";
        let rounded = "the product rounds to bf16, and again with the bias";
        match self.end {
            End::F32 => Ok(vec![Held::each(got, &self.sums, |index, _| self.of_sum(index), "(blocks + 4) 2^-23 |a||w|", exact)]),
            End::Store => {
                let mut held = vec![Held::each(got, &self.sums, |index, _| self.of_stored(index), "2^-8 (2 |y| + |bias|)", rounded)];
                held.extend(outputs.get(1).map(|sums| square_sums(got, sums)));
                Ok(held)
            }
            End::AddGated => {
                let want: Vec<f64> = (0..self.sums.len())
                    .map(|index| f64::from(self.residual.1[index]) + f64::from(self.gate_of(index)) * self.sums[index])
                    .collect();
                let allowed = |index: usize, want: f64| {
                    let gate = f64::from(self.gate_of(index)).abs();
                    gate * self.of_stored(index) + HALF_STEP * 1.01 * (gate * self.sums[index].abs() + want.abs())
                };
                let why = "the product rounds to bf16, with the bias, with the gate, and the sum";
                Ok(vec![Held::each(got, &want, allowed, "2^-8 of each step", why)])
            }
            End::GeluQuantise => {
                let (n, scales) = (self.out(), &outputs[1].values);
                let parts = n.div_ceil(128);
                let scale_of = |index: usize| scales[index / n * parts + index % n / 128];
                let stored = got.values.chunks(parts * 128);
                let inside = stored.clone().flat_map(|row| &row[..n]);
                let rows: Vec<f64> = inside.enumerate().map(|(index, value)| value * scale_of(index)).collect();
                let want: Vec<f64> = self.sums.iter().map(|sum| gelu_tanh(*sum)).collect();
                // the steepest slope of GELU is below 1.13
                let allowed =
                    |index: usize, want: f64| 0.5001 * scale_of(index) + 1.13 * self.of_stored(index) + 2.0 * HALF_STEP * want.abs() + 1e-6;
                let why = "half a step of the scale, and the roundings of what is quantised";
                let rows = Output::new("values x scale", n, &rows);
                let empty = stored.flat_map(|row| &row[n..]).all(|value| *value == 0.0);
                let full = got.values.chunks(128).all(|block| {
                    block.iter().fold(0.0f64, |most, value| most.max(value.abs())) >= 127.0 || block.iter().all(|value| *value == 0.0)
                });
                Ok(vec![
                    Held::each(&rows, &want, allowed, "scale / 2 + 2^-7 |y|", why),
                    Held::fact("each scale is its block's", full, "the largest of 128 values becomes 127"),
                    Held::fact("a row goes on with zeros", empty, "the next product adds up whole blocks"),
                ])
            }
        }
    }
}
