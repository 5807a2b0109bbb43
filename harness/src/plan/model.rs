//! The models that can be planned, by the names that `t2v` and `i2v` have for them.

use std::path::Path;

use turbowan_rcm::Expert;
use turbowan_wan_model::config::{DitConfig, TextConfig, VaeConfig};
use turbowan_wan_model::dit::DitTraits;

use crate::error::Error;
use crate::request::{Mode, Models};
use crate::run::models::{OpenDit, TOPK};

/// Names of models.
pub const NAMES: [&str; 4] = ["Wan2.1-1.3B", "Wan2.1-14B", "Wan2.2-A14B", "embedded"];

/// Shapes of a model's networks.
#[derive(Debug, Clone)]
pub struct Model {
    /// One of [`NAMES`].
    pub name: &'static str,
    /// A transformer.
    pub dit: DitConfig,
    /// Transformers: two where one takes the noisy times and another the rest. One is loaded at a time.
    pub experts: usize,
    /// The autoencoder.
    pub vae: VaeConfig,
    /// The text encoder.
    pub text: TextConfig,
    /// Share of key blocks where none is asked for.
    pub topk: f64,
}

impl Model {
    /// The model called `name`; Wan2.2-A14B is the one from an image, as its released checkpoints are.
    ///
    /// # Errors
    /// A name that is none.
    pub fn named(name: &str) -> Result<Self, Error> {
        let found = NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name));
        let official =
            |name, dit, experts| Ok(Self { name, dit, experts, vae: VaeConfig::wan_2_1(), text: TextConfig::UMT5_XXL, topk: TOPK });
        match found {
            Some(name @ "Wan2.1-1.3B") => official(name, DitConfig::WAN_1_3B, 1),
            Some(name @ "Wan2.1-14B") => official(name, DitConfig::WAN_14B, 1),
            Some(name @ "Wan2.2-A14B") => official(name, DitConfig::WAN_A14B_I2V, 2),
            Some(name) => {
                let models = Models::embedded(Mode::T2v);
                let open = models.dit(Mode::T2v, Expert::High)?;
                let (vae, text) = (models.vae()?.1, models.text()?.1);
                Ok(Self { name, topk: open.topk()?, dit: open.config, experts: 1, vae, text })
            }
            None => Err(Error::flag("--model", format!("{name:?} is none of {}", NAMES.join(", ")))),
        }
    }

    /// The same with the transformer of a file.
    ///
    /// # Errors
    /// A file that is no transformer.
    pub fn with_transformer(self, path: &Path) -> Result<Self, Error> {
        let open = OpenDit::open(path)?;
        Ok(Self { topk: open.topk()?, dit: open.config, ..self })
    }

    /// Whether it is the one inside this program, whose clips are small.
    pub fn is_embedded(&self) -> bool {
        self.name == "embedded"
    }

    /// Whether it makes a video from an image.
    pub fn reads_image(&self) -> bool {
        self.dit.in_dim != self.dit.out_dim
    }

    /// What a checkpoint holds for an attention with or without a linear branch.
    pub fn traits(has_linear_branch: bool) -> DitTraits {
        DitTraits { quantised: false, sla: has_linear_branch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_model_and_another_is_refused() {
        for name in NAMES {
            assert_eq!(Model::named(&name.to_lowercase()).unwrap().name, name);
        }
        assert_eq!(Model::named("Wan2.2-A14B").unwrap().dit.in_dim, 36);
        assert!(Model::named("embedded").unwrap().dit.dim < 1024);
        assert!(Model::named("Wan3").unwrap_err().to_string().contains("Wan2.1-14B"));
    }
}
