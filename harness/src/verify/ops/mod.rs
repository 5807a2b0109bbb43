//! The operations, a family a file. To add one, write a file like `quant.rs` and give it a line in [`ALL`]:
//!
//! - `OPS`: name, formula, axes (the numbers of a shape), cases, and the kernels that a chip takes, from the launcher's own
//!   `KERNELS`; the emulator then stands for each chip that takes others.
//! - `prepare` draws the inputs of a case and works out their truth with the oracle.
//! - `host` runs the twin, `device` uploads, launches through [`super::Stand::launch`] and reads back: repeated, side by side
//!   and recorded runs need no more. With operands behind [`super::Stand::lead`] rows, `far` puts them past 2^31.
//! - `hold` compares results with their truth, each with a bound and the reason for it.

mod activation;
mod attention;
mod block_select;
mod conv3d;
mod convolve;
#[cfg(test)]
mod coverage;
mod elementwise;
mod gather;
mod gemm_bf16;
mod gemm_int8;
mod linear_f32;
mod modulation;
mod norm;
mod quant;
mod rope;
mod sage;
mod sage_end;
mod sage_means;
mod sage_problem;
mod sage_qk_prep;
mod sage_quantise;
mod sage_values;
mod sla;
mod text;
mod text_attention;
mod vae;
mod vae_attention;

use half::bf16;

use super::{Held, Op, Output};

/// Every operation, in the order of the table.
pub const ALL: &[&[Op]] = &[
    &quant::OPS,
    &norm::OPS,
    &rope::OPS,
    &gemm_int8::OPS,
    &gemm_bf16::OPS,
    &sage_means::OPS,
    &sage_quantise::OPS,
    &sage_values::OPS,
    &sage_qk_prep::OPS,
    &sage::OPS,
    &sage_end::OPS,
    &block_select::OPS,
    &sla::attention::OPS,
    &sla::attention_backward::OPS,
    &sla::inverse_map::OPS,
    &sla::linear::OPS,
    &sla::linear_fold::OPS,
    &sla::linear_backward::OPS,
    &sla::sparse_linear::OPS,
    &conv3d::OPS,
    &vae::OPS,
    &vae_attention::OPS,
    &text::OPS,
    &text_attention::OPS,
    &elementwise::OPS,
    &gather::OPS,
    &activation::OPS,
    &modulation::OPS,
    &linear_f32::OPS,
];

/// Every operation whose name contains `part`; all without one.
pub fn named(part: Option<&str>) -> Vec<Op> {
    let ops = ALL.iter().copied().flatten().copied();
    ops.filter(|op| part.is_none_or(|part| op.name.contains(part))).collect()
}

/// The operation of just this name.
pub fn exactly(name: &str) -> Option<Op> {
    ALL.iter().copied().flatten().copied().find(|op| op.name == name)
}

/// Rows of 128 values before a case whose offsets lie past 2^31.
const FAR_ROWS: usize = (1 << 31) / 128;

/// Half a unit in the last of bf16's eight bits: what one rounding moves a value by, at most, as a share of it.
const HALF_STEP: f64 = 1.0 / 256.0;

/// The nearest bf16 values, and the same in f32.
fn bf16s(values: &[f32]) -> (Vec<bf16>, Vec<f32>) {
    let narrow: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    let wide = narrow.iter().map(|value| value.to_f32()).collect();
    (narrow, wide)
}

/// Holds the sums of the squares of each 128 values of a row to those of the rows that were stored.
fn square_sums(rows: &Output, sums: &Output) -> Held {
    let squares = |part: &[f64]| part.iter().map(|value| value * value).sum::<f64>();
    let want: Vec<f64> = rows.values.chunks(rows.width.max(1)).flat_map(|row| row.chunks(128).map(squares)).collect();
    Held::each(sums, &want, |_, want| 24.0 * 6e-8 * want, "24 x 2^-24 of it", "at most 24 roundings on the way of a term")
}
