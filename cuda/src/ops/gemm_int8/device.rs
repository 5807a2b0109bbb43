//! The int8 product on a device: `kernels/gemm_i8_wgmma.cu` on 9.0, `kernels/gemm_i8_mma.cu` elsewhere, to the same bits.
//!
//! The sums have the bits of the host twin, and what follows them rounds as the host does with [`crate::Rounding::Bf16`]:
//! the product, `product + bias`, the activation or the product with the gate, and the sum with the residual.

use half::bf16;

use crate::Error;
use crate::device::params::{GemmI8Params, GemmI8WgmmaParams};
use crate::device::{Device, Kernel, KernelFile, Launch, Limits, OpKernel, Operand, Params, Stream, View, ViewMut};
use crate::kernels;
use crate::ops::gemm::{Family, wgmma};
use crate::ops::quant::{BLOCK, Int8Rule, check_out, check_width, padded};

/// Threads of a block on mma.sync.
const THREADS: u32 = 256;

/// Rows and columns of a block's tile on mma.sync; columns whose squares are summed, on either.
const TILE: usize = 128;

/// Rows and columns of a tile on wgmma.
const WGMMA_TILE: [usize; 2] = [256, 128];

/// The stages through which a block's operands pass shared memory: how deep one is, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stages {
    depth: u32,
    count: u32,
}

impl Stages {
    const DEEP: Self = Self { depth: 128, count: 4 };
    const SHALLOW: Self = Self { depth: 64, count: 4 };

    /// The deep ones where a block may have their 128 KiB and its kilobyte of partial sums.
    fn of(capability: (u32, u32)) -> Self {
        if Self::DEEP.shared_bytes() + 1024 <= Limits::of(capability).shared_bytes { Self::DEEP } else { Self::SHALLOW }
    }

    /// Dynamic shared memory: a tile of both operands for every stage.
    const fn shared_bytes(self) -> u32 {
        self.count * 2 * TILE as u32 * self.depth
    }
}

/// What follows the sum; each end is a kernel.
#[derive(Debug, Clone, Copy)]
enum End {
    Store,
    StoreF32,
    Quantise,
    AddGated,
}

impl End {
    const ALL: [Self; 4] = [Self::Store, Self::StoreF32, Self::Quantise, Self::AddGated];

    fn kernel(self, family: Family, capability: (u32, u32)) -> (&'static KernelFile, &'static str) {
        let (wgmma, deep, shallow) = match self {
            Self::Store => ("gemm_i8_wgmma_store", "gemm_i8_mma_store_k128", "gemm_i8_mma_store_k64"),
            Self::StoreF32 => ("gemm_i8_wgmma_store_f32", "gemm_i8_mma_store_f32_k128", "gemm_i8_mma_store_f32_k64"),
            Self::Quantise => ("gemm_i8_wgmma_quantise", "gemm_i8_mma_quantise_k128", "gemm_i8_mma_quantise_k64"),
            Self::AddGated => ("gemm_i8_wgmma_add_gated", "gemm_i8_mma_add_gated_k128", "gemm_i8_mma_add_gated_k64"),
        };
        match family {
            Family::Wgmma => (&kernels::GEMM_I8_WGMMA, wgmma),
            Family::Mma => (&kernels::GEMM_I8_MMA, if Stages::of(capability) == Stages::DEEP { deep } else { shallow }),
        }
    }
}

/// Which kernel each end of the product takes.
pub const KERNELS: [OpKernel; 4] = [
    OpKernel { op: "int8 product", choose: |chip| End::Store.kernel(Family::of(chip), chip) },
    OpKernel { op: "int8 product in f32", choose: |chip| End::StoreF32.kernel(Family::of(chip), chip) },
    OpKernel { op: "int8 product, GELU, quantise 1 x 128", choose: |chip| End::Quantise.kernel(Family::of(chip), chip) },
    OpKernel { op: "int8 product, gated sum", choose: |chip| End::AddGated.kernel(Family::of(chip), chip) },
];

/// Int8 rows on a device, as [`crate::ops::quant::Int8Rows`] has them on the host.
#[derive(Debug, Clone, Copy)]
pub struct DeviceRows<'a> {
    values: View<'a, i8>,
    scales: View<'a, f32>,
    rule: Int8Rule,
    rows: usize,
    width: usize,
}

impl<'a> DeviceRows<'a> {
    /// `values [rows, padded(width)]`, zeros past `width` ([`padded`]), with `scales [ceil(rows / rule.block_rows()),
    /// ceil(width / 128)]`. The zeros are the caller's promise: the quantisers write them, and
    /// [`crate::ops::quant::padded_rows`] makes them.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is zero, [`Error::Length`] when values or scales do not fit.
    pub fn new(rule: Int8Rule, rows: usize, width: usize, values: View<'a, i8>, scales: View<'a, f32>) -> Result<Self, Error> {
        check_width(width)?;
        expect_len("int8 rows", values.len(), rows.saturating_mul(padded(width)))?;
        expect_len("scales of the rows", scales.len(), rows.div_ceil(rule.block_rows()).saturating_mul(width.div_ceil(BLOCK)))?;
        Ok(Self { values, scales, rule, rows, width })
    }
}

/// An int8 weight on a device, as [`crate::ops::quant::QuantizedWeight`] has it on the host.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWeight<'a>(DeviceRows<'a>);

impl<'a> DeviceWeight<'a> {
    /// `values [out, padded(input)]`, zeros past `input`, with `scales [ceil(out / 128), ceil(input / 128)]`.
    ///
    /// # Errors
    /// As [`DeviceRows::new`], and [`Error::Size`] when `out` is zero.
    pub fn new(out: usize, input: usize, values: View<'a, i8>, scales: View<'a, f32>) -> Result<Self, Error> {
        check_out(out)?;
        DeviceRows::new(Int8Rule::Official, out, input, values, scales).map(Self)
    }
}

/// The int8 products of a device.
#[derive(Debug)]
pub struct GemmInt8(Kernels);

/// A kernel for each end.
#[derive(Debug)]
enum Kernels {
    Mma { stages: Stages, ends: [Kernel<GemmI8Params>; 4] },
    Wgmma { multiprocessors: u32, ends: [Kernel<GemmI8WgmmaParams>; 4] },
}

impl GemmInt8 {
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
        let chip = device.chip();
        Ok(Self(match family {
            Family::Mma => {
                Kernels::Mma { stages: Stages::of(chip.capability), ends: load_ends(|end| end.kernel(family, chip.capability), device)? }
            }
            Family::Wgmma => Kernels::Wgmma {
                multiprocessors: chip.multiprocessors,
                ends: load_ends(|end| end.kernel(family, chip.capability), device)?,
            },
        }))
    }

    /// Which family it takes.
    pub fn family(&self) -> Family {
        match self.0 {
            Kernels::Mma { .. } => Family::Mma,
            Kernels::Wgmma { .. } => Family::Wgmma,
        }
    }

    /// Queues `out [rows, n] = a . w^T + bias`, and where asked for `row_sums [rows, ceil(n / 128)]`, the sums of the
    /// squares of what is stored over each 128 columns of a row. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when the rows have another width than the weight, [`Error::Length`] when an operand does not fit,
    /// and as [`Kernel::launch`].
    pub fn store(
        &self,
        stream: &Stream,
        a: DeviceRows<'_>,
        w: DeviceWeight<'_>,
        bias: Option<View<'_, bf16>>,
        mut out: ViewMut<'_, bf16>,
        mut row_sums: Option<ViewMut<'_, f32>>,
    ) -> Result<(), Error> {
        let mut call = Call::new(a, w, bias)?;
        let (rows, n) = call.shape();
        expect_len("output", out.len(), rows.saturating_mul(n))?;
        call.params.out_bf16 = out.address();
        call.operands.push(out.writes("output").aligned(16));
        if let Some(sums) = &mut row_sums {
            expect_len("sums of the rows", sums.len(), rows.saturating_mul(n.div_ceil(TILE)))?;
            call.params.row_sums = sums.address();
            call.operands.push(sums.writes("sums of the rows").aligned(4));
        }
        call.run(self, stream, End::Store)
    }

    /// Queues `out [rows, n] = a . w^T + bias`, never rounded to bf16.
    ///
    /// # Errors
    /// As [`GemmInt8::store`].
    pub fn store_f32(
        &self,
        stream: &Stream,
        a: DeviceRows<'_>,
        w: DeviceWeight<'_>,
        bias: Option<View<'_, bf16>>,
        mut out: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        let mut call = Call::new(a, w, bias)?;
        let (rows, n) = call.shape();
        expect_len("output", out.len(), rows.saturating_mul(n))?;
        call.params.out_f32 = out.address();
        call.operands.push(out.writes("output").aligned(8));
        call.run(self, stream, End::StoreF32)
    }

    /// Queues `gelu(a . w^T + bias)`, the tanh form, quantised by [`Int8Rule::PerToken`] to `values [rows, padded(n)]`,
    /// zeros past `n`, and `scales [rows, ceil(n / 128)]`: the rows of the next product.
    ///
    /// # Errors
    /// As [`GemmInt8::store`].
    pub fn gelu_quantise(
        &self,
        stream: &Stream,
        a: DeviceRows<'_>,
        w: DeviceWeight<'_>,
        bias: Option<View<'_, bf16>>,
        mut values: ViewMut<'_, i8>,
        mut scales: ViewMut<'_, f32>,
    ) -> Result<(), Error> {
        let mut call = Call::new(a, w, bias)?;
        let (rows, n) = call.shape();
        expect_len("int8 output", values.len(), rows.saturating_mul(padded(n)))?;
        expect_len("scales of the output", scales.len(), rows.saturating_mul(n.div_ceil(BLOCK)))?;
        call.params.out_values = values.address();
        call.params.out_scales = scales.address();
        call.operands.push(values.writes("int8 output").aligned(16));
        call.operands.push(scales.writes("scales of the output").aligned(4));
        call.run(self, stream, End::Quantise)
    }

    /// Queues `x [rows, n] += gate * (a . w^T + bias)`; row `r` takes row `r / rows_per_gate` of
    /// `gate [ceil(rows / rows_per_gate), n]`.
    ///
    /// # Errors
    /// As [`GemmInt8::store`], and [`Error::Size`] when `rows_per_gate` is zero.
    #[allow(clippy::too_many_arguments, reason = "a stream, the operands of a product, and those of its end")]
    pub fn add_gated(
        &self,
        stream: &Stream,
        a: DeviceRows<'_>,
        w: DeviceWeight<'_>,
        bias: Option<View<'_, bf16>>,
        gate: View<'_, f32>,
        rows_per_gate: usize,
        mut x: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let mut call = Call::new(a, w, bias)?;
        let (rows, n) = call.shape();
        if rows_per_gate == 0 {
            return Err(Error::Size { what: "rows that share a gate", must: "at least 1", found: 0 });
        }
        expect_len("gate", gate.len(), rows.div_ceil(rows_per_gate).saturating_mul(n))?;
        expect_len("residual", x.len(), rows.saturating_mul(n))?;
        call.params.gate = gate.address();
        call.params.rows_per_gate = rows_per_gate as i64;
        call.params.out_bf16 = x.address();
        call.operands.push(gate.reads("gate").aligned(16));
        call.operands.push(x.updates("residual").aligned(16));
        call.run(self, stream, End::AddGated)
    }
}

fn load_ends<P: Params>(kernel: impl Fn(End) -> (&'static KernelFile, &'static str), device: &Device) -> Result<[Kernel<P>; 4], Error> {
    let [store, store_f32, quantise, add_gated] = End::ALL.map(|end| {
        let (file, name) = kernel(end);
        Kernel::load(device, file, name)
    });
    Ok([store?, store_f32?, quantise?, add_gated?])
}

/// A product that is being put together.
struct Call<'a> {
    a: View<'a, i8>,
    w: View<'a, i8>,
    params: GemmI8Params,
    operands: Vec<Operand<'a>>,
}

impl<'a> Call<'a> {
    fn new(a: DeviceRows<'a>, DeviceWeight(w): DeviceWeight<'a>, bias: Option<View<'a, bf16>>) -> Result<Self, Error> {
        if a.width != w.width {
            return Err(Error::Size { what: "columns of the int8 rows", must: "as many as the weight's input", found: a.width });
        }
        let mut operands = vec![
            a.values.reads("int8 rows").aligned(16),
            a.scales.reads("scales of the rows").aligned(4),
            w.values.reads("int8 weight").aligned(16),
            w.scales.reads("scales of the weight").aligned(4),
        ];
        if let Some(bias) = bias {
            expect_len("bias", bias.len(), w.rows)?;
            operands.push(bias.reads("bias").aligned(4));
        }
        let params = GemmI8Params {
            a: a.values.address(),
            a_scales: a.scales.address(),
            w: w.values.address(),
            w_scales: w.scales.address(),
            bias: bias.map_or(std::ptr::null(), |bias| bias.address()),
            out_bf16: std::ptr::null_mut(),
            out_f32: std::ptr::null_mut(),
            row_sums: std::ptr::null_mut(),
            out_values: std::ptr::null_mut(),
            out_scales: std::ptr::null_mut(),
            gate: std::ptr::null(),
            rows: a.rows as i64,
            columns: w.rows as i64,
            depth: padded(a.width) as i64,
            a_block_rows: a.rule.block_rows() as i64,
            rows_per_gate: 1,
        };
        Ok(Self { a: a.values, w: w.values, params, operands })
    }

    /// Rows and columns of the product.
    fn shape(&self) -> (usize, usize) {
        (self.params.rows as usize, self.params.columns as usize)
    }

    fn run(self, product: &GemmInt8, stream: &Stream, end: End) -> Result<(), Error> {
        let (rows, n) = self.shape();
        if rows == 0 {
            return Ok(());
        }
        match &product.0 {
            Kernels::Mma { stages, ends } => ends[end as usize].launch(stream, grid(rows, n, *stages)?, &self.params, &self.operands),
            Kernels::Wgmma { multiprocessors, ends } => {
                let launch = wgmma::grid(rows, n, WGMMA_TILE, *multiprocessors)?;
                let (depth, [a_rows, w_rows]) = (self.params.depth as usize, WGMMA_TILE);
                let a = wgmma::operand_map(self.a, rows, depth, a_rows)?;
                let w = wgmma::operand_map(self.w, n, depth, w_rows)?;
                ends[end as usize].launch(stream, launch, &GemmI8WgmmaParams { a, w, gemm: self.params }, &self.operands)
            }
        }
    }
}

/// The launch on mma.sync for `rows x n` results: a block has one tile.
fn grid(rows: usize, n: usize, stages: Stages) -> Result<Launch, Error> {
    let tiles = rows.div_ceil(TILE).saturating_mul(n.div_ceil(TILE));
    Ok(Launch::linear(tiles, THREADS)?.with_shared_bytes(stages.shared_bytes()))
}

fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chip_has_stages_that_fit_it() {
        for (capability, stages) in [
            ((8, 0), Stages::DEEP),
            ((8, 6), Stages::SHALLOW),
            ((8, 9), Stages::SHALLOW),
            ((9, 0), Stages::DEEP),
            ((10, 0), Stages::DEEP),
            ((12, 0), Stages::SHALLOW),
        ] {
            assert_eq!(Stages::of(capability), stages, "{capability:?}");
            assert!(stages.shared_bytes() + 1024 <= Limits::of(capability).shared_bytes);
        }
        assert_eq!([Stages::DEEP, Stages::SHALLOW].map(Stages::shared_bytes), [128 << 10, 64 << 10]);
        assert_eq!((KERNELS[0].choose)((8, 9)).1, "gemm_i8_mma_store_k64");
        assert_eq!((KERNELS[3].choose)((9, 0)).1, "gemm_i8_wgmma_add_gated");
        assert_eq!(End::AddGated.kernel(Family::Mma, (9, 0)).1, "gemm_i8_mma_add_gated_k128");
    }

    #[test]
    fn every_result_has_a_block() {
        for (rows, n, blocks) in [(1, 1, 1), (128, 128, 1), (129, 128, 2), (32_760, 1536, 256 * 12), (75_600, 13_824, 591 * 108)] {
            let launch = grid(rows, n, Stages::DEEP).unwrap();
            assert_eq!((launch.blocks(), launch.threads(), launch.shared_bytes), (blocks, 256, 131_072), "{rows} x {n}");
        }
        assert!(grid(usize::MAX, 128, Stages::DEEP).is_err());
    }
}
