//! The norms of a transformer block: layer norm with what follows it, RMS norm with the rotary embedding.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::Stream;
use turbowan_cuda::ops::norm::device::{KERNELS, NormModQuant, NormedRows, Then};
use turbowan_cuda::ops::norm::{LayerNorm, LayerNormRule, Modulation, layer_norm_affine, layer_norm_modulate};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, padded, padded_rows};
use turbowan_reference::norm as truth;

use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

const EPS: f32 = 1e-6;

/// The order of a sum may move a value over a tie: its eight bits, doubled.
const ONE_UNIT: f64 = 1.0 / 128.0;

/// `groups` rows share a table row; `padded` takes the official fast variance; `affine` a weight and a bias.
const AXES: &[Axis] = &[
    Axis::new("rows", 1, 40, 1),
    Axis::new("width", 8, 5120, 8),
    Axis::new("groups", 1, 8, 1),
    Axis::choice("padded", 1),
    Axis::choice("affine", 1),
];

/// Both results.
pub const OPS: [Op; 2] = [
    Op {
        name: "layer-norm",
        about: "bf16(LN(x) (1 + scale) + shift), or LN(x) weight + bias",
        axes: AXES,
        cases: || {
            let shapes: [&[usize]; 8] = [
                &[1, 8, 1, 0, 0],
                &[1, 128, 1, 0, 1],
                &[3, 40, 2, 1, 0],
                &[7, 384, 3, 0, 0],
                &[2, 520, 1, 1, 1],
                &[2, 5120, 2, 0, 0],
                &[3, 2056, 1, 1, 1],
                &[5, 1536, 2, 1, 0],
            ];
            Case::cross(&shapes, &[4, 640, 2, 1, 0], &Kind::ALL[1..])
        },
        tame: |_| {},
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        far: &[Far { shape: &[5, 128, 5, 0, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64, 5) }],
        prepare: |case| Norm::prepare(case, false),
    },
    Op {
        name: "layer-norm-quantise",
        about: "layer-norm, then int8 with a scale for each 128 values of a row",
        axes: AXES,
        cases: || {
            let shapes: [&[usize]; 7] = [
                &[1, 128, 1, 0, 0],
                &[7, 384, 3, 0, 1],
                &[2, 5120, 2, 1, 1],
                &[5, 1536, 2, 1, 0],
                &[1, 8, 1, 0, 0],
                &[6, 192, 2, 1, 0],
                &[3, 576, 1, 0, 1],
            ];
            Case::cross(&shapes, &[4, 584, 2, 0, 0], &Kind::ALL[1..])
        },
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        far: &[
            Far { shape: &[5, 128, 5, 0, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64, 5) },
            Far { shape: &[5, 192, 5, 0, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64, 5) },
        ],
        prepare: |case| Norm::prepare(case, true),
    },
];

struct Norm {
    x: Vec<bf16>,
    wide: Vec<f32>,
    rows: usize,
    width: usize,
    rows_per_group: usize,
    rule: LayerNormRule,
    is_affine: bool,
    is_quantised: bool,
    shift: Vec<f32>,
    scale: Vec<f32>,
    want: Vec<f64>,
}

impl Norm {
    fn prepare(case: &Case, is_quantised: bool) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, width, groups, padded, affine] = case.sizes();
        let is_affine = affine == 1;
        let rows_per_group = if is_affine { rows } else { rows.div_ceil(groups.min(rows)) };
        let tables = rows.div_ceil(rows_per_group) * width;
        let [shift, scale] = [1, 2].map(|more| Kind::Plain.values(1, tables, case.seed + more));
        let (x, wide) = bf16s(&case.kind.values(rows, width, case.seed));
        let rule = if padded == 1 { LayerNormRule::Padded } else { LayerNormRule::Standard };
        // the oracle multiplies by one more than its table
        let factors = if is_affine { scale.iter().map(|weight| weight - 1.0).collect() } else { scale.clone() };
        let want = truth::layer_norm_modulate(&wide, width, padded == 1, EPS.into(), (&shift, &factors, rows_per_group));
        Ok(Box::new(Self { x, wide, rows, width, rows_per_group, rule, is_affine, is_quantised, shift, scale, want }))
    }

    /// With int8 rows as a device holds them, zeros to the end of each one's last block.
    fn outputs<T: Into<f64> + Copy>(&self, rows: &[T], int8: Option<(&[i8], &[f32])>) -> Vec<Output> {
        let mut outputs = vec![Output::new("rows", self.width, rows)];
        if let Some((values, scales)) = int8 {
            let blocks = self.width.div_ceil(128);
            outputs.extend([Output::new("values", padded(self.width), values), Output::new("scales", blocks, scales)]);
        }
        outputs
    }
}

impl Prepared for Norm {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let norm = LayerNorm { width: self.width, rule: self.rule, eps: EPS, rounding: Rounding::Bf16 };
        let mut out = vec![0.0; self.wide.len()];
        if self.is_affine {
            layer_norm_affine(&norm, &self.wide, &self.scale, &self.shift, &mut out)?;
        } else {
            let modulation = Modulation { shift: &self.shift, scale: &self.scale, rows_per_group: self.rows_per_group };
            layer_norm_modulate(&norm, &self.wide, modulation, Rounding::Bf16, &mut out)?;
        }
        if !self.is_quantised {
            return Ok(self.outputs(&out, None));
        }
        let int8 = Int8Rows::quantise(Int8Rule::PerToken, &out, self.rows, self.width)?;
        Ok(self.outputs(&out, Some((&padded_rows(int8.values(), self.width), int8.scales()))))
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let norm = NormModQuant::load(stand.device())?;
        let (before, len) = (stand.lead() * self.width, self.x.len());
        // tables of one row a group lie as far out as the rows; one of all rows has none before it
        let before_tables = if self.is_affine { 0 } else { stand.lead() / self.rows_per_group * self.width };
        let [shift, scale] = [&self.shift, &self.scale].map(|table| stand.upload_behind(before_tables, table));
        let (x, shift, scale) = (stand.upload_behind(before, &self.x)?, shift?, scale?);
        let mut rows = stand.room_behind::<bf16>(before, len)?;
        let then = match self.is_affine {
            true => Then::Affine { weight: scale.view(), bias: shift.view() },
            false => Then::Modulate { shift: shift.view(), scale: scale.view(), rows_per_group: self.rows_per_group },
        };
        let run = |stream: &Stream, out: NormedRows<'_>| -> Result<(), Fault> {
            Ok(norm.run(stream, self.rule, EPS, x.view(), self.width, then, out)?)
        };
        if !self.is_quantised {
            stand.launch(|stream| run(stream, NormedRows::Bf16(rows.view_mut())))?;
            return Ok(self.outputs(&stand.results(&rows, len)?, None));
        }
        let (stored, blocks) = (padded(self.width), self.width.div_ceil(128));
        let mut values = stand.room_behind::<i8>(stand.lead() * stored, self.rows * stored)?;
        let mut scales = stand.room_behind::<f32>(stand.lead() * blocks, self.rows * blocks)?;
        stand.launch(|stream| {
            run(stream, NormedRows::Both { rows: rows.view_mut(), values: values.view_mut(), scales: scales.view_mut() })
        })?;
        let int8 = (stand.results(&values, self.rows * stored)?, stand.results(&scales, self.rows * blocks)?);
        Ok(self.outputs(&stand.results(&rows, len)?, Some((&int8.0, &int8.1))))
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let allowed = |index: usize, want: f64| {
            let at = index / self.width / self.rows_per_group * self.width + index % self.width;
            ONE_UNIT * (want.abs() + f64::from(self.shift[at]).abs()) + 1e-6
        };
        let why = "the normed row and the result round to bf16";
        let mut held = vec![Held::each(&outputs[0], &self.want, allowed, "2^-7 (|y| + |shift|)", why)];
        if let [rows, values, scales] = outputs {
            let rows: Vec<f32> = rows.values.iter().map(|value| *value as f32).collect();
            let int8 = Int8Rows::quantise(Int8Rule::PerToken, &rows, self.rows, self.width)?;
            let why = "the quantiser's bytes of the rows that were stored";
            held.extend([Held::equal(values, &padded_rows(int8.values(), self.width), why), Held::equal(scales, int8.scales(), why)]);
        }
        Ok(held)
    }
}
