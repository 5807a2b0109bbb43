//! Gradients of softmax attention, dense or over a block map, and of sparse-linear attention. The block map counts as a constant; sums are `f32`.
//!
//! ```text
//! P   = 2^(s log2 e - lse)      dP = do vᵀ      δ_i = o_s,i · do_i      dS = P (dP - δ)
//! dq  = scale dS k              over the key blocks listed for a query block
//! dk  = scale dSᵀ q, dv = Pᵀ do     over the query blocks that list a key block
//! ```
//!
//! Both passes recompute the scores tile by tile from the saved logarithms. In the first queries lie in the lanes, in
//! the second keys do. The linear branch's gradients come from `linear_backward` and are added.

use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::host::{Aligned, Isa};
use turbowan_cuda::{AttnShape, BlockMap, Rounding};

use crate::Error;
use crate::attend::{Attend, Keys, QueryTasks, TILE_K, TILE_Q, check_map, for_each_tile};
use crate::gradients::Gradients;
use crate::lanes::{self, LANE_GROUP};
use crate::linear_backward::linear_backward;
use crate::product::{Product, Spread, Start};
use crate::rows::{HeadRows, pack_transposed, unpack_transposed};
use crate::softmax::{Along, ScoreGradient};
use crate::sparse_linear::{Saved, SparseLinear};

impl SparseLinear<'_> {
    /// Gradients for `out_gradient` = d loss / d output, from the operands of the forward pass and what it saved.
    ///
    /// # Errors
    /// When an operand or `saved` does not fit `shape`.
    pub fn backward(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        shape: &AttnShape,
        saved: &Saved,
        out_gradient: &[f32],
    ) -> Result<Gradients, Error> {
        self.check(q, k, v, shape)?;
        turbowan_cuda::Error::expect_len("output gradient", out_gradient, shape.query_values())?;
        turbowan_cuda::Error::expect_len("saved sparse branch", &saved.sparse, shape.query_values())?;
        turbowan_cuda::Error::expect_len("saved logarithms", &saved.lse, shape.problems() * shape.query_len)?;
        check_map(&saved.map, shape)?;
        let [q, k, v] = [q, k, v].map(|values| self.inside(values));
        let scale = (shape.head_dim as f32).powf(-0.5);
        let forward = Forward { keys: Keys::Listed(&saved.map), scale, out: &saved.sparse, lse: &saved.lse, isa: self.isa };
        let [dq, dk, dv] = softmax_backward([&q, &k, &v], shape, &forward, out_gradient);
        let mut gradients = Gradients { q: dq, k: dk, v: dv, weight: Vec::new(), bias: Vec::new() };
        linear_backward(&q, &k, &v, shape, self.features, self.projection, out_gradient, self.isa, &mut gradients);
        Ok(gradients)
    }
}

/// Gradients `[dq, dk, dv]` of [`attend_with_lse`](crate::attend_with_lse), each in the layout of its operand, from what
/// it was given and what it gave: the output and the logarithms of the denominators. Probabilities are those of `f32`, whatever `how` rounds.
///
/// # Errors
/// As [`attend`](crate::attend()); [`Error::Causal`] for causal attention, which has no backward pass here.
pub fn attend_backward(
    qkv: [&[f32]; 3],
    shape: &AttnShape,
    how: &Attend<'_>,
    (out, lse): (&[f32], &[f32]),
    out_gradient: &[f32],
) -> Result<[Vec<f32>; 3], Error> {
    let [q, k, v] = qkv;
    turbowan_cuda::Error::expect_len("queries", q, shape.query_values())?;
    turbowan_cuda::Error::expect_len("keys", k, shape.key_values())?;
    turbowan_cuda::Error::expect_len("values", v, shape.key_values())?;
    turbowan_cuda::Error::expect_len("output", out, shape.query_values())?;
    turbowan_cuda::Error::expect_len("logarithms of the denominators", lse, shape.problems() * shape.query_len)?;
    turbowan_cuda::Error::expect_len("output gradient", out_gradient, shape.query_values())?;
    let scale = how.scale.unwrap_or((shape.head_dim as f32).powf(-0.5));
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(Error::Scale { found: scale });
    }
    if how.is_causal {
        return Err(Error::Causal { query_len: shape.query_len, key_len: shape.key_len });
    }
    if let Keys::Listed(map) = how.keys {
        check_map(map, shape)?;
    }
    let forward = Forward { keys: how.keys, scale, out, lse, isa: how.isa };
    Ok(softmax_backward(qkv, shape, &forward, out_gradient))
}

/// The forward pass of softmax attention, over all keys or over a map: how, and what came out.
struct Forward<'a> {
    keys: Keys<'a>,
    scale: f32,
    out: &'a [f32],
    /// `[batch * heads, query_len]`.
    lse: &'a [f32],
    isa: Isa,
}

/// `[dq, dk, dv]`.
fn softmax_backward([q, k, v]: [&[f32]; 3], shape: &AttnShape, forward: &Forward<'_>, out_gradient: &[f32]) -> [Vec<f32>; 3] {
    let delta = row_products(forward.out, out_gradient, shape);
    let factor = (f64::from(forward.scale) * std::f64::consts::LOG2_E) as f32;
    let pass = Pass { q, k, v, out_gradient, shape, forward, delta: &delta, factor };
    let [mut dq, mut dk, mut dv] = [shape.query_values(), shape.key_values(), shape.key_values()].map(|len| vec![0.0; len]);
    pass.queries(Shared::new(&mut dq));
    pass.keys(Shared::new(&mut dk), Shared::new(&mut dv));
    [dq, dk, dv]
}

/// `a_i · b_i` of every query row, `[batch * heads, query_len]`.
fn row_products(a: &[f32], b: &[f32], shape: &AttnShape) -> Vec<f32> {
    let mut products = vec![0.0; shape.problems() * shape.query_len];
    let shared = Shared::new(&mut products);
    for_each_task(shape.problems(), |problem| {
        let (a, b) = (HeadRows::queries(a, shape, problem), HeadRows::queries(b, shape, problem));
        // SAFETY: every head has its own products.
        let products = unsafe { shared.part(problem * shape.query_len, shape.query_len) };
        for (row, product) in products.iter_mut().enumerate() {
            *product = a.row(row).iter().zip(b.row(row)).map(|(a, b)| a * b).sum();
        }
    });
    products
}

struct Pass<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out_gradient: &'a [f32],
    shape: &'a AttnShape,
    forward: &'a Forward<'a>,
    /// `[batch * heads, query_len]`.
    delta: &'a [f32],
    factor: f32,
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

/// What a task works in; `own` rows are those in the lanes, `other` rows run past them.
#[derive(Default)]
struct Scratch {
    /// Two operands of the own rows, transposed, `[head_dim, lanes]` each.
    first: Aligned<f32>,
    second: Aligned<f32>,
    /// Two sums over the other rows, `[head_dim, lanes]` each.
    first_sum: Aligned<f32>,
    second_sum: Aligned<f32>,
    /// `[rows, lanes]`.
    scores: Aligned<f32>,
    gradient: Aligned<f32>,
    /// Tiles of other rows, where they do not lie together.
    first_rows: Aligned<f32>,
    second_rows: Aligned<f32>,
    /// Logarithms and deltas of the lanes.
    state: Aligned<f32>,
}

impl Pass<'_> {
    fn queries(&self, dq: Shared<'_, f32>) {
        let keys = self.forward.keys;
        let tasks = QueryTasks::new(self.shape, keys);
        for_each_task(self.shape.problems() * tasks.per_problem(), |task| {
            let (problem, task) = (task / tasks.per_problem(), task % tasks.per_problem());
            let (block, first, rows) = tasks.rows(task);
            if rows > 0 {
                SCRATCH.with_borrow_mut(|scratch| self.query_task(problem, block, first, rows, scratch, dq));
            }
        });
    }

    fn query_task(&self, problem: usize, block: usize, first: usize, rows: usize, scratch: &mut Scratch, dq: Shared<'_, f32>) {
        let dim = self.shape.head_dim;
        let lanes = rows.next_multiple_of(LANE_GROUP);
        let k = HeadRows::keys(self.k, self.shape, problem);
        let v = HeadRows::keys(self.v, self.shape, problem);
        let q_t = scratch.first.at_least(dim * lanes);
        pack_transposed(&HeadRows::queries(self.q, self.shape, problem), first, rows, lanes, q_t);
        let do_t = scratch.second.at_least(dim * lanes);
        pack_transposed(&HeadRows::queries(self.out_gradient, self.shape, problem), first, rows, lanes, do_t);
        let sum = scratch.first_sum.at_least(dim * lanes);
        sum.fill(0.0);
        let scores = scratch.scores.at_least(TILE_K * lanes);
        let gradient = scratch.gradient.at_least(TILE_K * lanes);
        let packed = scratch.first_rows.at_least(TILE_K * dim);
        let (lse, delta) = scratch.state.at_least(2 * TILE_Q).split_at_mut(TILE_Q);
        let at = problem * self.shape.query_len + first;
        lse[..rows].copy_from_slice(&self.forward.lse[at..][..rows]);
        lse[rows..].fill(0.0);
        delta[..rows].copy_from_slice(&self.delta[at..][..rows]);
        delta[rows..].fill(0.0);
        for_each_tile(self.forward.keys, self.shape.key_len, problem, block, |first_key, keys| {
            let tile = Tile { rows: keys, terms: dim, lanes, isa: self.forward.isa };
            let (keys_together, stride) = k.together(first_key, keys, packed);
            tile.spread(keys_together, stride, q_t, scores);
            tile.spread(v.from(first_key), v.stride, do_t, gradient);
            tile.score_gradient(scores, gradient, self.factor, Along::Lanes(lse), Along::Lanes(delta));
            tile.gather(keys_together, stride, gradient, sum);
        });
        unpack_transposed(sum, lanes, rows, &[self.forward.scale; TILE_Q], Rounding::None, |row| {
            // SAFETY: query rows belong to one task each.
            unsafe { dq.part(self.shape.query_offset(problem, first + row), dim) }
        });
    }

    fn keys(&self, dk: Shared<'_, f32>, dv: Shared<'_, f32>) {
        // without a map all keys are one block, listed by the one block of all queries
        let (block_k, lists) = match self.forward.keys {
            Keys::All => (self.shape.key_len, None),
            Keys::Listed(map) => (map.block_k(), Some(InverseLists::of(map, self.shape))),
        };
        let parts = block_k.div_ceil(TILE_Q);
        let tasks = self.shape.key_len.div_ceil(block_k) * parts;
        for_each_task(self.shape.problems() * tasks, |task| {
            let (problem, task) = (task / tasks, task % tasks);
            let block = task / parts;
            let first = block * block_k + task % parts * TILE_Q;
            let end = self.shape.key_len.min((block + 1) * block_k).min(first + TILE_Q);
            if first < end {
                let listing = lists.as_ref().map_or(&[0][..], |lists| lists.list(problem, block));
                SCRATCH.with_borrow_mut(|scratch| self.key_task(problem, listing, first, end - first, scratch, dk, dv));
            }
        });
    }

    #[allow(clippy::too_many_arguments, reason = "where from, where to")]
    fn key_task(
        &self,
        problem: usize,
        listing: &[u32],
        first: usize,
        rows: usize,
        scratch: &mut Scratch,
        dk: Shared<'_, f32>,
        dv: Shared<'_, f32>,
    ) {
        let dim = self.shape.head_dim;
        let lanes = rows.next_multiple_of(LANE_GROUP);
        let q = HeadRows::queries(self.q, self.shape, problem);
        let grad = HeadRows::queries(self.out_gradient, self.shape, problem);
        let k_t = scratch.first.at_least(dim * lanes);
        pack_transposed(&HeadRows::keys(self.k, self.shape, problem), first, rows, lanes, k_t);
        let v_t = scratch.second.at_least(dim * lanes);
        pack_transposed(&HeadRows::keys(self.v, self.shape, problem), first, rows, lanes, v_t);
        let (dk_t, dv_t) = (scratch.first_sum.at_least(dim * lanes), scratch.second_sum.at_least(dim * lanes));
        dk_t.fill(0.0);
        dv_t.fill(0.0);
        let scores = scratch.scores.at_least(TILE_K * lanes);
        let gradient = scratch.gradient.at_least(TILE_K * lanes);
        let (packed_q, packed_grad) = (scratch.first_rows.at_least(TILE_K * dim), scratch.second_rows.at_least(TILE_K * dim));
        let block_q = match self.forward.keys {
            Keys::All => self.shape.query_len,
            Keys::Listed(map) => map.block_q(),
        };
        for block in listing {
            let start = *block as usize * block_q;
            let end = self.shape.query_len.min(start + block_q);
            for query in (start..end).step_by(TILE_K) {
                let queries = TILE_K.min(end - query);
                let at = problem * self.shape.query_len + query;
                let tile = Tile { rows: queries, terms: dim, lanes, isa: self.forward.isa };
                let (q, q_stride) = q.together(query, queries, packed_q);
                let (grad, grad_stride) = grad.together(query, queries, packed_grad);
                tile.spread(q, q_stride, k_t, scores);
                tile.spread(grad, grad_stride, v_t, gradient);
                let (lse, delta) = (&self.forward.lse[at..][..queries], &self.delta[at..][..queries]);
                tile.score_gradient(scores, gradient, self.factor, Along::Rows(lse), Along::Rows(delta));
                tile.gather(grad, grad_stride, scores, dv_t);
                tile.gather(q, q_stride, gradient, dk_t);
            }
        }
        let offset = |row| self.shape.key_offset(problem, first + row);
        // SAFETY: key rows belong to one task each.
        unpack_transposed(dk_t, lanes, rows, &[self.forward.scale; TILE_Q], Rounding::None, |row| unsafe { dk.part(offset(row), dim) });
        // SAFETY: as above.
        unpack_transposed(dv_t, lanes, rows, &[1.0; TILE_Q], Rounding::None, |row| unsafe { dv.part(offset(row), dim) });
    }
}

/// The products of one tile: `rows` other rows against the own rows in the lanes.
struct Tile {
    rows: usize,
    terms: usize,
    lanes: usize,
    isa: Isa,
}

impl Tile {
    /// `to [rows, lanes] = rows · lanes_t`.
    fn spread(&self, rows: &[f32], stride: usize, lanes_t: &[f32], to: &mut [f32]) {
        let Self { terms, lanes, isa, .. } = *self;
        let (a, start) = (Spread::rows(rows, stride), Start::Zero);
        Product { rows: self.rows, terms, lanes, a, b: lanes_t, b_stride: lanes, c: to, c_stride: lanes, start }.run(isa);
    }

    /// `sum [terms, lanes] += rowsᵀ · weights [rows, lanes]`.
    fn gather(&self, rows: &[f32], stride: usize, weights: &[f32], sum: &mut [f32]) {
        let lanes = self.lanes;
        let (a, start) = (Spread::columns(rows, stride), Start::Keep);
        Product { rows: self.terms, terms: self.rows, lanes, a, b: weights, b_stride: lanes, c: sum, c_stride: lanes, start }.run(self.isa);
    }

    fn score_gradient(&self, scores: &mut [f32], gradient: &mut [f32], factor: f32, lse: Along<'_>, delta: Along<'_>) {
        let kernel = ScoreGradient { scores, gradient, rows: self.rows, lanes: self.lanes, factor, lse, delta };
        // SAFETY: the kernel works on its own slices and checks their lengths.
        unsafe { lanes::run(self.isa, kernel) };
    }
}

/// For each key block the query blocks that list it, ascending.
struct InverseLists {
    /// Where each list starts, `[problems * key_blocks + 1]`.
    starts: Vec<usize>,
    queries: Vec<u32>,
    key_blocks: usize,
}

impl InverseLists {
    fn of(map: &BlockMap, shape: &AttnShape) -> Self {
        let key_blocks = map.key_blocks();
        let mut starts = vec![0usize; shape.problems() * key_blocks + 1];
        let entries = || {
            (0..shape.problems()).flat_map(move |problem| {
                (0..map.query_blocks()).flat_map(move |block| {
                    map.list(problem, block).iter().map(move |key| (problem * key_blocks + *key as usize, block as u32))
                })
            })
        };
        entries().for_each(|(slot, _)| starts[slot + 1] += 1);
        for slot in 1..starts.len() {
            starts[slot] += starts[slot - 1];
        }
        let mut queries = vec![0; starts[starts.len() - 1]];
        let mut next = starts.clone();
        for (slot, block) in entries() {
            queries[next[slot]] = block;
            next[slot] += 1;
        }
        Self { starts, queries, key_blocks }
    }

    fn list(&self, problem: usize, block: usize) -> &[u32] {
        let slot = problem * self.key_blocks + block;
        &self.queries[self.starts[slot]..self.starts[slot + 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_lists_name_every_pair_once() {
        let shape = AttnShape::new(1, 2, 6, 4).unwrap();
        let map = BlockMap::new(&shape, 2, 2, 2, vec![0, 1, 0, 2, 1, 2, 0, 1, 0, 1, 0, 1]).unwrap();
        let inverse = InverseLists::of(&map, &shape);
        let lists: Vec<&[u32]> =
            (0..2).flat_map(|problem| (0..3).map(move |block| (problem, block))).map(|(p, b)| inverse.list(p, b)).collect();
        assert_eq!(lists, [&[0u32, 1][..], &[0, 2], &[1, 2], &[0, 1, 2], &[0, 1, 2], &[]]);
    }
}
