//! What the time does to a transformer's rows, on a device and in f32: `kernels/modulation.cu`.

use half::bf16;

use crate::device::params::{ModulateParams, ModulationParams};
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::ops::elementwise::device::{chunk_launch, whole_rows};
use crate::ops::norm::device::expect;
use crate::{Error, kernels};

/// Which kernels they are; every chip takes the same.
pub const KERNELS: [OpKernel; 2] = [
    OpKernel { op: "modulation of a time", choose: |_| (&kernels::MODULATION, "modulation") },
    OpKernel { op: "modulated rows in f32", choose: |_| (&kernels::MODULATION, "modulation_apply") },
];

const THREADS: u32 = 256;
/// Values of a thread of the table.
const TABLE_CHUNK: usize = 4;

/// Shifts and scales of groups of rows.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// `[groups, width]`, added last.
    pub shift: View<'a, f32>,
    /// `[groups, width]`; a row is multiplied by one more than it.
    pub scale: View<'a, f32>,
    /// Rows that share a group.
    pub rows_per_group: usize,
}

/// The modulation of a device.
#[derive(Debug)]
pub struct Modulation {
    table: Kernel<ModulationParams>,
    apply: Kernel<ModulateParams>,
}

impl Modulation {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let [(file, table), (_, apply)] = KERNELS.map(|kernel| (kernel.choose)(device.chip().capability));
        Ok(Self { table: Kernel::load(device, file, table)?, apply: Kernel::load(device, file, apply)? })
    }

    /// Queues `out [chunks, batch, width] = table [chunks, width] + e`. `e` is `[batch, e_chunks, width]`, and its chunks are
    /// added in turn: one to every chunk, all of them to one table, or to each of several tables that lie one behind the
    /// other. Those that `gates` numbers, from 0 and below 64, make sums that are rounded to bf16: what a product's end
    /// takes for gates.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is no multiple of 4, there is no chunk or sample, or a gate is no chunk of `e`;
    /// [`Error::Length`] when an operand does not fit, and as [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, operands with their shape, and a result")]
    pub fn table(
        &self,
        stream: &Stream,
        width: usize,
        table: View<'_, f32>,
        e: View<'_, f32>,
        e_chunks: usize,
        gates: &[usize],
        mut out: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        if width == 0 || !width.is_multiple_of(TABLE_CHUNK) {
            return Err(Error::Size { what: "width of a modulation", must: "a multiple of 4", found: width });
        }
        let chunks = table.len() / width;
        if chunks == 0 || e_chunks == 0 || !chunks.is_multiple_of(e_chunks) {
            return Err(Error::Size { what: "chunks of a time's modulation", must: "a divisor of the tables'", found: e_chunks });
        }
        if let Some(gate) = gates.iter().find(|gate| **gate >= e_chunks.min(64)) {
            return Err(Error::Size { what: "gate of a modulation", must: "a chunk of the time's, below 64", found: *gate });
        }
        let batch = e.len() / (e_chunks * width);
        if batch == 0 {
            return Err(Error::Size { what: "samples of a modulation", must: "at least 1", found: 0 });
        }
        expect("modulation table", table.len(), chunks * width)?;
        expect("modulation of the times", e.len(), batch * e_chunks * width)?;
        expect("modulation", out.len(), chunks * batch * width)?;
        let params = ModulationParams {
            table: table.address(),
            e: e.address(),
            out: out.address(),
            chunks: chunks as i64,
            batch: batch as i64,
            width: width as i64,
            e_chunks: e_chunks as i64,
            rounded: gates.iter().fold(0, |rounded, gate| rounded | 1 << gate),
        };
        let launch = Launch::linear((out.len() / TABLE_CHUNK).div_ceil(THREADS as usize), THREADS)?;
        let operands = [table.reads("table").aligned(16), e.reads("e").aligned(16), out.writes("out").aligned(16)];
        self.table.launch(stream, launch, &params, &operands)
    }

    /// Queues `out [rows, width] = x * (1 + scale) + shift`, rounded to f32 alone. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is no multiple of 8 or a group has no rows, [`Error::Length`] when an operand does not fit,
    /// and as [`Kernel::launch`].
    pub fn apply(
        &self,
        stream: &Stream,
        width: usize,
        x: View<'_, bf16>,
        tables: Tables<'_>,
        mut out: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        let rows = whole_rows("rows to be modulated", x.len(), width)?;
        let Tables { shift, scale, rows_per_group } = tables;
        if rows_per_group == 0 {
            return Err(Error::Size { what: "rows of a modulation group", must: "at least 1", found: 0 });
        }
        expect("modulation shift", shift.len(), rows.div_ceil(rows_per_group) * width)?;
        expect("modulation scale", scale.len(), shift.len())?;
        expect("modulated rows", out.len(), x.len())?;
        if rows == 0 {
            return Ok(());
        }
        let params = ModulateParams {
            x: x.address(),
            shift: shift.address(),
            scale: scale.address(),
            out: out.address(),
            rows: rows as i64,
            width: width as i64,
            rows_per_group: rows_per_group.min(rows) as i64,
        };
        let operands =
            [x.reads("x").aligned(16), shift.reads("shift").aligned(16), scale.reads("scale").aligned(16), out.writes("out").aligned(16)];
        self.apply.launch(stream, chunk_launch(rows, width)?, &params, &operands)
    }
}
