//! Model folders: where the transformer, the autoencoder, the text encoder and the tokenizer of a model lie.
//!
//! A folder may be laid out as the official checkpoints are, as diffusers does, or as ComfyUI does. In each of them a file
//! is known by what it holds, not by its name; names only tell the two experts of a model from each other.

use std::path::{Path, PathBuf};

use turbowan_rcm::Expert;

use super::hub::{HubCache, ModelName};
use super::shards::{EXTENSIONS, holds_tensors, is_index, list};
use super::{Checkpoint, Kind};
use crate::config::DitConfig;
use crate::dit::DitTraits;
use crate::error::Piece;
use crate::{Error, Result};

/// What is to be generated: it decides which transformer is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A video from a prompt: 16 latent channels in.
    TextToVideo,
    /// A video from an image and a prompt: 36 channels in.
    ImageToVideo,
}

impl Task {
    fn in_dim(self) -> usize {
        match self {
            Self::TextToVideo => 16,
            Self::ImageToVideo => 36,
        }
    }
}

/// How a folder is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    /// As the official code expects: checkpoints side by side, the tokenizer below `google/umt5-xxl`.
    Flat,
    /// `model_index.json` and a folder for each part.
    Diffusers,
    /// ComfyUI's `models`: a folder for each kind of part.
    Comfy,
}

/// A transformer in a folder.
#[derive(Debug, Clone)]
pub struct FoundDit {
    /// A file, or a folder with shards.
    pub path: PathBuf,
    /// Its shape.
    pub config: DitConfig,
    /// What it holds beside the plain network.
    pub traits: DitTraits,
    /// Which of two experts its name says it is.
    pub expert: Option<Expert>,
}

/// The parts that one generation needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The transformer, or its expert for noisy times.
    pub dit: PathBuf,
    /// The expert for times below the boundary.
    pub low_noise: Option<PathBuf>,
    /// The autoencoder.
    pub vae: PathBuf,
    /// The text encoder.
    pub text_encoder: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// The CLIP image encoder of Wan 2.1 image to video, where there is one.
    pub clip: Option<PathBuf>,
}

/// What was found in a folder.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// The folder.
    pub root: PathBuf,
    /// How it is laid out.
    pub arrangement: Arrangement,
    /// Its transformers.
    pub transformers: Vec<FoundDit>,
    /// Its autoencoders.
    pub vaes: Vec<PathBuf>,
    /// Its text encoders.
    pub text_encoders: Vec<PathBuf>,
    /// Its `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// Its CLIP image encoder.
    pub clip: Option<PathBuf>,
    /// Files that are broken, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
    /// The transformer that was named, when a file was.
    named: Option<PathBuf>,
    /// Where checkpoints and tokenizers were looked for.
    looked: Vec<PathBuf>,
    /// Links may not lead out of here.
    fence: Option<PathBuf>,
}

impl ModelFolder {
    /// Looks into a folder, into the folder around a file, or into the snapshot of a model named `ORG/NAME[@REVISION]` in
    /// the user's Hugging Face cache. Nothing is downloaded.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] when there is no such folder, file or model.
    pub fn find(place: impl AsRef<Path>) -> Result<Self> {
        Self::find_in(place, HubCache::of_user().as_ref())
    }

    /// As [`ModelFolder::find`], with a given cache.
    ///
    /// # Errors
    /// As [`ModelFolder::find`].
    pub fn find_in(place: impl AsRef<Path>, cache: Option<&HubCache>) -> Result<Self> {
        let place = place.as_ref();
        if place.is_dir() {
            return Self::scan(place, None, None);
        }
        if place.is_file() {
            let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Self::scan(folder, None, place.file_name().map(|name| folder.join(name)));
        }
        match (place.to_str().and_then(ModelName::parse), cache) {
            (Some(name), Some(cache)) => {
                let snapshot = cache.snapshot(&name)?;
                let fence = cache.root().canonicalize().map_err(|source| Error::Io { path: cache.root().to_path_buf(), source })?;
                Self::scan(&snapshot, Some(fence), None)
            }
            _ => {
                let reason = "no such file or folder, and no model by that name in the Hugging Face cache".into();
                Err(Error::Format { path: place.to_path_buf(), reason })
            }
        }
    }

    fn scan(root: &Path, fence: Option<PathBuf>, named: Option<PathBuf>) -> Result<Self> {
        let comfy = [root.to_path_buf(), root.join("models")];
        let comfy = comfy.into_iter().find(|models| COMFY.iter().filter(|kind| models.join(kind).is_dir()).count() > 1);
        let mut folder = Self {
            root: root.to_path_buf(),
            arrangement: Arrangement::Flat,
            transformers: Vec::new(),
            vaes: Vec::new(),
            text_encoders: Vec::new(),
            tokenizer: None,
            clip: None,
            unreadable: Vec::new(),
            named,
            looked: Vec::new(),
            fence,
        };
        let places: Vec<PathBuf> = if root.join("model_index.json").is_file() {
            folder.arrangement = Arrangement::Diffusers;
            DIFFUSERS.iter().map(|part| root.join(part)).collect()
        } else if let Some(models) = comfy {
            folder.arrangement = Arrangement::Comfy;
            COMFY.iter().map(|kind| models.join(kind)).collect()
        } else {
            [root.to_path_buf()].into_iter().chain(EXPERTS.iter().map(|expert| root.join(expert))).collect()
        };
        for place in &places {
            folder.scan_checkpoints(place)?;
        }
        folder.find_tokenizer(&places)?;
        Ok(folder)
    }

    fn scan_checkpoints(&mut self, place: &Path) -> Result<()> {
        self.looked.push(place.to_path_buf());
        if !place.is_dir() {
            return Ok(());
        }
        let entries = list(place)?;
        entries.iter().try_for_each(|path| self.keep_inside(path))?;
        let indices: Vec<&PathBuf> = entries.iter().filter(|path| is_index(path)).collect();
        indices.iter().for_each(|index| self.recognise(index));
        // Shards of an index are not checkpoints of their own: they are named after it, with a number of how many.
        let is_shard = |path: &Path| !indices.is_empty() && path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("-of-"));
        // The same weights as .safetensors and as .pth: the first of the known extensions counts, unless another was named.
        let is_twin = |path: &PathBuf| {
            if self.named.as_ref() == Some(path) {
                return false;
            }
            let better = EXTENSIONS.iter().take_while(|extension| path.extension().is_some_and(|own| own != **extension));
            better.map(|extension| path.with_extension(extension)).any(|twin| entries.contains(&twin))
        };
        let whole: Vec<_> = entries.iter().filter(|path| holds_tensors(path) && !is_shard(path) && !is_twin(path)).collect();
        whole.into_iter().for_each(|path| self.recognise(path));
        Ok(())
    }

    fn recognise(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.contains("clip") && !name.contains("umt5") {
            self.clip = Some(path.to_path_buf());
            return;
        }
        match Checkpoint::open(path).and_then(|checkpoint| checkpoint.kind(None)) {
            Ok(Kind::Dit { config, traits, .. }) => {
                let expert = expert_of(&self.root, path);
                self.transformers.push(FoundDit { path: path.to_path_buf(), config, traits, expert });
            }
            Ok(Kind::Vae(_)) => self.vaes.push(path.to_path_buf()),
            Ok(Kind::Text(_)) => self.text_encoders.push(path.to_path_buf()),
            Ok(Kind::Unknown) => {}
            Err(error) => self.unreadable.push((path.to_path_buf(), error.to_string())),
        }
    }

    fn find_tokenizer(&mut self, places: &[PathBuf]) -> Result<()> {
        let beside = places.iter().flat_map(|place| ["google/umt5-xxl", "umt5-xxl", "tokenizer", ""].map(|inner| place.join(inner)));
        for folder in [self.root.join("tokenizer")].into_iter().chain(beside) {
            let path = folder.join("tokenizer.json");
            if path.is_file() {
                self.keep_inside(&path)?;
                self.tokenizer = Some(path);
                break;
            }
        }
        Ok(())
    }

    /// Refuses a link that leads out of the cache.
    fn keep_inside(&self, path: &Path) -> Result<()> {
        let Some(fence) = &self.fence else { return Ok(()) };
        match path.canonicalize() {
            Ok(real) if !real.starts_with(fence) => {
                Err(Error::Format { path: path.to_path_buf(), reason: "a link that leads out of the Hugging Face cache".into() })
            }
            // A link to nothing is an interrupted download; it is missed where it is needed.
            _ => Ok(()),
        }
    }

    /// The parts that `task` needs.
    ///
    /// # Errors
    /// [`Error::Pieces`] with everything that is missing or ambiguous, and where it was looked for.
    pub fn parts(&self, task: Task) -> Result<Parts> {
        let mut missing = Vec::new();
        let dit = self.dit(task).map_err(|piece| missing.push(piece)).ok();
        let mut one = |what, paths: &[PathBuf]| match paths {
            [only] => Some(only.clone()),
            [] => {
                missing.push(self.absent(what));
                None
            }
            several => {
                missing.push(Piece { what, fault: format!("{} fit: {}", several.len(), named(several)) });
                None
            }
        };
        let vae = one("autoencoder (Wan2.1_VAE.pth)", &self.vaes);
        let text_encoder = one("text encoder (models_t5_umt5-xxl-enc-bf16.pth)", &self.text_encoders);
        let tokenizer = one("tokenizer (google/umt5-xxl/tokenizer.json)", self.tokenizer.as_slice());
        match (dit, vae, text_encoder, tokenizer) {
            (Some((dit, low_noise)), Some(vae), Some(text_encoder), Some(tokenizer)) => {
                Ok(Parts { dit, low_noise, vae, text_encoder, tokenizer, clip: self.clip.clone() })
            }
            _ => Err(Error::Pieces { root: self.root.clone(), missing }),
        }
    }

    fn dit(&self, task: Task) -> std::result::Result<(PathBuf, Option<PathBuf>), Piece> {
        let what = "transformer";
        let fitting: Vec<&FoundDit> = self.transformers.iter().filter(|dit| dit.config.in_dim == task.in_dim()).collect();
        if let Some(named) = &self.named {
            let Some(dit) = fitting.iter().find(|dit| dit.path == *named) else {
                let fault = format!("{} is no transformer of {} input channels", named.display(), task.in_dim());
                return Err(Piece { what, fault: self.with_unreadable(fault) });
            };
            if dit.expert != Some(Expert::High) {
                return Ok((named.clone(), None));
            }
            let twins: Vec<_> = fitting.iter().filter(|twin| twin.expert == Some(Expert::Low) && twin.config == dit.config).collect();
            return match twins[..] {
                [twin] => Ok((named.clone(), Some(twin.path.clone()))),
                _ => Ok((named.clone(), None)),
            };
        }
        let of = |expert| fitting.iter().filter(|dit| dit.expert == expert).map(|dit| dit.path.clone()).collect::<Vec<_>>();
        let (single, high, low) = (of(None), of(Some(Expert::High)), of(Some(Expert::Low)));
        match (&single[..], &high[..], &low[..]) {
            ([only], [], []) => Ok((only.clone(), None)),
            ([], [high], [low]) => Ok((high.clone(), Some(low.clone()))),
            ([], [], []) => Err(self.absent("transformer")),
            ([], [], _) => Err(self.absent("transformer for high noise")),
            ([], _, []) => Err(self.absent("transformer for low noise")),
            _ => {
                let all: Vec<PathBuf> = fitting.iter().map(|dit| dit.path.clone()).collect();
                Err(Piece { what, fault: format!("{} fit, name one: {}", all.len(), named(&all)) })
            }
        }
    }

    fn absent(&self, what: &'static str) -> Piece {
        Piece { what, fault: self.with_unreadable(format!("not in {}", named(&self.looked))) }
    }

    fn with_unreadable(&self, mut fault: String) -> String {
        for (_, reason) in &self.unreadable {
            fault.push_str("; unreadable: ");
            fault.push_str(reason);
        }
        fault
    }
}

/// Folders of diffusers' pipelines. Of two transformers the first is the expert for noisy times.
const DIFFUSERS: &[&str] = &["transformer", "transformer_2", "vae", "text_encoder", "tokenizer"];
/// Folders of ComfyUI's models, old names and new.
const COMFY: &[&str] = &["diffusion_models", "unet", "text_encoders", "clip", "vae", "clip_vision"];
/// Folders of the official Wan 2.2 releases.
const EXPERTS: &[&str] = &["high_noise_model", "low_noise_model"];

/// Which expert a path names: by a word of its file's or folder's name that begins with `high` or `low`, or by diffusers' folders.
fn expert_of(root: &Path, path: &Path) -> Option<Expert> {
    let inside = path.strip_prefix(root).unwrap_or(path);
    if root.join("transformer_2").is_dir() && root.join("model_index.json").is_file() {
        return Some(if inside.starts_with("transformer_2") { Expert::Low } else { Expert::High });
    }
    let name = inside.to_string_lossy().to_lowercase();
    let word = |start: &str| name.split(|letter: char| !letter.is_alphanumeric()).any(|word| word.starts_with(start));
    match (word("high"), word("low")) {
        (true, false) => Some(Expert::High),
        (false, true) => Some(Expert::Low),
        _ => None,
    }
}

fn named(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
