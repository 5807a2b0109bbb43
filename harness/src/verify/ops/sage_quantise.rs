//! What makes the operands of INT8 attention: int8 rows of each variant, and e4m3 values.

use turbowan_cuda::Rounding;
use turbowan_reference::sage as truth;
use turbowan_sage::{Sage, Smoothing, Tile, quantise_keys, quantise_queries, quantise_values};

use super::attention::{Heads, shape_of};
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, as_drawn, no_kernels};

/// `variant` 0 has a scale a thread (sm80), 1 the same of sm90, 2 one a block (Triton), 3 one a warp (CUDA), 4 that of SageSLA.
const ROWS: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 400, 1),
    Axis::new("dim", 1, 130, 1),
    Axis::choice("variant", 4),
    Axis::choice("tokens-first", 1),
];

const VALUES: &[Axis] =
    &[Axis::new("heads", 1, 3, 1), Axis::new("len", 1, 400, 1), Axis::new("dim", 1, 130, 1), Axis::choice("tokens-first", 1)];

/// The largest e4m3 value of kernels that sum in f16.
const SCALE_MAX: f32 = 2.25;
/// Values are padded to a multiple of so many tokens.
const PAD: usize = 64;

/// Rows and values.
pub const OPS: [Op; 2] = [
    Op {
        name: "sage-quantise",
        about: "int8 queries, and int8 keys less their mean, with the scales of each group of rows",
        axes: ROWS,
        cases: || {
            let shapes: [&[usize]; 7] = [
                &[1, 1, 1, 64, 0, 0],
                &[2, 63, 65, 128, 0, 1],
                &[1, 150, 328, 128, 1, 0],
                &[1, 129, 200, 64, 2, 0],
                &[2, 200, 130, 128, 3, 1],
                &[1, 257, 300, 128, 4, 0],
                &[3, 33, 64, 80, 0, 0],
            ];
            Case::cross(&shapes, &[1, 150, 200, 128, 0, 0], &Kind::ALL[1..])
        },
        tame: as_drawn,
        kernels: no_kernels,
        far: &[],
        prepare: Rows::prepare,
    },
    Op {
        name: "sage-quantise-values",
        about: "e4m3 values, tokens innermost, the largest of each channel becoming 2.25",
        axes: VALUES,
        cases: || {
            let shapes: [&[usize]; 4] = [&[1, 1, 64, 0], &[2, 65, 128, 1], &[1, 328, 128, 0], &[3, 64, 80, 0]];
            Case::cross(&shapes, &[1, 150, 128, 0], &Kind::ALL[1..])
        },
        tame: as_drawn,
        kernels: no_kernels,
        far: &[],
        prepare: Values::prepare,
    },
];

/// A variant, and the same as the oracle knows it: rule, rows of a query group and of a key group, and whether by thread.
fn variant(choice: usize) -> Result<(Sage, truth::Rule, [usize; 2], bool), Fault> {
    use truth::Rule::{HalfAway, HalfAwayEpsilon, HalfEven};
    match choice {
        0 => Ok((Sage::per_thread(Tile::SM80), HalfAwayEpsilon, [32, 64], true)),
        1 => Ok((Sage::per_thread(Tile::SM90), HalfAwayEpsilon, [16, 128], true)),
        2 => Ok((Sage::triton_per_block(), HalfAway, [128, 64], false)),
        3 => Ok((Sage::cuda_per_warp(Tile::SM80), HalfEven, [32, 64], false)),
        4 => Ok((Sage::sagesla(128, 64), HalfAwayEpsilon, [128, 64], false)),
        _ => Err(Fault::Case("variants are 0 to 4")),
    }
}

struct Rows {
    heads: Heads,
    sage: Sage,
    /// Queries, their scales, keys, theirs.
    want: [Vec<f64>; 4],
}

impl Rows {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, choice, tokens_first] = case.sizes();
        let (sage, rule, [query_rows, key_rows], by_thread) = variant(choice)?;
        let heads = Heads::draw(case.kind, shape_of(heads, query, key, dim, tokens_first == 1)?, case.seed);
        let stored = if sage.operands == Rounding::Bf16 { truth::Stored::Bf16 } else { truth::Stored::F32 };
        let factor = if sage.folds_scale { (std::f64::consts::LOG2_E / (dim as f64).sqrt()) as f32 } else { 1.0 };
        let mut want: [Vec<f64>; 4] = Default::default();
        for problem in 0..heads.shape.problems() {
            let [q, k, _] = heads.head(problem).map(|rows| rows.into_iter().map(|value| stored.round(value)).collect::<Vec<_>>());
            let mean = truth::mean_row(&k, dim, stored);
            // CUDA's difference stays in f32
            let k = truth::subtract_row(&k, &mean, if sage.smoothing == Smoothing::MeanStored { truth::Stored::F32 } else { stored });
            let groups = |len: usize, group: &dyn Fn(usize) -> usize| (0..len).map(group).collect::<Vec<_>>();
            let (of_query, of_key): (&dyn Fn(usize) -> usize, &dyn Fn(usize) -> usize) = if by_thread {
                (&|row| truth::query_group_of_thread(row, query_rows), &|row| truth::key_group_of_thread(row, key_rows))
            } else {
                (&|row| truth::group_of_block(row, query_rows), &|row| truth::group_of_block(row, key_rows))
            };
            let granularity = sage.granularity;
            let q = truth::quantise(&q, dim, factor, &groups(query, of_query), granularity.query_groups().count(query), rule);
            let k = truth::quantise(&k, dim, 1.0, &groups(key, of_key), granularity.key_groups().count(key), rule);
            want[0].extend(q.0.into_iter().map(f64::from));
            want[1].extend(q.1.into_iter().map(f64::from));
            want[2].extend(k.0.into_iter().map(f64::from));
            want[3].extend(k.1.into_iter().map(f64::from));
        }
        Ok(Box::new(Self { heads, sage, want }))
    }
}

impl Prepared for Rows {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let (shape, sage) = (&self.heads.shape, &self.sage);
        let (q, k) = (quantise_queries(&self.heads.q, shape, sage)?, quantise_keys(&self.heads.k, None, shape, sage)?);
        Ok(vec![
            Output::new("queries", shape.head_dim, &q.values),
            Output::new("query scales", 1, &q.scales),
            Output::new("keys", shape.head_dim, &k.values),
            Output::new("key scales", 1, &k.scales),
        ])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        Ok(outputs.iter().zip(&self.want).map(|(got, want)| Held::equal(got, want, "the rules are defined in f32, step by step")).collect())
    }
}

struct Values {
    heads: Heads,
    want: (Vec<u8>, Vec<f32>),
}

impl Values {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, len, dim, tokens_first] = case.sizes();
        let heads = Heads::draw(case.kind, shape_of(heads, 1, len, dim, tokens_first == 1)?, case.seed);
        let mut want = (Vec::new(), Vec::new());
        for problem in 0..heads.shape.problems() {
            let values = truth::quantise_values(&heads.keys(&heads.v, problem), dim, SCALE_MAX, PAD);
            want.0.extend(values.transposed);
            want.1.extend(values.scales);
        }
        Ok(Box::new(Self { heads, want }))
    }
}

impl Prepared for Values {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let got = quantise_values(&self.heads.v, &self.heads.shape, SCALE_MAX, PAD, &Sage::default())?;
        Ok(vec![Output::new("codes", got.padded_len, &got.transposed), Output::new("scales", 1, &got.scales)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let why = "the scale and the rounding to e4m3 are defined";
        Ok(vec![Held::equal(&outputs[0], &self.want.0, why), Held::equal(&outputs[1], &self.want.1, why)])
    }
}
