//! Which kernel a launch takes, and how it is launched.

use turbowan_cuda::device::{KernelFile, Launch};

use crate::{Error, kernels};

/// Keys of a tile, in every kernel.
pub(super) const TILE_K: usize = 64;

/// Format of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Rows of keys, f16 values, sums in f32: on `mma.sync`.
    F16,
    /// Rows of keys, e4m3 values with a largest one of 2.25, sums in f16 over 64 keys: on `mma.sync`.
    Fp8,
    /// Tiles of keys and of e4m3 values with a largest one of 448, sums over 128 keys added in f32: on `wgmma`.
    Tiled,
}

impl Format {
    /// The fastest that a chip has kernels for.
    pub fn preferred(capability: (u32, u32)) -> Self {
        match capability {
            // mma.sync there makes f16 of e4m3 first
            (9, 0) => Self::Tiled,
            (8, 9) => Self::Fp8,
            (major, _) if major >= 12 => Self::Fp8,
            _ => Self::F16,
        }
    }

    /// Whether a chip has kernels for it: f16 has them everywhere, the others where they are preferred.
    pub fn is_on(self, capability: (u32, u32)) -> bool {
        self == Self::F16 || self == Self::preferred(capability)
    }
}

/// One kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) head_dim: usize,
    /// Queries of a thread block.
    pub(super) rows: usize,
    pub(super) format: Format,
    /// Whether something is added, or int8 comes out.
    pub(super) has_end: bool,
}

impl Variant {
    /// All kernels of a chip.
    pub(super) fn all(capability: (u32, u32)) -> impl Iterator<Item = Self> {
        let formats = [Format::F16, Format::Fp8, Format::Tiled].into_iter().filter(move |format| format.is_on(capability));
        formats.flat_map(|format| {
            let sizes =
                [(128, 128), (128, 64), (64, 128), (64, 64)].into_iter().filter(move |size| size.1 == 128 || format != Format::Tiled);
            sizes.flat_map(move |(head_dim, rows)| [false, true].map(|has_end| Self { head_dim, rows, format, has_end }))
        })
    }

    pub(super) fn kernel(self) -> (&'static KernelFile, &'static str) {
        let file = match (self.format, self.has_end) {
            (Format::F16, false) => &kernels::SAGE_ATTN_MMA,
            (Format::F16, true) => &kernels::SAGE_ATTN_MMA_END,
            (Format::Fp8, false) => &kernels::SAGE_ATTN_MMA_FP8,
            (Format::Fp8, true) => &kernels::SAGE_ATTN_MMA_FP8_END,
            (Format::Tiled, _) => &kernels::SAGE_ATTN_WGMMA,
        };
        let name = match (self.format, self.head_dim, self.rows, self.has_end) {
            (Format::F16, 64, 64, false) => "sage_attn_d64_rows64",
            (Format::F16, 64, 64, true) => "sage_attn_d64_rows64_end",
            (Format::F16, 64, _, false) => "sage_attn_d64",
            (Format::F16, 64, _, true) => "sage_attn_d64_end",
            (Format::F16, _, 64, false) => "sage_attn_d128_rows64",
            (Format::F16, _, 64, true) => "sage_attn_d128_rows64_end",
            (Format::F16, _, _, false) => "sage_attn_d128",
            (Format::F16, _, _, true) => "sage_attn_d128_end",
            (Format::Fp8, 64, 64, false) => "sage_attn_fp8_d64_rows64",
            (Format::Fp8, 64, 64, true) => "sage_attn_fp8_d64_rows64_end",
            (Format::Fp8, 64, _, false) => "sage_attn_fp8_d64",
            (Format::Fp8, 64, _, true) => "sage_attn_fp8_d64_end",
            (Format::Fp8, _, 64, false) => "sage_attn_fp8_d128_rows64",
            (Format::Fp8, _, 64, true) => "sage_attn_fp8_d128_rows64_end",
            (Format::Fp8, _, _, false) => "sage_attn_fp8_d128",
            (Format::Fp8, _, _, true) => "sage_attn_fp8_d128_end",
            (Format::Tiled, 64, ..) => "sage_attn_wgmma_d64",
            (Format::Tiled, ..) => "sage_attn_wgmma_d128",
        };
        (file, name)
    }

    /// On `mma.sync` the queries, and each stage's keys and values; on `wgmma` also the output, what is added, and barriers.
    pub(super) fn shared_bytes(self) -> u32 {
        if self.format == Format::Tiled {
            const STAGES: usize = 4;
            let dim = self.head_dim;
            let added = if self.has_end { dim * dim * 2 } else { 0 };
            return (1024 + 128 * dim + STAGES * 2 * 128 * dim + 128 * dim * 2 + added) as u32;
        }
        let (stages, value_bytes) = (if self.head_dim == 64 { 3 } else { 2 }, if self.format == Format::F16 { 2 } else { 1 });
        (self.head_dim * (self.rows + stages * TILE_K * (1 + value_bytes))) as u32
    }

    /// On `mma.sync` warps of 16 rows, of 32 at 128 rows of head dim 64; on `wgmma` three warpgroups.
    fn threads(self) -> u32 {
        match (self.format, self.head_dim, self.rows) {
            (Format::Tiled, ..) => 384,
            (_, 128, 128) => 256,
            _ => 128,
        }
    }

    /// Block `problem * tiles + tile` has one tile of one head.
    pub(super) fn launch(self, problems: usize, query_len: usize) -> Result<Launch, Error> {
        let blocks = problems.saturating_mul(query_len.div_ceil(self.rows));
        Ok(Launch::linear(blocks, self.threads())?.with_shared_bytes(self.shared_bytes()))
    }
}

/// Queries of a thread block: 128, or 64 where the map's blocks or the queries are no more and the kernels have that size.
pub(super) fn tile_rows(format: Format, query_len: usize, block_q: Option<usize>) -> usize {
    let is_whole = block_q.is_none_or(|rows| rows.is_multiple_of(128));
    if format == Format::Tiled || (is_whole && query_len > 64) { 128 } else { 64 }
}

#[cfg(test)]
mod tests {
    use turbowan_cuda::device::Limits;

    use super::*;

    const CHIPS: [(u32, u32); 6] = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];

    fn plain(head_dim: usize, rows: usize, format: Format) -> Variant {
        Variant { head_dim, rows, format, has_end: false }
    }

    #[test]
    fn shared_memory_is_what_the_kernels_ask_for_and_fits_every_chip() {
        let bytes = |head_dim, rows, format| plain(head_dim, rows, format).shared_bytes();
        assert_eq!(bytes(128, 128, Format::F16), 64 << 10);
        assert_eq!(bytes(128, 64, Format::F16), 56 << 10);
        assert_eq!(bytes(64, 128, Format::F16), 44 << 10);
        assert_eq!(bytes(128, 128, Format::Fp8), 48 << 10);
        assert_eq!(bytes(128, 128, Format::Tiled), 177 << 10);
        for chip in CHIPS {
            for variant in Variant::all(chip) {
                assert!(variant.shared_bytes() <= Limits::of(chip).shared_bytes, "{chip:?} {variant:?}");
            }
        }
    }

    #[test]
    fn every_chip_has_kernels_of_every_size_and_end() {
        for (chip, count) in CHIPS.into_iter().zip([8, 8, 16, 12, 8, 16]) {
            assert_eq!(Variant::all(chip).count(), count, "{chip:?}");
        }
    }

    #[test]
    fn every_row_of_every_head_has_a_block() {
        let blocks = |rows, problems, len| plain(128, rows, Format::F16).launch(problems, len).unwrap().blocks();
        assert_eq!((blocks(128, 1, 1), blocks(128, 12, 129), blocks(64, 12, 129)), (1, 24, 36));
        assert_eq!(blocks(128, 40, 75_600), 40 * 591);
        assert!(plain(64, 64, Format::F16).launch(1 << 40, 64).is_err());
    }

    #[test]
    fn a_tile_never_spans_two_blocks_of_the_map() {
        assert_eq!(
            [(64, None), (65, None), (65, Some(64)), (65, Some(128)), (500, Some(192))].map(|(len, block)| tile_rows(
                Format::F16,
                len,
                block
            )),
            [64, 128, 64, 128, 64]
        );
        assert_eq!(tile_rows(Format::Tiled, 1, None), 128);
    }
}
