//! Queries and keys in int8, as each variant of attention reads them.

use half::{bf16, f16};
use turbowan_cuda::{AttnShape, Rounding};
use turbowan_reference::sage as truth;
use turbowan_sage::device::prepare::{Half, Int8Rows, KERNELS, Layout, PooledRows, QuantRows};
use turbowan_sage::{Quantised, Sage, Smoothing, Tile, quantise_keys, quantise_queries, tiled_len};

use super::attention::{AfterZeros, Heads, shape_of};
use super::sage_means::{block_means, hold_means};
use super::{FAR_ROWS, HALF_STEP};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `variant` 0 has a scale a thread (sm80), 1 the same of sm90, 2 one a block (Triton), 3 one a warp (CUDA), 4 that of SageSLA;
/// `f16` operands are f16 rather than bf16.
const ROWS: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 400, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("variant", 4),
    Axis::choice("f16", 1),
    Axis::choice("tokens-first", 1),
];

/// Rows of a block of the block map, of queries and of keys.
const POOL_ROWS: [usize; 2] = [128, 64];

/// Both operands of a problem.
pub const OPS: [Op; 1] = [Op {
    name: "sage-quantise",
    about: "int8 queries, and int8 keys less their mean, with the scales of each group of rows, and means of blocks",
    axes: ROWS,
    cases: || {
        let shapes: [&[usize]; 8] = [
            &[1, 1, 1, 64, 0, 0, 0],
            &[2, 63, 65, 128, 0, 1, 1],
            &[1, 150, 328, 128, 1, 0, 0],
            &[1, 129, 200, 64, 2, 1, 0],
            &[2, 200, 130, 128, 3, 0, 1],
            &[1, 257, 300, 128, 4, 0, 0],
            &[1, 70, 150, 64, 4, 1, 1],
            &[3, 33, 64, 64, 3, 1, 0],
        ];
        Case::cross(&shapes, &[1, 150, 200, 128, 0, 0, 0], &Kind::ALL[1..])
    },
    tame: as_drawn,
    kernels: |chip| vec![(KERNELS[3].choose)(chip).1],
    far: &[Far { shape: &[2, 64, 64, 128, 4, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) }],
    prepare: Rows::prepare,
}];

/// A variant as the crate and as the oracle know it.
pub(super) struct Variant {
    pub(super) sage: Sage,
    rule: truth::Rule,
    /// Rows of a query group, and of a key group.
    rows: [usize; 2],
    by_thread: bool,
}

impl Variant {
    pub(super) fn of(choice: usize) -> Result<Self, Fault> {
        use truth::Rule::{HalfAway, HalfAwayEpsilon, HalfEven};
        let (sage, rule, rows, by_thread) = match choice {
            0 => (Sage::per_thread(Tile::SM80), HalfAwayEpsilon, [32, 64], true),
            1 => (Sage::per_thread(Tile::SM90), HalfAwayEpsilon, [16, 128], true),
            2 => (Sage::triton_per_block(), HalfAway, [128, 64], false),
            3 => (Sage::cuda_per_warp(Tile::SM80), HalfEven, [32, 64], false),
            4 => (Sage::sagesla(128, 64), HalfAwayEpsilon, [128, 64], false),
            _ => return Err(Fault::Case("variants are 0 to 4")),
        };
        // operands hold 16 bits as they are
        Ok(Self { sage: Sage { operands: Rounding::None, ..sage }, rule, rows, by_thread })
    }

    /// One head's queries by the oracle.
    pub(super) fn queries(&self, rows: &[f32], dim: usize) -> (Vec<i8>, Vec<f32>) {
        let factor = if self.sage.folds_scale { (std::f64::consts::LOG2_E / (dim as f64).sqrt()) as f32 } else { 1.0 };
        let of: fn(usize, usize) -> usize = if self.by_thread { truth::query_group_of_thread } else { truth::group_of_block };
        let group: Vec<usize> = (0..rows.len() / dim).map(|row| of(row, self.rows[0])).collect();
        truth::quantise(rows, dim, factor, &group, self.sage.granularity.query_groups().count(group.len()), self.rule)
    }

    /// One head's smoothed keys by the oracle.
    fn keys(&self, rows: &[f32], dim: usize) -> (Vec<i8>, Vec<f32>) {
        let of: fn(usize, usize) -> usize = if self.by_thread { truth::key_group_of_thread } else { truth::group_of_block };
        let group: Vec<usize> = (0..rows.len() / dim).map(|row| of(row, self.rows[1])).collect();
        truth::quantise(rows, dim, 1.0, &group, self.sage.granularity.key_groups().count(group.len()), self.rule)
    }
}

/// Values of a 16-bit format that hold it already.
pub(super) fn narrowed<T: Half>(values: &[f32]) -> Vec<T> {
    values.iter().map(|value| T::narrow(*value)).collect()
}

/// The format's name, and the heads rounded to it.
pub(super) fn stored(mut heads: Heads, is_f16: bool) -> (truth::Stored, Heads) {
    let stored = if is_f16 { truth::Stored::F16 } else { truth::Stored::Bf16 };
    for rows in [&mut heads.q, &mut heads.k, &mut heads.v] {
        rows.iter_mut().for_each(|value| *value = stored.round(*value));
    }
    (stored, heads)
}

/// Half a unit in the last of the format's bits, as a share of a value.
pub(super) fn half_step(stored: truth::Stored) -> f64 {
    if stored == truth::Stored::F16 { 1.0 / 2048.0 } else { HALF_STEP }
}

struct Rows {
    heads: Heads,
    variant: Variant,
    stored: truth::Stored,
    means: Vec<f32>,
    q: Quantised,
    k: Quantised,
    /// Means of blocks of queries, and of smoothed keys.
    pooled: [Vec<(f64, f64)>; 2],
}

impl Rows {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, choice, is_f16, tokens_first] = case.sizes();
        let variant = Variant::of(choice)?;
        let heads = Heads::draw(case.kind, shape_of(heads, query, key, dim, tokens_first == 1)?, case.seed);
        let (stored, heads) = stored(heads, is_f16 == 1);
        let granularity = variant.sage.granularity;
        let empty = |groups, len| Quantised { values: Vec::new(), scales: Vec::new(), groups, len };
        let (mut q, mut k) = (empty(granularity.query_groups(), query), empty(granularity.key_groups(), key));
        let (mut means, mut pooled) = (Vec::new(), [Vec::new(), Vec::new()]);
        for problem in 0..heads.shape.problems() {
            let [queries, keys, _] = heads.head(problem);
            let mean = truth::mean_row(&keys, dim, stored);
            // CUDA's difference stays in f32
            let is_wide = variant.sage.smoothing == Smoothing::MeanStored;
            let keys = truth::subtract_row(&keys, &mean, if is_wide { truth::Stored::F32 } else { stored });
            pooled[0].extend(block_means(&queries, dim, POOL_ROWS[0]));
            pooled[1].extend(block_means(&keys, dim, POOL_ROWS[1]));
            for (int8, (values, scales)) in [(&mut q, variant.queries(&queries, dim)), (&mut k, variant.keys(&keys, dim))] {
                int8.values.extend(values);
                int8.scales.extend(scales);
            }
            means.extend(mean);
        }
        Ok(Box::new(Self { heads, variant, stored, means, q, k, pooled }))
    }

    fn on_host<T: Half>(&self) -> Result<Vec<Output>, Fault> {
        let (Heads { q, k, shape, .. }, sage) = (&self.heads, &self.variant.sage);
        let (q, k) = (quantise_queries(&narrowed::<T>(q), shape, sage)?, quantise_keys(&narrowed::<T>(k), None, shape, sage)?);
        Ok(vec![
            Output::new("queries", shape.head_dim, &q.values),
            Output::new("query scales", 1, &q.scales),
            Output::new("keys", shape.head_dim, &k.values),
            Output::new("key scales", 1, &k.scales),
        ])
    }

    fn on<T: Half + Into<f64>>(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (own, sage) = (&self.heads.shape, &self.variant.sage);
        let AttnShape { query_len, key_len, head_dim: dim, .. } = *own;
        let after = AfterZeros::new(own, stand.lead());
        let upload = |rows: &[f32]| stand.upload_behind(after.behind(rows.len()), &narrowed::<T>(rows));
        let (q, k) = (upload(&self.heads.q)?, upload(&self.heads.k)?);
        let means = stand.upload_behind(after.behind(self.means.len()), &self.means)?;
        let kernels = QuantRows::load(stand.device())?;
        let mut outputs = Vec::new();
        let pools_keys = sage.smoothing != Smoothing::MeanStored;
        let names = [
            ["queries", "query scales", "pooled queries"],
            ["keys", "key scales", "pooled keys"],
            ["tiles of keys", "key scales", "pooled keys"],
        ];
        for (index, [rows_name, scales_name, pooled_name]) in names.into_iter().enumerate() {
            let (is_keys, layout) = (index > 0, if index == 2 { Layout::Tiles } else { Layout::Rows });
            let (int8, len, pool_rows) = if is_keys { (&self.k, key_len, POOL_ROWS[1]) } else { (&self.q, query_len, POOL_ROWS[0]) };
            let count = if layout == Layout::Tiles { tiled_len(own.problems(), len, dim) } else { int8.values.len() };
            let pools = !is_keys || pools_keys && layout == Layout::Rows;
            let blocks = if pools { own.problems() * len.div_ceil(pool_rows) * dim } else { 0 };
            let mut values = stand.room_behind::<i8>(after.behind(count), count)?;
            let mut scales = stand.room_behind::<f32>(after.behind(int8.scales.len()), int8.scales.len())?;
            let mut pooled = stand.room_behind::<T>(after.behind(blocks), blocks)?;
            stand.launch(|stream| {
                let pooled = pools.then(|| PooledRows { means: pooled.view_mut(), rows: pool_rows });
                let out = Int8Rows { values: values.view_mut(), layout, scales: scales.view_mut(), pooled };
                let shape = &after.shape;
                Ok(if is_keys {
                    kernels.keys(stream, k.view(), Some(means.view()), shape, sage, out)
                } else {
                    kernels.queries(stream, q.view(), shape, sage, out)
                }?)
            })?;
            outputs.push(Output::new(rows_name, dim, &stand.results(&values, count)?));
            outputs.push(Output::new(scales_name, 1, &stand.results(&scales, int8.scales.len())?));
            if pools {
                outputs.push(Output::new(pooled_name, dim, &stand.results(&pooled, blocks)?));
            }
        }
        Ok(outputs)
    }
}

impl Prepared for Rows {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        if self.stored == truth::Stored::F16 { self.on_host::<f16>() } else { self.on_host::<bf16>() }
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        if self.stored == truth::Stored::F16 { self.on::<f16>(stand) } else { self.on::<bf16>(stand) }
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let why = "the rules are defined in f32, step by step";
        let held = outputs.iter().map(|output| match output.name {
            "queries" => Held::equal(output, &self.q.values, why),
            "query scales" => Held::equal(output, &self.q.scales, why),
            "keys" => Held::equal(output, &self.k.values, why),
            "tiles of keys" => Held::equal(output, &self.k.tiled(self.heads.shape.head_dim), "the same, elsewhere"),
            "key scales" => Held::equal(output, &self.k.scales, why),
            "pooled queries" => hold_means(output, &self.pooled[0], half_step(self.stored)),
            _ => hold_means(output, &self.pooled[1], half_step(self.stored)),
        });
        Ok(held.collect())
    }
}
