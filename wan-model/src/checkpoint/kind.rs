//! What a checkpoint is, from its names and shapes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Checkpoint;
use super::statement::CONFIG;
use crate::config::{DitConfig, TextConfig, VaeConfig};
use crate::dit::DitTraits;
use crate::{Error, Result};

/// Most rows of text that a file may ask for: no shape holds it to anything, and memory is set aside for all of them.
const MOST_TEXT_ROWS: usize = 4096;

/// A network, with everything that its constructor needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A diffusion transformer.
    Dit {
        /// Its shape.
        config: DitConfig,
        /// What the file holds beside the plain network.
        traits: DitTraits,
        /// How its number of heads is known.
        heads: HeadsFrom,
    },
    /// A video autoencoder.
    Vae(VaeConfig),
    /// A umT5 text encoder.
    Text(TextConfig),
    /// Tensors of nothing that we know.
    Unknown,
}

/// How the number of attention heads is known; no shape of a plain transformer shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadsFrom {
    /// The caller said so.
    Caller,
    /// SLA's `proj_l` is as wide as a head.
    Projection,
    /// The file's metadata or a `config.json` beside it.
    Config,
    /// Heads of 128 channels, as in every released model, where the width allows it; else of 64; else one head.
    Assumed,
}

impl Kind {
    /// The model's name, as far as shapes tell.
    pub fn model(&self) -> &'static str {
        match self {
            Self::Dit { config, .. } => dit_name(config),
            Self::Vae(config) if *config == VaeConfig::wan_2_1() => "Wan2.1 VAE",
            Self::Vae(_) => "Wan2.1 VAE of another width",
            Self::Text(config) if *config == TextConfig::UMT5_XXL => "umT5-XXL encoder",
            Self::Text(_) => "umT5 encoder of another size",
            Self::Unknown => "unknown",
        }
    }
}

fn dit_name(config: &DitConfig) -> &'static str {
    match (config.dim, config.layers, config.ffn_dim, config.in_dim, config.clip_dim) {
        (1536, 30, 8960, 16, None) => "Wan2.1-T2V-1.3B",
        (5120, 40, 13824, 16, None) => "Wan2.1-T2V-14B or an expert of Wan2.2-T2V-A14B",
        (5120, 40, 13824, 36, None) => "an expert of Wan2.2-I2V-A14B",
        (5120, 40, 13824, 36, Some(_)) => "Wan2.1-I2V-14B",
        (3072, 30, 14336, 48, None) => "Wan2.2-TI2V-5B",
        (_, _, _, 16, _) => "a Wan text-to-video transformer of another size",
        (_, _, _, 36, _) => "a Wan image-to-video transformer of another size",
        _ => "a Wan transformer of another size",
    }
}

impl Checkpoint {
    /// What the file is. `heads` overrides the number of a transformer's heads.
    ///
    /// # Errors
    /// [`Error::Format`] when it is plainly one of our networks but lacks what shows its size, or contradicts itself;
    /// [`Error::Setting`] when `heads` does not fit it.
    pub fn kind(&self, heads: Option<usize>) -> Result<Kind> {
        let probe = Probe { checkpoint: self, absent: Vec::new() };
        let has = |name: &str| self.shape(name).is_some();
        if has("time_projection.1.weight") {
            probe.dit(heads)
        } else if has("decoder.head.2.weight") && has("conv2.weight") {
            probe.vae()
        } else if has("blocks.0.pos_embedding.embedding.weight") {
            probe.text()
        } else {
            Ok(Kind::Unknown)
        }
    }

    fn broken(&self, reason: String) -> Error {
        Error::Format { path: self.path().to_path_buf(), reason }
    }

    /// `seen` with the fields that shapes cannot show taken from the metadata; the others must agree with it.
    fn reconciled<T: Serialize + DeserializeOwned>(&self, seen: T, unseen: &[&str]) -> Result<T> {
        let Some(stated) = self.stated::<Map<String, Value>>(CONFIG)? else {
            return Ok(seen);
        };
        let broken = |error: serde_json::Error| self.broken(format!("its metadata {CONFIG:?}: {error}"));
        let mut whole = serde_json::to_value(&seen).map_err(broken)?;
        for (key, said) in stated {
            match whole.get_mut(&key) {
                Some(value) if unseen.contains(&key.as_str()) => *value = said,
                Some(value) if *value != said => {
                    return Err(self.broken(format!("its metadata {CONFIG:?} says {key} = {said}, its tensors say {value}")));
                }
                _ => {}
            }
        }
        serde_json::from_value(whole).map_err(broken)
    }

    /// A whole number of the `config.json` beside the file, under any of these keys.
    fn beside(&self, keys: &[&str]) -> Option<usize> {
        let config = self.config.as_ref()?;
        keys.iter().find_map(|key| config.get(*key)?.as_u64()).and_then(|value| usize::try_from(value).ok())
    }
}

/// Reads sizes off shapes and remembers which were not there.
struct Probe<'a> {
    checkpoint: &'a Checkpoint,
    absent: Vec<String>,
}

impl Probe<'_> {
    /// The shape of `name`, which must have `N` axes, none of them empty.
    fn shape<const N: usize>(&mut self, name: &str) -> [usize; N] {
        let found = self.checkpoint.shape(name).and_then(|shape| <[usize; N]>::try_from(shape).ok());
        match found.filter(|shape| !shape.contains(&0)) {
            Some(shape) => shape,
            None => {
                self.absent.push(format!("{name} of {N} axes"));
                [1; N]
            }
        }
    }

    /// Output and input width of a linear layer, quantised or not.
    fn linear(&mut self, layer: &str) -> [usize; 2] {
        let quantised = format!("{layer}.int8_weight");
        if self.checkpoint.shape(&quantised).is_some() { self.shape(&quantised) } else { self.shape(&format!("{layer}.weight")) }
    }

    fn finish(&self, what: &str) -> Result<()> {
        if self.absent.is_empty() {
            return Ok(());
        }
        Err(self.checkpoint.broken(format!("looks like {what}, but lacks {}", self.absent.join(", "))))
    }

    /// Blocks `0..n` that all have the tensor `part`; more beyond a gap are somebody's mistake, and extra tensors.
    fn blocks(&mut self, part: &str) -> usize {
        let count = (0..).take_while(|index| self.checkpoint.shape(&format!("blocks.{index}.{part}")).is_some()).count();
        if count == 0 {
            self.absent.push(format!("blocks.0.{part}"));
        }
        count
    }

    fn dit(mut self, asked: Option<usize>) -> Result<Kind> {
        let patch_values = DitConfig::PATCH.iter().product::<usize>();
        let [dim, patch_in] = self.linear("patch_embedding");
        let [_, text_dim] = self.linear("text_embedding.0");
        let [_, freq_dim] = self.linear("time_embedding.0");
        let [patch_out, _] = self.linear("head.head");
        let [ffn_dim, _] = self.linear("blocks.0.ffn.0");
        let layers = self.blocks("modulation");
        let has_clip = self.checkpoint.shape("img_emb.proj.0.weight").is_some();
        let clip_dim = has_clip.then(|| self.shape::<1>("img_emb.proj.0.weight")[0]);
        let projection = "blocks.0.self_attn.attn_op.local_attn.proj_l.weight";
        let sla = self.checkpoint.shape(projection).is_some();
        let head_dim = sla.then(|| self.shape::<2>(projection)[0]);
        self.finish("a Wan transformer")?;
        let whole = |what: &str, values: usize| match values.is_multiple_of(patch_values) {
            true => Ok(values / patch_values),
            false => Err(self.checkpoint.broken(format!("{what} has {values} values a patch, no multiple of {patch_values}"))),
        };
        let (in_dim, out_dim) = (whole("patch_embedding", patch_in)?, whole("head.head", patch_out)?);
        let plain = DitConfig { dim, ffn_dim, freq_dim, text_dim, in_dim, out_dim, layers, clip_dim, text_len: 512, heads: 0, eps: 1e-6 };
        let mut config = self.checkpoint.reconciled(plain, &["heads", "eps", "text_len"])?;
        if !(1..=MOST_TEXT_ROWS).contains(&config.text_len) {
            return Err(self
                .checkpoint
                .broken(format!("its metadata asks for {} rows of text, not 1 to {MOST_TEXT_ROWS}", config.text_len)));
        }
        let heads = self.heads(&mut config, asked, head_dim)?;
        let quantised = self.checkpoint.shape("blocks.0.self_attn.q.int8_weight").is_some();
        Ok(Kind::Dit { config, traits: DitTraits { quantised, sla }, heads })
    }

    /// Settles the number of heads; `config.heads` is what the metadata says, or 0.
    fn heads(&self, config: &mut DitConfig, asked: Option<usize>, head_dim: Option<usize>) -> Result<HeadsFrom> {
        let dim = config.dim;
        // A config.json may belong to something else in the folder: it counts if it speaks of this width.
        let beside = self.checkpoint.beside(&["num_heads", "num_attention_heads"]).filter(|heads| {
            let width = self.checkpoint.beside(&["dim"]);
            let head_dim = self.checkpoint.beside(&["attention_head_dim"]);
            width.or_else(|| head_dim?.checked_mul(*heads)) == Some(dim)
        });
        let stated = (config.heads != 0).then_some(config.heads).or(beside);
        let side = [128, 64].into_iter().find(|side| dim.is_multiple_of(*side)).unwrap_or(dim);
        let (heads, from) = match (asked, head_dim, stated) {
            (Some(heads), _, _) => (heads, HeadsFrom::Caller),
            (None, Some(head_dim), _) => (dim / head_dim, HeadsFrom::Projection),
            (None, None, Some(heads)) => (heads, HeadsFrom::Config),
            (None, None, None) => (dim / side, HeadsFrom::Assumed),
        };
        let fits = heads > 0 && dim.is_multiple_of(heads) && (dim / heads).is_multiple_of(2);
        let agrees = head_dim.is_none_or(|head_dim| fits && dim / heads == head_dim);
        if !fits || !agrees {
            let must = match head_dim {
                Some(head_dim) => format!("a width of {dim} and a proj_l of {head_dim} channels a head do not allow it"),
                None => format!("the width {dim} must split into heads of an even number of channels"),
            };
            return Err(Error::Setting { what: "heads", found: heads.to_string(), must });
        }
        config.heads = heads;
        Ok(from)
    }

    fn vae(mut self) -> Result<Kind> {
        let [dim, ..] = self.shape::<5>("encoder.conv1.weight");
        let [z_dim, ..] = self.shape::<5>("conv2.weight");
        let mut stages: Vec<(usize, usize)> = Vec::new();
        let mut temporal_downsample = Vec::new();
        let (mut width, mut residuals) = (0, 0);
        for index in 0.. {
            let entry = format!("encoder.downsamples.{index}");
            if let Some([out, ..]) = self.checkpoint.shape(&format!("{entry}.residual.6.weight")) {
                (width, residuals) = (*out, residuals + 1);
                continue;
            }
            stages.push((width, residuals));
            residuals = 0;
            if self.checkpoint.shape(&format!("{entry}.resample.1.weight")).is_none() {
                break;
            }
            temporal_downsample.push(self.checkpoint.shape(&format!("{entry}.time_conv.weight")).is_some());
        }
        self.finish("a Wan autoencoder")?;
        let num_res_blocks = stages.first().map_or(0, |(_, residuals)| *residuals);
        let regular = |(width, residuals): &(usize, usize)| *residuals == num_res_blocks && *width > 0 && width.is_multiple_of(dim);
        if num_res_blocks == 0 || !stages.iter().all(regular) {
            return Err(self.checkpoint.broken(format!("an autoencoder of another kind: stages (width, residual blocks) {stages:?}")));
        }
        let dim_mult = stages.iter().map(|(width, _)| width / dim).collect();
        let config = VaeConfig { dim, z_dim, dim_mult, num_res_blocks, temporal_downsample };
        self.checkpoint.reconciled(config, &[]).map(Kind::Vae)
    }

    fn text(mut self) -> Result<Kind> {
        let [vocab, dim] = self.shape("token_embedding.weight");
        let [dim_attn, _] = self.linear("blocks.0.attn.q");
        let [dim_ffn, _] = self.linear("blocks.0.ffn.fc1");
        let [buckets, heads] = self.shape("blocks.0.pos_embedding.embedding.weight");
        let layers = self.blocks("norm1.weight");
        self.finish("a umT5 encoder")?;
        if !dim_attn.is_multiple_of(heads) {
            return Err(self.checkpoint.broken(format!("{heads} heads do not divide {dim_attn} channels of attention")));
        }
        let max_distance = self.checkpoint.beside(&["relative_attention_max_distance"]).unwrap_or(128);
        let config = TextConfig { vocab, dim, dim_attn, dim_ffn, heads, layers, buckets, max_distance };
        self.checkpoint.reconciled(config, &["max_distance"]).map(Kind::Text)
    }
}
