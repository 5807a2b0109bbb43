//! The tensors of a Wan transformer, under their official names.

use crate::config::{DitConfig, TensorSpec};

/// What a checkpoint holds beside the plain float network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DitTraits {
    /// Linears of the blocks are int8 with a scale for each 128 x 128 block.
    pub quantised: bool,
    /// The blocks carry SLA's `proj_l`.
    pub sla: bool,
}

/// Rows or columns of one scale of a quantised weight.
const QUANT_BLOCK: usize = 128;

impl DitConfig {
    /// Features of one patch on the input side: `in_dim` channels of 1 x 2 x 2.
    pub fn patch_in(&self) -> usize {
        self.in_dim * Self::PATCH.iter().product::<usize>()
    }

    /// Features of one patch on the output side.
    pub fn patch_out(&self) -> usize {
        self.out_dim * Self::PATCH.iter().product::<usize>()
    }

    /// Every tensor of the network, in the order of the official `state_dict`.
    pub fn tensors(&self, traits: DitTraits) -> Vec<TensorSpec> {
        let mut list = List { specs: Vec::new(), quantised: false };
        list.linear("patch_embedding", self.dim, self.patch_in());
        list.linear("text_embedding.0", self.dim, self.text_dim);
        list.linear("text_embedding.2", self.dim, self.dim);
        list.linear("time_embedding.0", self.dim, self.freq_dim);
        list.linear("time_embedding.2", self.dim, self.dim);
        list.linear("time_projection.1", 6 * self.dim, self.dim);
        list.quantised = traits.quantised;
        for layer in 0..self.layers {
            self.block(&mut list, &format!("blocks.{layer}"), traits);
        }
        list.quantised = false;
        list.push("head.modulation", &[1, 2, self.dim]);
        list.linear("head.head", self.patch_out(), self.dim);
        if let Some(clip) = self.clip_dim {
            list.norm("img_emb.proj.0", clip);
            list.linear("img_emb.proj.1", clip, clip);
            list.linear("img_emb.proj.3", self.dim, clip);
            list.norm("img_emb.proj.4", self.dim);
        }
        list.specs
    }

    fn block(&self, list: &mut List, block: &str, traits: DitTraits) {
        list.push(&format!("{block}.modulation"), &[1, 6, self.dim]);
        for attention in ["self_attn", "cross_attn"] {
            for part in ["q", "k", "v", "o"] {
                list.linear(&format!("{block}.{attention}.{part}"), self.dim, self.dim);
            }
            for part in ["norm_q", "norm_k"] {
                list.push(&format!("{block}.{attention}.{part}.weight"), &[self.dim]);
            }
        }
        if traits.sla {
            let name = format!("{block}.self_attn.attn_op.local_attn.proj_l");
            list.push(&format!("{name}.weight"), &[self.head_dim(), self.head_dim()]);
            list.push(&format!("{name}.bias"), &[self.head_dim()]);
        }
        if self.clip_dim.is_some() {
            list.linear(&format!("{block}.cross_attn.k_img"), self.dim, self.dim);
            list.linear(&format!("{block}.cross_attn.v_img"), self.dim, self.dim);
            list.push(&format!("{block}.cross_attn.norm_k_img.weight"), &[self.dim]);
        }
        list.norm(&format!("{block}.norm3"), self.dim);
        list.linear(&format!("{block}.ffn.0"), self.ffn_dim, self.dim);
        list.linear(&format!("{block}.ffn.2"), self.dim, self.ffn_dim);
    }
}

struct List {
    specs: Vec<TensorSpec>,
    quantised: bool,
}

impl List {
    fn push(&mut self, name: &str, shape: &[usize]) {
        self.specs.push(TensorSpec::new(name, shape));
    }

    fn linear(&mut self, name: &str, out: usize, input: usize) {
        if self.quantised {
            self.push(&format!("{name}.int8_weight"), &[out, input]);
            self.push(&format!("{name}.scale"), &[out.div_ceil(QUANT_BLOCK), input.div_ceil(QUANT_BLOCK)]);
        } else {
            self.push(&format!("{name}.weight"), &[out, input]);
        }
        self.push(&format!("{name}.bias"), &[out]);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(&format!("{name}.weight"), &[width]);
        self.push(&format!("{name}.bias"), &[width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_models_have_their_published_sizes() {
        let parameters =
            |config: DitConfig| config.tensors(DitTraits::default()).iter().map(|spec| spec.shape.iter().product::<usize>()).sum::<usize>();
        assert_eq!(parameters(DitConfig::WAN_1_3B), 1_418_996_800);
        assert_eq!(parameters(DitConfig::WAN_14B), 14_288_491_584);
    }
}
