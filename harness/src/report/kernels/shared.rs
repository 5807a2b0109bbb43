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

/// Beginnings of kernels' names, the first that fits counts.
const KERNELS: [(&str, Dynamic); 11] = [
    // stages x two tiles of 128 rows x depth
    ("gemm_i8_mma_store_k128", DEEP),
    ("gemm_i8_mma_store_f32_k128", DEEP),
    ("gemm_i8_mma_quantise_k128", DEEP),
    ("gemm_i8_mma_add_gated_k128", DEEP),
    ("gemm_i8_mma", Dynamic::Always(4 * 2 * 128 * 64)),
    ("gemm_bf16_mma", Dynamic::Always(3 * 2 * 128 * 128)),
    // queries, and each stage's keys and values
    ("sage_attn_fp8_d128", Dynamic::Always(128 * (128 + 2 * 64 * 2))),
    ("sage_attn_fp8_d64", Dynamic::Always(64 * (128 + 3 * 64 * 2))),
    ("sage_attn_d128", Dynamic::Always(128 * (128 + 2 * 64 * 3))),
    ("sage_attn_d64", Dynamic::Always(64 * (128 + 3 * 64 * 3))),
    // scores of 16 query blocks with 1182 key blocks, in spans of 256
    ("block_select", Dynamic::At((5 * 256 + 8) * 16 * 2, "1182 key blocks (720p)")),
];

const DEEP: Dynamic = Dynamic::Always(4 * 2 * 128 * 128);

/// Kernels that ask for none.
const NONE: [&str; 4] = ["quant_block", "norm_mod_quant", "rms_rope", "inverse_map"];

/// What a kernel's launcher asks for.
pub fn dynamic(kernel: &str) -> Dynamic {
    if NONE.iter().any(|name| kernel.starts_with(name)) {
        return Dynamic::Always(0);
    }
    let rows64 = kernel.contains("_rows64");
    let found = KERNELS.iter().find(|(name, _)| kernel.starts_with(name)).map_or(Dynamic::NotStated, |(_, dynamic)| *dynamic);
    match found {
        // a tile of 64 queries in place of 128
        Dynamic::Always(bytes) if rows64 => Dynamic::Always(bytes - 64 * if kernel.contains("d128") { 128 } else { 64 }),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_by_how_its_name_begins() {
        for (kernel, bytes) in [
            ("gemm_i8_mma_store_f32_k128", Some(128 << 10)),
            ("gemm_i8_mma_quantise_k64", Some(64 << 10)),
            ("gemm_bf16_mma_add_gated", Some(96 << 10)),
            ("sage_attn_d128", Some(64 << 10)),
            ("sage_attn_d128_rows64", Some(56 << 10)),
            ("sage_attn_d64", Some(44 << 10)),
            ("sage_attn_fp8_d128", Some(48 << 10)),
            ("rms_rope", Some(0)),
            ("some_other", None),
        ] {
            assert_eq!(dynamic(kernel).bytes(), bytes, "{kernel}");
        }
    }
}
