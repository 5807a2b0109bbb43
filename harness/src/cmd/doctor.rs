//! `turbowan doctor`: what this program holds, what this machine has, and which kernel each operation takes here.

use std::io::Write as _;

use clap::Args;
use serde_json::{Value, json};
use turbowan_cuda::device::{Chip, Device, EmulatorOptions, KernelFile, OpKernel, emulated_kernels};
use turbowan_cuda::host::Isa;
use turbowan_cuda::{kernels, ops};
use turbowan_wan_model::checkpoint::Statement;
use turbowan_wan_model::tiny::{Part, Set, Weights};

use crate::cmd::inspect::gates;
use crate::error::Error;

/// Says what is embedded, what this machine has, and which kernel each operation takes here.
#[derive(Debug, Args)]
pub struct Doctor {
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// A crate's kernel files, and the operations that take them.
struct CratePart {
    name: &'static str,
    files: &'static [&'static KernelFile],
    ops: &'static [&'static [OpKernel]],
}

const PARTS: [CratePart; 3] = [
    CratePart {
        name: "cuda",
        files: kernels::ALL,
        ops: &[
            &ops::quant::device::KERNELS,
            &ops::gemm_int8::device::KERNELS,
            &ops::gemm::device::KERNELS,
            &ops::norm::device::KERNELS,
            &ops::norm::channel::KERNELS,
            &ops::rope::device::KERNELS,
            &ops::conv3d::device::KERNELS,
            &ops::pixel_attention::KERNELS,
            &ops::elementwise::device::KERNELS,
            &ops::gather::device::KERNELS,
            &ops::bias_attention::device::KERNELS,
            &ops::activation::KERNELS,
            &ops::modulation::KERNELS,
            &ops::linear_f32::KERNELS,
            &ops::finite::KERNELS,
        ],
    },
    CratePart {
        name: "sage",
        files: turbowan_sage::kernels::ALL,
        ops: &[&turbowan_sage::device::KERNELS, &turbowan_sage::device::prepare::KERNELS],
    },
    CratePart {
        name: "sla",
        files: turbowan_sla::kernels::ALL,
        ops: &[
            &turbowan_sla::device::KERNELS,
            &turbowan_sla::device::attend::KERNELS,
            &turbowan_sla::device::inverse_map::KERNELS,
            &turbowan_sla::device::attend_backward::KERNELS,
            &turbowan_sla::device::linear::KERNELS,
            &turbowan_sla::device::linear_backward::KERNELS,
        ],
    },
];

/// Runs the command.
///
/// # Errors
/// When nobody takes the answer, or the embedded model is broken; what is missing on the machine is a part of the answer.
pub fn run(args: &Doctor) -> Result<(), Error> {
    let machine = Machine::look()?;
    let text = if args.json { format!("{:#}\n", machine.json()) } else { machine.text() };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough: `turbowan doctor | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Error::Read { path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}

struct Machine {
    cpu: Option<String>,
    memory_bytes: Option<u64>,
    driver: Result<(u32, u32), String>,
    devices: Vec<Result<Chip, String>>,
    /// Why there are no devices.
    no_device: Option<String>,
    emulator: Result<Vec<String>, String>,
    /// What the embedded model's parts hold.
    model: Vec<Held>,
}

/// A part of the embedded model.
struct Held {
    part: Part,
    weights: Weights,
    bytes: usize,
    statement: Statement,
}

impl Held {
    fn look() -> Result<Vec<Self>, Error> {
        let set = Set::embedded();
        let held = |part: Part| {
            Ok(Self { part, weights: set.weights(part), bytes: set.bytes(part)?.len(), statement: set.open(part)?.statement()? })
        };
        Part::ALL.into_iter().map(held).collect()
    }

    fn json(&self) -> Value {
        let (seed, hash) = match &self.weights {
            Weights::Trained { hash } => (None, Some(hash)),
            Weights::Random { seed } => (Some(seed), None),
        };
        let Statement { recipe, gates, .. } = &self.statement;
        json!({
            "part": self.part.name(),
            "trained": hash.is_some(),
            "blake3": hash,
            "seed": seed,
            "bytes": self.bytes,
            "recipe": recipe,
            "measured": gates,
        })
    }

    fn text(&self) -> String {
        let megabytes = self.bytes as f64 / 1e6;
        match &self.weights {
            Weights::Random { seed } => format!("random, seed {seed}, {megabytes:.1} MB"),
            Weights::Trained { .. } => {
                let recipe = self.statement.recipe.as_deref().unwrap_or("no recipe is stated");
                format!("trained, {megabytes:.1} MB: {recipe}; {}", gates(&self.statement))
            }
        }
    }
}

impl Machine {
    fn look() -> Result<Self, Error> {
        let (devices, no_device) = match Device::count() {
            Ok(0) => (Vec::new(), Some("the driver sees no device".to_owned())),
            Ok(count) => {
                ((0..count).map(|n| Device::open(n).map(|device| device.chip().clone()).map_err(|why| why.to_string())).collect(), None)
            }
            Err(why) => (Vec::new(), Some(why.to_string())),
        };
        Ok(Self {
            cpu: line_of("/proc/cpuinfo", "model name"),
            memory_bytes: line_of("/proc/meminfo", "MemTotal").and_then(|text| kibibytes(&text)),
            driver: Device::driver_version().map_err(|why| why.to_string()),
            devices,
            no_device,
            emulator: Device::emulated(EmulatorOptions::default()).map(|_| emulated_kernels()).map_err(|why| why.to_string()),
            model: Held::look()?,
        })
    }

    /// The first device that could be opened, and its number.
    fn device(&self) -> Option<(usize, &Chip)> {
        self.devices.iter().enumerate().find_map(|(number, chip)| Some((number, chip.as_ref().ok()?)))
    }

    /// What an operation runs on here: a kernel with the code it has for the device, or the host and the reason.
    fn taken(&self, op: &OpKernel) -> Taken {
        let Some((_, chip)) = self.device() else {
            return Taken::Host("no device".to_owned());
        };
        let (file, kernel) = (op.choose)(chip.capability);
        match file.compiled.as_ref().map(|compiled| compiled.code_for(chip.capability)) {
            None => Taken::Host("built without nvcc".to_owned()),
            Some(None) => Taken::Host(format!("{}.cu has no code for {}.{}", file.name, chip.capability.0, chip.capability.1)),
            Some(Some(code)) => Taken::Kernel { kernel, code },
        }
    }

    fn json(&self) -> Value {
        let files = PARTS.iter().flat_map(|part| part.files.iter().map(|file| file_json(part.name, file)));
        let ops = PARTS.iter().flat_map(|part| part.ops.iter().copied().flatten()).map(|op| match self.taken(op) {
            Taken::Kernel { kernel, code } => json!({ "op": op.op, "runs_on": "cuda", "kernel": kernel, "code": code }),
            Taken::Host(why) => json!({ "op": op.op, "runs_on": "host", "isa": isa_name(Isa::detect()), "why": why }),
        });
        let devices = self.devices.iter().enumerate().map(|(number, device)| match device {
            Ok(chip) => json!({
                "number": number,
                "name": chip.name,
                "capability": format!("{}.{}", chip.capability.0, chip.capability.1),
                "multiprocessors": chip.multiprocessors,
                "memory_bytes": chip.memory_bytes,
                "l2_bytes": chip.l2_bytes,
                "shared_bytes_of_a_block": chip.limits.shared_bytes,
            }),
            Err(why) => json!({ "number": number, "error": why }),
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            "cpu": {
                "name": self.cpu,
                "isa": isa_name(Isa::detect()),
                "available": Isa::available().into_iter().map(isa_name).collect::<Vec<_>>(),
                "threads": threads(),
                "memory_bytes": self.memory_bytes,
            },
            "driver": match &self.driver {
                Ok((major, minor)) => json!({ "cuda": format!("{major}.{minor}") }),
                Err(why) => json!({ "error": why }),
            },
            "devices": devices.collect::<Vec<_>>(),
            "no_device": self.no_device,
            "emulator": match &self.emulator {
                Ok(kernels) => json!({ "kernels": kernels }),
                Err(why) => json!({ "error": why }),
            },
            "embedded_model": self.model.iter().map(Held::json).collect::<Vec<_>>(),
            "kernels": files.collect::<Vec<_>>(),
            "ops": ops.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut text = format!("turbowan {} on {}-{}\n", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
        text += "\nthis machine\n";
        text += &line("processor", self.cpu.as_deref().unwrap_or("unknown"));
        let available: Vec<_> = Isa::available().into_iter().map(isa_name).collect();
        text += &line("instructions", &format!("{} (of {})", isa_name(Isa::detect()), available.join(", ")));
        text += &line("threads", &threads().to_string());
        text += &line("memory", &self.memory_bytes.map_or("unknown".to_owned(), gibibytes));
        text += &line("driver", &self.driver.as_ref().map_or_else(Clone::clone, |(major, minor)| format!("CUDA {major}.{minor}")));
        for (number, device) in self.devices.iter().enumerate() {
            let said = device.as_ref().map_or_else(Clone::clone, |chip| {
                format!(
                    "{}, compute capability {}.{}, {} multiprocessors, {}",
                    chip.name,
                    chip.capability.0,
                    chip.capability.1,
                    chip.multiprocessors,
                    gibibytes(chip.memory_bytes)
                )
            });
            text += &line(&format!("device {number}"), &said);
        }
        if let Some(why) = self.no_device.as_ref().filter(|_| self.driver.is_ok()) {
            text += &line("devices", why);
        }
        text += &line("emulator", &self.emulator.as_ref().map_or_else(Clone::clone, |kernels| format!("{} kernels", kernels.len())));

        text += "\nembedded model\n";
        for held in &self.model {
            text += &line(held.part.name(), &held.text());
        }

        text += "\nembedded kernels\n";
        for (part, file) in PARTS.iter().flat_map(|part| part.files.iter().map(move |file| (part.name, file))) {
            let said = file.compiled.as_ref().map_or("none: built without nvcc (scripts/fetch-nvcc fetches one)".to_owned(), |compiled| {
                let ptx = compiled.ptx.map(|ptx| format!(" + PTX {ptx}")).unwrap_or_default();
                let (major, minor) = compiled.release;
                format!("{}{ptx}, CUDA {major}.{minor}, {} bytes", compiled.chips.join(" "), compiled.fatbin.len())
            });
            text += &line(&format!("{part}/{}.cu", file.name), &said);
        }

        text += "\noperations\n";
        for op in PARTS.iter().flat_map(|part| part.ops.iter().copied().flatten()) {
            let said = match self.taken(op) {
                Taken::Kernel { kernel, code } => format!("{kernel} ({code})"),
                Taken::Host(why) => format!("host, {} ({why})", isa_name(Isa::detect())),
            };
            // the name can be longer than a label
            text += &format!("  {}\n      {said}\n", op.op);
        }
        text
    }
}

/// What an operation runs on.
enum Taken {
    Kernel { kernel: &'static str, code: &'static str },
    Host(String),
}

fn file_json(part: &str, file: &KernelFile) -> Value {
    let Some(compiled) = &file.compiled else {
        return json!({ "crate": part, "file": file.name, "compiled": false });
    };
    let usage = compiled.usage.iter().map(|usage| {
        json!({
            "kernel": usage.kernel,
            "chip": usage.chip,
            "registers": usage.registers,
            "stack_bytes": usage.stack_bytes,
            "spill_bytes": usage.spill_bytes,
            "shared_bytes": usage.shared_bytes,
        })
    });
    json!({
        "crate": part,
        "file": file.name,
        "compiled": true,
        "cuda": format!("{}.{}", compiled.release.0, compiled.release.1),
        "chips": compiled.chips,
        "ptx": compiled.ptx,
        "bytes": compiled.fatbin.len(),
        "usage": usage.collect::<Vec<_>>(),
    })
}

fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Scalar => "scalar",
        Isa::Neon => "neon",
        Isa::Avx2 => "avx2",
        Isa::Avx512 => "avx512",
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What stands behind `key:` in a file of the system.
fn line_of(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(found, _)| found.trim() == key)?;
    Some(value.trim().to_owned())
}

fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

fn line(label: &str, value: &str) -> String {
    format!("  {label:<22} {value}\n")
}
