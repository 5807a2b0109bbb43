//! No kernel is forgotten: each one of a crate is taken by some operation on some chip.

use turbowan_cuda::device::{KernelFile, emulated_kernels};

use super::ALL;
use crate::verify::runner::CHIPS;

/// Crates with kernels whose operations are all here.
const CRATES: &[(&str, &[&KernelFile])] = &[("cuda", turbowan_cuda::kernels::ALL)];

/// Kernels that operations take.
fn taken() -> Vec<&'static str> {
    let ops = ALL.iter().copied().flatten();
    ops.flat_map(|op| CHIPS.map(|chip| (op.kernels)(chip))).flatten().collect()
}

/// Kernels of a file: what nvcc said, or those of the emulator that are called like it.
fn kernels_of(file: &KernelFile, emulated: &[String]) -> Vec<String> {
    if let Some(compiled) = &file.compiled {
        return compiled.usage.iter().map(|usage| usage.kernel.to_owned()).collect();
    }
    emulated.iter().filter(|kernel| kernel.starts_with(file.name)).cloned().collect()
}

/// Names that no operation takes.
fn forgotten(files: &[&KernelFile], emulated: &[String], taken: &[&str]) -> Vec<String> {
    let mut kernels: Vec<String> = files.iter().flat_map(|file| kernels_of(file, emulated)).collect();
    kernels.retain(|kernel| !taken.contains(&kernel.as_str()));
    kernels.sort();
    kernels.dedup();
    kernels
}

#[test]
fn every_kernel_is_taken_by_an_operation() {
    let (emulated, taken) = (emulated_kernels(), taken());
    for (name, files) in CRATES {
        assert_eq!(forgotten(files, &emulated, &taken), [""; 0], "kernels of {name} that `turbowan verify` does not run");
    }
}

#[test]
fn a_kernel_that_no_operation_takes_is_named() {
    static NEW: KernelFile = KernelFile { name: "new", compiled: None };
    let emulated = ["new_one".to_owned(), "combine".to_owned()];
    assert_eq!(forgotten(&[&NEW], &emulated, &["combine"]), ["new_one"]);
    assert_eq!(forgotten(&[&NEW], &emulated, &["new_one"]), [""; 0]);
}
