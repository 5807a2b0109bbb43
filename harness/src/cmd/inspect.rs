//! `turbowan inspect [FILE|DIR|ORG/NAME]`: what a checkpoint, a model folder or the embedded model is, without loading it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use turbowan_wan_model::checkpoint::{Arrangement, Checkpoint, FoundDit, HeadsFrom, Kind, ModelFolder, Statement, Task, pickle_globals};
use turbowan_wan_model::config::TensorSpec;
use turbowan_wan_model::tiny::{Part, Set};

use crate::error::Error;

/// Says what a checkpoint or a model folder is: format, key layout, network, number formats, size.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A .safetensors, .pth, .pt or .bin file, an index of shards, a folder, or a model's name in the Hugging Face cache.
    /// [default: the embedded model]
    pub place: Option<PathBuf>,
    /// Also lists every tensor under its official name.
    #[arg(long)]
    pub tensors: bool,
    /// Also hashes the contents (BLAKE3); reads the whole file.
    #[arg(long)]
    pub hash: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the file or folder cannot be read or is no checkpoint. What a refused pickle asks for is shown all the same.
pub fn run(args: &Inspect) -> Result<(), Error> {
    let report = report(args)?;
    let text = if args.json { format!("{:#}\n", report.json) } else { report.text };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough: `turbowan inspect --tensors FILE | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Error::Read { path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}

/// What is shown: the same facts for a person and for a machine.
struct Report {
    text: String,
    json: Value,
}

fn report(args: &Inspect) -> Result<Report, Error> {
    match &args.place {
        None => of_embedded(args),
        Some(place) if place.is_file() || is_one_checkpoint(place) => of_file(place, args),
        Some(place) => Ok(of_folder(&ModelFolder::find(place)?)),
    }
}

/// The parts of the embedded model, one after another.
fn of_embedded(args: &Inspect) -> Result<Report, Error> {
    let set = Set::embedded();
    let (mut text, mut parts) = (String::new(), Vec::new());
    for part in Part::ALL {
        let checkpoint = set.open(part)?;
        let report = of_checkpoint(&checkpoint, args)?;
        text += &report.text;
        parts.push(report.json);
    }
    Ok(Report { text, json: json!({ "embedded": parts }) })
}

/// Whether a folder is a single checkpoint, in one file or in shards, with nothing else of a model around it.
fn is_one_checkpoint(place: &Path) -> bool {
    let part_of_a_model = |folder: &ModelFolder| {
        let parts = folder.transformers.len() + folder.vaes.len() + folder.text_encoders.len() + folder.unreadable.len();
        parts > 1 || folder.tokenizer.is_some() || folder.arrangement != Arrangement::Flat
    };
    place.is_dir() && !ModelFolder::find(place).is_ok_and(|folder| part_of_a_model(&folder))
}

fn of_file(place: &Path, args: &Inspect) -> Result<Report, Error> {
    let checkpoint = Checkpoint::open(place).map_err(|error| match pickle_globals(place) {
        Ok(globals) if !globals.is_empty() => {
            let named = globals.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
            Error::broken(place, format!("{}; its pickle names: {named}", without_path(&error.to_string(), place)))
        }
        _ => error.into(),
    })?;
    of_checkpoint(&checkpoint, args)
}

fn of_checkpoint(checkpoint: &Checkpoint, args: &Inspect) -> Result<Report, Error> {
    let place = checkpoint.path();
    let facts = Facts::of(checkpoint)?;
    let hash = args.hash.then(|| checkpoint.content_hash());
    let mut text = format!("{}\n{}", place.display(), facts.lines());
    if let Some(hash) = &hash {
        text.push_str(&line("BLAKE3", hash));
    }
    let mut json = facts.json();
    json["path"] = json!(place);
    json["blake3"] = json!(hash);
    if args.tensors {
        let mut listed = Vec::new();
        for name in checkpoint.names() {
            let (dtype, shape) = (checkpoint.dtype(name).map_or("?", |dtype| dtype.name()), checkpoint.shape(name).unwrap_or_default());
            text.push_str(&format!("  {dtype:<5} {:<22} {}\n", format!("{shape:?}"), name));
            listed.push(json!({ "name": name, "dtype": dtype, "shape": shape }));
        }
        json["tensors"] = Value::Array(listed);
    }
    Ok(Report { text, json })
}

/// An error's text without the path that the next error will put before it.
fn without_path<'a>(message: &'a str, path: &Path) -> &'a str {
    message.strip_prefix(&format!("{}: ", path.display())).unwrap_or(message)
}

/// What a checkpoint is.
struct Facts {
    format: &'static str,
    files: usize,
    bytes: usize,
    layout: Option<&'static str>,
    kind: Kind,
    tensors: usize,
    parameters: usize,
    dtypes: BTreeMap<&'static str, usize>,
    globals: Vec<String>,
    notes: Vec<String>,
    statement: Statement,
    /// Whether all tensors of the network are there and no others, or what does not fit.
    misfits: Option<String>,
}

impl Facts {
    fn of(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let kind = checkpoint.kind(None)?;
        let (mut parameters, mut dtypes) = (0, BTreeMap::new());
        for name in checkpoint.names() {
            // A scale belongs to its int8 weight and is no parameter of the network.
            if !name.ends_with(".scale") {
                parameters += checkpoint.shape(name).unwrap_or_default().iter().product::<usize>();
            }
            if let Some(dtype) = checkpoint.dtype(name) {
                *dtypes.entry(dtype.name()).or_default() += 1;
            }
        }
        let misfits = match specs(&kind) {
            Some(specs) => {
                checkpoint.check(&specs, |_| false).err().map(|error| without_path(&error.to_string(), checkpoint.path()).to_owned())
            }
            None => None,
        };
        Ok(Self {
            format: checkpoint.files().next().map_or("none", |(_, format, _)| format.name()),
            files: checkpoint.files().count(),
            bytes: checkpoint.files().map(|(_, _, bytes)| bytes).sum(),
            layout: checkpoint.layout().map(|layout| layout.name()),
            kind,
            tensors: checkpoint.names().count(),
            parameters,
            dtypes,
            globals: checkpoint.globals().to_vec(),
            notes: checkpoint.notes().to_vec(),
            statement: checkpoint.statement()?,
            misfits,
        })
    }

    fn lines(&self) -> String {
        let files = if self.files == 1 { String::new() } else { format!(" in {} files", self.files) };
        let mut text = line("format", &format!("{}, {}{files}", self.format, size(self.bytes)));
        text += &line("layout", self.layout.unwrap_or("no key layout of a known network"));
        text += &line("model", self.kind.model());
        for (label, value) in network(&self.kind) {
            text += &line(label, &value);
        }
        let dtypes: Vec<_> = self.dtypes.iter().map(|(name, count)| format!("{name} x {count}")).collect();
        text += &line("tensors", &format!("{} ({})", self.tensors, dtypes.join(", ")));
        text += &line("parameters", &grouped(self.parameters));
        if !self.globals.is_empty() {
            text += &line("pickle", &self.globals.join(", "));
        }
        if specs(&self.kind).is_some() {
            text += &line("complete", self.misfits.as_deref().unwrap_or("yes, and nothing else is in it"));
        }
        if let Some(recipe) = &self.statement.recipe {
            text += &line("recipe", recipe);
        }
        if !self.statement.gates.is_empty() {
            text += &line("measured", &gates(&self.statement));
        }
        for note in &self.notes {
            text += &line("note", note);
        }
        text
    }

    fn json(&self) -> Value {
        let (config, traits) = match &self.kind {
            Kind::Dit { config, traits, heads } => {
                (json!(config), json!({ "quantised": traits.quantised, "sla": traits.sla, "heads_from": heads_from(*heads) }))
            }
            Kind::Vae(config) => (json!(config), Value::Null),
            Kind::Text(config) => (json!(config), Value::Null),
            Kind::Unknown => (Value::Null, Value::Null),
        };
        json!({
            "format": self.format,
            "files": self.files,
            "bytes": self.bytes,
            "layout": self.layout,
            "kind": kind_name(&self.kind),
            "model": self.kind.model(),
            "config": config,
            "traits": traits,
            "tensor_count": self.tensors,
            "parameters": self.parameters,
            "dtypes": self.dtypes,
            "pickle_globals": self.globals,
            "complete": specs(&self.kind).map(|_| self.misfits.is_none()),
            "misfits": self.misfits,
            "recipe": self.statement.recipe,
            "measured": self.statement.gates,
            "notes": self.notes,
        })
    }
}

/// What was measured of a file's weights, in one line.
pub(super) fn gates(statement: &Statement) -> String {
    statement.gates.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

/// Every tensor of a network, when it is one that is known.
fn specs(kind: &Kind) -> Option<Vec<TensorSpec>> {
    match kind {
        Kind::Dit { config, traits, .. } => Some(config.tensors(*traits)),
        Kind::Vae(config) => Some(config.tensors()),
        Kind::Text(config) => Some(config.tensors()),
        Kind::Unknown => None,
    }
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Dit { .. } => "dit",
        Kind::Vae(_) => "vae",
        Kind::Text(_) => "text",
        Kind::Unknown => "unknown",
    }
}

fn heads_from(heads: HeadsFrom) -> &'static str {
    match heads {
        HeadsFrom::Caller => "caller",
        HeadsFrom::Projection => "proj_l",
        HeadsFrom::Config => "config",
        HeadsFrom::Assumed => "assumed",
    }
}

/// The sizes of a network as labelled lines.
fn network(kind: &Kind) -> Vec<(&'static str, String)> {
    match kind {
        Kind::Dit { config: c, traits, heads } => {
            let known = match heads {
                HeadsFrom::Projection => "seen in proj_l",
                HeadsFrom::Assumed => "assumed, no shape shows it",
                HeadsFrom::Config => "from its config",
                HeadsFrom::Caller => "as asked",
            };
            let quantised = if traits.quantised { "int8 linears with a scale for each 128 x 128 block (-quant)" } else { "not quantised" };
            let attention = if traits.sla { "trained with sparse-linear attention (proj_l)" } else { "dense, no proj_l" };
            let clip = c.clip_dim.map_or(String::new(), |clip| format!(", CLIP {clip}"));
            vec![
                ("network", format!("{} blocks of {} channels, feed-forward {}", c.layers, c.dim, c.ffn_dim)),
                ("heads", format!("{} of {} channels ({known})", c.heads, c.head_dim())),
                ("inputs", format!("{} latent channels, text {}{clip}; {} channels out", c.in_dim, c.text_dim, c.out_dim)),
                ("weights", quantised.to_owned()),
                ("attention", attention.to_owned()),
            ]
        }
        Kind::Vae(c) => {
            vec![(
                "network",
                format!("width {} x {:?}, {} residual blocks a stage, {} latent channels", c.dim, c.dim_mult, c.num_res_blocks, c.z_dim),
            )]
        }
        Kind::Text(c) => vec![(
            "network",
            format!("{} blocks of {} channels, {} heads, feed-forward {}, {} words", c.layers, c.dim, c.heads, c.dim_ffn, c.vocab),
        )],
        Kind::Unknown => Vec::new(),
    }
}

fn of_folder(folder: &ModelFolder) -> Report {
    let arrangement = match folder.arrangement {
        Arrangement::Flat => "official (files side by side)",
        Arrangement::Diffusers => "diffusers",
        Arrangement::Comfy => "ComfyUI",
    };
    let mut text = format!("{}\n{}", folder.root.display(), line("folder", arrangement));
    let named = |path: &Path| path.strip_prefix(&folder.root).unwrap_or(path).display().to_string();
    for dit in &folder.transformers {
        text += &line("transformer", &format!("{}: {}", named(&dit.path), described(dit)));
    }
    let others = [
        ("autoencoder", &folder.vaes[..]),
        ("text", &folder.text_encoders),
        ("tokenizer", folder.tokenizer.as_slice()),
        ("CLIP", folder.clip.as_slice()),
    ];
    for (label, paths) in others {
        for path in paths {
            text += &line(label, &named(path));
        }
    }
    for (_, reason) in &folder.unreadable {
        text += &line("unreadable", reason);
    }
    let mut tasks = serde_json::Map::new();
    for (label, task) in [("t2v", Task::TextToVideo), ("i2v", Task::ImageToVideo)] {
        let parts = folder.parts(task);
        text += &line(
            label,
            &parts.as_ref().map_or_else(|error| without_path(&error.to_string(), &folder.root).to_owned(), |_| "ready".into()),
        );
        tasks.insert(
            label.into(),
            parts.map_or_else(|error| json!({ "ready": false, "why": error.to_string() }), |_| json!({ "ready": true })),
        );
    }
    let transformers: Vec<_> = folder.transformers.iter().map(dit_json).collect();
    let unreadable: Vec<_> = folder.unreadable.iter().map(|(path, reason)| json!({ "path": path, "reason": reason })).collect();
    let json = json!({
        "path": folder.root,
        "arrangement": arrangement,
        "transformers": transformers,
        "vaes": folder.vaes,
        "text_encoders": folder.text_encoders,
        "tokenizer": folder.tokenizer,
        "clip": folder.clip,
        "unreadable": unreadable,
        "tasks": tasks,
    });
    Report { text, json }
}

fn kind_of(dit: &FoundDit) -> Kind {
    Kind::Dit { config: dit.config.clone(), traits: dit.traits, heads: HeadsFrom::Assumed }
}

fn expert_name(dit: &FoundDit) -> Option<&'static str> {
    dit.expert.map(|expert| match expert {
        turbowan_rcm::Expert::High => "high noise",
        turbowan_rcm::Expert::Low => "low noise",
    })
}

fn described(dit: &FoundDit) -> String {
    let traits = [(dit.traits.quantised, "int8"), (dit.traits.sla, "SLA")];
    let traits = traits.into_iter().filter(|(yes, _)| *yes).map(|(_, name)| name);
    [kind_of(dit).model()].into_iter().chain(expert_name(dit)).chain(traits).collect::<Vec<_>>().join(", ")
}

fn dit_json(dit: &FoundDit) -> Value {
    json!({
        "path": dit.path,
        "model": kind_of(dit).model(),
        "expert": expert_name(dit),
        "quantised": dit.traits.quantised,
        "sla": dit.traits.sla,
        "config": dit.config,
    })
}

fn line(label: &str, value: &str) -> String {
    format!("  {label:<12} {value}\n")
}

/// Bytes in the unit that keeps the number short.
pub(crate) fn size(bytes: usize) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", units[unit]) }
}

/// A count with a space between thousands.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let groups =
        [&digits[..first]].into_iter().chain(digits.as_bytes()[first..].chunks(3).map(|group| std::str::from_utf8(group).unwrap_or("")));
    groups.filter(|group| !group.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_wan_model::checkpoint::{TensorSource, write_safetensors};
    use turbowan_wan_model::tiny::TinyTensors;

    fn inspect(place: &Path) -> Result<Report, Error> {
        report(&Inspect { place: Some(place.to_owned()), tensors: true, hash: true, json: false })
    }

    fn write(part: Part, path: &Path) {
        let tensors = TinyTensors::generate(part, 1).unwrap();
        let specs = part.tensors();
        let views: Vec<_> = specs.iter().map(|spec| (spec.name.as_str(), tensors.take(&spec.name).unwrap())).collect();
        let mut file = std::fs::File::create(path).unwrap();
        write_safetensors(&mut file, &views, &BTreeMap::new()).unwrap();
    }

    #[test]
    fn a_checkpoint_is_described() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dit.safetensors");
        write(Part::TextToVideo, &path);
        let report = inspect(&path).unwrap();
        for expected in ["TurboDiffusion", "text-to-video", "seen in proj_l", "complete     yes", "BLAKE3", "blocks.0.modulation"] {
            assert!(report.text.contains(expected), "{expected}: {}", report.text);
        }
        assert_eq!(
            (&report.json["kind"], &report.json["complete"], &report.json["traits"]["sla"]),
            (&json!("dit"), &json!(true), &json!(true))
        );
        assert_eq!(report.json["tensors"].as_array().unwrap().len(), report.json["tensor_count"].as_u64().unwrap() as usize);
        assert_eq!(inspect(folder.path()).unwrap().json["kind"], json!("dit"));
    }

    #[test]
    fn what_a_file_states_of_its_making_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vae.safetensors");
        let tensors = TinyTensors::generate(Part::Vae, 1).unwrap();
        let gates = BTreeMap::from([("psnr".to_owned(), 32.5), ("shape".to_owned(), 0.96)]);
        let statement = Statement { recipe: Some("9000 steps".into()), gates, ..Statement::default() };
        let mut file = std::fs::File::create(&path).unwrap();
        write_safetensors(&mut file, &tensors.iter().collect::<Vec<_>>(), &statement.metadata()).unwrap();
        let report = inspect(&path).unwrap();
        assert!(report.text.contains("recipe       9000 steps") && report.text.contains("psnr 32.5, shape 0.96"), "{}", report.text);
        assert_eq!(report.json["measured"]["shape"], json!(0.96));
    }

    #[test]
    fn without_a_place_the_embedded_model_is_described() {
        let report = report(&Inspect { place: None, tensors: false, hash: false, json: false }).unwrap();
        let parts = report.json["embedded"].as_array().unwrap();
        assert_eq!(parts.len(), Part::ALL.len());
        assert!(parts.iter().all(|part| part["complete"] == json!(true) && part["recipe"].is_string()), "{}", report.text);
    }

    #[test]
    fn a_model_folder_says_what_it_is_ready_for() {
        let folder = tempfile::tempdir().unwrap();
        for part in [Part::HighNoise, Part::LowNoise, Part::Vae, Part::Text] {
            write(part, &folder.path().join(part.file_name()));
        }
        std::fs::create_dir(folder.path().join("tokenizer")).unwrap();
        std::fs::write(folder.path().join("tokenizer/tokenizer.json"), "{}").unwrap();
        let report = inspect(folder.path()).unwrap();
        assert_eq!(
            (&report.json["tasks"]["i2v"]["ready"], &report.json["tasks"]["t2v"]["ready"]),
            (&json!(true), &json!(false)),
            "{}",
            report.text
        );
        assert!(report.text.contains("high noise") && report.text.contains("transformer: not in"), "{}", report.text);
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.safetensors");
        std::fs::write(&path, "<html>").unwrap();
        let message = inspect(&path).err().unwrap().to_string();
        assert!(message.contains("page.safetensors") && message.contains("web page"), "{message}");
        assert!(inspect(&folder.path().join("nothing")).is_err());
    }

    #[test]
    fn counts_and_sizes_are_readable() {
        assert_eq!((grouped(1_418_996_800).as_str(), grouped(12).as_str(), grouped(0).as_str()), ("1 418 996 800", "12", "0"));
        assert_eq!((size(12).as_str(), size(1536).as_str(), size(3 << 30).as_str()), ("12 bytes", "1.5 KiB", "3.0 GiB"));
    }
}
