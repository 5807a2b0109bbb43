//! RMS norm over all heads, then the rotary embedding.

use half::bf16;
use turbowan_cuda::ops::norm::{RmsNorm, RmsRule, rms_norm};
use turbowan_cuda::ops::rope::RopeTable;
use turbowan_cuda::ops::rope::device::{HeadRows, KERNELS, RmsRope, RopeTurns};
use turbowan_cuda::{HeadLayout, Rounding};
use turbowan_reference::{norm as norm_truth, rope as rope_truth};

use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

const EPS: f32 = 1e-6;

/// `fast` rounds once; `turned` 0 leaves the rotary embedding out; `gap` values lie between the rows of the input;
/// `heads-first` stores `[batch, heads, tokens, dim]`.
const AXES: &[Axis] = &[
    Axis::new("batch", 1, 3, 1),
    Axis::new("time", 1, 5, 1),
    Axis::new("height", 1, 7, 1),
    Axis::new("width", 1, 7, 1),
    Axis::new("heads", 1, 40, 1),
    Axis::new("dim", 8, 128, 8),
    Axis::new("gap", 0, 64, 8),
    Axis::choice("fast", 1),
    Axis::choice("turned", 1),
    Axis::choice("heads-first", 1),
];

/// With and without turning.
pub const OPS: [Op; 1] = [Op {
    name: "rms-norm-rope",
    about: "RMS(x) weight over the whole width, pairs of channels turned by their position",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 8] = [
            &[1, 1, 1, 1, 1, 8, 0, 0, 1, 0],
            &[2, 2, 3, 5, 3, 16, 8, 0, 1, 1],
            &[2, 1, 2, 1, 40, 128, 0, 1, 1, 0],
            &[1, 1, 1, 7, 5, 64, 8, 1, 0, 0],
            &[1, 2, 2, 1, 2, 256, 0, 0, 1, 1],
            &[1, 128, 1, 1, 2, 24, 0, 1, 1, 1],
            &[1, 1, 1, 128, 1, 16, 0, 0, 1, 0],
            &[1, 3, 1, 2, 12, 128, 3072, 1, 1, 1],
        ];
        Case::cross(&shapes, &[1, 2, 2, 3, 12, 128, 0, 0, 1, 1], &Kind::ALL[1..])
    },
    tame: |_| {},
    kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
    far: &[
        Far { shape: &[1, 1, 2, 2, 2, 64, 0, 0, 1, 1], lead: FAR_ROWS, blocks: (FAR_ROWS as u64, 4) },
        Far { shape: &[1, 1, 1, 1, 2, 64, 128, 1, 1, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64, 1) },
    ],
    prepare: Turn::prepare,
}];

struct Turn {
    x: Vec<f32>,
    narrow: Vec<bf16>,
    weight: Vec<f32>,
    batch: usize,
    grid: [usize; 3],
    heads: usize,
    head_dim: usize,
    gap: usize,
    rule: RmsRule,
    is_turned: bool,
    layout: HeadLayout,
    want: Vec<f64>,
}

impl Turn {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [batch, time, height, breadth, heads, head_dim, gap, fast, turned, first] = case.sizes();
        let (grid, width) = ([time, height, breadth], heads * head_dim);
        let rows = batch * grid.iter().product::<usize>();
        let (narrow, x) = bf16s(&case.kind.values(rows, width, case.seed));
        let weight = Kind::Plain.values(1, width, case.seed + 1);
        let mut want = norm_truth::rms_norm(&x, width, EPS.into(), &weight);
        if turned == 1 {
            let normed: Vec<f32> = want.iter().map(|value| *value as f32).collect();
            want = rope_truth::rotate(&normed, heads, head_dim, &rope_truth::angles(grid, head_dim));
        }
        let rule = if fast == 1 { RmsRule::Fast } else { RmsRule::Standard };
        let layout = if first == 1 { HeadLayout::Bhld } else { HeadLayout::Blhd };
        Ok(Box::new(Self { x, narrow, weight, batch, grid, heads, head_dim, gap, rule, is_turned: turned == 1, layout, want }))
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn tokens(&self) -> usize {
        self.grid.iter().product()
    }

    /// Where value `index` of the rows lies in the output's layout.
    fn place(&self, index: usize) -> usize {
        let (row, head, dim) = (index / self.width(), index % self.width() / self.head_dim, index % self.head_dim);
        let (batch, token) = (row / self.tokens(), row % self.tokens());
        match self.layout {
            HeadLayout::Blhd => index,
            HeadLayout::Bhld => ((batch * self.heads + head) * self.tokens() + token) * self.head_dim + dim,
        }
    }
}

impl Prepared for Turn {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let mut y = self.x.clone();
        rms_norm(&RmsNorm { width: self.width(), rule: self.rule, eps: EPS, rounding: Rounding::Bf16 }, &mut y, &self.weight)?;
        if self.is_turned {
            RopeTable::wan(self.grid, self.head_dim)?.apply(&mut y, self.heads, Rounding::Bf16)?;
        }
        Ok(vec![Output::new("heads", self.width(), &y)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        // whole samples of zeros come first
        let (rows, stride, lead) = (self.batch * self.tokens(), self.width() + self.gap, stand.lead());
        // what lies between the rows is not theirs
        let mut apart = vec![bf16::NAN; self.gap + rows * stride];
        for (row, x) in self.narrow.chunks(self.width()).enumerate() {
            apart[self.gap + row * stride..][..x.len()].copy_from_slice(x);
        }
        let (apart, weight) = (stand.upload_behind(lead * stride, &apart)?, stand.upload(&self.weight)?);
        let values = apart.view().slice(self.gap..(lead + rows) * stride)?;
        let x = HeadRows { values, tokens: self.tokens(), heads: self.heads, head_dim: self.head_dim, stride };
        let turns = self.is_turned.then(|| RopeTurns::upload(stand.stream(), self.grid, self.head_dim)).transpose()?;
        let mut out = stand.room_behind::<bf16>(lead * self.width(), self.x.len())?;
        let kernel = RmsRope::load(stand.device())?;
        stand.launch(|stream| Ok(kernel.run(stream, self.rule, EPS, x, weight.view(), turns.as_ref(), self.layout, out.view_mut())?))?;
        let out = stand.results(&out, self.x.len())?;
        let rows: Vec<bf16> = (0..out.len()).map(|index| out[self.place(index)]).collect();
        Ok(vec![Output::new("heads", self.width(), &rows)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let allowed = |index: usize, want: f64| want.abs().max(self.want[index ^ 1].abs()) / 64.0 + 1e-6;
        let why = "the normed value, its product with the weight and the turned pair round to bf16";
        Ok(vec![Held::each(&outputs[0], &self.want, allowed, "2^-6 of the pair", why)])
    }
}
