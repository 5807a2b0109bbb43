//! One head laid out for the kernels: queries by row, keys and values by tile.

use std::ops::Range;

use turbowan_cuda::host::vectorised::{self, Vectorised};
use turbowan_cuda::host::{Aligned, Isa};

use super::{DIM_STEP, INT8_ONE, TILE_K};
use crate::quantise::Int8Rows;
use crate::values::{channel_amax, e4m3_factor, round_e4m3};
use crate::{Groups, ValuePrecision};

/// How integers lie, decided by the instruction that multiplies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "quads are the layout of one x86 kernel"))]
pub(crate) enum Layout {
    /// Four bytes a lane, one side biased to unsigned: `vpdpbusd`. Strips of 64 channels.
    Quads,
    /// Two `i16` a lane: `vpmaddwd`, and plain code. Strips of 16 channels.
    Pairs,
}

impl Layout {
    /// Bytes of one integer.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Quads => 1,
            Self::Pairs => 2,
        }
    }

    /// Channels of a strip of values.
    pub const fn strip(self) -> usize {
        match self {
            Self::Quads => 64,
            Self::Pairs => 16,
        }
    }
}

/// How the keys of a head are cut into tiles: blocks of the map first, then tiles of [`TILE_K`] rows inside each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    len: usize,
    block: usize,
    per_block: usize,
}

impl Tiles {
    /// Tiles of `len` keys in blocks of `block` (`len` itself where there is no map).
    pub fn new(len: usize, block: usize) -> Self {
        Self { len, block, per_block: block.div_ceil(TILE_K) }
    }

    /// Number of tiles.
    pub fn count(&self) -> usize {
        (self.len / self.block) * self.per_block + (self.len % self.block).div_ceil(TILE_K)
    }

    /// Tiles of a block.
    pub fn of_block(&self, block: usize) -> Range<usize> {
        let start = block * self.per_block;
        start..(start + self.per_block).min(self.count())
    }

    /// Keys of a tile.
    pub fn keys(&self, tile: usize) -> Range<usize> {
        let block = tile / self.per_block;
        let start = block * self.block + tile % self.per_block * TILE_K;
        start..(start + TILE_K).min((block + 1) * self.block).min(self.len)
    }
}

/// Channels after padding.
pub(crate) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(DIM_STEP)
}

/// INT8 queries of one head with the scale of each row.
pub(crate) struct Queries {
    /// `[len, width]`.
    pub values: Vec<i8>,
    /// `[len]`; not a number where the row's group held a value that is not finite.
    pub scale: Vec<f32>,
    width: usize,
}

impl Queries {
    /// From quantised rows.
    pub fn new(rows: Int8Rows, groups: Groups, width: usize) -> Self {
        let scale = (0..rows.values.len() / width).map(|row| rows.scales[groups.of(row)]).collect();
        Self { values: rows.values, scale, width }
    }

    /// Writes rows `range` as a kernel reads them; `to` holds as many padded rows as it has room for, zeros elsewhere.
    pub fn pack(&self, layout: Layout, range: Range<usize>, to: &mut [i8]) {
        let dim = padded(self.width);
        let rows = self.values[range.start * self.width..range.end * self.width].chunks_exact(self.width);
        match layout {
            Layout::Quads => {
                // The bias of a zero is 128, padding channels and rows included; keys are zero there.
                to.fill(i8::MIN);
                for (row, to) in rows.zip(to.chunks_exact_mut(dim)) {
                    to.iter_mut().zip(row).for_each(|(to, value)| *to = value ^ i8::MIN);
                }
            }
            Layout::Pairs => {
                to.fill(0);
                for (row, to) in rows.zip(to.chunks_exact_mut(2 * dim)) {
                    to.as_chunks_mut::<2>().0.iter_mut().zip(row).for_each(|(to, value)| *to = wide(*value));
                }
            }
        }
    }
}

/// An INT8 value as the two bytes of an `i16`.
#[inline(always)]
fn wide(value: i8) -> [i8; 2] {
    i16::from(value).to_ne_bytes().map(|byte| byte as i8)
}

/// INT8 keys of one head in tiles.
pub(crate) struct Keys {
    /// `[tiles]` panels, see [`super::KeyPanel`].
    pub values: Aligned<i8>,
    /// `[tiles, TILE_K]`.
    pub correction: Aligned<i32>,
    /// `[tiles, TILE_K]`.
    pub scale: Aligned<f32>,
    /// `[tiles, TILE_K]`.
    pub bias: Aligned<f32>,
    /// How the head is cut.
    pub tiles: Tiles,
    /// Whether every key was a finite number.
    pub finite: bool,
    panel: usize,
}

impl Keys {
    /// Lays out quantised keys; `factor` joins each scale.
    pub fn new(layout: Layout, rows: &Int8Rows, groups: Groups, width: usize, factor: f32, tiles: Tiles) -> Self {
        let (dim, count) = (padded(width), tiles.count());
        let panel = TILE_K * dim * layout.bytes();
        let mut keys = Self {
            values: Aligned::zeroed(count * panel),
            correction: Aligned::zeroed(count * TILE_K),
            scale: Aligned::zeroed(count * TILE_K),
            bias: Aligned::zeroed(count * TILE_K),
            tiles,
            finite: rows.scales.iter().all(|scale| scale.is_finite()),
            panel,
        };
        keys.bias.fill(f32::NEG_INFINITY);
        for tile in 0..count {
            let to = &mut keys.values[tile * panel..][..panel];
            for (lane, key) in tiles.keys(tile).enumerate() {
                let row = &rows.values[key * width..][..width];
                match layout {
                    Layout::Quads => scatter::<4>(row, &mut to[lane * 4..], TILE_K * 4),
                    Layout::Pairs => {
                        let start = (lane / 16) * 16 * dim * 2 + lane % 16 * 4;
                        for (pair, values) in row.chunks(2).enumerate() {
                            let to = &mut to[start + pair * 64..][..4];
                            to[..2].copy_from_slice(&wide(values[0]));
                            to[2..].copy_from_slice(&wide(values.get(1).copied().unwrap_or(0)));
                        }
                    }
                }
                let slot = tile * TILE_K + lane;
                keys.correction[slot] = -128 * row.iter().map(|value| i32::from(*value)).sum::<i32>();
                keys.scale[slot] = rows.scales[groups.of(key)] * factor;
                keys.bias[slot] = 0.0;
            }
        }
        keys
    }

    /// Panel of a tile.
    pub fn tile(&self, tile: usize) -> super::KeyPanel<'_> {
        let lanes = tile * TILE_K..(tile + 1) * TILE_K;
        super::KeyPanel {
            values: &self.values[tile * self.panel..][..self.panel],
            correction: &self.correction[lanes.clone()],
            scale: &self.scale[lanes.clone()],
            bias: &self.bias[lanes],
            seen: None,
        }
    }
}

/// Writes `from` in groups of `N`, each group `stride` bytes after the one before.
#[inline(always)]
fn scatter<const N: usize>(from: &[i8], to: &mut [i8], stride: usize) {
    for (group, values) in from.chunks(N).enumerate() {
        to[group * stride..][..values.len()].copy_from_slice(values);
    }
}

/// Values of one head in tiles of strips.
pub(crate) enum ValueTiles {
    /// `[tiles, dim / strip, TILE_K, strip]`.
    Float(Aligned<f32>),
    /// INT8, and what each channel of a tile is multiplied by.
    Integer {
        /// `[tiles, dim / strip, TILE_K / n, strip, n]`.
        values: Aligned<i8>,
        /// `[tiles, dim]`.
        scales: Aligned<f32>,
    },
}

/// Values of one head, and how an output channel is restored.
pub(crate) struct Values {
    /// The tiles.
    pub tiles: ValueTiles,
    /// What each output channel is multiplied by, `[width]`.
    pub scale: Vec<f32>,
    /// What is then added, `[width]`.
    pub mean: Vec<f32>,
    /// Whether every value was a finite number.
    pub finite: bool,
}

impl Values {
    /// Lays out one head's values, `[len, width]`.
    pub fn new(isa: Isa, layout: Layout, mut rows: Vec<f32>, width: usize, precision: ValuePrecision, tiles: Tiles) -> Self {
        let finite = rows.iter().all(|value| value.is_finite());
        let (mut scale, mut mean) = (vec![1.0; width], vec![0.0; width]);
        match precision {
            ValuePrecision::F32 => {}
            ValuePrecision::F16 => rows.iter_mut().for_each(|value| *value = half::f16::from_f32(*value).to_f32()),
            ValuePrecision::Fp8 { scale_max } => {
                let amax = channel_amax(&rows, width);
                let factor: Vec<f32> = amax.iter().map(|amax| e4m3_factor(scale_max, *amax)).collect();
                scale = amax.iter().map(|amax| amax / scale_max).collect();
                for row in rows.chunks_exact_mut(width) {
                    row.iter_mut().zip(&factor).for_each(|(value, factor)| *value = round_e4m3(*value * factor));
                }
            }
            ValuePrecision::Int8 => {
                mean = crate::quantise::mean_row::<f32>(isa, &rows, width, turbowan_cuda::Rounding::None);
                let mut bytes = vec![0; rows.len()];
                let mut scales = Aligned::zeroed(tiles.count() * padded(width));
                vectorised::run(isa, ToBytes { rows: &mut rows, mean: &mean, tiles, bytes: &mut bytes, scales: &mut scales });
                let tiles = ValueTiles::Integer { values: integer_tiles(layout, &bytes, width, tiles), scales };
                return Self { tiles, scale, mean, finite };
            }
        }
        let tiles = ValueTiles::Float(float_tiles(layout, &rows, width, tiles));
        Self { tiles, scale, mean, finite }
    }
}

fn float_tiles(layout: Layout, rows: &[f32], width: usize, tiles: Tiles) -> Aligned<f32> {
    let (dim, strip) = (padded(width), layout.strip());
    let mut to = Aligned::zeroed(tiles.count() * TILE_K * dim);
    for tile in 0..tiles.count() {
        for (lane, key) in tiles.keys(tile).enumerate() {
            for (index, values) in rows[key * width..][..width].chunks(strip).enumerate() {
                to[((tile * dim / strip + index) * TILE_K + lane) * strip..][..values.len()].copy_from_slice(values);
            }
        }
    }
    to
}

fn integer_tiles(layout: Layout, rows: &[i8], width: usize, tiles: Tiles) -> Aligned<i8> {
    match layout {
        Layout::Quads => interleave::<4>(layout, rows, width, tiles, |values, to| to.copy_from_slice(&values)),
        Layout::Pairs => interleave::<2>(layout, rows, width, tiles, |values, to| {
            to[..2].copy_from_slice(&wide(values[0]));
            to[2..].copy_from_slice(&wide(values[1]));
        }),
    }
}

/// Puts `N` neighbouring keys of a channel side by side, `write` filling their four bytes.
#[inline(always)]
fn interleave<const N: usize>(
    layout: Layout,
    rows: &[i8],
    width: usize,
    tiles: Tiles,
    write: impl Fn([i8; N], &mut [i8; 4]),
) -> Aligned<i8> {
    let (dim, strip) = (padded(width), layout.strip());
    let mut to = Aligned::zeroed(tiles.count() * TILE_K * dim * layout.bytes());
    let strip_bytes = TILE_K * strip * layout.bytes();
    for tile in 0..tiles.count() {
        let keys = tiles.keys(tile);
        for (group, first) in keys.clone().step_by(N).enumerate() {
            for (index, start) in (0..width).step_by(strip).enumerate() {
                let channels = strip.min(width - start);
                let of_key = |n: usize| match first + n < keys.end {
                    true => &rows[(first + n) * width + start..][..channels],
                    false => &[0; 64][..channels],
                };
                let sources: [&[i8]; N] = std::array::from_fn(of_key);
                let to = &mut to[(tile * dim / strip + index) * strip_bytes + group * strip * 4..][..channels * 4];
                for (channel, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    write(sources.map(|source| source[channel]), to);
                }
            }
        }
    }
    to
}

/// Rows less their mean as INT8, one scale for each channel of a tile.
struct ToBytes<'a> {
    rows: &'a mut [f32],
    mean: &'a [f32],
    tiles: Tiles,
    bytes: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Vectorised for ToBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let width = self.mean.len();
        let mut factor = vec![0.0; width];
        for (tile, scales) in self.scales.chunks_exact_mut(padded(width)).enumerate() {
            let keys = self.tiles.keys(tile);
            let rows = &mut self.rows[keys.start * width..keys.end * width];
            let scales = &mut scales[..width];
            for row in rows.chunks_exact_mut(width) {
                for ((value, mean), scale) in row.iter_mut().zip(self.mean).zip(scales.iter_mut()) {
                    *value -= mean;
                    *scale = scale.max(value.abs());
                }
            }
            for (factor, scale) in factor.iter_mut().zip(scales) {
                *factor = if *scale > 0.0 { 127.0 / *scale } else { 0.0 };
                *scale /= 127.0;
            }
            let bytes = self.bytes[keys.start * width..keys.end * width].chunks_exact_mut(width);
            for (row, bytes) in rows.chunks_exact(width).zip(bytes) {
                for ((value, factor), byte) in row.iter().zip(&factor).zip(bytes) {
                    *byte = (value * factor).round_ties_even() as i32 as i8;
                }
            }
        }
    }
}

/// What the sums of a value precision are in: integers count [`INT8_ONE`] for one.
pub(crate) fn one(precision: ValuePrecision) -> f32 {
    if precision == ValuePrecision::Int8 { INT8_ONE } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_never_cross_a_block() {
        let tiles = Tiles::new(300, 100);
        assert_eq!(tiles.count(), 6);
        assert_eq!((tiles.keys(1), tiles.keys(2), tiles.of_block(2)), (64..100, 100..164, 4..6));
        let tiles = Tiles::new(130, 128);
        assert_eq!((tiles.count(), tiles.of_block(1), tiles.keys(2)), (3, 2..3, 128..130));
        let tiles = Tiles::new(70, 70);
        assert_eq!((tiles.count(), tiles.keys(1)), (2, 64..70));
        let tiles = Tiles::new(50, 16);
        assert_eq!((tiles.count(), tiles.keys(3)), (4, 48..50));
    }
}
