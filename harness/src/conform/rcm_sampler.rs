//! `rcm_sampler`: schedules, trajectories under a recorded stub network, sizes, and the first picture.

use std::ops::ControlFlow;

use safetensors::Dtype;
use serde_json::Value;
use turbowan_rcm::{
    AtBoundary, Call, Denoiser, Expert, FewStep, LatentRounding, Network, NoiseSource, Sampler, Schedule, TimeRounding, round_bf16,
};
use turbowan_reference::metrics::Bound;
use turbowan_wan_model::image::{RgbImage, conditioning};
use turbowan_wan_model::resolution::{AspectRatio, CELL, FrameCount, FrameSize, LatentShape, Resolution};

use super::{Error, Fixture, Rows, Tensors};

impl From<turbowan_rcm::Error> for Error {
    fn from(error: turbowan_rcm::Error) -> Self {
        Self::model(error)
    }
}

/// Replays the fixture.
pub(super) fn run(fixture: &Fixture, rows: &mut Rows) -> Result<(), Error> {
    tables(fixture, rows)?;
    pictures(fixture, rows)?;
    let recorded = fixture.tensors("trajectories.safetensors")?;
    let runs = fixture.meta["runs"].as_object().ok_or_else(|| fixture.broken("no \"runs\""))?;
    for (tag, facts) in runs {
        Trajectory::read(fixture, &recorded, tag, facts)?.replay(rows)?;
    }
    Ok(())
}

/// One recorded run: its settings, from its own facts or else from its tag, and its tensors.
struct Trajectory<'a> {
    fixture: &'a Fixture,
    recorded: &'a Tensors,
    tag: &'a str,
    facts: &'a Value,
    run: FewStep,
    is_bf16: bool,
    /// `[samples, 16, T, H, W]`.
    shape: [usize; 5],
}

impl<'a> Trajectory<'a> {
    fn read(fixture: &'a Fixture, recorded: &'a Tensors, tag: &'a str, facts: &'a Value) -> Result<Self, Error> {
        let parts: Vec<&str> = tag.split('.').collect();
        let number = |fact: &str, key: &str| facts[fact].as_f64().or_else(|| number_after(tag, key));
        let missing = |what: &str| fixture.broken(format!("run {tag:?} states no {what}"));
        let sigma = number("sigma_max", "sigma").ok_or_else(|| missing("sigma"))?;
        let steps = number("steps", "steps").ok_or_else(|| missing("steps"))? as usize;
        let is_ode = facts["ode"].as_bool().unwrap_or_else(|| parts.contains(&"ode"));
        let mut run = FewStep::new(Schedule::few_step(sigma, steps)?, if is_ode { Sampler::Ode } else { Sampler::Sde });
        if let Some(boundary) = number("boundary", "boundary") {
            run = run.with_boundary(boundary)?;
        }
        let noise_shape = recorded.shape(&format!("{tag}.noise"))?;
        let shape = noise_shape.get(1..).and_then(|shape| shape.try_into().ok()).ok_or_else(|| missing("noise [draws, B, 16, T, H, W]"))?;
        let is_bf16 = recorded.dtype(&format!("{tag}.v"))? == Dtype::BF16;
        Ok(Self { fixture, recorded, tag, facts, run, is_bf16, shape })
    }

    fn name(&self, tensor: &str) -> String {
        format!("{}.{tensor}", self.tag)
    }

    fn bound(&self, key: &str) -> Result<Bound, Error> {
        Ok(Bound::max_abs(self.fixture.number(&format!("/tolerance/{key}"))?))
    }

    fn replay(&self, rows: &mut Rows) -> Result<(), Error> {
        let times: Vec<f64> = self.run.schedule().times().iter().map(|time| time.share()).collect();
        rows.compare(self.name("t_steps"), &times, &self.recorded.f64(&self.name("t_steps"))?, self.bound("t_steps_abs")?);
        let (time, latent) = if self.is_bf16 { (TimeRounding::Bf16, LatentRounding::Bf16) } else { Default::default() };
        let samples = self.shape[0];
        let steps = &self.run.schedule().times()[..self.run.schedule().steps()];
        let seen: Vec<f32> = steps.iter().flat_map(|at| std::iter::repeat_n(at.network(time), samples)).collect();
        rows.compare(self.name("t_net"), &seen, &self.recorded.f32(&self.name("t_net"))?, Bound::EXACT);
        if let Some(experts) = self.facts["experts"].as_array() {
            let words: Vec<&str> = self.run.experts().into_iter().map(word).collect();
            rows.fact(self.name("experts"), experts.iter().map(Value::as_str).eq(words.iter().map(|word| Some(*word))), words.join(" "));
        }
        self.check_size(rows)?;
        let condition = self.condition(rows)?;
        let mut network = Stub { weights: Weights::read(self)?, condition, shape: self.shape, is_bf16: self.is_bf16, outputs: Vec::new() };
        let bound = self.bound(if self.is_bf16 { "bf16_x_max_abs" } else { "x_max_abs" })?;
        let want = self.recorded.f64(&self.name("x"))?;
        let states = self.states(&mut AtBoundary { network: &mut network, latent, time })?;
        rows.compare(self.name("x"), &states, &want, bound);
        let v = self.recorded.f64(&self.name("v"))?;
        rows.compare(self.name("v"), &network.outputs, &v, if self.is_bf16 { bound } else { self.bound("float32_v_max_abs")? });
        // The sampler alone: with the recorded velocities nothing but its own arithmetic is left.
        let states = self.states(&mut Playback { velocities: v })?;
        rows.compare(self.name("x, recorded v"), &states, &want, bound);
        Ok(())
    }

    /// The state before every step and at the end, one after the other.
    fn states<D: Denoiser<Latent = Vec<f64>, Error = Error>>(&self, denoiser: &mut D) -> Result<Vec<f64>, Error> {
        let values: usize = self.shape.iter().product();
        let draws = self.recorded.f32(&self.name("noise"))?;
        let mut noise = NoiseSource::recorded(draws.chunks_exact(values.max(1)).map(<[f32]>::to_vec).collect());
        let mut states = Vec::new();
        let start = self.run.start(vec![0.0; values], &mut noise)?;
        self.run.run(start, denoiser, &mut noise, |state| {
            states.extend_from_slice(&state.latent);
            ControlFlow::Continue(())
        })?;
        Ok(states)
    }

    /// The latent's shape from the pixels; for adaptive runs, the pixels from the image.
    fn check_size(&self, rows: &mut Rows) -> Result<(), Error> {
        let (table_width, table_height) = (self.fixture.count("/pixel_size/width")?, self.fixture.count("/pixel_size/height")?);
        let clip_frames = self.fixture.count("/pixel_size/num_frames")?;
        let side = |key: &str, table: usize| self.facts[key].as_u64().map_or(table, |pixels| pixels as usize);
        let (width, height) = (side("width", table_width), side("height", table_height));
        let frames = FrameCount::at_most(clip_frames).map_err(Error::model)?.latent_frames();
        let latent = LatentShape { frames, height: height / CELL, width: width / CELL }.dims();
        let [_, shape @ ..] = self.shape;
        rows.fact(self.name("latent shape"), latent == shape, format!("{latent:?} of {clip_frames} frames of {width}x{height}"));
        if let Some(clip) = self.facts["image_frames_shape"].as_array() {
            let clip: Vec<u64> = clip.iter().filter_map(Value::as_u64).collect();
            let ours = [1, 3, clip_frames as u64, height as u64, width as u64];
            rows.fact(self.name("clip shape"), clip == ours, format!("{ours:?}"));
        }
        let is_adaptive = self.facts["adaptive_resolution"].as_bool().unwrap_or_else(|| self.tag.split('.').any(|part| part == "adaptive"));
        if is_adaptive {
            let (image, table) = (picture(self.recorded)?, FrameSize::new(table_width, table_height).map_err(Error::model)?);
            let ours = FrameSize::adaptive(table, image.width(), image.height()).map_err(Error::model)?;
            let is_same = (ours.width(), ours.height()) == (width, height);
            rows.fact(self.name("adaptive size"), is_same, format!("{ours}, recorded {width}x{height}"));
        }
        Ok(())
    }

    /// What an image-to-video stub reads beside the latent, `[B, 20, T, H, W]`; empty for text.
    fn condition(&self, rows: &mut Rows) -> Result<Vec<f32>, Error> {
        if !self.recorded.has(&self.name("y")) {
            return Ok(Vec::new());
        }
        let [samples, _, frames, height, width] = self.shape;
        if self.recorded.has(&self.name("first_frame")) {
            let shape = self.recorded.shape(&self.name("first_frame"))?;
            let [.., rows_of_pixels, columns] = shape[..] else { return Err(self.fixture.broken("first_frame is no picture")) };
            let frame = picture(self.recorded)?.resized(columns, rows_of_pixels);
            let frame = frame.ok_or_else(|| self.fixture.broken("first_frame has no pixels"))?.normalised();
            let levels = self.fixture.number("/tolerance/resize_u8")? * 2.0 / 255.0 + self.fixture.number("/tolerance/normalized")?;
            let want = self.recorded.f32(&self.name("first_frame"))?;
            rows.compare(self.name("first_frame"), &frame, &want, Bound::max_abs(levels));
        }
        let encoded = self.recorded.f32(&self.name("encoded_latents"))?;
        let one = conditioning(&encoded, LatentShape { frames, height, width });
        let one = one.ok_or_else(|| self.fixture.broken(format!("{}: encoded_latents does not fit the noise", self.tag)))?;
        let all = one.iter().map(|value| if self.is_bf16 { round_bf16(*value) } else { *value }).collect::<Vec<f32>>().repeat(samples);
        rows.compare(self.name("y"), &all, &self.recorded.f32(&self.name("y"))?, Bound::EXACT);
        Ok(all)
    }
}

/// The number that follows a word in a tag: 0.9 after `boundary` in `i2v.steps4.boundary0.9.adaptive`.
fn number_after(tag: &str, word: &str) -> Option<f64> {
    let rest = &tag[tag.find(&format!(".{word}"))? + 1 + word.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].trim_end_matches('.').parse().ok()
}

fn word(expert: Expert) -> &'static str {
    match expert {
        Expert::High => "high",
        Expert::Low => "low",
    }
}

/// A stub network's parameters for one expert: `A [16, 16]`, `b [16]`, `e [16]`.
struct Affine {
    a: Vec<f32>,
    b: Vec<f32>,
    e: Vec<f32>,
}

/// Parameters by expert, and the condition's matrix `C [16, 20]` where there is a condition.
struct Weights {
    high: Affine,
    low: Affine,
    c: Vec<f32>,
}

impl Weights {
    fn read(of: &Trajectory) -> Result<Self, Error> {
        let affine = |name: &str| -> Result<Affine, Error> {
            let part = |part: &str| of.recorded.f32(&format!("stub.{name}.{part}"));
            Ok(Affine { a: part("A")?, b: part("b")?, e: part("e")? })
        };
        if of.recorded.has(&of.name("y")) {
            Ok(Self { high: affine("high")?, low: affine("low")?, c: of.recorded.f32("stub.i2v.C")? })
        } else {
            Ok(Self { high: affine("t2v")?, low: affine("t2v")?, c: Vec::new() })
        }
    }
}

/// `v = tanh(A x + C y + b t / 1000 + e)` over channels.
struct Stub {
    weights: Weights,
    condition: Vec<f32>,
    shape: [usize; 5],
    is_bf16: bool,
    outputs: Vec<f32>,
}

impl Stub {
    /// `sum_c matrix[out, c] values[sample, c, position]`.
    fn mix(matrix: &[f32], out: usize, outs: usize, values: &[f32], (sample, position, positions): (usize, usize, usize)) -> f32 {
        let channels = matrix.len() / outs;
        let row = &matrix[out * channels..][..channels];
        let sum: f64 =
            row.iter().enumerate().map(|(c, m)| f64::from(*m) * f64::from(values[(sample * channels + c) * positions + position])).sum();
        sum as f32
    }
}

impl Network for &mut Stub {
    type Error = Error;

    fn forward(&mut self, latent: &[f32], time: f32, call: Call) -> Result<Vec<f32>, Error> {
        let Affine { a, b, e } = match call.expert {
            Expert::High => &self.weights.high,
            Expert::Low => &self.weights.low,
        };
        let [samples, channels, frames, height, width] = self.shape;
        let positions = frames * height * width;
        let mut output = Vec::with_capacity(latent.len());
        for (sample, out) in (0..samples).flat_map(|sample| (0..channels).map(move |out| (sample, out))) {
            for position in 0..positions {
                let at = (sample, position, positions);
                let mut sum = Stub::mix(a, out, channels, latent, at);
                if !self.condition.is_empty() {
                    sum += Stub::mix(&self.weights.c, out, channels, &self.condition, at);
                }
                let value = (sum + b[out] * time / 1000.0 + e[out]).tanh();
                output.push(if self.is_bf16 { round_bf16(value) } else { value });
            }
        }
        self.outputs.extend_from_slice(&output);
        Ok(output)
    }
}

/// Gives back recorded velocities, step by step.
struct Playback {
    velocities: Vec<f64>,
}

impl Denoiser for Playback {
    type Latent = Vec<f64>;
    type Error = Error;

    fn velocity(&mut self, latent: &Vec<f64>, call: Call) -> Result<Vec<f64>, Error> {
        let recorded = self.velocities.get(call.step * latent.len()..(call.step + 1) * latent.len());
        recorded.map(<[f64]>::to_vec).ok_or_else(|| Error::Model(format!("no velocity was recorded for step {}", call.step)))
    }
}

/// The recorded picture, `image_u8_hwc`.
fn picture(recorded: &Tensors) -> Result<RgbImage, Error> {
    let shape = recorded.shape("image_u8_hwc")?;
    let bytes = recorded.i64("image_u8_hwc")?.into_iter().map(|value| value as u8).collect();
    let image = if let [height, width, 3] = shape[..] { RgbImage::new(width, height, bytes) } else { None };
    image.ok_or_else(|| Error::Model(format!("image_u8_hwc has shape {shape:?}, expected [height, width, 3]")))
}

/// Decoding, resizing and normalising the recorded picture.
fn pictures(fixture: &Fixture, rows: &mut Rows) -> Result<(), Error> {
    let recorded = fixture.tensors("preprocess.safetensors")?;
    let image = picture(&recorded)?;
    let path = fixture.dir.join("input.png");
    if path.exists() {
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let decoded = RgbImage::decode(&bytes).map_err(Error::model)?;
        rows.compare("input.png", decoded.bytes(), image.bytes(), Bound::EXACT);
    }
    let levels = Bound::max_abs(fixture.number("/tolerance/resize_u8")?);
    let bound = Bound::max_abs(fixture.number("/tolerance/normalized")?);
    for name in recorded.names()? {
        let Some((size, kind)) = name.strip_prefix("resize_").and_then(|rest| rest.split_once('.')) else { continue };
        let sides = size.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        let resized = sides.and_then(|(width, height)| image.resized(width, height));
        let resized = resized.ok_or_else(|| fixture.broken(format!("{name} names no size")))?;
        match kind {
            "u8_chw" => {
                let planes: Vec<u8> = (0..3).flat_map(|channel| resized.bytes()[channel..].iter().step_by(3).copied()).collect();
                rows.compare(&name, &planes, &recorded.f64(&name)?, levels);
            }
            "normalized" => {
                // From the recorded pixels, so that a level's difference in the resize is not counted twice.
                let pixels = recorded.i64(&format!("resize_{size}.u8_chw"))?;
                let plane = pixels.len() / 3;
                let bytes = (0..plane).flat_map(|at| [0, 1, 2].map(|channel| pixels[channel * plane + at] as u8)).collect();
                let exact = RgbImage::new(resized.width(), resized.height(), bytes);
                let exact = exact.ok_or_else(|| fixture.broken(format!("{name} does not fit its pixels")))?;
                rows.compare(&name, &exact.normalised(), &recorded.f32(&name)?, bound);
            }
            _ => {}
        }
    }
    Ok(())
}

/// `tables.json`: sizes, adaptive sizes, schedules and the network's times.
fn tables(fixture: &Fixture, rows: &mut Rows) -> Result<(), Error> {
    let path = fixture.dir.join("tables.json");
    let text = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let tables: Value = serde_json::from_slice(&text).map_err(|error| Error::Format { path: path.clone(), reason: error.to_string() })?;
    let broken = |reason: String| Error::Format { path: path.clone(), reason };
    let tables = tables.as_object().ok_or_else(|| broken("no tables".to_owned()))?;
    for (name, table) in tables {
        match (name.as_str(), table) {
            ("resolutions", Value::Array(cases)) => sizes(cases, rows)?,
            ("adaptive", Value::Array(cases)) => adaptive_sizes(cases, fixture.number("/tolerance/t_steps_abs")?, rows)?,
            ("network_timesteps_bf16", Value::Object(cases)) => {
                for (case, want) in cases {
                    let schedule = schedule_of(case, &Schedule::MID_TIMES).ok_or_else(|| broken(format!("{case} names no schedule")))??;
                    let times = &schedule.times()[..schedule.steps()];
                    let got: Vec<f32> = times.iter().map(|time| time.network(TimeRounding::Bf16)).collect();
                    rows.compare(format!("{name} {case}"), &got, &numbers(want), Bound::EXACT);
                }
            }
            (name, Value::Object(cases)) if name.starts_with("t_steps") => {
                let mid = match name.strip_prefix("t_steps_alternative_mid_") {
                    None => Schedule::MID_TIMES.to_vec(),
                    Some(list) => list.split('_').filter_map(|time| time.replace('p', ".").parse().ok()).collect(),
                };
                let bound = Bound::max_abs(fixture.number("/tolerance/t_steps_abs")?);
                for (case, want) in cases {
                    let schedule = schedule_of(case, &mid).ok_or_else(|| broken(format!("{case} names no schedule")))??;
                    let got: Vec<f64> = schedule.times().iter().map(|time| time.share()).collect();
                    rows.compare(format!("{name} {case}"), &got, &numbers(want), bound);
                }
            }
            (other, _) => rows.fact(other, false, "an unknown table"),
        }
    }
    Ok(())
}

/// The schedule of `sigma80.steps4`.
fn schedule_of(case: &str, mid: &[f64]) -> Option<Result<Schedule, turbowan_rcm::Error>> {
    let case = format!(".{case}");
    Some(Schedule::with_mid_times(number_after(&case, "sigma")?, number_after(&case, "steps")? as usize, mid))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn count(case: &Value, key: &str) -> Result<usize, Error> {
    case[key].as_u64().map(|count| count as usize).ok_or_else(|| Error::Model(format!("tables.json: no count {key:?} in {case}")))
}

fn named_size(case: &Value) -> Result<FrameSize, Error> {
    let word = |key: &str| case[key].as_str().unwrap_or_default();
    let resolution: Resolution = word("resolution").parse().map_err(Error::model)?;
    let ratio: AspectRatio = word("aspect_ratio").parse().map_err(Error::model)?;
    Ok(resolution.size(ratio))
}

/// Everything about a size that a table may state.
fn facts_of(size: FrameSize, latent: LatentShape) -> Vec<i64> {
    let sides = [size.width(), size.height(), latent.tokens()];
    sides.into_iter().chain(latent.dims()).map(|count| count as i64).collect()
}

fn recorded_facts(case: &Value, latent: &str, tokens: &str) -> Result<Vec<i64>, Error> {
    let sides = [count(case, "width")?, count(case, "height")?, count(case, tokens)?];
    Ok(sides.into_iter().map(|count| count as i64).chain(numbers(&case[latent]).into_iter().map(|count| count as i64)).collect())
}

fn sizes(cases: &[Value], rows: &mut Rows) -> Result<(), Error> {
    let (mut got, mut want) = (Vec::new(), Vec::new());
    for case in cases {
        let size = named_size(case)?;
        let frames = FrameCount::at_most(count(case, "num_frames")?).map_err(Error::model)?;
        got.extend(facts_of(size, size.latent(frames)));
        want.extend(recorded_facts(case, "latent", "tokens")?);
    }
    rows.integers(format!("resolutions ({} cases)", cases.len()), &got, &want, 0.0);
    Ok(())
}

/// `ulp` allows for the last bit that a JSON reader may lose.
fn adaptive_sizes(cases: &[Value], ulp: f64, rows: &mut Rows) -> Result<(), Error> {
    let (mut got, mut want, mut ideal_got, mut ideal_want) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for case in cases {
        let (area, width, height) = (named_size(case)?, count(case, "image_w")?, count(case, "image_h")?);
        let size = FrameSize::adaptive(area, width, height).map_err(Error::model)?;
        let (ideal_width, ideal_height) = FrameSize::ideal(area, width, height);
        ideal_got.extend([ideal_width, ideal_height]);
        ideal_want.extend(["ideal_w", "ideal_h"].map(|key| case[key].as_f64().unwrap_or(f64::NAN)));
        let keys = case.as_object().into_iter().flatten().map(|(key, _)| key);
        for frames in keys.filter_map(|key| key.strip_prefix("latent_")) {
            let clip =
                frames.parse().ok().map(FrameCount::at_most).ok_or_else(|| Error::Model(format!("latent_{frames} names no clip")))?;
            got.extend(facts_of(size, size.latent(clip.map_err(Error::model)?)));
            want.extend(recorded_facts(case, &format!("latent_{frames}"), &format!("tokens_{frames}"))?);
        }
    }
    rows.integers(format!("adaptive ({} cases)", cases.len()), &got, &want, 0.0);
    rows.compare(format!("adaptive, before rounding ({} cases)", cases.len()), &ideal_got, &ideal_want, Bound::max_abs(ulp));
    Ok(())
}
