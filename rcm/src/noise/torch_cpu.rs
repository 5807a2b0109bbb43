//! `torch.randn(n, generator=torch.Generator("cpu"))` in f32, value by value.
//!
//! - 16 values or more: every value is first a uniform `(word mod 2^24) / 2^24`; then each group of 16 becomes normals by
//!   Box-Muller, uniform `j` (as `1 - u`) giving the radius and uniform `j + 8` the angle of normals `j` (cosine) and `j + 8` (sine).
//!   When the count is no multiple of 16, the last 16 values are drawn again, from new uniforms.
//! - Fewer than 16: pairs in f64, `r = sqrt(-2 ln(1 - u2))`, `angle = 2 pi u1`; the sine waits in the generator for the next such value,
//!   also across draws.
//!
//! torch's logarithm, sine and cosine are the Cephes polynomials in eight f32 lanes, compiled with fused multiply-adds
//! (`ATen/native/cpu/avx_mathfun.h`, AVX2 with FMA: also what a machine with AVX-512 runs). The order of operations and the
//! places of the fused ones below are those of the released x86-64 wheels; a torch without AVX2 (another processor) differs in
//! the last bits.

use super::mt19937::Mt19937;

const GROUP: usize = 16;
const HALF: usize = GROUP / 2;

/// The state of a CPU generator.
#[derive(Debug, Clone)]
pub(super) struct TorchCpu {
    engine: Mt19937,
    waiting: Option<f64>,
}

impl TorchCpu {
    /// `torch.Generator("cpu").manual_seed(seed)`; the engine takes the seed's low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt19937::new(seed as u32), waiting: None }
    }

    /// One `torch.randn` of `values.len()` values.
    pub fn fill(&mut self, values: &mut [f32]) {
        if values.len() < GROUP {
            values.iter_mut().for_each(|value| *value = self.single() as f32);
            return;
        }
        values.iter_mut().for_each(|value| *value = self.uniform());
        let (groups, tail) = values.as_chunks_mut::<GROUP>();
        groups.iter_mut().for_each(normal_group);
        if !tail.is_empty() {
            let mut last = [0.0; GROUP];
            last.iter_mut().for_each(|value| *value = self.uniform());
            normal_group(&mut last);
            let start = values.len() - GROUP;
            values[start..].copy_from_slice(&last);
        }
    }

    /// Moves on as if `count` values had been drawn at once.
    pub fn skip(&mut self, count: usize) {
        if count < GROUP {
            for _ in 0..count {
                self.single();
            }
            return;
        }
        let words = count + if count.is_multiple_of(GROUP) { 0 } else { GROUP };
        for _ in 0..words {
            self.engine.word();
        }
    }

    fn uniform(&mut self) -> f32 {
        (self.engine.word() & 0x00FF_FFFF) as f32 * (1.0 / 16_777_216.0)
    }

    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.engine.word());
        let bits = (high << 32 | u64::from(self.engine.word())) & ((1 << 53) - 1);
        bits as f64 * (1.0 / (1u64 << 53) as f64)
    }

    fn single(&mut self) -> f64 {
        if let Some(normal) = self.waiting.take() {
            return normal;
        }
        let u1 = self.uniform_f64();
        let u2 = self.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * u1).sin_cos();
        self.waiting = Some(radius * sin);
        radius * cos
    }
}

/// Turns 16 uniforms into 16 normals.
fn normal_group(values: &mut [f32; GROUP]) {
    for lane in 0..HALF {
        let radius = (-2.0 * ln(1.0 - values[lane])).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * values[lane + HALF]);
        // torch multiplies by the deviation 1 and adds the mean 0: that turns -0 into 0.
        values[lane] = radius * cos + 0.0;
        values[lane + HALF] = radius * sin + 0.0;
    }
}

/// Horner's rule with fused steps, highest power first.
fn horner(x: f32, coefficients: &[f32]) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |sum, coefficient| sum.mul_add(x, *coefficient))
}

/// Cephes `logf` for `x` in `(0, 1]`.
fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        0.116_769_984,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        0.200_007_14,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LN_2_HIGH: f32 = 0.693_359_4;
    let bits = x.to_bits();
    let mut e = ((bits >> 23) as i32 - 127) as f32 + 1.0;
    let mut x = f32::from_bits((bits & 0x807F_FFFF) | 0x3F00_0000);
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        x = (x - 1.0) + x;
    } else {
        x -= 1.0;
    }
    let z = x * x;
    let y = horner(x, &P) * x;
    let y = y.mul_add(z, e * LN_2_LOW);
    let y = z.mul_add(-0.5, y);
    e.mul_add(LN_2_HIGH, x + y)
}

/// Cephes `sinf` and `cosf` for an angle in `[0, 2 pi]`.
fn sin_cos(angle: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 1.273_239_5;
    // pi/4 in three parts, so that a multiple of it can be taken off an angle without loss.
    const PI_4: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
    const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
    const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    let octant = ((angle * FOUR_OVER_PI) as u32 + 1) & !1;
    let y = octant as f32;
    let x = PI_4.iter().fold(angle, |x, part| y.mul_add(*part, x));
    let z = x * x;
    let c = horner(z, &COS) * z;
    let cos = c.mul_add(z, -(z * 0.5)) + 1.0;
    let s = horner(z, &SIN) * z;
    let sin = s.mul_add(x, x);
    // Octants 0, 2, 4, 6 (mod 8) are quarter turns: each swaps the two and may change a sign.
    match octant & 7 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}
