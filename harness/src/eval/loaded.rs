//! Everything that rows need, loaded once: text states of all captions, transformers, autoencoders.

use std::time::Instant;

use turbowan_rcm::{Branch, Call, Expert, Network};
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::checkpoint::Checkpoint;
use turbowan_wan_model::dit::{Grid, Observer, Place, TextStates as DitStates, WanDit};
use turbowan_wan_model::image::RgbImage;
use turbowan_wan_model::text::{TextEncoder, TextStates, clean_prompt};
use turbowan_wan_model::vae::{COLORS, Clip, Side};
use turbowan_wan_model::{Error as ModelError, Result as ModelResult};
use turbowan_world::Size;

use crate::error::Error;
use crate::eval::asked::Asked;
use crate::eval::row::{Configuration, Net, Row};
use crate::eval::settings::{Settings, Task};
use crate::progress::Progress;
use crate::request::Precision;
use crate::run::autoencoder::Autoencoder;
use crate::run::models::{OpenDit, vae_of};
use crate::run::stages::Stages;
use crate::run::watch::check_stop;
use crate::video::{FrameRate, Frames};

/// The loaded networks of an evaluation.
pub struct Loaded<'a> {
    settings: &'a Settings,
    progress: &'a Progress,
    arithmetics: Vec<Arithmetic>,
    transformers: Vec<Transformer>,
}

/// What is kept in one arithmetic.
struct Arithmetic {
    precision: Precision,
    autoencoder: Autoencoder,
    /// Of every caption.
    prompts: Vec<TextStates>,
    negative: Option<TextStates>,
}

/// A transformer, or two experts, with what was chosen when it was loaded.
struct Transformer {
    of: Configuration,
    host: Host,
    experts: Vec<WanDit<Host>>,
}

impl Transformer {
    /// Whether it serves a row: how it is sampled makes no other network.
    fn serves(&self, row: &Configuration) -> bool {
        let Configuration { steps, sigma_max, ode, .. } = self.of;
        self.of == Configuration { steps, sigma_max, ode, ..*row }
    }
}

impl<'a> Loaded<'a> {
    /// Loads what the rows need.
    ///
    /// # Errors
    /// A file that cannot be used, a caption that cannot be encoded, or a stop.
    pub fn new(settings: &'a Settings, asked: &[Asked], progress: &'a Progress) -> Result<Self, Error> {
        let mut loaded = Self { settings, progress, arithmetics: Vec::new(), transformers: Vec::new() };
        for row in &settings.rows {
            match row {
                Row::Real => {}
                Row::Reconstructed(precision) => loaded.arithmetic(*precision, asked)?,
                Row::Made(configuration) => {
                    loaded.arithmetic(configuration.precision, asked)?;
                    loaded.transformer(configuration)?;
                }
            }
        }
        Ok(loaded)
    }

    fn arithmetic(&mut self, precision: Precision, asked: &[Asked]) -> Result<(), Error> {
        if self.arithmetics.iter().any(|known| known.precision == precision) {
            return Ok(());
        }
        let settings = self.settings;
        let host = Host { rounding: precision.rounding() };
        let vae = match &settings.vae {
            Some(file) => vae_of(Checkpoint::open(&file.path)?)?,
            None => settings.models.vae()?,
        };
        let sides: &[Side] = if settings.task == Task::T2v { &[Side::Decoder] } else { &[Side::Encoder, Side::Decoder] };
        let autoencoder = Autoencoder::load(&vae, host.rounding, sides)?;
        let (mut prompts, mut negative) = (Vec::new(), None);
        if settings.task != Task::Recon {
            let text_len = settings.models.dit(settings.task.mode(), Expert::High)?.config.text_len;
            let tokenizer = settings.models.tokenizer()?;
            let (source, config) = settings.models.text()?;
            let encoder = TextEncoder::load(&host, &source, &config)?;
            let encode = |prompt: &str| -> Result<TextStates, Error> {
                let tokens = tokenizer.encode(&clean_prompt(prompt), text_len)?;
                Ok(encoder.encode(&host, &tokens.ids, &mut |_, _| check_stop())?)
            };
            let stage = self.progress.stage("text", Some(asked.len() as u64));
            for (index, one) in asked.iter().enumerate() {
                // the same prompt comes again with other seeds
                match index.checked_sub(1).filter(|before| asked[*before].prompt == one.prompt) {
                    Some(before) => prompts.push(TextStates::clone(&prompts[before])),
                    None => prompts.push(encode(&one.prompt)?),
                }
                stage.advance(1);
            }
            negative = Some(encode(&settings.negative_prompt)?);
            stage.end();
        }
        self.arithmetics.push(Arithmetic { precision, autoencoder, prompts, negative });
        Ok(())
    }

    fn transformer(&mut self, configuration: &Configuration) -> Result<(), Error> {
        if self.transformers.iter().any(|known| known.serves(configuration)) {
            return Ok(());
        }
        let settings = self.settings;
        let request = settings.request(configuration, settings.seed, "");
        let options = Stages::new(&request, self.progress).dit_options()?;
        let host = Host { rounding: configuration.precision.rounding() };
        let experts: &[Expert] = if settings.boundary.is_some() { &[Expert::High, Expert::Low] } else { &[Expert::High] };
        let open = |expert: &Expert| match (configuration.net, &settings.teacher[..]) {
            (Net::Teacher, [one]) => OpenDit::open(&one.path),
            (Net::Teacher, [high, low]) => OpenDit::open(if *expert == Expert::High { &high.path } else { &low.path }),
            _ => settings.models.dit(settings.task.mode(), *expert),
        };
        let experts = experts.iter().map(|expert| Ok(open(expert)?.load(&host, options)?)).collect::<Result<_, Error>>()?;
        self.transformers.push(Transformer { of: *configuration, host, experts });
        Ok(())
    }

    /// What is made for one caption, row after row.
    pub fn scene<'l>(&'l self, index: usize, asked: &'l Asked) -> Scene<'l> {
        Scene { loaded: self, index, asked, texts: Vec::new(), images: Vec::new() }
    }

    fn size(&self) -> Result<Size, Error> {
        // The world's clips are square; `Settings` are made so where they are used.
        Size::new(self.settings.width, self.settings.num_frames).map_err(|error| Error::flag("--resolution", error.to_string()))
    }
}

/// One caption: what several rows share is worked out once.
pub struct Scene<'l> {
    loaded: &'l Loaded<'l>,
    index: usize,
    asked: &'l Asked,
    /// By transformer.
    texts: Vec<(usize, Vec<[DitStates<Host>; 2]>)>,
    /// By arithmetic.
    images: Vec<(Precision, Vec<f32>)>,
}

/// A clip of a row.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Its frames.
    pub frames: Frames,
    /// How long its latent was sampled, in seconds, where it was.
    pub denoising_seconds: Option<f64>,
}

impl From<Frames> for Shot {
    fn from(frames: Frames) -> Self {
        Self { frames, denoising_seconds: None }
    }
}

impl Scene<'_> {
    /// The clip of a row, or why a clip that was being made is none: a value that is not finite, a flat picture.
    ///
    /// # Errors
    /// Whatever ends the whole evaluation: a stop, a network that cannot be used.
    pub fn shot(&mut self, row: &Row) -> Result<Result<Shot, String>, Error> {
        let made = match row {
            Row::Real => self.real().map(Shot::from),
            Row::Reconstructed(precision) => self.reconstructed(*precision).map(Shot::from),
            Row::Made(configuration) => self.made(configuration),
        };
        match made {
            Ok(shot) => Ok(Ok(shot)),
            Err(Error::Model(ModelError::NotFinite { place, fault })) => Ok(Err(format!("{place}: {fault}"))),
            Err(Error::Model(ModelError::Sampling(error @ turbowan_rcm::Error::NotFinite { .. }))) => Ok(Err(error.to_string())),
            Err(other) => Err(other),
        }
    }

    /// The real clip, which only captions of the world have.
    fn clip(&self) -> Result<turbowan_world::Clip, Error> {
        self.asked.clip.ok_or_else(|| Error::flag("--prompts", "these prompts have no real clips; leave --recon and --i2v out"))
    }

    fn real(&self) -> Result<Frames, Error> {
        let size = self.loaded.size()?;
        Ok(Frames::new(size.side(), size.side(), FrameRate::WAN, self.clip()?.frames(size))?)
    }

    fn reconstructed(&self, precision: Precision) -> Result<Frames, Error> {
        let size = self.loaded.size()?;
        let clip = Clip::new([COLORS, size.frames(), size.side(), size.side()], self.clip()?.video(size))?;
        self.arithmetic(precision)?.autoencoder.reconstruct(&clip, FrameRate::WAN)
    }

    fn made(&mut self, configuration: &Configuration) -> Result<Shot, Error> {
        let (settings, progress) = (self.loaded.settings, self.loaded.progress);
        let request = settings.request(configuration, self.asked.seed, &self.asked.prompt);
        let stages = Stages::new(&request, progress);
        let (sampling, shape, mut noise) = (stages.sampling()?, stages.latent()?, stages.noise()?);
        let transformer = self.read_text(configuration)?;
        if settings.task == Task::I2v {
            self.see_image(configuration.precision)?;
        }
        let transformer_of = &self.loaded.transformers[transformer];
        let network = Asking {
            transformer: transformer_of,
            texts: self.texts.iter().find(|(known, _)| *known == transformer).map_or(&[], |(_, texts)| texts),
            image: self.images.iter().find(|(precision, _)| *precision == configuration.precision).map(|(_, image)| image.as_slice()),
            grid: Grid { frames: shape.frames, height: shape.height, width: shape.width },
        };
        let begun = Instant::now();
        let start = sampling.start(shape.values(), &mut noise)?;
        let done = sampling.finish_on(start, network, stages.border(), &mut noise, |_, _| check_stop())?;
        let denoising_seconds = Some(begun.elapsed().as_secs_f64());
        let autoencoder = &self.arithmetic(configuration.precision)?.autoencoder;
        Ok(Shot { frames: autoencoder.decode(&done.latent, shape, FrameRate::WAN, &mut |_| Ok(()))?, denoising_seconds })
    }

    /// The transformer of a configuration, whose experts have read the prompts.
    fn read_text(&mut self, configuration: &Configuration) -> Result<usize, Error> {
        let unloaded = || Error::flag("--resume", "the record's rows are not those that were loaded");
        let index = self.loaded.transformers.iter().position(|known| known.serves(configuration)).ok_or_else(unloaded)?;
        if self.texts.iter().any(|(known, _)| *known == index) {
            return Ok(index);
        }
        let Transformer { host, experts, .. } = &self.loaded.transformers[index];
        let arithmetic = self.arithmetic(configuration.precision)?;
        let (prompt, negative) = (&arithmetic.prompts[self.index], arithmetic.negative.as_ref().ok_or_else(unloaded)?);
        let read = |dit: &WanDit<Host>| -> ModelResult<_> {
            let states = |text: &TextStates| dit.read_text(host, &text.padded(dit.config().text_len), None);
            Ok([states(prompt)?, states(negative)?])
        };
        let texts = experts.iter().map(read).collect::<ModelResult<_>>()?;
        self.texts.push((index, texts));
        Ok(index)
    }

    /// The first frame as the network reads it.
    fn see_image(&mut self, precision: Precision) -> Result<(), Error> {
        if self.images.iter().any(|(known, _)| *known == precision) {
            return Ok(());
        }
        let settings = self.loaded.settings;
        let size = settings.size()?;
        let picture = RgbImage::new(size.width(), size.height(), self.first_frame()?);
        let picture = picture.ok_or_else(|| Error::flag("--resolution", "a picture without pixels"))?;
        let autoencoder = &self.arithmetic(precision)?.autoencoder;
        let image = autoencoder.condition(&picture.frame(size), size, settings.frames()?, &mut |_, _| check_stop())?;
        self.images.push((precision, image));
        Ok(())
    }

    /// Frame 0 of the real clip, `[height, width, 3]`.
    ///
    /// # Errors
    /// Prompts without clips, or a size that clips do not have.
    pub fn first_frame(&self) -> Result<Vec<u8>, Error> {
        let size = self.loaded.size()?;
        let mut rgb = vec![0; size.frame_len()];
        self.clip()?.frame(size, 0, &mut rgb).map_err(|error| Error::flag("--resolution", error.to_string()))?;
        Ok(rgb)
    }

    fn arithmetic(&self, precision: Precision) -> Result<&Arithmetic, Error> {
        let found = self.loaded.arithmetics.iter().find(|known| known.precision == precision);
        found.ok_or_else(|| Error::flag("--resume", "the record's rows are not those that were loaded"))
    }
}

/// A loaded transformer, asked for one caption.
struct Asking<'a> {
    transformer: &'a Transformer,
    /// Of the prompt and of the negative prompt, by expert.
    texts: &'a [[DitStates<Host>; 2]],
    image: Option<&'a [f32]>,
    grid: Grid,
}

impl Network for Asking<'_> {
    type Error = ModelError;

    fn forward(&mut self, latent: &[f32], time: f32, call: Call) -> ModelResult<Vec<f32>> {
        let Transformer { host, experts, .. } = self.transformer;
        // A teacher of one network stands for both experts.
        let expert = if call.expert == Expert::Low { experts.len() - 1 } else { 0 };
        let text = &self.texts[expert][usize::from(call.branch == Branch::Unconditional)];
        let mut input = latent.to_vec();
        input.extend(self.image.into_iter().flatten());
        experts[expert].forward(host, &input, &[time], text, self.grid, &mut Heeding)
    }
}

/// Hears Ctrl-C after every block.
struct Heeding;

impl Observer<Host> for Heeding {
    fn see(&mut self, _: &Host, _: Place, _: &HostTensor) -> ModelResult<()> {
        check_stop()
    }
}
