//! RMS norm and rotary embedding of queries and keys on a device: `kernels/rms_rope.cu`.

use half::bf16;

use super::RopeTable;
use crate::device::params::RmsRopeParams;
use crate::device::{Buffer, Device, Kernel, OpKernel, Stream, View, ViewMut};
use crate::ops::norm::RmsRule;
use crate::ops::norm::device::{check_width, expect, row_launch};
use crate::{Error, HeadLayout, kernels};

/// Channels of the widest head that is turned.
pub const HEAD_DIM_LIMIT: usize = 256;

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] = [OpKernel { op: "RMS norm and rotary embedding", choose: |_| (&kernels::RMS_ROPE, "rms_rope") }];

/// Cosines and sines of every position of each axis in device memory: the table of a grid, without its repetitions.
#[derive(Debug)]
pub struct RopeTurns {
    grid: [usize; 3],
    head_dim: usize,
    /// `[longest axis, head_dim / 2, 2]`.
    turns: Buffer<f32>,
}

impl RopeTurns {
    /// The values of [`RopeTable::wan`] for a `[time, height, width]` grid of tokens.
    ///
    /// # Errors
    /// As [`RopeTable::wan`], [`Error::Size`] when `head_dim` is no multiple of 8 or past [`HEAD_DIM_LIMIT`], and what the
    /// driver says.
    pub fn upload(stream: &Stream, grid: [usize; 3], head_dim: usize) -> Result<Self, Error> {
        if !head_dim.is_multiple_of(8) || head_dim > HEAD_DIM_LIMIT {
            return Err(Error::Size { what: "head dim of turned heads", must: "a multiple of 8, at most 256", found: head_dim });
        }
        // along one axis the others stand at zero
        let [time, height, width] = grid;
        let axes =
            [RopeTable::wan([time, 1, 1], head_dim)?, RopeTable::wan([1, height, 1], head_dim)?, RopeTable::wan([1, 1, width], head_dim)?];
        let (half, space) = (head_dim / 2, head_dim / 6);
        let positions = grid.into_iter().max().unwrap_or(1);
        let mut turns = vec![0.0; positions * head_dim];
        for (index, turn) in turns.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (position, pair) = (index / half, index % half);
            let axis = usize::from(pair >= half - 2 * space) + usize::from(pair >= half - space);
            if position < grid[axis] {
                *turn = [axes[axis].cos()[index], axes[axis].sin()[index]];
            }
        }
        Ok(Self { grid, head_dim, turns: stream.upload(&turns)? })
    }

    /// Tokens of the grid.
    pub fn tokens(&self) -> usize {
        self.grid.iter().product()
    }

    /// Tokens of time, height and width.
    pub fn grid(&self) -> [usize; 3] {
        self.grid
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Cosine and sine of each pair of a head at each position, `[longest axis, head_dim / 2, 2]`; what a shorter axis does
    /// not have is zero.
    pub fn view(&self) -> View<'_, f32> {
        self.turns.view()
    }
}

/// Rows of `heads * head_dim` channels that lie in wider ones: one operand of a fused projection.
#[derive(Debug, Clone, Copy)]
pub struct HeadRows<'a> {
    /// From the first value of the first row to the last of the last.
    pub values: View<'a, bf16>,
    /// Rows of a sample: its tokens.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Values from a row to the next.
    pub stride: usize,
}

impl HeadRows<'_> {
    /// How many rows there are.
    fn rows(&self, width: usize) -> Result<usize, Error> {
        if self.values.is_empty() {
            return Ok(0);
        }
        if self.stride < width || !self.stride.is_multiple_of(8) {
            return Err(Error::Size { what: "stride of rows", must: "a multiple of 8, at least a row", found: self.stride });
        }
        let rows = self.values.len().div_ceil(self.stride);
        expect("rows of heads", self.values.len(), (rows - 1) * self.stride + width)?;
        if self.tokens == 0 || !rows.is_multiple_of(self.tokens) {
            return Err(Error::Size { what: "tokens of a sample", must: "a divisor of the rows", found: self.tokens });
        }
        Ok(rows)
    }
}

/// The RMS norm and rotary embedding of a device.
#[derive(Debug)]
pub struct RmsRope {
    kernel: Kernel<RmsRopeParams>,
}

impl RmsRope {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Queues `out = turned(RMS(x) * weight)`, results rounded to bf16 where `rule` says; without `turns` only the
    /// norm, as cross-attention has it. `out` is `[batch, heads, tokens, head_dim]` or `[batch, tokens, heads, head_dim]`.
    /// No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when a width, a stride or a head does not fit the kernel or `turns`, [`Error::Length`] when an
    /// operand does not fit, and as [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, a rule, and operands")]
    pub fn run(
        &self,
        stream: &Stream,
        rule: RmsRule,
        eps: f32,
        x: HeadRows<'_>,
        weight: View<'_, f32>,
        turns: Option<&RopeTurns>,
        layout: HeadLayout,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let HeadRows { values, tokens, heads, head_dim, stride } = x;
        let width = heads.saturating_mul(head_dim);
        check_width(width)?;
        if !head_dim.is_multiple_of(8) {
            return Err(Error::Size { what: "head dim", must: "a multiple of 8", found: head_dim });
        }
        let rows = x.rows(width)?;
        expect("RMS norm weight", weight.len(), width)?;
        expect("normed heads", out.len(), rows.saturating_mul(width))?;
        if rows == 0 {
            return Ok(());
        }
        if let Some(turns) = turns {
            expect("tokens of the rotary grid", tokens, turns.tokens())?;
            expect("head dim of the rotary grid", head_dim, turns.head_dim)?;
        }
        let [_, height, breadth] = turns.map_or([1; 3], |turns| turns.grid);
        let (out_head, out_token) = match layout {
            HeadLayout::Bhld => (tokens * head_dim, head_dim),
            HeadLayout::Blhd => (head_dim, width),
        };
        let params = RmsRopeParams {
            x: values.address(),
            weight: weight.address(),
            turns: turns.map_or(std::ptr::null(), |turns| turns.turns.view().address()),
            out: out.address(),
            width: width as i64,
            x_stride: stride as i64,
            tokens: tokens as i64,
            out_batch: (tokens * width) as i64,
            out_head: out_head as i64,
            out_token: out_token as i64,
            head_dim: head_dim as i32,
            height: height as i32,
            breadth: breadth as i32,
            rounds_twice: (rule == RmsRule::Standard).into(),
            eps,
            unused: 0,
        };
        let mut operands = vec![values.reads("x").aligned(16), weight.reads("weight").aligned(16), out.writes("out").aligned(16)];
        if let Some(turns) = turns {
            operands.push(turns.turns.view().reads("turns").aligned(8));
        }
        self.kernel.launch(stream, row_launch(rows, width)?, &params, &operands)
    }
}
