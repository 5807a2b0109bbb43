//! The block quantisers: integers, so every byte is the oracle's.

use half::bf16;
use turbowan_cuda::ops::quant::device::{KERNELS, QuantBlock};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, padded, padded_rows};
use turbowan_reference::quant::{self as truth, Rule};

use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

const AXES: &[Axis] = &[Axis::new("rows", 1, 400, 1), Axis::new("width", 8, 1024, 8)];

/// The two rules.
pub const OPS: [Op; 2] = [
    Op {
        name: "quantise-128x128",
        about: "int8 rows, a scale for each 128 x 128 block: the official rule",
        axes: AXES,
        cases,
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        far: &[
            Far { shape: &[5, 128], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 128, 1) },
            Far { shape: &[5, 192], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 128 * 2, 2) },
        ],
        prepare: |case| Quantise::prepare(case, Int8Rule::Official, Rule::OFFICIAL),
    },
    Op {
        name: "quantise-1x128",
        about: "int8 rows, a scale for each 128 values of a row",
        axes: AXES,
        cases,
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[1].choose)(chip).1],
        far: &[
            Far { shape: &[5, 128], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 64, 1) },
            Far { shape: &[5, 192], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 64 * 2, 1) },
        ],
        prepare: |case| Quantise::prepare(case, Int8Rule::PerToken, Rule::PER_TOKEN),
    },
];

/// One row, ragged blocks of rows and of columns, a block and one more, several columns of blocks.
fn cases() -> Vec<Case> {
    let shapes: [&[usize]; 10] =
        [&[1, 128], &[5, 128], &[127, 256], &[128, 128], &[150, 640], &[257, 384], &[1, 8], &[130, 64], &[3, 192], &[129, 576]];
    let mut cases = Case::cross(&shapes, &[129, 256], &Kind::ALL[1..]);
    cases.extend(Kind::ALL[1..].iter().map(|kind| Case::new(*kind, &[130, 200])));
    cases
}

struct Quantise {
    x: Vec<bf16>,
    rows: usize,
    width: usize,
    rule: Int8Rule,
    /// Values and scales; a row goes on with zeros to the end of its last block, as it does on a device.
    want: (Vec<i8>, Vec<f32>),
}

impl Quantise {
    fn prepare(case: &Case, rule: Int8Rule, oracle: Rule) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, width] = case.sizes();
        let (x, wide) = bf16s(&case.kind.values(rows, width, case.seed));
        let (values, scales) = truth::quantise(&wide, width, oracle);
        let want = (padded_rows(&values, width).into_owned(), scales);
        Ok(Box::new(Self { x, rows, width, rule, want }))
    }

    fn outputs(&self, values: &[i8], scales: &[f32]) -> Vec<Output> {
        vec![Output::new("values", padded(self.width), values), Output::new("scales", self.width.div_ceil(128), scales)]
    }
}

impl Prepared for Quantise {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let got = Int8Rows::quantise(self.rule, &self.x, self.rows, self.width)?;
        Ok(self.outputs(&padded_rows(got.values(), self.width), got.scales()))
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let quantiser = QuantBlock::load(stand.device())?;
        let (lead, (values, scales)) = (stand.lead(), (&self.want.0, &self.want.1));
        let lead_scales = lead / self.rule.block_rows() * self.width.div_ceil(128);
        let x = stand.upload_behind(lead * self.width, &self.x)?;
        let mut to_values = stand.room_behind(lead * padded(self.width), values.len())?;
        let mut to_scales = stand.room_behind(lead_scales, scales.len())?;
        let rows = lead + self.rows;
        stand.launch(|stream| {
            Ok(quantiser.run(stream, self.rule, x.view(), rows, self.width, to_values.view_mut(), to_scales.view_mut())?)
        })?;
        Ok(self.outputs(&stand.results(&to_values, values.len())?, &stand.results(&to_scales, scales.len())?))
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let why = "the rule is defined in f32, step by step";
        Ok(vec![Held::equal(&outputs[0], &self.want.0, why), Held::equal(&outputs[1], &self.want.1, why)])
    }
}
