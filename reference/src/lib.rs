//! The truth: every operation as a scalar `f64` function on plain slices, written to be read beside the paper.
//!
//! Nothing here is fast and nothing here depends on another crate. Fast code is held to it with a
//! [`metrics::Verdict`], which names the worst element when a bound is broken.

#![forbid(unsafe_code)]

pub mod attention;
pub mod conv3d;
pub mod elementwise;
pub mod fp8;
pub mod gather;
pub mod gemm;
pub mod inputs;
pub mod metrics;
pub mod norm;
pub mod quant;
pub mod rope;
pub mod sage;
pub mod sla;
pub mod slope;
pub mod umt5;
