//! INT8 SageAttention over the integers that the quantisers gave.

use turbowan_reference::metrics::Bound;
use turbowan_sage::device::Format;
use turbowan_sage::forward_with_lse;

use super::FAR_ROWS;
use super::attention::{Heads, shape_of};
use super::sage_problem::{BLOCKS, Problem, kernels};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

/// `kept` 0 is dense; `tokens-first` has the heads of a token side by side.
const AXES: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 400, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("kept", 4),
    Axis::choice("causal", 1),
    Axis::choice("tokens-first", 1),
];

/// Two heads of 64 rows of 128 channels, a block each, behind heads with 2^31 values.
const FAR: &[Far] = &[
    Far { shape: &[2, 64, 64, 128, 0, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) },
    Far { shape: &[2, 64, 64, 128, 1, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) },
];

/// Values in f16, in e4m3, and in e4m3 as tiles.
pub const OPS: [Op; 3] = [
    Op {
        name: "sage-attention-f16",
        about: "softmax(q8 k8^T sq sk / sqrt(D)) v, values in f16",
        axes: AXES,
        cases: || {
            // one row, a tile less one, lengths that differ, several tiles; dense, one block, all blocks, causal
            let shapes: [&[usize]; 10] = [
                &[1, 1, 1, 64, 0, 0, 0],
                &[1, 63, 63, 128, 0, 0, 0],
                &[1, 65, 65, 64, 0, 1, 0],
                &[1, 1, 400, 128, 0, 0, 0],
                &[1, 400, 1, 64, 0, 0, 0],
                &[1, 150, 328, 128, 0, 0, 0],
                &[1, 140, 140, 128, 0, 1, 0],
                &[1, 200, 400, 64, 1, 0, 0],
                &[1, 200, 200, 128, 4, 0, 0],
                &[2, 197, 300, 128, 2, 0, 1],
            ];
            Case::cross(&shapes, &[1, 150, 197, 128, 0, 0, 0], &Kind::ALL[1..])
        },
        tame,
        kernels: |chip| kernels(chip, Format::F16, false),
        far: FAR,
        prepare: |case| Attention::prepare(case, Format::F16),
    },
    Op {
        name: "sage-attention-e4m3",
        about: "the same, values and probabilities in e4m3",
        axes: AXES,
        cases: || {
            let shapes: [&[usize]; 7] = [
                &[1, 1, 1, 64, 0, 0, 0],
                &[1, 65, 65, 128, 0, 1, 0],
                &[1, 1, 400, 64, 0, 0, 0],
                &[1, 150, 328, 128, 0, 0, 0],
                &[1, 200, 400, 64, 1, 0, 0],
                &[1, 200, 200, 128, 4, 0, 0],
                &[2, 197, 300, 128, 2, 0, 1],
            ];
            Case::cross(&shapes, &[1, 150, 197, 128, 0, 0, 0], &Kind::ALL[1..])
        },
        tame,
        kernels: |chip| kernels(chip, Format::Fp8, false),
        far: FAR,
        prepare: |case| Attention::prepare(case, Format::Fp8),
    },
    Op {
        name: "sage-attention-tiled",
        about: "the same over tiles, the largest of each channel 448, sums over 128 keys added in f32",
        axes: AXES,
        cases: || {
            // more steps than stages of shared memory; an odd and an even number of tiles
            let shapes: [&[usize]; 9] = [
                &[1, 1, 1, 64, 0, 0, 0],
                &[1, 65, 65, 128, 0, 1, 0],
                &[1, 1, 400, 64, 0, 0, 0],
                &[1, 40, 1160, 64, 0, 0, 0],
                &[1, 150, 328, 128, 0, 0, 0],
                &[1, 200, 400, 64, 1, 0, 0],
                &[1, 200, 200, 128, 4, 0, 0],
                &[2, 130, 300, 128, 3, 0, 0],
                &[2, 197, 300, 128, 2, 0, 1],
            ];
            Case::cross(&shapes, &[1, 150, 197, 128, 0, 0, 0], &Kind::ALL[1..])
        },
        tame,
        kernels: |chip| kernels(chip, Format::Tiled, false),
        far: FAR,
        prepare: |case| Attention::prepare(case, Format::Tiled),
    },
];

/// Causal attention has as many queries as keys; a map keeps no more blocks than there are.
fn tame(case: &mut Case) {
    if case.shape[5] == 1 {
        (case.shape[2], case.shape[4]) = (case.shape[1], 0);
    }
    case.shape[4] = case.shape[4].min(case.shape[2].div_ceil(BLOCKS.1));
}

struct Attention {
    problem: Problem,
    want: Vec<f64>,
    /// Of the host, where it takes other steps.
    host_want: Option<Vec<f64>>,
    lse: Vec<f64>,
}

impl Attention {
    fn prepare(case: &Case, format: Format) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, kept, causal, tokens_first] = case.sizes();
        let heads = Heads::draw(case.kind, shape_of(heads, query, key, dim, tokens_first == 1)?, case.seed);
        let problem = Problem::new(heads, format, kept, causal == 1, case.seed)?;
        let [step, host_step] = [Place::Emulator, Place::Host].map(|place| problem.step(place));
        let (want, lse) = problem.truth(step);
        let host_want = (host_step != step).then(|| problem.truth(host_step).0);
        Ok(Box::new(Self { problem, want, host_want, lse }))
    }

    /// Whether the map keeps everything.
    fn keeps_all(&self) -> bool {
        self.problem.map.as_ref().is_some_and(|map| map.kept() == map.key_blocks())
    }
}

impl Prepared for Attention {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Problem { heads: Heads { q, k, v, shape }, sage, map, causal, .. } = &self.problem;
        let run = |map| forward_with_lse(q, k, v, shape, map, *causal, sage);
        let mut outputs = vec![Output::new("out", shape.head_dim, &run(map.as_ref())?.out)];
        if self.keeps_all() {
            outputs.push(Output::new("dense out", shape.head_dim, &run(None)?.out));
        }
        Ok(outputs)
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (out, lse) = self.problem.run(stand, self.problem.map.as_ref(), None)?;
        let dim = self.problem.heads.shape.head_dim;
        let mut outputs = vec![Output::new("out", dim, &out), Output::new("lse", 1, &lse)];
        if self.keeps_all() {
            outputs.push(Output::new("dense out", dim, &self.problem.run(stand, None, None)?.0));
        }
        Ok(outputs)
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let want = self.host_want.as_ref().filter(|_| place == Place::Host).unwrap_or(&self.want);
        let (bound, why) = self.problem.bound(place);
        let mut held = vec![Held::within(&outputs[0], want, Bound::relative_l2(bound), why)];
        for output in &outputs[1..] {
            held.push(match output.name {
                "lse" => hold_lse(output, &self.lse),
                _ => Held::equal(output, &outputs[0].values, "a map that keeps all is dense attention, bit for bit"),
            });
        }
        Ok(held)
    }
}

/// Holds a log-sum-exp.
pub(super) fn hold_lse(got: &Output, want: &[f64]) -> Held {
    let largest = want.iter().filter(|lse| lse.is_finite()).fold(1.0, |most: f64, lse| lse.abs().max(most));
    let allowed = |_: usize, want: f64| 4e-6 * want.abs().max(largest);
    Held::each(got, want, allowed, "4e-6 of the largest", "a few f32 roundings of a score")
}
