//! The share of key blocks that survives.

/// Share of key blocks each query block attends to, in `(0, 1]`; `1.0` is dense.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Density(f64);

impl Density {
    /// Every block is kept.
    pub const DENSE: Self = Self(1.0);

    /// A share, if it lies in `(0, 1]`.
    pub fn new(share: f64) -> Option<Self> {
        (share > 0.0 && share <= 1.0).then_some(Self(share))
    }

    /// The share itself.
    pub fn share(self) -> f64 {
        self.0
    }

    /// Blocks kept out of `key_blocks`: the official `int(share * key_blocks)`, but never none, so that softmax has
    /// something to sum.
    pub fn blocks(self, key_blocks: usize) -> usize {
        ((self.0 * key_blocks as f64) as usize).clamp(1, key_blocks.max(1))
    }
}
