//! Rotary embedding of queries and keys over time, height and width.
//!
//! ```text
//! angle[token, i] = position(axis of i) / 10000^(2 j / d_axis)        j-th pair of that axis, f32 as the official code
//! (x[2i], x[2i+1]) <- (x[2i] cos - x[2i+1] sin, x[2i] sin + x[2i+1] cos)
//! ```
//!
//! A head of `head_dim` channels is split `head_dim - 2 s | s | s`, `s = (head_dim / 6) * 2`, between time, height, width.

pub mod device;
pub mod gradient;

use rayon::prelude::*;

use crate::host::Isa;
use crate::host::vectorised::{self, Vectorised};
use crate::{Error, Rounding};

/// Positions of the official table on each axis.
pub const MAX_POSITIONS: usize = 128;
/// Values of a unit of parallel work.
const CHUNK: usize = 1 << 15;

/// Cosine and sine of every token's angles, `[tokens, head_dim / 2]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    angles: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// The table of a `[time, height, width]` grid of tokens, time slowest.
    ///
    /// # Errors
    /// When an axis is empty or longer than [`MAX_POSITIONS`], or `head_dim` is odd or below 6.
    pub fn wan(grid: [usize; 3], head_dim: usize) -> Result<Self, Error> {
        for (what, found) in ["latent frames", "patches of height", "patches of width"].into_iter().zip(grid) {
            if found == 0 || found > MAX_POSITIONS {
                return Err(Error::Size { what, must: "between 1 and 128, the length of the rotary table", found });
            }
        }
        if head_dim < 6 || !head_dim.is_multiple_of(2) {
            return Err(Error::Size { what: "head dim of a rotary table", must: "even and at least 6", found: head_dim });
        }
        let space = head_dim / 6 * 2;
        let frequencies = |dim: usize| -> Vec<f32> {
            // the exponent and the power are rounded to f32 one after the other, as tensor operations do
            (0..dim / 2).map(|i| 1.0 / (f64::from((2 * i) as f32 / dim as f32) * 10_000f64.ln()).exp() as f32).collect()
        };
        let (time, across) = (frequencies(head_dim - 2 * space), frequencies(space));
        let mut angles = Vec::with_capacity(grid.iter().product::<usize>() * head_dim / 2);
        for t in 0..grid[0] {
            for h in 0..grid[1] {
                for w in 0..grid[2] {
                    angles.extend(time.iter().map(|f| t as f32 * f));
                    angles.extend(across.iter().map(|f| h as f32 * f));
                    angles.extend(across.iter().map(|f| w as f32 * f));
                }
            }
        }
        Ok(Self::of_angles(angles, head_dim / 2))
    }

    fn of_angles(angles: Vec<f32>, half: usize) -> Self {
        let cos = angles.iter().map(|a| f64::from(*a).cos() as f32).collect();
        let sin = angles.iter().map(|a| f64::from(*a).sin() as f32).collect();
        Self { angles, cos, sin, half }
    }

    /// A table from its values, `[tokens, half]` each; the angles are not known then.
    ///
    /// # Errors
    /// When the slices do not fit `tokens` or hold nothing.
    pub fn from_parts(cos: &[f32], sin: &[f32], tokens: usize) -> Result<Self, Error> {
        if tokens == 0 || cos.is_empty() {
            return Err(Error::Size { what: "tokens of a rotary table", must: "at least 1", found: 0 });
        }
        let half = cos.len() / tokens;
        Error::expect_len("rotary cosines", cos, tokens * half)?;
        Error::expect_len("rotary sines", sin, cos.len())?;
        Ok(Self { angles: Vec::new(), cos: cos.to_vec(), sin: sin.to_vec(), half })
    }

    /// Tokens of the grid.
    pub fn tokens(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// Angles in radians, `[tokens, head_dim / 2]`; empty for a table made from cosines and sines.
    pub fn angles(&self) -> &[f32] {
        &self.angles
    }

    /// Cosines, `[tokens, head_dim / 2]`.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// Sines, `[tokens, head_dim / 2]`.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Turns rows of `[rows, heads * head_dim]` in place; row `r` is token `r % tokens`.
    ///
    /// # Errors
    /// When `x` does not hold whole rows.
    pub fn apply(&self, x: &mut [f32], heads: usize, rounding: Rounding) -> Result<(), Error> {
        let width = heads * self.head_dim();
        if width == 0 {
            return Err(Error::Size { what: "heads to rotate", must: "at least 1", found: 0 });
        }
        Error::expect_len("rows to rotate", x, x.len() / width * width)?;
        let (isa, rows) = (Isa::detect(), (CHUNK / width).max(1));
        x.par_chunks_mut(rows * width).enumerate().for_each(|(index, x)| {
            vectorised::run(isa, RotateRows { table: self, x, width, first: index * rows, rounding });
        });
        Ok(())
    }
}

struct RotateRows<'a> {
    table: &'a RopeTable,
    x: &'a mut [f32],
    width: usize,
    first: usize,
    rounding: Rounding,
}

impl Vectorised for RotateRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { table, x, width, first, rounding } = self;
        for (index, row) in x.chunks_exact_mut(width).enumerate() {
            let at = (first + index) % table.tokens() * table.half;
            let (cos, sin) = (&table.cos[at..at + table.half], &table.sin[at..at + table.half]);
            for head in row.chunks_exact_mut(2 * table.half) {
                for (([a, b], cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    (*a, *b) = (rounding.apply(*a * cos - *b * sin), rounding.apply(*a * sin + *b * cos));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::metrics::{Bound, Verdict};
    use turbowan_reference::{inputs, rope as truth};

    #[test]
    fn angles_and_rotation_match_the_oracle() {
        for (grid, head_dim, heads) in
            [([1, 1, 1], 6, 1), ([3, 5, 7], 16, 3), ([2, 3, 4], 64, 2), ([21, 2, 1], 128, 1), ([1, 128, 1], 24, 2)]
        {
            let table = RopeTable::wan(grid, head_dim).unwrap();
            let want = truth::angles(grid, head_dim);
            // 24 bits of an angle up to 127
            Verdict::of(table.angles(), &want, Bound::max_abs(2e-5)).demand("angles");
            let rows = 2 * table.tokens() + 1;
            let mut x = inputs::normal(rows * heads * head_dim, 4);
            let want = truth::rotate(&x, heads, head_dim, &want);
            table.apply(&mut x, heads, Rounding::None).unwrap();
            Verdict::of(&x, &want, Bound::max_abs(8e-5)).demand("rotation");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let table = RopeTable::wan([2, 3, 5], 20).unwrap();
        let x = inputs::normal(31 * 40, 4);
        let by = |isa| {
            let mut x = x.clone();
            vectorised::run(isa, RotateRows { table: &table, x: &mut x, width: 40, first: 3, rounding: Rounding::Bf16 });
            x
        };
        for isa in Isa::available() {
            assert_eq!(by(isa), by(Isa::Scalar), "{isa:?}");
        }
    }

    #[test]
    fn a_table_of_its_own_cosines_turns_alike() {
        let table = RopeTable::wan([2, 2, 2], 12).unwrap();
        let parts = RopeTable::from_parts(table.cos(), table.sin(), 8).unwrap();
        let (mut a, mut b) = (inputs::normal(8 * 24, 1), inputs::normal(8 * 24, 1));
        table.apply(&mut a, 2, Rounding::None).unwrap();
        parts.apply(&mut b, 2, Rounding::None).unwrap();
        assert_eq!(a, b);
        assert_eq!((parts.tokens(), parts.head_dim()), (8, 12));
    }

    #[test]
    fn grids_past_the_table_and_odd_heads_are_refused() {
        for grid in [[129, 1, 1], [1, 129, 1], [1, 1, 129], [0, 1, 1]] {
            assert!(RopeTable::wan(grid, 64).is_err(), "{grid:?}");
        }
        assert!(RopeTable::wan([1, 1, 1], 7).is_err());
        let table = RopeTable::wan([1, 1, 1], 64).unwrap();
        assert!(table.apply(&mut [0.0; 65], 1, Rounding::None).is_err());
        assert!(table.apply(&mut [0.0; 64], 0, Rounding::None).is_err());
    }
}
