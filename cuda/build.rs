//! Builds this crate's kernels and the emulator, and hands their headers to the crates above as `DEP_TURBOWAN_KERNELS_*`.

#[path = "build/mod.rs"]
mod kernels;

use std::path::PathBuf;

fn main() {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (headers, emulator) = (manifest.join("kernels"), manifest.join("emulator"));
    println!("cargo::metadata=include={}", headers.display());
    println!("cargo::metadata=emulator={}", emulator.display());
    kernels::build(&kernels::Crate {
        library: "turbowan_cuda_kernels",
        manifest: &manifest,
        includes: vec![headers, emulator.clone()],
        emulator: Some(emulator),
    });
}
