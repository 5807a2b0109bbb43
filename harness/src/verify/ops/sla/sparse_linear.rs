//! Both branches together, forward and backward.

use half::bf16;
use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sla::device::{
    Attended, ExactAttention, ExactAttentionBackward, GradientsMut, InverseMap, Scores, Workspace, attend, attend_backward, inverse_map,
    linear, linear_backward,
};
use turbowan_sla::{Density, FeatureMap, Projection, SparseLinear};

use super::linear::Branch;
use super::linear_backward::{BranchBackward, add};
use super::on_device::OnDevice;
use super::{BLOCKS, bf16_shape, drawn, features, head_of, lists_of, out_gradient, projection, wide};
use crate::verify::ops::attention::{Heads, shape_of};
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, no_kernels};

/// `features` 0 is softmax, 1 elu + 1, 2 relu; `percent` is the share of key blocks that is kept.
const ANY: &[Axis] = &[
    Axis::new("heads", 1, 2, 1),
    Axis::new("query", 1, 200, 1),
    Axis::new("key", 1, 300, 1),
    Axis::new("dim", 1, 130, 1),
    Axis::choice("features", 2),
    Axis::new("percent", 1, 100, 1),
];

const BF16: &[Axis] = &[
    Axis::new("heads", 1, 2, 1),
    Axis::new("query", 1, 200, 1),
    Axis::new("key", 1, 300, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("features", 2),
    Axis::new("percent", 1, 100, 1),
    Axis::choice("tokens-first", 1),
];

/// On the host in f32 in any shape, and as the kernels have it.
pub const OPS: [Op; 2] = [
    Op {
        name: "sla-backward",
        about: "o = sparse(q, k, v) + linear(q, k, v) W^T + b, and the gradients of all five",
        axes: ANY,
        cases: || {
            let shapes: [&[usize]; 6] = [
                &[1, 1, 1, 1, 0, 100],
                &[1, 1, 97, 64, 1, 50],
                &[2, 67, 67, 20, 0, 50],
                &[1, 130, 141, 128, 0, 1],
                &[1, 197, 197, 64, 2, 50],
                &[2, 150, 200, 64, 0, 100],
            ];
            Case::cross(&shapes, &[1, 140, 150, 64, 0, 50], &[Kind::Constant, Kind::Zero, Kind::ZeroBlock])
        },
        tame,
        kernels: no_kernels,
        far: &[],
        prepare: |case| {
            let [heads, query, key, dim, choice, percent] = case.sizes();
            Both::prepare(case, shape_of(heads, query, key, dim, false)?, (choice, percent), Rounding::None)
        },
    },
    Op {
        name: "sla-bf16",
        about: "the same of bf16 operands, over the map that the host chooses",
        axes: BF16,
        cases: || {
            let shapes: [&[usize]; 4] =
                [&[1, 1, 70, 64, 0, 100, 0], &[1, 130, 141, 128, 0, 1, 0], &[1, 67, 130, 64, 1, 50, 1], &[2, 140, 150, 64, 0, 50, 1]];
            Case::cross(&shapes, &[1, 130, 150, 64, 0, 50, 1], &[Kind::ZeroBlock])
        },
        tame,
        kernels,
        far: &[],
        prepare: |case| {
            let [heads, query, key, dim, choice, percent, tokens_first] = case.sizes();
            Both::prepare(case, bf16_shape([heads, query, key, dim], tokens_first)?, (choice, percent), Rounding::Bf16)
        },
    },
];

/// Those of both branches, both ways.
fn kernels(chip: (u32, u32)) -> Vec<&'static str> {
    let sparse = attend::KERNELS.iter().chain(&attend_backward::KERNELS).chain(&inverse_map::KERNELS);
    sparse.chain(&linear::KERNELS).chain(&linear_backward::KERNELS).map(|kernel| (kernel.choose)(chip).1).collect()
}

/// Kinds whose gradients are not what is left of large ones; see the operations of each branch for the others.
fn tame(case: &mut Case) {
    if !matches!(case.kind, Kind::Plain | Kind::Constant | Kind::Zero | Kind::ZeroBlock) {
        case.kind = Kind::Plain;
    }
    case.shape[4] %= 2;
}

const NAMES: [&str; 6] = ["out", "dq", "dk", "dv", "dW", "db"];

struct Both {
    heads: Heads,
    features: (FeatureMap, truth::FeatureMap),
    density: Density,
    rounding: Rounding,
    projection: (Vec<f32>, Vec<f32>),
    out_gradient: Vec<f32>,
    /// The one that the twin chose.
    map: BlockMap,
    /// As [`NAMES`] says, in the layouts of what they are.
    want: [Vec<f64>; 6],
}

impl Both {
    fn prepare(case: &Case, shape: AttnShape, (choice, percent): (usize, usize), rounding: Rounding) -> Result<Box<dyn Prepared>, Fault> {
        let density = Density::new(percent as f64 / 100.0).ok_or(Fault::Case("a percentage lies between 1 and 100"))?;
        let (heads, dim) = (drawn(case, shape, rounding), shape.head_dim);
        let (features, projection) = (features(choice)?, projection(dim, case.seed));
        let out_gradient = out_gradient(&shape, case.seed);
        let map = sla(density, features.0, &projection, rounding).map(&heads.q, &heads.k, &shape)?;
        let (weight, bias) = (wide(&projection.0), wide(&projection.1));
        let mut out = Vec::new();
        let mut gradients: [Vec<f64>; 5] = [vec![], vec![], vec![], vec![0.0; dim * dim], vec![0.0; dim]];
        for problem in 0..shape.problems() {
            let [q, k, v] = heads.head(problem).map(|rows| wide(&rows));
            let g = wide(&heads.queries(&out_gradient, problem));
            let (head, lists, projection) = (head_of(&shape), lists_of(&map, problem), truth::Projection { weight: &weight, bias: &bias });
            out.extend(truth::forward(&q, &k, &v, head, &lists, features.1, projection));
            let back = truth::backward(&q, &k, &v, &g, head, &lists, features.1, projection);
            add(&mut gradients, [back.q, back.k, back.v, back.weight, back.bias]);
        }
        let [q, k, v, weight, bias] = gradients;
        let want = [heads.in_layout(&out), heads.in_layout(&q), heads.keys_in_layout(&k), heads.keys_in_layout(&v), weight, bias];
        Ok(Box::new(Self { heads, features, density, rounding, projection, out_gradient, map, want }))
    }

    fn outputs(&self, [q, k, v, weight, bias]: [Vec<f32>; 5], out: Output) -> Vec<Output> {
        let gradients = NAMES[1..].iter().zip([q, k, v, weight, bias]);
        let gradients = gradients.map(|(name, values)| Output::new(name, self.heads.shape.head_dim, &values));
        std::iter::once(out).chain(gradients).collect()
    }
}

fn sla(density: Density, features: FeatureMap, projection: &(Vec<f32>, Vec<f32>), rounding: Rounding) -> SparseLinear<'_> {
    SparseLinear {
        density,
        block_q: BLOCKS.0,
        block_k: BLOCKS.1,
        features,
        projection: Projection { weight: &projection.0, bias: &projection.1 },
        outer: rounding,
        inner: rounding,
        isa: Isa::detect(),
    }
}

impl Prepared for Both {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        let sla = sla(self.density, self.features.0, &self.projection, self.rounding);
        let (out, saved) = sla.forward_saved(q, k, v, shape)?;
        let back = sla.backward(q, k, v, shape, &saved, &self.out_gradient)?;
        let out = Output::new("out", shape.head_dim, &out);
        Ok(self.outputs([back.q, back.k, back.v, back.weight, back.bias], out))
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let there = OnDevice::new(stand, &self.heads, Some(&self.map))?;
        let (shape, device) = (&there.shape, stand.device());
        let (rows, values) = (shape.problems() * shape.query_len, shape.query_values());
        let (forward, backward) = (ExactAttention::load(device)?, ExactAttentionBackward::load(device)?);
        let mut linear = Branch::new(stand, shape, Some(&self.projection))?;
        let mut gradients = BranchBackward::new(stand, &there, &self.out_gradient)?;
        let (mut sparse, mut out) = (stand.room::<bf16>(values)?, stand.room::<bf16>(values)?);
        let (mut lse, mut delta) = (stand.room(rows)?, stand.room(rows)?);
        let mut inverse = stand.room(InverseMap::words(shape, BLOCKS))?;
        stand.launch(|stream| {
            let (operands, scores) = (there.operands(), Scores::default());
            // once to be kept for the way back, once to be added to
            forward.run(stream, shape, scores, &operands, sparse.view_mut(), Some(lse.view_mut()))?;
            forward.run(stream, shape, scores, &operands, out.view_mut(), None)?;
            linear.run(stream, &there, self.features.0, true, out.view_mut())?;
            let attended = Attended { out: sparse.view(), lse: lse.view() };
            let workspace = Workspace { delta: delta.view_mut(), inverse: inverse.view_mut() };
            gradients.behind(|out_gradient, [q, k, v]| {
                let to = GradientsMut { q: q.view_mut(), k: k.view_mut(), v: v.view_mut() };
                Ok(backward.run(stream, shape, scores, &operands, attended, out_gradient.view(), workspace, to)?)
            })?;
            gradients.run(stream, &there, &linear, self.features.0, true)
        })?;
        Ok(self.outputs(gradients.results()?, Output::new("out", shape.head_dim, &out.to_vec()?)))
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        // a row whose relu features are nearly all zero divides by 1e-5: gradients there reach 1e5
        let (share, bound) = match self.features.0 {
            FeatureMap::Relu => (1e-4, "1e-4 of the largest"),
            _ => (1e-5, "1e-5 of the largest"),
        };
        let held = outputs.iter().zip(&self.want).map(|(got, want)| {
            let largest = want.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
            match (self.rounding, got.name, place) {
                (Rounding::None, ..) => Held::each(got, want, |_, _| share * largest, bound, "sums in f32"),
                (_, "db", _) => Held::within(got, want, Bound::relative_l2(1e-5), "sums of bf16 values in f32"),
                (_, "out", Place::Host) => {
                    Held::within(got, want, Bound::relative_l2(1.5e-2), "probabilities, features, state and output round to bf16")
                }
                (_, "out", _) => Held::within(got, want, Bound::relative_l2(6e-3), "the roundings of each branch, and of their sum"),
                _ if largest == 1.0 && want.iter().all(|value| value.abs() < 1e-9) => {
                    Held::within(got, want, Bound::max_abs(3e-2), "what is left of terms of about 1 that cancel")
                }
                _ => Held::within(got, want, Bound::relative_l2(1e-2), "the roundings of each branch"),
            }
        });
        Ok(held.collect())
    }
}
