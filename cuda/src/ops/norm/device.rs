//! Layer norm with what follows it, on a device: `kernels/norm_mod_quant.cu`.

use half::bf16;

use super::LayerNormRule;
use crate::Error;
use crate::device::params::NormModQuantParams;
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::kernels;
use crate::ops::quant::{BLOCK, padded};

/// Channels of the widest row.
pub const WIDTH_LIMIT: usize = 5120;

/// Values that a thread keeps in registers.
const THREAD_VALUES: usize = 16;

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] =
    [OpKernel { op: "layer norm, modulate, quantise to int8", choose: |_| (&kernels::NORM_MOD_QUANT, "norm_mod_quant") }];

/// What becomes of the normed row `y`.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// `bf16(bf16(y) * (1 + scale) + shift)` with tables of `[groups, width]`; row `r` is of group `r / rows_per_group`.
    Modulate {
        /// Added last.
        shift: View<'a, f32>,
        /// The row is multiplied by one more than this.
        scale: View<'a, f32>,
        /// Rows that share a group.
        rows_per_group: usize,
    },
    /// `bf16(y * weight + bias)` with tables of `[width]`.
    Affine {
        /// Factor of a channel.
        weight: View<'a, f32>,
        /// Added last.
        bias: View<'a, f32>,
    },
}

/// Where the result goes.
#[derive(Debug)]
pub enum NormedRows<'a> {
    /// `[rows, width]`.
    Bf16(ViewMut<'a, bf16>),
    /// One scale for 128 values of a row, as [`crate::ops::quant::Int8Rule::PerToken`] has them.
    Int8 {
        /// `[rows, padded(width)]`, zeros past the width ([`padded`]).
        values: ViewMut<'a, i8>,
        /// `[rows, ceil(width / 128)]`.
        scales: ViewMut<'a, f32>,
    },
    /// Both.
    Both {
        /// `[rows, width]`, before it is quantised.
        rows: ViewMut<'a, bf16>,
        /// `[rows, padded(width)]`, zeros past the width.
        values: ViewMut<'a, i8>,
        /// `[rows, ceil(width / 128)]`.
        scales: ViewMut<'a, f32>,
    },
}

/// The layer norm of a device.
#[derive(Debug)]
pub struct NormModQuant {
    kernel: Kernel<NormModQuantParams>,
}

impl NormModQuant {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Queues the norm of `x [rows, width]` by `rule` with `eps`. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is no multiple of 8 or past [`WIDTH_LIMIT`], or a group has no
    /// rows; [`Error::Length`] when an operand does not fit, and as [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, a rule, and one operand with its shape")]
    pub fn run(
        &self,
        stream: &Stream,
        rule: LayerNormRule,
        eps: f32,
        x: View<'_, bf16>,
        width: usize,
        then: Then<'_>,
        out: NormedRows<'_>,
    ) -> Result<(), Error> {
        check_width(width)?;
        let rows = x.len() / width;
        expect("layer norm input", x.len(), rows.saturating_mul(width))?;
        let (is_modulation, factors, offsets, rows_per_group) = match then {
            Then::Modulate { shift, scale, rows_per_group } => {
                if rows_per_group == 0 {
                    return Err(Error::Size { what: "rows of a modulation group", must: "at least 1", found: 0 });
                }
                (true, scale, shift, rows_per_group.min(rows.max(1)))
            }
            Then::Affine { weight, bias } => (false, weight, bias, rows.max(1)),
        };
        let table = rows.div_ceil(rows_per_group).max(usize::from(!is_modulation)) * width;
        expect(if is_modulation { "modulation scale" } else { "layer norm weight" }, factors.len(), table)?;
        expect(if is_modulation { "modulation shift" } else { "layer norm bias" }, offsets.len(), table)?;
        let (mut plain, mut int8) = match out {
            NormedRows::Bf16(rows) => (Some(rows), None),
            NormedRows::Int8 { values, scales } => (None, Some((values, scales))),
            NormedRows::Both { rows, values, scales } => (Some(rows), Some((values, scales))),
        };
        if let Some(out) = &plain {
            expect("layer norm output", out.len(), x.len())?;
        }
        if let Some((values, scales)) = &int8 {
            expect("int8 rows", values.len(), rows * padded(width))?;
            expect("scales of the rows", scales.len(), rows * width.div_ceil(BLOCK))?;
        }
        if rows == 0 {
            return Ok(());
        }
        let null = std::ptr::null_mut();
        let params = NormModQuantParams {
            x: x.address(),
            factors: factors.address(),
            offsets: offsets.address(),
            out: plain.as_mut().map_or(null, ViewMut::address),
            values: int8.as_mut().map_or(std::ptr::null_mut(), |(values, _)| values.address()),
            scales: int8.as_mut().map_or(std::ptr::null_mut(), |(_, scales)| scales.address()),
            width: width as i64,
            rows_per_group: rows_per_group as i64,
            eps,
            padding: match rule {
                LayerNormRule::Standard => 0.0,
                LayerNormRule::Padded => (width.next_power_of_two() - width) as f32,
            },
            is_modulation: is_modulation.into(),
            unused: 0,
        };
        let mut operands = vec![x.reads("x").aligned(16), factors.reads("factors").aligned(16), offsets.reads("offsets").aligned(16)];
        if let Some(out) = &mut plain {
            operands.push(out.writes("out").aligned(16));
        }
        if let Some((values, scales)) = &mut int8 {
            operands.extend([values.writes("values").aligned(8), scales.writes("scales").aligned(4)]);
        }
        self.kernel.launch(stream, row_launch(rows, width)?, &params, &operands)
    }
}

/// A block for each row, with a thread for every sixteen of its values.
pub(crate) fn row_launch(rows: usize, width: usize) -> Result<Launch, Error> {
    let warps = width.div_ceil(THREAD_VALUES * 32);
    Launch::linear(rows, warps as u32 * 32)
}

/// Refuses a row that the kernels of whole rows cannot take.
pub(crate) fn check_width(width: usize) -> Result<(), Error> {
    if width == 0 || width > WIDTH_LIMIT {
        return Err(Error::Size { what: "width of a normed row", must: "from 8 to 5120", found: width });
    }
    if !width.is_multiple_of(8) {
        return Err(Error::Size { what: "width of a normed row", must: "a multiple of 8", found: width });
    }
    Ok(())
}

pub(crate) fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_row_has_a_thread() {
        for (width, threads) in [(8, 32), (512, 32), (520, 64), (1536, 96), (1600, 128), (5112, 320), (5120, 320)] {
            let launch = row_launch(75_600, width).unwrap();
            assert_eq!((launch.block[0], launch.grid[0]), (threads, 75_600), "{width}");
        }
    }

    #[test]
    fn rows_that_no_block_can_hold_are_refused() {
        for width in [0, 12, 5128, usize::MAX] {
            assert!(check_width(width).is_err(), "{width}");
        }
        assert!(row_launch(1 << 31, 8).is_err());
    }
}
