//! Batches of a set of clips, drawn from a stream.

use turbowan_rcm::Stream;

use super::clips::Clips;
use super::network::Told;
use super::states::States;

/// Clips of which any sample is as likely as another.
#[derive(Debug)]
pub struct Batches {
    clips: Clips,
    /// Indices of the captions' states, a list a clip.
    prompts: Vec<Vec<u32>>,
    images: bool,
    samples: usize,
}

/// Samples to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// Clean latents `[samples, 16, T, H, W]`.
    pub latents: Vec<f32>,
    /// What each is told.
    pub told: Vec<Told>,
    /// The same under the empty prompt.
    pub negative: Vec<Told>,
}

impl Batches {
    /// Batches of `samples`. The clips' images, where the network reads them, are the first of the tables'.
    pub fn new(clips: Clips, states: &States, images: bool, samples: usize) -> Self {
        let prompts = clips.captions.iter().map(|captions| captions.iter().map(|caption| states.index(caption)).collect()).collect();
        Self { clips, prompts, images, samples }
    }

    /// The next batch. Draws: which clips, which of their captions.
    pub fn draw(&self, noise: &mut Stream) -> Drawn {
        let (clips, variants) = (noise.uniforms(self.samples), noise.uniforms(self.samples));
        let mut drawn = Drawn { latents: Vec::new(), told: Vec::new(), negative: Vec::new() };
        for (clip, variant) in clips.into_iter().zip(variants) {
            // The uniforms are below 1, but a product may round up.
            let pick = |share: f64, count: usize| ((share * count as f64) as usize).min(count.saturating_sub(1));
            let clip = pick(clip, self.clips.len());
            let prompts = &self.prompts[clip];
            drawn.latents.extend_from_slice(self.clips.latent(clip));
            drawn.told.push(Told { prompt: prompts[pick(variant, prompts.len())], image: self.images.then_some(clip as u32) });
        }
        drawn.negative = drawn.told.iter().map(|told| told.negative()).collect();
        drawn
    }
}
