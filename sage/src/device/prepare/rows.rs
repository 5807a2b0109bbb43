//! Queries and keys as INT8 on a device: `kernels/quant_rows.cu`.

use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Device, Operand, Stream, View, ViewMut};

use super::params::QuantRowsParams;
use super::{Family, Half, HeadPlaces, THREADS, TILE_ROWS, code, expect, grouping, launch_over_rows, pool_rows, setting};
use crate::quantise::query_factor;
use crate::tiles::tiled_len;
use crate::{Error, Groups, Sage, Smoothing, kernels};

/// How INT8 rows lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[problems, len, head_dim]`: [`crate::Quantised::values`].
    Rows,
    /// Swizzled tiles of 64 rows: [`crate::Quantised::tiled`], [`tiled_len`](crate::tiled_len) bytes.
    Tiles,
}

/// Means of blocks of rows, which a block map is made from.
#[derive(Debug)]
pub struct PooledRows<'a, T> {
    /// `[problems, ceil(len / rows), head_dim]`, each over the rows that its block has.
    pub means: ViewMut<'a, T>,
    /// Rows of a block: 64 or 128.
    pub rows: usize,
}

/// Where quantised rows go.
#[derive(Debug)]
pub struct Int8Rows<'a, T> {
    /// The integers, on 16 bytes.
    pub values: ViewMut<'a, i8>,
    /// How they lie.
    pub layout: Layout,
    /// `[problems, groups.count(len)]`: [`crate::Quantised::scales`].
    pub scales: ViewMut<'a, f32>,
    /// Means of blocks of the rows before they are quantised: of queries as they are, of smoothed keys.
    pub pooled: Option<PooledRows<'a, T>>,
}

/// One side of an attention problem, to be quantised.
struct Side<'a, T> {
    x: View<'a, T>,
    means: Option<View<'a, f32>>,
    places: HeadPlaces,
    groups: Groups,
    /// Rows of a block of scales.
    block: usize,
    smoothing: Smoothing,
    factor: f32,
}

/// The INT8 quantiser of a device.
#[derive(Debug)]
pub struct QuantRows {
    kernels: Family<QuantRowsParams>,
}

impl QuantRows {
    /// Loads the kernels.
    ///
    /// # Errors
    /// As [`turbowan_cuda::device::Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let names = ["quant_rows_bf16_d128", "quant_rows_bf16_d64", "quant_rows_f16_d128", "quant_rows_f16_d64"];
        Ok(Self { kernels: Family::load(device, &kernels::QUANT_ROWS, names)? })
    }

    /// Queues the quantisation of queries in the shape's layout: [`crate::quantise_queries`] of the same operand.
    ///
    /// # Errors
    /// [`Error::Setting`] for a head dim that is neither 64 nor 128, scales over other than 16, 32, 64 or 128 rows, or pooled
    /// blocks of other than 64 or 128; [`Error::Operand`] when an operand does not fit, and as
    /// [`turbowan_cuda::device::Kernel::launch`].
    pub fn queries<T: Half>(
        &self,
        stream: &Stream,
        q: View<'_, T>,
        shape: &AttnShape,
        sage: &Sage,
        out: Int8Rows<'_, T>,
    ) -> Result<(), Error> {
        sage.check()?;
        expect("queries", q.len(), shape.query_values())?;
        let side = Side {
            x: q,
            means: None,
            places: HeadPlaces::new(shape, shape.query_len)?,
            groups: sage.granularity.query_groups(),
            block: sage.granularity.tile().query_block,
            smoothing: Smoothing::None,
            factor: query_factor(sage, shape.head_dim),
        };
        self.run(stream, side, shape, sage, out)
    }

    /// Queues the quantisation of keys in the shape's layout, less `means [problems, head_dim]` unless `sage` leaves them as
    /// they are: [`crate::quantise_keys`] of the same operands.
    ///
    /// # Errors
    /// As [`Self::queries`]; also [`Error::Operand`] without means where `sage` smooths, and [`Error::Setting`] for pooled
    /// blocks of keys that are smoothed in f32, which no block map has.
    pub fn keys<T: Half>(
        &self,
        stream: &Stream,
        k: View<'_, T>,
        means: Option<View<'_, f32>>,
        shape: &AttnShape,
        sage: &Sage,
        out: Int8Rows<'_, T>,
    ) -> Result<(), Error> {
        sage.check()?;
        expect("keys", k.len(), shape.key_values())?;
        let means = means.filter(|_| sage.smoothing != Smoothing::None);
        if sage.smoothing != Smoothing::None {
            expect("mean keys", means.map_or(0, |means| means.len()), shape.problems() * shape.head_dim)?;
        }
        if sage.smoothing == Smoothing::MeanStored && out.pooled.is_some() {
            return Err(setting("pooled blocks of keys smoothed in f32", "left out", 1));
        }
        let side = Side {
            x: k,
            means,
            places: HeadPlaces::new(shape, shape.key_len)?,
            groups: sage.granularity.key_groups(),
            block: sage.granularity.tile().key_block,
            smoothing: sage.smoothing,
            factor: 1.0,
        };
        self.run(stream, side, shape, sage, out)
    }

    fn run<T: Half>(&self, stream: &Stream, side: Side<'_, T>, shape: &AttnShape, sage: &Sage, out: Int8Rows<'_, T>) -> Result<(), Error> {
        let Side { x, means, places, groups, block, smoothing, factor } = side;
        let Int8Rows { mut values, layout, mut scales, mut pooled } = out;
        let (group_shift, lane_shift) = grouping(groups, block)?;
        let (problems, head_dim, len) = (shape.problems(), shape.head_dim, places.len);
        let count = match layout {
            Layout::Rows => x.len(),
            Layout::Tiles => tiled_len(problems, len, head_dim),
        };
        expect("int8 rows", values.len(), count)?;
        expect("scales of the rows", scales.len(), problems * groups.count(len))?;
        let mut params = QuantRowsParams {
            x: x.address().cast(),
            means: means.map_or(std::ptr::null(), |means| means.address()),
            values: values.address(),
            scales: scales.address(),
            pooled: std::ptr::null_mut(),
            len: len as i64,
            heads: shape.heads as i64,
            sample_stride: places.sample_stride,
            head_stride: places.head_stride,
            row_stride: places.row_stride,
            groups: groups.count(len) as i64,
            group_shift,
            lane_shift,
            rule: code(sage.rule),
            smoothing: match smoothing {
                Smoothing::None => 0,
                Smoothing::Stored => 1,
                Smoothing::MeanStored => 2,
            },
            pool_rows: TILE_ROWS as u32,
            is_tiled: (layout == Layout::Tiles).into(),
            factor,
            reserved: 0,
        };
        let mut operands: Vec<Operand<'_>> =
            vec![x.reads("x").aligned(16), values.writes("values").aligned(16), scales.writes("scales").aligned(4)];
        if let Some(means) = &means {
            operands.push(means.reads("means").aligned(16));
        }
        if let Some(pooled) = &mut pooled {
            expect("means of blocks", pooled.means.len(), problems * len.div_ceil(pooled.rows.max(1)) * head_dim)?;
            params.pool_rows = pool_rows(pooled.rows)?;
            params.pooled = pooled.means.address().cast();
            operands.push(pooled.means.writes("pooled").aligned(2));
        }
        let launch = launch_over_rows(problems, len, TILE_ROWS, THREADS)?;
        Ok(self.kernels.of::<T>(head_dim).launch(stream, launch, &params, &operands)?)
    }
}
