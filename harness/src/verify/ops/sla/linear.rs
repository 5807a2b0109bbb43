//! The linear branch forward.

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream, ViewMut};
use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, Rounding};
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sla::device::linear::{
    Fold, KERNELS, LinearApply, LinearFold, LinearState, folded, folded_values, partial_values, state_values,
};
use turbowan_sla::{FeatureMap, LinearBranch, Projection, add_linear_branch, linear_branch};

use super::on_device::OnDevice;
use super::{bf16_shape, drawn, features, head_of, projection, wide};
use crate::verify::ops::attention::{Heads, shape_of};
use crate::verify::ops::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, no_kernels};

/// `features` 0 is softmax, 1 elu + 1, 2 relu.
const ANY: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 1200, 1),
    Axis::new("dim", 1, 130, 1),
    Axis::choice("features", 2),
    Axis::choice("bf16", 1),
];

/// `end` 0 is the branch alone, 1 is projected, 2 is added to another output too.
const BF16: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 700, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("features", 2),
    Axis::choice("end", 2),
    Axis::choice("tokens-first", 1),
];

/// On the host in any shape, and as the kernels have it.
pub const OPS: [Op; 2] = [
    Op {
        name: "linear-branch",
        about: "f(q) (f(k)^T v) / (1e-5 + f(q) . sum f(k)), projected",
        axes: ANY,
        cases: || {
            let shapes: [&[usize]; 7] = [
                &[1, 1, 1, 1, 0, 0],
                &[2, 1, 97, 64, 1, 0],
                &[2, 67, 67, 20, 0, 1],
                &[1, 130, 41, 128, 0, 0],
                &[1, 197, 197, 64, 2, 0],
                &[1, 100, 1100, 32, 1, 1],
                &[2, 197, 300, 128, 0, 0],
            ];
            Case::cross(&shapes, &[1, 150, 197, 128, 0, 0], SMALL)
        },
        tame,
        kernels: no_kernels,
        far: &[],
        prepare: |case| {
            let [heads, query, key, dim, choice, is_bf16] = case.sizes();
            let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
            Linear::prepare(case, shape_of(heads, query, key, dim, true)?, choice, End::Projected, rounding)
        },
    },
    Op {
        name: "linear-branch-bf16",
        about: "the same of bf16 operands and features, projected or not, or added to the sparse branch",
        axes: BF16,
        // one row, ragged tails of tiles and warps, more than a chunk of keys and than a block of queries
        cases: || {
            let shapes: [&[usize]; 6] = [
                &[1, 1, 1, 64, 0, 1, 0],
                &[2, 37, 97, 128, 1, 1, 1],
                &[2, 65, 33, 64, 2, 0, 0],
                &[1, 530, 20, 64, 0, 2, 1],
                &[1, 17, 545, 128, 2, 1, 0],
                &[2, 70, 100, 64, 0, 2, 1],
            ];
            Case::cross(&shapes, &[2, 40, 70, 128, 0, 2, 1], &Kind::ALL[1..])
        },
        tame,
        kernels: |chip| KERNELS.iter().map(|kernel| (kernel.choose)(chip).1).collect(),
        // 512 rows a block
        far: &[Far { shape: &[1, 40, 70, 128, 0, 2, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 512, 1) }],
        prepare: |case| {
            let [heads, query, key, dim, choice, end, tokens_first] = case.sizes();
            let end = [End::Alone, End::Projected, End::Added][end.min(2)];
            Linear::prepare(case, bf16_shape([heads, query, key, dim], tokens_first)?, choice, end, Rounding::Bf16)
        },
    },
];

/// Kinds whose values are small.
const SMALL: &[Kind] = &[Kind::OutlierChannel, Kind::Biased, Kind::Constant, Kind::Zero, Kind::ZeroBlock];

/// Elu and relu features of large values make sums that cancel.
fn tame(case: &mut Case) {
    if case.shape[4] != 0 || case.kind == Kind::Large {
        (case.shape[4], case.kind) = (case.shape[4] % 2, Kind::Plain);
    }
}

/// What becomes of the branch.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Alone,
    Projected,
    Added,
}

struct Linear {
    heads: Heads,
    features: FeatureMap,
    rounding: Rounding,
    end: End,
    projection: (Vec<f32>, Vec<f32>),
    /// What the branch is added to.
    sparse: Vec<f32>,
    want: Vec<f64>,
    /// Sums over all keys of each head, `[D + 1, D]`.
    state: Vec<f64>,
}

impl Linear {
    fn prepare(case: &Case, shape: AttnShape, choice: usize, end: End, rounding: Rounding) -> Result<Box<dyn Prepared>, Fault> {
        let heads = drawn(case, shape, rounding);
        let (features, oracle) = features(choice)?;
        let projection = projection(shape.head_dim, case.seed);
        let (weight, bias) = (wide(&projection.0), wide(&projection.1));
        let mut sparse = Kind::Plain.values(shape.problems() * shape.query_len, shape.head_dim, case.seed + 8);
        rounding.apply_row(&mut sparse);
        let (mut want, mut state) = (Vec::new(), Vec::new());
        for problem in 0..shape.problems() {
            let [q, k, v] = heads.head(problem).map(|rows| wide(&rows));
            let out = truth::linear_branch(&q, &k, &v, head_of(&shape), oracle);
            match end {
                End::Alone => want.extend(out),
                End::Projected | End::Added => want.extend(truth::Projection { weight: &weight, bias: &bias }.apply(&out)),
            }
            state.extend(true_state(&k, &v, shape.head_dim, oracle));
        }
        let mut want = heads.in_layout(&want);
        if end == End::Added {
            want.iter_mut().zip(&sparse).for_each(|(want, sparse)| *want += f64::from(*sparse));
        }
        Ok(Box::new(Self { heads, features, rounding, end, projection, sparse, want, state }))
    }

    /// The folded projection as the host makes it of a device's sums, or of the oracle's.
    fn folded(&self, state: &[f64]) -> Vec<bf16> {
        let state: Vec<f32> = state.iter().map(|value| *value as f32).collect();
        let weight = (self.end != End::Alone).then_some((self.projection.0.as_slice(), true));
        folded(&state, self.heads.shape.head_dim, self.heads.shape.problems(), weight)
    }

    /// The rows of one head behind rows of zeros. The sums come from the oracle: their launches have other blocks.
    fn rows_far_out(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (own, lead) = (&self.heads.shape, stand.lead());
        let (dim, shape) = (own.head_dim, AttnShape { query_len: lead + own.query_len, ..*own });
        let rows = |rows: &[f32]| stand.upload_behind(lead * dim, &bf16s(rows).0);
        let (q, mut out) = (rows(&self.heads.q)?, rows(&self.sparse)?);
        let (folded, bias) = (stand.upload(&self.folded(&self.state))?, stand.upload(&self.projection.1)?);
        let apply = LinearApply::load(stand.device())?;
        let (bias, adds) = ((self.end != End::Alone).then(|| bias.view()), self.end == End::Added);
        stand.launch(|stream| Ok(apply.run(stream, &shape, self.features, q.view(), folded.view(), bias, adds, out.view_mut())?))?;
        Ok(vec![Output::new("out", dim, &stand.results(&out, own.query_values())?)])
    }
}

/// `H` and, below it, `z` of a head.
pub(super) fn true_state(k: &[f64], v: &[f64], dim: usize, features: truth::FeatureMap) -> Vec<f64> {
    let mut state = vec![0.0; (dim + 1) * dim];
    for (k, v) in k.chunks(dim).zip(v.chunks(dim)) {
        for (row, feature) in features.apply(k).into_iter().enumerate() {
            state[row * dim..][..dim].iter_mut().zip(v).for_each(|(sum, v)| *sum += feature * v);
            state[dim * dim + row] += feature;
        }
    }
    state
}

impl Prepared for Linear {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        let projection = (self.end != End::Alone).then_some(Projection { weight: &self.projection.0, bias: &self.projection.1 });
        let how = LinearBranch { features: self.features, projection, rounding: self.rounding, isa: Isa::detect() };
        let out = if self.end == End::Added {
            let mut out = self.sparse.clone();
            add_linear_branch(q, k, v, shape, &how, &mut out)?;
            out
        } else {
            linear_branch(q, k, v, shape, &how)?
        };
        Ok(vec![Output::new("out", shape.head_dim, &out)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        if stand.lead() > 0 {
            return self.rows_far_out(stand);
        }
        let (there, dim) = (OnDevice::new(stand, &self.heads, None)?, self.heads.shape.head_dim);
        let mut branch = Branch::new(stand, &there.shape, (self.end != End::Alone).then_some(&self.projection))?;
        let adds = self.end == End::Added;
        let mut out = stand.upload(&bf16s(&self.sparse).0)?;
        stand.launch(|stream| branch.run(stream, &there, self.features, adds, out.view_mut()))?;
        let (state, folded) = (branch.state.to_vec()?, branch.folded.to_vec()?);
        Ok(vec![Output::new("out", dim, &out.to_vec()?), Output::new("state", dim, &state), Output::new("folded", dim, &folded)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let (bound, why) = match (self.rounding, self.features, place) {
            (Rounding::Bf16, _, Place::Host) => (1.5e-2, "features, state and output round to bf16"),
            (Rounding::Bf16, ..) => (4.5e-3, "features of keys and queries, the folded state and the output round to bf16"),
            (Rounding::None, FeatureMap::Relu, _) => (1e-5, "relu leaves few features, whose sums cancel"),
            (Rounding::None, ..) => (4e-6, "sums of a thousand products in f32"),
        };
        let mut held = vec![Held::within(&outputs[0], &self.want, Bound::relative_l2(bound), why)];
        if let [_, state, got] = outputs {
            held.push(Held::within(state, &self.state, Bound::relative_l2(2e-3), "a feature moves by up to 2^-8 of itself, either way"));
            let want = self.folded(&state.values);
            held.push(Held::equal(got, &want, "the same operations in the same order as the host's"));
        }
        Ok(held)
    }
}

/// The branch on a device: its kernels, its room, and what it leaves.
pub(super) struct Branch {
    kernels: (LinearState, LinearFold, LinearApply),
    partial: Buffer<f32>,
    /// `[problems, D + 1, D]`.
    pub(super) state: Buffer<f32>,
    /// As `state`, the projection folded in.
    pub(super) folded: Buffer<bf16>,
    /// The projection's weight and bias.
    pub(super) projection: Option<(Buffer<f32>, Buffer<f32>)>,
}

impl Branch {
    pub(super) fn new(stand: &Stand, shape: &AttnShape, projection: Option<&(Vec<f32>, Vec<f32>)>) -> Result<Self, Fault> {
        let projection = projection.map(|(weight, bias)| Ok::<_, Fault>((stand.upload(weight)?, stand.upload(bias)?))).transpose()?;
        let device = stand.device();
        Ok(Self {
            kernels: (LinearState::load(device)?, LinearFold::load(device)?, LinearApply::load(device)?),
            partial: stand.room(partial_values(shape))?,
            state: stand.room(state_values(shape))?,
            folded: stand.room(folded_values(shape))?,
            projection,
        })
    }

    /// Queues it: `out` becomes the branch, or with `adds` has it added.
    pub(super) fn run(
        &mut self,
        stream: &Stream,
        there: &OnDevice<'_>,
        features: FeatureMap,
        adds: bool,
        out: ViewMut<'_, bf16>,
    ) -> Result<(), Fault> {
        let shape = &there.shape;
        let (fold, bias) = match &self.projection {
            Some((weight, bias)) => (Fold::Transposed(weight.view()), Some(bias.view())),
            None => (Fold::Plain, None),
        };
        let (state, apply) = (&self.kernels.0, &self.kernels.2);
        state.run(stream, shape, features, there.k.view(), there.v.view(), self.partial.view_mut(), self.state.view_mut())?;
        self.kernels.1.run(stream, shape.head_dim, self.state.view(), fold, self.folded.view_mut())?;
        Ok(apply.run(stream, shape, features, there.q.view(), self.folded.view(), bias, adds, out)?)
    }
}
