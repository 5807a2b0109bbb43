//! The weights that a transformer begins to learn from: drawn as Wan draws them, or taken from another transformer.
//!
//! ```text
//! linears              uniform, variance 2 / (in + out) (Xavier); biases 0
//! text, time embedding normal, deviation 0.02
//! modulation           normal, deviation dim^-1/2
//! norms                1; biases 0
//! head                 0: the first velocity is 0
//! proj_l of SLA        0: the linear branch adds nothing at first
//! ```
//! Source: `init_weights` of `rcm/networks/wan2pt1.py`; `proj_l` as `SLA/core.py`.

use turbowan_rcm::Stream;

use crate::Result;
use crate::backend::tape::Parameters;
use crate::checkpoint::{TensorSource, TensorView};
use crate::config::{DitConfig, TensorSpec};
use crate::dit::DitTraits;

/// Deviation of the embeddings' weights.
const EMBEDDING: f64 = 0.02;

impl DitConfig {
    /// New weights of a float network: tensor `n` of [`DitConfig::tensors`] is draw `n` of the stream of `seed`, where `proj_l` does not
    /// count, so that it changes no other tensor.
    pub fn initial(&self, sla: bool, seed: u64) -> Parameters {
        let (mut noise, mut parameters) = (Stream::new(seed), Parameters::default());
        for spec in self.tensors(DitTraits { quantised: false, sla }) {
            let values = drawn(&spec, &mut noise);
            parameters.push(spec.name, spec.shape, values);
        }
        parameters
    }

    /// The weights of a float network in `source`, which may lack `proj_l` and may read fewer latent channels than this one: what it lacks
    /// begins at zero, so that it answers as `source` does. Of a source with more blocks those are taken that lie evenly between its first
    /// and its last.
    ///
    /// # Errors
    /// [`crate::Error::Misfits`] with everything else that is missing or misshapen.
    pub fn started(&self, sla: bool, source: &dyn TensorSource) -> Result<Parameters> {
        let source = &Spread::new(source, self.layers);
        let fits = |spec: &TensorSpec| spec.shape.iter().product::<usize>();
        let (mut taken, mut grown) = (Vec::new(), Vec::new());
        let specs = self.tensors(DitTraits { quantised: false, sla });
        for spec in &specs {
            match source.get(&spec.name) {
                None if spec.name.contains("proj_l") => grown.push((spec, vec![0.0; fits(spec)])),
                // The channel is the slowest of a patch's features, so new ones stand behind the old.
                Some(found)
                    if spec.name == "patch_embedding.weight" && found.len() < fits(spec) && found.len().is_multiple_of(self.dim) =>
                {
                    let (old, new) = (found.len() / self.dim, self.patch_in());
                    let rows = found.to_f32();
                    let widened = rows.chunks(old.max(1)).flat_map(|row| row.iter().copied().chain((old..new).map(|_| 0.0)));
                    grown.push((spec, widened.collect()));
                }
                _ => taken.push(spec.clone()),
            }
        }
        let read = Parameters::read(source, &taken)?;
        // In the official order again.
        let mut parameters = Parameters::default();
        for spec in &specs {
            let values = match grown.iter_mut().find(|(own, _)| *own == spec) {
                Some((_, values)) => std::mem::take(values),
                None => read.get(&spec.name).map(|parameter| parameter.values().to_vec()).unwrap_or_default(),
            };
            parameters.push(spec.name.clone(), spec.shape.clone(), values);
        }
        Ok(parameters)
    }
}

/// A source seen with fewer blocks.
struct Spread<'a> {
    source: &'a dyn TensorSource,
    /// Blocks of the source.
    from: usize,
    /// Blocks that are seen.
    to: usize,
}

impl<'a> Spread<'a> {
    fn new(source: &'a dyn TensorSource, to: usize) -> Self {
        let from = (0..).take_while(|block| source.get(&format!("blocks.{block}.modulation")).is_some()).count();
        Self { source, from, to }
    }

    /// The source's block that stands for block `index`.
    fn block(&self, index: usize) -> usize {
        if self.from > self.to && self.to > 0 { (index * (self.from - 1)).checked_div(self.to - 1).unwrap_or(0) } else { index }
    }
}

impl TensorSource for Spread<'_> {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let inner = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        match inner.and_then(|(index, rest)| Some((index.parse().ok()?, rest))) {
            Some((index, rest)) => self.source.get(&format!("blocks.{}.{rest}", self.block(index))),
            None => self.source.get(name),
        }
    }
}

/// One draw of the stream, whatever becomes of it, so that a tensor's values do not hang on the kinds of those before.
fn drawn(spec: &TensorSpec, noise: &mut Stream) -> Vec<f32> {
    let (name, count) = (spec.name.as_str(), spec.shape.iter().product::<usize>());
    let is_weight = name.ends_with(".weight");
    let is_norm = name.contains("norm") || name.starts_with("img_emb.proj.0") || name.starts_with("img_emb.proj.4");
    let scaled = |values: Vec<f64>, scale: f64| values.into_iter().map(|value| (scale * value) as f32).collect();
    let width = *spec.shape.last().unwrap_or(&1) as f64;
    if name.contains("proj_l") {
        vec![0.0; count]
    } else if name.ends_with("modulation") {
        scaled(noise.exact_normals(count), width.powf(-0.5))
    } else if is_weight && (name.starts_with("text_embedding") || name.starts_with("time_embedding")) {
        scaled(noise.exact_normals(count), EMBEDDING)
    } else if is_weight && !is_norm && !name.starts_with("head") {
        let reach = (6.0 / (spec.shape[0] as f64 + width)).sqrt();
        scaled(noise.uniforms(count).into_iter().map(|u| 2.0 * u - 1.0).collect(), reach)
    } else {
        noise.uniforms(0);
        vec![if is_weight && is_norm { 1.0 } else { 0.0 }; count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Dtype;
    use crate::error::Misfit;

    fn config(in_dim: usize) -> DitConfig {
        DitConfig {
            dim: 64,
            ffn_dim: 96,
            freq_dim: 32,
            text_dim: 24,
            text_len: 5,
            in_dim,
            out_dim: 4,
            heads: 1,
            layers: 2,
            eps: 1e-6,
            clip_dim: None,
        }
    }

    fn deviation(values: &[f32]) -> f64 {
        (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn each_kind_of_tensor_has_its_law() {
        let parameters = config(4).initial(true, 3);
        let laws = [
            ("blocks.0.self_attn.q.weight", (2.0f64 / 128.0).sqrt()),
            ("blocks.1.ffn.0.weight", (2.0f64 / 160.0).sqrt()),
            ("patch_embedding.weight", (2.0f64 / 80.0).sqrt()),
            ("text_embedding.0.weight", 0.02),
            ("time_embedding.2.weight", 0.02),
            ("time_projection.1.weight", (2.0f64 / 448.0).sqrt()),
            ("blocks.0.modulation", 0.125),
            ("blocks.0.self_attn.norm_q.weight", 1.0),
            ("blocks.0.norm3.weight", 1.0),
            ("blocks.0.norm3.bias", 0.0),
            ("blocks.0.ffn.0.bias", 0.0),
            ("head.head.weight", 0.0),
            ("blocks.0.self_attn.attn_op.local_attn.proj_l.weight", 0.0),
        ];
        for (name, want) in laws {
            let found = deviation(parameters.get(name).unwrap().values());
            // Of a few hundred values and more: five standard errors.
            assert!((found - want).abs() <= 0.2 * want, "{name}: {found}, want {want}");
        }
        let q = parameters.get("blocks.0.self_attn.q.weight").unwrap().values();
        assert!(q.iter().all(|v| v.abs() < (6.0f32 / 128.0).sqrt()), "uniform, so within its reach");
    }

    #[test]
    fn a_seed_decides_and_sla_changes_no_other_tensor() {
        let (plain, sla) = (config(4).initial(false, 3), config(4).initial(true, 3));
        for parameter in plain.iter() {
            assert_eq!(parameter.values(), sla.get(parameter.name()).unwrap().values(), "{}", parameter.name());
        }
        let other = config(4).initial(false, 4);
        assert_ne!(plain.get("patch_embedding.weight").unwrap().values(), other.get("patch_embedding.weight").unwrap().values());
    }

    #[test]
    fn of_more_blocks_those_are_taken_that_lie_evenly() {
        let with = |layers| DitConfig { layers, ..config(4) };
        let old = with(5).initial(false, 3);
        let source = old.stored(|_| Dtype::F32);
        for (layers, blocks) in [(1, &[0][..]), (2, &[0, 4]), (3, &[0, 2, 4]), (4, &[0, 1, 2, 4]), (5, &[0, 1, 2, 3, 4])] {
            let new = with(layers).started(false, &source).unwrap();
            let values =
                |parameters: &Parameters, block| parameters.get(&format!("blocks.{block}.ffn.0.weight")).unwrap().values().to_vec();
            for (place, block) in blocks.iter().enumerate() {
                assert_eq!(values(&new, place), values(&old, *block), "block {place} of {layers}");
            }
            assert_eq!(old.get("head.modulation").unwrap().values(), new.get("head.modulation").unwrap().values());
        }
        assert!(with(6).started(false, &source).is_err());
    }

    #[test]
    fn a_network_that_is_started_from_another_lacks_nothing_and_what_is_new_is_zero() {
        let old = config(4).initial(false, 3);
        let new = config(9).started(true, &old.stored(|_| Dtype::F32)).unwrap();
        assert_eq!(new.iter().len(), config(9).tensors(DitTraits { quantised: false, sla: true }).len());
        let (narrow, wide) = (old.get("patch_embedding.weight").unwrap(), new.get("patch_embedding.weight").unwrap());
        for (narrow, wide) in narrow.values().chunks(16).zip(wide.values().chunks(36)) {
            assert_eq!(wide[..16], *narrow);
            assert!(wide[16..].iter().all(|v| *v == 0.0));
        }
        assert!(new.get("blocks.1.self_attn.attn_op.local_attn.proj_l.weight").unwrap().values().iter().all(|v| *v == 0.0));
        assert_eq!(old.get("blocks.1.ffn.2.weight").unwrap().values(), new.get("blocks.1.ffn.2.weight").unwrap().values());
        let wider = DitConfig { ffn_dim: 80, ..config(4) };
        match wider.started(false, &old.stored(|_| Dtype::F32)) {
            Err(crate::Error::Misfits { misfits, .. }) => {
                assert!(misfits.iter().all(|misfit| matches!(misfit, Misfit::Shape { name, .. } if name.contains("ffn"))));
            }
            other => panic!("expected misfits, found {other:?}"),
        }
    }
}
