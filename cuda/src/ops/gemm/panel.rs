//! Columns of a packed weight as a tile's loop reads them.

/// A panel of columns as it is stored.
#[derive(Clone, Copy)]
pub(crate) enum Panel<'a> {
    /// `[depth, cols]`.
    F32(&'a [f32]),
    /// `[ceil(depth / 2), cols]` words: bf16 of k = 2 i in the low half, of k = 2 i + 1 in the high half, so that a
    /// shift and a mask widen a vector of columns, and so that a product of bf16 pairs reads them as they are.
    Bf16(&'a [u32]),
}

impl Panel<'_> {
    pub fn holds(&self, depth: usize, cols: usize) -> bool {
        match self {
            Self::F32(values) => values.len() >= depth * cols,
            Self::Bf16(words) => words.len() >= depth.div_ceil(2) * cols,
        }
    }
}
