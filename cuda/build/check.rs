//! What the tests of every crate with kernels ask of what nvcc made: included by them, not by a build.

use std::path::Path;
use std::process::Command;

use turbowan_cuda::device::{Compiled, KernelFile, Limits};

/// The files that were compiled, or a line that says why none was.
fn compiled(files: &'static [&'static KernelFile]) -> impl Iterator<Item = (&'static str, &'static Compiled)> {
    if files.iter().any(|file| file.compiled.is_none()) {
        println!("skipped: no nvcc");
    }
    files.iter().filter_map(|file| Some((file.name, file.compiled.as_ref()?)))
}

/// No kernel spills or has local memory on any chip, and its static shared memory fits.
pub fn demand_resources(files: &'static [&'static KernelFile]) {
    let mut faults = Vec::new();
    for (file, compiled) in compiled(files) {
        assert!(!compiled.usage.is_empty(), "{file}.cu: the report names no kernel");
        for chip in compiled.chips {
            assert!(compiled.usage.iter().any(|usage| usage.chip == *chip), "{file}.cu: the report lacks {chip}");
        }
        for usage in compiled.usage {
            println!(
                "{:<28} {:<8} {:>3} registers {:>6} shared bytes {:>3} stack {:>3} spilled",
                usage.kernel, usage.chip, usage.registers, usage.shared_bytes, usage.stack_bytes, usage.spill_bytes
            );
            if usage.stack_bytes + usage.spill_bytes > 0 || usage.shared_bytes > Limits::of_target(usage.chip).shared_bytes {
                faults.push(format!("{file}.cu: {usage:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "spills, local memory or too much shared memory:\n{}", faults.join("\n"));
}

/// The machine code has the instructions that the headers of the files name.
pub fn demand_instructions(files: &'static [&'static KernelFile], cuobjdump: Option<&str>) {
    let Some(cuobjdump) = cuobjdump.filter(|program| Path::new(program).is_file()) else {
        println!("skipped: no cuobjdump");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut faults = Vec::new();
    for (file, compiled) in compiled(files) {
        assert!(!compiled.instructions.is_empty(), "{file}.cu: its header has no line `// sass:`");
        let fatbin = folder.path().join(format!("{file}.fatbin"));
        std::fs::write(&fatbin, compiled.fatbin).unwrap();
        for chip in compiled.chips {
            let output = Command::new(cuobjdump).args(["--dump-sass", "--gpu-architecture", chip]).arg(&fatbin).output().unwrap();
            assert!(output.status.success(), "cuobjdump: {}", String::from_utf8_lossy(&output.stderr));
            let code = String::from_utf8_lossy(&output.stdout);
            let meant = |wanted: &str| wanted == "all" || format!("sm_{wanted}") == *chip;
            for word in compiled.instructions.iter().filter(|(wanted, _)| meant(wanted)).flat_map(|(_, words)| *words) {
                if !code.lines().any(|line| has(line, word)) {
                    faults.push(format!("{file}.cu on {chip}: no {word}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "instructions that were meant are missing:\n{}", faults.join("\n"));
}

/// Whether a line of machine code is an instruction with every part of `word`: `LDG.128` is in `LDG.E.128.CONSTANT`.
fn has(line: &str, word: &str) -> bool {
    let mut wanted = word.split('.');
    let name = wanted.next().unwrap_or_default();
    let found = |token: &str| token.split('.').next() == Some(name);
    let Some(instruction) = line.split_whitespace().find(|token| found(token)) else { return false };
    let parts: Vec<_> = instruction.trim_end_matches(';').split('.').collect();
    wanted.all(|part| parts.contains(&part))
}
