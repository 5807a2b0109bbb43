//! What attention on a device reads and writes.

use half::{bf16, f16};
use turbowan_cuda::device::{View, ViewMut};

use super::params::{SAGE_FEATURE_ELU, SAGE_FEATURE_RELU, SAGE_FEATURE_SOFTMAX};

/// Int8 keys on a device; which form they have decides which kernels can read them.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a> {
    /// [`crate::Quantised::values`], `[problems, key_len, head_dim]`: for the kernels on `mma.sync`.
    Rows(View<'a, i8>),
    /// [`crate::Quantised::tiled`], `[problems, tiles_of_head(key_len), 64 * head_dim]`: for the kernels on `wgmma`, with
    /// [`Values::Tiled`].
    Tiled(View<'a, i8>),
}

/// Values on a device.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// f16 in the shape's layout.
    F16(View<'a, f16>),
    /// e4m3 as [`crate::Fp8Values`] holds them, quantised with a largest value of at most 2.25.
    Fp8 {
        /// [`crate::Fp8Values::permuted`], `[problems, head_dim, padded_len]`.
        permuted: View<'a, u8>,
        /// `[problems, head_dim]`.
        scales: View<'a, f32>,
        /// Keys of a channel, padding included: a multiple of 64.
        padded_len: usize,
    },
    /// e4m3 quantised with a largest value of up to 448, with [`Keys::Tiled`].
    Tiled {
        /// [`crate::Fp8Values::tiled`], `[problems, tiles_of_head(key_len), head_dim * 64]`.
        tiles: View<'a, u8>,
        /// `[problems, head_dim]`.
        scales: View<'a, f32>,
    },
}

/// A block map on a device.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// [`turbowan_cuda::BlockMap::lists`]: `[problems, ceil(query_len / block_q), kept]`, each list strictly ascending and
    /// below the number of key blocks.
    pub lists: View<'a, u32>,
    /// Query rows of a block, a multiple of 64; of 128 with tiled keys.
    pub block_q: usize,
    /// Key rows of a block, a multiple of 64.
    pub block_k: usize,
    /// Key blocks of a list.
    pub kept: usize,
}

/// What a row of the added term passes through; features are not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Feature {
    /// Softmax over the channels of a head.
    #[default]
    Softmax,
    /// `elu(x) + 1`.
    Elu,
    /// `max(x, 0)`.
    Relu,
}

impl Feature {
    /// As `kernels/sage_params.h` numbers them.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Softmax => SAGE_FEATURE_SOFTMAX,
            Self::Elu => SAGE_FEATURE_ELU,
            Self::Relu => SAGE_FEATURE_RELU,
        }
    }
}

/// A term of low rank that is added to each row of the output before it is rounded:
///
/// ```text
///   out += (phi(q) . M) / (phi(q) . z + 1e-5) + bias          phi: the feature; M [D, D], z [D]
/// ```
///
/// phi over its denominator is rounded to bf16 once, and the product is summed in f32 with the attention itself. The
/// linear branch of sparse-linear attention is such a term: `M = H W^T`, with the sum over the keys `H = phi(K)^T V` and the
/// projection `W`, and `z` the sum of `phi(k)`.
#[derive(Debug, Clone, Copy)]
pub struct Added<'a> {
    /// Queries as they are, not quantised: `[problems, query_len, head_dim]`.
    pub q: View<'a, bf16>,
    /// `[problems, head_dim + 1, head_dim]`, row-major: entry `c` of row `n < head_dim` is `M[c, n]`, what channel `c` of
    /// phi gives to channel `n` of the output; the last row is `z`.
    pub state: View<'a, bf16>,
    /// `[head_dim]`, the same for every head.
    pub bias: Option<View<'a, f32>>,
    /// What makes features of `q`.
    pub feature: Feature,
}

/// What attention reads; queries and keys as [`crate::Quantised`] holds them.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// `[problems, query_len, head_dim]`.
    pub q: View<'a, i8>,
    /// `[problems, groups of the queries]`.
    pub q_scales: View<'a, f32>,
    /// The keys.
    pub k: Keys<'a>,
    /// `[problems, groups of the keys]`.
    pub k_scales: View<'a, f32>,
    /// The values.
    pub values: Values<'a>,
    /// Which key blocks each query block sees; all without it.
    pub map: Option<Map<'a>>,
    /// What is added to the rows; nothing without it.
    pub added: Option<Added<'a>>,
}

/// What attention writes.
#[derive(Debug)]
pub enum Output<'a> {
    /// bf16 in the shape's layout.
    Bf16(ViewMut<'a, bf16>),
    /// Int8, for a shape whose layout is [`turbowan_cuda::HeadLayout::Blhd`] and whose head dim is 128: the rows of the next
    /// product, with the bytes that [`turbowan_cuda::ops::quant::Int8Rule::PerToken`] makes of the bf16 output.
    Int8 {
        /// `[batch * query_len, heads * 128]`.
        values: ViewMut<'a, i8>,
        /// `[batch * query_len, heads]`.
        scales: ViewMut<'a, f32>,
    },
}

impl<'a> From<ViewMut<'a, bf16>> for Output<'a> {
    fn from(out: ViewMut<'a, bf16>) -> Self {
        Self::Bf16(out)
    }
}
