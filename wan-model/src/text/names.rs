//! The tensors of a umT5 encoder, under their official names.

use crate::checkpoint::TensorSource;
use crate::config::{TensorSpec, TextConfig};
use crate::error::Misfit;
use crate::{Error, Result};

/// Distance from which all positions share a bucket; no tensor tells it.
const MAX_DISTANCE: usize = 128;

impl TextConfig {
    /// Every tensor of the encoder, in the order of the official `state_dict`.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut specs = vec![TensorSpec::new("token_embedding.weight", &[self.vocab, self.dim])];
        for layer in 0..self.layers {
            let parts: [(&str, &[usize]); 10] = [
                ("norm1", &[self.dim]),
                ("attn.q", &[self.dim_attn, self.dim]),
                ("attn.k", &[self.dim_attn, self.dim]),
                ("attn.v", &[self.dim_attn, self.dim]),
                ("attn.o", &[self.dim, self.dim_attn]),
                ("norm2", &[self.dim]),
                ("ffn.gate.0", &[self.dim_ffn, self.dim]),
                ("ffn.fc1", &[self.dim_ffn, self.dim]),
                ("ffn.fc2", &[self.dim, self.dim_ffn]),
                ("pos_embedding.embedding", &[self.buckets, self.heads]),
            ];
            specs.extend(parts.map(|(part, shape)| TensorSpec::new(format!("blocks.{layer}.{part}.weight"), shape)));
        }
        specs.push(TensorSpec::new("norm.weight", &[self.dim]));
        specs
    }

    /// The configuration that a checkpoint's shapes tell. [`TextConfig::tensors`] of it says what else must be there.
    ///
    /// # Errors
    /// [`Error::Misfits`] when a tensor that tells a size is missing or has another number of axes.
    pub fn recognise(source: &dyn TensorSource) -> Result<Self> {
        let sides = |name: &str| -> Result<[usize; 2]> {
            let found = source.take(name)?.shape;
            found.try_into().map_err(|_| {
                let misfit = Misfit::Shape { name: name.to_owned(), expected: vec![0, 0], found: found.to_vec() };
                Error::Misfits { path: "checkpoint".into(), misfits: vec![misfit] }
            })
        };
        let [vocab, dim] = sides("token_embedding.weight")?;
        let [dim_attn, _] = sides("blocks.0.attn.q.weight")?;
        let [dim_ffn, _] = sides("blocks.0.ffn.fc1.weight")?;
        let [buckets, heads] = sides("blocks.0.pos_embedding.embedding.weight")?;
        let layers = (0..).take_while(|layer| source.get(&format!("blocks.{layer}.norm1.weight")).is_some()).count();
        let config = Self { vocab, dim, dim_attn, dim_ffn, heads, layers, buckets, max_distance: MAX_DISTANCE };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the sizes can be those of an encoder.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first that cannot.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what, found: usize, must: &str| Err(Error::Setting { what, found: found.to_string(), must: must.to_owned() });
        let sizes = [
            ("vocabulary", self.vocab),
            ("channels of a text state", self.dim),
            ("attention channels", self.dim_attn),
            ("feed-forward channels", self.dim_ffn),
            ("attention heads", self.heads),
            ("text blocks", self.layers),
        ];
        for (what, found) in sizes {
            if found == 0 {
                return refuse(what, found, "at least 1");
            }
        }
        if !self.dim_attn.is_multiple_of(self.heads) {
            return refuse("attention channels", self.dim_attn, &format!("a multiple of the {} heads", self.heads));
        }
        if self.buckets < 4 || !self.buckets.is_multiple_of(4) {
            return refuse("position buckets", self.buckets, "a multiple of 4");
        }
        if self.max_distance <= self.buckets / 4 {
            return refuse("largest position distance", self.max_distance, "more than a quarter of the buckets");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_encoder_has_its_5_7_billion_parameters() {
        let tensors = TextConfig::UMT5_XXL.tensors();
        assert_eq!(tensors.len(), 1 + 24 * 10 + 1);
        let values: usize = tensors.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        assert_eq!(values, 256_384 * 4096 + 24 * (2 * 4096 + 4 * 4096 * 4096 + 3 * 4096 * 10_240 + 32 * 64) + 4096);
        TextConfig::UMT5_XXL.validate().unwrap();
    }

    #[test]
    fn sizes_that_contradict_one_another_are_refused() {
        for broken in [
            TextConfig { heads: 3, ..TextConfig::UMT5_XXL },
            TextConfig { heads: 0, ..TextConfig::UMT5_XXL },
            TextConfig { buckets: 6, ..TextConfig::UMT5_XXL },
            TextConfig { max_distance: 8, ..TextConfig::UMT5_XXL },
        ] {
            assert!(matches!(broken.validate(), Err(Error::Setting { .. })), "{broken:?}");
        }
    }
}
