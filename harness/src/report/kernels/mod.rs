//! Every kernel on every chip: what it takes of a multiprocessor, how many fit, and what its hot loop must cost.
//!
//! Registers, spills and static shared memory are ptxas's words, embedded by the build; threads and machine code are read from
//! the embedded fatbins by cuobjdump; the rest is arithmetic ([`chips`], [`budget`]).

pub mod budget;
pub mod chips;
pub mod loops;
mod page;
pub mod sass;
pub mod shared;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use turbowan_cuda::device::{Compiled, KernelFile, Usage};

use crate::error::Error;
use budget::Budget;
use chips::{Occupancy, limits};
pub use page::markdown;
use shared::{Dynamic, dynamic};

/// The crates that have kernels.
fn files() -> impl Iterator<Item = (&'static str, &'static KernelFile)> {
    let crates = [("cuda", turbowan_cuda::kernels::ALL), ("sage", turbowan_sage::kernels::ALL), ("sla", turbowan_sla::kernels::ALL)];
    crates.into_iter().flat_map(|(name, files)| files.iter().map(move |file| (name, *file)))
}

/// One kernel on one chip.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its crate and file.
    pub file: String,
    /// Its name.
    pub kernel: String,
    /// Its chip.
    pub chip: String,
    /// Threads of a block, as its launch bounds say; none where the machine code does not.
    pub threads: Option<u32>,
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread in bytes.
    pub stack_bytes: u32,
    /// Bytes spilled.
    pub spill_bytes: u32,
    /// Static shared memory in bytes.
    pub static_shared_bytes: u32,
    /// Dynamic shared memory in bytes; none where no line says it.
    pub dynamic_shared_bytes: Option<u32>,
    /// The shape at which that is so, where it depends on one.
    pub at: Option<&'static str>,
    /// Blocks at once; none where threads are not known. Without the dynamic shared memory it is the most there can be.
    pub occupancy: Option<Occupancy>,
    /// Instructions of the whole kernel.
    pub instructions: usize,
    /// The hot loop, of a kernel that multiplies matrices in one: all its instructions.
    pub hot_loop: Option<Budget>,
    /// The shortest way through it.
    pub hot_way: Option<Budget>,
    /// All of a kernel that multiplies no matrices in a loop, each instruction once.
    pub once: Option<Budget>,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What it is, in words.
    pub what: &'static str,
    /// CUDA release of the compiler.
    pub cuda: String,
    /// cuobjdump's own version.
    pub cuobjdump: String,
    /// Files that this build has no machine code of.
    pub not_compiled: Vec<String>,
    /// Chips whose numbers were used, and what of them is assumed.
    pub chips: Vec<ChipNote>,
    /// Kernels, in the order of files, kernels, chips.
    pub kernels: Vec<Row>,
}

/// What a reader must know of a chip's numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChipNote {
    /// In nvcc's words.
    pub chip: &'static str,
    /// Cards.
    pub cards: &'static str,
    /// What is assumed.
    pub assumed: &'static str,
}

const WHAT: &str = "Resources from ptxas and the machine code; occupancy and cycle budgets are predicted, not measured.";

/// Finds cuobjdump: `$CUOBJDUMP`, `.nvcc` of this folder or of one above the program, `$CUDA_HOME`, `$PATH`.
///
/// # Errors
/// When there is none, with the command that fetches one.
pub fn find_cuobjdump() -> Result<PathBuf, Error> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let fetched = Path::new(".nvcc/nvidia/cu13/bin/cuobjdump");
    let program = std::env::current_exe().unwrap_or_default();
    let above = program.ancestors().skip(1).map(|folder| folder.join(fetched));
    let homes = variable("CUDA_HOME").map(|home| home.join("bin/cuobjdump"));
    let places = variable("CUOBJDUMP").into_iter().chain([fetched.to_owned()]).chain(above).chain(homes);
    places.filter(|place| place.is_file()).chain(["cuobjdump".into()]).find(|place| run(place, &["--version".as_ref()]).is_ok()).ok_or_else(
        || {
            Error::flag(
                "report kernels",
                "no cuobjdump, which reads the machine code: scripts/fetch-nvcc fetches one, or name it in $CUOBJDUMP",
            )
        },
    )
}

/// Reads the embedded machine code of every kernel.
///
/// # Errors
/// A build without kernels, or what cuobjdump says.
pub fn report(cuobjdump: &Path) -> Result<Report, Error> {
    report_of(cuobjdump, &|_| true)
}

/// The same of some chips.
fn report_of(cuobjdump: &Path, wants: &dyn Fn(&str) -> bool) -> Result<Report, Error> {
    let scratch = Scratch::new()?;
    let (mut rows, mut not_compiled, mut cuda) = (Vec::new(), Vec::new(), String::new());
    for (part, file) in files() {
        let name = format!("{part}/{}.cu", file.name);
        let Some(compiled) = &file.compiled else {
            not_compiled.push(name);
            continue;
        };
        cuda = format!("{}.{}", compiled.release.0, compiled.release.1);
        rows.extend(rows_of(&name, compiled, cuobjdump, &scratch, wants)?);
    }
    if rows.is_empty() {
        return Err(Error::flag(
            "report kernels",
            "this program was built without nvcc and holds no machine code: scripts/fetch-nvcc, then build again",
        ));
    }
    let version = run(cuobjdump, &["--version".as_ref()]).map_err(|why| Error::broken(cuobjdump, why))?;
    let version = version.lines().find_map(|line| line.split("release ").nth(1)).unwrap_or("unknown").trim().to_owned();
    let known = chips::CHIPS.iter().filter(|chip| rows.iter().any(|row| row.chip == chip.target));
    let chips = known.map(|chip| ChipNote { chip: chip.target, cards: chip.cards, assumed: chip.assumed }).collect();
    Ok(Report { what: WHAT, cuda, cuobjdump: version, not_compiled, chips, kernels: rows })
}

fn rows_of(name: &str, compiled: &Compiled, cuobjdump: &Path, scratch: &Scratch, wants: &dyn Fn(&str) -> bool) -> Result<Vec<Row>, Error> {
    let fatbin = scratch.0.join("file.fatbin");
    std::fs::write(&fatbin, compiled.fatbin).map_err(|source| Error::Read { path: fatbin.clone(), source })?;
    let dump = |what: &str, chip: &str| {
        let said = run(cuobjdump, &[what.as_ref(), "--gpu-architecture".as_ref(), chip.as_ref(), fatbin.as_os_str()]);
        said.map_err(|why| Error::broken(cuobjdump, format!("{name} on {chip}: {why}")))
    };
    // launch bounds are the source's, the same on every chip; a dump takes seconds
    let threads = match compiled.chips.first() {
        Some(chip) => sass::max_threads(&dump("--dump-elf", chip)?),
        None => Default::default(),
    };
    let mut rows = Vec::new();
    for chip in compiled.chips.iter().filter(|chip| wants(chip)) {
        let code = sass::parse(&dump("--dump-sass", chip)?);
        for usage in compiled.usage.iter().filter(|usage| usage.chip == *chip) {
            let function = code.get(usage.kernel).map(Vec::as_slice).unwrap_or_default();
            rows.push(row(name, usage, function, threads.get(usage.kernel).copied()));
        }
    }
    // by kernel, then by chip: what is to be compared stands together
    rows.sort_by(|a: &Row, b: &Row| a.kernel.cmp(&b.kernel));
    Ok(rows)
}

fn row(file: &str, usage: &Usage, function: &[sass::Instruction], threads: Option<u32>) -> Row {
    let chip = limits(usage.chip);
    let asked = dynamic(usage.kernel);
    let shared = usage.shared_bytes + asked.bytes().unwrap_or(0);
    let hot = chip.zip(loops::hot_loop(function));
    // after the end there is a loop that goes nowhere, and padding
    let is_filler = |instruction: &sass::Instruction| instruction.name == "NOP" || instruction.target == Some(instruction.address);
    let whole: Vec<&sass::Instruction> = function.iter().filter(|instruction| !is_filler(instruction)).collect();
    Row {
        file: file.to_owned(),
        kernel: usage.kernel.to_owned(),
        chip: usage.chip.to_owned(),
        threads,
        registers: usage.registers,
        stack_bytes: usage.stack_bytes,
        spill_bytes: usage.spill_bytes,
        static_shared_bytes: usage.shared_bytes,
        dynamic_shared_bytes: asked.bytes(),
        at: if let Dynamic::At(_, shape) = asked { Some(shape) } else { None },
        occupancy: chip.zip(threads).map(|(chip, threads)| chip.multiprocessor.occupancy(threads, usage.registers, shared)),
        instructions: whole.len(),
        hot_loop: hot.as_ref().and_then(|(chip, hot)| Budget::of(&hot.body, chip)),
        once: if hot.is_some() { None } else { chip.and_then(|chip| Budget::of(&whole, chip)) },
        hot_way: hot.as_ref().and_then(|(chip, hot)| Budget::of(&hot.shortest, chip)),
    }
}

/// What a program says.
fn run(program: &Path, arguments: &[&std::ffi::OsStr]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|why| why.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A folder that is gone with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("turbowan-report-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // a scratch file that stays behind harms nobody
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_page_has_the_kernels_of_this_build() {
        // registers and clocks are those of the compiler that made the page: another's are others
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reports/kernels/kernels.json");
        let page: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(page).unwrap()).unwrap();
        let rows = page["kernels"].as_array().unwrap();
        let recorded: std::collections::BTreeSet<_> = rows.iter().map(|row| (row["kernel"].as_str(), row["chip"].as_str())).collect();
        let compiled = files().filter_map(|(_, file)| file.compiled.as_ref()).flat_map(|compiled| compiled.usage);
        let missing: Vec<_> = compiled.filter(|usage| !recorded.contains(&(Some(usage.kernel), Some(usage.chip)))).collect();
        assert!(missing.is_empty(), "`turbowan report kernels` was not run since these came: {missing:?}");
        let is_known = |row: &&serde_json::Value| files().any(|(part, file)| row["file"] == format!("{part}/{}.cu", file.name));
        assert!(rows.iter().all(|row| is_known(&row)), "a file that is no more");
        // the table of `shared` needs no compiler: what the page was made without is found on any machine
        let is_stated = |row: &&serde_json::Value| row["dynamic_shared_bytes"].as_u64().is_some();
        let unstated: Vec<_> = rows.iter().filter(|row| !is_stated(row)).map(|row| &row["kernel"]).collect();
        assert!(unstated.is_empty(), "kernels whose dynamic shared memory is not stated: {unstated:?}");
    }

    #[test]
    fn every_kernel_of_this_build_has_a_row_on_each_of_its_chips() {
        if files().all(|(_, file)| file.compiled.is_none()) {
            return println!("skipped: no nvcc");
        }
        // every kernel is on one of these; a dump takes a second
        let chips = ["sm_89", "sm_90a"];
        let report = report_of(&find_cuobjdump().unwrap(), &|chip| chips.contains(&chip)).unwrap();
        let usage = files().filter_map(|(_, file)| file.compiled.as_ref()).flat_map(|compiled| compiled.usage);
        assert_eq!(report.kernels.len(), usage.filter(|usage| chips.contains(&usage.chip)).count());
        for row in &report.kernels {
            assert!(row.threads.is_some_and(|threads| (32..=1024).contains(&threads)), "{row:?}");
            assert!(row.occupancy.is_some() && row.instructions > 0, "{row:?}");
        }
        // products have a loop of products, and no more of the peak than there is
        for row in report.kernels.iter().filter(|row| row.kernel.starts_with("gemm_i8_mma")) {
            let hot = row.hot_loop.unwrap();
            assert!(hot.counts.warp_tensor + hot.counts.group_tensor >= 32, "{row:?}");
            assert!(hot.share_of_peak > 0.1, "{row:?}");
        }
        for row in report.kernels.iter().filter(|row| row.hot_loop.is_some()) {
            let (all, way) = (row.hot_loop.unwrap(), row.hot_way.unwrap());
            assert!(all.share_of_peak > 0.0 && all.share_of_peak <= 1.0 && way.share_of_peak <= 1.0, "{row:?}");
            assert!(way.counts.issued <= all.counts.issued && way.operations > 0.0, "{row:?}");
        }
        for row in report.kernels.iter().filter(|row| row.hot_loop.is_none()) {
            let once = row.once.unwrap();
            assert!(once.share_of_peak > 0.0 && once.share_of_peak <= 1.0 && once.counts.global > 0, "{row:?}");
        }
        // where warpgroups multiply, the loop is theirs; a wait behind the end is no loop
        for row in report.kernels.iter().filter(|row| row.kernel.contains("_wgmma")) {
            let hot = row.hot_loop.unwrap();
            assert!(hot.counts.group_tensor >= 4 && hot.counts.warp_tensor == 0, "{row:?}");
        }
        assert!(report.kernels.iter().all(|row| row.dynamic_shared_bytes.is_some()), "a kernel whose dynamic shared memory is not stated");
        let page = markdown(&report);
        assert!(page.contains("not measured") && report.kernels.iter().all(|row| page.contains(&row.kernel)));
    }
}
