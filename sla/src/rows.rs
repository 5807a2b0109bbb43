//! Rows of one head inside a tensor of either layout.

use turbowan_cuda::{AttnShape, Rounding};

/// The rows of one head, `stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct HeadRows<'a> {
    values: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    dim: usize,
}

impl<'a> HeadRows<'a> {
    /// Rows of the queries (or of what has their shape).
    pub fn queries(values: &'a [f32], shape: &AttnShape, problem: usize) -> Self {
        let start = shape.query_offset(problem, 0);
        let stride = shape.row_stride();
        Self { values: &values[start..start + (shape.query_len - 1) * stride + shape.head_dim], stride, dim: shape.head_dim }
    }

    /// Rows of the keys (or of what has their shape).
    pub fn keys(values: &'a [f32], shape: &AttnShape, problem: usize) -> Self {
        let start = shape.key_offset(problem, 0);
        let stride = shape.row_stride();
        Self { values: &values[start..start + (shape.key_len - 1) * stride + shape.head_dim], stride, dim: shape.head_dim }
    }

    /// One row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..self.dim]
    }

    /// Everything from a row on.
    pub fn from(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..]
    }

    /// `rows` rows as they lie where they lie together, else copied to `packed`; with their stride.
    ///
    /// Rows that are read many times want this: a large power-of-two stride would map them all to a few cache sets.
    pub fn together<'b>(&self, first: usize, rows: usize, packed: &'b mut [f32]) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        if self.stride == self.dim {
            return (&self.values[first * self.stride..(first + rows) * self.stride], self.stride);
        }
        for (row, packed) in packed.chunks_exact_mut(self.dim).take(rows).enumerate() {
            packed.copy_from_slice(self.row(first + row));
        }
        (packed, self.dim)
    }

    /// `rows` rows that a product reads as registers of lanes: where they lie when a row fills whole registers, else
    /// copied to `padded [rows, lanes]`, zero past the channels; with their stride.
    pub fn in_lanes<'b>(&self, first: usize, rows: usize, lanes: usize, padded: &'b mut [f32]) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        if self.dim == lanes {
            return (self.from(first), self.stride);
        }
        for (row, padded) in padded.chunks_exact_mut(lanes).take(rows).enumerate() {
            padded[..self.dim].copy_from_slice(self.row(first + row));
            padded[self.dim..].fill(0.0);
        }
        (padded, lanes)
    }
}

/// Writes `rows` rows to `to [dim, lanes]`, a row in each lane; lanes without a row become zero.
pub(crate) fn pack_transposed(from: &HeadRows<'_>, first: usize, rows: usize, lanes: usize, to: &mut [f32]) {
    if rows < lanes {
        to[..from.dim * lanes].fill(0.0);
    }
    for lane in 0..rows {
        for (to, value) in to[lane..].iter_mut().step_by(lanes).zip(from.row(first + lane)) {
            *to = *value;
        }
    }
}

/// Reads `rows` rows back from the lanes of `from [dim, lanes]`, each times its factor, rounded.
pub(crate) fn unpack_transposed<'a>(
    from: &[f32],
    lanes: usize,
    rows: usize,
    factors: &[f32],
    rounding: Rounding,
    row_of: impl Fn(usize) -> &'a mut [f32],
) {
    for (row, factor) in factors[..rows].iter().enumerate() {
        let to = row_of(row);
        for (to, value) in to.iter_mut().zip(from[row..].iter().step_by(lanes)) {
            *to = value * factor;
        }
        rounding.apply_row(to);
    }
}
