//! The choices that make one SageAttention differ from another, as types.

use turbowan_cuda::{Rounding, host::Isa};

use crate::Error;

/// Tile sizes of a GPU kernel; they decide which rows share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Query rows of a thread block.
    pub query_block: usize,
    /// Query rows of a warp.
    pub query_warp: usize,
    /// Key rows of a thread block's step.
    pub key_block: usize,
    /// Key rows of a warp's step.
    pub key_warp: usize,
}

impl Tile {
    /// sm80, sm86, sm89 and sm120: 128 queries in warps of 32, 64 keys.
    pub const SM80: Self = Self { query_block: 128, query_warp: 32, key_block: 64, key_warp: 64 };
    /// sm90: 64 queries in warps of 16, 128 keys.
    pub const SM90: Self = Self { query_block: 64, query_warp: 16, key_block: 128, key_warp: 128 };
}

/// Which rows share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// All rows of a thread block's tile.
    PerBlock(Tile),
    /// All query rows of a warp; all key rows of a step.
    PerWarp(Tile),
    /// The rows whose scores one thread of a tensor-core fragment holds: in each warp's rows, queries that are equal
    /// modulo 8 (8 scales) and keys in neighbouring pairs modulo 8 (4 scales).
    PerThread(Tile),
}

impl Granularity {
    /// The tile that the rows are counted in.
    pub fn tile(self) -> Tile {
        let (Self::PerBlock(tile) | Self::PerWarp(tile) | Self::PerThread(tile)) = self;
        tile
    }

    /// How query rows are grouped.
    pub fn query_groups(self) -> Groups {
        let tile = self.tile();
        match self {
            Self::PerBlock(_) => Groups { rows: tile.query_block, block: tile.query_block, lanes: Lanes::One },
            Self::PerWarp(_) => Groups { rows: tile.query_warp, block: tile.query_block, lanes: Lanes::One },
            Self::PerThread(_) => Groups { rows: tile.query_warp, block: tile.query_block, lanes: Lanes::Eight },
        }
    }

    /// How key rows are grouped.
    pub fn key_groups(self) -> Groups {
        let tile = self.tile();
        match self {
            Self::PerBlock(_) => Groups { rows: tile.key_block, block: tile.key_block, lanes: Lanes::One },
            Self::PerWarp(_) => Groups { rows: tile.key_warp, block: tile.key_block, lanes: Lanes::One },
            Self::PerThread(_) => Groups { rows: tile.key_warp, block: tile.key_block, lanes: Lanes::Pairs },
        }
    }
}

/// Scales inside one run of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lanes {
    /// One scale.
    One,
    /// Eight: row modulo 8.
    Eight,
    /// Four: pairs of rows modulo 8.
    Pairs,
}

/// A rule that gives each row of a head its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    rows: usize,
    block: usize,
    lanes: Lanes,
}

impl Groups {
    /// Group of `row`.
    #[inline]
    pub fn of(&self, row: usize) -> usize {
        match self.lanes {
            Lanes::One => row / self.rows,
            Lanes::Eight => row / self.rows * 8 + row % 8,
            Lanes::Pairs => row / self.rows * 4 + row % 8 / 2,
        }
    }

    /// Rows of a run, and scales of a run: row `r` has scale `r / rows * lanes` and a lane of its own in the run.
    pub(crate) fn runs(&self) -> (usize, usize) {
        (self.rows, self.lanes())
    }

    fn lanes(&self) -> usize {
        match self.lanes {
            Lanes::One => 1,
            Lanes::Eight => 8,
            Lanes::Pairs => 4,
        }
    }

    /// Groups of a head of `len` rows; whole thread blocks are counted, as the official scale arrays do.
    pub fn count(&self, len: usize) -> usize {
        len.div_ceil(self.block) * (self.block / self.rows) * self.lanes()
    }
}

/// How a group of rows becomes INT8, in `f32`; `a` is the largest magnitude of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Triton, per block: `scale = a / 127`, `x / scale` rounded half away from zero. There is no epsilon: the official
    /// kernel divides 0 by 0 in a group of zeros; here such a group has scale 0 and values 0.
    HalfAway,
    /// Triton per thread, and SpargeAttn (SageSLA): `scale = a / 127 + 1e-7`, half away from zero.
    HalfAwayEpsilon,
    /// CUDA per warp and per block: with `b = max(a, 1e-7)`, `scale = b / 127`, `x * (127 * (1 / b))` rounded half to even.
    /// (The kernel writes `127 / b` and is built with fast division, which is a product with the reciprocal.)
    HalfEven,
}

/// Whether the mean key is subtracted before quantising, and in which arithmetic. Softmax does not see the subtraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothing {
    /// Keys as they are.
    None,
    /// The mean and each difference are rounded to the operands' format (Triton, SpargeAttn).
    Stored,
    /// The mean is rounded to the operands' format, the difference stays in `f32` (CUDA).
    MeanStored,
}

/// Arithmetic of the product of probabilities and values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValuePrecision {
    /// Both in `f32`.
    F32,
    /// Both rounded to f16, summed in `f32` (sm80).
    F16,
    /// Both rounded to e4m3, summed in `f32`: values with one scale a channel, probabilities as `2^(s - m + 8.807)` with
    /// `m` the largest score so far, in steps of as many keys as the tile's `key_block` has (sm89, sm90, sm120).
    Fp8 {
        /// What the largest value of a channel becomes: 448, or 2.25 where the GPU sums in f16.
        scale_max: f32,
    },
    /// The host's fast 8-bit product, tile by tile of 64 keys: probabilities as `round(255 p / p_max)` with each row's own
    /// `p_max` in the tile, values less their channel's mean as INT8 with one scale for each channel of the tile. Integer
    /// sums are exact, and the denominator sums the rounded probabilities, so the weights add up to one and a constant
    /// value is returned as it is. Each factor carries rounding of at most 1/510 (probabilities) and 1/254 (values) of the
    /// largest in its tile: cosine at least 0.999 to exact attention over the same scores, unless a value hundreds of times
    /// larger than its neighbours meets a probability below 1/510 of its tile's largest.
    Int8,
}

/// One kind of INT8 attention: which rows share a scale, how they are rounded, and how values are multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sage {
    /// Which rows share a scale.
    pub granularity: Granularity,
    /// How a group becomes INT8.
    pub rule: Rule,
    /// Whether the mean key is subtracted.
    pub smoothing: Smoothing,
    /// Whether `log2(e) / sqrt(D)` multiplies the queries before they are quantised, rather than the scores after.
    pub folds_scale: bool,
    /// Arithmetic of the product with the values.
    pub values: ValuePrecision,
    /// What the operands, the mean key and the smoothed keys are rounded to besides their own element format:
    /// `f32` slices that stand for bf16 tensors use [`Rounding::Bf16`].
    pub operands: Rounding,
    /// Instructions that the host uses.
    pub isa: Isa,
}

impl Default for Sage {
    fn default() -> Self {
        Self::per_thread(Tile::SM80)
    }
}

impl Sage {
    /// The default of `sageattn` on sm80 and sm89: one scale a thread, smoothed keys. Values stay in `f32`.
    pub fn per_thread(tile: Tile) -> Self {
        Self {
            granularity: Granularity::PerThread(tile),
            rule: Rule::HalfAwayEpsilon,
            smoothing: Smoothing::Stored,
            folds_scale: false,
            values: ValuePrecision::F32,
            operands: Rounding::None,
            isa: Isa::detect(),
        }
    }

    /// The Triton kernel (sm86): one scale a block, the softmax scale folded into the queries, f16 product.
    pub fn triton_per_block() -> Self {
        Self {
            granularity: Granularity::PerBlock(Tile::SM80),
            rule: Rule::HalfAway,
            folds_scale: true,
            values: ValuePrecision::F16,
            ..Self::default()
        }
    }

    /// The CUDA quantiser with one query scale a warp (sm120).
    pub fn cuda_per_warp(tile: Tile) -> Self {
        Self { granularity: Granularity::PerWarp(tile), rule: Rule::HalfEven, smoothing: Smoothing::MeanStored, ..Self::per_thread(tile) }
    }

    /// The sparse branch of SageSLA (SpargeAttn's quantiser): bf16 operands, one scale for each block of the map.
    pub fn sagesla(block_q: usize, block_k: usize) -> Self {
        let tile = Tile { query_block: block_q, query_warp: block_q, key_block: block_k, key_warp: block_k };
        Self { granularity: Granularity::PerBlock(tile), operands: Rounding::Bf16, ..Self::default() }
    }

    /// The same with another arithmetic for the values.
    pub fn with_values(self, values: ValuePrecision) -> Self {
        Self { values, ..self }
    }

    /// Checks that every size is one that the loops can walk.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first that is not.
    pub fn check(&self) -> Result<(), Error> {
        let tile = self.granularity.tile();
        for (what, block, warp) in
            [("rows of a query tile", tile.query_block, tile.query_warp), ("rows of a key tile", tile.key_block, tile.key_warp)]
        {
            if warp == 0 || block == 0 || block % warp != 0 {
                return Err(Error::Setting { what, must: "a positive multiple of the warp's rows", found: block as f64 });
            }
        }
        match self.values {
            ValuePrecision::Fp8 { scale_max } if !(scale_max > 0.0 && scale_max <= 448.0) => {
                Err(Error::Setting { what: "largest e4m3 value", must: "above 0 and at most 448", found: scale_max.into() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_in_whole_thread_blocks() {
        let thread = Granularity::PerThread(Tile::SM80);
        assert_eq!((thread.query_groups().count(150), thread.key_groups().count(328)), (64, 24));
        let thread = Granularity::PerThread(Tile::SM90);
        assert_eq!((thread.query_groups().count(150), thread.key_groups().count(328)), (96, 12));
        let warp = Granularity::PerWarp(Tile::SM80);
        assert_eq!((warp.query_groups().count(150), warp.key_groups().count(328)), (8, 6));
        assert_eq!(Granularity::PerBlock(Tile::SM80).query_groups().count(150), 2);
    }

    #[test]
    fn a_thread_owns_rows_equal_modulo_eight_and_pairs_of_keys() {
        let thread = Granularity::PerThread(Tile::SM80);
        assert_eq!([0, 8, 31, 33].map(|row| thread.query_groups().of(row)), [0, 0, 7, 9]);
        assert_eq!([0, 1, 2, 9, 63, 64].map(|row| thread.key_groups().of(row)), [0, 0, 1, 0, 3, 4]);
    }

    #[test]
    fn sizes_that_cannot_be_walked_are_refused() {
        assert!(Sage::default().check().is_ok());
        assert!(matches!(Sage::sagesla(0, 64).check(), Err(Error::Setting { .. })));
        let fp8 = Sage::default().with_values(ValuePrecision::Fp8 { scale_max: f32::NAN });
        assert!(matches!(fp8.check(), Err(Error::Setting { .. })));
    }
}
