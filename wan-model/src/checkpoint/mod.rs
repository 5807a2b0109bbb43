//! Checkpoints: names to tensors, read as untrusted bytes, under their official names whatever layout the file has.

pub mod tensor;

pub use tensor::{Dtype, TensorSource, TensorView};
