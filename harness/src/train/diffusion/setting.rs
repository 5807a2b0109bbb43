//! What every stage of diffusion stands in: batches, what samples are told, looks.

use std::path::Path;
use std::sync::Arc;

use turbowan_wan_model::attention::Attention;
use turbowan_wan_model::checkpoint::Statement;
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::resolution::LatentShape;

use super::batches::Batches;
use super::clips::Data;
use super::look::{LookSettings, Looks};
use super::models::Models;
use super::network::{DitNet, Tables};
use super::settings::{ExpertName, NetworkSettings, transformer};
use super::states::States;
use crate::error::Error;
use crate::train::Metrics;
use crate::train::optimisation::{Optimisation, learning};

/// All but the networks that learn.
#[derive(Debug)]
pub struct Setting {
    /// The transformer's sizes.
    pub config: DitConfig,
    /// Size of its latents.
    pub shape: LatentShape,
    /// What is learnt from.
    pub batches: Batches,
    /// How what is learnt is looked at.
    pub looks: Looks,
    tables: Arc<Tables>,
}

impl Setting {
    /// Clips, encoded or read back; states of their captions and of those that looks ask for.
    ///
    /// # Errors
    /// Settings that cannot be; files that cannot be read; a stop.
    pub fn new(models: &Models, data: &Data, network: &NetworkSettings, look: &LookSettings, samples: usize) -> Result<Self, Error> {
        if samples == 0 || (data.folder.is_none() && data.clips == 0) {
            return Err(Error::flag("batch, data.clips", "at least 1"));
        }
        // What is wrong with sizes is told before the long work.
        network.config(1)?;
        let clips = data.clips(models, network.image)?;
        let asked = look.asked(data, models, network.image)?;
        let captions = clips.captions.iter().flatten().chain(&asked.captions).map(String::as_str);
        let states = States::of(models, network.text_len, captions)?;
        let mut images = if network.image { clips.conditions() } else { Vec::new() };
        let looks = Looks::new(look, asked, &states, images.len(), data, models)?;
        images.extend(looks.conditions().iter().cloned());
        let config = network.config(states.dim())?;
        let shape = clips.shape;
        let batches = Batches::new(clips, &states, network.image, samples);
        Ok(Self { config, shape, batches, looks, tables: Arc::new(Tables { states, images }) })
    }

    /// Loads the other expert for looks, where they name one; it attends as the one that learns does.
    ///
    /// # Errors
    /// A file that cannot be read; an expert that is the only one.
    pub fn load_other(&mut self, look: &LookSettings, attention: Attention, own: ExpertName, boundary: f64) -> Result<(), Error> {
        let Some(path) = look.other_expert.as_deref() else { return Ok(()) };
        let mut net = DitNet::new(transformer(&self.config, attention, self.shape, Some(path), 0)?, self.tables());
        net.parameters_mut().learn_only(|_| false);
        self.looks.set_other(net, own, boundary)
    }

    /// A look at what `net` makes with its averages for weights, which are then back in their place.
    ///
    /// # Errors
    /// Whatever ends the run.
    pub fn look(&mut self, net: &mut DitNet, optimisation: &mut Optimisation, folder: &Path, step: u64) -> Result<Metrics, Error> {
        optimisation.swap(&mut learning(net.parameters_mut()))?;
        let told = self.looks.look(net, folder, step);
        optimisation.swap(&mut learning(net.parameters_mut()))?;
        told
    }

    /// What samples are told, shared by all networks of a run.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// What the file of a transformer with this share of key blocks, 0 for dense attention, states of it.
    ///
    /// # Errors
    /// None in practice: they are plain numbers.
    pub fn statement(&self, sla_topk: f64) -> Result<Statement, Error> {
        let config = serde_json::to_value(&self.config).map_err(|error| Error::broken(Path::new("weights.safetensors"), error))?;
        let sla_topk = (sla_topk > 0.0).then_some(sla_topk);
        Ok(Statement { config: config.as_object().cloned(), sla_topk, ..Statement::default() })
    }
}
