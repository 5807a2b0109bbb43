//! What our own files state beside their tensors, in the metadata of safetensors.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Checkpoint;
use crate::{Error, Result};

/// What shapes do not show: a JSON object of a network's configuration.
pub(super) const CONFIG: &str = "turbowan.config";
/// The share of key blocks that the weights were trained with: a number.
const SLA_TOPK: &str = "turbowan.sla_topk";
/// How the weights were made: one line of text.
const RECIPE: &str = "turbowan.recipe";
/// What was measured of them: a JSON object of names and numbers.
const GATES: &str = "turbowan.gates";

/// Everything that a file of ours states; another's states nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statement {
    /// The network's configuration, or the fields of it that shapes do not show.
    pub config: Option<Map<String, Value>>,
    /// The share of key blocks that its sparse-linear attention was trained with, in (0, 1].
    pub sla_topk: Option<f64>,
    /// How the weights were made, in one line.
    pub recipe: Option<String>,
    /// What was measured of them, by name.
    pub gates: BTreeMap<String, f64>,
}

impl Statement {
    /// As [`write_safetensors`](super::write_safetensors) takes it.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        if let Some(config) = &self.config {
            metadata.insert(CONFIG.to_owned(), Value::from(config.clone()).to_string());
        }
        if let Some(share) = self.sla_topk {
            metadata.insert(SLA_TOPK.to_owned(), share.to_string());
        }
        if let Some(recipe) = &self.recipe {
            metadata.insert(RECIPE.to_owned(), recipe.clone());
        }
        if !self.gates.is_empty() {
            let gates: Map<_, _> = self.gates.iter().map(|(name, value)| (name.clone(), Value::from(*value))).collect();
            metadata.insert(GATES.to_owned(), Value::from(gates).to_string());
        }
        metadata
    }
}

impl Checkpoint {
    /// What the file states beside its tensors.
    ///
    /// # Errors
    /// [`Error::Format`] when it is no JSON of the right kind.
    pub fn statement(&self) -> Result<Statement> {
        Ok(Statement {
            config: self.stated(CONFIG)?,
            sla_topk: self.stated(SLA_TOPK)?,
            recipe: self.metadata.get(RECIPE).cloned(),
            gates: self.stated(GATES)?.unwrap_or_default(),
        })
    }

    /// The JSON under a key of the metadata.
    pub(super) fn stated<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let parse = |text: &String| serde_json::from_str(text);
        self.metadata.get(key).map(parse).transpose().map_err(|error| Error::Format {
            path: self.path().to_path_buf(),
            reason: format!("its metadata {key:?} is malformed: {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Dtype, TensorView, write_safetensors};

    fn file(metadata: &BTreeMap<String, String>) -> Checkpoint {
        let mut bytes = Vec::new();
        let view = TensorView { dtype: Dtype::F32, shape: &[1], bytes: &[0; 4] };
        write_safetensors(&mut bytes, &[("x", view)], metadata).unwrap();
        Checkpoint::from_vec("file", bytes).unwrap()
    }

    #[test]
    fn a_statement_is_read_back() {
        let config = Map::from_iter([("text_len".to_owned(), Value::from(32))]);
        let gates = BTreeMap::from([("psnr".to_owned(), 32.25), ("shape".to_owned(), 0.95)]);
        let recipe = Some("steps 9, \"Muon\"".into());
        for statement in [Statement { config: Some(config), sla_topk: Some(0.25), recipe, gates }, Statement::default()] {
            assert_eq!(file(&statement.metadata()).statement().unwrap(), statement);
        }
    }

    #[test]
    fn a_malformed_statement_is_an_error_that_names_the_key() {
        let error = file(&BTreeMap::from([(GATES.to_owned(), "[1]".to_owned())])).statement().unwrap_err().to_string();
        assert!(error.contains(GATES), "{error}");
    }
}
