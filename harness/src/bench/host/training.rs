//! Steps of training of small networks on the host: forward, backward, the gradients of all parameters. Their arithmetic is
//! held to differences of the loss by the tests of `wan-model`; here a result is held to a second run.

use std::time::Duration;

use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_wan_model::attention::Attention;
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::tape::Parameters;
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::dit::{DitOptions, DitTraits, Grid, TrainDit};
use turbowan_wan_model::tiny;
use turbowan_wan_model::vae::{Clip, TrainVae, VaeObjective};

use crate::bench::case::{Crops, Latents};
use crate::bench::error::Error;
use crate::bench::random_tensors::RandomTensors;
use crate::bench::work::{Check, Work};

/// Values of a latent position, and of a text state.
const CHANNELS: usize = 16;

/// All gradients, one after the other, and back to zero.
fn taken(parameters: &mut Parameters) -> Vec<f32> {
    let gradients = parameters.iter().flat_map(|parameter| parameter.gradient().iter().copied()).collect();
    parameters.zero_gradients();
    // an optimiser would change every value, so that the next step packs anew
    for parameter in parameters.iter_mut() {
        parameter.values_mut();
    }
    gradients
}

/// A step of training.
pub trait Step {
    /// Its gradients, in the order of the parameters.
    ///
    /// # Errors
    /// What the network says.
    fn step(&mut self) -> Result<Vec<f32>, Error>;
}

/// A step that is run, and run once more to hold its gradients to.
pub struct Repeated<S> {
    of: S,
    gradients: Vec<f32>,
}

impl<S> Repeated<S> {
    /// Nothing has run yet.
    pub fn new(of: S) -> Self {
        Self { of, gradients: Vec::new() }
    }
}

impl<S: Step> Work for Repeated<S> {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        self.gradients = self.of.step()?;
        Ok(None)
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let again = self.of.step()?;
        Ok(Check::of(&self.gradients, &again, bound, "a second run (tests hold the gradients)"))
    }
}

/// The step of the small transformer whose random weights `init-tiny` writes.
pub struct DitStep {
    dit: TrainDit,
    latents: Vec<f32>,
    times: Vec<f64>,
    text: Vec<f32>,
}

impl DitStep {
    pub fn new(shape: &Latents) -> Result<Self, Error> {
        let config = tiny::dit_config(CHANNELS);
        let [frames, height, width] = shape.latent;
        let grid = Grid { frames, height, width };
        let tensors = RandomTensors::new(&config.tensors(DitTraits { quantised: false, sla: false }), 1);
        let options = DitOptions { attention: Attention::Original, norms: NormRule::Standard, quantise: false };
        Ok(Self {
            dit: TrainDit::load(&tensors, &config, options, grid)?,
            latents: normal(shape.batch * CHANNELS * grid.positions(), 2),
            times: (0..shape.batch).map(|sample| 1000.0 * (sample as f64 + 0.5) / shape.batch as f64).collect(),
            text: normal(shape.batch * config.text_len * config.text_dim, 3),
        })
    }
}

impl Step for DitStep {
    fn step(&mut self) -> Result<Vec<f32>, Error> {
        let (velocity, saved) = self.dit.forward_saved(&self.latents, &self.times, &self.text, None)?;
        self.dit.backward(saved, &velocity)?;
        Ok(taken(self.dit.parameters_mut()))
    }
}

/// The step of an autoencoder of Wan's layout.
pub struct VaeStep {
    vae: TrainVae,
    crops: Vec<Clip>,
}

impl VaeStep {
    const OBJECTIVE: VaeObjective = VaeObjective { l1: 1.0, edges: 0.5, kl: 1e-4, freezes_encoder: false, latent_noise: 0.0 };

    pub fn new(shape: &Crops) -> Result<Self, Error> {
        let config = VaeConfig::of_width(shape.width);
        let tensors = RandomTensors::new(&config.tensors(), 1);
        let crop = |seed| {
            let values = normal(3 * shape.frames * shape.side * shape.side, seed as u64);
            Clip::new([3, shape.frames, shape.side, shape.side], values)
        };
        let crops = (0..shape.batch).map(crop).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { vae: TrainVae::load(&tensors, &config)?, crops })
    }
}

impl Step for VaeStep {
    fn step(&mut self) -> Result<Vec<f32>, Error> {
        let mut draw = 100;
        let mut noise = |count| {
            draw += 1;
            normal(count, draw)
        };
        self.vae.step(&self.crops, &Self::OBJECTIVE, &mut noise)?;
        Ok(taken(self.vae.parameters_mut()))
    }
}
