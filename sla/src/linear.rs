//! The linear branch: attention through a feature map, linear in the length, over all keys.
//!
//! ```text
//! H    = φ(k)ᵀ v              [D, D]
//! z    = Σ_j φ(k_j)           [D]
//! o_i  = φ(q_i) H / (1e-5 + φ(q_i) · z) · Wᵀ + b
//! ```
//!
//! In `f32` the projection is folded into `H` once a head (`H Wᵀ`). With [`Rounding::Bf16`] every operation rounds where
//! the official code stores: φ, `H`, `z`, the numerator, each product and the sum of the denominator, the quotient, the
//! projected row.
//!
//! `H` and `z` are sums over chunks of keys that the shape alone decides, added in order, so that the number of threads
//! cannot change a bit.

use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::host::{Aligned, Isa};
use turbowan_cuda::{AttnShape, Rounding};

use crate::features::{Features, PADDING};
use crate::lanes::{self, Kernel, LANE_GROUP, Lanes};
use crate::product::{Product, Spread, Start};
use crate::rows::HeadRows;
use crate::{Error, FeatureMap};

/// What the official code adds to the denominator.
pub(crate) const DENOMINATOR_FLOOR: f32 = 1e-5;
/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 64;

/// `y = x Wᵀ + b`, one for all heads of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// `[head_dim, head_dim]`, output channel first.
    pub weight: &'a [f32],
    /// `[head_dim]`.
    pub bias: &'a [f32],
}

impl Projection<'_> {
    pub(crate) fn check(&self, dim: usize) -> Result<(), Error> {
        turbowan_cuda::Error::expect_len("projection weight", self.weight, dim * dim)?;
        Ok(turbowan_cuda::Error::expect_len("projection bias", self.bias, dim)?)
    }
}

/// How the linear branch is computed.
#[derive(Debug, Clone, Copy)]
pub struct LinearBranch<'a> {
    /// φ.
    pub features: FeatureMap,
    /// `W` and `b`; none leaves the quotient as it is.
    pub projection: Option<Projection<'a>>,
    /// Where results are rounded; with [`Rounding::Bf16`] the operands hold bf16 values.
    pub rounding: Rounding,
    /// Instruction set of the loops.
    pub isa: Isa,
}

/// The projected linear branch, in the layout and shape of the queries.
///
/// # Errors
/// When an operand's length does not fit `shape`.
pub fn linear_branch(q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape, how: &LinearBranch<'_>) -> Result<Vec<f32>, Error> {
    let mut out = vec![0.0; shape.query_values()];
    run(q, k, v, shape, how, &mut out, false)?;
    Ok(out)
}

/// Adds the projected linear branch to `out`, the sparse branch's output; the sum is rounded.
///
/// # Errors
/// When an operand's length does not fit `shape`.
pub fn add_linear_branch(q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape, how: &LinearBranch<'_>, out: &mut [f32]) -> Result<(), Error> {
    run(q, k, v, shape, how, out, true)
}

fn run(q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape, how: &LinearBranch<'_>, out: &mut [f32], adds: bool) -> Result<(), Error> {
    turbowan_cuda::Error::expect_len("queries", q, shape.query_values())?;
    turbowan_cuda::Error::expect_len("keys", k, shape.key_values())?;
    turbowan_cuda::Error::expect_len("values", v, shape.key_values())?;
    turbowan_cuda::Error::expect_len("output", out, shape.query_values())?;
    let dim = shape.head_dim;
    if let Some(projection) = &how.projection {
        projection.check(dim)?;
    }
    let mut state = KeyState::of(k, v, shape, how.features, how.rounding, how.isa);
    let projection = how.projection.map(|projection| Prepared::new(projection, dim, how.rounding));
    if let (Some(projection), Rounding::None) = (&projection, how.rounding) {
        state.fold(projection, how.isa);
    }
    let lanes = state.lanes;
    let shared = Shared::new(out);
    let tiles = shape.query_len.div_ceil(TILE_ROWS);
    for_each_task(shape.problems() * tiles, |task| {
        let (problem, first) = (task / tiles, task % tiles * TILE_ROWS);
        let rows = TILE_ROWS.min(shape.query_len - first);
        SCRATCH.with_borrow_mut(|scratch| {
            let features = scratch.features.at_least(rows * lanes);
            feature_tile(&HeadRows::queries(q, shape, problem), first, rows, lanes, how.features, how.rounding, how.isa, features);
            let branch = scratch.branch.at_least(rows * lanes);
            multiply(features, rows, dim, state.outer(problem), lanes, branch, how.isa);
            let divide =
                Divide { branch: &mut *branch, features, sum: state.sum(problem), lanes, rounding: how.rounding, denominators: None };
            // SAFETY: the kernel works on its own slices.
            unsafe { lanes::run(how.isa, divide) };
            let mut result: &[f32] = branch;
            if let (Some(projection), Rounding::Bf16) = (&projection, how.rounding) {
                let projected = scratch.projected.at_least(rows * lanes);
                multiply(branch, rows, dim, &projection.transposed, lanes, projected, how.isa);
                result = projected;
            }
            let bias = projection.as_ref().map(|projection| projection.bias.as_slice());
            for (row, result) in result.chunks_exact(lanes).enumerate() {
                // SAFETY: query rows belong to one task each.
                let out = unsafe { shared.part(shape.query_offset(problem, first + row), dim) };
                // SAFETY: the kernel works on its own slices.
                unsafe { lanes::run(how.isa, Deliver { result, bias, adds, rounding: how.rounding, out }) };
            }
        });
    });
    Ok(())
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

#[derive(Default)]
struct Scratch {
    features: Aligned<f32>,
    branch: Aligned<f32>,
    projected: Aligned<f32>,
}

/// A projection as the loops read it.
struct Prepared {
    /// `Wᵀ [D, lanes]`.
    transposed: Vec<f32>,
    /// `[lanes]`.
    bias: Vec<f32>,
}

impl Prepared {
    fn new(projection: Projection<'_>, dim: usize, rounding: Rounding) -> Self {
        let lanes = dim.next_multiple_of(LANE_GROUP);
        let mut prepared = Self { transposed: vec![0.0; dim * lanes], bias: vec![0.0; lanes] };
        for (output, weights) in projection.weight.chunks_exact(dim).enumerate() {
            for (input, weight) in weights.iter().enumerate() {
                prepared.transposed[input * lanes + output] = rounding.apply(*weight);
            }
            prepared.bias[output] = rounding.apply(projection.bias[output]);
        }
        prepared
    }
}

/// Sums over all keys of every head: `H [D, lanes]` and `z [lanes]`.
pub(crate) struct KeyState {
    values: Vec<f32>,
    dim: usize,
    /// Channels, padded to whole registers; the padding is zero.
    pub lanes: usize,
}

impl KeyState {
    /// The sums over the keys and values of `shape`.
    pub fn of(k: &[f32], v: &[f32], shape: &AttnShape, map: FeatureMap, rounding: Rounding, isa: Isa) -> Self {
        let dim = shape.head_dim;
        let lanes = dim.next_multiple_of(LANE_GROUP);
        let state_values = (dim + 1) * lanes;
        let chunk = chunk_rows(shape.key_len);
        let chunks = shape.key_len.div_ceil(chunk);
        let mut partial = vec![0.0f32; shape.problems() * chunks * state_values];
        let shared = Shared::new(&mut partial);
        for_each_task(shape.problems() * chunks, |task| {
            let (problem, start) = (task / chunks, task % chunks * chunk);
            let (k, v) = (HeadRows::keys(k, shape, problem), HeadRows::keys(v, shape, problem));
            // SAFETY: every chunk has its own sums.
            let (outer, sum) = unsafe { shared.part(task * state_values, state_values) }.split_at_mut(dim * lanes);
            SCRATCH.with_borrow_mut(|scratch| {
                let features = scratch.features.at_least(TILE_ROWS * lanes);
                let padded = scratch.branch.at_least(TILE_ROWS * lanes);
                let end = shape.key_len.min(start + chunk);
                for first in (start..end).step_by(TILE_ROWS) {
                    let rows = TILE_ROWS.min(end - first);
                    let features = &mut features[..rows * lanes];
                    feature_tile(&k, first, rows, lanes, map, rounding, isa, features);
                    let (values, stride) = v.in_lanes(first, rows, lanes, padded);
                    let a = Spread::columns(features, lanes);
                    let start = Start::Keep;
                    Product { rows: dim, terms: rows, lanes, a, b: values, b_stride: stride, c: outer, c_stride: lanes, start }.run(isa);
                    // SAFETY: the kernel works on its own slices.
                    unsafe { lanes::run(isa, AddRows { rows: features, sum }) };
                }
            });
        });
        Self { values: add_chunks(partial, state_values, chunks, rounding), dim, lanes }
    }

    /// `H` of a head.
    pub fn outer(&self, problem: usize) -> &[f32] {
        &self.values[problem * (self.dim + 1) * self.lanes..][..self.dim * self.lanes]
    }

    /// `z` of a head.
    pub fn sum(&self, problem: usize) -> &[f32] {
        &self.values[(problem * (self.dim + 1) + self.dim) * self.lanes..][..self.lanes]
    }

    /// Replaces `H` by `H Wᵀ`.
    fn fold(&mut self, projection: &Prepared, isa: Isa) {
        let (dim, lanes) = (self.dim, self.lanes);
        let problems = self.values.len() / ((dim + 1) * lanes);
        let shared = Shared::new(&mut self.values);
        for_each_task(problems, |problem| {
            // SAFETY: every head has its own sums.
            let outer = unsafe { shared.part(problem * (dim + 1) * lanes, dim * lanes) };
            let before = outer.to_vec();
            multiply(&before, dim, dim, &projection.transposed, lanes, outer, isa);
        });
    }
}

/// Rows of a chunk whose sums are kept apart: at least 512, and at most 16 chunks a head.
pub(crate) fn chunk_rows(len: usize) -> usize {
    len.div_ceil(16).max(512).next_multiple_of(TILE_ROWS)
}

/// Adds the chunks of each head in order: `[heads, chunks, values]` to `[heads, values]`.
pub(crate) fn add_chunks(mut partial: Vec<f32>, values: usize, chunks: usize, rounding: Rounding) -> Vec<f32> {
    let heads = partial.len() / (values * chunks).max(1);
    for head in 0..heads {
        let from = head * chunks * values;
        for chunk in 1..chunks {
            let (total, rest) = partial[from..].split_at_mut(chunk * values);
            total[..values].iter_mut().zip(&rest[..values]).for_each(|(total, value)| *total += value);
        }
        partial.copy_within(from..from + values, head * values);
    }
    partial.truncate(heads * values);
    rounding.apply_row(&mut partial);
    partial
}

/// `φ` of `rows` rows, in `tile [rows, lanes]`, zero past the channels.
#[allow(clippy::too_many_arguments, reason = "where from, how, where to")]
pub(crate) fn feature_tile(
    from: &HeadRows<'_>,
    first: usize,
    rows: usize,
    lanes: usize,
    map: FeatureMap,
    rounding: Rounding,
    isa: Isa,
    tile: &mut [f32],
) {
    for (row, tile) in tile.chunks_exact_mut(lanes).take(rows).enumerate() {
        let from = from.row(first + row);
        tile[..from.len()].copy_from_slice(from);
        tile[from.len()..].fill(PADDING);
    }
    // SAFETY: the kernel works on its own slice.
    unsafe { lanes::run(isa, Features { tile: &mut tile[..rows * lanes], lanes, map, rounding }) };
}

/// `c [rows, lanes] = a [rows, lanes] b [terms, lanes]`.
pub(crate) fn multiply(a: &[f32], rows: usize, terms: usize, b: &[f32], lanes: usize, c: &mut [f32], isa: Isa) {
    let start = Start::Zero;
    Product { rows, terms, lanes, a: Spread::rows(a, lanes), b, b_stride: lanes, c, c_stride: lanes, start }.run(isa);
}

/// Adds every row of `rows [_, lanes]` to `sum [lanes]`.
pub(crate) struct AddRows<'a> {
    pub rows: &'a [f32],
    pub sum: &'a mut [f32],
}

impl Kernel for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let lanes = self.sum.len();
        for (at, group) in self.sum.chunks_exact_mut(L::WIDTH).enumerate() {
            // SAFETY: rows hold whole registers; the caller has the instruction set.
            unsafe {
                let mut sum = L::load(group.as_ptr());
                for row in self.rows.chunks_exact(lanes) {
                    sum = sum.add(L::load(row.as_ptr().add(at * L::WIDTH)));
                }
                sum.store(group.as_mut_ptr());
            }
        }
    }
}

/// Divides each row of numerators by `1e-5 + φ(q) · z`.
pub(crate) struct Divide<'a> {
    /// `[rows, lanes]`.
    pub branch: &'a mut [f32],
    /// `[rows, lanes]`.
    pub features: &'a [f32],
    /// `[lanes]`.
    pub sum: &'a [f32],
    pub lanes: usize,
    pub rounding: Rounding,
    /// Where to keep the denominators, one a row.
    pub denominators: Option<&'a mut [f32]>,
}

impl Kernel for Divide<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        assert!(self.sum.len() >= self.lanes);
        let rounds = self.rounding == Rounding::Bf16;
        let rows = self.branch.chunks_exact_mut(self.lanes).zip(self.features.chunks_exact(self.lanes));
        for (index, (row, features)) in rows.enumerate() {
            // SAFETY: rows and sums hold whole registers; the caller has the instruction set.
            unsafe {
                let mut sum = L::splat(0.0);
                for (at, group) in features.chunks_exact(L::WIDTH).enumerate() {
                    let product = L::load(group.as_ptr()).mul(L::load(self.sum.as_ptr().add(at * L::WIDTH)));
                    sum = sum.add(if rounds { product.round_to_bf16() } else { product });
                }
                let denominator = self.rounding.apply(DENOMINATOR_FLOOR + self.rounding.apply(sum.sum()));
                if let Some(denominators) = &mut self.denominators {
                    denominators[index] = denominator;
                }
                let denominator = L::splat(denominator);
                for group in row.chunks_exact_mut(L::WIDTH) {
                    let value = L::load(group.as_ptr());
                    let value = if rounds { value.round_to_bf16() } else { value };
                    let quotient = value.div(denominator);
                    (if rounds { quotient.round_to_bf16() } else { quotient }).store(group.as_mut_ptr());
                }
            }
        }
    }
}

/// Writes one row: `out = result + bias`, or `out += result + bias`, rounded after each addition.
struct Deliver<'a> {
    /// `[lanes]`.
    result: &'a [f32],
    /// `[lanes]`.
    bias: Option<&'a [f32]>,
    adds: bool,
    rounding: Rounding,
    /// `[dim]`.
    out: &'a mut [f32],
}

impl Kernel for Deliver<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let mut lanes = [0.0f32; LANE_GROUP];
        for (at, out) in self.out.chunks_mut(L::WIDTH).enumerate() {
            // SAFETY: result and bias hold whole registers; a last, short group goes through an array of one.
            unsafe {
                let mut value = L::load(self.result[at * L::WIDTH..][..L::WIDTH].as_ptr());
                if let Some(bias) = self.bias {
                    value = value.add(L::load(bias[at * L::WIDTH..][..L::WIDTH].as_ptr()));
                }
                if self.rounding == Rounding::Bf16 {
                    value = value.round_to_bf16();
                }
                if self.adds {
                    lanes[..out.len()].copy_from_slice(out);
                    value = L::load(lanes.as_ptr()).add(value);
                    if self.rounding == Rounding::Bf16 {
                        value = value.round_to_bf16();
                    }
                }
                value.store(lanes.as_mut_ptr());
            }
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}
