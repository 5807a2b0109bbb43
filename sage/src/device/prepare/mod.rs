//! What INT8 attention reads, made on a device from bf16 or f16 tensors.
//!
//! ```text
//! keys            MeanKeys   ->  mean key of each head
//! queries, keys   QuantRows  ->  int8 rows (or tiles), scales, means of blocks for a block map
//! values          QuantValues -> e4m3 channels (or tiles) and scales, or f16
//! projections     QkPrep     ->  normed and turned queries and keys, int8 queries, the sums of the mean key, and f16 values
//!                                or their largest, in one pass
//! ```
//!
//! Integers, codes and scales are those of the host's quantisers ([`crate::quantise_queries`], [`crate::quantise_keys`],
//! [`crate::quantise_values`]) over the same operands.

mod mean;
mod params;
mod qk;
mod rows;
mod values;

use half::{bf16, f16};
use turbowan_cuda::device::{Device, Kernel, KernelFile, Launch, OpKernel, Params};
use turbowan_cuda::host::aligned::Plain;
use turbowan_cuda::{AttnShape, Element, Error as OperandError, HeadLayout};

use crate::{Error, Groups, Rule, kernels};

pub use mean::{MeanKeys, sums_len};
pub use qk::{Beside, BesideTo, Prepared, Projected, QkPrep, maxima_len};
pub use rows::{Int8Rows, Layout, PooledRows, QuantRows};
pub use values::{E4m3Codes, E4m3Values, QuantValues, ValueLayout};

/// Which kernel each chip takes, for bf16 operands of head dim 128; `doctor` shows them.
pub const KERNELS: [OpKernel; 7] = [
    OpKernel { op: "norm, turn, quantise queries and keys", choose: |_| (&kernels::QK_PREP, "qk_prep_d128") },
    OpKernel { op: "sum keys", choose: |_| (&kernels::MEAN_KEYS, "sum_rows_bf16_d128") },
    OpKernel { op: "mean key", choose: |_| (&kernels::MEAN_KEYS, "mean_rows") },
    OpKernel { op: "quantise queries and keys to int8", choose: |_| (&kernels::QUANT_ROWS, "quant_rows_bf16_d128") },
    OpKernel { op: "largest values of channels", choose: |_| (&kernels::QUANT_VALUES, "value_amax_bf16_d128") },
    OpKernel {
        op: "values for attention",
        choose: |capability| (&kernels::QUANT_VALUES, if values::has_e4m3(capability) { "value_e4m3_bf16_d128" } else { "value_f16" }),
    },
    OpKernel { op: "values to f16", choose: |_| (&kernels::QUANT_VALUES, "value_f16") },
];

/// Rows that a thread block takes.
const TILE_ROWS: usize = 128;
/// Threads of a block, in the kernels over tiles of rows.
const THREADS: u32 = 512;

/// A 16-bit format that operands come in: bf16 or f16.
pub trait Half: Element + Plain + sealed::Sealed {
    /// Whether it is f16.
    const IS_F16: bool;
}

impl Half for bf16 {
    const IS_F16: bool = false;
}

impl Half for f16 {
    const IS_F16: bool = true;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// A kernel for both formats and both head dims.
#[derive(Debug)]
struct Family<P> {
    kernels: [Kernel<P>; 4],
}

impl<P: Params> Family<P> {
    /// Names in the order bf16 and 128, bf16 and 64, f16 and 128, f16 and 64.
    fn load(device: &Device, file: &'static KernelFile, names: [&'static str; 4]) -> Result<Self, Error> {
        let [a, b, c, d] = names.map(|name| Kernel::load(device, file, name));
        Ok(Self { kernels: [a?, b?, c?, d?] })
    }

    fn of<T: Half>(&self, head_dim: usize) -> &Kernel<P> {
        &self.kernels[usize::from(T::IS_F16) * 2 + usize::from(head_dim == 64)]
    }
}

/// Where the rows of each head lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeadPlaces {
    len: usize,
    sample_stride: i64,
    head_stride: i64,
    row_stride: i64,
}

impl HeadPlaces {
    /// Of rows of `len` a head in the shape's layout.
    fn new(shape: &AttnShape, len: usize) -> Result<Self, Error> {
        if ![64, 128].contains(&shape.head_dim) {
            return Err(setting("head dim", "64 or 128", shape.head_dim));
        }
        let head = match shape.layout {
            HeadLayout::Bhld => len * shape.head_dim,
            HeadLayout::Blhd => shape.head_dim,
        };
        let sample_stride = (shape.heads * len * shape.head_dim) as i64;
        Ok(Self { len, sample_stride, head_stride: head as i64, row_stride: shape.row_stride() as i64 })
    }

    /// Of rows of all heads that are `stride` values apart.
    fn apart(shape: &AttnShape, len: usize, stride: usize) -> Result<Self, Error> {
        if stride < shape.heads * shape.head_dim || !stride.is_multiple_of(8) {
            return Err(setting("stride of rows", "a multiple of 8, at least a row", stride));
        }
        let sample_stride = len.saturating_mul(stride) as i64;
        Ok(Self { sample_stride, head_stride: shape.head_dim as i64, row_stride: stride as i64, ..Self::new(shape, len)? })
    }
}

/// A block for every `rows` rows of every head.
fn launch_over_rows(problems: usize, len: usize, rows: usize, threads: u32) -> Result<Launch, Error> {
    Ok(Launch::linear(problems.saturating_mul(len.div_ceil(rows)), threads)?)
}

/// How the kernels say which rows share a scale: shift of a run's rows, shift of a row's place in its eight.
fn grouping(groups: Groups, block: usize) -> Result<(u32, u32), Error> {
    let (rows, lanes) = groups.runs();
    if block == 0 || !TILE_ROWS.is_multiple_of(block) {
        return Err(setting("rows of a block of scales", "16, 32, 64 or 128", block));
    }
    if !rows.is_power_of_two() || !(16..=TILE_ROWS).contains(&rows) {
        return Err(setting("rows of a scale", "16, 32, 64 or 128", rows));
    }
    let lane_shift = match lanes {
        8 => 0,
        4 => 1,
        _ => 3,
    };
    Ok((rows.trailing_zeros(), lane_shift))
}

/// The kernels' word for a rule.
fn code(rule: Rule) -> u32 {
    match rule {
        Rule::HalfAway => 0,
        Rule::HalfAwayEpsilon => 1,
        Rule::HalfEven => 2,
    }
}

/// Refuses blocks of pooled rows that a tile does not hold.
fn pool_rows(rows: usize) -> Result<u32, Error> {
    if rows == 64 || rows == TILE_ROWS { Ok(rows as u32) } else { Err(setting("rows of a pooled block", "64 or 128", rows)) }
}

fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(OperandError::Length { what, expected, found }.into()) }
}

fn setting(what: &'static str, must: &'static str, found: usize) -> Error {
    Error::Setting { what, must, found: found as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Granularity, Tile};

    #[test]
    fn groups_of_the_kernels_are_those_of_the_host() {
        let tiles = [Tile::SM80, Tile::SM90];
        for granularity in
            tiles.into_iter().flat_map(|tile| [Granularity::PerBlock(tile), Granularity::PerWarp(tile), Granularity::PerThread(tile)])
        {
            let tile = granularity.tile();
            for (groups, block) in [(granularity.query_groups(), tile.query_block), (granularity.key_groups(), tile.key_block)] {
                let (shift, lanes) = grouping(groups, block).unwrap();
                for row in 0..400usize {
                    assert_eq!((row >> shift << (3 - lanes)) + ((row % 8) >> lanes), groups.of(row), "{granularity:?} {row}");
                }
            }
        }
        for tile in [
            Tile { query_block: 256, ..Tile::SM80 },
            Tile { query_block: 24, query_warp: 24, ..Tile::SM80 },
            Tile { query_warp: 8, ..Tile::SM80 },
        ] {
            assert!(grouping(Granularity::PerWarp(tile).query_groups(), tile.query_block).is_err(), "{tile:?}");
        }
    }

    #[test]
    fn every_row_has_a_block_and_strides_pass_the_32_bits() {
        let blocks = |problems, len| launch_over_rows(problems, len, TILE_ROWS, THREADS).unwrap().blocks();
        assert_eq!((blocks(1, 1), blocks(12, 129), blocks(40, 75_600)), (1, 24, 40 * 591));
        assert!(launch_over_rows(1 << 40, 64, TILE_ROWS, THREADS).is_err());
        assert!(launch_over_rows(usize::MAX, 1 << 20, TILE_ROWS, THREADS).is_err());
        let shape = AttnShape::new(3, 40, 1 << 20, 128).unwrap();
        let places = HeadPlaces::new(&shape, shape.key_len).unwrap();
        assert_eq!((places.sample_stride, places.head_stride, places.row_stride), (40 << 27, 1 << 27, 128));
        let places = HeadPlaces::new(&shape.with_layout(HeadLayout::Blhd), shape.key_len).unwrap();
        assert_eq!((places.sample_stride, places.head_stride, places.row_stride), (40 << 27, 128, 5120));
        assert!(places.sample_stride > i64::from(u32::MAX));
    }
}
