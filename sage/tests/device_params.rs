//! The parameter structs in Rust are those of the C headers.

#![allow(clippy::unwrap_used, reason = "a header that cannot be read fails the test")]

#[path = "../../cuda/build/bindings.rs"]
mod bindings;

use bindings::{Bindings, demand_bindings};

const TABLE: [Bindings; 2] = [
    Bindings { header: "prepare_params.h", rust: "src/device/prepare/params.rs" },
    Bindings { header: "sage_params.h", rust: "src/device/params.rs" },
];

#[test]
fn the_parameter_structs_are_what_bindgen_reads_in_the_headers() {
    demand_bindings(env!("CARGO_MANIFEST_DIR"), "turbowan_cuda::device", &TABLE);
}
