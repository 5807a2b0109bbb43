//! Decoded frames against recorded ones.

use turbowan_cuda::Rounding;

use super::Rows;

/// Frames of a bf16 run: the fixture allows latents 5% apart, which is 26 dB of the latent's own power; the decoder
/// carries about that to pixels.
const BF16_PSNR: f64 = 26.0;

/// f32: at most one level on a share of 0.001; bf16: the PSNR that a latent within its bound gives.
pub(super) fn compare(rows: &mut Rows, name: &str, rounding: Rounding, got: &[u8], want: &[u8]) {
    if rounding == Rounding::None {
        let wide = |values: &[u8]| values.iter().map(|value| i64::from(*value)).collect::<Vec<_>>();
        rows.integers(name, &wide(got), &wide(want), 1e-3);
    }
    if got.len() != want.len() {
        return rows.fact(name, false, format!("{} bytes where the fixture has {}", got.len(), want.len()));
    }
    let squares: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - f64::from(*w)).powi(2)).sum();
    let psnr = if squares == 0.0 { f64::INFINITY } else { 10.0 * (255f64.powi(2) * got.len() as f64 / squares).log10() };
    let least = if rounding == Rounding::None { 45.0 } else { BF16_PSNR };
    rows.fact(format!("{name} PSNR"), psnr >= least, format!("{psnr:.1} dB (at least {least})"));
}

/// Two pictures of `height` rows as one, as the official script shows samples.
pub(super) fn beside(left: &[u8], right: &[u8], height: usize) -> Vec<u8> {
    let rows = left.chunks(left.len() / height).zip(right.chunks(right.len() / height));
    rows.flat_map(|(left, right)| left.iter().chain(right).copied()).collect()
}
