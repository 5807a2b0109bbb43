//! A product of two operands that are not packed, on one thread.

use std::cell::RefCell;

use super::DEPTH;
use super::interleave::interleave;
use super::panel::Panel;
use super::tile::{TileShape, multiply};
use crate::Error;
use crate::host::{Aligned, Isa};

/// Rows and columns of the output that are worked on at a time: their packed operands and their sums fit an L2 cache.
const BLOCK: usize = 192;

#[derive(Default)]
struct Scratch {
    a: Aligned<f32>,
    b: Aligned<f32>,
    acc: Aligned<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `c[m, n] = alpha * a[m, k] . op(b) + beta * c`, on the calling thread.
///
/// `op(b)` is `b[k, n]`, or with `transpose_b` the transpose of `b[n, k]`. Rows of `a`, `b` and `c` start `lda`, `ldb`
/// and `ldc` values apart. With `beta` 0 what `c` holds is not read. Sums run as in [`gemm`](super::gemm).
///
/// # Errors
/// [`Error::Size`] when a stride is shorter than its row, [`Error::Length`] when an operand ends too early.
#[allow(clippy::too_many_arguments, reason = "the order of arguments that BLAS made familiar")]
pub fn matmul(
    a: &[f32],
    lda: usize,
    b: &[f32],
    ldb: usize,
    transpose_b: bool,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    beta: f32,
    c: &mut [f32],
    ldc: usize,
) -> Result<(), Error> {
    matmul_on(Isa::detect(), a, lda, b, ldb, transpose_b, m, n, k, alpha, beta, c, ldc)
}

/// [`matmul`] with a chosen instruction set.
///
/// # Errors
/// Also [`Error::MissingIsa`] when this machine lacks it.
#[allow(clippy::too_many_arguments, reason = "the order of arguments that BLAS made familiar")]
pub fn matmul_on(
    isa: Isa,
    a: &[f32],
    lda: usize,
    b: &[f32],
    ldb: usize,
    transpose_b: bool,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    beta: f32,
    c: &mut [f32],
    ldc: usize,
) -> Result<(), Error> {
    isa.demand()?;
    let (b_rows, b_cols) = if transpose_b { (n, k) } else { (k, n) };
    check("a", a, m, k, lda)?;
    check("b", b, b_rows, b_cols, ldb)?;
    check("c", c, m, n, ldc)?;
    if k == 0 {
        for row in c.chunks_mut(ldc.max(1)).take(m) {
            row[..n].iter_mut().for_each(|value| *value = if beta == 0.0 { 0.0 } else { beta * *value });
        }
        return Ok(());
    }
    SCRATCH.with_borrow_mut(|scratch| {
        for col in (0..n).step_by(BLOCK) {
            for row in (0..m).step_by(BLOCK) {
                let block = Block { isa, shape: TileShape::of(isa), rows: (m - row).min(BLOCK), cols: (n - col).min(BLOCK) };
                for from in (0..k).step_by(DEPTH) {
                    let depth = (k - from).min(DEPTH);
                    let origin = if transpose_b { col * ldb + from } else { from * ldb + col };
                    block.pack_columns(&b[origin..], ldb, transpose_b, depth, &mut scratch.b);
                    block.pack_rows(&a[row * lda + from..], lda, depth, &mut scratch.a);
                    block.multiply(depth, scratch, from == 0);
                }
                block.store(&scratch.acc, alpha, beta, &mut c[row * ldc + col..], ldc);
            }
        }
    });
    Ok(())
}

/// Checks that `values` holds `rows` rows of `cols` values, `stride` apart.
fn check(what: &'static str, values: &[f32], rows: usize, cols: usize, stride: usize) -> Result<(), Error> {
    if stride < cols {
        return Err(Error::Size { what, must: "strided by at least the length of a row", found: stride });
    }
    let expected = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride + cols };
    if values.len() < expected {
        return Err(Error::Length { what, expected, found: values.len() });
    }
    Ok(())
}

/// A block of the output.
struct Block {
    isa: Isa,
    shape: TileShape,
    rows: usize,
    cols: usize,
}

impl Block {
    /// `a[rows, depth]` as `[ceil(rows / tile rows)][depth, tile rows]`; the last tile has only the rows that exist.
    fn pack_rows(&self, a: &[f32], lda: usize, depth: usize, to: &mut Aligned<f32>) {
        let step = self.shape.rows;
        let to = to.at_least(self.rows.next_multiple_of(step) * depth);
        for (tile, to) in to.chunks_exact_mut(step * depth).enumerate() {
            let rows = step.min(self.rows - tile * step);
            interleave(&a[tile * step * lda..], lda, rows, depth, to, rows);
        }
    }

    /// The operand's columns as `[ceil(cols / tile columns)][depth, tile columns]`, zero past the last column.
    fn pack_columns(&self, b: &[f32], ldb: usize, is_transposed: bool, depth: usize, to: &mut Aligned<f32>) {
        let step = self.shape.cols;
        let to = to.at_least(self.cols.next_multiple_of(step) * depth);
        for (panel, to) in to.chunks_exact_mut(step * depth).enumerate() {
            let cols = step.min(self.cols - panel * step);
            if cols < step {
                to.fill(0.0);
            }
            if is_transposed {
                interleave(&b[panel * step * ldb..], ldb, cols, depth, to, step);
            } else {
                for (k, to) in to.chunks_exact_mut(step).enumerate() {
                    to[..cols].copy_from_slice(&b[k * ldb + panel * step..][..cols]);
                }
            }
        }
    }

    /// Multiplies every tile, panel by panel; sums lie as `[panels][row tiles][tile rows, tile columns]`.
    fn multiply(&self, depth: usize, scratch: &mut Scratch, is_first: bool) {
        let (rows, cols) = (self.shape.rows, self.shape.cols);
        let (tiles, panels) = (self.rows.div_ceil(rows), self.cols.div_ceil(cols));
        let acc = scratch.acc.at_least(tiles * panels * rows * cols);
        let mut accs = acc.chunks_exact_mut(rows * cols);
        for b in scratch.b.chunks_exact(cols * depth).take(panels) {
            for (tile, (a, acc)) in scratch.a.chunks_exact(rows * depth).take(tiles).zip(&mut accs).enumerate() {
                multiply(self.isa, rows.min(self.rows - tile * rows), depth, a, Panel::F32(b), acc, is_first);
            }
        }
    }

    fn store(&self, acc: &[f32], alpha: f32, beta: f32, c: &mut [f32], ldc: usize) {
        let (rows, cols) = (self.shape.rows, self.shape.cols);
        let tiles = self.rows.div_ceil(rows);
        for (index, acc) in acc.chunks_exact(rows * cols).take(tiles * self.cols.div_ceil(cols)).enumerate() {
            let (row, col) = (index % tiles * rows, index / tiles * cols);
            let width = cols.min(self.cols - col);
            for (acc, row) in acc.chunks_exact(cols).zip(row..self.rows) {
                for (to, sum) in c[row * ldc + col..][..width].iter_mut().zip(acc) {
                    *to = if beta == 0.0 { alpha * sum } else { alpha * sum + beta * *to };
                }
            }
        }
    }
}
