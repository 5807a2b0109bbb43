//! The parameter structs of the kernels, a file a header.

mod attend;
mod block_select;

pub use attend::{AttendBackwardParams, AttendParams, InverseMapParams};
pub use block_select::BlockSelectParams;
