//! Builds this crate's kernels over the headers and the emulator of `turbowan-cuda`.

#[path = "../cuda/build/mod.rs"]
mod kernels;

fn main() {
    kernels::build(&kernels::Crate::above("turbowan_sage_kernels", std::path::Path::new(env!("CARGO_MANIFEST_DIR"))));
}
