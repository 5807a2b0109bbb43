//! The dense product on a device: `kernels/gemm_bf16_wgmma.cu` on 9.0, `kernels/gemm_bf16_mma.cu` elsewhere.
//!
//! Operands are bf16 and the sum is in `f32`, in another order than the host's: results agree within the rounding of the
//! sum. What follows it rounds as the host does with [`crate::Rounding::Bf16`].

use half::bf16;

use crate::Error;
use crate::device::params::{GemmBf16Params, GemmBf16WgmmaParams};
use crate::device::{Device, Kernel, KernelFile, Launch, OpKernel, Operand, Params, Stream, View, ViewMut};
use crate::kernels;
use crate::ops::gemm::{Family, wgmma};

/// Threads of a block on mma.sync.
const THREADS: u32 = 256;

/// Rows and columns of a block's tile on mma.sync; columns whose squares are summed, on either.
const TILE: usize = 128;

/// Rows and columns of a tile on wgmma.
const WGMMA_TILE: [usize; 2] = [128, 256];

/// Dynamic shared memory of a block on mma.sync: three stages of two operands, 128 bytes of each of their 128 rows.
const SHARED_BYTES: u32 = 3 * 2 * 128 * 128;

/// What follows the sum; each end is a kernel.
#[derive(Debug, Clone, Copy)]
enum End {
    Store,
    StoreF32,
    AddGated,
}

impl End {
    const ALL: [Self; 3] = [Self::Store, Self::StoreF32, Self::AddGated];

    fn kernel(self, family: Family) -> (&'static KernelFile, &'static str) {
        let (wgmma, mma) = match self {
            Self::Store => ("gemm_bf16_wgmma_store", "gemm_bf16_mma_store"),
            Self::StoreF32 => ("gemm_bf16_wgmma_store_f32", "gemm_bf16_mma_store_f32"),
            Self::AddGated => ("gemm_bf16_wgmma_add_gated", "gemm_bf16_mma_add_gated"),
        };
        match family {
            Family::Wgmma => (&kernels::GEMM_BF16_WGMMA, wgmma),
            Family::Mma => (&kernels::GEMM_BF16_MMA, mma),
        }
    }
}

/// Which kernel each end of the product takes.
pub const KERNELS: [OpKernel; 3] = [
    OpKernel { op: "bf16 product", choose: |chip| End::Store.kernel(Family::of(chip)) },
    OpKernel { op: "bf16 product in f32", choose: |chip| End::StoreF32.kernel(Family::of(chip)) },
    OpKernel { op: "bf16 product, gated sum", choose: |chip| End::AddGated.kernel(Family::of(chip)) },
];

/// A row-major bf16 matrix on a device: rows of activations, or a weight `[out, input]`.
#[derive(Debug, Clone, Copy)]
pub struct DeviceMatrix<'a> {
    values: View<'a, bf16>,
    rows: usize,
    width: usize,
}

impl<'a> DeviceMatrix<'a> {
    /// `values [rows, width]`.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is zero or no multiple of 8, [`Error::Length`] when the values do not fit.
    pub fn new(rows: usize, width: usize, values: View<'a, bf16>) -> Result<Self, Error> {
        if width == 0 || !width.is_multiple_of(8) {
            return Err(Error::Size { what: "columns of a bf16 operand", must: "a multiple of 8, at least 8", found: width });
        }
        expect_len("matrix", values.len(), rows.saturating_mul(width))?;
        Ok(Self { values, rows, width })
    }
}

/// The bf16 products of a device.
#[derive(Debug)]
pub struct GemmBf16(Kernels);

/// A kernel for each end.
#[derive(Debug)]
enum Kernels {
    Mma([Kernel<GemmBf16Params>; 3]),
    Wgmma { multiprocessors: u32, ends: [Kernel<GemmBf16WgmmaParams>; 3] },
}

impl GemmBf16 {
    /// Loads the kernels that the chip is to take.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Self::load_with(device, Family::of(device.chip().capability))
    }

    /// Loads the kernels of one family, to compare them where a chip has both.
    ///
    /// # Errors
    /// As [`Kernel::load`]: [`Error::WrongChip`] for [`Family::Wgmma`] on another GPU than 9.0.
    pub fn load_with(device: &Device, family: Family) -> Result<Self, Error> {
        Ok(Self(match family {
            Family::Mma => Kernels::Mma(load_ends(device, family)?),
            Family::Wgmma => Kernels::Wgmma { multiprocessors: device.chip().multiprocessors, ends: load_ends(device, family)? },
        }))
    }

    /// Which family it takes.
    pub fn family(&self) -> Family {
        match self.0 {
            Kernels::Mma(_) => Family::Mma,
            Kernels::Wgmma { .. } => Family::Wgmma,
        }
    }

    /// Queues `out [rows, n] = x . w^T + bias`, and where asked for `row_sums [rows, ceil(n / 128)]`, the sums of the
    /// squares of what is stored over each 128 columns of a row. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when the rows have another width than the weight or the weight has no rows, [`Error::Length`] when
    /// an operand does not fit, and as [`Kernel::launch`].
    pub fn store(
        &self,
        stream: &Stream,
        x: DeviceMatrix<'_>,
        w: DeviceMatrix<'_>,
        bias: Option<View<'_, bf16>>,
        mut out: ViewMut<'_, bf16>,
        mut row_sums: Option<ViewMut<'_, f32>>,
    ) -> Result<(), Error> {
        let mut call = Call::new(x, w, bias)?;
        expect_len("output", out.len(), x.rows.saturating_mul(w.rows))?;
        call.params.out_bf16 = out.address();
        call.operands.push(out.writes("output").aligned(16));
        if let Some(sums) = &mut row_sums {
            expect_len("sums of the rows", sums.len(), x.rows.saturating_mul(w.rows.div_ceil(TILE)))?;
            call.params.row_sums = sums.address();
            call.operands.push(sums.writes("sums of the rows").aligned(4));
        }
        call.run(self, stream, End::Store)
    }

    /// Queues `out [rows, n] = x . w^T + bias`, never rounded to bf16.
    ///
    /// # Errors
    /// As [`GemmBf16::store`].
    pub fn store_f32(
        &self,
        stream: &Stream,
        x: DeviceMatrix<'_>,
        w: DeviceMatrix<'_>,
        bias: Option<View<'_, bf16>>,
        mut out: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        let mut call = Call::new(x, w, bias)?;
        expect_len("output", out.len(), x.rows.saturating_mul(w.rows))?;
        call.params.out_f32 = out.address();
        call.operands.push(out.writes("output").aligned(8));
        call.run(self, stream, End::StoreF32)
    }

    /// Queues `out [rows, n] += gate * (x . w^T + bias)`; row `r` takes row `r / rows_per_gate` of
    /// `gate [ceil(rows / rows_per_gate), n]`.
    ///
    /// # Errors
    /// As [`GemmBf16::store`], and [`Error::Size`] when `rows_per_gate` is zero.
    #[allow(clippy::too_many_arguments, reason = "a stream, the operands of a product, and those of its end")]
    pub fn add_gated(
        &self,
        stream: &Stream,
        x: DeviceMatrix<'_>,
        w: DeviceMatrix<'_>,
        bias: Option<View<'_, bf16>>,
        gate: View<'_, f32>,
        rows_per_gate: usize,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let mut call = Call::new(x, w, bias)?;
        if rows_per_gate == 0 {
            return Err(Error::Size { what: "rows that share a gate", must: "at least 1", found: 0 });
        }
        expect_len("gate", gate.len(), x.rows.div_ceil(rows_per_gate).saturating_mul(w.rows))?;
        expect_len("residual", out.len(), x.rows.saturating_mul(w.rows))?;
        call.params.gate = gate.address();
        call.params.rows_per_gate = rows_per_gate as i64;
        call.params.out_bf16 = out.address();
        call.operands.push(gate.reads("gate").aligned(16));
        call.operands.push(out.updates("residual").aligned(16));
        call.run(self, stream, End::AddGated)
    }
}

fn load_ends<P: Params>(device: &Device, family: Family) -> Result<[Kernel<P>; 3], Error> {
    let [store, store_f32, add_gated] = End::ALL.map(|end| {
        let (file, name) = end.kernel(family);
        Kernel::load(device, file, name)
    });
    Ok([store?, store_f32?, add_gated?])
}

/// A product that is being put together.
struct Call<'a> {
    x: DeviceMatrix<'a>,
    w: DeviceMatrix<'a>,
    params: GemmBf16Params,
    operands: Vec<Operand<'a>>,
}

impl<'a> Call<'a> {
    fn new(x: DeviceMatrix<'a>, w: DeviceMatrix<'a>, bias: Option<View<'a, bf16>>) -> Result<Self, Error> {
        if x.width != w.width {
            return Err(Error::Size { what: "columns of the rows", must: "as many as the weight's", found: x.width });
        }
        if w.rows == 0 {
            return Err(Error::Size { what: "rows of a weight", must: "at least 1", found: 0 });
        }
        let mut operands = vec![x.values.reads("rows").aligned(16), w.values.reads("weight").aligned(16)];
        if let Some(bias) = bias {
            expect_len("bias", bias.len(), w.rows)?;
            operands.push(bias.reads("bias").aligned(4));
        }
        let params = GemmBf16Params {
            x: x.values.address(),
            w: w.values.address(),
            bias: bias.map_or(std::ptr::null(), |bias| bias.address()),
            out_bf16: std::ptr::null_mut(),
            out_f32: std::ptr::null_mut(),
            row_sums: std::ptr::null_mut(),
            gate: std::ptr::null(),
            rows: x.rows as i64,
            columns: w.rows as i64,
            depth: x.width as i64,
            rows_per_gate: 1,
        };
        Ok(Self { x, w, params, operands })
    }

    fn run(self, product: &GemmBf16, stream: &Stream, end: End) -> Result<(), Error> {
        let Self { x, w, params, operands } = self;
        if x.rows == 0 {
            return Ok(());
        }
        match &product.0 {
            Kernels::Mma(ends) => ends[end as usize].launch(stream, grid(x.rows, w.rows)?, &params, &operands),
            Kernels::Wgmma { multiprocessors, ends } => {
                let launch = wgmma::grid(x.rows, w.rows, WGMMA_TILE, *multiprocessors)?;
                let [x_rows, w_rows] = WGMMA_TILE;
                let x = wgmma::operand_map(x.values, x.rows, x.width, x_rows)?;
                let w = wgmma::operand_map(w.values, w.rows, w.width, w_rows)?;
                ends[end as usize].launch(stream, launch, &GemmBf16WgmmaParams { x, w, gemm: params }, &operands)
            }
        }
    }
}

/// The launch on mma.sync for `rows x n` results: a block has one tile.
fn grid(rows: usize, n: usize) -> Result<Launch, Error> {
    Ok(Launch::linear(rows.div_ceil(TILE).saturating_mul(n.div_ceil(TILE)), THREADS)?.with_shared_bytes(SHARED_BYTES))
}

fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Limits;

    #[test]
    fn every_result_has_a_block_and_every_chip_the_stages() {
        for (rows, n, blocks) in [(1, 1, 1), (128, 129, 2), (32_760, 1536, 256 * 12), (75_600, 13_824, 591 * 108)] {
            assert_eq!(grid(rows, n).unwrap().blocks(), blocks, "{rows} x {n}");
        }
        assert!(grid(usize::MAX, 128).is_err());
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            // and the kilobyte of partial sums
            assert!(SHARED_BYTES + 1024 <= Limits::of(capability).shared_bytes, "{capability:?}");
        }
    }
}
