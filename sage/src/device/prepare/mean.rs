//! The mean key on a device: `kernels/mean_keys.cu`.

use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Device, Kernel, Launch, Stream, View, ViewMut};

use super::params::{MeanRowsParams, SumRowsParams};
use super::qk::maxima_len;
use super::{Family, Half, HeadPlaces, THREADS, TILE_ROWS, expect, launch_over_rows};
use crate::{Error, kernels};

/// Rows of a sum.
const SUM_ROWS: usize = 64;
/// Columns that a thread block of the second kernel takes.
const COLUMNS: usize = 8;

/// Values of the sums of every 64 keys: `[problems, ceil(key_len / 64), head_dim]`.
pub fn sums_len(shape: &AttnShape) -> usize {
    shape.problems().saturating_mul(shape.key_len.div_ceil(SUM_ROWS) * shape.head_dim)
}

/// The mean keys of a device.
#[derive(Debug)]
pub struct MeanKeys {
    sum: Family<SumRowsParams>,
    mean: Kernel<MeanRowsParams>,
}

impl MeanKeys {
    /// Loads the kernels.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let names = ["sum_rows_bf16_d128", "sum_rows_bf16_d64", "sum_rows_f16_d128", "sum_rows_f16_d64"];
        let sum = Family::load(device, &kernels::MEAN_KEYS, names)?;
        Ok(Self { sum, mean: Kernel::load(device, &kernels::MEAN_KEYS, "mean_rows")? })
    }

    /// Queues the mean key of every head: `means [problems, head_dim]`, rounded to the keys' format, as
    /// [`crate::mean_keys`] gives it but where its f64 sum and the f32 sums of 64 keys fall on two sides of a tie. `k` is in
    /// the shape's layout; `sums`, [`sums_len`] values, is scratch.
    ///
    /// # Errors
    /// [`Error::Setting`] for a head dim that is neither 64 nor 128, [`Error::Operand`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    pub fn run<T: Half>(
        &self,
        stream: &Stream,
        k: View<'_, T>,
        shape: &AttnShape,
        mut sums: ViewMut<'_, f32>,
        means: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        let places = HeadPlaces::new(shape, shape.key_len)?;
        expect("keys", k.len(), shape.key_values())?;
        expect("sums of keys", sums.len(), sums_len(shape))?;
        expect("mean keys", means.len(), shape.problems() * shape.head_dim)?;
        let params = SumRowsParams {
            x: k.address().cast(),
            sums: sums.address(),
            len: places.len as i64,
            heads: shape.heads as i64,
            sample_stride: places.sample_stride,
            head_stride: places.head_stride,
            row_stride: places.row_stride,
        };
        let launch = launch_over_rows(shape.problems(), places.len, TILE_ROWS, THREADS)?;
        let operands = [k.reads("k").aligned(16), sums.writes("sums").aligned(4)];
        self.sum.of::<T>(shape.head_dim).launch(stream, launch, &params, &operands)?;
        self.finish::<T>(stream, sums.as_view(), shape, means, None)
    }

    /// Queues the second half alone: the mean key of sums that [`super::QkPrep`] made, and where it found the `maxima` of
    /// tiles of values ([`maxima_len`]) the largest of each channel, `[problems, head_dim]` bits of f32.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn finish<T: Half>(
        &self,
        stream: &Stream,
        sums: View<'_, f32>,
        shape: &AttnShape,
        mut means: ViewMut<'_, f32>,
        mut maxima: Option<(View<'_, f32>, ViewMut<'_, u32>)>,
    ) -> Result<(), Error> {
        HeadPlaces::new(shape, shape.key_len)?;
        expect("sums of keys", sums.len(), sums_len(shape))?;
        expect("mean keys", means.len(), shape.problems() * shape.head_dim)?;
        let mut params = MeanRowsParams {
            sums: sums.address(),
            means: means.address(),
            parts: shape.key_len.div_ceil(SUM_ROWS) as i64,
            width: shape.head_dim as i64,
            len: shape.key_len as i64,
            maxima: std::ptr::null(),
            amax: std::ptr::null_mut(),
            tiles: shape.key_len.div_ceil(TILE_ROWS) as i64,
            is_f16: T::IS_F16.into(),
            reserved: 0,
        };
        let mut operands = vec![sums.reads("sums").aligned(4), means.writes("means").aligned(4)];
        if let Some((maxima, amax)) = &mut maxima {
            expect("largest values", maxima.len(), maxima_len(shape))?;
            expect("largest values of the channels", amax.len(), shape.problems() * shape.head_dim)?;
            (params.maxima, params.amax) = (maxima.address(), amax.address());
            operands.extend([maxima.reads("maxima").aligned(4), amax.writes("amax").aligned(4)]);
        }
        let launch = Launch::linear(shape.problems() * (shape.head_dim / COLUMNS), THREADS)?;
        Ok(self.mean.launch(stream, launch, &params, &operands)?)
    }
}
