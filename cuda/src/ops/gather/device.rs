//! Operations that only move values on a device: `kernels/embedding.cu`, `kernels/patch.cu`.

use half::bf16;

use super::Planes;
use crate::device::params::{EmbeddingParams, PatchParams, UnpatchParams};
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::ops::elementwise::device::{chunk_launch, whole_rows};
use crate::ops::norm::device::expect;
use crate::{Error, kernels};

/// Which kernels they are; every chip takes the same.
pub const KERNELS: [OpKernel; 3] = [
    OpKernel { op: "rows of a table", choose: |_| (&kernels::EMBEDDING, "embedding") },
    OpKernel { op: "planes to patches", choose: |_| (&kernels::PATCH, "patch") },
    OpKernel { op: "patches to planes", choose: |_| (&kernels::PATCH, "unpatch") },
];

const THREADS: u32 = 256;

/// An embedding table, `[rows, width]`.
#[derive(Debug, Clone, Copy)]
pub enum Table<'a> {
    /// In bf16.
    Bf16(View<'a, bf16>),
    /// In f32, rounded to bf16 on the way.
    F32(View<'a, f32>),
}

/// Rows of a table on a device.
#[derive(Debug)]
pub struct Embedding {
    kernel: Kernel<EmbeddingParams>,
}

impl Embedding {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Self { kernel: Kernel::load(device, &kernels::EMBEDDING, "embedding")? })
    }

    /// Queues `out[i] = table[ids[i]]` for rows of `width`. No ids are no work.
    ///
    /// The numbers lie on the device, so they are not looked at here: [`super::check_ids`] refuses wrong ones before they
    /// are uploaded. One that the table does not have reads nothing and gives a row of what is no number.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is no multiple of 8 or the table is empty, [`Error::Length`] when an operand does not
    /// fit, and as [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        table: Table<'_>,
        width: usize,
        ids: View<'_, u32>,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let (values, operand) = match table {
            Table::Bf16(table) => (table.len(), table.reads("table")),
            Table::F32(table) => (table.len(), table.reads("table")),
        };
        let table_rows = whole_rows("embedding table", values, width)?;
        if table_rows == 0 {
            return Err(Error::Size { what: "rows of an embedding table", must: "at least 1", found: 0 });
        }
        expect("embedded rows", out.len(), ids.len().saturating_mul(width))?;
        if ids.is_empty() {
            return Ok(());
        }
        let params = EmbeddingParams {
            table: if let Table::Bf16(table) = table { table.address() } else { std::ptr::null() },
            table_f32: if let Table::F32(table) = table { table.address() } else { std::ptr::null() },
            ids: ids.address(),
            out: out.address(),
            count: ids.len() as i64,
            table_rows: table_rows as i64,
            width: width as i64,
        };
        let operands = [operand.aligned(16), ids.reads("ids").aligned(4), out.writes("out").aligned(16)];
        self.kernel.launch(stream, chunk_launch(ids.len(), width)?, &params, &operands)
    }
}

/// Values of planes.
#[derive(Debug, Clone, Copy)]
pub enum PlaneValues<'a> {
    /// A sampler's state: rounded to f32, then to bf16.
    F64(View<'a, f64>),
    /// What a network is told beside it.
    F32(View<'a, f32>),
}

/// Patches of a latent on a device.
#[derive(Debug)]
pub struct Patches {
    patch: Kernel<PatchParams>,
    unpatch: Kernel<UnpatchParams>,
}

impl Patches {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let file = &kernels::PATCH;
        Ok(Self { patch: Kernel::load(device, file, "patch")?, unpatch: Kernel::load(device, file, "unpatch")? })
    }

    /// Queues rows of `(channel, 1, 2, 2)` features, tokens in `(t, h, w)` order: `out [samples * tokens, 4 * all_channels]`
    /// takes the features of these channels from `4 * first_channel` on, so that two calls fill rows from two sources.
    ///
    /// # Errors
    /// [`Error::Size`] when an axis is zero, a side is odd or the channels do not lie in a row, [`Error::Length`] when an
    /// operand does not fit, and as [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, planes and their shape, rows and the place in them")]
    pub fn run(
        &self,
        stream: &Stream,
        planes: &Planes,
        x: PlaneValues<'_>,
        all_channels: usize,
        first_channel: usize,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        check(planes)?;
        if first_channel.saturating_add(planes.channels) > all_channels {
            return Err(Error::Size { what: "channels of a patch", must: "within those of a row", found: first_channel + planes.channels });
        }
        let (values, operand) = match x {
            PlaneValues::F64(x) => (x.len(), x.reads("x").aligned(16)),
            PlaneValues::F32(x) => (x.len(), x.reads("x").aligned(8)),
        };
        expect("planes of a latent", values, planes.values())?;
        expect("rows of patches", out.len(), planes.samples * planes.tokens() * 4 * all_channels)?;
        let params = PatchParams {
            x: if let PlaneValues::F64(x) = x { x.address() } else { std::ptr::null() },
            x_f32: if let PlaneValues::F32(x) = x { x.address() } else { std::ptr::null() },
            out: out.address(),
            samples: planes.samples as i64,
            channels: planes.channels as i64,
            frames: planes.frames as i64,
            height: planes.height as i64,
            width: planes.width as i64,
            row_width: 4 * all_channels as i64,
            first_channel: first_channel as i64,
        };
        self.patch.launch(stream, launch(planes)?, &params, &[operand, out.writes("out").aligned(8)])
    }

    /// Queues planes from `rows [samples * tokens, 4 * channels]` of `(1, 2, 2, channel)` features.
    ///
    /// # Errors
    /// As [`Patches::run`].
    pub fn undo(&self, stream: &Stream, planes: &Planes, rows: View<'_, f32>, mut out: ViewMut<'_, f32>) -> Result<(), Error> {
        check(planes)?;
        expect("rows of patches", rows.len(), planes.values())?;
        expect("planes of a latent", out.len(), planes.values())?;
        let params = UnpatchParams {
            rows: rows.address(),
            out: out.address(),
            samples: planes.samples as i64,
            channels: planes.channels as i64,
            frames: planes.frames as i64,
            height: planes.height as i64,
            width: planes.width as i64,
        };
        self.unpatch.launch(stream, launch(planes)?, &params, &[rows.reads("rows").aligned(4), out.writes("out").aligned(8)])
    }
}

/// A thread for each patch of each channel.
fn launch(planes: &Planes) -> Result<Launch, Error> {
    Launch::linear((planes.values() / 4).div_ceil(THREADS as usize), THREADS)
}

fn check(planes: &Planes) -> Result<(), Error> {
    let Planes { samples, channels, frames, height, width } = *planes;
    for (what, found) in [("samples", samples), ("channels", channels), ("frames", frames)] {
        if found == 0 {
            return Err(Error::Size { what, must: "at least 1", found });
        }
    }
    for (what, found) in [("height of a plane", height), ("width of a plane", width)] {
        if found == 0 || !found.is_multiple_of(2) {
            return Err(Error::Size { what, must: "even and not zero", found });
        }
    }
    Ok(())
}
