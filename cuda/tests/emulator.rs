//! The emulator itself: seeded faults are caught, clean kernels pass in every mode, each instruction does what it says.
//!
//! The kernels under `tests/faults` are compiled with the emulator into a program of their own, so that neither they nor
//! a sanitised emulator end up in the crate. `tests/faults/main.cpp` says what it prints.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Seeded faults that the emulator is known to catch; fewer mean that some were left out.
const FAULTS: usize = 67;

#[test]
fn every_seeded_fault_is_caught_in_every_mode_and_clean_kernels_pass() {
    let Some(program) = build("faults", &["-O2"]) else { return };
    let report = run(&program);
    let faults: Vec<_> = report.lines().filter(|line| line.starts_with("caught ")).collect();
    assert_eq!(faults.len(), FAULTS, "{report}");
    for line in faults {
        assert!(line.contains(" 8/8:"), "not caught in every mode: {line}");
    }
}

#[test]
fn the_emulator_is_clean_under_the_address_and_undefined_behaviour_sanitisers() {
    let sanitised = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    if !compiles(&sanitised) {
        eprintln!("skipped: the compiler has no sanitisers");
        return;
    }
    let Some(program) = build("faults-sanitised", &sanitised) else { return };
    run(&program);
}

#[test]
fn every_instruction_compiles_for_every_chip_to_what_its_name_says() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fetched = crate_root.join("../.nvcc/nvidia/cu13/bin/nvcc");
    let nvcc = std::env::var_os("NVCC").filter(|path| !path.is_empty()).map_or(fetched, PathBuf::from);
    let disassembler = nvcc.with_file_name("cuobjdump");
    if !nvcc.is_file() || !disassembler.is_file() {
        eprintln!("skipped: no nvcc with cuobjdump (scripts/fetch-nvcc)");
        return;
    }
    let any = ["IMMA.16832.S8.S8", "HMMA.16816.F32", "HMMA.16816.F16", "REDUX.SUM", "IDP.4A.S8.S8", "LDGSTS.E.BYPASS.128"];
    let e4m3 = ["QMMA.16832.F32.E4M3.E4M3", "QMMA.16832.F16.E4M3.E4M3"];
    let hopper = ["IGMMA.64x128x32.S8.S8", "QGMMA.64x128x32.F32.E4M3.E4M3", "HGMMA.64x136x16.F32.BF16", "STSM.16.M88.4", "SYNCS.PHASECHK"];
    let tensors = ["UTMALDG.2D", "UTMALDG.3D", "UTMASTG.2D", "UTMASTG.3D", "UTMACCTL.PF"];
    let all =
        [("80", &[][..]), ("89", &e4m3), ("90a", &hopper), ("120a", &e4m3)].map(|(chip, more)| ("instructions", chip, &any[..], more));
    for (file, chip, any, more) in all.into_iter().chain([("tensor_copies", "90a", &tensors[..], &[][..])]) {
        let cubin = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{file}-{chip}.cubin"));
        let mut command = Command::new(&nvcc);
        command.args(["-std=c++17", "-O3", "-fmad=false", "--Werror=all-warnings", "--expt-relaxed-constexpr", "-cubin"]);
        command.arg(format!("-gencode=arch=compute_{chip},code=sm_{chip}")).arg("-I").arg(crate_root.join("kernels"));
        command.arg("-o").arg(&cubin).arg(crate_root.join(format!("tests/faults/{file}.cu")));
        succeed(&mut command, chip);
        let code = succeed(Command::new(&disassembler).arg("-sass").arg(&cubin), chip);
        for instruction in any.iter().chain(more) {
            assert!(code.contains(instruction), "{file}.cu on sm_{chip} has no {instruction}");
        }
    }
}

/// Compiles the emulator, the kernels with faults and their program, two files at a time; `None` without a compiler.
fn build(name: &str, flags: &[&str]) -> Option<PathBuf> {
    if !compiles(&[]) {
        eprintln!("skipped: no C++ compiler");
        return None;
    }
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&out).expect("a folder for the objects");
    let sources: Vec<_> =
        files(&crate_root.join("emulator"), &["cpp"]).into_iter().chain(files(&crate_root.join("tests/faults"), &["cpp", "cu"])).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    compile(crate_root, source, &object(&out, source), flags);
                }
            });
        }
    });
    let program = out.join(name);
    let mut link = compiler();
    link.args(flags).args(sources.iter().map(|source| object(&out, source))).arg("-o").arg(&program);
    succeed(&mut link, "linking");
    Some(program)
}

fn compile(crate_root: &Path, source: &Path, object: &Path, flags: &[&str]) {
    let (kernels, emulator) = (crate_root.join("kernels"), crate_root.join("emulator"));
    let mut command = compiler();
    command.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off", "-DTW_EMULATOR"]);
    command.args(flags).arg("-I").arg(kernels).arg("-I").arg(&emulator);
    command.arg("-include").arg(emulator.join("device.h")).args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(object);
    succeed(&mut command, &source.display().to_string());
}

fn run(program: &Path) -> String {
    succeed(&mut Command::new(program), "the seeded faults")
}

/// Runs a command that must succeed and returns what it printed.
fn succeed(command: &mut Command, what: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{what}: {}\n{said}", output.status);
    said
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CXX").filter(|name| !name.is_empty()).unwrap_or_else(|| "g++".into()))
}

/// Whether there is a compiler that takes these flags.
fn compiles(flags: &[&str]) -> bool {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probe-{}", flags.len()));
    let source = out.with_extension("cpp");
    std::fs::write(&source, "int main() { return 0; }\n").expect("a file in the target folder");
    compiler().args(flags).arg(&source).arg("-o").arg(&out).output().is_ok_and(|output| output.status.success())
}

fn object(out: &Path, source: &Path) -> PathBuf {
    out.join(source.file_name().expect("a file")).with_extension("o")
}

fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of the crate");
    let has_one = |path: &PathBuf| path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(has_one).collect();
    paths.sort();
    paths
}
