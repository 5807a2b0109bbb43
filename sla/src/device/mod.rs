//! Sparse-linear attention on a device, one launcher a kernel: the choice of key blocks, exact attention.

pub mod attend;
mod block_select;
mod operands;
pub mod params;

pub use attend::ExactAttention;
pub use block_select::{BlockSelect, HEAD_DIM_LIMIT, KERNELS, Pooled};
pub use operands::{Map, Operands, Scores};
pub use params::BlockSelectParams;
