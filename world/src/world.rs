//! The endless sequence of captioned clips that a seed stands for.

use crate::attributes::Split;
use crate::caption::{self, Language};
use crate::clip::Clip;
use crate::random::{Random, Stream};

/// Captioned clips `0, 1, 2, ...`, each worked out from the seed and its index alone, so that any thread may ask for any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// Chooses the sequence.
    pub seed: u64,
    /// Which combinations occur.
    pub split: Split,
}

impl World {
    /// The sequence of a seed.
    pub fn new(seed: u64, split: Split) -> Self {
        Self { seed, split }
    }

    /// Clip `index`.
    pub fn clip(&self, index: u64) -> Clip {
        Clip::draw(self.split, self.seed_of(index))
    }

    /// Caption `variant` of clip `index`: a clip has many, one in five in Chinese.
    pub fn caption(&self, index: u64, variant: u64) -> String {
        let seed = Random::new(self.seed_of(index) ^ variant.rotate_left(32), Stream::Clips).bits();
        caption::any(&self.clip(index).attributes, seed)
    }

    /// Caption `variant` of clip `index` in one language.
    pub fn caption_in(&self, language: Language, index: u64, variant: u64) -> String {
        let seed = Random::new(self.seed_of(index) ^ variant.rotate_left(32), Stream::Clips).bits();
        caption::write(&self.clip(index).attributes, language, seed)
    }

    fn seed_of(&self, index: u64) -> u64 {
        let start = Random::new(self.seed, Stream::Clips).bits();
        Random::new(start.wrapping_add(index), Stream::Clips).bits()
    }
}
