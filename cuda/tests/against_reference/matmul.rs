//! The product of unpacked operands.

use turbowan_cuda::Error;
use turbowan_cuda::host::Isa;
use turbowan_cuda::ops::gemm::{matmul, matmul_on};
use turbowan_reference::gemm::linear;
use turbowan_reference::inputs::Kind;
use turbowan_reference::metrics::{Bound, Verdict};

use crate::{SHAPES, bits, input};

/// `[rows, cols]` as its transpose `[cols, rows]`.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols)).copied().collect()
}

/// Rows of `cols` values spread `stride` apart, with values that are not numbers between them.
fn spread(values: &[f32], cols: usize, stride: usize) -> Vec<f32> {
    values.chunks(cols).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(f32::NAN, stride - cols))).collect()
}

#[test]
fn strides_transposes_and_scales_match_the_oracle() {
    for isa in Isa::available() {
        for [m, n, k] in SHAPES {
            let (a, b, c) = (input(Kind::Plain, m, k, 1), input(Kind::Plain, n, k, 2), input(Kind::Plain, m, n, 3));
            let product = linear(&a, &b, None, k);
            for (is_transposed, gap, alpha, beta) in
                [(true, 0, 1.0, 0.0), (true, 3, -0.5, 1.0), (false, 0, 2.0, 0.25), (false, 5, 1.0, 0.0)]
            {
                let (lda, ldc) = (k + gap, n + gap);
                let (b, ldb) =
                    if is_transposed { (spread(&b, k, k + gap), k + gap) } else { (spread(&transposed(&b, k), n, n + gap), n + gap) };
                let start: Vec<f32> = if beta == 0.0 { vec![f32::NAN; m * n] } else { c.clone() };
                let mut got = spread(&start, n, ldc);
                matmul_on(isa, &spread(&a, k, lda), lda, &b, ldb, is_transposed, m, n, k, alpha, beta, &mut got, ldc).unwrap();
                let want: Vec<f64> = product
                    .iter()
                    .zip(&start)
                    .map(|(p, c)| f64::from(alpha) * p + if beta == 0.0 { 0.0 } else { f64::from(beta * c) })
                    .collect();
                assert!(got.chunks(ldc).all(|row| row[n..].iter().all(|v| v.is_nan())), "nothing between the rows is written");
                let got: Vec<f32> = got.chunks(ldc).flat_map(|row| row[..n].to_vec()).collect();
                let case = format!("{isa:?} {m} x {n} x {k}, transposed {is_transposed}, gap {gap}");
                Verdict::of(&got, &want, Bound::max_abs(2e-4)).demand(&case);
            }
        }
    }
}

#[test]
fn a_part_of_a_product_has_the_bits_of_the_whole() {
    let (m, n, k) = (200, 210, 300);
    let (a, b) = (input(Kind::Plain, m, k, 4), input(Kind::Plain, n, k, 5));
    for isa in Isa::available() {
        let mut whole = vec![0.0; m * n];
        matmul_on(isa, &a, k, &b, k, true, m, n, k, 1.0, 0.0, &mut whole, n).unwrap();
        let (row, col) = (193, 201);
        let mut part = vec![0.0; 7 * 9];
        matmul_on(isa, &a[row * k..], k, &b[col * k..], k, true, 7, 9, k, 1.0, 0.0, &mut part, 9).unwrap();
        for (index, part) in part.chunks(9).enumerate() {
            assert_eq!(bits(part), bits(&whole[(row + index) * n + col..][..9]), "{isa:?}");
        }
    }
}

#[test]
fn an_empty_sum_is_zero_and_an_empty_output_is_nothing() {
    let mut c = [1.0, 2.0, f32::NAN];
    matmul(&[], 0, &[], 2, false, 1, 2, 0, 1.0, 0.5, &mut c, 3).unwrap();
    assert_eq!(c[..2], [0.5, 1.0]);
    matmul(&[], 0, &[], 3, false, 1, 3, 0, 1.0, 0.0, &mut c, 3).unwrap();
    assert_eq!(c, [0.0; 3]);
    matmul(&[], 4, &[1.0; 8], 4, true, 0, 2, 4, 1.0, 0.0, &mut [], 2).unwrap();
    matmul(&[1.0; 8], 4, &[], 4, true, 2, 0, 4, 1.0, 0.0, &mut [], 0).unwrap();
}

#[test]
fn misfits_are_refused() {
    let (a, b, mut c) = ([0.0; 6], [0.0; 6], [0.0; 4]);
    let is_size = |result| matches!(result, Err(Error::Size { .. }));
    let is_length = |result| matches!(result, Err(Error::Length { .. }));
    assert!(is_size(matmul(&a, 2, &b, 3, true, 2, 2, 3, 1.0, 0.0, &mut c, 2)));
    assert!(is_size(matmul(&a, 3, &b, 1, false, 2, 2, 3, 1.0, 0.0, &mut c, 2)));
    assert!(is_size(matmul(&a, 3, &b, 3, true, 2, 2, 3, 1.0, 0.0, &mut c, 1)));
    assert!(is_length(matmul(&a[..5], 3, &b, 3, true, 2, 2, 3, 1.0, 0.0, &mut c, 2)));
    assert!(is_length(matmul(&a, 3, &b[..5], 3, true, 2, 2, 3, 1.0, 0.0, &mut c, 2)));
    assert!(is_length(matmul(&a, 3, &b, 3, true, 2, 2, 3, 1.0, 0.0, &mut c[..3], 2)));
}
