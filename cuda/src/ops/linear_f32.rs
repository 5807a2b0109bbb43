//! A linear layer over rows that stay in f32, on a device: `kernels/linear_f32.cu`.

use half::bf16;

use crate::device::params::LinearF32Params;
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::ops::norm::device::expect;
use crate::{Error, kernels};

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] = [OpKernel { op: "linear layer over f32 rows", choose: |_| (&kernels::LINEAR_F32, "linear_f32") }];

const THREADS: u32 = 256;
/// Rows and columns of a block.
const TILE: [usize; 2] = [4, 32];

/// Rows, columns and depth of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductShape {
    /// Rows of the activations.
    pub rows: usize,
    /// Rows of the weight: columns of the result.
    pub columns: usize,
    /// Columns of both.
    pub depth: usize,
}

/// The layer of a device.
#[derive(Debug)]
pub struct LinearF32 {
    kernel: Kernel<LinearF32Params>,
}

impl LinearF32 {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Queues `out [rows, columns] = x [rows, depth] . w [columns, depth]^T + bias [columns]`; sums are in f32 and nothing is
    /// rounded further. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when there are no columns or `depth` is no multiple of 4, [`Error::Length`] when an operand does not
    /// fit, and as [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        shape: ProductShape,
        x: View<'_, f32>,
        w: View<'_, bf16>,
        bias: Option<View<'_, bf16>>,
        mut out: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        let ProductShape { rows, columns, depth } = shape;
        if depth == 0 || !depth.is_multiple_of(4) {
            return Err(Error::Size { what: "columns of an f32 operand", must: "a multiple of 4, at least 4", found: depth });
        }
        if columns == 0 {
            return Err(Error::Size { what: "rows of a weight", must: "at least 1", found: 0 });
        }
        expect("rows", x.len(), rows.saturating_mul(depth))?;
        expect("weight", w.len(), columns.saturating_mul(depth))?;
        expect("output", out.len(), rows.saturating_mul(columns))?;
        let mut operands = vec![x.reads("x").aligned(16), w.reads("w").aligned(8)];
        if let Some(bias) = bias {
            expect("bias", bias.len(), columns)?;
            operands.push(bias.reads("bias").aligned(2));
        }
        if rows == 0 {
            return Ok(());
        }
        let params = LinearF32Params {
            x: x.address(),
            w: w.address(),
            bias: bias.map_or(std::ptr::null(), |bias| bias.address()),
            out: out.address(),
            rows: rows as i64,
            columns: columns as i64,
            depth: depth as i64,
        };
        operands.push(out.writes("out").aligned(4));
        let blocks = rows.div_ceil(TILE[0]).saturating_mul(columns.div_ceil(TILE[1]));
        self.kernel.launch(stream, Launch::linear(blocks, THREADS)?, &params, &operands)
    }
}
