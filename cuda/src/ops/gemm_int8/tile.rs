//! A tile's operands as its loops read them.

/// Rows of one tile over a few blocks.
#[derive(Clone, Copy)]
pub(super) struct TileRows<'a> {
    /// Rows of the tile.
    pub count: usize,
    /// `[blocks, block_words, count]`.
    pub words: &'a [u32],
    /// `[blocks, count]`.
    pub scales: &'a [f32],
}

/// Columns of one panel over the same blocks.
#[derive(Clone, Copy)]
pub(super) struct TileColumns<'a> {
    /// `[blocks, BLOCK / group, columns, group]`.
    pub values: &'a [i8],
    /// `[blocks, columns]`: what each sum starts from; empty where `a` is signed.
    pub starts: &'a [i32],
    /// `[blocks]`.
    pub scales: &'a [f32],
}
