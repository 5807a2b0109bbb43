//! The int8 linear layer: block quantiser and block-scaled product.
//!
//! Sources: `turbodiffusion/ops/quant/quant.hpp` (quantiser), `turbodiffusion/ops/gemm/kernel.hpp` (product). The
//! quantiser's arithmetic is `f32` by definition, so it is written in `f32` here and a fast one must equal it.

/// Columns of a block, in both operands.
pub const BLOCK: usize = 128;

/// The largest magnitude of a block is never taken to be smaller than this.
pub const AMAX_FLOOR: f32 = 1e-8;

/// How values become int8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Rows that share a scale, 128 columns at a time.
    pub block_rows: usize,
    /// What the largest magnitude is mapped to before it saturates at -128 and 127.
    pub levels: f32,
}

impl Rule {
    /// The official rule: 128 x 128 blocks onto 128 levels, so that the largest positive value saturates to 127.
    pub const OFFICIAL: Self = Self { block_rows: 128, levels: 128.0 };
    /// One scale a row and 128 columns, onto 127 levels, so that nothing saturates.
    pub const PER_TOKEN: Self = Self { block_rows: 1, levels: 127.0 };
}

/// `q = saturate(round_half_even(x * (levels / amax)))` and `scale = amax / levels` for every block of `x [rows, width]`.
///
/// Scales are `[ceil(rows / block_rows), ceil(width / 128)]`; a ragged block covers what exists.
pub fn quantise(x: &[f32], width: usize, rule: Rule) -> (Vec<i8>, Vec<f32>) {
    let rows = x.len() / width;
    let mut values = vec![0i8; x.len()];
    let mut scales = Vec::new();
    for first in (0..rows).step_by(rule.block_rows) {
        for from in (0..width).step_by(BLOCK) {
            let places: Vec<usize> = (first..rows.min(first + rule.block_rows))
                .flat_map(|row| (from..width.min(from + BLOCK)).map(move |col| row * width + col))
                .collect();
            let amax = places.iter().fold(AMAX_FLOOR, |amax, place| amax.max(x[*place].abs()));
            for place in places {
                let scaled = (x[place] * (rule.levels / amax)).round_ties_even();
                values[place] = scaled.clamp(-128.0, 127.0) as i8;
            }
            scales.push(amax / rule.levels);
        }
    }
    (values, scales)
}

/// An int8 matrix `[rows, width]` with the scales of its blocks.
#[derive(Debug, Clone, Copy)]
pub struct Int8Matrix<'a> {
    /// `[rows, width]`.
    pub values: &'a [i8],
    /// `[ceil(rows / block_rows), ceil(width / 128)]`.
    pub scales: &'a [f32],
    /// Columns.
    pub width: usize,
    /// Rows that share a scale.
    pub block_rows: usize,
}

impl Int8Matrix<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// The exact sum over block `block` of a row of this times a row of `other`, scaled.
    fn block_product(&self, row: usize, other: &Int8Matrix<'_>, other_row: usize, block: usize) -> f64 {
        let columns = block * BLOCK..self.width.min((block + 1) * BLOCK);
        let exact: i64 =
            columns.map(|k| i64::from(self.values[row * self.width + k]) * i64::from(other.values[other_row * other.width + k])).sum();
        exact as f64 * self.scale(row, block) * other.scale(other_row, block)
    }

    fn scale(&self, row: usize, block: usize) -> f64 {
        f64::from(self.scales[row / self.block_rows * self.width.div_ceil(BLOCK) + block])
    }
}

/// `y[r, j] = sum_b a_scale[r, b] * w_scale[j, b] * (sum_{k in b} a[r, k] * w[j, k])`, both matrices of one width.
pub fn int8_linear(a: &Int8Matrix<'_>, weight: &Int8Matrix<'_>) -> Vec<f64> {
    let mut y = Vec::with_capacity(a.rows() * weight.rows());
    for row in 0..a.rows() {
        for column in 0..weight.rows() {
            y.push((0..a.width.div_ceil(BLOCK)).map(|block| a.block_product(row, weight, column, block)).sum());
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_rule_saturates_only_the_positive_end() {
        let mut x = vec![0.0f32; BLOCK];
        (x[0], x[1], x[2]) = (2.0, -2.0, 1.0);
        let (values, scales) = quantise(&x, BLOCK, Rule::OFFICIAL);
        assert_eq!((values[0], values[1], values[2], scales[0]), (127, -128, 64, 2.0 / 128.0));
        let (values, scales) = quantise(&x, BLOCK, Rule::PER_TOKEN);
        assert_eq!((values[0], values[1], values[2], scales[0]), (127, -127, 64, 2.0 / 127.0));
    }

    #[test]
    fn zeros_have_the_floor_as_their_scale() {
        let (values, scales) = quantise(&[0.0; 256], BLOCK, Rule::OFFICIAL);
        assert_eq!((values, scales), (vec![0; 256], vec![AMAX_FLOOR / 128.0]));
    }
}
