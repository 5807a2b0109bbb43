//! Exact attention on a device, and its gradients: of attention alone, or with those of the linear branch added.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::attention::Mask;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sla::device::linear_backward::{LinearBackward, LinearGradients, LinearOperands, LinearRoom};
use turbowan_sla::device::{Attended, ExactAttention, ExactAttentionBackward, GradientsMut, InverseMap, Map, Operands, Scores, Workspace};

use super::branch::{Branch, FEATURES};
use super::gradients::{Head, Left};
use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::{Attention, BLOCKS};
use crate::bench::error::Error;
use crate::bench::host::{self, ends, kept, random_map, shape_of, wide};
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// Queries, keys, values and a map, on the host and in copies on a device.
struct Inputs {
    host: [Vec<f32>; 3],
    map: Option<BlockMap>,
    lists: Vec<Buffer<u32>>,
    qkv: [Vec<Buffer<bf16>>; 3],
}

impl Inputs {
    fn operands(&self, slot: usize) -> Operands<'_> {
        let [q, k, v] = self.qkv.each_ref().map(|copies| copies[slot].view());
        let map = self.map.as_ref().zip(self.lists.get(slot)).map(|(map, lists)| Map {
            lists: lists.view(),
            block_q: map.block_q(),
            block_k: map.block_k(),
            kept: map.kept(),
        });
        Operands { q, k, v, map }
    }

    fn check(&self, out: &[f32], shape: &Attention, rows: usize, bound: Bound) -> Check {
        let [q, k, v] = &self.host;
        let operands = host::Operands { qkv: [q, k, v], shape, map: self.map.as_ref(), projection: None };
        operands.check(out, rows, bound, "f64 attention of the same bf16 operands")
    }
}

/// Exact attention in bf16, dense or under a map.
pub struct Exact {
    shape: Attention,
    layout: AttnShape,
    stream: Stream,
    kernel: ExactAttention,
    inputs: Inputs,
    out: Vec<Buffer<bf16>>,
    lse: Vec<Buffer<f32>>,
    turn: Turn,
}

impl Exact {
    pub fn new(shape: &Attention, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let layout = shape_of(shape)?;
        let mut host = [normal(layout.query_values(), 1), normal(layout.key_values(), 2), normal(layout.key_values(), 3)];
        host.iter_mut().for_each(|values| Rounding::Bf16.apply_row(values));
        let there = |values: &[f32]| copies(stream, &to_bf16(values), slots);
        let map = random_map(shape)?;
        Ok(Self {
            shape: *shape,
            layout,
            stream: stream.clone(),
            kernel: ExactAttention::load(stream.device())?,
            inputs: Inputs {
                lists: map.as_ref().map(|map| copies(stream, map.lists(), slots)).transpose()?.unwrap_or_default(),
                map,
                qkv: [there(&host[0])?, there(&host[1])?, there(&host[2])?],
                host,
            },
            out: room(stream, layout.query_values(), slots)?,
            lse: room(stream, layout.problems() * layout.query_len, slots)?,
            turn: Turn::default(),
        })
    }

    fn forward(&mut self, slot: usize) -> Result<(), Error> {
        let (out, lse) = (self.out[slot].view_mut(), Some(self.lse[slot].view_mut()));
        Ok(self.kernel.run(&self.stream, &self.layout, Scores::default(), &self.inputs.operands(slot), out, lse)?)
    }
}

impl Work for Exact {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.out.len());
        self.forward(slot)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let out = to_f32(&self.out[self.turn.last].to_vec()?);
        Ok(self.inputs.check(&out, &self.shape, rows, bound))
    }
}

/// Its gradients; the forward pass ran before.
pub struct Backward {
    forward: Exact,
    kernel: ExactAttentionBackward,
    branch: Option<(Branch, LinearBackward, LinearRoom, [Buffer<f32>; 2])>,
    gradient: Vec<f32>,
    gradient_there: Vec<Buffer<bf16>>,
    delta: Buffer<f32>,
    inverse: Buffer<u32>,
    found: [Vec<Buffer<f32>>; 3],
    turn: Turn,
}

impl Backward {
    pub fn new(shape: &Attention, has_branch: bool, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let mut forward = Exact::new(shape, stream, slots)?;
        (0..slots).try_for_each(|slot| forward.forward(slot))?;
        let layout = forward.layout;
        let branch = match has_branch {
            true => {
                let mut branch = Branch::new(&layout, stream, slots)?;
                (0..slots).try_for_each(|slot| {
                    let Operands { k, v, .. } = forward.inputs.operands(slot);
                    branch.sum(k, v, slot)
                })?;
                let dim = layout.head_dim;
                let room = LinearRoom::allocate(stream, &layout)?;
                Some((branch, LinearBackward::load(stream.device())?, room, [stream.allocate(dim * dim)?, stream.allocate(dim)?]))
            }
            false => None,
        };
        let mut gradient = normal(layout.query_values(), 4);
        Rounding::Bf16.apply_row(&mut gradient);
        let words = forward.inputs.map.as_ref().map_or(1, |map| InverseMap::words(&layout, (map.block_q(), map.block_k())));
        Ok(Self {
            kernel: ExactAttentionBackward::load(stream.device())?,
            branch,
            gradient_there: copies(stream, &to_bf16(&gradient), slots)?,
            gradient,
            delta: stream.allocate(layout.problems() * layout.query_len)?,
            inverse: stream.allocate(words)?,
            found: [
                room(stream, layout.query_values(), slots)?,
                room(stream, layout.key_values(), slots)?,
                room(stream, layout.key_values(), slots)?,
            ],
            forward,
            turn: Turn::default(),
        })
    }

    /// The gradients of one head, of some queries and of some keys and values.
    fn truth(&self, problem: usize, (queries, keys): (&[usize], &[usize]), left: &Left<'_>) -> [Vec<f64>; 3] {
        let Attention { head_dim: dim, len, .. } = self.forward.shape;
        let of = |len: usize| problem * len * dim..(problem + 1) * len * dim;
        let [q, k, v] = &self.forward.inputs.host;
        let kept = self.forward.inputs.map.as_ref().map(|map| kept(map, problem));
        let mask = kept.as_deref().map_or(Mask::None, |kept| Mask::Blocks { block_q: BLOCKS.0, block_k: BLOCKS.1, kept });
        let key_len = self.forward.shape.key_len();
        let (k, v) = (&k[of(key_len)], &v[of(key_len)]);
        let head = Head { q: &q[of(len)], k, v, gradient: &self.gradient[of(len)], dim, mask };
        let [of_keys, of_values] = head.of_keys(keys, left);
        let mut want = [head.of_queries(queries), of_keys, of_values];
        if let Some((branch, ..)) = &self.branch {
            let [weight, bias] = branch.projection().map(wide);
            let shape = truth::Head { query_len: len, key_len, dim };
            let projection = truth::Projection { weight: &weight, bias: &bias };
            let [q, k, v, gradient] = [head.q, head.k, head.v, head.gradient].map(wide);
            let linear = truth::linear_backward(&q, &k, &v, &gradient, shape, truth::FeatureMap::Softmax, projection);
            for (want, linear) in
                want.iter_mut().zip([gather(&linear.q, dim, queries), gather(&linear.k, dim, keys), gather(&linear.v, dim, keys)])
            {
                want.iter_mut().zip(linear).for_each(|(want, linear)| *want += linear);
            }
        }
        want
    }
}

impl Work for Backward {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.gradient_there.len());
        let (forward, gradient) = (&self.forward, self.gradient_there[slot].view());
        let operands = forward.inputs.operands(slot);
        let attended = Attended { out: forward.out[slot].view(), lse: forward.lse[slot].view() };
        let workspace = Workspace { delta: self.delta.view_mut(), inverse: self.inverse.view_mut() };
        let [q, k, v] = self.found.each_mut().map(|found| found[slot].view_mut());
        let gradients = GradientsMut { q, k, v };
        let (stream, layout) = (&forward.stream, &forward.layout);
        self.kernel.run(stream, layout, Scores::default(), &operands, attended, gradient, workspace, gradients)?;
        if let Some((branch, kernel, room, projection)) = &mut self.branch {
            let operands = LinearOperands {
                q: operands.q,
                k: operands.k,
                v: operands.v,
                out_gradient: gradient,
                state: branch.state(slot),
                folded: branch.folded(slot),
                weight: Some(branch.weight()),
            };
            let [q, k, v] = self.found.each_mut().map(|found| found[slot].view_mut());
            let projection = Some(projection.each_mut().map(Buffer::view_mut));
            kernel.run(stream, layout, FEATURES, &operands, room, LinearGradients { q, k, v, projection, adds: true })?;
        }
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (slot, Attention { head_dim: dim, len, .. }) = (self.turn.last, self.forward.shape);
        let key_len = self.forward.shape.key_len();
        let (queries, keys) = (seeded_rows(len, rows), seeded_rows(key_len, rows));
        let (out, lse) = (to_f32(&self.forward.out[slot].to_vec()?), self.forward.lse[slot].to_vec()?);
        let [found_q, found_k, found_v] = &self.found;
        let found = [found_q[slot].to_vec()?, found_k[slot].to_vec()?, found_v[slot].to_vec()?];
        let mut worst = self.forward.inputs.check(&out, &self.forward.shape, rows, bound);
        // the linear branch has all gradients of a head at once: one is enough
        for problem in ends(self.forward.shape.problems()).into_iter().take(if self.branch.is_some() { 1 } else { 2 }) {
            let of = |len: usize| problem * len * dim..(problem + 1) * len * dim;
            let left = Left { out: &out[of(len)], lse: &lse[problem * len..][..len] };
            let want = self.truth(problem, (&queries, &keys), &left);
            for ((found, want), (rows, len)) in found.iter().zip(want).zip([(&queries, len), (&keys, key_len), (&keys, key_len)]) {
                let got = gather(&found[of(len)], dim, rows);
                worst = worst.worse(Check::of(
                    &got,
                    &want,
                    bound,
                    "f64 gradients; keys' and values' from the denominators of the forward pass",
                ));
            }
        }
        Ok(worst)
    }
}
