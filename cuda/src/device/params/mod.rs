//! The parameter structs of the kernels, as their C headers declare them: one module a header of `kernels`.

mod bias_attention;
mod conv3d;
mod dense;
mod elementwise;
mod gather;
mod gemm_wgmma;
mod rows;

pub use bias_attention::*;
pub use conv3d::*;
pub use dense::*;
pub use elementwise::*;
pub use gather::*;
pub use gemm_wgmma::*;
pub use rows::*;
