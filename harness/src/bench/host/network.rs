//! Networks on the host, with random weights of the released widths. `turbowan conform` holds their arithmetic to recorded
//! runs of the official code; here a result is held to the same network in plain arithmetic, or to a peer's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use turbowan_cuda::Rounding;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_sla::Density;
use turbowan_wan_model::Result as ModelResult;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::checkpoint::{Checkpoint, TensorSource};
use turbowan_wan_model::config::{DitConfig, VaeConfig};
use turbowan_wan_model::dit::{DitOptions, DitTraits, Grid, Observer, Place, WanDit};
use turbowan_wan_model::text::TextEncoder;
use turbowan_wan_model::tiny::{self, Part, TinyTensors};
use turbowan_wan_model::vae::{Clip, LatentStatistics, Side, Tiling, Vae};

use crate::bench::case::{Block, Decode, Generation, Model, Op, Text};
use crate::bench::error::Error;
use crate::bench::random_tensors::RandomTensors;
use crate::bench::work::{Check, Work};
use crate::progress::{Event, Progress};
use crate::request::{AttentionChoice, Mode, Models, Precision, Request, SamplerChoice};
use crate::run::Run;
use crate::run::processor::Processor;
use crate::video::Output;

/// Share of key blocks that the sparse block keeps.
const TOPK: f64 = 0.1;
/// Channels of a text state of a block with random weights; the embedding of the text is not a part of the block.
const TEXT_DIM: usize = 256;
/// A time in the middle of the schedule.
const TIME: f32 = 988.0;

/// Takes the time between the patch embedding and the end of the only block.
#[derive(Default)]
struct Clock {
    started: Option<Instant>,
    taken: Duration,
}

impl Observer<Host> for Clock {
    fn see(&mut self, _: &Host, place: Place, _: &HostTensor) -> ModelResult<()> {
        match (place, self.started) {
            (Place::Patches, _) => self.started = Some(Instant::now()),
            (Place::Block(_), Some(started)) => self.taken = started.elapsed(),
            _ => {}
        }
        Ok(())
    }
}

/// One transformer block, and the text's keys and values that it reads.
pub struct DitBlock {
    config: DitConfig,
    tensors: RandomTensors,
    grid: Grid,
    latent: Vec<f32>,
    text: Vec<f32>,
    attention: Attention,
    quantise: bool,
    dit: WanDit<Host>,
    velocity: Vec<f32>,
}

impl DitBlock {
    pub fn new(op: &Op, shape: &Block) -> Result<Self, Error> {
        let whole = match shape.model {
            Model::Tiny => tiny::dit_config(16),
            Model::Wan13B => DitConfig::WAN_1_3B,
            Model::Wan14B => DitConfig::WAN_14B,
        };
        let config = DitConfig { layers: 1, text_dim: TEXT_DIM, ..whole };
        let [frames, height, width] = shape.latent;
        let grid = Grid { frames, height, width };
        let tensors = RandomTensors::new(&config.tensors(DitTraits { quantised: false, sla: true }), 1);
        let density = Density::new(TOPK).unwrap_or(Density::DENSE);
        let (attention, quantise) = match op {
            Op::BlockW8a8(_) => (Attention::Original, true),
            Op::BlockSage(_) => (Attention::Sage, true),
            Op::BlockSageSla(_) => (Attention::SageSla(Sparsity { inner: Rounding::None, ..Sparsity::official(density) }), true),
            _ => (Attention::Original, false),
        };
        let dit = WanDit::load(&Host::default(), &tensors, &config, DitOptions { attention, norms: NormRule::Standard, quantise })?;
        Ok(Self {
            latent: normal(config.in_dim * grid.positions(), 2),
            text: normal(config.text_len * config.text_dim, 3),
            attention,
            quantise,
            config,
            tensors,
            grid,
            dit,
            velocity: Vec::new(),
        })
    }
}

impl Work for DitBlock {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let host = Host::default();
        let started = Instant::now();
        let states = self.dit.read_text(&host, &self.text, None)?;
        let read = started.elapsed();
        let mut clock = Clock::default();
        self.velocity = self.dit.forward(&host, &self.latent, &[TIME], &states, self.grid, &mut clock)?;
        Ok(Some(read + clock.taken))
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let host = Host::default();
        // a quantised block stands for the floating-point one that attends to the same keys, that one for itself
        let attention = match self.attention {
            Attention::SageSla(sparsity) => Attention::Sla(sparsity),
            Attention::Sage => Attention::Original,
            other => other,
        };
        let options = DitOptions { attention, norms: NormRule::Standard, quantise: false };
        let exact = WanDit::load(&host, &self.tensors, &self.config, options)?;
        let states = exact.read_text(&host, &self.text, None)?;
        let want = exact.forward(&host, &self.latent, &[TIME], &states, self.grid, &mut Clock::default())?;
        let truth =
            if self.quantise { "the f32 block that attends to the same keys" } else { "a second run (conform holds the arithmetic)" };
        Ok(Check::of(&self.velocity, &want, bound, truth))
    }
}

/// The autoencoder's decoder.
pub struct Decoder {
    vae: Vae<HostFrames>,
    latent: Clip,
    /// A peer's video of the same latent and weights.
    peer: Option<Clip>,
    got: Option<Clip>,
}

impl Decoder {
    pub fn new(shape: &Decode, rounding: Rounding, pair: Option<&Path>) -> Result<Self, Error> {
        let config = VaeConfig::of_width(shape.width);
        let load = |weights: &dyn TensorSource| -> Result<Vae<HostFrames>, Error> {
            // a peer's decode takes latents that are not normalised
            let statistics = LatentStatistics { mean: vec![0.0; config.z_dim], std: vec![1.0; config.z_dim] };
            Ok(Vae::load(HostFrames::new(rounding), weights, &config, statistics, &[Side::Decoder])?)
        };
        let [frames, height, width] = shape.latent;
        let sides = [config.z_dim, frames, height, width];
        let Some(folder) = pair else {
            let weights = RandomTensors::new(&config.tensors_of(Side::Decoder), 1);
            let latent = Clip::new(sides, normal(sides.iter().product(), 2))?;
            return Ok(Self { vae: load(&weights)?, latent, peer: None, got: None });
        };
        let weights = Checkpoint::open(folder.join("diffusion_pytorch_model.safetensors"))?;
        let pair = Checkpoint::open(folder.join("pair.safetensors"))?;
        let clip = |name: &str| -> Result<Clip, Error> {
            let view = pair.take(name)?;
            let sides = <[usize; 4]>::try_from(view.shape.get(1..).unwrap_or_default());
            let sides =
                sides.map_err(|_| Error::file(folder.join("pair.safetensors"), format!("{name} has the shape {:?}", view.shape)))?;
            Ok(Clip::new(sides, view.to_f32())?)
        };
        let latent = clip("latent")?;
        if latent.shape() != sides {
            return Err(Error::file(folder, format!("its latent is {:?}, the case's {sides:?}", latent.shape())));
        }
        Ok(Self { vae: load(&weights)?, latent, peer: Some(clip("video")?), got: None })
    }
}

impl Work for Decoder {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let started = Instant::now();
        let clip = self.vae.decode_clip(&self.latent, Tiling::Whole)?;
        let taken = started.elapsed();
        self.got = Some(clip);
        Ok(Some(taken))
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let got = self.got.as_ref().ok_or_else(|| Error::case("vae-decode", "has not run"))?;
        match &self.peer {
            Some(peer) => {
                let clamped: Vec<f32> = got.values.iter().map(|value| value.clamp(-1.0, 1.0)).collect();
                Ok(Check::of(&clamped, &peer.values, bound, "the peer's video of the same latent and weights"))
            }
            None => {
                let again = self.vae.decode_clip(&self.latent, Tiling::Whole)?;
                Ok(Check::of(&got.values, &again.values, bound, "a second run (conform holds the arithmetic)"))
            }
        }
    }
}

/// The embedded model's text encoder.
pub struct TextEncoding {
    weights: TinyTensors,
    ids: Vec<u32>,
    states: Vec<f32>,
}

impl TextEncoding {
    pub fn new(shape: &Text) -> Result<Self, Error> {
        let vocab = tiny::text_config().vocab as u32;
        Ok(Self {
            weights: TinyTensors::generate(Part::Text, 0)?,
            ids: (0..shape.tokens as u32).map(|id| id % vocab).collect(),
            states: Vec::new(),
        })
    }

    fn encode(&self) -> Result<(Vec<f32>, Duration), Error> {
        let host = Host::default();
        let encoder = TextEncoder::load(&host, &self.weights, &tiny::text_config())?;
        let started = Instant::now();
        let states = encoder.encode(&host, &self.ids, &mut |_, _| Ok(()))?;
        Ok((states.values, started.elapsed()))
    }
}

impl Work for TextEncoding {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let (states, taken) = self.encode()?;
        self.states = states;
        Ok(Some(taken))
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        Ok(Check::of(&self.states, &self.encode()?.0, bound, "a second run (conform holds the arithmetic)"))
    }
}

/// A prompt to a file, as `turbowan t2v` does it, without hashing files and without a screen.
pub struct Generating {
    request: Request,
    folder: PathBuf,
    video: Option<Vec<u8>>,
}

impl Generating {
    pub fn new(shape: &Generation) -> Result<Self, Error> {
        let [width, height] = shape.size;
        let request = Request {
            mode: Mode::T2v,
            prompt: "a red ball bounces on blue ground".to_owned(),
            negative_prompt: String::new(),
            image: None,
            clip: None,
            models: Models::Embedded { seed: 0, trained: BTreeMap::new() },
            width,
            height,
            num_frames: shape.frames,
            fps: 16,
            num_samples: 1,
            grid: false,
            seed: 1,
            rng: "native".to_owned(),
            num_steps: shape.steps,
            sigma_max: 80.0,
            boundary: None,
            sampler: SamplerChoice::Rcm { ode: false },
            attention: AttentionChoice::SageSla(TOPK),
            precision: Precision::Bf16,
            quant_linear: false,
            default_norm: false,
        };
        let folder = std::env::temp_dir().join(format!("turbowan-bench-{}", std::process::id()));
        Ok(Self { request, folder, video: None })
    }

    fn make(&self) -> Result<Vec<u8>, Error> {
        let failed = |why: crate::Error| Error::case("generate/tiny", why);
        let output = Output::new(&self.folder.join("video.mp4")).map_err(|why| failed(why.into()))?;
        let progress = Progress::new(Box::new(|_: &Event| {}));
        let files = Run {
            request: &self.request,
            output,
            resumed: None,
            cache: None,
            capture: None,
            processor: Processor::Host,
            progress: &progress,
        }
        .finish()
        .map_err(failed)?;
        let video = files.first().ok_or_else(|| Error::case("generate/tiny", "no file was written"))?;
        std::fs::read(video).map_err(|why| Error::file(video, why))
    }
}

impl Work for Generating {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let started = Instant::now();
        let video = self.make()?;
        let taken = started.elapsed();
        self.video = Some(video);
        Ok(Some(taken))
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let (got, want) = (self.video.clone().unwrap_or_default(), self.make()?);
        let same = f32::from(u8::from(got == want && !got.is_empty()));
        Ok(Check::of(&[same], &[1.0f32], bound, "the same request again, byte for byte"))
    }
}

impl Drop for Generating {
    fn drop(&mut self) {
        // what was made to be timed is nobody's video
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
