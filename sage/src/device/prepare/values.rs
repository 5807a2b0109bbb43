//! Values on a device, as e4m3 or f16: `kernels/quant_values.cu`.

use half::{bf16, f16};
use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Device, Kernel, Launch, Stream, View, ViewMut};

use super::params::{CastValuesParams, QuantValuesParams};
use super::{Family, Half, HeadPlaces, THREADS, TILE_ROWS, expect, launch_over_rows, setting};
use crate::tiles::tiled_len;
use crate::{Error, Sage, TILE_KEYS, ValuePrecision, kernels};

/// Tokens that a block of the first kernel takes.
const AMAX_ROWS: usize = 512;
/// Threads of a block of the second kernel, for each channel.
const CHANNEL_THREADS: usize = 4;
/// Values that a block casts.
const CAST_VALUES: usize = 8 * 2 * THREADS as usize;

/// Whether a chip converts to e4m3.
pub(super) fn has_e4m3(capability: (u32, u32)) -> bool {
    capability >= (8, 9)
}

/// How e4m3 values lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueLayout {
    /// [`crate::Fp8Values::permuted`], `[problems, head_dim, padded_len]`, zeros past the last key.
    Channels {
        /// Keys of a channel: a multiple of 64, below `key_len + 128`.
        padded_len: usize,
    },
    /// Swizzled tiles of 64 keys: [`crate::Fp8Values::tiled`], [`tiled_len`](crate::tiled_len) bytes.
    Tiles,
}

/// Where e4m3 values go.
#[derive(Debug)]
pub struct E4m3Values<'a> {
    /// The patterns, on 16 bytes.
    pub values: ViewMut<'a, u8>,
    /// How they lie.
    pub layout: ValueLayout,
    /// `[problems, head_dim]`.
    pub scales: ViewMut<'a, f32>,
    /// `[problems, head_dim]`, scratch.
    pub amax: ViewMut<'a, u32>,
}

/// Where the codes of values go.
#[derive(Debug)]
pub struct E4m3Codes<'a> {
    /// The patterns, on 16 bytes.
    pub values: ViewMut<'a, u8>,
    /// How they lie.
    pub layout: ValueLayout,
    /// `[problems, head_dim]`.
    pub scales: ViewMut<'a, f32>,
}

/// The quantiser of values of a device.
#[derive(Debug)]
pub struct QuantValues {
    amax: Family<QuantValuesParams>,
    /// None on a chip without e4m3.
    e4m3: Option<Family<QuantValuesParams>>,
    cast: Kernel<CastValuesParams>,
}

impl QuantValues {
    /// Loads the kernels that the chip has.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let file = &kernels::QUANT_VALUES;
        let amax = ["value_amax_bf16_d128", "value_amax_bf16_d64", "value_amax_f16_d128", "value_amax_f16_d64"];
        let e4m3 = ["value_e4m3_bf16_d128", "value_e4m3_bf16_d64", "value_e4m3_f16_d128", "value_e4m3_f16_d64"];
        let has_e4m3 = has_e4m3(device.chip().capability);
        Ok(Self {
            amax: Family::load(device, file, amax)?,
            e4m3: has_e4m3.then(|| Family::load(device, file, e4m3)).transpose()?,
            cast: Kernel::load(device, file, "value_f16")?,
        })
    }

    /// Queues the quantisation of values in the shape's layout so that the largest of a channel becomes `scale_max`:
    /// [`crate::quantise_values`] of the same operand.
    ///
    /// # Errors
    /// [`Error::Setting`] for a head dim that is neither 64 nor 128, a `scale_max` outside `(0, 448]`, a padded length that
    /// does not fit, or a chip without e4m3 (before 8.9); [`Error::Operand`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    pub fn e4m3<T: Half>(
        &self,
        stream: &Stream,
        v: View<'_, T>,
        shape: &AttnShape,
        scale_max: f32,
        out: E4m3Values<'_>,
    ) -> Result<(), Error> {
        let E4m3Values { values, layout, scales, mut amax } = out;
        let places = HeadPlaces::new(shape, shape.key_len)?;
        let mut codes = E4m3Codes { values, layout, scales };
        expect("values", v.len(), shape.key_values())?;
        let params = self.params(v, shape, &places, scale_max, amax.as_view(), &mut codes)?;
        amax.fill_bytes(0)?;
        let launch = launch_over_rows(shape.problems(), places.len, AMAX_ROWS, THREADS)?;
        let operands = [v.reads("v").aligned(16), amax.updates("amax").aligned(4)];
        // what the maxima do not need is given to the codes alone
        let maxima = QuantValuesParams { values: std::ptr::null_mut(), scales: std::ptr::null_mut(), ..params };
        self.amax.of::<T>(shape.head_dim).launch(stream, launch, &maxima, &operands)?;
        self.codes(stream, v, shape, &params, amax.as_view(), codes)
    }

    /// Queues the same of rows `[batch * key_len, heads * head_dim]` that are `stride` values apart, whose largest magnitudes
    /// are known: `amax` of [`super::MeanKeys::finish`].
    ///
    /// # Errors
    /// As [`Self::e4m3`], and [`Error::Setting`] for a stride below a row.
    #[allow(clippy::too_many_arguments, reason = "a stream, rows with their shape and stride, their maxima, and results")]
    pub fn e4m3_below(
        &self,
        stream: &Stream,
        v: View<'_, bf16>,
        stride: usize,
        shape: &AttnShape,
        scale_max: f32,
        amax: View<'_, u32>,
        mut out: E4m3Codes<'_>,
    ) -> Result<(), Error> {
        let places = HeadPlaces::apart(shape, shape.key_len, stride)?;
        let rows = shape.batch * shape.key_len;
        expect("values", v.len(), (rows - 1).saturating_mul(stride) + shape.heads * shape.head_dim)?;
        let params = self.params(v, shape, &places, scale_max, amax, &mut out)?;
        self.codes(stream, v, shape, &params, amax, out)
    }

    /// Checks what is asked for.
    fn params<T: Half>(
        &self,
        v: View<'_, T>,
        shape: &AttnShape,
        places: &HeadPlaces,
        scale_max: f32,
        amax: View<'_, u32>,
        out: &mut E4m3Codes<'_>,
    ) -> Result<QuantValuesParams, Error> {
        if self.e4m3.is_none() {
            return Err(no_e4m3());
        }
        Sage::default().with_values(ValuePrecision::Fp8 { scale_max }).check()?;
        let (problems, head_dim, len) = (shape.problems(), shape.head_dim, places.len);
        let (count, padded_len) = match out.layout {
            ValueLayout::Channels { padded_len } => {
                if padded_len < len || padded_len >= len.saturating_add(128) || !padded_len.is_multiple_of(TILE_KEYS) {
                    return Err(setting("padded keys of a channel", "a multiple of 64 from the keys to 127 more", padded_len));
                }
                (problems * head_dim * padded_len, padded_len)
            }
            ValueLayout::Tiles => (tiled_len(problems, len, head_dim), len.next_multiple_of(TILE_ROWS)),
        };
        expect("e4m3 values", out.values.len(), count)?;
        expect("scales of the channels", out.scales.len(), problems * head_dim)?;
        expect("largest values of the channels", amax.len(), problems * head_dim)?;
        Ok(QuantValuesParams {
            x: v.address().cast(),
            amax: amax.address().cast_mut(),
            values: out.values.address(),
            scales: out.scales.address(),
            len: len as i64,
            heads: shape.heads as i64,
            sample_stride: places.sample_stride,
            head_stride: places.head_stride,
            row_stride: places.row_stride,
            padded_len: padded_len as i64,
            scale_max,
            is_tiled: (out.layout == ValueLayout::Tiles).into(),
        })
    }

    /// The second kernel.
    fn codes<T: Half>(
        &self,
        stream: &Stream,
        v: View<'_, T>,
        shape: &AttnShape,
        params: &QuantValuesParams,
        amax: View<'_, u32>,
        mut out: E4m3Codes<'_>,
    ) -> Result<(), Error> {
        let e4m3 = self.e4m3.as_ref().ok_or_else(no_e4m3)?;
        let operands = [
            v.reads("v").aligned(16).of_which(shape.key_values() * size_of::<T>()),
            amax.reads("amax").aligned(4),
            out.values.writes("values").aligned(16),
            out.scales.writes("scales").aligned(4),
        ];
        let launch = launch_over_rows(shape.problems(), shape.key_len, TILE_ROWS, (shape.head_dim * CHANNEL_THREADS) as u32)?;
        Ok(e4m3.of::<T>(shape.head_dim).launch(stream, launch, params, &operands)?)
    }

    /// Queues the values as f16 in the layout that they have, each the nearest, infinite past 65504. The count is a multiple
    /// of 8; none are no work.
    ///
    /// # Errors
    /// [`Error::Setting`] or [`Error::Operand`] when the operands do not fit, and as [`Kernel::launch`].
    pub fn f16(&self, stream: &Stream, v: View<'_, bf16>, mut values: ViewMut<'_, f16>) -> Result<(), Error> {
        expect("f16 values", values.len(), v.len())?;
        if !v.len().is_multiple_of(8) {
            return Err(setting("values to cast", "a multiple of 8", v.len()));
        }
        if v.is_empty() {
            return Ok(());
        }
        let params = CastValuesParams { x: v.address(), values: values.address(), count: v.len() as i64 };
        let launch = Launch::linear(v.len().div_ceil(CAST_VALUES), THREADS)?;
        let operands = [v.reads("v").aligned(16), values.writes("values").aligned(16)];
        Ok(self.cast.launch(stream, launch, &params, &operands)?)
    }
}

fn no_e4m3() -> Error {
    setting("bits of a value", "16 on this chip, which has no e4m3", 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_before_8_9_have_no_e4m3() {
        assert_eq!([(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)].map(has_e4m3), [false, false, true, true, true]);
    }
}
