//! What the attention launchers share: a block map on a device, rules of the scores, and the checks of both.

use half::bf16;
use turbowan_cuda::device::{View, ViewMut};
use turbowan_cuda::{AttnShape, Error as Ground, HeadLayout};

use crate::Error;

/// Rows of the tiles of keys, or of queries, that stream through every kernel.
pub(super) const TILE: usize = 64;

/// A block map on a device.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// [`turbowan_cuda::BlockMap::lists`]: `[problems, ceil(query_len / block_q), kept]`, each list strictly ascending and
    /// below the number of key blocks.
    pub lists: View<'a, u32>,
    /// Query rows of a block, a multiple of 64.
    pub block_q: usize,
    /// Key rows of a block, a multiple of 64.
    pub block_k: usize,
    /// Key blocks of a list.
    pub kept: usize,
}

/// What attention reads, in the shape's layout.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// `[batch, heads, query_len, head_dim]` or its other order.
    pub q: View<'a, bf16>,
    /// `[batch, heads, key_len, head_dim]` or its other order.
    pub k: View<'a, bf16>,
    /// As `k`.
    pub v: View<'a, bf16>,
    /// Which key blocks each query block attends to; all without it.
    pub map: Option<Map<'a>>,
}

/// The RMS norm of queries that are not normed yet. Its weight, if it has one, is in the keys: a channel's factor is the same
/// on either side of the product.
#[derive(Debug, Clone, Copy)]
pub struct QueryNorm<'a> {
    /// `[batch * query_len, parts]`: sums of squares over parts of a row of all heads, as a product's `row_sums` has them.
    pub squares: View<'a, f32>,
    /// Added to the mean square.
    pub eps: f32,
}

/// Where the rows go.
#[derive(Debug)]
pub enum Output<'a> {
    /// bf16 in the shape's layout.
    Bf16(ViewMut<'a, bf16>),
    /// Int8, for a shape whose layout is [`HeadLayout::Blhd`] and whose head dim is 128: the rows of the next product, with
    /// the bytes that [`turbowan_cuda::ops::quant::Int8Rule::PerToken`] makes of the bf16 output.
    Int8 {
        /// `[batch * query_len, heads * 128]`.
        values: ViewMut<'a, i8>,
        /// `[batch * query_len, heads]`.
        scales: ViewMut<'a, f32>,
    },
}

/// How scores are made of products.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scores {
    /// Whether query `i` attends to the keys `0..=i` alone; only with as many queries as keys.
    pub is_causal: bool,
    /// What products are multiplied by; `head_dim^-1/2` where it is `None`.
    pub scale: Option<f32>,
}

/// A map in the numbers of a parameter struct; zeros when dense.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Blocks {
    pub q: u32,
    pub k: u32,
    pub kept: u32,
}

/// Values from one sample, head and row to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Strides {
    pub sample: i64,
    pub head: i64,
    pub row: i64,
}

impl Strides {
    /// Of operands with `len` rows a head.
    pub fn of(shape: &AttnShape, len: usize) -> Self {
        let head = match shape.layout {
            HeadLayout::Bhld => len * shape.head_dim,
            HeadLayout::Blhd => shape.head_dim,
        };
        Self { sample: (shape.heads * len * shape.head_dim) as i64, head: head as i64, row: shape.row_stride() as i64 }
    }
}

impl Scores {
    /// The scale, and the same times `log2 e`.
    pub(super) fn factors(&self, shape: &AttnShape) -> Result<(f32, f32), Error> {
        let scale = self.scale.unwrap_or((shape.head_dim as f32).powf(-0.5));
        let factor = (f64::from(scale) * std::f64::consts::LOG2_E) as f32;
        if scale > 0.0 && factor.is_finite() { Ok((scale, factor)) } else { Err(Error::Scale { found: scale }) }
    }

    /// Whether a shape can be computed so.
    pub(super) fn check(&self, shape: &AttnShape) -> Result<(), Error> {
        if ![64, 128].contains(&shape.head_dim) {
            return Err(size("head dim", "64 or 128", shape.head_dim));
        }
        if self.is_causal && shape.query_len != shape.key_len {
            return Err(Error::Causal { query_len: shape.query_len, key_len: shape.key_len });
        }
        word("key tiles", shape.key_len.div_ceil(TILE))?;
        word("query tiles", shape.query_len.div_ceil(TILE)).map(|_| ())
    }
}

impl Map<'_> {
    /// Its numbers, if it fits a shape.
    pub(super) fn blocks(&self, shape: &AttnShape) -> Result<Blocks, Error> {
        for (what, rows) in [("query rows of a block", self.block_q), ("key rows of a block", self.block_k)] {
            if rows == 0 || !rows.is_multiple_of(TILE) {
                return Err(size(what, "a positive multiple of 64", rows));
            }
        }
        if self.kept == 0 || self.kept > shape.key_len.div_ceil(self.block_k) {
            return Err(size("kept blocks", "between 1 and the number of key blocks", self.kept));
        }
        expect("block map", self.lists.len(), shape.problems() * shape.query_len.div_ceil(self.block_q) * self.kept)?;
        Ok(Blocks {
            q: word("query rows of a block", self.block_q)?,
            k: word("key rows of a block", self.block_k)?,
            kept: word("kept blocks", self.kept)?,
        })
    }
}

pub(super) fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Ground::Length { what, expected, found }.into()) }
}

pub(super) fn size(what: &'static str, must: &'static str, found: usize) -> Error {
    Ground::Size { what, must, found }.into()
}

pub(super) fn word(what: &'static str, value: usize) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| size(what, "below 2^32", value))
}

/// Queries of a thread block: 128, or 64 where the map's blocks or the queries are no more.
pub(super) fn tile_rows(query_len: usize, block_q: Option<usize>) -> usize {
    let is_whole = block_q.is_none_or(|rows| rows.is_multiple_of(128));
    if is_whole && query_len > 64 { 128 } else { 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_of_the_longest_videos_do_not_wrap() {
        let shape = AttnShape::new(3, 40, 1 << 20, 128).unwrap();
        let (len, row) = (1i64 << 20, 40 * 128);
        assert_eq!(Strides::of(&shape, 1 << 20), Strides { sample: 40 * len * 128, head: len * 128, row: 128 });
        let tokens_first = shape.with_layout(HeadLayout::Blhd);
        assert_eq!(Strides::of(&tokens_first, 1 << 20), Strides { sample: len * row, head: 128, row });
        // what a kernel adds up for the last value of the last head is the shape's own offset
        for shape in [shape, tokens_first] {
            let at = Strides::of(&shape, 1 << 20);
            assert_eq!(2 * at.sample + 39 * at.head + (len - 1) * at.row, shape.query_offset(3 * 40 - 1, (1 << 20) - 1) as i64);
        }
    }

    #[test]
    fn a_tile_never_spans_two_blocks_of_the_map() {
        assert_eq!(
            [(64, None), (65, None), (65, Some(64)), (65, Some(128)), (500, Some(192))].map(|(len, block)| tile_rows(len, block)),
            [64, 128, 64, 128, 64]
        );
    }

    #[test]
    fn a_scale_that_is_no_positive_number_is_refused() {
        let shape = AttnShape::new(1, 1, 1, 64).unwrap();
        assert_eq!(Scores::default().factors(&shape).unwrap().0, 0.125);
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(Scores { scale: Some(scale), ..Scores::default() }.factors(&shape).is_err());
        }
    }
}
