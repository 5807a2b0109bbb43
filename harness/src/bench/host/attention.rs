//! Attention on the host: the twins alone, and as the transformer calls them.

use std::time::{Duration, Instant};

use turbowan_cuda::{AttnShape, BlockMap, HeadLayout, Rounding};
use turbowan_reference::attention::{Head, Mask, attend_rows};
use turbowan_reference::inputs::{Seeded, normal};
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sage::{Sage, ValuePrecision, forward};
use turbowan_sla::{Attend, FeatureMap, Keys, Projection, Saved, SparseLinear, attend, block_map};
use turbowan_wan_model::attention::{Attention as Kind, SlaProjection, Sparsity};
use turbowan_wan_model::backend::Heads;
use turbowan_wan_model::backend::host::{Host, HostTensor};

use crate::bench::case::{Attention, BLOCKS, Op};
use crate::bench::error::Error;
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// The weights of `proj_l` are this times standard normal: small, as trained ones are.
pub const PROJECTION: f32 = 0.05;

/// The shape in the words of the attention crates.
pub fn shape_of(shape: &Attention) -> Result<AttnShape, Error> {
    Ok(AttnShape::cross(shape.batch, shape.heads, shape.len, shape.key_len(), shape.head_dim)?)
}

/// A map of seeded blocks, each query block its own.
pub fn random_map(shape: &Attention) -> Result<Option<BlockMap>, Error> {
    if shape.topk.is_none() {
        return Ok(None);
    }
    let ((queries, keys), kept) = (shape.blocks(), shape.kept_blocks());
    let mut random = Seeded::new(11);
    let mut lists = Vec::with_capacity(shape.problems() * queries * kept);
    for _ in 0..shape.problems() * queries {
        let mut list = std::collections::BTreeSet::new();
        while list.len() < kept {
            list.insert(random.below(keys) as u32);
        }
        lists.extend(list);
    }
    Ok(Some(BlockMap::new(&shape_of(shape)?, BLOCKS.0, BLOCKS.1, kept, lists)?))
}

/// Which blocks of one head are kept, `[query blocks, key blocks]`.
pub fn kept(map: &BlockMap, problem: usize) -> Vec<bool> {
    let mut kept = vec![false; map.query_blocks() * map.key_blocks()];
    for block in 0..map.query_blocks() {
        map.list(problem, block).iter().for_each(|key| kept[block * map.key_blocks() + *key as usize] = true);
    }
    kept
}

/// What attention is worked out from again in f64, all `[problems, _, dim]`.
pub struct Operands<'a> {
    pub qkv: [&'a [f32]; 3],
    pub shape: &'a Attention,
    pub map: Option<&'a BlockMap>,
    /// Weight and bias of the projection, where the linear branch is added.
    pub projection: Option<[&'a [f32]; 2]>,
}

impl Operands<'_> {
    /// Seeded rows of the first and of the last head of `out` against f64 attention.
    pub fn check(&self, out: &[f32], rows: usize, bound: Bound, truth: &'static str) -> Check {
        let ([q, k, v], shape) = (self.qkv, self.shape);
        let (dim, len, keys) = (shape.head_dim, shape.len, shape.key_len());
        let rows = seeded_rows(len, rows);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for problem in ends(shape.problems()) {
            let of = |len: usize| problem * len * dim..(problem + 1) * len * dim;
            let head = Head { query: &q[of(len)], key: &k[of(keys)], value: &v[of(keys)], head_dim: dim };
            let kept = self.map.map(|map| kept(map, problem));
            let mask = kept.as_deref().map_or(Mask::None, |kept| Mask::Blocks { block_q: BLOCKS.0, block_k: BLOCKS.1, kept });
            let mut rows_of_head = attend_rows(head, mask, &rows).out;
            if let Some(projection) = self.projection {
                let linear = linear_rows([head.query, head.key, head.value], dim, &rows, projection);
                rows_of_head.iter_mut().zip(linear).for_each(|(want, linear)| *want += linear);
            }
            want.extend(rows_of_head);
            got.extend(gather(&out[of(len)], dim, &rows));
        }
        Check::of(&got, &want, bound, truth)
    }
}

/// The first and the last of `count`.
pub fn ends(count: usize) -> std::collections::BTreeSet<usize> {
    [0, count.saturating_sub(1)].into()
}

/// Rows `rows` of the linear branch of one head in f64, projected.
pub fn linear_rows([q, k, v]: [&[f32]; 3], dim: usize, rows: &[usize], [weight, bias]: [&[f32]; 2]) -> Vec<f64> {
    let shape = truth::Head { query_len: rows.len(), key_len: k.len() / dim, dim };
    let linear = truth::linear_branch(&wide(&gather(q, dim, rows)), &wide(k), &wide(v), shape, truth::FeatureMap::Softmax);
    truth::Projection { weight: &wide(weight), bias: &wide(bias) }.apply(&linear)
}

/// As f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// A twin alone, on `[batch, heads, len, head_dim]`.
struct Twin {
    shape: Attention,
    layout: AttnShape,
    qkv: [Vec<f32>; 3],
    map: Option<BlockMap>,
    /// None is exact attention.
    sage: Option<Sage>,
    out: Vec<f32>,
}

/// Exact or INT8 attention alone.
pub fn kernel(op: &Op) -> Result<Box<dyn Work>, Error> {
    let (shape, values) = match op {
        Op::AttentionSage(shape) => (shape, Some(ValuePrecision::Int8)),
        Op::AttentionSageF32(shape) => (shape, Some(ValuePrecision::F32)),
        Op::AttentionDense(shape) => (shape, None),
        _ => return Err(Error::case(&op.name(), "is no attention")),
    };
    let layout = shape_of(shape)?;
    let sage = match shape.topk {
        Some(_) => Sage { operands: Rounding::None, ..Sage::sagesla(BLOCKS.0, BLOCKS.1) },
        None => Sage::default(),
    };
    let qkv = [normal(layout.query_values(), 1), normal(layout.key_values(), 2), normal(layout.key_values(), 3)];
    let sage = values.map(|values| sage.with_values(values));
    Ok(Box::new(Twin { shape: *shape, layout, qkv, map: random_map(shape)?, sage, out: Vec::new() }))
}

impl Work for Twin {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let [q, k, v] = &self.qkv;
        let started = Instant::now();
        let out = match &self.sage {
            Some(sage) => forward(q, k, v, &self.layout, self.map.as_ref(), false, sage)?,
            None => {
                let keys = self.map.as_ref().map_or(Keys::All, Keys::Listed);
                attend(q, k, v, &self.layout, &Attend { keys, ..Attend::default() })?
            }
        };
        let taken = started.elapsed();
        self.out = out;
        Ok(Some(taken))
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let [q, k, v] = &self.qkv;
        let operands = Operands { qkv: [q, k, v], shape: &self.shape, map: self.map.as_ref(), projection: None };
        Ok(operands.check(&self.out, rows, bound, "f64 attention"))
    }
}

/// Self-attention as the transformer calls it, on `[batch * len, heads * head_dim]`.
struct Whole {
    shape: Attention,
    kind: Kind,
    qkv: [HostTensor; 3],
    projection: SlaProjection,
    out: Vec<f32>,
}

/// Self-attention as the transformer calls it.
pub fn whole(op: &Op) -> Result<Box<dyn Work>, Error> {
    let shape = *op.attention().ok_or_else(|| Error::case(&op.name(), "is no attention"))?;
    if shape.key_len() != shape.len {
        return Err(Error::case(&op.name(), "self-attention has as many keys as queries"));
    }
    let official = Sparsity::official(shape.density());
    let kind = match op {
        Op::SelfSage(_) => Kind::Sage,
        Op::SelfSla(_) => Kind::Sla(Sparsity { inner: Rounding::None, ..official }),
        Op::SelfSageSla(_) => Kind::SageSla(official),
        _ => Kind::Original,
    };
    let (width, dim) = (shape.heads * shape.head_dim, shape.head_dim);
    let qkv = [1, 2, 3].map(|seed| HostTensor { width, values: normal(shape.batch * shape.len * width, seed) });
    let weight = normal(dim * dim, 4).iter().map(|w| w * PROJECTION).collect();
    Ok(Box::new(Whole { shape, kind, qkv, projection: SlaProjection { weight, bias: vec![0.0; dim] }, out: Vec::new() }))
}

impl Work for Whole {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let heads = Heads { batch: self.shape.batch, heads: self.shape.heads, head_dim: self.shape.head_dim };
        let [q, k, v] = &self.qkv;
        let host = Host { rounding: Rounding::None };
        let started = Instant::now();
        let out = host.self_attention([q, k, v], heads, &self.kind, Some(&self.projection))?;
        let taken = started.elapsed();
        self.out = out.rows.values;
        Ok(Some(taken))
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let Attention { heads, len, head_dim: dim, .. } = self.shape;
        let rows = seeded_rows(len, rows);
        // one head of the first sample, [len, dim], out of [len, heads * dim]
        let head_of = |values: &[f32], head: usize| -> Vec<f32> {
            values.chunks(heads * dim).take(len).flat_map(|row| row[head * dim..][..dim].iter().copied()).collect()
        };
        let sparsity = match self.kind {
            Kind::Sla(sparsity) | Kind::SageSla(sparsity) => Some(sparsity),
            Kind::Original | Kind::Sage => None,
        };
        let layout = AttnShape::new(self.shape.batch, heads, len, dim)?.with_layout(HeadLayout::Blhd);
        let [q, k, v] = &self.qkv;
        let map = match sparsity {
            Some(s) => Some(block_map(&q.values, &k.values, &layout, (s.block_q, s.block_k), s.density, Rounding::None)?),
            None => None,
        };
        let mut checks = Vec::new();
        for head in ends(heads) {
            let [q, k, v] = [&q.values, &k.values, &v.values].map(|values| head_of(values, head));
            let kept = map.as_ref().map(|map| kept(map, head));
            let mask = kept.as_deref().map_or(Mask::None, |kept| Mask::Blocks { block_q: BLOCKS.0, block_k: BLOCKS.1, kept });
            let mut want = attend_rows(Head { query: &q, key: &k, value: &v, head_dim: dim }, mask, &rows).out;
            if map.is_some() {
                let linear = linear_rows([&q, &k, &v], dim, &rows, [&self.projection.weight, &self.projection.bias]);
                want.iter_mut().zip(linear).for_each(|(want, linear)| *want += linear);
            }
            let got = gather(&head_of(&self.out, head), dim, &rows);
            let truth = if map.is_some() { "f64 sparse-linear attention under the host's map" } else { "f64 attention" };
            checks.push(Check::of(&got, &want, bound, truth));
        }
        checks.into_iter().reduce(Check::worse).ok_or_else(|| Error::case("self-attention", "no heads"))
    }
}

/// The gradients of sparse-linear attention.
pub struct Backward {
    shape: Attention,
    layout: AttnShape,
    qkv: [Vec<f32>; 3],
    gradient: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    saved: Option<Saved>,
    got: [Vec<f32>; 3],
}

impl Backward {
    pub fn new(shape: &Attention) -> Result<Self, Error> {
        let layout = shape_of(shape)?;
        let dim = shape.head_dim;
        let mut this = Self {
            shape: *shape,
            layout,
            qkv: [normal(layout.query_values(), 1), normal(layout.key_values(), 2), normal(layout.key_values(), 3)],
            gradient: normal(layout.query_values(), 4),
            weight: normal(dim * dim, 5).iter().map(|w| w * PROJECTION).collect(),
            bias: normal(dim, 6),
            saved: None,
            got: Default::default(),
        };
        let [q, k, v] = &this.qkv;
        let saved = this.how().forward_saved(q, k, v, &this.layout)?.1;
        this.saved = Some(saved);
        Ok(this)
    }

    fn how(&self) -> SparseLinear<'_> {
        SparseLinear {
            density: self.shape.density(),
            block_q: BLOCKS.0,
            block_k: BLOCKS.1,
            features: FeatureMap::Softmax,
            projection: Projection { weight: &self.weight, bias: &self.bias },
            outer: Rounding::None,
            inner: Rounding::None,
            isa: turbowan_cuda::host::Isa::detect(),
        }
    }
}

impl Work for Backward {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let [q, k, v] = &self.qkv;
        let saved = self.saved.as_ref().ok_or_else(|| Error::case("sla/backward", "nothing was saved"))?;
        let started = Instant::now();
        let gradients = self.how().backward(q, k, v, &self.layout, saved, &self.gradient)?;
        let taken = started.elapsed();
        self.got = [gradients.q, gradients.k, gradients.v];
        Ok(Some(taken))
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let (dim, len, keys) = (self.shape.head_dim, self.shape.len, self.shape.key_len());
        let saved = self.saved.as_ref().ok_or_else(|| Error::case("sla/backward", "nothing was saved"))?;
        let lists = (0..saved.map.query_blocks()).map(|block| saved.map.list(0, block).iter().map(|key| *key as usize).collect()).collect();
        let lists = truth::BlockLists { block_q: BLOCKS.0, block_k: BLOCKS.1, lists };
        let (weight, bias) = (wide(&self.weight), wide(&self.bias));
        let [q, k, v] = &self.qkv;
        let want = truth::backward(
            &wide(&q[..len * dim]),
            &wide(&k[..keys * dim]),
            &wide(&v[..keys * dim]),
            &wide(&self.gradient[..len * dim]),
            truth::Head { query_len: len, key_len: keys, dim },
            &lists,
            truth::FeatureMap::Softmax,
            truth::Projection { weight: &weight, bias: &bias },
        );
        let checks = [(&self.got[0], want.q), (&self.got[1], want.k), (&self.got[2], want.v)]
            .map(|(got, want)| Check::of(&got[..want.len()], &want, bound, "f64 gradients of the first head under the same map"));
        let [q, k, v] = checks;
        Ok(q.worse(k).worse(v))
    }
}

/// The choice of key blocks.
pub struct Map {
    shape: Attention,
    layout: AttnShape,
    q: Vec<f32>,
    k: Vec<f32>,
    map: Option<BlockMap>,
}

impl Map {
    pub fn new(shape: &Attention) -> Result<Self, Error> {
        let layout = shape_of(shape)?;
        Ok(Self { shape: *shape, layout, q: normal(layout.query_values(), 1), k: normal(layout.key_values(), 2), map: None })
    }
}

impl Work for Map {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        self.map = Some(block_map(&self.q, &self.k, &self.layout, BLOCKS, self.shape.density(), Rounding::None)?);
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let map = self.map.as_ref().ok_or_else(|| Error::case("block-map", "has not run"))?;
        let (dim, len, keys) = (self.shape.head_dim, self.shape.len, self.shape.key_len());
        let head = truth::Head { query_len: len, key_len: keys, dim };
        let scores = truth::pooled_scores(&wide(&self.q[..len * dim]), &wide(&self.k[..keys * dim]), head, BLOCKS.0, BLOCKS.1);
        Ok(check_lists(&scores, map.key_blocks(), &seeded_rows(map.query_blocks(), rows), |block| map.list(0, block), bound))
    }
}

/// The scores of the blocks that were kept against the highest there are, row by row: equal but for ties.
pub fn check_lists<'a>(scores: &[f64], key_blocks: usize, blocks: &[usize], list: impl Fn(usize) -> &'a [u32], bound: Bound) -> Check {
    let (mut got, mut want) = (Vec::new(), Vec::new());
    for &block in blocks {
        let row = &scores[block * key_blocks..][..key_blocks];
        let highest_first = |mut scores: Vec<f64>| {
            scores.sort_by(|a, b| b.total_cmp(a));
            scores
        };
        let kept = list(block);
        got.extend(highest_first(kept.iter().map(|key| row[*key as usize]).collect()));
        want.extend(highest_first(row.to_vec()).into_iter().take(kept.len()));
    }
    Check::of(&got, &want, bound, "the highest f64 scores")
}
