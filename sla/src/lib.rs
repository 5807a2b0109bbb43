//! Sparse-linear attention (SLA): softmax attention where it matters, linear attention for the rest.
//!
//! A block map chooses, for each block of queries, the blocks of keys whose pooled rows agree with it most. The sparse
//! branch is exact softmax attention over those alone; the linear branch is attention through a feature map over all
//! keys; a learned projection weighs the second before they are added (Zhang et al., "SLA: Beyond Sparsity in Diffusion
//! Transformers via Fine-Tunable Sparse-Linear Attention", in the form that TurboDiffusion computes).
//!
//! ```text
//! o_s = softmax(q kᵀ D^-1/2) v  over the kept key blocks
//! o_l = φ(q) (φ(k)ᵀ v) / (1e-5 + φ(q) · Σ φ(k))
//! o   = o_s + o_l Wᵀ + b
//! ```
//!
//! [`attend()`] is the sparse branch and, with [`Keys::All`], dense attention for any head dim and for keys of another
//! length than the queries. [`linear_branch`] stands alone, so that another sparse branch may take the first one's place.
//!
//! ```
//! use turbowan_cuda::{AttnShape, Rounding, host::Isa};
//! use turbowan_sla::{Density, FeatureMap, Projection, SparseLinear};
//!
//! let shape = AttnShape::new(1, 2, 300, 16)?;
//! let q: Vec<f32> = (0..shape.query_values()).map(|i| (i as f32 * 0.7).sin()).collect();
//! let sla = SparseLinear {
//!     density: Density::new(0.25).ok_or("a share lies in (0, 1]")?,
//!     block_q: 128,
//!     block_k: 64,
//!     features: FeatureMap::Softmax,
//!     projection: Projection { weight: &[0.0; 256], bias: &[0.0; 16] },
//!     outer: Rounding::None,
//!     inner: Rounding::None,
//!     isa: Isa::detect(),
//! };
//! let out = sla.forward(&q, &q, &q, &shape)?;
//! assert_eq!(out.len(), q.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod attend;
pub mod backward;
pub mod block_map;
pub mod density;
pub mod device;
pub mod error;
pub mod features;
pub mod gradients;
/// The kernel files of this crate, as its build embedded them.
pub mod kernels {
    turbowan_cuda::embed_kernels!();
}
mod lanes;
pub mod linear;
mod linear_backward;
mod product;
mod rows;
mod softmax;
pub mod sparse_linear;

pub use attend::{Attend, Attended, Keys, attend, attend_into, attend_with_lse};
pub use backward::attend_backward;
pub use block_map::{block_map, pooled_scores};
pub use density::Density;
pub use error::Error;
pub use features::FeatureMap;
pub use gradients::Gradients;
pub use linear::{LinearBranch, Projection, add_linear_branch, linear_branch};
pub use sparse_linear::{Saved, SparseLinear};
