//! Compiles `kernels/*.cu` to one fatbin a file, where there is an nvcc.
//!
//! Each file is compiled once for every chip by nvcc's own driver, two files at a time, and `fatbinary` joins the
//! results. What was compiled stays in `OUT_DIR` under the hash of everything it was made from, so that a build compiles
//! only what changed. Beside each fatbin lies what ptxas said of its kernels: registers, spills, stack, shared memory.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::parallel;
use super::report::{self, Usage};
use super::source::{self, Source};

/// nvcc processes at a time: each needs about one core and 300 MB.
const JOBS: usize = 2;

/// The first release that knows every chip here.
const OLDEST: (u32, u32) = (12, 8);

/// What every kernel is compiled with: a warning is an error, and a product is fused with a sum only where the source
/// says so (the emulator's build agrees). nvcc itself also reads `NVCC_APPEND_FLAGS`, e.g. `-lineinfo` for a profiler.
const FLAGS: [&str; 7] =
    ["-std=c++17", "-O3", "-fmad=false", "--Werror=all-warnings", "--resource-usage", "--expt-relaxed-constexpr", "-Xfatbin=-compress-all"];

/// A CUDA compiler.
pub struct Nvcc {
    program: PathBuf,
    /// CUDA release, e.g. (13, 0).
    pub release: (u32, u32),
}

/// One compiled file.
pub struct Fatbin {
    pub path: PathBuf,
    pub usage: Vec<Usage>,
}

impl Nvcc {
    /// `$NVCC` where that is set, else the first of `.nvcc/` at the root of the repository, `$CUDA_HOME/bin` and `$PATH`
    /// that runs. `Err` says what a build without one should be told.
    pub fn find(root: &Path) -> Result<Self, String> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let places = match variable("NVCC") {
            Some(named) => vec![named],
            None => {
                let home = variable("CUDA_HOME").map(|home| home.join("bin/nvcc"));
                [root.join(".nvcc/nvidia/cu13/bin/nvcc")].into_iter().chain(home).chain([PathBuf::from("nvcc")]).collect()
            }
        };
        let mut why = "no nvcc".to_owned();
        for place in places {
            match Self::at(place.clone()) {
                Some(nvcc) if nvcc.release >= OLDEST => return Ok(nvcc),
                Some(Self { release: (major, minor), .. }) => {
                    why = format!("{} is CUDA {major}.{minor}, older than {}.{}", place.display(), OLDEST.0, OLDEST.1);
                }
                None => {}
            }
        }
        Err(why)
    }

    fn at(program: PathBuf) -> Option<Self> {
        let output = Command::new(&program).arg("--version").output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let release = text.split("release ").nth(1)?.split(',').next()?;
        let (major, minor) = release.split_once('.')?;
        Some(Self { program, release: (major.trim().parse().ok()?, minor.trim().parse().ok()?) })
    }

    /// A tool that stands beside nvcc, if it does.
    pub fn neighbour(&self, tool: &str) -> Option<PathBuf> {
        let path = self.program.parent()?.join(tool);
        path.is_file().then_some(path)
    }

    /// Compiles the `sources` that are wanted, `JOBS` at a time, into `out`; one result a source, in their order.
    pub fn compile_all(&self, sources: &[Source], includes: &[PathBuf], out: &Path) -> Vec<Result<Option<Fatbin>, String>> {
        parallel(JOBS, sources, |source| source.is_wanted().then(|| self.compile(source, includes, out)).transpose())
    }

    fn compile(&self, source: &Source, includes: &[PathBuf], out: &Path) -> Result<Fatbin, String> {
        let mut hasher = DefaultHasher::new();
        source::hash_with_includes(&source.path, includes, &mut hasher);
        (&source.chips, source.ptx, self.release, FLAGS, std::env::var_os("NVCC_APPEND_FLAGS")).hash(&mut hasher);
        let stem = format!("{}-{:016x}", source.name, hasher.finish());
        let (fatbin, log) = (out.join(format!("{stem}.fatbin")), out.join(format!("{stem}.log")));
        let cached = fatbin.is_file().then(|| std::fs::read_to_string(&log).ok()).flatten();
        let said = match cached {
            Some(said) => said,
            None => {
                let said = self.run(source, includes, &fatbin)?;
                std::fs::write(&log, &said).map_err(|error| format!("{}: {error}", log.display()))?;
                said
            }
        };
        // C7510 and its neighbours: wgmma that ptxas made wait for one another, which costs their overlap
        for line in said.lines().filter(|line| line.contains("(C75")) {
            println!("cargo::warning={}.cu: {line}", source.name);
        }
        Ok(Fatbin { usage: report::parse(&said).map_err(|error| format!("{}: {error}", source.name))?, path: fatbin })
    }

    fn run(&self, source: &Source, includes: &[PathBuf], fatbin: &Path) -> Result<String, String> {
        // Under its final name only when whole, so that a build that was stopped leaves nothing that looks cached.
        let partial = fatbin.with_extension("partial");
        let mut command = Command::new(&self.program);
        command.args(FLAGS).arg("-fatbin").arg("-o").arg(&partial);
        for chip in &source.chips {
            // Never `-arch`: with an `a` chip it would also build PTX for the plain chip, which has no wgmma.
            command.arg(format!("-gencode=arch=compute_{chip},code=sm_{chip}"));
        }
        if let Some(ptx) = source.ptx {
            command.arg(format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"));
        }
        for include in includes {
            command.arg("-I").arg(include);
        }
        let output = command.arg(&source.path).output().map_err(|error| format!("{}: {error}", self.program.display()))?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            return Err(format!("nvcc refused {}:\n{said}", source.path.display()));
        }
        std::fs::rename(&partial, fatbin).map_err(|error| format!("{}: {error}", fatbin.display()))?;
        Ok(said)
    }
}
