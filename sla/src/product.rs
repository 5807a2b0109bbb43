//! The one matrix product of this crate: a small tile with one operand in registers' lanes.
//!
//! ```text
//! c[r, lane] = start[r, lane] + Σ_k a[r, k] · b[k, lane]
//!
//!   a      [rows, terms]   any two strides; read one value at a time and spread over a register
//!   b      [terms, lanes]  rows of lanes, a multiple of LANE_GROUP
//!   c      [rows, lanes]   as b
//!
//!   block  6 rows x 4 registers of 16 lanes (AVX-512), 6 x 2 of 8 (AVX2), 6 x 4 of 4 (NEON): held while k runs
//!   sum    f32, k ascending, so a value does not depend on where it lies in a block
//! ```
//!
//! With queries in the lanes, keys and values are read where they lie, row by row: scores are a product with
//! `a = k`, outputs one with `a = vᵀ`. Softmax then works lane by lane, without sums across a register.

use turbowan_cuda::host::Isa;

use crate::lanes::{self, Kernel, LANE_GROUP, Lanes};

/// The operand whose values are spread over registers, `[rows, terms]`.
#[derive(Clone, Copy)]
pub(crate) struct Spread<'a> {
    /// Starts at row 0, term 0.
    pub values: &'a [f32],
    /// Values from one row to the next.
    pub row_stride: usize,
    /// Values from one term to the next.
    pub term_stride: usize,
}

impl<'a> Spread<'a> {
    /// Rows as they lie in memory, `stride` apart.
    pub fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, row_stride: stride, term_stride: 1 }
    }

    /// The transpose: columns of rows that are `stride` apart.
    pub fn columns(values: &'a [f32], stride: usize) -> Self {
        Self { values, row_stride: 1, term_stride: stride }
    }
}

/// What the sums start from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What `c` holds.
    Keep,
    /// What `c` holds, times a factor of each lane.
    Scaled(&'a [f32]),
}

/// One product.
pub(crate) struct Product<'a> {
    pub rows: usize,
    pub terms: usize,
    pub lanes: usize,
    pub a: Spread<'a>,
    pub b: &'a [f32],
    pub b_stride: usize,
    pub c: &'a mut [f32],
    pub c_stride: usize,
    pub start: Start<'a>,
}

impl Product<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// When an operand is shorter than its shape says: a fault of this crate.
    pub fn run(self, isa: Isa) {
        assert!(self.lanes.is_multiple_of(LANE_GROUP), "lanes fill registers");
        if self.rows == 0 || self.lanes == 0 {
            return;
        }
        if self.terms > 0 {
            let last = (self.rows - 1) * self.a.row_stride + (self.terms - 1) * self.a.term_stride;
            assert!(last < self.a.values.len(), "the spread operand covers rows and terms");
            assert!((self.terms - 1) * self.b_stride + self.lanes <= self.b.len(), "the lane operand covers terms and lanes");
        }
        assert!((self.rows - 1) * self.c_stride + self.lanes <= self.c.len(), "the result covers rows and lanes");
        if let Start::Scaled(factors) = self.start {
            assert!(factors.len() >= self.lanes, "every lane has a factor");
        }
        // SAFETY: the assertions above bound every access that the loops make.
        unsafe { lanes::run(isa, self) }
    }
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let mut lane = 0;
        while lane < self.lanes {
            let left = (self.lanes - lane) / L::WIDTH;
            // SAFETY: columns stay inside the lanes; pointers by the caller.
            let taken = unsafe {
                if L::REGISTERS == 32 {
                    match left {
                        1 => column::<L, 1, 12>(&mut self, lane),
                        2 | 3 => column::<L, 2, 12>(&mut self, lane),
                        _ => column::<L, 4, 6>(&mut self, lane),
                    }
                } else if L::REGISTERS == 16 {
                    column::<L, 2, 6>(&mut self, lane)
                } else {
                    column::<L, 2, 2>(&mut self, lane)
                }
            };
            lane += taken * L::WIDTH;
        }
    }
}

/// All rows of `REGS` registers from `lane` on, `ROWS` at a time; gives back `REGS`.
#[inline(always)]
unsafe fn column<L: Lanes, const REGS: usize, const ROWS: usize>(product: &mut Product<'_>, lane: usize) -> usize {
    let mut row = 0;
    while row < product.rows {
        let taken = block_rows(product.rows - row, ROWS);
        // SAFETY: rows stay inside the product; pointers by the caller.
        unsafe {
            match taken {
                1 => block::<L, REGS, 1>(product, row, lane),
                2 => block::<L, REGS, 2>(product, row, lane),
                3 if ROWS > 2 => block::<L, REGS, 3>(product, row, lane),
                4 if ROWS > 2 => block::<L, REGS, 4>(product, row, lane),
                5 if ROWS > 2 => block::<L, REGS, 5>(product, row, lane),
                6 if ROWS > 6 => block::<L, REGS, 6>(product, row, lane),
                _ => block::<L, REGS, ROWS>(product, row, lane),
            }
        }
        row += taken;
    }
    REGS
}

/// Rows of the next block when `left` remain: `full`, or an even share of a rest that would leave one or two rows
/// alone, with the multipliers idle.
fn block_rows(left: usize, full: usize) -> usize {
    const MOST_OF_A_REST: usize = 6;
    if left == full || left >= full + 4 {
        full
    } else if left <= full.min(MOST_OF_A_REST) {
        left
    } else {
        left.div_ceil(2).min(MOST_OF_A_REST).min(full)
    }
}

/// One block: `ROWS x REGS` sums stay in registers while the terms run.
#[inline(always)]
unsafe fn block<L: Lanes, const REGS: usize, const ROWS: usize>(product: &mut Product<'_>, row: usize, lane: usize) {
    // SAFETY: `Product::run` bounded rows, terms and lanes; steps past the last term are never read.
    unsafe {
        let c = product.c.as_mut_ptr().add(row * product.c_stride + lane);
        let mut sums = [[L::splat(0.0); REGS]; ROWS];
        if !matches!(product.start, Start::Zero) {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(c.add(r * product.c_stride + v * L::WIDTH));
                }
            }
        }
        if let Start::Scaled(factors) = product.start {
            for v in 0..REGS {
                let factor = L::load(factors.as_ptr().add(lane + v * L::WIDTH));
                for sums in &mut sums {
                    sums[v] = sums[v].mul(factor);
                }
            }
        }
        let mut a = product.a.values.as_ptr().add(row * product.a.row_stride);
        let mut b = product.b.as_ptr().wrapping_add(lane);
        for _ in 0..product.terms {
            let mut lanes = [L::splat(0.0); REGS];
            for (v, lanes) in lanes.iter_mut().enumerate() {
                *lanes = L::load(b.add(v * L::WIDTH));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let spread = L::splat(*a.add(r * product.a.row_stride));
                for (sum, lanes) in sums.iter_mut().zip(&lanes) {
                    *sum = spread.mul_add(*lanes, *sum);
                }
            }
            a = a.wrapping_add(product.a.term_stride);
            b = b.wrapping_add(product.b_stride);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                sum.store(c.add(r * product.c_stride + v * L::WIDTH));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::inputs::normal;
    use turbowan_reference::metrics::{Bound, Verdict};

    /// Rounding of up to 70 sums in `f32`, against values of about 1.
    const SUMS: f64 = 2e-5;

    #[test]
    fn every_number_of_rows_and_lanes_equals_the_plain_sum() {
        for isa in Isa::available() {
            for rows in [1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 23, 64] {
                for lanes in [16, 32, 48, 64, 128] {
                    for is_transposed in [false, true] {
                        let terms = 70;
                        let (a, b) = (normal(rows * terms, 1), normal(terms * lanes, 2));
                        let (mut c, factors) = (normal(rows * lanes, 3), normal(lanes, 4));
                        let spread = if is_transposed { Spread::columns(&a, rows) } else { Spread::rows(&a, terms) };
                        let mut want: Vec<f64> = (0..rows * lanes).map(|at| f64::from(c[at] * factors[at % lanes])).collect();
                        for (at, want) in want.iter_mut().enumerate() {
                            let (row, lane) = (at / lanes, at % lanes);
                            for k in 0..terms {
                                let a = a[row * spread.row_stride + k * spread.term_stride];
                                *want += f64::from(a) * f64::from(b[k * lanes + lane]);
                            }
                        }
                        let start = Start::Scaled(&factors);
                        Product { rows, terms, lanes, a: spread, b: &b, b_stride: lanes, c: &mut c, c_stride: lanes, start }.run(isa);
                        Verdict::of(&c, &want, Bound::max_abs(SUMS)).demand(&format!("{isa:?} {rows} x {lanes}"));
                    }
                }
            }
        }
    }

    #[test]
    fn no_terms_leave_the_start() {
        for (start, want) in [(Start::Zero, 0.0), (Start::Keep, 3.0), (Start::Scaled(&[0.5; 16]), 1.5)] {
            let mut c = [3.0; 16];
            let a = Spread::rows(&[], 0);
            Product { rows: 1, terms: 0, lanes: 16, a, b: &[], b_stride: 16, c: &mut c, c_stride: 16, start }.run(Isa::Scalar);
            assert_eq!(c, [want; 16]);
        }
    }

    #[test]
    fn blocks_cover_every_number_of_rows() {
        for full in [2, 6, 12] {
            for rows in 1..200 {
                let (mut left, mut blocks) = (rows, 0);
                while left > 0 {
                    let taken = block_rows(left, full);
                    assert!(taken >= 1 && taken <= left && (taken == full || taken <= 6));
                    (left, blocks) = (left - taken, blocks + 1);
                }
                assert!(blocks <= rows / full + 3);
            }
        }
    }
}
