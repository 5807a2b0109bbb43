//! Tensor maps among a kernel's parameters: what a launch makes of the memory that they point into.

use turbowan_cuda::device::params::{GemmI8Params, GemmI8WgmmaParams};
use turbowan_cuda::device::{Buffer, EmulatorOptions, Kernel, Launch, Operand, Stream, Swizzle, TensorMap, Tiling};
use turbowan_cuda::{Error, kernels};

use crate::{emulated, gpu};

const ROWS: usize = 128;
const DEPTH: usize = 128;
const LAUNCH: Launch = Launch { grid: [1, 1, 1], block: [384, 1, 1], shared_bytes: 231_520 };

/// A product of one tile whose operands are all ones.
struct Product {
    stream: Stream,
    kernel: Kernel<GemmI8WgmmaParams>,
    a: Buffer<i8>,
    w: Buffer<i8>,
    scales: Buffer<f32>,
    out: Buffer<f32>,
}

impl Product {
    /// On the emulator as 9.0, and on such a GPU.
    fn all() -> Vec<Self> {
        let hopper = emulated(&[EmulatorOptions::default().for_capability((9, 0))]);
        let devices = hopper.into_iter().chain(gpu().filter(|gpu| gpu.chip().capability == (9, 0)));
        let of = |device| {
            let stream = turbowan_cuda::device::Device::stream(&device).unwrap();
            let kernel = Kernel::load(&device, &kernels::GEMM_I8_WGMMA, "gemm_i8_wgmma_store_f32").unwrap();
            let ones = || stream.upload(&[1i8; ROWS * DEPTH]).unwrap();
            let (a, w, scales, out) = (ones(), ones(), stream.upload(&[1.0; ROWS]).unwrap(), stream.allocate(ROWS * ROWS).unwrap());
            Self { stream, kernel, a, w, scales, out }
        };
        devices.map(of).collect()
    }

    fn params(&mut self) -> GemmI8WgmmaParams {
        let map = |buffer: &Buffer<i8>, rows| {
            let tile = [rows, DEPTH];
            let tiling = Tiling { shape: &[ROWS, DEPTH], strides: &[DEPTH], tile: &tile, swizzle: Swizzle::Bytes128 };
            TensorMap::new(buffer.view(), &tiling).unwrap()
        };
        let gemm = GemmI8Params {
            a: self.a.view().address(),
            a_scales: self.scales.view().address(),
            w: self.w.view().address(),
            w_scales: self.scales.view().address(),
            bias: std::ptr::null(),
            out_bf16: std::ptr::null_mut(),
            out_f32: self.out.view_mut().address(),
            row_sums: std::ptr::null_mut(),
            out_values: std::ptr::null_mut(),
            out_scales: std::ptr::null_mut(),
            gate: std::ptr::null(),
            rows: ROWS as i64,
            columns: ROWS as i64,
            depth: DEPTH as i64,
            a_block_rows: 1,
            rows_per_gate: 1,
        };
        GemmI8WgmmaParams { a: map(&self.a, 256), w: map(&self.w, 128), gemm }
    }

    /// Launches with so many values of `a` among the operands.
    fn launch(&mut self, params: &GemmI8WgmmaParams, values_of_a: usize) -> Result<(), Error> {
        let Self { stream, kernel, a, w, scales, out } = self;
        let mut out = out.view_mut();
        let a = a.view().slice(0..values_of_a)?;
        let operands: [Operand<'_>; 4] = [a.reads("a"), w.view().reads("w"), scales.view().reads("scales"), out.writes("out")];
        kernel.launch(stream, LAUNCH, params, &operands)
    }
}

#[test]
fn a_map_in_the_parameters_must_point_into_an_operand() {
    for mut product in Product::all() {
        let params = product.params();
        product.launch(&params, ROWS * DEPTH).unwrap();
        assert_eq!(product.out.to_vec().unwrap(), [DEPTH as f32; ROWS * ROWS]);

        // the matrix ends behind its operand
        let short = product.launch(&params, ROWS * DEPTH - 1);
        assert!(matches!(short, Err(Error::StrayPointer { parameter: "a", .. })), "{short:?}");

        // the map is of memory that is no operand, though all pointers are right
        let other = product.stream.upload(&[1i8; ROWS * DEPTH]).unwrap();
        let tiling = Tiling { shape: &[ROWS, DEPTH], strides: &[DEPTH], tile: &[128, DEPTH], swizzle: Swizzle::Bytes128 };
        let params = GemmI8WgmmaParams { w: TensorMap::new(other.view(), &tiling).unwrap(), ..params };
        let stray = product.launch(&params, ROWS * DEPTH);
        assert!(matches!(stray, Err(Error::StrayPointer { parameter: "w", .. })), "{stray:?}");
    }
}

#[test]
fn a_matrix_that_the_engine_cannot_address_is_refused() {
    for product in Product::all() {
        let tiling = Tiling { shape: &[2, 128], strides: &[128], tile: &[2, 128], swizzle: Swizzle::Bytes128 };
        let misaligned = TensorMap::new(product.a.view().slice(8..ROWS).unwrap(), &tiling);
        assert!(matches!(misaligned, Err(Error::Misaligned { needed: 16, found: 8, .. })), "{misaligned:?}");
        let short = TensorMap::new(product.a.view().slice(0..255).unwrap(), &tiling);
        assert!(matches!(short, Err(Error::Length { expected: 256, found: 255, .. })), "{short:?}");
    }
}

/// The emulator holds a tile to the bytes that the kernel expects of it.
#[test]
fn a_map_of_other_tiles_is_a_fault() {
    for mut product in Product::all().into_iter().filter(|product| product.stream.device().is_emulated()) {
        let tiling = Tiling { shape: &[ROWS, DEPTH], strides: &[DEPTH], tile: &[128, DEPTH], swizzle: Swizzle::Bytes128 };
        let params = GemmI8WgmmaParams { a: TensorMap::new(product.a.view(), &tiling).unwrap(), ..product.params() };
        let fault = product.launch(&params, ROWS * DEPTH);
        let Err(Error::Emulator { message, .. }) = fault else { panic!("{fault:?}") };
        assert!(message.contains("bytes missing"), "{message}");
    }
}
