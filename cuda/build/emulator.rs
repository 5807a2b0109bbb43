//! Compiles `kernels/*.cu`, and in the crate that has it the emulator itself, for the CPU.
//!
//! Always, not for tests alone: the binary runs kernels on the emulator too (`verify --device emulator`), so every build
//! of it would need them anyway. A machine without a C++ compiler, or of a kind that the emulator's fibers do not know,
//! builds without, and `Device::emulated` then says so. A kernel that does not compile stops the build.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::parallel;
use super::source::{self, Source};

/// Whether the emulator has fibers for the target.
pub fn knows_target() -> bool {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    of("CARGO_CFG_TARGET_FAMILY") == "unix" && ["x86_64", "aarch64"].contains(&of("CARGO_CFG_TARGET_ARCH").as_str())
}

/// Compiles and links the sources of this crate; `emulator` is the folder of the emulator, compiled too where this is
/// its crate. `false` where there is no C++ compiler.
pub fn build(library: &str, sources: &[Source], includes: &[PathBuf], emulator: Option<&Path>, out: &Path) -> Result<bool, String> {
    let mut settings = cc::Build::new();
    settings.cpp(true).std("c++17").opt_level(2).extra_warnings(true).pic(true).includes(includes);
    // A product is fused with a sum only where the source says so, as under nvcc.
    settings.define("TW_EMULATOR", None).flag("-ffp-contract=off").flag("-Wno-unknown-pragmas").flag("-x").flag("c++");
    let compiler = settings.get_compiler();
    if compiler.to_command().arg("--version").output().is_err() {
        return Ok(false);
    }
    let header = includes.iter().map(|folder| folder.join("device.h")).find(|path| path.is_file());
    let header = header.ok_or("no device.h among the emulator's headers")?;

    let wanted = sources.iter().filter(|source| source.is_wanted());
    let mut files: Vec<(PathBuf, bool)> = wanted.map(|source| (source.path.clone(), true)).collect();
    files.extend(emulator.iter().flat_map(|folder| source::files(folder, &["cpp"])).map(|path| (path, false)));
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let objects = parallel(jobs, &files, |(path, is_kernel)| {
        let mut command = compiler.to_command();
        if *is_kernel {
            command.arg("-include").arg(&header);
        }
        object(command, path, &header, includes, out)
    });

    let mut archive = cc::Build::new();
    for object in objects {
        archive.object(object?);
    }
    // Kernels announce themselves from static constructors that nothing else refers to.
    archive.cpp(true).link_lib_modifier("+whole-archive").try_compile(library).map_err(|error| error.to_string())?;
    Ok(true)
}

/// Compiles one file, unless it has been: what was compiled stays under the hash of what it was made from.
fn object(mut command: Command, path: &Path, header: &Path, includes: &[PathBuf], out: &Path) -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    source::hash_with_includes(path, includes, &mut hasher);
    source::hash_with_includes(header, includes, &mut hasher);
    format!("{command:?}").hash(&mut hasher);
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let object = out.join(format!("{name}-{:016x}.o", hasher.finish()));
    if object.is_file() {
        return Ok(object);
    }
    // Under its final name only when whole.
    let partial = object.with_extension("partial");
    let output = command.arg("-c").arg(path).arg("-o").arg(&partial).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} does not compile for the emulator:\n{said}", path.display()));
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    std::fs::rename(&partial, &object).map_err(|error| format!("{}: {error}", object.display()))?;
    Ok(object)
}
