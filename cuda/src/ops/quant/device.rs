//! The block quantiser on a device: `kernels/quant_block.cu`.

use half::bf16;

use super::{BLOCK, Int8Rule, check_width, padded};
use crate::Error;
use crate::device::params::QuantBlockParams;
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::kernels;

/// Values of one load.
const CHUNK: usize = 8;

/// Threads of a block, in both kernels.
const THREADS: u32 = 256;

/// Blocks of 1 x 128 values that a thread block of `quant_block_1x128` quantises: a half-warp has four.
const ROW_BLOCKS_PER_CTA: usize = 64;

/// Which kernel each rule takes; every chip takes the same.
pub const KERNELS: [OpKernel; 2] = [
    OpKernel { op: "quantise bf16 to int8, 128 x 128 blocks", choose: |_| (&kernels::QUANT_BLOCK, "quant_block_128x128") },
    OpKernel { op: "quantise bf16 to int8, 1 x 128 blocks", choose: |_| (&kernels::QUANT_BLOCK, "quant_block_1x128") },
];

/// The quantisers of a device.
#[derive(Debug)]
pub struct QuantBlock {
    official: Kernel<QuantBlockParams>,
    per_token: Kernel<QuantBlockParams>,
}

impl QuantBlock {
    /// Loads both.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let [official, per_token] = KERNELS.map(|entry| {
            let (file, name) = (entry.choose)(device.chip().capability);
            Kernel::load(device, file, name)
        });
        Ok(Self { official: official?, per_token: per_token? })
    }

    /// Queues the quantisation of `x [rows, width]` to `values [rows, padded(width)]` and
    /// `scales [ceil(rows / rule.block_rows()), ceil(width / 128)]`: the bytes that [`super::Int8Rows`] has, zeros past the
    /// width. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is zero or no multiple of 8, which the rows of `x` begin at, [`Error::Length`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, a rule, and one operand with its shape")]
    pub fn run(
        &self,
        stream: &Stream,
        rule: Int8Rule,
        x: View<'_, bf16>,
        rows: usize,
        width: usize,
        mut values: ViewMut<'_, i8>,
        mut scales: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        check_width(width)?;
        if !width.is_multiple_of(CHUNK) {
            return Err(Error::Size { what: "columns of rows that become int8", must: "a multiple of 8", found: width });
        }
        for (what, found, expected) in [
            ("input rows", x.len(), rows.saturating_mul(width)),
            ("int8 rows", values.len(), rows.saturating_mul(padded(width))),
            ("scales of the rows", scales.len(), rows.div_ceil(rule.block_rows()).saturating_mul(width.div_ceil(BLOCK))),
        ] {
            if found != expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        if rows == 0 {
            return Ok(());
        }
        let params =
            QuantBlockParams { x: x.address(), values: values.address(), scales: scales.address(), rows: rows as i64, width: width as i64 };
        let kernel = match rule {
            Int8Rule::Official => &self.official,
            Int8Rule::PerToken => &self.per_token,
        };
        let operands = [x.reads("x").aligned(16), values.writes("values").aligned(8), scales.writes("scales").aligned(4)];
        kernel.launch(stream, grid(rule, rows, width)?, &params, &operands)
    }
}

/// The launch for `rows x width` values: a thread block has one block of 128 x 128, or 64 of 1 x 128.
fn grid(rule: Int8Rule, rows: usize, width: usize) -> Result<Launch, Error> {
    let columns = width.div_ceil(BLOCK);
    let blocks = match rule {
        Int8Rule::Official => rows.div_ceil(BLOCK).saturating_mul(columns),
        Int8Rule::PerToken => rows.saturating_mul(columns).div_ceil(ROW_BLOCKS_PER_CTA),
    };
    Launch::linear(blocks, THREADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_thread_block() {
        for (rows, width, official, per_token) in [
            (1, 128, 1, 1),
            (128, 128, 1, 2),
            (129, 256, 4, 5),
            (129, 8, 2, 3),
            (129, 192, 4, 5),
            (32_760, 1536, 256 * 12, 6143),
            // values past 2^31 and past 2^32
            (75_600, 5120 * 8, 591 * 320, 378_000),
            (1 << 25, 256, 1 << 19, 1 << 20),
        ] {
            assert_eq!(grid(Int8Rule::Official, rows, width).unwrap().blocks(), official, "{rows} x {width}");
            assert_eq!(grid(Int8Rule::PerToken, rows, width).unwrap().blocks(), per_token, "{rows} x {width}");
        }
    }

    #[test]
    fn a_grid_past_its_limit_is_refused() {
        assert!(grid(Int8Rule::Official, usize::MAX, 128).is_err());
        assert!(grid(Int8Rule::PerToken, 1 << 40, 128).is_err());
    }
}
