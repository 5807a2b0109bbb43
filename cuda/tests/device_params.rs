//! The parameter structs in Rust are those of the C headers.

#![allow(clippy::unwrap_used, reason = "a header that cannot be read fails the test")]

#[path = "../build/bindings.rs"]
mod bindings;

use bindings::{Bindings, demand_bindings};

const TABLE: [Bindings; 7] = [
    Bindings { header: "params.h", rust: "src/device/params/dense.rs" },
    Bindings { header: "bias_attention_params.h", rust: "src/device/params/bias_attention.rs" },
    Bindings { header: "conv3d_params.h", rust: "src/device/params/conv3d.rs" },
    Bindings { header: "elementwise_params.h", rust: "src/device/params/elementwise.rs" },
    Bindings { header: "gather_params.h", rust: "src/device/params/gather.rs" },
    Bindings { header: "gemm_wgmma_params.h", rust: "src/device/params/gemm_wgmma.rs" },
    Bindings { header: "rows_params.h", rust: "src/device/params/rows.rs" },
];

#[test]
fn the_parameter_structs_are_what_bindgen_reads_in_the_headers() {
    demand_bindings(env!("CARGO_MANIFEST_DIR"), "crate::device", &TABLE);
}
