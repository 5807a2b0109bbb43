//! The linear branch on a device: `kernels/linear_state.cu`, `kernels/linear_fold.cu`, `kernels/linear_apply.cu`.
//!
//! ```text
//! state  = H, z              of all keys and values                      LinearState
//! folded = bf16(H Wᵀ), z     the projection folded in                    LinearFold, of the state or of its chunks
//! out   += bf16(φ(q) H' / (1e-5 + φ(q) · z) + b)                         LinearApply, or the end of INT8 attention
//! ```
//!
//! Features are rounded to bf16, as the official code stores them; every sum is in f32, and `H` is not rounded before the
//! projection. Chunks of keys are those of the host twin ([`crate::linear`]).

use half::bf16;
use turbowan_cuda::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use turbowan_cuda::{AttnShape, Error};

use super::params::{LinearApplyParams, LinearFoldParams, LinearReduceParams, LinearStateParams};
use crate::linear::chunk_rows;
use crate::{FeatureMap, kernels};

/// Which kernels they are; every chip takes the same, and heads of 64 channels have theirs beside them.
pub const KERNELS: [OpKernel; 4] = [
    OpKernel { op: "linear branch: sums over the keys", choose: |_| (&kernels::LINEAR_STATE, "linear_state_d128") },
    OpKernel { op: "linear branch: sums of the chunks", choose: |_| (&kernels::LINEAR_STATE, "linear_reduce") },
    OpKernel { op: "linear branch: fold the projection", choose: |_| (&kernels::LINEAR_FOLD, "linear_fold_d128") },
    OpKernel { op: "linear branch: rows", choose: |_| (&kernels::LINEAR_APPLY, "linear_apply_d128") },
];

/// Threads of a block that sums or adds chunks.
const STATE_THREADS: u32 = 256;
/// Tiles of 32 rows that a block of `linear_state.cu` has in shared memory.
const STATE_STAGES: usize = 4;
/// Rows of such a tile.
const STATE_TILE: usize = 32;
/// Rows of a head that a folded block has.
const FOLD_ROWS: usize = 16;
/// Rows of a head that a block of `linear_apply.cu` or `linear_gradient.cu` walks through.
const BLOCK_ROWS: usize = 512;
/// Threads of such a block.
pub(super) const ROW_THREADS: u32 = 128;

/// Values of what [`LinearState`] leaves of a head: `H [D, D]` and `z [D]`.
pub fn state_values(shape: &AttnShape) -> usize {
    shape.problems() * (shape.head_dim + 1) * shape.head_dim
}

/// Values of what [`LinearFold`] makes of it: `[problems, D + 1, D]`.
pub fn folded_values(shape: &AttnShape) -> usize {
    state_values(shape)
}

/// Values of the room that [`LinearState::run`] needs: the sums of each chunk.
pub fn partial_values(shape: &AttnShape) -> usize {
    shape.key_len.div_ceil(chunk_rows(shape.key_len)) * state_values(shape)
}

/// One kernel for heads of 64 channels and one for 128.
#[derive(Debug)]
pub(super) struct ByHeadDim<P>(pub(super) [Kernel<P>; 2]);

impl<P: turbowan_cuda::device::Params> ByHeadDim<P> {
    pub(super) fn load(device: &Device, file: &'static turbowan_cuda::device::KernelFile, names: [&'static str; 2]) -> Result<Self, Error> {
        let [small, large] = names;
        Ok(Self([Kernel::load(device, file, small)?, Kernel::load(device, file, large)?]))
    }

    pub(super) fn of(&self, head_dim: usize) -> Result<&Kernel<P>, Error> {
        match head_dim {
            64 => Ok(&self.0[0]),
            128 => Ok(&self.0[1]),
            found => Err(Error::Size { what: "head dim of the linear branch", must: "64 or 128", found }),
        }
    }
}

/// Values of the linear branch, and how they lie.
#[derive(Debug, Clone, Copy)]
pub struct ValueRows<'a> {
    values: View<'a, bf16>,
    stride: Option<usize>,
}

impl<'a> ValueRows<'a> {
    /// Rows `[batch * key_len, heads * head_dim]` that are `stride` values apart: from the first of the first to the last of
    /// the last.
    pub fn apart(values: View<'a, bf16>, stride: usize) -> Self {
        Self { values, stride: Some(stride) }
    }

    /// Where they lie, once it is seen that they fit.
    fn places(&self, shape: &AttnShape) -> Result<Rows, Error> {
        let rows = Rows::of(shape, shape.key_len);
        let Some(stride) = self.stride else {
            expect("values", self.values.len(), shape.key_values())?;
            return Ok(rows);
        };
        let width = shape.heads * shape.head_dim;
        if stride < width || !stride.is_multiple_of(8) {
            return Err(Error::Size { what: "stride of rows", must: "a multiple of 8, at least a row", found: stride });
        }
        expect("values", self.values.len(), (shape.batch * shape.key_len - 1).saturating_mul(stride) + width)?;
        let (sample_stride, head_stride) = (shape.key_len.saturating_mul(stride) as i64, shape.head_dim as i64);
        Ok(Rows { sample_stride, head_stride, row_stride: stride as i64, ..rows })
    }
}

/// In the layout of the shape.
impl<'a> From<View<'a, bf16>> for ValueRows<'a> {
    fn from(values: View<'a, bf16>) -> Self {
        Self { values, stride: None }
    }
}

/// Sums over keys and values.
#[derive(Debug)]
pub struct LinearState {
    kernels: ByHeadDim<LinearStateParams>,
    reduce: Kernel<LinearReduceParams>,
}

impl LinearState {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let file = &kernels::LINEAR_STATE;
        let kernels = ByHeadDim::load(device, file, ["linear_state_d64", "linear_state_d128"])?;
        Ok(Self { kernels, reduce: Kernel::load(device, file, "linear_reduce")? })
    }

    /// Queues `state [problems, D + 1, D] = (φ(k)ᵀ v, Σ φ(k))` over all keys of each head; `k` and `v` in the shape's
    /// layout. `partial` holds [`partial_values`] and is free again afterwards.
    ///
    /// # Errors
    /// [`Error::Size`] for a head dim that is neither 64 nor 128, [`Error::Length`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, a shape and its map, operands, room and result")]
    pub fn run(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        features: FeatureMap,
        k: View<'_, bf16>,
        v: View<'_, bf16>,
        mut partial: ViewMut<'_, f32>,
        mut state: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        self.kernels.of(shape.head_dim)?;
        expect("state of the linear branch", state.len(), state_values(shape))?;
        self.chunks(stream, shape, features, k, v.into(), partial.reborrow())?;
        reduce(&self.reduce, stream, partial.as_view(), shape.problems(), Rows::of(shape, shape.key_len).chunks, &mut state)
    }

    /// Queues the sums of each chunk alone, `[problems, chunks, D + 1, D]`, for [`LinearFold::run_chunks`] to add.
    ///
    /// # Errors
    /// As [`Self::run`], and [`Error::Size`] for a stride below a row.
    pub fn chunks(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        features: FeatureMap,
        k: View<'_, bf16>,
        v: ValueRows<'_>,
        mut partial: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        let kernel = self.kernels.of(shape.head_dim)?;
        expect("keys", k.len(), shape.key_values())?;
        expect("room for the sums of the chunks", partial.len(), partial_values(shape))?;
        let (rows, places) = (Rows::of(shape, shape.key_len), v.places(shape)?);
        let v = v.values;
        let params = LinearStateParams {
            x: k.address(),
            y: v.address(),
            y_sample_stride: places.sample_stride,
            y_head_stride: places.head_stride,
            y_row_stride: places.row_stride,
            scales: std::ptr::null(),
            weights: std::ptr::null(),
            partial: partial.address(),
            ..rows.state_params(features)
        };
        let operands = [
            k.reads("k").aligned(16),
            v.reads("v").aligned(16).of_which(shape.key_values() * size_of::<bf16>()),
            partial.writes("partial").aligned(16),
        ];
        kernel.launch(stream, rows.state_launch(shape.head_dim)?, &params, &operands)
    }
}

/// Adds the chunks of each head in order.
pub(super) fn reduce(
    kernel: &Kernel<LinearReduceParams>,
    stream: &Stream,
    partial: View<'_, f32>,
    problems: usize,
    chunks: usize,
    state: &mut ViewMut<'_, f32>,
) -> Result<(), Error> {
    let params = LinearReduceParams {
        partial: partial.address(),
        state: state.address(),
        problems: problems as i64,
        chunks: chunks as i64,
        values: (state.len() / problems) as i64,
    };
    let launch = Launch::linear((state.len() / 4).div_ceil(STATE_THREADS as usize), STATE_THREADS)?;
    kernel.launch(stream, launch, &params, &[partial.reads("partial").aligned(16), state.writes("state").aligned(16)])
}

/// The projection folded into the sums.
#[derive(Debug)]
pub struct LinearFold {
    kernels: ByHeadDim<LinearFoldParams>,
}

/// What the sums of a head are multiplied with.
#[derive(Debug, Clone, Copy)]
pub enum Fold<'a> {
    /// Nothing: they are rounded as they are.
    Plain,
    /// `Wᵀ` of `W [D, D]`: the way forward.
    Transposed(View<'a, f32>),
    /// `W [D, D]`: the way back.
    Straight(View<'a, f32>),
}

impl LinearFold {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Self { kernels: ByHeadDim::load(device, &kernels::LINEAR_FOLD, ["linear_fold_d64", "linear_fold_d128"])? })
    }

    /// Queues `folded [problems, D + 1, D]`: row `n < D` is column `n` of the product of a head's first `D` rows with
    /// `fold`, row `D` its row `D`, both rounded to bf16. `state` is `[problems, rows, D]` with at least `D + 1` rows. It is
    /// what INT8 attention takes for its added term, bit for bit that of [`folded`].
    ///
    /// # Errors
    /// [`Error::Size`] for a head dim that is neither 64 nor 128, [`Error::Length`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        head_dim: usize,
        state: View<'_, f32>,
        fold: Fold<'_>,
        folded: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        self.kernels.of(head_dim)?;
        let values = (head_dim + 1) * head_dim;
        let problems = folded.len() / values;
        expect("folded state", folded.len(), problems * values)?;
        if problems == 0 {
            return expect("state of the linear branch", state.len(), 0);
        }
        let state_rows = (state.len() / (problems * head_dim)).max(head_dim + 1);
        self.launch(stream, head_dim, state, [problems, 1, state_rows], fold, folded)
    }

    /// Queues the same of the sum of all chunks of [`LinearState::chunks`], added in order as [`LinearState::run`] does.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_chunks(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        partial: View<'_, f32>,
        fold: Fold<'_>,
        folded: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        expect("folded state", folded.len(), folded_values(shape))?;
        let chunks = shape.key_len.div_ceil(chunk_rows(shape.key_len));
        self.launch(stream, shape.head_dim, partial, [shape.problems(), chunks, shape.head_dim + 1], fold, folded)
    }

    fn launch(
        &self,
        stream: &Stream,
        head_dim: usize,
        state: View<'_, f32>,
        [problems, chunks, state_rows]: [usize; 3],
        fold: Fold<'_>,
        mut folded: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let kernel = self.kernels.of(head_dim)?;
        let values = [problems, chunks, state_rows].into_iter().fold(head_dim, usize::saturating_mul);
        expect("state of the linear branch", state.len(), values)?;
        let (weight, is_transposed) = match fold {
            Fold::Plain => (None, false),
            Fold::Transposed(weight) => (Some(weight), true),
            Fold::Straight(weight) => (Some(weight), false),
        };
        let mut operands = vec![state.reads("state").aligned(16)];
        if let Some(weight) = weight {
            expect("projection weight", weight.len(), head_dim * head_dim)?;
            operands.push(weight.reads("weight").aligned(16));
        }
        let params = LinearFoldParams {
            state: state.address(),
            weight: weight.map_or(std::ptr::null(), |weight| weight.address()),
            folded: folded.address(),
            problems: problems as i64,
            chunks: chunks as i64,
            state_rows: state_rows as i64,
            is_transposed: is_transposed.into(),
            unused: 0,
        };
        operands.push(folded.writes("folded").aligned(16));
        let launch = Launch::linear(problems.saturating_mul(head_dim / FOLD_ROWS), 2 * head_dim as u32)?;
        kernel.launch(stream, launch, &params, &operands)
    }
}

/// The host twin of [`LinearFold`]: `state [problems, rows, D]` and `W [D, D]`, by the same operations in the same order.
pub fn folded(state: &[f32], head_dim: usize, problems: usize, weight: Option<(&[f32], bool)>) -> Vec<bf16> {
    let mut out = Vec::with_capacity(problems * (head_dim + 1) * head_dim);
    for state in state.chunks_exact(state.len() / problems.max(1)) {
        for column in 0..head_dim {
            for row in state.chunks_exact(head_dim).take(head_dim) {
                let sum = match weight {
                    None => row[column],
                    Some((weight, is_transposed)) => row.iter().enumerate().fold(0.0f32, |sum, (at, value)| {
                        value.mul_add(if is_transposed { weight[column * head_dim + at] } else { weight[at * head_dim + column] }, sum)
                    }),
                };
                out.push(bf16::from_f32(sum));
            }
        }
        out.extend(state[head_dim * head_dim..][..head_dim].iter().map(|value| bf16::from_f32(*value)));
    }
    out
}

/// Rows of the branch.
#[derive(Debug)]
pub struct LinearApply {
    kernels: ByHeadDim<LinearApplyParams>,
}

impl LinearApply {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Self { kernels: ByHeadDim::load(device, &kernels::LINEAR_APPLY, ["linear_apply_d64", "linear_apply_d128"])? })
    }

    /// Queues `y = bf16(φ(q) F / (1e-5 + φ(q) · z) + b)` for every query, from `folded` ([`LinearFold`]); `out`, in the
    /// layout of the queries, becomes `y`, or with `adds` `bf16(out + y)`. With [`Fold::Plain`] and no bias `y` is the branch
    /// before its projection.
    ///
    /// # Errors
    /// [`Error::Size`] for a head dim that is neither 64 nor 128, [`Error::Length`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, a shape and its map, operands and result")]
    pub fn run(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        features: FeatureMap,
        q: View<'_, bf16>,
        folded: View<'_, bf16>,
        bias: Option<View<'_, f32>>,
        adds: bool,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let kernel = self.kernels.of(shape.head_dim)?;
        expect("queries", q.len(), shape.query_values())?;
        expect("folded state", folded.len(), folded_values(shape))?;
        expect("output", out.len(), shape.query_values())?;
        let mut operands = vec![q.reads("q").aligned(16), folded.reads("folded").aligned(16)];
        if let Some(bias) = bias {
            expect("projection bias", bias.len(), shape.head_dim)?;
            operands.push(bias.reads("bias").aligned(16));
        }
        let rows = Rows::of(shape, shape.query_len);
        let params = LinearApplyParams {
            q: q.address(),
            folded: folded.address(),
            bias: bias.map_or(std::ptr::null(), |bias| bias.address()),
            out: out.address(),
            len: rows.len as i64,
            heads: rows.heads,
            sample_stride: rows.sample_stride,
            head_stride: rows.head_stride,
            row_stride: rows.row_stride,
            features: code(features),
            adds: adds.into(),
        };
        operands.push(if adds { out.updates("out") } else { out.writes("out") }.aligned(16));
        kernel.launch(stream, rows.launch()?, &params, &operands)
    }
}

/// What the kernels call a feature map.
pub(super) fn code(features: FeatureMap) -> i32 {
    match features {
        FeatureMap::Softmax => 0,
        FeatureMap::Elu => 1,
        FeatureMap::Relu => 2,
    }
}

/// Rows of all heads, in a layout and in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) len: usize,
    problems: usize,
    pub(super) heads: i64,
    pub(super) sample_stride: i64,
    pub(super) head_stride: i64,
    pub(super) row_stride: i64,
    chunk_rows: usize,
    pub(super) chunks: usize,
}

impl Rows {
    /// The queries or the keys of a shape, `len` of them.
    pub(super) fn of(shape: &AttnShape, len: usize) -> Self {
        let row_stride = shape.row_stride();
        let head_stride = if row_stride == shape.head_dim { len * shape.head_dim } else { shape.head_dim };
        let chunk_rows = chunk_rows(len);
        Self {
            len,
            problems: shape.problems(),
            heads: shape.heads as i64,
            sample_stride: (shape.heads * len * shape.head_dim) as i64,
            head_stride: head_stride as i64,
            row_stride: row_stride as i64,
            chunk_rows,
            chunks: len.div_ceil(chunk_rows),
        }
    }

    /// Without pointers.
    pub(super) fn state_params(&self, features: FeatureMap) -> LinearStateParams {
        LinearStateParams {
            x: std::ptr::null(),
            y: std::ptr::null(),
            scales: std::ptr::null(),
            weights: std::ptr::null(),
            partial: std::ptr::null_mut(),
            len: self.len as i64,
            heads: self.heads,
            sample_stride: self.sample_stride,
            head_stride: self.head_stride,
            row_stride: self.row_stride,
            y_sample_stride: self.sample_stride,
            y_head_stride: self.head_stride,
            y_row_stride: self.row_stride,
            chunk_rows: self.chunk_rows as i64,
            chunks: self.chunks as i64,
            features: code(features),
            unused: 0,
        }
    }

    /// A block for each chunk.
    pub(super) fn state_launch(&self, head_dim: usize) -> Result<Launch, Error> {
        let launch = Launch::linear(self.problems.saturating_mul(self.chunks), STATE_THREADS)?;
        Ok(launch.with_shared_bytes((STATE_STAGES * 2 * STATE_TILE * (head_dim + 8) * 2) as u32))
    }

    /// A block for each [`BLOCK_ROWS`].
    pub(super) fn launch(&self) -> Result<Launch, Error> {
        Launch::linear(self.problems.saturating_mul(self.len.div_ceil(BLOCK_ROWS)), ROW_THREADS)
    }
}

pub(super) fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_cuda::HeadLayout;
    use turbowan_cuda::device::Limits;

    #[test]
    fn strides_name_the_rows_of_the_shape_also_past_two_to_the_31() {
        for layout in [HeadLayout::Bhld, HeadLayout::Blhd] {
            let shape = AttnShape::new(3, 40, 200_000, 128).unwrap().with_layout(layout);
            let rows = Rows::of(&shape, shape.key_len);
            for (problem, row) in [(0, 0), (41, 77), (119, 199_999)] {
                let (sample, head) = ((problem / 40) as i64, (problem % 40) as i64);
                let place = sample * rows.sample_stride + head * rows.head_stride + row as i64 * rows.row_stride;
                assert_eq!(place, shape.key_offset(problem, row) as i64);
            }
            assert!(rows.sample_stride * 3 > 1 << 31);
        }
    }

    #[test]
    fn blocks_cover_every_row_and_fit_every_chip() {
        for (len, chunks, blocks) in [(1, 1, 1), (512, 1, 1), (513, 2, 2), (32_760, 16, 64), (75_600, 16, 148)] {
            let shape = AttnShape::new(1, 12, len, 128).unwrap();
            let rows = Rows::of(&shape, len);
            assert!(rows.chunk_rows.is_multiple_of(STATE_TILE) && rows.chunks * rows.chunk_rows >= len);
            assert_eq!((rows.chunks, rows.launch().unwrap().grid[0]), (chunks, 12 * blocks), "{len}");
            let launch = rows.state_launch(128).unwrap();
            assert_eq!(launch.grid[0] as usize, 12 * chunks);
            for capability in [(8, 0), (8, 9), (9, 0), (12, 0)] {
                assert!(launch.shared_bytes <= Limits::of(capability).shared_bytes);
            }
        }
        let endless = AttnShape::new(1 << 20, 1 << 12, 1, 64).unwrap();
        assert!(Rows::of(&endless, 1).launch().is_err());
    }
}
