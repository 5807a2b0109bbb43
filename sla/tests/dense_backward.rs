//! Gradients of dense attention, to itself and to keys of another length, against the oracle.

#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, HeadLayout};
use turbowan_reference::inputs::{Kind, normal, rows};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::sla::{Head, sparse_backward};
use turbowan_sla::{Attend, Attended, Error, attend_backward, attend_with_lse};

/// `(batch, heads, queries, keys, head_dim)`: one row, primes, tails of the tile of 64, one and two tiles.
const SHAPES: [(usize, usize, usize, usize, usize); 6] =
    [(1, 1, 1, 1, 8), (1, 2, 7, 13, 5), (2, 2, 80, 80, 64), (1, 1, 65, 130, 16), (2, 1, 150, 24, 32), (1, 1, 64, 64, 128)];
/// Sums of up to 150 products in `f32`, and differences of them.
const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(2e-5), cosine: None };

/// One head's rows of a tensor, in `f64`.
fn head_rows(values: &[f32], len: usize, dim: usize, offset: impl Fn(usize) -> usize) -> Vec<f64> {
    (0..len).flat_map(|row| values[offset(row)..][..dim].iter().map(|value| f64::from(*value))).collect()
}

#[test]
fn gradients_match_the_oracle_in_both_layouts_on_every_instruction_set() {
    for (batch, heads, query_len, key_len, dim) in SHAPES {
        for kind in [Kind::Plain, Kind::OutlierChannel, Kind::Zero] {
            for layout in [HeadLayout::Bhld, HeadLayout::Blhd] {
                let shape = AttnShape::cross(batch, heads, query_len, key_len, dim).unwrap().with_layout(layout);
                let q = rows(kind, shape.query_values() / dim, dim, 1);
                let (k, v) = (normal(shape.key_values(), 2), normal(shape.key_values(), 3));
                let grad = normal(shape.query_values(), 4);
                for isa in Isa::available() {
                    let how = Attend { isa, ..Attend::default() };
                    let attended = attend_with_lse(&q, &k, &v, &shape, &how).unwrap();
                    let got = attend_backward([&q, &k, &v], &shape, &how, (&attended.out, &attended.lse), &grad).unwrap();
                    for problem in 0..shape.problems() {
                        let query = |values: &[f32]| head_rows(values, query_len, dim, |row| shape.query_offset(problem, row));
                        let key = |values: &[f32]| head_rows(values, key_len, dim, |row| shape.key_offset(problem, row));
                        let head = Head { query_len, key_len, dim };
                        let want = sparse_backward(&query(&q), &key(&k), &key(&v), &query(&grad), head, None, head.scale(), false);
                        let case = format!("{shape:?} {kind:?} {isa:?}");
                        // a lone key takes all the weight: the true gradient is zero
                        let bound = if key_len == 1 { Bound::max_abs(1e-6) } else { CLOSE };
                        Verdict::of(&query(&got[0]), &want.q, bound).demand(&case);
                        Verdict::of(&key(&got[1]), &want.k, bound).demand(&case);
                        Verdict::of(&key(&got[2]), &want.v, CLOSE).demand(&case);
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let shape = AttnShape::cross(2, 3, 130, 90, 24).unwrap();
    let [q, k, v, grad] =
        [(shape.query_values(), 1), (shape.key_values(), 2), (shape.key_values(), 3), (shape.query_values(), 4)].map(|(n, s)| normal(n, s));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let attended = attend_with_lse(&q, &k, &v, &shape, &Attend::default()).unwrap();
            attend_backward([&q, &k, &v], &shape, &Attend::default(), (&attended.out, &attended.lse), &grad).unwrap()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn what_does_not_fit_is_refused() {
    let shape = AttnShape::new(1, 1, 4, 2).unwrap();
    let x = [0.5; 8];
    let attended = attend_with_lse(&x, &x, &x, &shape, &Attend::default()).unwrap();
    let run = |how: Attend<'_>, attended: &Attended, grad: &[f32]| {
        attend_backward([&x, &x, &x], &shape, &how, (&attended.out, &attended.lse), grad)
    };
    assert!(run(Attend::default(), &attended, &x).is_ok());
    assert!(matches!(run(Attend { is_causal: true, ..Attend::default() }, &attended, &x), Err(Error::Causal { .. })));
    assert!(matches!(run(Attend { scale: Some(0.0), ..Attend::default() }, &attended, &x), Err(Error::Scale { .. })));
    assert!(run(Attend::default(), &attended, &x[..7]).is_err());
    assert!(run(Attend::default(), &Attended { lse: vec![0.0; 3], ..attended.clone() }, &x).is_err());
}
