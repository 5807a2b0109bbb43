//! Gradients of a linear layer `y = x W^T + b` on the host.
//!
//! ```text
//! dx = dy W            dW += dy^T x            db += sum_r dy[r]
//! ```
//!
//! Both products are the forward one's: panels of [`PackedMatrix`], the same register tile, sums in `f32` in chains of
//! 256. For `dx` the weight is packed transposed ([`PackedMatrix::pack_transposed`]), once for as long as it does not
//! change; for `dW` the sum runs over the rows, `x` is packed as it is and columns of `dy` are read where they lie.
//! No sum depends on the number of threads.

use super::DEPTH;
use super::blocked::{self, Product};
use super::epilogue::{Epilogue, Finish, Then};
use super::tile::{self, TileShape};
use super::{PackedMatrix, floats, floats_mut, gemm};
use crate::Error;
use crate::host::par::Shared;
use crate::host::sums;
use crate::host::vectorised::{self, Vectorised};

/// `dx [rows, input] = dy [rows, out] . W`, or added to what `dx` holds; `transposed` is `W [out, input]` through
/// [`PackedMatrix::pack_transposed`].
///
/// # Errors
/// [`Error::Length`] when an operand does not fit.
pub fn input_gradient(dy: &[f32], rows: usize, transposed: &PackedMatrix, adds: bool, dx: &mut [f32]) -> Result<(), Error> {
    let then = if adds { Then::Add } else { Then::Store };
    gemm(dy, rows, transposed, &Epilogue { then, ..Epilogue::PLAIN }, dx)
}

/// `dW [out, input] += dy^T [out, rows] . x [rows, input]`.
///
/// # Errors
/// [`Error::Length`] when an operand does not fit, [`Error::Size`] when one is empty.
pub fn weight_gradient(dy: &[f32], x: &[f32], rows: usize, dw: &mut [f32]) -> Result<(), Error> {
    if rows == 0 || dy.is_empty() || x.is_empty() {
        return Err(Error::Size { what: "rows of a weight gradient", must: "at least 1, of at least 1 value", found: rows });
    }
    let (out, input) = (dy.len() / rows, x.len() / rows);
    Error::expect_len("output gradient", dy, rows * out)?;
    Error::expect_len("weight gradient", dw, out * input)?;
    let x = PackedMatrix::pack_transposed(x, rows, input)?;
    gemm_transposed(dy, out, &x, &Epilogue { then: Then::Add, ..Epilogue::PLAIN }, dw)
}

/// `db [width] += sum_r dy[r]`.
///
/// # Errors
/// [`Error::Length`] when `dy` does not hold whole rows.
pub fn bias_gradient(dy: &[f32], db: &mut [f32]) -> Result<(), Error> {
    let width = db.len();
    let rows = dy.len().checked_div(width).unwrap_or(0);
    Error::expect_len("output gradient", dy, rows * width)?;
    let isa = crate::host::Isa::detect();
    let body = |rows: std::ops::Range<usize>, sums: &mut [f32]| {
        vectorised::run(isa, AddRows { rows: &dy[rows.start * width..rows.end * width], sums });
    };
    sums::over_rows(rows, rows, width, body, |_, sums| sums::add(db, sums));
    Ok(())
}

/// `out [cols, n] = epilogue(a^T . w^T)` for `a [depth, cols]` and a packed `w [n, depth]`.
///
/// # Errors
/// As [`gemm`].
pub fn gemm_transposed(a: &[f32], cols: usize, w: &PackedMatrix, epilogue: &Epilogue<'_>, out: &mut [f32]) -> Result<(), Error> {
    Error::expect_len("transposed rows", a, w.input() * cols)?;
    Error::expect_len("output", out, cols * w.out())?;
    epilogue.check(cols, w.out())?;
    let finish = Finish { isa: w.isa(), epilogue, rounds_before_bias: false, width: w.out(), out: Shared::new(out) };
    blocked::run(&Columns { a, cols, weight: w }, cols, w.out(), &finish);
    Ok(())
}

struct AddRows<'a> {
    rows: &'a [f32],
    sums: &'a mut [f32],
}

impl Vectorised for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.rows.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// A product whose rows are the columns of `a [depth, cols]`.
struct Columns<'a> {
    a: &'a [f32],
    cols: usize,
    weight: &'a PackedMatrix,
}

impl Columns<'_> {
    fn depth(&self, block: usize) -> usize {
        (self.weight.input() - block * DEPTH).min(DEPTH)
    }
}

impl Product for Columns<'_> {
    fn shape(&self) -> TileShape {
        TileShape::of(self.weight.isa())
    }

    fn depth_blocks(&self) -> usize {
        self.weight.input().div_ceil(DEPTH)
    }

    fn row_words(&self, block: usize) -> usize {
        self.depth(block)
    }

    fn pack_rows(&self, first: usize, rows: usize, block: usize, words: &mut [u32]) {
        let from = self.a[block * DEPTH * self.cols..].chunks(self.cols);
        for (to, from) in floats_mut(words).chunks_exact_mut(rows).zip(from).take(self.depth(block)) {
            to.copy_from_slice(&from[first..first + rows]);
        }
    }

    fn multiply(&self, rows: usize, block: usize, words: &[u32], panel: usize, acc: &mut [f32]) {
        let depth = self.depth(block);
        let panel = self.weight.panel(panel, block * DEPTH, depth);
        tile::multiply(self.weight.isa(), rows, depth, floats(words), panel, acc, block == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Isa;
    use turbowan_reference::inputs::{self, Kind};
    use turbowan_reference::metrics::{Bound, Verdict};

    /// `(rows, out, input)`: one row, primes, tails of every tile, more rows than a chain.
    const SHAPES: [(usize, usize, usize); 6] = [(1, 1, 1), (3, 5, 7), (64, 97, 61), (257, 33, 130), (600, 128, 64), (2, 300, 16)];
    /// Sums of up to 600 products in `f32`, against their own size.
    const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(2e-6), cosine: None };

    /// `a^T b` of `[depth, m]` and `[depth, n]` in `f64`.
    fn outer(a: &[f32], b: &[f32], depth: usize) -> Vec<f64> {
        let (m, n) = (a.len() / depth, b.len() / depth);
        let mut out = vec![0.0; m * n];
        for (a, b) in a.chunks(m).zip(b.chunks(n)) {
            for (out, a) in out.chunks_mut(n).zip(a) {
                out.iter_mut().zip(b).for_each(|(out, b)| *out += f64::from(*a) * f64::from(*b));
            }
        }
        out
    }

    #[test]
    fn all_three_gradients_match_the_plain_sums() {
        for (rows, out, input) in SHAPES {
            for kind in [Kind::Plain, Kind::OutlierChannel, Kind::Zero] {
                let case = format!("{rows} {out} {input} {kind:?}");
                let (x, dy) = (inputs::rows(kind, rows, input, 1), inputs::rows(Kind::Plain, rows, out, 2));
                let weight = inputs::normal(out * input, 3);
                let mut dw = vec![0.0; out * input];
                weight_gradient(&dy, &x, rows, &mut dw).unwrap();
                Verdict::of(&dw, &outer(&dy, &x, rows), CLOSE).demand(&case);
                weight_gradient(&dy, &x, rows, &mut dw).unwrap();
                let twice: Vec<f64> = outer(&dy, &x, rows).iter().map(|value| 2.0 * value).collect();
                Verdict::of(&dw, &twice, CLOSE).demand(&format!("{case}, added"));

                // dx^T = W^T dy^T
                let dy_t: Vec<f32> = (0..out * rows).map(|at| dy[at % rows * out + at / rows]).collect();
                let want_t = outer(&weight, &dy_t, out);
                let want: Vec<f64> = (0..rows * input).map(|at| want_t[at % input * rows + at / input]).collect();
                let packed = PackedMatrix::pack_transposed(&weight, out, input).unwrap();
                let mut dx = vec![f32::NAN; rows * input];
                input_gradient(&dy, rows, &packed, false, &mut dx).unwrap();
                Verdict::of(&dx, &want, CLOSE).demand(&case);

                let mut db = vec![0.0; out];
                bias_gradient(&dy, &mut db).unwrap();
                Verdict::of(&db, &outer(&dy, &vec![1.0; rows], rows), CLOSE).demand(&case);
            }
        }
    }

    #[test]
    fn packing_the_transpose_is_packing_what_was_transposed() {
        let (input, out) = (37, 70);
        let matrix = inputs::normal(input * out, 1);
        let turned: Vec<f32> = (0..out * input).map(|at| matrix[at % input * out + at / input]).collect();
        let x = inputs::normal(9 * input, 2);
        for isa in Isa::available() {
            let by = |packed: PackedMatrix| {
                let mut y = vec![0.0; 9 * out];
                gemm(&x, 9, &packed, &Epilogue::PLAIN, &mut y).unwrap();
                y
            };
            let got = by(PackedMatrix::pack_transposed_for(isa, &matrix, input, out).unwrap());
            assert_eq!(got, by(PackedMatrix::pack_for(isa, &turned, out, input).unwrap()), "{isa:?}");
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (rows, out, input) = (700, 96, 160);
        let (x, dy) = (inputs::normal(rows * input, 1), inputs::normal(rows * out, 2));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut dw, mut db) = (vec![0.0; out * input], vec![0.0; out]);
                weight_gradient(&dy, &x, rows, &mut dw).unwrap();
                bias_gradient(&dy, &mut db).unwrap();
                (dw, db)
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        assert!(weight_gradient(&[0.0; 6], &[0.0; 4], 2, &mut [0.0; 6]).is_ok());
        assert!(weight_gradient(&[0.0; 6], &[0.0; 4], 2, &mut [0.0; 5]).is_err());
        assert!(weight_gradient(&[0.0; 7], &[0.0; 4], 2, &mut [0.0; 6]).is_err());
        assert!(weight_gradient(&[], &[], 0, &mut []).is_err());
        assert!(bias_gradient(&[0.0; 7], &mut [0.0; 3]).is_err());
        assert!(PackedMatrix::pack_transposed(&[0.0; 7], 2, 3).is_err());
        assert!(PackedMatrix::pack_transposed(&[], 0, 3).is_err());
    }
}
