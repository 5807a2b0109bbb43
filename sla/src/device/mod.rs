//! Sparse-linear attention on a device, one launcher a kernel: the choice of key blocks, exact attention forward and
//! backward, a block map turned round, the linear branch forward and backward.

pub mod attend;
pub mod attend_backward;
mod block_select;
pub mod inverse_map;
pub mod linear;
pub mod linear_backward;
mod operands;
pub mod params;

pub use attend::ExactAttention;
pub use attend_backward::{Attended, ExactAttentionBackward, GradientsMut, Workspace};
pub use block_select::{BlockSelect, HEAD_DIM_LIMIT, KERNELS, Pooled};
pub use inverse_map::InverseMap;
pub use operands::{Map, Operands, Output, QueryNorm, Scores};
pub use params::BlockSelectParams;
