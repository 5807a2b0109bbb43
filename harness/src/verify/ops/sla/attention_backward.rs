//! Softmax attention backward: dense, causal, or over a map.

use half::bf16;
use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sla::device::attend_backward::KERNELS;
use turbowan_sla::device::inverse_map::KERNELS as INVERSE_MAP;
use turbowan_sla::device::{Attended, ExactAttention, ExactAttentionBackward, GradientsMut, InverseMap, Scores, Workspace};
use turbowan_sla::{Attend, Density, FeatureMap, Gradients, Keys, Projection, Saved, SparseLinear, attend_with_lse};

use super::attention::{BF16, tame_bf16};
use super::on_device::OnDevice;
use super::{BLOCKS, bf16_shape, drawn, head_of, is_dense, lists_of, out_gradient, whole_map, wide};
use crate::verify::ops::attention::{Heads, drawn_map};
use crate::verify::ops::{FAR_ROWS, HALF_STEP};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

const AXES: &[Axis] = BF16;

/// It is one. In `far` every launch has a block a head: the attention behind it, the map turned round, both passes.
pub const OPS: [Op; 1] = [Op {
    name: "attention-bf16-backward",
    about: "gradients of q, k and v; probabilities and gradients of scores in bf16, sums in f32",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 9] = [
            &[1, 1, 1, 64, 0, 64, 64, 0, 0],
            &[1, 63, 63, 128, 0, 64, 64, 0, 0],
            &[1, 1, 130, 64, 0, 64, 64, 0, 0],
            &[1, 130, 1, 128, 0, 64, 64, 0, 0],
            &[1, 140, 140, 64, 0, 64, 64, 1, 0],
            &[1, 130, 200, 64, 1, 192, 64, 0, 0],
            &[1, 130, 130, 128, 3, 128, 64, 0, 0],
            &[1, 50, 200, 64, 2, 64, 128, 0, 0],
            &[2, 130, 150, 128, 2, 64, 64, 0, 1],
        ];
        Case::cross(&shapes, &[1, 70, 130, 64, 0, 64, 64, 0, 1], &Kind::ALL[1..])
    },
    tame: tame_bf16,
    kernels: |chip| KERNELS.iter().chain(&INVERSE_MAP).map(|kernel| (kernel.choose)(chip).1).collect(),
    far: &[Far { shape: &[2, 64, 64, 64, 1, 64, 64, 0, 0], lead: FAR_ROWS / 32, blocks: (FAR_ROWS as u64 / 32, 2) }],
    prepare: Backward::prepare,
}];

struct Backward {
    heads: Heads,
    map: Option<BlockMap>,
    causal: bool,
    kind: Kind,
    out_gradient: Vec<f32>,
    /// Of queries, keys and values, in their layouts; and the same sums with every term made positive.
    want: [Vec<f64>; 3],
    sizes: [Vec<f64>; 3],
}

const NAMES: [&str; 3] = ["dq", "dk", "dv"];

impl Backward {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, kept, block_q, block_k, causal, tokens_first] = case.sizes();
        let shape = bf16_shape([heads, query, key, dim], tokens_first)?;
        let heads = drawn(case, shape, Rounding::Bf16);
        let map = if kept == 0 { None } else { Some(drawn_map(&shape, (block_q, block_k), kept, case.seed)?) };
        let mut prepared = Self {
            out_gradient: out_gradient(&shape, case.seed),
            heads,
            map,
            causal: causal == 1,
            kind: case.kind,
            want: Default::default(),
            sizes: Default::default(),
        };
        for problem in 0..shape.problems() {
            let head = prepared.head(problem);
            let [q, k, v, g] = &head.rows;
            let (lists, causal) = (head.lists.as_ref(), prepared.causal);
            let exact = truth::sparse_backward(q, k, v, g, head.head, lists, head.head.scale(), causal);
            prepared.want.iter_mut().zip([exact.q, exact.k, exact.v]).for_each(|(all, one)| all.extend(one));
            prepared.sizes.iter_mut().zip(head.sizes(causal)).for_each(|(all, one)| all.extend(one));
        }
        for values in [&mut prepared.want, &mut prepared.sizes] {
            let [q, k, v] = &*values;
            *values = [prepared.heads.in_layout(q), prepared.heads.keys_in_layout(k), prepared.heads.keys_in_layout(v)];
        }
        Ok(Box::new(prepared))
    }

    fn head(&self, problem: usize) -> OneHead {
        let [q, k, v] = self.heads.head(problem).map(|rows| wide(&rows));
        let g = wide(&self.heads.queries(&self.out_gradient, problem));
        let lists = self.map.as_ref().map(|map| lists_of(map, problem));
        OneHead { rows: [q, k, v, g], lists, head: head_of(&self.heads.shape) }
    }

    /// The gradients on a device, under the map or, without one, dense.
    fn on(&self, stand: &Stand, map: Option<&BlockMap>) -> Result<[Vec<f32>; 3], Fault> {
        let there = OnDevice::new(stand, &self.heads, map)?;
        let out_gradient: Vec<bf16> = self.out_gradient.iter().map(|value| bf16::from_f32(*value)).collect();
        let out_gradient = there.upload(stand, &out_gradient)?;
        let (own, shape) = (&self.heads.shape, &there.shape);
        let rows = own.problems() * own.query_len;
        let mut out = there.room::<bf16>(stand, own.query_values())?;
        let (mut lse, mut delta) = (there.room(stand, rows)?, there.room(stand, rows)?);
        let words = map.map_or(0, |map| InverseMap::words(own, (map.block_q(), map.block_k())));
        let mut inverse = there.room(stand, words)?;
        let mut gradients: [_; 3] =
            [there.room(stand, own.query_values())?, there.room(stand, own.key_values())?, there.room(stand, own.key_values())?];
        let (forward, backward) = (ExactAttention::load(stand.device())?, ExactAttentionBackward::load(stand.device())?);
        let scores = Scores { is_causal: self.causal, ..Scores::default() };
        stand.launch(|stream| {
            let operands = there.operands();
            forward.run(stream, shape, scores, &operands, out.view_mut(), Some(lse.view_mut()))?;
            let attended = Attended { out: out.view(), lse: lse.view() };
            let workspace = Workspace { delta: delta.view_mut(), inverse: inverse.view_mut() };
            let [q, k, v] = gradients.each_mut().map(|gradient| gradient.view_mut());
            let to = GradientsMut { q, k, v };
            Ok(backward.run(stream, shape, scores, &operands, attended, out_gradient.view(), workspace, to)?)
        })?;
        let [q, k, v] = &gradients;
        Ok([stand.results(q, own.query_values())?, stand.results(k, own.key_values())?, stand.results(v, own.key_values())?])
    }

    fn outputs(&self, names: [&'static str; 3], gradients: [Vec<f32>; 3]) -> Vec<Output> {
        let dim = self.heads.shape.head_dim;
        names.into_iter().zip(gradients).map(|(name, values)| Output::new(name, dim, &values)).collect()
    }
}

impl Prepared for Backward {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        if !self.causal {
            let map = self.map.clone().map_or_else(|| whole_map(shape), Ok)?;
            let back = twin([q, k, v, &self.out_gradient], shape, map)?;
            return Ok(self.outputs(NAMES, [back.q, back.k, back.v]));
        }
        // the twin has no causal pass; causal attention is that of each query to the keys up to it
        let mut gradients = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
        for problem in 0..shape.problems() {
            let [_, keys, values] = self.heads.head(problem);
            for row in 0..shape.query_len {
                let (at, seen) = (shape.query_offset(problem, row), (row + 1) * shape.head_dim);
                let one = AttnShape::cross(1, 1, 1, row + 1, shape.head_dim)?;
                let rows = [&q[at..][..shape.head_dim], &keys[..seen], &values[..seen], &self.out_gradient[at..][..shape.head_dim]];
                let back = twin(rows, &one, whole_map(&one)?)?;
                gradients[0][at..][..shape.head_dim].copy_from_slice(&back.q);
                for (sums, parts) in gradients[1..].iter_mut().zip([&back.k, &back.v]) {
                    for (key, part) in parts.chunks(shape.head_dim).enumerate() {
                        sums[shape.key_offset(problem, key)..].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                }
            }
        }
        Ok(self.outputs(NAMES, gradients))
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let mut outputs = self.outputs(NAMES, self.on(stand, self.map.as_ref())?);
        let dense = self.map.as_ref().filter(|map| stand.lead() == 0 && is_dense(map, &self.heads.shape));
        if dense.is_some() {
            outputs.extend(self.outputs(["dense dq", "dense dk", "dense dv"], self.on(stand, None)?));
        }
        Ok(outputs)
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let mut held = Vec::new();
        for ((got, want), sizes) in outputs.iter().zip(&self.want).zip(&self.sizes) {
            // what f32 loses below its range is no error
            let allowed = |index: usize, _: f64| ROUNDINGS * sizes[index] + 1e-25;
            let why = "bf16 rounds the probabilities, the output behind delta, and the gradients of the scores";
            held.push(Held::each(got, want, allowed, "2 x 2^-8 of its terms", why));
            let is_nothing = want.iter().all(|value| value.abs() < 1e-9);
            // elsewhere nearly all of a row lies in one key, or in what all keys share, and dp - delta is what is left of both
            if matches!(self.kind, Kind::Plain | Kind::ZeroBlock) && !is_nothing {
                held.push(
                    Held::within(got, want, Bound::relative_l2(6e-3), "the same roundings, of either sign").called(as_a_whole(got.name)),
                );
            }
        }
        for (dense, got) in outputs.iter().skip(3).zip(outputs) {
            held.push(Held::equal(dense, &got.values, "a map that keeps all is dense attention, bit for bit"));
        }
        Ok(held)
    }
}

/// A term goes through up to four roundings to bf16, which never all go one way by half a unit each.
const ROUNDINGS: f64 = 2.0 * HALF_STEP;

fn as_a_whole(name: &str) -> &'static str {
    match name {
        "dq" => "dq as a whole",
        "dk" => "dk as a whole",
        _ => "dv as a whole",
    }
}

/// The host's gradients of queries, keys and values; with a projection of zeros the linear branch has none.
fn twin([q, k, v, out_gradient]: [&[f32]; 4], shape: &AttnShape, map: BlockMap) -> Result<Gradients, Fault> {
    let how = Attend { keys: Keys::Listed(&map), rounding: Rounding::Bf16, ..Attend::default() };
    let attended = attend_with_lse(q, k, v, shape, &how)?;
    let zeros = vec![0.0; shape.head_dim * shape.head_dim];
    let sla = SparseLinear {
        density: Density::DENSE,
        block_q: BLOCKS.0,
        block_k: BLOCKS.1,
        features: FeatureMap::Softmax,
        projection: Projection { weight: &zeros, bias: &zeros[..shape.head_dim] },
        outer: Rounding::Bf16,
        inner: Rounding::Bf16,
        isa: Isa::detect(),
    };
    let saved = Saved { map, sparse: attended.out, lse: attended.lse };
    Ok(sla.backward(q, k, v, shape, &saved, out_gradient)?)
}

struct OneHead {
    /// Queries, keys, values, the output's gradient.
    rows: [Vec<f64>; 4],
    lists: Option<truth::BlockLists>,
    head: truth::Head,
}

impl OneHead {
    /// What roundings of the terms of `dq`, `dk` and `dv` are shares of: the sums of the terms without their signs, `dp` and
    /// delta apart.
    fn sizes(&self, causal: bool) -> [Vec<f64>; 3] {
        let ([q, k, v, g], dim, scale) = (&self.rows, self.head.dim, self.head.scale());
        let size = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
        let positive: Vec<f64> = v.iter().map(|v| v.abs()).collect();
        let attended = truth::sparse_attention(q, k, &positive, self.head, self.lists.as_ref(), scale, causal);
        let mut sizes = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
        for query in 0..self.head.query_len {
            let of = |rows: &[f64]| rows[query * dim..][..dim].to_vec();
            let (q, g, delta) = (of(q), of(g), size(&of(&attended.out), &of(g)));
            for key in 0..self.head.key_len {
                if (causal && key > query) || self.lists.as_ref().is_some_and(|lists| !lists.keeps(query, key)) {
                    continue;
                }
                let (k, v) = (&k[key * dim..][..dim], &v[key * dim..][..dim]);
                let score = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * scale;
                let share = (score - attended.lse[query] * std::f64::consts::LN_2).exp();
                let gradient = share * (size(&g, v) + delta) * scale;
                for channel in 0..dim {
                    sizes[0][query * dim + channel] += gradient * k[channel].abs();
                    sizes[1][key * dim + channel] += gradient * q[channel].abs();
                    sizes[2][key * dim + channel] += share * g[channel].abs();
                }
            }
        }
        sizes
    }
}
