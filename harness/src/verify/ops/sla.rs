//! Sparse-linear attention: softmax attention dense and over a map, the linear branch, the backward pass.

use turbowan_cuda::host::Isa;
use turbowan_cuda::{BlockMap, Rounding};
use turbowan_reference::attention::{Mask, attend as truth_attend};
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sla::{Attend, Density, FeatureMap, Keys, LinearBranch, Projection, SparseLinear, attend_with_lse, linear_branch};

use super::attention::{Heads, drawn_map, head_of, kept_blocks, shape_of};
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, no_kernels};

/// `kept` 0 is dense; `bf16` 1 rounds where the official code stores.
const ATTENTION: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 400, 1),
    Axis::new("dim", 1, 200, 1),
    Axis::choice("kept", 4),
    Axis::choice("causal", 1),
    Axis::choice("bf16", 1),
];

/// `features` 0 is softmax, 1 elu + 1, 2 relu.
const LINEAR: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 1200, 1),
    Axis::new("dim", 1, 130, 1),
    Axis::choice("features", 2),
    Axis::choice("bf16", 1),
];

const BACKWARD: &[Axis] = &[
    Axis::new("heads", 1, 2, 1),
    Axis::new("query", 1, 200, 1),
    Axis::new("key", 1, 300, 1),
    Axis::new("dim", 1, 130, 1),
    Axis::choice("features", 2),
    Axis::new("percent", 1, 100, 1),
];

/// Rows of a block of the map.
const BLOCKS: (usize, usize) = (128, 64);

/// Forward, the linear branch alone, and both ways together.
pub const OPS: [Op; 3] = [
    Op {
        name: "attention",
        about: "softmax(q k^T / sqrt(D)) v, dense, causal or over a map",
        axes: ATTENTION,
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
        prepare: Softmax::prepare,
    },
    Op {
        name: "linear-branch",
        about: "f(q) (f(k)^T v) / (1e-5 + f(q) . sum f(k)), projected",
        axes: LINEAR,
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
            Case::cross(
                &shapes,
                &[1, 150, 197, 128, 0, 0],
                &[Kind::OutlierChannel, Kind::Biased, Kind::Constant, Kind::Zero, Kind::ZeroBlock],
            )
        },
        // elu and relu features of large values make sums that cancel
        tame: |case| {
            if case.shape[4] != 0 || case.kind == Kind::Large {
                (case.shape[4], case.kind) = (case.shape[4] % 2, Kind::Plain);
            }
        },
        kernels: no_kernels,
        far: &[],
        prepare: Linear::prepare,
    },
    Op {
        name: "sla-backward",
        about: "o = sparse(q, k, v) + linear(q, k, v) W^T + b, and the gradients of all five",
        axes: BACKWARD,
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
        tame: |case| {
            if !matches!(case.kind, Kind::Plain | Kind::Constant | Kind::Zero | Kind::ZeroBlock) {
                case.kind = Kind::Plain;
            }
            case.shape[4] %= 2;
        },
        kernels: no_kernels,
        far: &[],
        prepare: Backward::prepare,
    },
];

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

const FEATURES: [(FeatureMap, truth::FeatureMap); 3] = [
    (FeatureMap::Softmax, truth::FeatureMap::Softmax),
    (FeatureMap::Elu, truth::FeatureMap::Elu),
    (FeatureMap::Relu, truth::FeatureMap::Relu),
];

fn features(choice: usize) -> Result<(FeatureMap, truth::FeatureMap), Fault> {
    FEATURES.get(choice).copied().ok_or(Fault::Case("features are 0, 1 or 2"))
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
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, kept, causal, is_bf16] = case.sizes();
        let shape = shape_of(heads, query, key, dim, true)?;
        let mut heads = Heads::draw(case.kind, shape, case.seed);
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        [&mut heads.q, &mut heads.k, &mut heads.v].into_iter().for_each(|rows| rounding.apply_row(rows));
        let map = if kept == 0 { None } else { Some(drawn_map(&shape, BLOCKS, kept, case.seed)?) };
        let (mut want, mut lse) = (Vec::new(), Vec::new());
        for problem in 0..shape.problems() {
            let blocks = map.as_ref().map(|map| kept_blocks(map, problem));
            let mask = match (&blocks, causal == 1) {
                (Some(kept), _) => Mask::Blocks { block_q: BLOCKS.0, block_k: BLOCKS.1, kept },
                (None, true) => Mask::Causal,
                (None, false) => Mask::None,
            };
            let [q, k, v] = heads.head(problem);
            let attended = truth_attend(head_of([&q, &k, &v], dim), mask);
            lse.extend(attended.lse_base2());
            want.extend(attended.out);
        }
        let want = heads.in_layout(&want);
        Ok(Box::new(Self { heads, map, causal: causal == 1, rounding, kind: case.kind, want, lse }))
    }
}

impl Prepared for Softmax {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        let keys = self.map.as_ref().map_or(Keys::All, Keys::Listed);
        let how = Attend { keys, is_causal: self.causal, rounding: self.rounding, ..Attend::default() };
        let got = attend_with_lse(q, k, v, shape, &how)?;
        let mut outputs = vec![Output::new("out", shape.head_dim, &got.out), Output::new("lse", 1, &got.lse)];
        if self.map.as_ref().is_some_and(|map| map.kept() == map.key_blocks()) {
            let dense = attend_with_lse(q, k, v, shape, &Attend { keys: Keys::All, ..how })?;
            outputs.push(Output::new("dense out", shape.head_dim, &dense.out));
        }
        Ok(outputs)
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let is_sharp = matches!(self.kind, Kind::OutlierChannel | Kind::Biased | Kind::Large);
        let (bound, why) = match (self.rounding, is_sharp) {
            (Rounding::Bf16, _) => (8e-3, "bf16 keeps 8 bits: probabilities and output move by 2^-8 of themselves"),
            (Rounding::None, true) => (3e-4, "scores reach a thousand, where an f32 step is 6e-5"),
            (Rounding::None, false) => (3e-6, "sums of a few hundred products in f32"),
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

/// `proj_l`: weights of about `1 / sqrt(D)`, and a bias.
fn projection(dim: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let weight = Kind::Plain.values(dim, dim, seed + 5).into_iter().map(|value| value / (dim as f32).sqrt()).collect();
    (weight, Kind::Plain.values(1, dim, seed + 6))
}

struct Linear {
    heads: Heads,
    features: FeatureMap,
    rounding: Rounding,
    projection: (Vec<f32>, Vec<f32>),
    want: Vec<f64>,
}

impl Linear {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, choice, is_bf16] = case.sizes();
        let shape = shape_of(heads, query, key, dim, true)?;
        let mut heads = Heads::draw(case.kind, shape, case.seed);
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        [&mut heads.q, &mut heads.k, &mut heads.v].into_iter().for_each(|rows| rounding.apply_row(rows));
        let (features, oracle) = features(choice)?;
        let projection = projection(dim, case.seed);
        let (weight, bias) = (wide(&projection.0), wide(&projection.1));
        let mut want = Vec::new();
        for problem in 0..shape.problems() {
            let [q, k, v] = heads.head(problem).map(|rows| wide(&rows));
            let out = truth::linear_branch(&q, &k, &v, truth::Head { query_len: query, key_len: key, dim }, oracle);
            want.extend(truth::Projection { weight: &weight, bias: &bias }.apply(&out));
        }
        let want = heads.in_layout(&want);
        Ok(Box::new(Self { heads, features, rounding, projection, want }))
    }
}

impl Prepared for Linear {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        let projection = Some(Projection { weight: &self.projection.0, bias: &self.projection.1 });
        let how = LinearBranch { features: self.features, projection, rounding: self.rounding, isa: Isa::detect() };
        Ok(vec![Output::new("out", shape.head_dim, &linear_branch(q, k, v, shape, &how)?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let (bound, why) = match (self.rounding, self.features) {
            (Rounding::Bf16, _) => (1.5e-2, "features, state and output round to bf16"),
            (Rounding::None, FeatureMap::Relu) => (1e-5, "relu leaves few features, whose sums cancel"),
            (Rounding::None, _) => (4e-6, "sums of a thousand products in f32"),
        };
        Ok(vec![Held::within(&outputs[0], &self.want, Bound::relative_l2(bound), why)])
    }
}

struct Backward {
    heads: Heads,
    features: (FeatureMap, truth::FeatureMap),
    density: Density,
    projection: (Vec<f32>, Vec<f32>),
    out_gradient: Vec<f32>,
    /// Output, gradients of queries, keys, values, weight and bias; of the map that the twin chose.
    want: [Vec<f64>; 6],
}

impl Backward {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, choice, percent] = case.sizes();
        let density = Density::new(percent as f64 / 100.0).ok_or(Fault::Case("a percentage lies between 1 and 100"))?;
        // head by head, so that the oracle's heads lie as the twin's do
        let shape = shape_of(heads, query, key, dim, false)?;
        let heads = Heads::draw(case.kind, shape, case.seed);
        let (features, projection) = (features(choice)?, projection(dim, case.seed));
        let out_gradient = Kind::Plain.values(shape.problems() * query, dim, case.seed + 7);
        let mut prepared = Self { heads, features, density, projection, out_gradient, want: Default::default() };
        let map = prepared.sla().map(&prepared.heads.q, &prepared.heads.k, &shape)?;
        let (weight, bias) = (wide(&prepared.projection.0), wide(&prepared.projection.1));
        let mut want: [Vec<f64>; 6] = [vec![], vec![], vec![], vec![], vec![0.0; dim * dim], vec![0.0; dim]];
        for problem in 0..shape.problems() {
            let [q, k, v] = prepared.heads.head(problem).map(|rows| wide(&rows));
            let list = |block| map.list(problem, block).iter().map(|key| *key as usize).collect();
            let lists = truth::BlockLists { block_q: BLOCKS.0, block_k: BLOCKS.1, lists: (0..map.query_blocks()).map(list).collect() };
            let head = truth::Head { query_len: query, key_len: key, dim };
            let projection = truth::Projection { weight: &weight, bias: &bias };
            let gradient = wide(&prepared.out_gradient[problem * query * dim..][..query * dim]);
            want[0].extend(truth::forward(&q, &k, &v, head, &lists, features.1, projection));
            let back = truth::backward(&q, &k, &v, &gradient, head, &lists, features.1, projection);
            want[1].extend(back.q);
            want[2].extend(back.k);
            want[3].extend(back.v);
            want[4].iter_mut().zip(back.weight).for_each(|(total, value)| *total += value);
            want[5].iter_mut().zip(back.bias).for_each(|(total, value)| *total += value);
        }
        prepared.want = want;
        Ok(Box::new(prepared))
    }

    fn sla(&self) -> SparseLinear<'_> {
        SparseLinear {
            density: self.density,
            block_q: BLOCKS.0,
            block_k: BLOCKS.1,
            features: self.features.0,
            projection: Projection { weight: &self.projection.0, bias: &self.projection.1 },
            outer: Rounding::None,
            inner: Rounding::None,
            isa: Isa::detect(),
        }
    }
}

impl Prepared for Backward {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let (sla, Heads { q, k, v, shape }) = (self.sla(), &self.heads);
        let (out, saved) = sla.forward_saved(q, k, v, shape)?;
        let back = sla.backward(q, k, v, shape, &saved, &self.out_gradient)?;
        let dim = shape.head_dim;
        let rows = [("out", &out), ("dq", &back.q), ("dk", &back.k), ("dv", &back.v), ("dW", &back.weight), ("db", &back.bias)];
        Ok(rows.into_iter().map(|(name, values)| Output::new(name, dim, values)).collect())
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        // a row whose relu features are nearly all zero divides by 1e-5: gradients there reach 1e5
        let (share, bound) =
            if self.features.0 == FeatureMap::Relu { (1e-4, "1e-4 of the largest") } else { (1e-5, "1e-5 of the largest") };
        let held = outputs.iter().zip(&self.want).map(|(got, want)| {
            let largest = want.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
            Held::each(got, want, |_, _| share * largest, bound, "sums in f32")
        });
        Ok(held.collect())
    }
}
