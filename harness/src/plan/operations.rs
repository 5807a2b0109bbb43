//! Operations of a launch, from its kernel's name and the sizes of its operands.
//!
//! Counted are products on tensor cores, a multiplication and an addition being two operations: linear layers, attention over
//! the blocks that it keeps, the linear branch, and convolutions. Everything else moves more bytes than it computes, and f32 products have no
//! ceiling in a data sheet; their time is that of their bytes.

use turbowan_cuda::device::{Touched, Work};

use crate::bench::ceiling::Arithmetic;

/// What the sizes of operands do not tell.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    /// Channels of a row.
    pub dim: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Queries and keys of a block of a block map.
    pub block: [usize; 2],
}

/// Operations, and in which arithmetic; none where a launch has no products on tensor cores.
pub fn of(work: &Work, widths: Widths) -> Option<(u64, Arithmetic)> {
    let Work::Launch { kernel, operands, .. } = work else { return None };
    let bytes = |name: &str| operands.iter().find(|operand: &&Touched| operand.name == name).map(|operand| operand.bytes as f64);
    let Widths { dim, head_dim, block } = widths;
    let low_rank = |values: f64| 2.0 * values * head_dim as f64;
    let (count, arithmetic) = if kernel.starts_with("gemm_bf16") {
        (product(bytes("rows")? / 2.0, bytes("weight")? / 2.0, output(kernel, &bytes)?), Arithmetic::Float)
    } else if kernel.starts_with("gemm_i8") {
        (product(bytes("int8 rows")?, bytes("int8 weight")?, output(kernel, &bytes)?), Arithmetic::Int8)
    } else if let Some((size, arithmetic)) = attention(kernel) {
        let (queries, keys) = (bytes("q")? / size, bytes("k")? / size);
        let scores = match bytes("block map") {
            None => queries * (keys / dim as f64),
            Some(map) => map / 4.0 * (block[0] * block[1] * head_dim) as f64,
        };
        (4.0 * scores + bytes("added q").map_or(0.0, |queries| low_rank(queries / 2.0)), arithmetic)
    } else if kernel.starts_with("conv3d") {
        // each stored channel of a pixel has its own taps
        let (weight, channels) = (bytes("weight")? / 2.0, bytes("bias")? / 2.0);
        (2.0 * weight * bytes("out")? / 2.0 / channels, Arithmetic::Float)
    } else if kernel.starts_with("linear_state") {
        (low_rank(bytes("k")? / 2.0), Arithmetic::Float)
    } else if kernel.starts_with("linear_apply") {
        (low_rank(bytes("q")? / 2.0), Arithmetic::Float)
    } else {
        return None;
    };
    Some((count.round() as u64, arithmetic))
}

/// `2 m n k` from the three matrices' sizes `m k`, `n k` and `m n`.
fn product(rows: f64, weight: f64, out: f64) -> f64 {
    2.0 * (rows * weight * out).sqrt()
}

/// Values that a product leaves, whatever its end makes of them.
fn output(kernel: &str, bytes: &impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let stored = || Some(bytes("output")? / if kernel.contains("store_f32") { 4.0 } else { 2.0 });
    bytes("int8 output").or_else(|| Some(bytes("residual")? / 2.0)).or_else(stored)
}

/// Bytes of a query, and the arithmetic: that of the scores.
fn attention(kernel: &str) -> Option<(f64, Arithmetic)> {
    if kernel.starts_with("attend_fwd") {
        Some((2.0, Arithmetic::Float))
    } else if kernel.starts_with("sage_attn") {
        Some((1.0, Arithmetic::Int8))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_cuda::device::Launch;

    const WIDTHS: Widths = Widths { dim: 1536, head_dim: 128, block: [128, 64] };

    fn launch(kernel: &'static str, operands: &[(&'static str, usize)]) -> Option<(u64, Arithmetic)> {
        let touched = |(name, bytes): &(&'static str, usize)| Touched { name, bytes: *bytes, is_read: true, is_written: false };
        let launch = Launch { grid: [1; 3], block: [1; 3], shared_bytes: 0 };
        of(&Work::Launch { kernel, launch, operands: operands.iter().map(touched).collect() }, WIDTHS)
    }

    #[test]
    fn operations_are_those_of_the_shapes() {
        let (m, n, k) = (32_760, 8960, 1536);
        let want = 2 * (m * n * k) as u64;
        let float = launch("gemm_bf16_mma_store", &[("rows", m * k * 2), ("weight", n * k * 2), ("output", m * n * 2)]);
        assert_eq!(float, Some((want, Arithmetic::Float)));
        let exact = launch("gemm_bf16_wgmma_store_f32", &[("rows", m * k * 2), ("weight", n * k * 2), ("output", m * n * 4)]);
        assert_eq!(exact, Some((want, Arithmetic::Float)));
        let gated = launch("gemm_i8_mma_add_gated_k64", &[("int8 rows", m * k), ("int8 weight", n * k), ("residual", m * n * 2)]);
        assert_eq!(gated, Some((want, Arithmetic::Int8)));
        let hidden = launch("gemm_i8_wgmma_quantise", &[("int8 rows", m * k), ("int8 weight", n * k), ("int8 output", m * n)]);
        assert_eq!(hidden, Some((want, Arithmetic::Int8)));

        let dense = launch("sage_attn_d128", &[("q", m * k), ("k", m * k), ("values", m * k)]);
        assert_eq!(dense, Some((4 * (m * m * k) as u64, Arithmetic::Int8)));
        let cross = launch("attend_fwd_d128", &[("q", m * k * 2), ("k", 512 * k * 2), ("v", 512 * k * 2)]);
        assert_eq!(cross, Some((4 * (m * 512 * k) as u64, Arithmetic::Float)));
        // 12 heads of 256 query blocks that keep 51 of 512 key blocks each
        let sparse =
            launch("sage_attn_fp8_d128_end", &[("q", m * k), ("k", m * k), ("block map", 12 * 256 * 51 * 4), ("added q", m * k * 2)]);
        let (scores, term) = (4 * 12 * 256 * 51 * 128 * 64 * 128, 2 * m * k * 128);
        assert_eq!(sparse, Some(((scores + term) as u64, Arithmetic::Int8)));
        let (pixels, taps) = (480 * 832, 27 * 96);
        let convolution = launch("conv3d_wgmma", &[("weight", 96 * taps * 2), ("bias", 96 * 2), ("out", pixels * 96 * 2)]);
        assert_eq!(convolution, Some((2 * (pixels * 96 * taps) as u64, Arithmetic::Float)));
        assert_eq!(launch("rms_rope", &[("x", m * k * 2)]), None);
        assert_eq!(launch("gemm_bf16_mma_store", &[("rows", 8)]), None, "an operand under another name is no operation");
    }

    #[test]
    fn every_kernel_with_products_is_counted() {
        let tables: [&[turbowan_cuda::device::OpKernel]; 5] = [
            &turbowan_cuda::ops::conv3d::device::KERNELS,
            &turbowan_cuda::ops::gemm::device::KERNELS,
            &turbowan_cuda::ops::gemm_int8::device::KERNELS,
            &turbowan_sage::device::KERNELS,
            &turbowan_sla::device::attend::KERNELS,
        ];
        let products = ["gemm_bf16", "gemm_i8", "conv3d"];
        let counted = |name: &str| products.iter().any(|prefix| name.starts_with(prefix)) || attention(name).is_some();
        for chip in [(8, 0), (8, 9), (9, 0), (12, 0)] {
            for op in tables
                .iter()
                .flat_map(|table| table.iter())
                .filter(|op| ["product", "attention", "convolution"].iter().any(|word| op.op.contains(word)))
            {
                let (_, name) = (op.choose)(chip);
                assert!(counted(name), "{name} of {}", op.op);
            }
        }
    }
}
