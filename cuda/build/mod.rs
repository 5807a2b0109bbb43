//! Builds a crate's `kernels/*.cu` and writes the Rust constants that hold them.
//!
//! Every crate with kernels has a `build.rs` of a few lines over [`build`]. What it leaves in `OUT_DIR`:
//!
//! - `kernels.rs`: one constant for each file, to be included by `turbowan_cuda::embed_kernels!()`;
//! - `<file>.json`: registers, spills, stack and shared memory of each kernel on each chip (with nvcc);
//! - the kernels of the emulator, linked into the crate.

mod emulator;
mod nvcc;
mod report;
mod source;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use source::Source;

/// The folders of a crate's build.
pub struct Crate<'a> {
    /// Name of the archive of its emulated kernels, unique in a program.
    pub library: &'a str,
    /// The crate's folder.
    pub manifest: &'a Path,
    /// Folders of headers: the shared ones first.
    pub includes: Vec<PathBuf>,
    /// The emulator's sources, in the crate that has them.
    pub emulator: Option<PathBuf>,
}

impl<'a> Crate<'a> {
    /// A crate above `turbowan-cuda`, whose headers it takes from what that crate's build handed on:
    ///
    /// ```ignore
    /// #[path = "../cuda/build/mod.rs"]
    /// mod kernels;
    ///
    /// fn main() {
    ///     kernels::build(&kernels::Crate::above("turbowan_sage_kernels", std::path::Path::new(env!("CARGO_MANIFEST_DIR"))));
    /// }
    /// ```
    #[allow(dead_code, reason = "for the crates above")]
    pub fn above(library: &'a str, manifest: &'a Path) -> Self {
        let handed = ["DEP_TURBOWAN_KERNELS_INCLUDE", "DEP_TURBOWAN_KERNELS_EMULATOR"];
        let shared = handed.into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        Self { library, manifest, includes: shared.chain([manifest.join("kernels")]).collect(), emulator: None }
    }
}

/// Builds everything and prints what cargo must know; ends the build where a kernel does not compile.
pub fn build(this: &Crate<'_>) {
    if let Err(why) = try_build(this) {
        eprintln!("{why}");
        std::process::exit(1);
    }
}

fn try_build(this: &Crate<'_>) -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let folder = this.manifest.join("kernels");
    for place in this.includes.iter().chain([&folder]).chain(&this.emulator) {
        println!("cargo::rerun-if-changed={}", place.display());
    }
    for variable in ["NVCC", "CUDA_HOME", "NVCC_APPEND_FLAGS", "TURBOWAN_KERNELS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let root = this.manifest.parent().unwrap_or(this.manifest);

    let sources = Source::all(&folder)?;
    println!("cargo::rustc-check-cfg=cfg(emulator)");
    if !emulator::knows_target() {
        println!("cargo::warning=built without the kernel emulator: it has no fibers for this target");
    } else if emulator::build(this.library, &sources, &this.includes, this.emulator.as_deref(), &out)? {
        println!("cargo::rustc-cfg=emulator");
    } else {
        println!("cargo::warning=built without the kernel emulator: no C++ compiler");
    }

    let nvcc = nvcc::Nvcc::find(root);
    let mut fatbins = Vec::new();
    match &nvcc {
        Ok(nvcc) => {
            for result in nvcc.compile_all(&sources, &this.includes, &out) {
                fatbins.push(result?);
            }
            if let Some(tool) = nvcc.neighbour("cuobjdump") {
                println!("cargo::rustc-env=TURBOWAN_CUOBJDUMP={}", tool.display());
            }
        }
        Err(why) => println!("cargo::warning={why}: built without GPU kernels (scripts/fetch-nvcc fetches a compiler)"),
    }
    write_constants(&out, &sources, nvcc.ok().map(|nvcc| nvcc.release), &fatbins)
}

fn write_constants(out: &Path, sources: &[Source], release: Option<(u32, u32)>, fatbins: &[Option<nvcc::Fatbin>]) -> Result<(), String> {
    let mut text = String::new();
    for (index, source) in sources.iter().enumerate() {
        let compiled = match (release, fatbins.get(index)) {
            (Some(release), Some(Some(fatbin))) => {
                let usage = report::json(&fatbin.usage);
                write(&out.join(format!("{}.json", source.name)), &usage)?;
                compiled(source, release, fatbin)
            }
            _ => "None".to_owned(),
        };
        text.push_str(&format!(
            "/// `kernels/{}.cu`.\npub static {}: ::turbowan_cuda::device::KernelFile = ::turbowan_cuda::device::KernelFile {{\n    name: {:?},\n    compiled: {compiled},\n}};\n\n",
            source.name,
            source.constant(),
            source.name,
        ));
    }
    let all = sources.iter().map(|source| format!("&{}", source.constant())).collect::<Vec<_>>().join(", ");
    text.push_str(&format!("/// Every kernel file of this crate.\npub static ALL: &[&::turbowan_cuda::device::KernelFile] = &[{all}];\n"));
    write(&out.join("kernels.rs"), &text)
}

fn compiled(source: &Source, (major, minor): (u32, u32), fatbin: &nvcc::Fatbin) -> String {
    let usage = fatbin.usage.iter().map(|u| {
        format!(
            "::turbowan_cuda::device::Usage {{ kernel: {:?}, chip: \"sm_{}\", registers: {}, stack_bytes: {}, spill_bytes: {}, shared_bytes: {} }}",
            u.kernel, u.chip, u.registers, u.stack_bytes, u.spill_bytes, u.shared_bytes
        )
    });
    let chips = source.chips.iter().map(|chip| format!("\"sm_{chip}\"")).collect::<Vec<_>>().join(", ");
    let sass = source.sass.iter().map(|(chip, words)| format!("({chip:?}, &{words:?})")).collect::<Vec<_>>().join(", ");
    format!(
        "Some(::turbowan_cuda::device::Compiled {{\n        fatbin: include_bytes!({:?}),\n        release: ({major}, {minor}),\n        chips: &[{chips}],\n        ptx: {:?},\n        usage: &[\n            {},\n        ],\n        instructions: &[{sass}],\n    }})",
        fatbin.path,
        source.ptx.map(|ptx| format!("compute_{ptx}")),
        usage.collect::<Vec<_>>().join(",\n            "),
    )
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// `work` on each item, on `jobs` threads; results in the order of the items.
fn parallel<T: Sync, R: Send>(jobs: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let state = Mutex::new((0..items.len(), Vec::with_capacity(items.len())));
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let Some(index) = lock().0.next() else { break };
                    let result = work(&items[index]);
                    lock().1.push((index, result));
                }
            });
        }
    });
    let mut results = std::mem::take(&mut lock().1);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
