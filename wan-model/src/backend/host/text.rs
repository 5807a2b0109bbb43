//! The text encoder's operations on the host.

use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::host::vectorised::{self, Vectorised};
use turbowan_cuda::host::{Isa, math};
use turbowan_cuda::ops::gemm::matmul_on;
use turbowan_cuda::ops::norm::{self, RmsNorm, RmsRule};
use turbowan_cuda::{Error, Rounding};

use super::{Host, HostActivation, HostTensor};
use crate::Result;
use crate::backend::text::TextBackend;

/// Query rows whose scores are in memory at a time.
const QUERIES: usize = 64;
/// Values of a unit of elementwise work.
const CHUNK: usize = 1 << 14;
/// Partial sums of a row.
const LANES: usize = 16;

impl TextBackend for Host {
    fn position_bias(&self, table: &HostTensor, buckets: &[usize]) -> Result<HostTensor> {
        let heads = table.width;
        if let Some(bucket) = buckets.iter().find(|bucket| **bucket >= table.rows()) {
            return Err(Error::Size { what: "bucket of positions", must: "below the rows of their table", found: *bucket }.into());
        }
        let values = (0..heads).flat_map(|head| buckets.iter().map(move |bucket| table.values[bucket * heads + head])).collect();
        Ok(HostTensor { width: buckets.len(), values })
    }

    fn rms_norm(&self, x: &HostTensor, weight: &HostTensor, eps: f32) -> Result<HostTensor> {
        let norm = RmsNorm { width: x.width, rule: RmsRule::Standard, eps, rounding: self.rounding };
        let mut out = x.clone();
        norm::rms_norm(&norm, &mut out.values, &weight.values)?;
        Ok(out)
    }

    fn gelu_gate(&self, gate: &HostTensor, up: &HostTensor) -> Result<HostActivation> {
        Ok(gelu_gate(Isa::detect(), self.rounding, gate, up)?.into())
    }

    fn relative_attention(&self, qkv: [&HostTensor; 3], bias: &HostTensor, keys: usize) -> Result<HostActivation> {
        Ok(relative_attention(Isa::detect(), self.rounding, qkv, bias, keys)?.into())
    }
}

fn gelu_gate(isa: Isa, rounding: Rounding, gate: &HostTensor, up: &HostTensor) -> Result<HostTensor> {
    Error::expect_len("gated values", &up.values, gate.values.len())?;
    let mut out = up.clone();
    let (len, shared) = (out.values.len(), Shared::new(&mut out.values));
    for_each_task(len.div_ceil(CHUNK), |task| {
        let (from, count) = (task * CHUNK, CHUNK.min(len - task * CHUNK));
        // SAFETY: every task has its own chunk.
        let out = unsafe { shared.part(from, count) };
        vectorised::run(isa, GeluGate { gate: &gate.values[from..from + count], out, rounding });
    });
    Ok(out)
}

struct GeluGate<'a> {
    gate: &'a [f32],
    out: &'a mut [f32],
    rounding: Rounding,
}

impl Vectorised for GeluGate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.rounding {
            Rounding::None => self.out.iter_mut().zip(self.gate).for_each(|(out, gate)| *out *= math::gelu_tanh(*gate)),
            Rounding::Bf16 => {
                self.out.iter_mut().zip(self.gate).for_each(|(out, gate)| *out = Rounding::Bf16.apply(*out * stepwise_gelu(*gate)))
            }
        }
    }
}

/// GELU as the official code spells it out, one bf16 tensor operation after the other.
#[inline(always)]
fn stepwise_gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let round = |value| Rounding::Bf16.apply(value);
    let cube = round(round(x * x) * x);
    let inner = round(SQRT_2_OVER_PI * round(x + round(0.044_715 * cube)));
    let tanh = round(1.0 - 2.0 / (math::exp(2.0 * inner) + 1.0));
    round(round(0.5 * x) * round(1.0 + tanh))
}

fn relative_attention(isa: Isa, rounding: Rounding, qkv: [&HostTensor; 3], bias: &HostTensor, keys: usize) -> Result<HostTensor> {
    let [q, k, v] = qkv;
    let (rows, width, heads) = (q.rows(), q.width, bias.rows());
    Error::expect_len("keys", &k.values, q.values.len())?;
    Error::expect_len("values", &v.values, q.values.len())?;
    if keys == 0 || keys > rows {
        return Err(Error::Size { what: "keys that are seen", must: "between 1 and the number of rows", found: keys }.into());
    }
    if heads == 0 || width % heads != 0 {
        return Err(Error::Size { what: "width of all heads", must: "a multiple of the number of heads", found: width }.into());
    }
    Error::expect_len("position bias", &bias.values, heads * (rows + keys - 1))?;

    let head_dim = width / heads;
    let mut out = HostTensor::zeros(rows, width);
    let shared = Shared::new(&mut out.values);
    let blocks = rows.div_ceil(QUERIES);
    for_each_task(heads * blocks, |task| {
        let (head, first) = (task / blocks, task % blocks * QUERIES);
        let (count, at) = (QUERIES.min(rows - first), head * head_dim);
        let mut scores = vec![0.0; count * keys];
        let mut sums = vec![0.0; count * head_dim];
        let queries = &q.values[first * width + at..];
        let product = |a: &[f32], lda, b: &[f32], transpose, n, depth, c: &mut [f32]| {
            matmul_on(isa, a, lda, b, width, transpose, count, n, depth, 1.0, 0.0, c, n)
        };
        product(queries, width, &k.values[at..], true, keys, head_dim, &mut scores).expect("shapes were checked");
        let bias = &bias.values[head * (rows + keys - 1)..(head + 1) * (rows + keys - 1)];
        vectorised::run(isa, BiasedSoftmax { scores: &mut scores, keys, bias, last: rows - 1 - first, rounding });
        product(&scores, keys, &v.values[at..], false, head_dim, keys, &mut sums).expect("shapes were checked");
        for (row, sums) in sums.chunks_exact(head_dim).enumerate() {
            // SAFETY: every task has its own rows of its own head.
            let out = unsafe { shared.part((first + row) * width + at, head_dim) };
            out.copy_from_slice(sums);
            rounding.apply_row(out);
        }
    });
    Ok(out)
}

/// Adds the bias to rows of scores and turns each into weights that sum to 1.
struct BiasedSoftmax<'a> {
    /// `[rows, keys]`.
    scores: &'a mut [f32],
    keys: usize,
    /// One head's, by distance.
    bias: &'a [f32],
    /// Where the first row's bias starts; each later row's starts one earlier.
    last: usize,
    rounding: Rounding,
}

impl Vectorised for BiasedSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { scores, keys, bias, last, rounding } = self;
        for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
            for (score, bias) in scores.iter_mut().zip(&bias[last - row..]) {
                *score = rounding.apply(rounding.apply(*score) + bias);
            }
            let largest = fold(scores, f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
            for score in scores.iter_mut() {
                *score = math::exp(*score - largest);
            }
            let total = fold(scores, 0.0, |a, b| a + b);
            for score in scores {
                *score = rounding.apply(*score / total);
            }
        }
    }
}

/// Folds a row in fixed lanes.
#[inline(always)]
fn fold(row: &[f32], start: f32, step: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = step(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, *value);
    }
    lanes.into_iter().fold(start, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::inputs::{self, Kind};
    use turbowan_reference::metrics::{Bound, Verdict};
    use turbowan_reference::umt5;

    /// `(rows, keys, heads, head_dim)`: one row, a prime, a block and one more, masked keys.
    const SHAPES: [(usize, usize, usize, usize); 6] =
        [(1, 1, 1, 1), (7, 7, 3, 5), (64, 10, 2, 16), (65, 65, 2, 64), (97, 61, 4, 8), (130, 1, 1, 32)];
    /// Sums of a few hundred products in `f32`.
    const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(3e-6), cosine: None };

    fn tensor(kind: Kind, rows: usize, width: usize, seed: u64) -> HostTensor {
        HostTensor { width, values: inputs::rows(kind, rows, width, seed) }
    }

    #[test]
    fn attention_with_a_bias_matches_the_oracle_on_every_instruction_set() {
        for (rows, keys, heads, head_dim) in SHAPES {
            for kind in [Kind::Plain, Kind::OutlierChannel, Kind::Constant, Kind::Zero] {
                let [q, k, v] = [1, 2, 3].map(|seed| tensor(kind, rows, heads * head_dim, seed));
                let bias = tensor(Kind::Plain, heads, rows + keys - 1, 4);
                let want = umt5::relative_attention([&q.values, &k.values, &v.values], rows, heads, &bias.values, keys);
                for isa in Isa::available() {
                    let got = relative_attention(isa, Rounding::None, [&q, &k, &v], &bias, keys).unwrap();
                    // an outlier channel makes scores of several hundred, whose last bits the exponential magnifies
                    let bound = if kind == Kind::OutlierChannel { Bound::relative_l2(2e-4) } else { CLOSE };
                    Verdict::of(&got.values, &want, bound).demand(&format!("{rows} {keys} {heads} {head_dim} {kind:?} {isa:?}"));
                    let got = relative_attention(isa, Rounding::Bf16, [&q, &k, &v], &bias, keys).unwrap();
                    assert!(got.values.iter().all(|value| *value == Rounding::Bf16.apply(*value)));
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let [q, k, v] = [1, 2, 3].map(|seed| tensor(Kind::Plain, 130, 64, seed));
        let bias = tensor(Kind::Plain, 4, 130 + 99 - 1, 4);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| relative_attention(Isa::detect(), Rounding::None, [&q, &k, &v], &bias, 99).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn gated_gelu_matches_the_oracle_in_both_arithmetics() {
        for (rows, width) in [(1, 1), (3, 97), (40, 1024)] {
            let [mut gate, mut up] = [5, 6].map(|seed| tensor(Kind::OutlierChannel, rows, width, seed));
            for isa in Isa::available() {
                let got = gelu_gate(isa, Rounding::None, &gate, &up).unwrap();
                Verdict::of(&got.values, &umt5::gelu_gate(&gate.values, &up.values), CLOSE).demand(&format!("{rows} x {width} {isa:?}"));
            }
            Rounding::Bf16.apply_row(&mut gate.values);
            Rounding::Bf16.apply_row(&mut up.values);
            for isa in Isa::available() {
                let got = gelu_gate(isa, Rounding::Bf16, &gate, &up).unwrap();
                // half a unit of bf16's 8 bits for each of nine roundings
                Verdict::of(&got.values, &umt5::gelu_gate(&gate.values, &up.values), Bound::relative_l2(1e-2)).demand("bf16");
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let host = Host::default();
        let [x, bias] = [tensor(Kind::Plain, 4, 6, 1), tensor(Kind::Plain, 2, 7, 2)];
        assert!(host.relative_attention([&x, &x, &x], &bias, 4).is_ok());
        assert!(host.relative_attention([&x, &x, &x], &bias, 3).is_err());
        assert!(host.relative_attention([&x, &x, &x], &bias, 0).is_err());
        assert!(host.relative_attention([&x, &x, &x], &tensor(Kind::Plain, 4, 7, 2), 4).is_err());
        assert!(host.gelu_gate(&x, &bias).is_err());
    }
}
