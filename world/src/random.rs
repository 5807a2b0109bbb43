//! The one source of chance: SplitMix64, integer arithmetic alone, so that a seed means the same on every machine.

/// What a stream of draws is for; streams of one seed are independent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    /// Which attributes a clip has.
    Attributes = 1,
    /// Where its shape goes and how its colours vary.
    Picture = 2,
    /// How its caption is worded.
    Caption = 3,
    /// Seeds of the clips of a world.
    Clips = 4,
}

/// A stream of draws.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub(crate) fn new(seed: u64, stream: Stream) -> Self {
        let mut start = Self { state: seed ^ (stream as u64).wrapping_mul(0xd6e8_feb8_6659_fd93) };
        Self { state: start.bits() }
    }

    /// Sixty-four bits (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..count`; the bias is below `count / 2^64`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        low + (high - low) * unit
    }

    /// One of `values`, which is not empty.
    pub(crate) fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_fill_their_range_evenly() {
        let mut random = Random::new(7, Stream::Picture);
        let mut counts = [0u32; 8];
        for _ in 0..80_000 {
            counts[random.below(8)] += 1;
        }
        // A count is binomial, deviation 94: five of them.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 470), "{counts:?}");
        assert!((0..10_000).all(|_| (-2.0..3.0).contains(&random.between(-2.0, 3.0))));
    }

    #[test]
    fn streams_of_one_seed_differ() {
        let first = |stream| Random::new(3, stream).bits();
        assert_ne!(first(Stream::Picture), first(Stream::Caption));
        assert_eq!(first(Stream::Clips), Random::new(3, Stream::Clips).bits());
    }
}
