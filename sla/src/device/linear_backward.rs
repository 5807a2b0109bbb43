//! Gradients of the linear branch on a device: `kernels/linear_gradient.cu`, `kernels/linear_weight.cu`, and the sums of
//! `kernels/linear_state.cu` and `kernels/linear_fold.cu`.
//!
//! With `g` the gradient of the output, `d` the denominator of a row and `y` its output without the bias:
//!
//! ```text
//! queries   dφ = (g H'ᵀ - (g · y) z) / d        kept: 1 / d and w = -(g · y) / d
//! sums      M = φ(q)ᵀ (g / d)       dz = Σ w φ(q)       dH = M W
//! keys      dφ = v dHᵀ + dz         dv = φ(k) dH
//! shared    dW = Σ Mᵀ H             db = Σ g
//! ```
//!
//! No atomic operations: sums over rows are kept apart by chunks and added in order, so that a repeat gives the same bits.
//! Features, `H'`, `dH` and `g / d` are rounded to bf16 for their products; the sums are f32.

use half::bf16;
use turbowan_cuda::device::{Buffer, Device, Kernel, Launch, OpKernel, Operand, Stream, View, ViewMut};
use turbowan_cuda::{AttnShape, Error};

use super::linear::{ByHeadDim, Fold, LinearFold, Rows, code, expect, folded_values, reduce, state_values};
use super::params::{LinearGradientParams, LinearReduceParams, LinearStateParams, LinearWeightParams};
use crate::{FeatureMap, kernels};

/// Which kernels they are; every chip takes the same, and heads of 64 channels have theirs beside them.
pub const KERNELS: [OpKernel; 4] = [
    OpKernel { op: "linear branch, backward: queries", choose: |_| (&kernels::LINEAR_GRADIENT, "linear_query_gradient_d128") },
    OpKernel { op: "linear branch, backward: sums over the queries", choose: |_| (&kernels::LINEAR_STATE, "linear_state_weighted_d128") },
    OpKernel { op: "linear branch, backward: keys and values", choose: |_| (&kernels::LINEAR_GRADIENT, "linear_key_gradient_d128") },
    OpKernel { op: "linear branch, backward: projection", choose: |_| (&kernels::LINEAR_WEIGHT, "linear_weight_d128") },
];

/// Side of a block's tile of `dW`, and threads of the block.
const WEIGHT_TILE: usize = 16;
const WEIGHT_THREADS: u32 = 128;

/// What the backward pass reads. Rows are in the shape's layout.
#[derive(Debug, Clone, Copy)]
pub struct LinearOperands<'a> {
    /// Queries.
    pub q: View<'a, bf16>,
    /// Keys.
    pub k: View<'a, bf16>,
    /// Values.
    pub v: View<'a, bf16>,
    /// Gradient of the output, in the layout of the queries.
    pub out_gradient: View<'a, bf16>,
    /// What [`super::linear::LinearState`] left, `[problems, D + 1, D]`.
    pub state: View<'a, f32>,
    /// What [`LinearFold`] made of it for the forward pass, `[problems, D + 1, D]`.
    pub folded: View<'a, bf16>,
    /// `W [D, D]`, where `folded` has it.
    pub weight: Option<View<'a, f32>>,
}

/// Where gradients go.
#[derive(Debug)]
pub struct LinearGradients<'a> {
    /// In the layout of the queries.
    pub q: ViewMut<'a, f32>,
    /// In the layout of the keys.
    pub k: ViewMut<'a, f32>,
    /// In the layout of the keys.
    pub v: ViewMut<'a, f32>,
    /// `dW [D, D]` and `db [D]`: written, never added to.
    pub projection: Option<[ViewMut<'a, f32>; 2]>,
    /// Whether `q`, `k` and `v` hold gradients, of the sparse branch, that these are added to.
    pub adds: bool,
}

/// Room of the backward pass of one shape, to be allocated once; what it holds between two passes is of no use.
#[derive(Debug)]
pub struct LinearRoom {
    /// `[problems, query_len]`: 1 / denominator.
    scales: Buffer<f32>,
    /// `[problems, query_len]`: the gradient of the denominator.
    weights: Buffer<f32>,
    /// `[problems, chunks, D + 2, D]`.
    partial: Buffer<f32>,
    /// `[problems, D + 2, D]`: `M`, `dz`, and the sum of the output's gradient.
    state: Buffer<f32>,
    /// `[problems, D + 1, D]`: `dH`.
    folded: Buffer<bf16>,
}

impl LinearRoom {
    /// Room for one shape, on one stream.
    ///
    /// # Errors
    /// As [`Stream::allocate`].
    pub fn allocate(stream: &Stream, shape: &AttnShape) -> Result<Self, Error> {
        let rows = shape.problems() * shape.query_len;
        let state = shape.problems() * (shape.head_dim + 2) * shape.head_dim;
        Ok(Self {
            scales: stream.allocate(rows)?,
            weights: stream.allocate(rows)?,
            partial: stream.allocate(Rows::of(shape, shape.query_len).chunks * state)?,
            state: stream.allocate(state)?,
            folded: stream.allocate(folded_values(shape))?,
        })
    }
}

/// The backward pass of the linear branch.
#[derive(Debug)]
pub struct LinearBackward {
    queries: ByHeadDim<LinearGradientParams>,
    keys: ByHeadDim<LinearGradientParams>,
    sums: ByHeadDim<LinearStateParams>,
    reduce: Kernel<LinearReduceParams>,
    fold: LinearFold,
    weight: ByHeadDim<LinearWeightParams>,
}

impl LinearBackward {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (rows, state) = (&kernels::LINEAR_GRADIENT, &kernels::LINEAR_STATE);
        Ok(Self {
            queries: ByHeadDim::load(device, rows, ["linear_query_gradient_d64", "linear_query_gradient_d128"])?,
            keys: ByHeadDim::load(device, rows, ["linear_key_gradient_d64", "linear_key_gradient_d128"])?,
            sums: ByHeadDim::load(device, state, ["linear_state_weighted_d64", "linear_state_weighted_d128"])?,
            reduce: Kernel::load(device, state, "linear_reduce")?,
            fold: LinearFold::load(device)?,
            weight: ByHeadDim::load(device, &kernels::LINEAR_WEIGHT, ["linear_weight_d64", "linear_weight_d128"])?,
        })
    }

    /// Queues the gradients of one layer: five kernels, six with the projection's.
    ///
    /// # Errors
    /// [`Error::Size`] for a head dim that is neither 64 nor 128, [`Error::Length`] when an operand or the room does not
    /// fit, and as [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        features: FeatureMap,
        operands: &LinearOperands<'_>,
        room: &mut LinearRoom,
        gradients: LinearGradients<'_>,
    ) -> Result<(), Error> {
        let dim = shape.head_dim;
        self.queries.of(dim)?;
        check(shape, operands, room, &gradients)?;
        let LinearGradients { q, k, v, projection, adds } = gradients;

        let step = Step { stream, shape, features, adds };
        step.queries(self.queries.of(dim)?, operands, q, room)?;
        step.sums(self.sums.of(dim)?, operands, room)?;
        let chunks = Rows::of(shape, shape.query_len).chunks;
        reduce(&self.reduce, stream, room.partial.view(), shape.problems(), chunks, &mut room.state.view_mut())?;
        let fold = operands.weight.map_or(Fold::Plain, Fold::Straight);
        self.fold.run(stream, dim, room.state.view(), fold, room.folded.view_mut())?;
        step.keys(self.keys.of(dim)?, operands, [k, v], room)?;
        match projection {
            Some([weight, bias]) => step.projection(self.weight.of(dim)?, operands, [weight, bias], room),
            None => Ok(()),
        }
    }
}

fn check(shape: &AttnShape, operands: &LinearOperands<'_>, room: &LinearRoom, gradients: &LinearGradients<'_>) -> Result<(), Error> {
    let (queries, keys, rows) = (shape.query_values(), shape.key_values(), shape.problems() * shape.query_len);
    let weight = shape.head_dim * shape.head_dim;
    let state = weight.saturating_add(2 * shape.head_dim).saturating_mul(shape.problems());
    let projection = gradients.projection.as_ref().map(|[weight, bias]| (weight.len(), bias.len()));
    for (what, found, expected) in [
        ("queries", operands.q.len(), queries),
        ("keys", operands.k.len(), keys),
        ("values", operands.v.len(), keys),
        ("gradient of the output", operands.out_gradient.len(), queries),
        ("state of the linear branch", operands.state.len(), state_values(shape)),
        ("folded state", operands.folded.len(), folded_values(shape)),
        ("projection weight", operands.weight.map_or(weight, |weight| weight.len()), weight),
        ("room of the backward pass", room.scales.len(), rows),
        ("room of the backward pass", room.state.len(), state),
        ("gradient of the queries", gradients.q.len(), queries),
        ("gradient of the keys", gradients.k.len(), keys),
        ("gradient of the values", gradients.v.len(), keys),
        ("gradient of the projection weight", projection.map_or(weight, |found| found.0), weight),
        ("gradient of the projection bias", projection.map_or(shape.head_dim, |found| found.1), shape.head_dim),
    ] {
        expect(what, found, expected)?;
    }
    Ok(())
}

/// What all kernels of a pass share.
struct Step<'a> {
    stream: &'a Stream,
    shape: &'a AttnShape,
    features: FeatureMap,
    adds: bool,
}

impl Step<'_> {
    /// `dq`, and of each row 1 / denominator and the gradient of the denominator.
    fn queries(
        &self,
        kernel: &Kernel<LinearGradientParams>,
        operands: &LinearOperands<'_>,
        mut q: ViewMut<'_, f32>,
        room: &mut LinearRoom,
    ) -> Result<(), Error> {
        let rows = Rows::of(self.shape, self.shape.query_len);
        let (mut scales, mut weights) = (room.scales.view_mut(), room.weights.view_mut());
        let params = LinearGradientParams {
            x: operands.q.address(),
            u: operands.out_gradient.address(),
            folded: operands.folded.address(),
            state: operands.state.address(),
            x_gradient: q.address(),
            scales: scales.address(),
            weights: weights.address(),
            state_rows: self.shape.head_dim as i64 + 1,
            ..self.params(&rows)
        };
        let touched = [
            operands.q.reads("q").aligned(16),
            operands.out_gradient.reads("out_gradient").aligned(16),
            operands.folded.reads("folded").aligned(16),
            operands.state.reads("state").aligned(16),
            self.gradient(&mut q, "q_gradient"),
            scales.writes("scales").aligned(4),
            weights.writes("weights").aligned(4),
        ];
        kernel.launch(self.stream, rows.launch()?, &params, &touched)
    }

    /// `M`, `dz` and the sum of the output's gradient, of each chunk.
    fn sums(&self, kernel: &Kernel<LinearStateParams>, operands: &LinearOperands<'_>, room: &mut LinearRoom) -> Result<(), Error> {
        let rows = Rows::of(self.shape, self.shape.query_len);
        let mut partial = room.partial.view_mut();
        let params = LinearStateParams {
            x: operands.q.address(),
            y: operands.out_gradient.address(),
            scales: room.scales.view().address(),
            weights: room.weights.view().address(),
            partial: partial.address(),
            ..rows.state_params(self.features)
        };
        let touched = [
            operands.q.reads("q").aligned(16),
            operands.out_gradient.reads("out_gradient").aligned(16),
            room.scales.view().reads("scales").aligned(4),
            room.weights.view().reads("weights").aligned(4),
            partial.writes("partial").aligned(16),
        ];
        kernel.launch(self.stream, rows.state_launch(self.shape.head_dim)?, &params, &touched)
    }

    /// `dk` and `dv`.
    fn keys(
        &self,
        kernel: &Kernel<LinearGradientParams>,
        operands: &LinearOperands<'_>,
        [mut k, mut v]: [ViewMut<'_, f32>; 2],
        room: &LinearRoom,
    ) -> Result<(), Error> {
        let rows = Rows::of(self.shape, self.shape.key_len);
        let params = LinearGradientParams {
            x: operands.k.address(),
            u: operands.v.address(),
            folded: room.folded.view().address(),
            state: room.state.view().address(),
            x_gradient: k.address(),
            u_gradient: v.address(),
            state_rows: self.shape.head_dim as i64 + 2,
            ..self.params(&rows)
        };
        let touched = [
            operands.k.reads("k").aligned(16),
            operands.v.reads("v").aligned(16),
            room.folded.view().reads("folded").aligned(16),
            room.state.view().reads("state").aligned(16),
            self.gradient(&mut k, "k_gradient"),
            self.gradient(&mut v, "v_gradient"),
        ];
        kernel.launch(self.stream, rows.launch()?, &params, &touched)
    }

    /// `dW` and `db`.
    fn projection(
        &self,
        kernel: &Kernel<LinearWeightParams>,
        operands: &LinearOperands<'_>,
        [mut weight, mut bias]: [ViewMut<'_, f32>; 2],
        room: &LinearRoom,
    ) -> Result<(), Error> {
        let tiles = self.shape.head_dim / WEIGHT_TILE;
        let params = LinearWeightParams {
            state: operands.state.address(),
            gradient: room.state.view().address(),
            weight: weight.address(),
            bias: bias.address(),
            problems: self.shape.problems() as i64,
        };
        let touched = [
            operands.state.reads("state").aligned(16),
            room.state.view().reads("gradient").aligned(16),
            weight.writes("weight_gradient").aligned(8),
            bias.writes("bias_gradient").aligned(4),
        ];
        kernel.launch(self.stream, Launch::linear(tiles * tiles, WEIGHT_THREADS)?, &params, &touched)
    }

    /// The gradient of rows, which is added to what is there or replaces it.
    fn gradient<'v>(&self, rows: &'v mut ViewMut<'_, f32>, name: &'static str) -> Operand<'v> {
        if self.adds { rows.updates(name) } else { rows.writes(name) }.aligned(16)
    }

    /// Without pointers.
    fn params(&self, rows: &Rows) -> LinearGradientParams {
        LinearGradientParams {
            x: std::ptr::null(),
            u: std::ptr::null(),
            folded: std::ptr::null(),
            state: std::ptr::null(),
            x_gradient: std::ptr::null_mut(),
            u_gradient: std::ptr::null_mut(),
            scales: std::ptr::null_mut(),
            weights: std::ptr::null_mut(),
            len: rows.len as i64,
            heads: rows.heads,
            sample_stride: rows.sample_stride,
            head_stride: rows.head_stride,
            row_stride: rows.row_stride,
            state_rows: 0,
            features: code(self.features),
            adds: self.adds.into(),
        }
    }
}
