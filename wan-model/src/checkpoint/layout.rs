//! Key layouts: who wrote a file shows in its names, and every layout is presented under the official names.
//!
//! The rules below rename by the part that a name speaks of, never by layer, so a network of any depth is covered.

use std::borrow::Cow;

/// Whose names a file uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Wan's own: the patch embedding is a `Conv3d`. Autoencoder and text encoder have only these official names.
    Official,
    /// TurboDiffusion's: Wan's names, the patch embedding is a linear layer.
    Turbo,
    /// `WanTransformer3DModel`, `AutoencoderKLWan`.
    Diffusers,
    /// `UMT5EncoderModel`.
    Transformers,
}

impl Layout {
    /// A name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Official => "Wan official",
            Self::Turbo => "TurboDiffusion",
            Self::Diffusers => "diffusers",
            Self::Transformers => "transformers",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Dit,
    Vae,
    Text,
}

/// A tensor that only one network in one layout has.
const ANCHORS: &[(&str, Network, Layout)] = &[
    ("time_projection.1.weight", Network::Dit, Layout::Official),
    ("condition_embedder.time_proj.weight", Network::Dit, Layout::Diffusers),
    ("decoder.head.2.weight", Network::Vae, Layout::Official),
    ("post_quant_conv.weight", Network::Vae, Layout::Diffusers),
    ("blocks.0.pos_embedding.embedding.weight", Network::Text, Layout::Official),
    ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", Network::Text, Layout::Transformers),
];

/// What wrappers of modules put into names: `torch.compile`, FSDP, activation checkpointing, quantised parametrisation.
const WRAPPERS: &[&str] = &["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

/// How the names of one file are to be presented.
#[derive(Debug)]
pub(crate) struct Renaming {
    layout: Option<Layout>,
    network: Option<Network>,
    prefix: String,
    /// Entries of the decoder's flat list that one stage of diffusers' decoder takes.
    up_stage: usize,
    keeps_shared: bool,
}

impl Renaming {
    /// Finds the layout of a file from its names.
    pub fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let unwrapped = names.map(unwrap);
        let mut renaming = Self { layout: None, network: None, prefix: String::new(), up_stage: 0, keeps_shared: false };
        for (anchor, network, layout) in ANCHORS {
            let prefixes = unwrapped.clone().filter_map(|name| {
                let prefix = name.strip_suffix(anchor)?;
                (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
            });
            // A training checkpoint holds "net." beside "net_ema.": the shortest is the network itself.
            if let Some(prefix) = prefixes.min_by(|a, b| (a.len(), a).cmp(&(b.len(), b))) {
                renaming = Self { layout: Some(*layout), network: Some(*network), prefix, ..renaming };
                break;
            }
        }
        let inside = unwrapped.filter_map(|name| name.strip_prefix(&renaming.prefix).map(str::to_owned));
        for name in inside {
            if let Some((index, _)) = name.strip_prefix("decoder.up_blocks.0.resnets.").and_then(indexed) {
                renaming.up_stage = renaming.up_stage.max(index.saturating_add(2));
            }
            renaming.keeps_shared |= name == "shared.weight";
        }
        renaming
    }

    /// The file's layout, when it holds a network that we know; the patch embedding decides between Wan's and TurboDiffusion's.
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// What stands before every name of the network.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The official name, or `None` for a tensor outside the network.
    pub fn official(&self, name: &str) -> Option<String> {
        let unwrapped = unwrap(name);
        let name = unwrapped.strip_prefix(self.prefix.as_str())?;
        match (self.network, self.layout) {
            (Some(Network::Dit), Some(Layout::Diffusers)) => Some(dit(name)),
            (Some(Network::Vae), Some(Layout::Diffusers)) => Some(self.vae(name).unwrap_or_else(|| name.to_owned())),
            (Some(Network::Text), Some(Layout::Transformers)) => self.text(name),
            _ => Some(name.to_owned()),
        }
    }

    fn vae(&self, name: &str) -> Option<String> {
        if let Some(renamed) = replaced(name, &[("quant_conv.", "conv1."), ("post_quant_conv.", "conv2.")]) {
            return Some(renamed);
        }
        let (side, rest) = name.split_once('.').filter(|(side, _)| matches!(*side, "encoder" | "decoder"))?;
        let ends = [("conv_in.", "conv1."), ("norm_out.", "head.0."), ("conv_out.", "head.2.")];
        let rest = if let Some(end) = replaced(rest, &ends) {
            end
        } else if let Some((index, part)) = rest.strip_prefix("mid_block.resnets.").and_then(indexed) {
            format!("middle.{}.{}", index.checked_mul(2)?, residual(part))
        } else if let Some((index, part)) = rest.strip_prefix("mid_block.attentions.").and_then(indexed) {
            format!("middle.{}.{part}", index.checked_mul(2)?.checked_add(1)?)
        } else if let Some((index, part)) = rest.strip_prefix("down_blocks.").and_then(indexed) {
            format!("downsamples.{index}.{}", residual(part))
        } else {
            let (stage, part) = rest.strip_prefix("up_blocks.").and_then(indexed)?;
            let first = stage.checked_mul(self.up_stage)?;
            if let Some((index, part)) = part.strip_prefix("resnets.").and_then(indexed) {
                format!("upsamples.{}.{}", first.checked_add(index)?, residual(part))
            } else {
                let part = part.strip_prefix("upsamplers.0.")?;
                format!("upsamples.{}.{part}", first.checked_add(self.up_stage)?.checked_sub(1)?)
            }
        };
        Some(format!("{side}.{rest}"))
    }

    fn text(&self, name: &str) -> Option<String> {
        let of_block = |rest: &str| {
            let (index, part) = indexed(rest)?;
            Some(format!("blocks.{index}.{}", replaced(part, TEXT_BLOCK)?))
        };
        // The rest of a whole T5, and the tokenizer that ComfyUI packs in as a tensor.
        if name.starts_with("decoder.") || name.starts_with("lm_head.") || name == "spiece_model" {
            return None;
        }
        // The table of embeddings is one tensor with two names.
        if name == "encoder.embed_tokens.weight" && self.keeps_shared {
            return None;
        }
        let roots =
            [("shared.", "token_embedding."), ("encoder.embed_tokens.", "token_embedding."), ("encoder.final_layer_norm.", "norm.")];
        let block = name.strip_prefix("encoder.block.").and_then(of_block);
        Some(block.or_else(|| replaced(name, &roots)).unwrap_or_else(|| name.to_owned()))
    }
}

/// Parts of diffusers' transformer outside its blocks.
const DIT_ROOT: &[(&str, &str)] = &[
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("condition_embedder.image_embedder.norm1.", "img_emb.proj.0."),
    ("condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1."),
    ("condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3."),
    ("condition_embedder.image_embedder.norm2.", "img_emb.proj.4."),
    ("proj_out.", "head.head."),
    ("scale_shift_table", "head.modulation"),
];

/// Parts of one of its blocks; the first that fits is taken.
const DIT_BLOCK: &[(&str, &str)] = &[
    ("attn1.to_out.0.", "self_attn.o."),
    ("attn1.to_", "self_attn."),
    ("attn1.", "self_attn."),
    ("attn2.to_out.0.", "cross_attn.o."),
    ("attn2.to_", "cross_attn."),
    ("attn2.add_k_proj.", "cross_attn.k_img."),
    ("attn2.add_v_proj.", "cross_attn.v_img."),
    ("attn2.norm_added_k.", "cross_attn.norm_k_img."),
    ("attn2.", "cross_attn."),
    ("norm2.", "norm3."),
    ("ffn.net.0.proj.", "ffn.0."),
    ("ffn.net.2.", "ffn.2."),
    ("scale_shift_table", "modulation"),
];

/// Parts of one block of transformers' T5.
const TEXT_BLOCK: &[(&str, &str)] = &[
    ("layer.0.layer_norm.", "norm1."),
    ("layer.0.SelfAttention.relative_attention_bias.", "pos_embedding.embedding."),
    ("layer.0.SelfAttention.", "attn."),
    ("layer.1.layer_norm.", "norm2."),
    ("layer.1.DenseReluDense.wi_0.", "ffn.gate.0."),
    ("layer.1.DenseReluDense.wi_1.", "ffn.fc1."),
    ("layer.1.DenseReluDense.wo.", "ffn.fc2."),
];

/// Parts of a residual block; resampling blocks have none of these and keep their names.
const RESIDUAL: &[(&str, &str)] = &[
    ("norm1.", "residual.0."),
    ("conv1.", "residual.2."),
    ("norm2.", "residual.3."),
    ("conv2.", "residual.6."),
    ("conv_shortcut.", "shortcut."),
];

fn dit(name: &str) -> String {
    let block = name.strip_prefix("blocks.").and_then(indexed).map(|(index, part)| {
        let part = replaced(part, DIT_BLOCK).map_or(Cow::Borrowed(part), Cow::Owned);
        format!("blocks.{index}.{part}")
    });
    block.or_else(|| replaced(name, DIT_ROOT)).unwrap_or_else(|| name.to_owned())
}

fn residual(part: &str) -> Cow<'_, str> {
    replaced(part, RESIDUAL).map_or(Cow::Borrowed(part), Cow::Owned)
}

/// `name` with the first fitting beginning replaced.
fn replaced(name: &str, rules: &[(&str, &str)]) -> Option<String> {
    rules.iter().find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")))
}

/// `7.rest` as 7 and `rest`.
fn indexed(name: &str) -> Option<(usize, &str)> {
    let (index, rest) = name.split_once('.')?;
    let plain = index == "0" || (!index.starts_with('0') && index.bytes().all(|digit| digit.is_ascii_digit()));
    plain.then(|| index.parse().ok()).flatten().map(|index| (index, rest))
}

fn unwrap(name: &str) -> Cow<'_, str> {
    let mut name = Cow::Borrowed(name);
    for wrapper in WRAPPERS {
        if name.contains(wrapper) {
            name = Cow::Owned(name.replace(wrapper, ""));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_wrappers_come_off() {
        let names = [
            "net._orig_mod.time_projection.1.weight",
            "net.blocks.3._checkpoint_wrapped_module.modulation",
            "net_ema.time_projection.1.weight",
        ];
        let renaming = Renaming::of(names.into_iter());
        assert_eq!((renaming.layout(), renaming.prefix()), (Some(Layout::Official), "net."));
        assert_eq!(renaming.official(names[1]).as_deref(), Some("blocks.3.modulation"));
        assert_eq!(renaming.official(names[2]), None);
    }

    #[test]
    fn a_comfy_checkpoint_is_its_transformer() {
        let names = ["model.diffusion_model.time_projection.1.weight", "first_stage_model.decoder.head.2.weight"];
        let renaming = Renaming::of(names.into_iter());
        assert_eq!(renaming.official(names[0]).as_deref(), Some("time_projection.1.weight"));
        assert_eq!(renaming.official(names[1]), None);
    }

    #[test]
    fn names_of_no_known_network_stay() {
        let renaming = Renaming::of(["a", "b.c"].into_iter());
        assert_eq!(renaming.layout(), None);
        assert_eq!(renaming.official("b.c").as_deref(), Some("b.c"));
    }

    #[test]
    fn absurd_indices_change_nothing() {
        let names = ["post_quant_conv.weight", "decoder.up_blocks.0.resnets.18446744073709551615.conv1.weight"];
        let renaming = Renaming::of(names.into_iter());
        for name in
            [names[1], "decoder.up_blocks.18446744073709551615.resnets.0.conv1.weight", "decoder.up_blocks.01.resnets.0.conv1.weight"]
        {
            assert!(renaming.official(name).is_some());
        }
    }

    #[test]
    fn a_tied_table_is_taken_once_and_a_decoder_left_out() {
        let anchor = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let renaming = Renaming::of(["shared.weight", "encoder.embed_tokens.weight", anchor].into_iter());
        assert_eq!(renaming.official("shared.weight").as_deref(), Some("token_embedding.weight"));
        assert_eq!(renaming.official("encoder.embed_tokens.weight"), None);
        assert_eq!(renaming.official("decoder.block.0.layer.0.layer_norm.weight"), None);
        let alone = Renaming::of(["encoder.embed_tokens.weight", anchor].into_iter());
        assert_eq!(alone.official("encoder.embed_tokens.weight").as_deref(), Some("token_embedding.weight"));
    }
}
