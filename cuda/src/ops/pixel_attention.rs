//! Attention of every pixel of a frame to every other, one head over all channels, as the autoencoder has it in its middle:
//! products of `kernels/gemm_bf16_mma.cu` with `kernels/softmax_rows.cu` and `kernels/transpose.cu` between them.
//!
//! ```text
//! out = softmax(q k^T / sqrt(channels)) v        q, k, v, out [pixels, stored channels] bf16
//! ```
//! It is half a percent of a decoder's work, so it is composed: some rows of scores at a time are stored in `f32`, become
//! probabilities in bf16, and are multiplied with the transposed values. The scores of all 6240 pixels of a latent frame of
//! 480 x 832 are 156 MB, written once and read once: 2 ms of traffic for the 21 frames of a video on an H200's memory.
//! Results do not depend on how many rows there is room for.
//!
//! The host's attention (`sla`) keeps probabilities unrounded or rounds them before it divides: the results agree within the
//! rounding of a probability to bf16.

use half::bf16;

use crate::device::params::{SoftmaxRowsParams, TransposeParams};
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::ops::conv3d::packing::stored;
use crate::ops::gemm::device::{DeviceMatrix, GemmBf16};
use crate::{Error, kernels};

/// Threads of a block of both kernels.
const THREADS: u32 = 256;

/// Rows and columns that a block of the transposition has.
const SIDE: usize = 64;

/// A product's depth is a multiple of it.
const DEPTH_MULTIPLE: usize = 8;

/// Which kernels stand between the products; every chip takes the same.
pub const KERNELS: [OpKernel; 2] = [
    OpKernel { op: "softmax of rows", choose: |_| (&kernels::SOFTMAX_ROWS, "softmax_rows") },
    OpKernel { op: "transposition", choose: |_| (&kernels::TRANSPOSE, "transpose") },
];

/// Values of the memory that [`PixelAttention::run`] works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceSize {
    /// Scores, `[rows, pixels]`.
    pub scores: usize,
    /// Probabilities, `[rows, pixels to a multiple of 8]`.
    pub probabilities: usize,
    /// Transposed values, `[stored channels, pixels to a multiple of 8]`.
    pub values: usize,
}

impl WorkspaceSize {
    /// For frames of `pixels` pixels of `channels` channels, `rows` query pixels at a time.
    pub fn of(pixels: usize, channels: usize, rows: usize) -> Self {
        let depth = pixels.next_multiple_of(DEPTH_MULTIPLE);
        Self {
            scores: rows.saturating_mul(pixels),
            probabilities: rows.saturating_mul(depth),
            values: stored(channels).saturating_mul(depth),
        }
    }
}

/// The memory itself: at least as much as [`WorkspaceSize`] says; how many rows it has room for is worked out from it.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// Scores.
    pub scores: ViewMut<'a, f32>,
    /// Probabilities.
    pub probabilities: ViewMut<'a, bf16>,
    /// Transposed values.
    pub values: ViewMut<'a, bf16>,
}

/// The attention between pixels on a device.
#[derive(Debug)]
pub struct PixelAttention {
    product: GemmBf16,
    softmax: Kernel<SoftmaxRowsParams>,
    transpose: Kernel<TransposeParams>,
}

impl PixelAttention {
    /// Loads its kernels.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let of = |index: usize| (KERNELS[index].choose)(device.chip().capability);
        let ((softmax, softmax_name), (transpose, transpose_name)) = (of(0), of(1));
        Ok(Self {
            product: GemmBf16::load(device)?,
            softmax: Kernel::load(device, softmax, softmax_name)?,
            transpose: Kernel::load(device, transpose, transpose_name)?,
        })
    }

    /// Queues the attention of one frame: `qkv` and `out` are `[pixels, stored channels]`, zero past `channels`. No pixels are
    /// no work.
    ///
    /// # Errors
    /// [`Error::Size`] without channels, [`Error::Length`] when an operand does not fit or the workspace has no room for one
    /// row, and as [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        qkv: [View<'_, bf16>; 3],
        channels: usize,
        mut workspace: Workspace<'_>,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        if channels == 0 {
            return Err(Error::Size { what: "channels of a pixel", must: "at least 1", found: 0 });
        }
        let stored = stored(channels);
        let [query, key, value] = qkv;
        let pixels = query.len() / stored;
        for (what, found) in [("query", query.len()), ("key", key.len()), ("value", value.len()), ("attention output", out.len())] {
            expect_len(what, found, pixels * stored)?;
        }
        if pixels == 0 {
            return Ok(());
        }
        let depth = pixels.next_multiple_of(DEPTH_MULTIPLE);
        let least = WorkspaceSize::of(pixels, channels, 1);
        let rows_at_once = (workspace.scores.len() / pixels).min(workspace.probabilities.len() / depth).min(pixels);
        if rows_at_once == 0 {
            let (what, expected, found) = if workspace.scores.len() < pixels {
                ("room for scores", least.scores, workspace.scores.len())
            } else {
                ("room for probabilities", least.probabilities, workspace.probabilities.len())
            };
            return Err(Error::Length { what, expected, found });
        }
        if workspace.values.len() < least.values {
            return Err(Error::Length { what: "room for values", expected: least.values, found: workspace.values.len() });
        }
        let mut values = workspace.values.slice(0..least.values)?;
        self.transpose(stream, value, [pixels, stored], values.reborrow(), depth)?;
        let key = DeviceMatrix::new(pixels, stored, key)?;
        let values = DeviceMatrix::new(stored, depth, values.as_view())?;
        let scale = std::f64::consts::LOG2_E / (channels as f64).sqrt();
        for first in (0..pixels).step_by(rows_at_once) {
            let rows = rows_at_once.min(pixels - first);
            let query = DeviceMatrix::new(rows, stored, query.slice(first * stored..(first + rows) * stored)?)?;
            let mut scores = workspace.scores.slice(0..rows * pixels)?;
            let mut probabilities = workspace.probabilities.slice(0..rows * depth)?;
            self.product.store_f32(stream, query, key, None, scores.reborrow())?;
            self.softmax(stream, scores.as_view(), [rows, pixels], scale as f32, probabilities.reborrow(), depth)?;
            let probabilities = DeviceMatrix::new(rows, depth, probabilities.as_view())?;
            self.product.store(stream, probabilities, values, None, out.slice(first * stored..(first + rows) * stored)?, None)?;
        }
        Ok(())
    }

    /// Queues the softmax of `scale * scores` in base 2; a row of probabilities is `stride` long, zero past its columns.
    fn softmax(
        &self,
        stream: &Stream,
        scores: View<'_, f32>,
        [rows, columns]: [usize; 2],
        scale: f32,
        mut probabilities: ViewMut<'_, bf16>,
        stride: usize,
    ) -> Result<(), Error> {
        let params = SoftmaxRowsParams {
            scores: scores.address(),
            probabilities: probabilities.address(),
            rows: rows as i64,
            columns: columns as i64,
            out_stride: stride as i64,
            scale,
            unused: 0,
        };
        let operands = [scores.reads("scores").aligned(4), probabilities.writes("probabilities").aligned(2)];
        self.softmax.launch(stream, Launch::linear(rows, THREADS)?, &params, &operands)
    }

    fn transpose(
        &self,
        stream: &Stream,
        x: View<'_, bf16>,
        [rows, columns]: [usize; 2],
        mut out: ViewMut<'_, bf16>,
        stride: usize,
    ) -> Result<(), Error> {
        let params =
            TransposeParams { x: x.address(), out: out.address(), rows: rows as i64, columns: columns as i64, out_stride: stride as i64 };
        let operands = [x.reads("x").aligned(2), out.writes("out").aligned(2)];
        self.transpose.launch(stream, transpose_launch(columns, stride)?, &params, &operands)
    }
}

/// A block for each square of the result `[columns, stride]`.
fn transpose_launch(columns: usize, stride: usize) -> Result<Launch, Error> {
    Launch::linear(columns.div_ceil(SIDE).saturating_mul(stride.div_ceil(SIDE)), THREADS)
}

fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspaces_are_whole_rows() {
        assert_eq!(WorkspaceSize::of(35, 20, 7), WorkspaceSize { scores: 245, probabilities: 280, values: 960 });
        assert_eq!(WorkspaceSize::of(6240, 384, 6240).scores, 38_937_600);
        // 2^32 scores, which no 32-bit offset reaches
        assert_eq!(WorkspaceSize::of(1 << 16, 384, 1 << 16).scores, 1 << 32);
    }

    #[test]
    fn every_square_of_the_transposed_values_has_a_block() {
        assert_eq!(transpose_launch(384, 6240).unwrap().blocks(), 6 * 98);
        assert_eq!(transpose_launch(8, 8).unwrap().blocks(), 1);
        assert!(transpose_launch(1 << 20, 1 << 40).is_err());
    }
}
