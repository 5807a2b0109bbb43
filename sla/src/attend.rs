//! Exact softmax attention in floating point, over all keys or over a block map.
//!
//! ```text
//! s    = q kᵀ · scale          scores of a tile of 64 queries x 64 keys
//! m, l = running maximum and sum of 2^(s log2 e), for each query
//! o    = Σ 2^(s log2 e - m) v / l
//! ```
//!
//! The online softmax of Milakov and Gimelshein (2018) in tiles, as in FlashAttention: no matrix of all scores exists.
//! A task is 64 queries of one head; they lie in the lanes of registers (`qᵀ`, `sᵀ`, `oᵀ`), while keys and values are
//! read where they are. Tasks share nothing, so the number of threads cannot change a bit.

use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::host::{Aligned, Isa};
use turbowan_cuda::{AttnShape, BlockMap, Rounding};

use crate::Error;
use crate::lanes::{self, LANE_GROUP};
use crate::product::{Product, Spread, Start};
use crate::rows::{HeadRows, pack_transposed, unpack_transposed};
use crate::softmax::OnlineSoftmax;

/// Queries of a task, and lanes of a tile.
pub(crate) const TILE_Q: usize = 64;
/// Keys of a tile.
pub(crate) const TILE_K: usize = 64;

/// Which keys a query attends to.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a> {
    /// Every key: dense attention.
    All,
    /// The key blocks that a map lists for the query's block.
    Listed(&'a BlockMap),
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// Which keys a query attends to.
    pub keys: Keys<'a>,
    /// Whether query `i` attends to the keys `0..=i` alone; only with [`Keys::All`] and as many queries as keys.
    pub is_causal: bool,
    /// What scores are multiplied by; `head_dim^-1/2` where it is `None`.
    pub scale: Option<f32>,
    /// With [`Rounding::Bf16`] the operands hold bf16 values, the unnormalised probabilities are rounded to bf16 before
    /// they meet the values, and the output is rounded: the official arithmetic. Sums stay `f32` either way.
    pub rounding: Rounding,
    /// Instruction set of the loops.
    pub isa: Isa,
}

impl Default for Attend<'_> {
    /// Dense attention in `f32`, with the best instructions of this machine.
    fn default() -> Self {
        Self { keys: Keys::All, is_causal: false, scale: None, rounding: Rounding::None, isa: Isa::detect() }
    }
}

/// An output and what its backward pass needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Attended {
    /// In the layout of the queries.
    pub out: Vec<f32>,
    /// Base-2 logarithm of each query's softmax denominator, `[batch * heads, query_len]`.
    pub lse: Vec<f32>,
}

/// Attention of `q` to `k` and `v`, in the layout and shape that `shape` says; the output has the queries' shape.
///
/// # Errors
/// When an operand's length, the map, the scale or the causal flag does not fit `shape`.
pub fn attend(q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape, how: &Attend<'_>) -> Result<Vec<f32>, Error> {
    let mut out = vec![0.0; shape.query_values()];
    attend_into(q, k, v, shape, how, &mut out, None)?;
    Ok(out)
}

/// As [`attend`], keeping the logarithms of the denominators.
///
/// # Errors
/// As [`attend`].
pub fn attend_with_lse(q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape, how: &Attend<'_>) -> Result<Attended, Error> {
    let mut attended = Attended { out: vec![0.0; shape.query_values()], lse: vec![0.0; shape.problems() * shape.query_len] };
    attend_into(q, k, v, shape, how, &mut attended.out, Some(&mut attended.lse))?;
    Ok(attended)
}

/// As [`attend`], into `out` (every value is written) and, where given, `lse [batch * heads, query_len]`.
///
/// # Errors
/// As [`attend`], and when `out` or `lse` has another length.
pub fn attend_into(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttnShape,
    how: &Attend<'_>,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) -> Result<(), Error> {
    turbowan_cuda::Error::expect_len("queries", q, shape.query_values())?;
    turbowan_cuda::Error::expect_len("keys", k, shape.key_values())?;
    turbowan_cuda::Error::expect_len("values", v, shape.key_values())?;
    turbowan_cuda::Error::expect_len("output", out, shape.query_values())?;
    if let Some(lse) = &lse {
        turbowan_cuda::Error::expect_len("logarithms of the denominators", lse, shape.problems() * shape.query_len)?;
    }
    let scale = how.scale.unwrap_or((shape.head_dim as f32).powf(-0.5));
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(Error::Scale { found: scale });
    }
    if how.is_causal && (shape.query_len != shape.key_len || matches!(how.keys, Keys::Listed(_))) {
        return Err(Error::Causal { query_len: shape.query_len, key_len: shape.key_len });
    }
    if let Keys::Listed(map) = how.keys {
        check_map(map, shape)?;
    }
    let run = Run {
        q,
        k,
        v,
        shape,
        how,
        factor: (f64::from(scale) * std::f64::consts::LOG2_E) as f32,
        out: Shared::new(out),
        lse: lse.map(Shared::new),
    };
    let tasks = QueryTasks::new(shape, how.keys);
    for_each_task(shape.problems() * tasks.per_problem(), |task| SCRATCH.with_borrow_mut(|scratch| run.task(&tasks, task, scratch)));
    Ok(())
}

/// Whether a map was made for a shape.
pub(crate) fn check_map(map: &BlockMap, shape: &AttnShape) -> Result<(), Error> {
    let expected = (shape.query_len.div_ceil(map.block_q()), shape.key_len.div_ceil(map.block_k()));
    let found = (map.query_blocks(), map.key_blocks());
    let found_problems = map.lists().len() / (map.query_blocks() * map.kept()).max(1);
    if expected == found && found_problems == shape.problems() {
        Ok(())
    } else {
        Err(Error::MapShape { expected, found, expected_problems: shape.problems(), found_problems })
    }
}

/// How a head's queries are cut into tasks: at most [`TILE_Q`] rows, none across two query blocks.
pub(crate) struct QueryTasks {
    block: usize,
    tasks_a_block: usize,
    blocks: usize,
    query_len: usize,
}

impl QueryTasks {
    pub fn new(shape: &AttnShape, keys: Keys<'_>) -> Self {
        let block = match keys {
            Keys::All => TILE_Q,
            Keys::Listed(map) => map.block_q(),
        };
        Self { block, tasks_a_block: block.div_ceil(TILE_Q), blocks: shape.query_len.div_ceil(block), query_len: shape.query_len }
    }

    /// Tasks of a head; the last ones may have no rows.
    pub fn per_problem(&self) -> usize {
        self.blocks * self.tasks_a_block
    }

    /// Query block, first row and number of rows of a head's task.
    pub fn rows(&self, task: usize) -> (usize, usize, usize) {
        let (block, part) = (task / self.tasks_a_block, task % self.tasks_a_block);
        let first = block * self.block + part * TILE_Q;
        let end = self.query_len.min((block + 1) * self.block).min(first + TILE_Q);
        (block, first, end.saturating_sub(first))
    }
}

/// Runs `tile(first key, keys)` over the keys of query block `block`, at most [`TILE_K`] at a time, ascending.
pub(crate) fn for_each_tile(keys: Keys<'_>, key_len: usize, problem: usize, block: usize, mut tile: impl FnMut(usize, usize)) {
    let mut run = |first: usize, end: usize| {
        for first in (first..end).step_by(TILE_K) {
            tile(first, TILE_K.min(end - first));
        }
    };
    match keys {
        Keys::All => run(0, key_len),
        Keys::Listed(map) => {
            for listed in map.list(problem, block) {
                let first = *listed as usize * map.block_k();
                run(first, key_len.min(first + map.block_k()));
            }
        }
    }
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

/// What a task works in.
#[derive(Default)]
struct Scratch {
    /// `qᵀ [head_dim, lanes]`.
    q: Aligned<f32>,
    /// `oᵀ [head_dim, lanes]`.
    out: Aligned<f32>,
    /// `sᵀ`, then `Pᵀ`, `[TILE_K, lanes]`.
    scores: Aligned<f32>,
    /// A tile of values, where they do not lie together.
    values: Aligned<f32>,
    /// Maximum, sum and correction of each lane.
    state: Aligned<f32>,
}

struct Run<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: &'a AttnShape,
    how: &'a Attend<'a>,
    factor: f32,
    out: Shared<'a, f32>,
    lse: Option<Shared<'a, f32>>,
}

impl Run<'_> {
    fn task(&self, tasks: &QueryTasks, task: usize, scratch: &mut Scratch) {
        let (problem, task) = (task / tasks.per_problem(), task % tasks.per_problem());
        let (block, first_query, rows) = tasks.rows(task);
        if rows == 0 {
            return;
        }
        let (dim, isa) = (self.shape.head_dim, self.how.isa);
        let lanes = rows.next_multiple_of(LANE_GROUP);
        let q = HeadRows::queries(self.q, self.shape, problem);
        let k = HeadRows::keys(self.k, self.shape, problem);
        let v = HeadRows::keys(self.v, self.shape, problem);

        let q_t = scratch.q.at_least(dim * lanes);
        pack_transposed(&q, first_query, rows, lanes, q_t);
        let out_t = scratch.out.at_least(dim * lanes);
        let scores = scratch.scores.at_least(TILE_K * lanes);
        let packed = scratch.values.at_least(TILE_K * dim);
        let (max, rest) = scratch.state.at_least(3 * TILE_Q).split_at_mut(TILE_Q);
        let (sum, correction) = rest.split_at_mut(TILE_Q);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);

        let key_end = if self.how.is_causal { first_query + rows } else { self.shape.key_len };
        let mut is_first = true;
        for_each_tile(self.how.keys, key_end, problem, block, |first_key, keys| {
            Product {
                rows: keys,
                terms: dim,
                lanes,
                a: Spread::rows(k.from(first_key), k.stride),
                b: q_t,
                b_stride: lanes,
                c: scores,
                c_stride: lanes,
                start: Start::Zero,
            }
            .run(isa);
            if self.how.is_causal && first_key + keys > first_query + 1 {
                mask_later_keys(scores, lanes, keys, first_key, first_query);
            }
            let softmax =
                OnlineSoftmax { scores, rows: keys, lanes, factor: self.factor, rounding: self.how.rounding, max, sum, correction };
            // SAFETY: the kernel works on its own slices.
            unsafe { lanes::run(isa, softmax) };
            let (values, stride) = v.together(first_key, keys, packed);
            Product {
                rows: dim,
                terms: keys,
                lanes,
                a: Spread::columns(values, stride),
                b: scores,
                b_stride: lanes,
                c: out_t,
                c_stride: lanes,
                start: if is_first { Start::Zero } else { Start::Scaled(correction) },
            }
            .run(isa);
            is_first = false;
        });

        for lane in 0..rows {
            correction[lane] = 1.0 / sum[lane];
        }
        unpack_transposed(out_t, lanes, rows, correction, self.how.rounding, |row| {
            // SAFETY: query rows belong to one task each.
            unsafe { self.out.part(self.shape.query_offset(problem, first_query + row), dim) }
        });
        if let Some(lse) = self.lse {
            // SAFETY: query rows belong to one task each.
            let lse = unsafe { lse.part(problem * self.shape.query_len + first_query, rows) };
            for (lane, lse) in lse.iter_mut().enumerate() {
                *lse = max[lane] + sum[lane].log2();
            }
        }
    }
}

/// Takes out the keys that come after a lane's query.
fn mask_later_keys(scores: &mut [f32], lanes: usize, keys: usize, first_key: usize, first_query: usize) {
    for key in 0..keys {
        let hidden = (first_key + key).saturating_sub(first_query).min(lanes);
        scores[key * lanes..][..hidden].fill(f32::NEG_INFINITY);
    }
}
