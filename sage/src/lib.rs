//! INT8 SageAttention, forward, dense or under a block map.
//!
//! Attention spends its time in two products. SageAttention does the first in INT8: queries and keys are cut into small
//! groups of rows, each with its own scale, and because softmax does not see a vector that is added to every key, the mean
//! key is taken away first, which removes most of what makes keys hard to quantise:
//!
//! ```text
//!   q8 = round(q / sq)      k8 = round((k - mean k) / sk)
//!   s  = (q8 . k8) sq sk log2(e) / sqrt(D)                    exact 32-bit integer sums
//!   o  = sum_j 2^(s_j - m) v_j / sum_j 2^(s_j - m)            online, tile by tile; f32, f16, e4m3 or 8-bit integers
//! ```
//!
//! Zhang et al., 2410.02367 (SageAttention) and 2411.10958 (SageAttention2); the variants differ in which rows share a
//! scale and how they are rounded, and are named by [`Sage`].
//!
//! ```
//! use turbowan_cuda::AttnShape;
//! use turbowan_sage::{Sage, ValuePrecision, forward};
//!
//! let shape = AttnShape::new(1, 2, 100, 64)?;
//! let rows: Vec<f32> = (0..shape.query_values()).map(|n| (n as f32 * 0.37).sin()).collect();
//! let sage = Sage::default().with_values(ValuePrecision::Int8);
//! let out = forward(&rows, &rows, &rows, &shape, None, false, &sage)?;
//! assert_eq!(out.len(), shape.query_values());
//! # Ok::<(), turbowan_sage::Error>(())
//! ```

mod config;
pub mod device;
mod error;
mod forward;
mod host;
/// The kernel files of this crate, as its build embedded them.
pub mod kernels {
    turbowan_cuda::embed_kernels!();
}
mod quantise;
mod tiles;
mod values;

pub use config::{Granularity, Groups, Rule, Sage, Smoothing, Tile, ValuePrecision};
pub use error::Error;
pub use forward::{Attended, forward, forward_with_lse};
pub use quantise::{Quantised, mean_keys, quantise_keys, quantise_queries};
pub use tiles::{TILE_KEYS, tiled_len, tiles_of_head};
pub use values::{Fp8Values, TOKEN_ORDER, quantise_values};
