//! The Mersenne Twister MT19937 (Matsumoto, Nishimura 1998), the engine of torch's CPU generator.

const LENGTH: usize = 624;
const MIDDLE: usize = 397;
const UPPER: u32 = 0x8000_0000;
const LOWER: u32 = 0x7FFF_FFFF;
const TWIST: u32 = 0x9908_B0DF;

/// A stream of 32-bit words.
#[derive(Debug, Clone)]
pub(super) struct Mt19937 {
    state: Box<[u32; LENGTH]>,
    next: usize,
}

impl Mt19937 {
    /// The stream of a 32-bit seed.
    pub fn new(seed: u32) -> Self {
        let mut state = Box::new([seed; LENGTH]);
        for index in 1..LENGTH {
            let before = state[index - 1];
            state[index] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(index as u32);
        }
        Self { state, next: LENGTH }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        if self.next == LENGTH {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for index in 0..LENGTH {
            let joined = (self.state[index] & UPPER) | (self.state[(index + 1) % LENGTH] & LOWER);
            let twist = if joined & 1 == 1 { TWIST } else { 0 };
            self.state[index] = self.state[(index + MIDDLE) % LENGTH] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_seed_gives_the_standard_words() {
        let mut engine = Mt19937::new(5489);
        assert_eq!(engine.word(), 3_499_211_612);
        let last = (1..10_000).map(|_| engine.word()).last();
        // The C++ standard demands this of the 10,000th word.
        assert_eq!(last, Some(4_123_659_995));
    }
}
