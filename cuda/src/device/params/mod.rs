//! The parameter structs of the kernels, as their C headers declare them: one module a header of `kernels`.

mod conv3d;
mod dense;
mod gemm_wgmma;

pub use conv3d::*;
pub use dense::*;
pub use gemm_wgmma::*;
