//! The linear branch backward.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::host::Isa;
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sla::device::linear_backward::{KERNELS, LinearBackward, LinearGradients, LinearOperands, LinearRoom};
use turbowan_sla::{Density, FeatureMap, Projection, Saved, SparseLinear};

use super::linear::{Branch, true_state};
use super::on_device::OnDevice;
use super::{BLOCKS, bf16_shape, drawn, features, head_of, out_gradient, projection, whole_map, wide};
use crate::verify::ops::attention::Heads;
use crate::verify::ops::{HALF_STEP, bf16s};
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

/// `features` 0 is softmax, 1 elu + 1, 2 relu; `projected` 0 is the branch alone.
const AXES: &[Axis] = &[
    Axis::new("heads", 1, 2, 1),
    Axis::new("query", 1, 600, 1),
    Axis::new("key", 1, 300, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("features", 2),
    Axis::choice("projected", 1),
    Axis::choice("tokens-first", 1),
];

/// It is one. Its launches differ in the blocks that a head has, so that none lies past 2^31 alone.
pub const OPS: [Op; 1] = [Op {
    name: "linear-branch-bf16-backward",
    about: "gradients of q, k, v and the projection; features, states and gradients of rows in bf16, sums in f32",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 6] = [
            &[1, 1, 1, 64, 0, 1, 0],
            &[2, 37, 97, 128, 1, 1, 1],
            &[2, 65, 33, 64, 2, 0, 0],
            &[1, 17, 130, 128, 0, 1, 0],
            &[1, 530, 20, 64, 0, 1, 1],
            &[2, 67, 70, 64, 0, 1, 1],
        ];
        Case::cross(&shapes, &[1, 40, 70, 64, 0, 1, 1], &Kind::ALL[1..])
    },
    tame: |_| {},
    kernels: |chip| KERNELS.iter().map(|kernel| (kernel.choose)(chip).1).collect(),
    far: &[],
    prepare: Backward::prepare,
}];

const NAMES: [&str; 5] = ["dq", "dk", "dv", "dW", "db"];

struct Backward {
    heads: Heads,
    features: FeatureMap,
    kind: Kind,
    is_projected: bool,
    projection: (Vec<f32>, Vec<f32>),
    out_gradient: Vec<f32>,
    /// As [`NAMES`] says, in the layouts of what they are gradients of; and the same sums with every term made positive.
    want: [Vec<f64>; 5],
    sizes: [Vec<f64>; 5],
}

impl Backward {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, choice, projected, tokens_first] = case.sizes();
        let shape = bf16_shape([heads, query, key, dim], tokens_first)?;
        let (heads, (features, oracle), is_projected) = (drawn(case, shape, Rounding::Bf16), features(choice)?, projected == 1);
        let projection = if is_projected { projection(dim, case.seed) } else { identity(dim) };
        let out_gradient = out_gradient(&shape, case.seed);
        let (weight, bias) = (wide(&projection.0), wide(&projection.1));
        let mut want: [Vec<f64>; 5] = [vec![], vec![], vec![], vec![0.0; dim * dim], vec![0.0; dim]];
        let mut sizes = want.clone();
        for problem in 0..shape.problems() {
            let [q, k, v] = heads.head(problem).map(|rows| wide(&rows));
            let g = wide(&heads.queries(&out_gradient, problem));
            let projection = truth::Projection { weight: &weight, bias: &bias };
            let exact = truth::linear_backward(&q, &k, &v, &g, head_of(&shape), oracle, projection);
            add(&mut want, [exact.q, exact.k, exact.v, exact.weight, exact.bias]);
            add(&mut sizes, terms([&q, &k, &v, &g], &weight, dim, oracle));
        }
        for [q, k, v, ..] in [&mut want, &mut sizes] {
            (*q, *k, *v) = (heads.in_layout(q), heads.keys_in_layout(k), heads.keys_in_layout(v));
        }
        Ok(Box::new(Self { heads, features, kind: case.kind, is_projected, projection, out_gradient, want, sizes }))
    }

    fn outputs(&self, gradients: [Vec<f32>; 5]) -> Vec<Output> {
        let held = if self.is_projected { 5 } else { 3 };
        let named = NAMES.into_iter().zip(gradients).take(held);
        named.map(|(name, values)| Output::new(name, self.heads.shape.head_dim, &values)).collect()
    }
}

/// Gradients of rows lie one head after the other, those of the projection are summed.
pub(super) fn add(all: &mut [Vec<f64>; 5], one: [Vec<f64>; 5]) {
    for (index, (all, one)) in all.iter_mut().zip(one).enumerate() {
        if index < 3 {
            all.extend(one);
        } else {
            all.iter_mut().zip(one).for_each(|(sum, part)| *sum += part);
        }
    }
}

fn identity(dim: usize) -> (Vec<f32>, Vec<f32>) {
    ((0..dim * dim).map(|at| if at / dim == at % dim { 1.0 } else { 0.0 }).collect(), vec![0.0; dim])
}

impl Prepared for Backward {
    /// The twin has both branches; logarithms beyond every score leave its sparse one no weight.
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        let sla = SparseLinear {
            density: Density::DENSE,
            block_q: BLOCKS.0,
            block_k: BLOCKS.1,
            features: self.features,
            projection: Projection { weight: &self.projection.0, bias: &self.projection.1 },
            outer: Rounding::Bf16,
            inner: Rounding::Bf16,
            isa: Isa::detect(),
        };
        let saved = Saved { map: whole_map(shape)?, sparse: vec![0.0; q.len()], lse: vec![1e30; shape.problems() * shape.query_len] };
        let back = sla.backward(q, k, v, shape, &saved, &self.out_gradient)?;
        Ok(self.outputs([back.q, back.k, back.v, back.weight, back.bias]))
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let there = OnDevice::new(stand, &self.heads, None)?;
        let mut branch = Branch::new(stand, &there.shape, self.is_projected.then_some(&self.projection))?;
        let mut out = stand.room(self.want[0].len())?;
        let mut back = BranchBackward::new(stand, &there, &self.out_gradient)?;
        stand.launch(|stream| {
            branch.run(stream, &there, self.features, false, out.view_mut())?;
            back.run(stream, &there, &branch, self.features, false)
        })?;
        Ok(self.outputs(back.results()?))
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let mut held = Vec::new();
        for ((got, want), sizes) in outputs.iter().zip(&self.want).zip(&self.sizes) {
            let exact = got.name == "db";
            // what f32 loses below its range is no error
            let allowed = |index: usize, _: f64| if exact { 1e-6 * sizes[index] } else { ROUNDINGS * sizes[index] + 1e-25 };
            held.push(if exact {
                Held::each(got, want, allowed, "1e-6 of its terms", "sums of bf16 values in f32")
            } else {
                let why = "bf16 rounds both features, both folded states and rows over their denominators";
                Held::each(got, want, allowed, "2 x 2^-8 of its terms", why)
            });
            // with one key every row returns its value: what is left of the gradients of q and k are terms that cancel
            if self.kind == Kind::Plain && self.heads.shape.key_len > 1 && !exact {
                let why = "the same roundings, of either sign";
                held.push(Held::within(got, want, Bound::relative_l2(1e-2), why).called(as_a_whole(got.name)));
            }
        }
        Ok(held)
    }
}

/// A term goes through up to five roundings to bf16, which never all go one way by half a unit each.
const ROUNDINGS: f64 = 2.0 * HALF_STEP;

fn as_a_whole(name: &str) -> &'static str {
    match name {
        "dq" => "dq as a whole",
        "dk" => "dk as a whole",
        "dv" => "dv as a whole",
        _ => "dW as a whole",
    }
}

/// What roundings of the terms of a head's gradients are shares of: the oracle's sums with every term made positive.
fn terms([q, k, v, g]: [&[f64]; 4], weight: &[f64], dim: usize, features: truth::FeatureMap) -> [Vec<f64>; 5] {
    let positive = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    let (v, g, weight) = (positive(v), positive(g), positive(weight));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let column = |matrix: &[f64], at: usize| matrix.iter().skip(at).step_by(dim).copied().collect::<Vec<f64>>();
    let state = true_state(k, &v, dim, features);
    let (outer, sum) = state.split_at(dim * dim);
    let (mut dq, mut dk, mut dv, mut d_weight) = (Vec::new(), Vec::new(), Vec::new(), vec![0.0; dim * dim]);
    let (mut d_outer, mut d_sum, mut d_bias) = (vec![0.0; dim * dim], vec![0.0; dim], vec![0.0; dim]);
    for (row, g) in q.chunks(dim).zip(g.chunks(dim)) {
        let phi = features.apply(row);
        let denominator = truth::DENOMINATOR_FLOOR + dot(&phi, sum);
        let out: Vec<f64> = (0..dim).map(|at| dot(&phi, &column(outer, at)) / denominator).collect();
        let branch: Vec<f64> = (0..dim).map(|at| dot(g, &column(&weight, at)) / denominator).collect();
        let of_denominator = dot(&branch, &out);
        let of_phi: Vec<f64> = (0..dim).map(|at| dot(&branch, &outer[at * dim..][..dim]) + of_denominator * sum[at]).collect();
        for at in 0..dim {
            d_bias[at] += g[at];
            d_sum[at] += of_denominator * phi[at];
            d_weight[at * dim..][..dim].iter_mut().zip(&out).for_each(|(sum, out)| *sum += g[at] * out);
            d_outer[at * dim..][..dim].iter_mut().zip(&branch).for_each(|(sum, branch)| *sum += phi[at] * branch);
        }
        dq.extend(pulled_back(row, &phi, &of_phi, features));
    }
    for (row, v) in k.chunks(dim).zip(v.chunks(dim)) {
        let phi = features.apply(row);
        let of_phi: Vec<f64> = (0..dim).map(|at| dot(v, &d_outer[at * dim..][..dim]) + d_sum[at]).collect();
        dk.extend(pulled_back(row, &phi, &of_phi, features));
        dv.extend((0..dim).map(|at| dot(&phi, &column(&d_outer, at))));
    }
    [dq, dk, dv, d_weight, d_bias]
}

fn pulled_back(row: &[f64], phi: &[f64], of_phi: &[f64], features: truth::FeatureMap) -> Vec<f64> {
    let mean: f64 = phi.iter().zip(of_phi).map(|(phi, of_phi)| phi * of_phi).sum();
    let one = |((x, phi), of_phi): ((&f64, &f64), &f64)| match features {
        truth::FeatureMap::Softmax => phi * (of_phi + mean),
        truth::FeatureMap::Elu => phi.min(1.0) * of_phi,
        truth::FeatureMap::Relu => {
            if *x > 0.0 {
                *of_phi
            } else {
                0.0
            }
        }
    };
    row.iter().zip(phi).zip(of_phi).map(one).collect()
}

/// Gradients of the branch on a device, and the room for them.
pub(super) struct BranchBackward {
    kernels: LinearBackward,
    room: LinearRoom,
    out_gradient: Buffer<bf16>,
    /// Of queries, keys and values; of the projection.
    rows: [Buffer<f32>; 3],
    projection: [Buffer<f32>; 2],
}

impl BranchBackward {
    pub(super) fn new(stand: &Stand, there: &OnDevice<'_>, out_gradient: &[f32]) -> Result<Self, Fault> {
        let (shape, dim) = (&there.shape, there.shape.head_dim);
        Ok(Self {
            kernels: LinearBackward::load(stand.device())?,
            room: LinearRoom::allocate(stand.stream(), shape)?,
            out_gradient: stand.upload(&bf16s(out_gradient).0)?,
            rows: [stand.room(shape.query_values())?, stand.room(shape.key_values())?, stand.room(shape.key_values())?],
            projection: [stand.room(dim * dim)?, stand.room(dim)?],
        })
    }

    /// Queues what `first` writes to the gradients of rows.
    pub(super) fn behind(&mut self, first: impl FnOnce(&Buffer<bf16>, &mut [Buffer<f32>; 3]) -> Result<(), Fault>) -> Result<(), Fault> {
        first(&self.out_gradient, &mut self.rows)
    }

    /// Queues it behind `branch`: gradients of rows are written, or with `adds` added.
    pub(super) fn run(
        &mut self,
        stream: &Stream,
        there: &OnDevice<'_>,
        branch: &Branch,
        features: FeatureMap,
        adds: bool,
    ) -> Result<(), Fault> {
        let operands = LinearOperands {
            q: there.q.view(),
            k: there.k.view(),
            v: there.v.view(),
            out_gradient: self.out_gradient.view(),
            state: branch.state.view(),
            folded: branch.folded.view(),
            weight: branch.projection.as_ref().map(|(weight, _)| weight.view()),
        };
        let [q, k, v] = self.rows.each_mut().map(|rows| rows.view_mut());
        let projection = branch.projection.is_some().then(|| self.projection.each_mut().map(|values| values.view_mut()));
        let to = LinearGradients { q, k, v, projection, adds };
        Ok(self.kernels.run(stream, &there.shape, features, &operands, &mut self.room, to)?)
    }

    /// As [`NAMES`] says.
    pub(super) fn results(&self) -> Result<[Vec<f32>; 5], Fault> {
        let ([q, k, v], [weight, bias]) = (&self.rows, &self.projection);
        Ok([q.to_vec()?, k.to_vec()?, v.to_vec()?, weight.to_vec()?, bias.to_vec()?])
    }
}
