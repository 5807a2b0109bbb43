//! Softmax attention forward: dense, causal, or over a map.

use half::bf16;
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::attention::{Mask, attend as truth_attend};
use turbowan_reference::metrics::Bound;
use turbowan_sla::device::attend::KERNELS;
use turbowan_sla::device::{ExactAttention, Scores};
use turbowan_sla::{Attend, Keys, attend_with_lse};

use super::on_device::OnDevice;
use super::{BLOCKS, bf16_shape, drawn, is_dense};
use crate::verify::ops::FAR_ROWS;
use crate::verify::ops::attention::{Heads, drawn_map, head_of, kept_blocks, shape_of};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, no_kernels};

/// `kept` 0 is dense; `bf16` 1 rounds where the official code stores.
const ANY: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 400, 1),
    Axis::new("dim", 1, 200, 1),
    Axis::choice("kept", 4),
    Axis::choice("causal", 1),
    Axis::choice("bf16", 1),
];

/// `kept` 0 is dense; `block-q` and `block-k` are rows of a block of the map; `tokens-first` has the heads of a token side
/// by side.
pub(super) const BF16: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 400, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("kept", 4),
    Axis::new("block-q", 64, 192, 64),
    Axis::new("block-k", 64, 128, 64),
    Axis::choice("causal", 1),
    Axis::choice("tokens-first", 1),
];

/// Heads of 64 or 128 queries, a block each, behind heads with 2^31 values: one kernel for each of the two lengths.
const FAR: &[Far] = &[
    Far { shape: &[2, 64, 64, 128, 0, 64, 64, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) },
    Far { shape: &[2, 64, 64, 128, 1, 64, 64, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) },
    Far { shape: &[1, 128, 128, 128, 1, 128, 64, 0, 0], lead: FAR_ROWS / 128, blocks: (FAR_ROWS as u64 / 128, 1) },
];

/// On the host in any shape, and as the kernels have it.
pub const OPS: [Op; 2] = [
    Op {
        name: "attention",
        about: "softmax(q k^T / sqrt(D)) v, dense, causal or over a map",
        axes: ANY,
        cases: || {
            let shapes: [&[usize]; 9] = [
                &[1, 1, 1, 1, 0, 0, 0],
                &[2, 1, 97, 64, 0, 0, 0],
                &[1, 63, 63, 20, 0, 1, 0],
                &[3, 130, 41, 128, 0, 0, 0],
                &[1, 17, 70, 384, 0, 0, 0],
                &[1, 197, 300, 64, 1, 0, 0],
                &[2, 150, 200, 128, 2, 0, 1],
                &[1, 200, 200, 128, 4, 0, 0],
                &[1, 150, 150, 64, 0, 0, 1],
            ];
            Case::cross(&shapes, &[2, 150, 197, 128, 0, 0, 0], &Kind::ALL[1..])
        },
        tame: |case| {
            if case.shape[5] == 1 {
                (case.shape[2], case.shape[4]) = (case.shape[1], 0);
            }
            case.shape[4] = case.shape[4].min(case.shape[2].div_ceil(BLOCKS.1));
        },
        kernels: no_kernels,
        far: &[],
        prepare: |case| {
            let [heads, query, key, dim, kept, causal, is_bf16] = case.sizes();
            let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
            Softmax::prepare(case, shape_of(heads, query, key, dim, true)?, (kept, BLOCKS), causal == 1, rounding)
        },
    },
    Op {
        name: "attention-bf16",
        about: "the same of bf16 operands and probabilities, with the logarithms of the denominators",
        axes: BF16,
        // one row, a tile less one, lengths that differ, several tiles; dense, causal, one block, some, all
        cases: || {
            let shapes: [&[usize]; 11] = [
                &[1, 1, 1, 64, 0, 64, 64, 0, 0],
                &[1, 63, 63, 128, 0, 64, 64, 0, 0],
                &[1, 65, 65, 64, 0, 64, 64, 1, 0],
                &[1, 1, 300, 128, 0, 64, 64, 0, 0],
                &[1, 150, 1, 64, 0, 64, 64, 0, 0],
                &[1, 140, 140, 128, 0, 64, 64, 1, 0],
                &[1, 270, 328, 128, 0, 64, 64, 0, 0],
                &[1, 200, 200, 64, 1, 192, 64, 0, 0],
                &[1, 130, 200, 128, 4, 128, 64, 0, 0],
                &[1, 50, 200, 64, 2, 64, 128, 0, 0],
                &[2, 130, 200, 128, 2, 64, 64, 0, 1],
            ];
            Case::cross(&shapes, &[1, 70, 150, 128, 0, 64, 64, 0, 1], &Kind::ALL[1..])
        },
        tame: tame_bf16,
        kernels: |chip| KERNELS.iter().map(|kernel| (kernel.choose)(chip).1).collect(),
        far: FAR,
        prepare: |case| {
            let [heads, query, key, dim, kept, block_q, block_k, causal, tokens_first] = case.sizes();
            let shape = bf16_shape([heads, query, key, dim], tokens_first)?;
            Softmax::prepare(case, shape, (kept, (block_q, block_k)), causal == 1, Rounding::Bf16)
        },
    },
];

/// Causal attention has as many queries as keys and here no map; a map keeps no more blocks than there are.
pub(super) fn tame_bf16(case: &mut Case) {
    if case.shape[7] == 1 {
        (case.shape[2], case.shape[4]) = (case.shape[1], 0);
    }
    case.shape[4] = case.shape[4].min(case.shape[2].div_ceil(case.shape[6]));
}

struct Softmax {
    heads: Heads,
    map: Option<BlockMap>,
    causal: bool,
    rounding: Rounding,
    kind: Kind,
    want: Vec<f64>,
    lse: Vec<f64>,
}

impl Softmax {
    fn prepare(
        case: &Case,
        shape: AttnShape,
        (kept, blocks): (usize, (usize, usize)),
        causal: bool,
        rounding: Rounding,
    ) -> Result<Box<dyn Prepared>, Fault> {
        let heads = drawn(case, shape, rounding);
        let map = if kept == 0 { None } else { Some(drawn_map(&shape, blocks, kept, case.seed)?) };
        let (mut want, mut lse) = (Vec::new(), Vec::new());
        for problem in 0..shape.problems() {
            let kept = map.as_ref().map(|map| kept_blocks(map, problem));
            let mask = match (&kept, causal) {
                (Some(kept), _) => Mask::Blocks { block_q: blocks.0, block_k: blocks.1, kept },
                (None, true) => Mask::Causal,
                (None, false) => Mask::None,
            };
            let [q, k, v] = heads.head(problem);
            let attended = truth_attend(head_of([&q, &k, &v], shape.head_dim), mask);
            lse.extend(attended.lse_base2());
            want.extend(attended.out);
        }
        let want = heads.in_layout(&want);
        Ok(Box::new(Self { heads, map, causal, rounding, kind: case.kind, want, lse }))
    }

    /// The map, if dense attention must give the same bits.
    fn dense_map(&self) -> Option<&BlockMap> {
        self.map.as_ref().filter(|map| is_dense(map, &self.heads.shape))
    }

    /// Attention on a device, under the map or, without one, dense.
    fn on(&self, stand: &Stand, map: Option<&BlockMap>) -> Result<(Vec<bf16>, Vec<f32>), Fault> {
        let there = OnDevice::new(stand, &self.heads, map)?;
        let (len, rows) = (self.want.len(), self.lse.len());
        let (mut out, mut lse) = (there.room(stand, len)?, there.room(stand, rows)?);
        let attention = ExactAttention::load(stand.device())?;
        let scores = Scores { is_causal: self.causal, ..Scores::default() };
        stand
            .launch(|stream| Ok(attention.run(stream, &there.shape, scores, &there.operands(), out.view_mut(), Some(lse.view_mut()))?))?;
        Ok((stand.results(&out, len)?, stand.results(&lse, rows)?))
    }
}

impl Prepared for Softmax {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        let keys = self.map.as_ref().map_or(Keys::All, Keys::Listed);
        let how = Attend { keys, is_causal: self.causal, rounding: self.rounding, ..Attend::default() };
        let got = attend_with_lse(q, k, v, shape, &how)?;
        let mut outputs = vec![Output::new("out", shape.head_dim, &got.out), Output::new("lse", 1, &got.lse)];
        if self.dense_map().is_some() {
            let dense = attend_with_lse(q, k, v, shape, &Attend { keys: Keys::All, ..how })?;
            outputs.push(Output::new("dense out", shape.head_dim, &dense.out));
        }
        Ok(outputs)
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (dim, (out, lse)) = (self.heads.shape.head_dim, self.on(stand, self.map.as_ref())?);
        let mut outputs = vec![Output::new("out", dim, &out), Output::new("lse", 1, &lse)];
        if stand.lead() == 0 && self.dense_map().is_some() {
            outputs.push(Output::new("dense out", dim, &self.on(stand, None)?.0));
        }
        Ok(outputs)
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let is_sharp = matches!(self.kind, Kind::OutlierChannel | Kind::Biased | Kind::Large);
        let (bound, why) = match (self.rounding, is_sharp, place) {
            (Rounding::Bf16, _, Place::Host) => (8e-3, "bf16 keeps 8 bits: probabilities and output move by 2^-8 of themselves"),
            (Rounding::Bf16, ..) => (5e-3, "probabilities and output round to bf16, each by up to 2^-8, either way"),
            (Rounding::None, true, _) => (3e-4, "scores reach a thousand, where an f32 step is 6e-5"),
            (Rounding::None, false, _) => (3e-6, "sums of a few hundred products in f32"),
        };
        let largest = self.lse.iter().filter(|lse| lse.is_finite()).fold(64.0, |most: f64, lse| most.max(lse.abs()));
        let lse = Held::each(&outputs[1], &self.lse, |_, _| 6e-6 * largest, "6e-6 of the largest", "a few f32 roundings of a score");
        let mut held = vec![Held::within(&outputs[0], &self.want, Bound::relative_l2(bound), why), lse];
        held.extend(
            outputs.get(2).map(|dense| Held::equal(dense, &outputs[0].values, "a map that keeps all is dense attention, bit for bit")),
        );
        Ok(held)
    }
}
