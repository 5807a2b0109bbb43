//! Rows of `f32`, and the same rows as a linear layer reads them.

use std::sync::OnceLock;

use turbowan_cuda::ops::quant::Int8Rows;

/// `[rows, width]` values.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Channels of a row.
    pub width: usize,
    /// Row-major values.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// Zeros.
    pub fn zeros(rows: usize, width: usize) -> Self {
        Self { width, values: vec![0.0; rows * width] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }
}

/// Rows that linear layers read. They are quantised at most once, by the first int8 layer that asks.
#[derive(Debug)]
pub struct HostActivation {
    /// The floating-point rows.
    pub rows: HostTensor,
    pub(super) int8: OnceLock<Int8Rows>,
}

impl From<HostTensor> for HostActivation {
    fn from(rows: HostTensor) -> Self {
        Self { rows, int8: OnceLock::new() }
    }
}
