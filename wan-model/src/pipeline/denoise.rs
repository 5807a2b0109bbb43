//! The transformer, or two of them, as the sampler sees it: a latent and a time in, a velocity out.

use turbowan_rcm::{Branch, Call, Expert, Network};

use crate::backend::{Backend, Heads};
use crate::dit::{Grid, Observer, Place, TextStates, WanDit};
use crate::pipeline::{AttentionPlace, Event, Watch};
use crate::{Error, Result};

/// Opens an expert when the schedule first reaches it; the other one is dropped before.
pub type OpenExpert<'a, B> = Box<dyn FnMut(Expert) -> Result<WanDit<B>> + 'a>;

/// Text states of a prompt, padded to the network's rows, and of the prompt that guidance steers away from.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// `[text_len, text_dim]` of the prompt.
    pub prompt: Vec<f32>,
    /// The same of the negative prompt; only guided samplers ask for it.
    pub negative: Option<Vec<f32>>,
    /// Image to video: `[20, T, H, W]`, four mask channels and sixteen of the image's latent.
    pub image: Option<Vec<f32>>,
    /// Wan 2.1 image to video: `[257, clip_dim]`.
    pub clip: Option<Vec<f32>>,
}

/// A Wan model at work on one request.
pub struct WanNetwork<'a, B: Backend> {
    backend: &'a B,
    open: OpenExpert<'a, B>,
    conditions: &'a Conditions,
    grid: Grid,
    samples: usize,
    watch: &'a mut dyn Watch,
    loaded: Option<Loaded<B>>,
}

struct Loaded<B: Backend> {
    expert: Expert,
    dit: WanDit<B>,
    prompt: TextStates<B>,
    negative: Option<TextStates<B>>,
}

impl<'a, B: Backend> WanNetwork<'a, B> {
    /// A model for `samples` latents of `grid`.
    pub fn new(
        backend: &'a B,
        open: OpenExpert<'a, B>,
        conditions: &'a Conditions,
        grid: Grid,
        samples: usize,
        watch: &'a mut dyn Watch,
    ) -> Self {
        Self { backend, open, conditions, grid, samples, watch, loaded: None }
    }

    /// Who follows the run.
    pub fn watch(&mut self) -> &mut dyn Watch {
        self.watch
    }

    fn expert(&mut self, expert: Expert) -> Result<()> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.expert == expert) {
            return Ok(());
        }
        self.loaded = None; // the old expert's memory first
        self.watch.event(Event::Loading(expert))?;
        let dit = (self.open)(expert)?;
        let clip = self.conditions.clip.as_deref();
        let prompt = dit.read_text(self.backend, &self.conditions.prompt, clip)?;
        let negative = self.conditions.negative.as_deref().map(|states| dit.read_text(self.backend, states, clip)).transpose()?;
        self.loaded = Some(Loaded { expert, dit, prompt, negative });
        Ok(())
    }

    /// Latent channels, with the image's behind them where the network reads one.
    fn with_image(&self, latent: &[f32]) -> Vec<f32> {
        match &self.conditions.image {
            None => latent.to_vec(),
            Some(image) => latent.chunks_exact(latent.len() / self.samples).flat_map(|x| x.iter().chain(image).copied()).collect(),
        }
    }
}

impl<B: Backend> Network for WanNetwork<'_, B> {
    type Error = Error;

    fn forward(&mut self, latent: &[f32], time: f32, call: Call) -> Result<Vec<f32>> {
        self.expert(call.expert)?;
        let input = self.with_image(latent);
        let Some(loaded) = &self.loaded else { return Err(Error::Cancelled) };
        let text = match (call.branch, &loaded.negative) {
            (Branch::Unconditional, Some(negative)) => negative,
            _ => &loaded.prompt,
        };
        let layers = loaded.dit.config().layers;
        let mut guard = Guard { step: call.step, branch: call.branch, layers, watch: &mut *self.watch };
        loaded.dit.forward(self.backend, &input, &vec![time; self.samples], text, self.grid, &mut guard)
    }
}

/// After every block: a number that is not finite stops the run and is named, progress is told, cancelling is heard.
struct Guard<'w> {
    step: usize,
    branch: Branch,
    layers: usize,
    watch: &'w mut dyn Watch,
}

impl Guard<'_> {
    fn attention_place(&self, block: usize) -> AttentionPlace {
        AttentionPlace { step: self.step, branch: self.branch, block, of: self.layers }
    }
}

impl<B: Backend> Observer<B> for Guard<'_> {
    fn see(&mut self, backend: &B, place: Place, rows: &B::Tensor) -> Result<()> {
        if let Some(index) = backend.first_not_finite(rows)? {
            let place = format!("denoising step {}, {place}", self.step + 1);
            return Err(Error::NotFinite { place, fault: format!("value {index} is not a finite number") });
        }
        match place {
            Place::Block(block) => self.watch.event(Event::Block { step: self.step, block, of: self.layers }),
            Place::Patches | Place::Head => Ok(()),
        }
    }

    fn wants_attention(&mut self, block: usize) -> bool {
        self.watch.wants_attention(self.attention_place(block))
    }

    fn see_attention(&mut self, backend: &B, block: usize, qkv: [&B::Tensor; 3], heads: Heads) -> Result<()> {
        let place = self.attention_place(block);
        let [q, k, v] = qkv.map(|rows| backend.download(rows));
        self.watch.attention(place, [q?, k?, v?], heads)
    }
}
