//! Dense operations: contract and host twin of each stand in one file.

pub mod gemm;
pub mod norm;
pub mod rope;
