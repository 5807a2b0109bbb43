//! Seeded test inputs, the same bytes on every machine.

/// A counter-based generator (SplitMix64): value `n` of seed `s` needs no history.
#[derive(Debug, Clone)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03 }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..bound`; `bound` must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// Standard normal (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Character of an input: each kind has broken a kernel somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Standard normal.
    Plain,
    /// Standard normal with every 37th channel (from channel 3) 20 times larger: what Wan's keys look like.
    OutlierChannel,
    /// Standard normal plus a constant 5 on every channel: what smooth-K removes.
    Biased,
    /// One value everywhere.
    Constant,
    /// All zero.
    Zero,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Plain, Self::OutlierChannel, Self::Biased, Self::Constant, Self::Zero];
}

/// `rows * width` values of a kind, row-major.
pub fn rows(kind: Kind, rows: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut random = Seeded::new(seed);
    (0..rows * width)
        .map(|index| match kind {
            Kind::Plain => random.normal() as f32,
            Kind::OutlierChannel => random.normal() as f32 * if (index % width) % 37 == 3 { 20.0 } else { 1.0 },
            Kind::Biased => random.normal() as f32 + 5.0,
            Kind::Constant => 0.75,
            Kind::Zero => 0.0,
        })
        .collect()
}

/// `rows * width` standard normal values.
pub fn normal(count: usize, seed: u64) -> Vec<f32> {
    rows(Kind::Plain, 1, count, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_values_and_another_seed_others() {
        assert_eq!(normal(64, 7), normal(64, 7));
        assert_ne!(normal(64, 7), normal(64, 8));
    }

    #[test]
    fn normal_values_have_mean_zero_and_variance_one() {
        let values = normal(100_000, 3);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }
}
