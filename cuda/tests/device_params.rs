//! The parameter structs in Rust are those of the C headers.

#![allow(clippy::unwrap_used, reason = "a header that cannot be read fails the test")]

#[path = "../build/bindings.rs"]
mod bindings;

use bindings::{Bindings, demand_bindings};

const TABLE: [Bindings; 1] = [Bindings { header: "params.h", rust: "src/device/params/dense.rs" }];

#[test]
fn the_parameter_structs_are_what_bindgen_reads_in_the_headers() {
    demand_bindings(env!("CARGO_MANIFEST_DIR"), "crate::device", &TABLE);
}
