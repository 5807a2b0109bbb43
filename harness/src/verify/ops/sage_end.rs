//! What may follow INT8 attention in its kernels: a term of low rank that is added, and an int8 output.

use half::bf16;
use turbowan_cuda::host::Isa;
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule};
use turbowan_cuda::{HeadLayout, Rounding};
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla::{DENOMINATOR_FLOOR, FeatureMap as TruthMap};
use turbowan_sage::device::{Feature, Format};
use turbowan_sage::forward;
use turbowan_sla::{FeatureMap, LinearBranch, Projection, add_linear_branch};

use super::attention::{Heads, shape_of};
use super::sage::hold_lse;
use super::sage_problem::{BLOCKS, Problem, Term, kernels};
use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

/// `kept` 0 is dense; `features` 0 adds nothing, 1 is softmax, 2 elu + 1, 3 relu. Rows of 128 channels with the heads of a
/// token side by side become int8 too.
const AXES: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 200, 1),
    Axis::new("key", 1, 300, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("kept", 4),
    Axis::choice("causal", 1),
    Axis::choice("tokens-first", 1),
    Axis::choice("features", 3),
    Axis::choice("bias", 1),
];

/// Two heads of 64 rows of 128 channels, a block each, behind heads, or samples, with 2^31 values.
const FAR: &[Far] = &[
    Far { shape: &[2, 64, 64, 128, 0, 0, 0, 1, 1], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) },
    Far { shape: &[2, 64, 64, 128, 1, 0, 1, 2, 0], lead: FAR_ROWS / 128, blocks: (FAR_ROWS as u64 / 64, 2) },
];

/// What the term adds to the bound: two roundings to bf16, at random over the channels, are 2e-3 in the mean.
const TERM: f64 = 3e-3;

/// A format each.
pub const OPS: [Op; 3] = [
    op("sage-attention-f16-end", |chip| kernels(chip, Format::F16, true), |case| End::prepare(case, Format::F16)),
    op("sage-attention-e4m3-end", |chip| kernels(chip, Format::Fp8, true), |case| End::prepare(case, Format::Fp8)),
    op("sage-attention-tiled-end", |chip| kernels(chip, Format::Tiled, true), |case| End::prepare(case, Format::Tiled)),
];

const fn op(
    name: &'static str,
    kernels: fn((u32, u32)) -> Vec<&'static str>,
    prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>,
) -> Op {
    let about = "the same + (f(q) M) / (f(q) . z + 1e-5) + bias, as bf16 and as int8 rows";
    Op { name, about, axes: AXES, cases, tame, kernels, far: FAR, prepare }
}

fn cases() -> Vec<Case> {
    let shapes: [&[usize]; 7] = [
        &[1, 1, 1, 64, 0, 0, 0, 1, 1],
        &[1, 63, 65, 128, 0, 0, 1, 0, 0],
        &[1, 130, 70, 64, 0, 0, 0, 2, 1],
        &[1, 70, 70, 128, 0, 1, 1, 3, 0],
        &[1, 140, 200, 128, 1, 0, 0, 1, 0],
        &[2, 70, 133, 128, 0, 0, 1, 2, 1],
        &[2, 65, 200, 128, 4, 0, 1, 1, 1],
    ];
    Case::cross(&shapes, &[2, 70, 90, 128, 0, 0, 1, 1, 1], &Kind::ALL[1..])
}

/// As attention alone; nothing that follows is no case.
fn tame(case: &mut Case) {
    if case.shape[5] == 1 {
        (case.shape[2], case.shape[4]) = (case.shape[1], 0);
    }
    case.shape[4] = case.shape[4].min(case.shape[2].div_ceil(BLOCKS.1));
    if case.shape[7] == 0 {
        (case.shape[3], case.shape[6]) = (128, 1);
    }
    // features that grow with the keys make sums that cancel
    if case.shape[7] > 1 && case.kind == Kind::Large {
        case.kind = Kind::Plain;
    }
}

/// The feature on a device, on the host, and of the oracle; none at 0.
fn features(choice: usize) -> Result<Option<(Feature, FeatureMap, TruthMap)>, Fault> {
    match choice {
        0 => Ok(None),
        1 => Ok(Some((Feature::Softmax, FeatureMap::Softmax, TruthMap::Softmax))),
        2 => Ok(Some((Feature::Elu, FeatureMap::Elu, TruthMap::Elu))),
        3 => Ok(Some((Feature::Relu, FeatureMap::Relu, TruthMap::Relu))),
        _ => Err(Fault::Case("features are 0 to 3")),
    }
}

fn wide<T: Into<f64> + Copy>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| (*value).into()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The linear branch of sparse-linear attention as such a term.
struct Branch {
    term: Term,
    feature: FeatureMap,
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Exactly, over the state as it is stored; in the shape's layout.
    want: Vec<f64>,
}

impl Branch {
    fn new(heads: &Heads, choice: usize, has_bias: bool, seed: u64) -> Result<Option<Self>, Fault> {
        let Some((feature, of_host, oracle)) = features(choice)? else { return Ok(None) };
        let dim = heads.shape.head_dim;
        let weight: Vec<f32> = Kind::Plain.values(dim, dim, seed + 5).into_iter().map(|value| value / (dim as f32).sqrt()).collect();
        let bias = if has_bias { Kind::Plain.values(1, dim, seed + 6) } else { vec![0.0; dim] };
        let (mut q, mut state, mut want) = (Vec::new(), Vec::new(), Vec::new());
        for problem in 0..heads.shape.problems() {
            let [queries, keys, values] = heads.head(problem).map(|rows| wide(&rows));
            let phi = |rows: &[f64]| rows.chunks(dim).map(|row| oracle.apply(row)).collect::<Vec<_>>();
            // H = phi(k)^T v, then row n of the state is H W[n]
            let mut outer = vec![0.0; dim * dim];
            let mut sum = vec![0.0; dim];
            for (phi, value) in phi(&keys).iter().zip(values.chunks(dim)) {
                for (channel, phi) in phi.iter().enumerate() {
                    sum[channel] += phi;
                    outer[channel * dim..][..dim].iter_mut().zip(value).for_each(|(outer, value)| *outer += phi * value);
                }
            }
            let rows = wide(&weight);
            let exact: Vec<f64> =
                rows.chunks(dim).flat_map(|row| outer.chunks(dim).map(|outer| dot(outer, row)).collect::<Vec<_>>()).chain(sum).collect();
            let stored: Vec<bf16> = exact.into_iter().map(bf16::from_f64).collect();
            let exact = wide(&stored);
            for phi in phi(&queries) {
                let denominator = dot(&phi, &exact[dim * dim..]) + DENOMINATOR_FLOOR;
                let row = exact[..dim * dim].chunks(dim).zip(&bias);
                want.extend(row.map(|(column, bias)| dot(&phi, column) / denominator + f64::from(*bias)));
            }
            state.extend(stored);
            q.extend(queries.into_iter().map(bf16::from_f64));
        }
        let term = Term { q, state, bias: has_bias.then(|| bias.clone()), feature };
        Ok(Some(Self { term, feature: of_host, weight, bias, want: heads.in_layout(&want) }))
    }
}

struct End {
    problem: Problem,
    branch: Option<Branch>,
    /// Attention and the term, the first of the host where it takes other steps.
    want: Vec<f64>,
    host_want: Option<Vec<f64>>,
    lse: Vec<f64>,
}

impl End {
    fn prepare(case: &Case, format: Format) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, kept, causal, tokens_first, features, bias] = case.sizes();
        let mut heads = Heads::draw(case.kind, shape_of(heads, query, key, dim, tokens_first == 1)?, case.seed);
        [&mut heads.q, &mut heads.k, &mut heads.v].into_iter().for_each(|rows| *rows = bf16s(rows).1);
        let branch = Branch::new(&heads, features, bias == 1, case.seed)?;
        let problem = Problem::new(heads, format, kept, causal == 1, case.seed)?;
        let [step, host_step] = [Place::Emulator, Place::Host].map(|place| problem.step(place));
        let sum = |attended: Vec<f64>| match &branch {
            None => attended,
            Some(branch) => attended.iter().zip(&branch.want).map(|(attended, term)| attended + term).collect(),
        };
        let (attended, lse) = problem.truth(step);
        let host_want = (host_step != step).then(|| sum(problem.truth(host_step).0));
        Ok(Box::new(Self { want: sum(attended), host_want, lse, problem, branch }))
    }

    /// Whether the output can be int8.
    fn is_quantised(&self) -> bool {
        let shape = &self.problem.heads.shape;
        shape.head_dim == 128 && shape.layout == HeadLayout::Blhd
    }
}

impl Prepared for End {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Problem { heads: Heads { q, k, v, shape }, sage, map, causal, .. } = &self.problem;
        let mut out = forward(q, k, v, shape, map.as_ref(), *causal, sage)?;
        if let Some(Branch { feature, weight, bias, .. }) = &self.branch {
            let how = LinearBranch {
                features: *feature,
                projection: Some(Projection { weight, bias }),
                rounding: Rounding::None,
                isa: Isa::detect(),
            };
            add_linear_branch(q, k, v, shape, &how, &mut out)?;
        }
        Ok(vec![Output::new("out", shape.head_dim, &out)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (problem, term) = (&self.problem, self.branch.as_ref().map(|branch| &branch.term));
        let dim = problem.heads.shape.head_dim;
        let (out, lse) = problem.run(stand, problem.map.as_ref(), term)?;
        let mut outputs = vec![Output::new("out", dim, &out), Output::new("lse", 1, &lse)];
        if self.is_quantised() {
            let (values, scales) = problem.run_int8(stand, term)?;
            outputs.extend([Output::new("int8 rows", dim, &values), Output::new("int8 scales", 1, &scales)]);
        }
        Ok(outputs)
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let want = self.host_want.as_ref().filter(|_| place == Place::Host).unwrap_or(&self.want);
        let bound = self.problem.bound(place).0 + if self.branch.is_some() { TERM } else { 0.0 };
        let why = "as attention alone; the state rounds to bf16, and so do features over their denominator";
        let mut held = vec![Held::within(&outputs[0], want, Bound::relative_l2(bound), why)];
        held.extend(outputs.get(1).map(|lse| hold_lse(lse, &self.lse)));
        if let [out, _, values, scales] = outputs {
            let rows: Vec<f32> = out.values.iter().map(|value| *value as f32).collect();
            let shape = &self.problem.heads.shape;
            let int8 = Int8Rows::quantise(Int8Rule::PerToken, &rows, shape.batch * shape.query_len, shape.heads * shape.head_dim)?;
            let why = "the bytes that the quantiser makes of the bf16 output";
            held.push(Held::equal(values, &wide(int8.values()), why));
            held.push(Held::equal(scales, &wide(int8.scales()), why));
        }
        Ok(held)
    }
}
