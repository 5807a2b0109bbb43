//! The umT5 encoder: token ids in, one row of text state a token out.
//!
//! ```text
//! x      = table[ids]
//! block  : x += O( softmax(q k + bias(distance)) v )        q, k, v of RMS(x) w1; no scale, no linear has a bias
//!          x += F2( F1(y) * gelu(G(y)) )                    y = RMS(x) w2
//! out    = RMS(x) w
//! ```
//! Source: `rcm/utils/umt5.py` of the official code. Every block has its own table of position biases, one value a head
//! for each bucket of distances. Padding is not computed: masked keys have no weight, and rows of padding are replaced
//! by zeros before anyone reads them, so the rows of the prompt alone give the same states.

use crate::backend::text::TextBackend;
use crate::backend::{LinearForm, LinearParameters, Pointwise};
use crate::checkpoint::{TensorSource, TensorView};
use crate::config::{TensorSpec, TextConfig};
use crate::error::Misfit;
use crate::{Error, Result};

/// Name of the embedding table.
const TABLE: &str = "token_embedding.weight";
/// Added to the mean square in every norm.
pub const EPS: f32 = 1e-6;

/// Text states of one prompt: a row a token, no padding.
#[derive(Debug, Clone, PartialEq)]
pub struct TextStates {
    /// Channels of a row.
    pub dim: usize,
    /// `[tokens, dim]`.
    pub values: Vec<f32>,
}

impl TextStates {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    /// `[text_len, dim]`: rows past the prompt are zero, as the transformer was trained with. Rows past `text_len`,
    /// which a tokenizer that was told `text_len` does not make, are left out.
    pub fn padded(&self, text_len: usize) -> Vec<f32> {
        let mut values = self.values.clone();
        values.resize(text_len * self.dim, 0.0);
        values
    }
}

/// A loaded encoder. The embedding table stays in the file it came from.
#[derive(Debug)]
pub struct TextEncoder<'a, B: TextBackend> {
    config: TextConfig,
    table: TensorView<'a>,
    blocks: Vec<Block<B>>,
    norm: B::Tensor,
}

#[derive(Debug)]
struct Block<B: TextBackend> {
    norm1: B::Tensor,
    qkv: [B::Linear; 3],
    out: B::Linear,
    norm2: B::Tensor,
    gate: B::Linear,
    up: B::Linear,
    down: B::Linear,
    /// `[buckets, heads]`.
    positions: B::Tensor,
}

/// Takes tensors of the shapes that a configuration names.
struct Loader<'l, 'a, B: TextBackend> {
    backend: &'l B,
    source: &'a dyn TensorSource,
    specs: Vec<TensorSpec>,
}

impl<'a, B: TextBackend> Loader<'_, 'a, B> {
    fn take(&self, name: &str) -> Result<TensorView<'a>> {
        let found = self.source.take(name)?;
        match self.specs.iter().find(|spec| spec.name == name) {
            Some(spec) if spec.shape != found.shape => {
                let misfit = Misfit::Shape { name: name.to_owned(), expected: spec.shape.clone(), found: found.shape.to_vec() };
                Err(Error::Misfits { path: "checkpoint".into(), misfits: vec![misfit] })
            }
            _ => Ok(found),
        }
    }

    fn linear(&self, name: &str) -> Result<B::Linear> {
        let weight = self.take(&format!("{name}.weight"))?;
        let form = LinearForm { quantised: false, rounding: self.backend.rounding() };
        self.backend.load_linear(name, LinearParameters::Float { weight, bias: None }, form)
    }

    /// `name.weight` as rows as long as its last axis.
    fn rows(&self, name: &str) -> Result<B::Tensor> {
        let name = format!("{name}.weight");
        let tensor = self.take(&name)?;
        self.backend.load_rows(&name, tensor, tensor.shape.last().copied().unwrap_or(1), self.backend.rounding())
    }

    fn block(&self, layer: usize) -> Result<Block<B>> {
        let linear = |part: &str| self.linear(&format!("blocks.{layer}.{part}"));
        let rows = |part: &str| self.rows(&format!("blocks.{layer}.{part}"));
        Ok(Block {
            norm1: rows("norm1")?,
            qkv: [linear("attn.q")?, linear("attn.k")?, linear("attn.v")?],
            out: linear("attn.o")?,
            norm2: rows("norm2")?,
            gate: linear("ffn.gate.0")?,
            up: linear("ffn.fc1")?,
            down: linear("ffn.fc2")?,
            positions: rows("pos_embedding.embedding")?,
        })
    }
}

impl<'a, B: TextBackend> TextEncoder<'a, B> {
    /// Loads an encoder.
    ///
    /// # Errors
    /// [`Error::Misfits`] with a tensor that is missing or misshapen, [`Error::Setting`] for an impossible `config`.
    pub fn load(backend: &B, source: &'a dyn TensorSource, config: &TextConfig) -> Result<Self> {
        config.validate()?;
        let loader = Loader { backend, source, specs: config.tensors() };
        let blocks = (0..config.layers).map(|layer| loader.block(layer)).collect::<Result<_>>()?;
        Ok(Self { config: config.clone(), table: loader.take(TABLE)?, blocks, norm: loader.rows("norm")? })
    }

    /// Its configuration.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// States of a prompt's tokens. `each` is called with every block's index and rows: progress, cancellation, a look.
    ///
    /// # Errors
    /// [`Error::Setting`] for an id outside the table, [`Error::NotFinite`] where a value ceases to be a number, and
    /// what `each` returns.
    pub fn encode(&self, backend: &B, ids: &[u32], each: &mut dyn FnMut(usize, &B::Tensor) -> Result<()>) -> Result<TextStates> {
        self.encode_padded(backend, ids, ids.len(), each)
    }

    /// States of every row of `ids`, of which only the first `keys` are seen by any: the official form, whose rows of
    /// padding hold numbers that nobody uses.
    ///
    /// # Errors
    /// As [`TextEncoder::encode`]; [`Error::Operation`] unless `keys` is between 1 and the number of ids.
    pub fn encode_padded(
        &self,
        backend: &B,
        ids: &[u32],
        keys: usize,
        each: &mut dyn FnMut(usize, &B::Tensor) -> Result<()>,
    ) -> Result<TextStates> {
        let x = self.encode_rows(backend, ids, keys, each)?;
        Ok(TextStates { dim: self.config.dim, values: backend.download(&x)? })
    }

    /// As [`TextEncoder::encode_padded`]; the states stay in the backend.
    ///
    /// # Errors
    /// As [`TextEncoder::encode_padded`].
    pub fn encode_rows(
        &self,
        backend: &B,
        ids: &[u32],
        keys: usize,
        each: &mut dyn FnMut(usize, &B::Tensor) -> Result<()>,
    ) -> Result<B::Tensor> {
        if keys == 0 || keys > ids.len() {
            let must = "between 1 and the number of tokens";
            return Err(turbowan_cuda::Error::Size { what: "tokens that are seen", must, found: keys }.into());
        }
        self.check_ids(ids)?;
        let mut x = backend.embed(TABLE, self.table, ids)?;
        let distances = self.distances(ids.len(), keys);
        for (layer, block) in self.blocks.iter().enumerate() {
            let bias = backend.position_bias(&block.positions, &distances)?;
            block.run(backend, &mut x, &bias, keys)?;
            if let Some(at) = backend.first_not_finite(&x)? {
                let (place, row) = (format!("text encoder, block {layer}"), at / self.config.dim);
                return Err(Error::NotFinite { place, fault: format!("a value of token {row} is not finite") });
            }
            each(layer, &x)?;
        }
        backend.rms_norm(&x, &self.norm, EPS)
    }

    /// Refuses ids that the table does not have.
    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.config.vocab) {
            None => Ok(()),
            Some(id) => {
                let must = format!("below the {} rows of the embedding table; is this the tokenizer of this encoder?", self.config.vocab);
                Err(Error::Setting { what: "token id", found: id.to_string(), must })
            }
        }
    }

    /// Buckets of the distances `-(rows - 1)` to `keys - 1`.
    fn distances(&self, rows: usize, keys: usize) -> Vec<usize> {
        let first = 1 - rows as i64;
        (0..rows + keys - 1).map(|index| position_bucket(first + index as i64, self.config.buckets, self.config.max_distance)).collect()
    }

    /// Position bias of a block for the distances `-(rows - 1)` to `keys - 1`, `[heads, rows + keys - 1]`; none past the
    /// last block.
    ///
    /// # Errors
    /// What the backend cannot do.
    pub fn position_bias(&self, backend: &B, layer: usize, rows: usize, keys: usize) -> Result<Option<Vec<f32>>> {
        let Some(block) = self.blocks.get(layer) else { return Ok(None) };
        Ok(Some(backend.download(&backend.position_bias(&block.positions, &self.distances(rows, keys))?)?))
    }
}

impl<B: TextBackend> Block<B> {
    fn run(&self, backend: &B, x: &mut B::Tensor, bias: &B::Tensor, keys: usize) -> Result<()> {
        let h = backend.activation(backend.rms_norm(x, &self.norm1, EPS)?)?;
        let [q, k, v] = &self.qkv;
        let linear = |layer| backend.linear(&h, layer, Pointwise::None);
        let attended = backend.relative_attention([&linear(q)?, &linear(k)?, &linear(v)?], bias, keys)?;
        backend.project(&attended, &self.out, x)?;

        let h = backend.activation(backend.rms_norm(x, &self.norm2, EPS)?)?;
        let linear = |layer| backend.linear(&h, layer, Pointwise::None);
        let gated = backend.gelu_gate(&linear(&self.gate)?, &linear(&self.up)?)?;
        backend.project(&gated, &self.down, x)
    }
}

/// Bucket of the distance `key - query`: half of `buckets` for keys after the query; of each half, half counts one by
/// one and the rest grows by equal ratios up to `max_distance`. In `f32`, as the official code works it out.
pub fn position_bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let after = if distance > 0 { half } else { 0 };
    let (steps, exact) = (distance.unsigned_abs() as usize, half / 2);
    if steps < exact {
        return after + steps;
    }
    let whole_ratio = (max_distance as f64 / exact as f64).ln() as f32;
    let ratio = (steps as f32 / exact as f32).ln() / whole_ratio;
    after + (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::backend::host::Host;
    use crate::checkpoint::Dtype;
    use turbowan_cuda::Rounding;
    use turbowan_reference::{inputs, metrics::Bound, metrics::Verdict, norm, umt5};

    const SMALL: TextConfig =
        TextConfig { vocab: 19, dim: 12, dim_attn: 16, dim_ffn: 20, heads: 4, layers: 2, buckets: 8, max_distance: 16 };

    struct Weights(HashMap<String, (Vec<usize>, Vec<u8>)>);

    impl Weights {
        fn random(config: &TextConfig) -> Self {
            let tensor = |(seed, spec): (usize, TensorSpec)| {
                let values = inputs::normal(spec.shape.iter().product(), seed as u64);
                let scale = if spec.shape.len() == 2 { 0.3 } else { 1.0 };
                (spec.name, (spec.shape, values.iter().flat_map(|value| (value * scale).to_le_bytes()).collect()))
            };
            Self(config.tensors().into_iter().enumerate().map(tensor).collect())
        }

        fn values(&self, name: &str) -> Vec<f32> {
            self.get(&format!("{name}.weight")).unwrap().to_f32()
        }
    }

    impl TensorSource for Weights {
        fn get(&self, name: &str) -> Option<TensorView<'_>> {
            self.0.get(name).map(|(shape, bytes)| TensorView { dtype: Dtype::F32, shape, bytes })
        }
    }

    fn encode(weights: &Weights, rounding: Rounding, ids: &[u32], keys: usize) -> Vec<f32> {
        let host = Host { rounding };
        let encoder = TextEncoder::load(&host, weights, &SMALL).unwrap();
        encoder.encode_padded(&host, ids, keys, &mut |_, _| Ok(())).unwrap().values
    }

    /// The whole encoder in `f64` between operations that the oracles give.
    fn oracle(weights: &Weights, ids: &[u32], keys: usize) -> Vec<f64> {
        let single = |x: &[f64]| x.iter().map(|value| *value as f32).collect::<Vec<f32>>();
        let linear = |x: &[f64], name: &str| -> Vec<f64> {
            let weight = weights.values(name);
            let out = weight.len() / (x.len() / ids.len());
            let input = weight.len() / out;
            let row = |x: &[f64], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>();
            x.chunks(input).flat_map(|x| weight.chunks(input).map(move |w| row(x, w))).collect()
        };
        let normed = |x: &[f64], name: &str| norm::rms_norm(&single(x), SMALL.dim, 1e-6, &weights.values(name));
        let add = |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        let table = weights.values("token_embedding");
        let mut x: Vec<f64> =
            ids.iter().flat_map(|id| table[*id as usize * SMALL.dim..][..SMALL.dim].iter().map(|v| f64::from(*v))).collect();
        for layer in 0..SMALL.layers {
            let name = |part: &str| format!("blocks.{layer}.{part}");
            let h = normed(&x, &name("norm1"));
            let [q, k, v] = ["attn.q", "attn.k", "attn.v"].map(|part| single(&linear(&h, &name(part))));
            let table = weights.values(&name("pos_embedding.embedding"));
            let rows = ids.len();
            let bias: Vec<f32> = (0..SMALL.heads)
                .flat_map(|head| (0..rows + keys - 1).map(move |at| (head, at as i64 - rows as i64 + 1)))
                .map(|(head, distance)| table[umt5::position_bucket(distance, SMALL.buckets, SMALL.max_distance) * SMALL.heads + head])
                .collect();
            let attended = umt5::relative_attention([&q, &k, &v], rows, SMALL.heads, &bias, keys);
            add(&mut x, linear(&attended, &name("attn.o")));
            let h = normed(&x, &name("norm2"));
            let gated = umt5::gelu_gate(&single(&linear(&h, &name("ffn.gate.0"))), &single(&linear(&h, &name("ffn.fc1"))));
            add(&mut x, linear(&gated, &name("ffn.fc2")));
        }
        normed(&x, "norm")
    }

    #[test]
    fn the_encoder_matches_the_oracle_with_and_without_padding() {
        let weights = Weights::random(&SMALL);
        for (ids, keys) in [(vec![3], 1), (vec![1, 5, 18, 0, 7, 7, 2], 7), (vec![4; 40], 33)] {
            let want = oracle(&weights, &ids, keys);
            Verdict::of(&encode(&weights, Rounding::None, &ids, keys), &want, Bound::relative_l2(1e-5)).demand(&format!("{ids:?}"));
            // every stored value is rounded to 8 bits, some dozens of them one after the other
            Verdict::of(&encode(&weights, Rounding::Bf16, &ids, keys), &want, Bound::relative_l2(0.05)).demand(&format!("bf16 {ids:?}"));
        }
    }

    #[test]
    fn padding_does_not_change_the_rows_of_the_prompt() {
        let weights = Weights::random(&SMALL);
        let short = encode(&weights, Rounding::None, &[3, 1, 4, 1], 4);
        let long = encode(&weights, Rounding::None, &[3, 1, 4, 1, 0, 0, 0], 4);
        Verdict::of(&long[..short.len()], &short, Bound::max_abs(1e-5)).demand("padded");
    }

    #[test]
    fn every_bucket_is_that_of_the_oracle() {
        for (buckets, max_distance) in [(32, 128), (8, 16), (16, 100)] {
            for distance in -3000..3000 {
                let (got, want) =
                    (position_bucket(distance, buckets, max_distance), umt5::position_bucket(distance, buckets, max_distance));
                assert_eq!(got, want, "{distance} of {buckets} up to {max_distance}");
            }
        }
    }

    #[test]
    fn a_checkpoint_tells_its_configuration_and_what_is_wrong_with_it() {
        let mut weights = Weights::random(&SMALL);
        assert_eq!(TextConfig::recognise(&weights).unwrap(), TextConfig { max_distance: 128, ..SMALL });
        let host = Host::default();
        let bigger = TextConfig { vocab: 20, ..SMALL };
        assert!(matches!(TextEncoder::load(&host, &weights, &bigger), Err(Error::Misfits { .. })));
        let encoder = TextEncoder::load(&host, &weights, &SMALL).unwrap();
        assert!(matches!(encoder.encode(&host, &[19], &mut |_, _| Ok(())), Err(Error::Setting { .. })));
        assert!(encoder.encode(&host, &[], &mut |_, _| Ok(())).is_err());
        let stop = encoder.encode(&host, &[1], &mut |layer, _| if layer == 1 { Err(Error::Cancelled) } else { Ok(()) });
        assert!(matches!(stop, Err(Error::Cancelled)));
        weights.0.remove("blocks.1.ffn.fc2.weight");
        assert!(matches!(TextEncoder::load(&host, &weights, &SMALL), Err(Error::Misfits { .. })));
        weights.0.remove("norm.weight");
        weights.0.remove("token_embedding.weight");
        assert!(TextConfig::recognise(&weights).is_err());
    }

    #[test]
    fn a_value_that_is_no_number_is_named() {
        let mut weights = Weights::random(&SMALL);
        if let Some((_, bytes)) = weights.0.get_mut("blocks.1.attn.o.weight") {
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        let host = Host::default();
        let error = TextEncoder::load(&host, &weights, &SMALL).unwrap().encode(&host, &[1, 2], &mut |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("text encoder, block 1"), "{error}");
    }

    #[test]
    fn states_are_padded_with_zeros() {
        let states = TextStates { dim: 2, values: vec![1.0, 2.0] };
        assert_eq!((states.rows(), states.padded(2)), (1, vec![1.0, 2.0, 0.0, 0.0]));
    }
}
