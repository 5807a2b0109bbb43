//! Dynamic shared memory that the launchers ask for: the machine code does not say it, so each kernel with any has a line here.

/// Dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dynamic {
    /// Bytes of every launch.
    Always(u32),
    /// Bytes at the shape named; they grow with the shape.
    At(u32, &'static str),
    /// No line here: the page says that it is not stated.
    NotStated,
}

impl Dynamic {
    /// The bytes.
    pub fn bytes(self) -> Option<u32> {
        match self {
            Self::Always(bytes) | Self::At(bytes, _) => Some(bytes),
            Self::NotStated => None,
        }
    }
}

/// Kernels' names, whole or as they begin; the first that fits counts, so that longer ones stand first.
const KERNELS: &[(&str, Dynamic)] = &[
    // four stages x two tiles of 128 rows x depth
    ("gemm_i8_mma_store_k128", DEEP),
    ("gemm_i8_mma_store_f32_k128", DEEP),
    ("gemm_i8_mma_quantise_k128", DEEP),
    ("gemm_i8_mma_add_gated_k128", DEEP),
    ("gemm_i8_mma", kib(64)),
    ("gemm_bf16_mma", kib(96)),
    // four stages of 384 rows x 128 bytes, a tile of results, barriers
    ("gemm_bf16_wgmma", WIDE),
    ("gemm_i8_wgmma", WIDE),
    // queries, and each stage's keys and values
    ("sage_attn_fp8_d128_rows64", kib(40)),
    ("sage_attn_fp8_d128", kib(48)),
    ("sage_attn_fp8_d64_rows64", kib(28)),
    ("sage_attn_fp8_d64", kib(32)),
    ("sage_attn_d128_rows64", kib(56)),
    ("sage_attn_d128", kib(64)),
    ("sage_attn_d64_rows64", kib(40)),
    ("sage_attn_d64", kib(44)),
    // barriers, queries, four stages of 128 keys and values, the output; 2 D^2 bytes where something is added to it
    ("sage_attn_wgmma_d128", Dynamic::At(1024 + 128 * 128 + 4 * 2 * 128 * 128 + 2 * 128 * 128 + 2 * 128 * 128, "an added term")),
    ("sage_attn_wgmma_d64", Dynamic::At(1024 + 128 * 64 + 4 * 2 * 128 * 64 + 2 * 128 * 64 + 2 * 64 * 64, "an added term")),
    ("qk_prep_d128", kib(64)),
    ("qk_prep_d64", kib(32)),
    // scores of 16 query blocks with 1182 key blocks, in spans of 256
    ("block_select", Dynamic::At((5 * 256 + 8) * 16 * 2, "1182 key blocks (720p)")),
    ("attend_fwd_wgmma_d128", kib(225)),
    ("attend_fwd_wgmma_d64", kib(113)),
    ("attend_fwd_d128_rows64", kib(64)),
    ("attend_fwd_d128", kib(96)),
    ("attend_fwd_d64_rows64", kib(32)),
    ("attend_fwd_d64", kib(48)),
    ("attend_bwd_dq_d128_rows64", kib(64)),
    ("attend_bwd_dq_d128", kib(96)),
    ("attend_bwd_dq_d64_rows64", kib(32)),
    ("attend_bwd_dq_d64", kib(48)),
    ("attend_bwd_dkdv_d128", kib(97)),
    ("attend_bwd_dkdv_d64", kib(49)),
    // four stages of 32 rows of keys and values, 8 values of padding in each
    ("linear_state_d128", Dynamic::Always(4 * 2 * 32 * (128 + 8) * 2)),
    ("linear_state_d64", Dynamic::Always(4 * 2 * 32 * (64 + 8) * 2)),
    ("linear_state_weighted_d128", Dynamic::Always(4 * 2 * 32 * (128 + 8) * 2)),
    ("linear_state_weighted_d64", Dynamic::Always(4 * 2 * 32 * (64 + 8) * 2)),
    // patches and stages of weights
    ("conv3d_wgmma_double", Dynamic::Always(68_352)),
    ("conv3d_wgmma", Dynamic::Always(111_360)),
    ("conv3d_mma_point", Dynamic::Always(43_008)),
    ("conv3d_mma_halve", Dynamic::Always(96_384)),
    ("conv3d_mma_double", Dynamic::Always(32_256)),
    ("conv3d_mma_narrow_point", Dynamic::Always(27_648)),
    ("conv3d_mma_narrow", Dynamic::Always(27_136)),
    ("conv3d_mma_pixels", Dynamic::Always(27_136)),
    ("conv3d_mma", Dynamic::Always(47_616)),
    // these ask for none
    ("activate", kib(0)),
    ("quant_block", kib(0)),
    ("quant_rows", kib(0)),
    ("value_", kib(0)),
    ("norm_mod_quant", kib(0)),
    ("rms_rope", kib(0)),
    ("sum_rows", kib(0)),
    ("mean_rows", kib(0)),
    ("inverse_map", kib(0)),
    ("linear_", kib(0)),
    ("transpose", kib(0)),
    ("softmax_rows", kib(0)),
    ("vae_norm", kib(0)),
    ("bias_attention", kib(0)),
    ("combine", kib(0)),
    ("embedding", kib(0)),
    ("gelu_gate", kib(0)),
    ("modulation", kib(0)),
    ("not_finite", kib(0)),
    ("patch", kib(0)),
    ("unpatch", kib(0)),
    ("residual_gate", kib(0)),
    ("sinusoid", kib(0)),
];

const DEEP: Dynamic = kib(128);

const WIDE: Dynamic = Dynamic::Always(4 * 384 * 128 + 2 * 64 * 272 + 3 * 4 * 8);

const fn kib(kib: u32) -> Dynamic {
    Dynamic::Always(kib * 1024)
}

/// What a kernel's launcher asks for.
pub fn dynamic(kernel: &str) -> Dynamic {
    KERNELS.iter().find(|(name, _)| kernel.starts_with(name)).map_or(Dynamic::NotStated, |(_, dynamic)| *dynamic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_by_how_its_name_begins() {
        for (kernel, bytes) in [
            ("gemm_i8_mma_store_f32_k128", Some(128 << 10)),
            ("gemm_i8_mma_quantise_k64", Some(64 << 10)),
            ("sage_attn_d128_rows64_end", Some(56 << 10)),
            ("linear_state_d64", Some(36 << 10)),
            ("linear_reduce", Some(0)),
            ("some_other", None),
        ] {
            assert_eq!(dynamic(kernel).bytes(), bytes, "{kernel}");
        }
    }

    #[test]
    fn no_name_hides_a_longer_one() {
        for (index, (name, _)) in KERNELS.iter().enumerate() {
            let hidden = KERNELS[index + 1..].iter().find(|(later, _)| later.starts_with(name));
            assert!(hidden.is_none(), "{name} stands before {hidden:?}");
        }
    }
}
