//! The gradient of the rotary embedding: a rotation is orthogonal, so its transpose turns back.

use super::RopeTable;
use crate::{Error, Rounding};

impl RopeTable {
    /// The table of the opposite angles: applied to the gradient of rotated rows, it gives that of the rows.
    pub fn opposite(&self) -> Self {
        let negated = |values: &[f32]| values.iter().map(|value| -value).collect();
        Self { angles: negated(&self.angles), cos: self.cos.clone(), sin: negated(&self.sin), half: self.half }
    }

    /// The gradient of [`RopeTable::apply`], in place, in `f32`.
    ///
    /// # Errors
    /// When `gradient` does not hold whole rows.
    pub fn apply_gradient(&self, gradient: &mut [f32], heads: usize) -> Result<(), Error> {
        self.opposite().apply(gradient, heads, Rounding::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::inputs::normal;
    use turbowan_reference::metrics::{Bound, Verdict};
    use turbowan_reference::rope as truth;
    use turbowan_reference::slope::{self, weighted};

    #[test]
    fn the_gradient_matches_differences_of_the_oracle() {
        let (grid, head_dim, heads) = ([2, 3, 1], 12, 2);
        let table = RopeTable::wan(grid, head_dim).unwrap();
        let angles = truth::angles(grid, head_dim);
        let x = slope::grid(&normal(13 * heads * head_dim, 1));
        let dy = normal(x.len(), 2);
        let mut got = dy.clone();
        table.apply_gradient(&mut got, heads).unwrap();
        let want = slope::gradient(&x, |x| weighted(&truth::rotate(x, heads, head_dim, &angles), &dy));
        // angles below 3 and their cosines have 24 bits
        Verdict::of(&got, &want, Bound::max_abs(2e-6)).demand("rotation");
    }

    #[test]
    fn turning_back_restores_the_rows() {
        let table = RopeTable::wan([3, 2, 2], 64).unwrap();
        let x = normal(24 * 128, 1);
        let mut turned = x.clone();
        table.apply(&mut turned, 2, Rounding::None).unwrap();
        table.apply_gradient(&mut turned, 2).unwrap();
        Verdict::of(&turned, &x, Bound::max_abs(2e-6)).demand("there and back");
        assert!(table.apply_gradient(&mut [0.0; 65], 1).is_err());
    }
}
