//! Builds this crate's kernels over the headers and the emulator of `turbowan-cuda`.

#[path = "../cuda/build/mod.rs"]
mod kernels;

use std::path::PathBuf;

fn main() {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let of_cuda = |what: &str| {
        let name = format!("DEP_TURBOWAN_KERNELS_{what}");
        std::env::var_os(&name).map(PathBuf::from).unwrap_or_else(|| {
            eprintln!("{name} is not set: turbowan-cuda's build gives it");
            std::process::exit(1)
        })
    };
    kernels::build(&kernels::Crate {
        library: "turbowan_sla_kernels",
        manifest: &manifest,
        includes: vec![of_cuda("INCLUDE"), of_cuda("EMULATOR"), manifest.join("kernels")],
        emulator: None,
    });
}
