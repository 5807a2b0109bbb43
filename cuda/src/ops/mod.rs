//! Dense operations: contract and host twin of each stand in one file.

pub mod activation;
pub mod bias_attention;
pub mod conv3d;
pub mod elementwise;
pub mod finite;
pub mod gather;
pub mod gemm;
pub mod gemm_int8;
pub mod linear_f32;
pub mod modulation;
pub mod norm;
pub mod pixel_attention;
pub mod quant;
pub mod rope;
