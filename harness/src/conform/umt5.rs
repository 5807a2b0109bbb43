//! `umt5`: prompt clean-up, tokenizer and text encoder against the official ones.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::TensorView as Stored;
use serde_json::Value;
use turbowan_cuda::Rounding;
use turbowan_reference::metrics::Bound;
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::backend::text::TextBackend;
use turbowan_wan_model::checkpoint::{Checkpoint, Dtype, TensorSource, TensorView};
use turbowan_wan_model::config::TextConfig;
use turbowan_wan_model::text::{EPS, PromptTokenizer, TextEncoder, TextStates, clean_prompt, position_bucket};

use super::{Error, Fixture, HOSTS, Rows, Tensors, dit};
use crate::run::processor::Processor;

/// Longer than any prompt of a fixture: no truncation.
const UNLIMITED: usize = 1 << 24;

/// Replays `umt5`.
pub(super) fn run(fixture: &Fixture, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
    let config = config(fixture)?;
    let io = fixture.tensors("io.safetensors")?;
    let weights = Checkpoint::open(fixture.dir.join("weights.safetensors")).map_err(Error::model)?;
    let prompts = Prompts::read(&io, "ids", "mask")?;
    if let Processor::Device(device) = processor {
        rows.skip("names, token ids, position buckets", HOSTS);
        rows.skip("states in f32", dit::F32_ALONE);
        return bf16_states(fixture, rows, &DeviceBackend::load(device).map_err(Error::model)?, &config, &prompts, &io);
    }
    let close = Bound::max_abs(fixture.number("/tolerance/f32_max_abs")?);

    names(fixture, rows, &config, &weights)?;
    tokens(fixture, rows, &io)?;
    tokenizer_cases(fixture, rows)?;
    positions(fixture, rows, &config, &io)?;

    let host = Host { rounding: Rounding::None };
    let encoder = TextEncoder::load(&host, &weights, &config).map_err(Error::model)?;
    states(rows, &host, &encoder, &prompts, &io, close)?;
    long_prompt(rows, &host, &encoder, &io, close)?;
    position_biases(rows, &host, &encoder, &io)?;
    bf16_file(fixture, rows, &config, &weights)?;
    bf16_states(fixture, rows, &Host { rounding: Rounding::Bf16 }, &config, &prompts, &io)
}

fn config(fixture: &Fixture) -> Result<TextConfig, Error> {
    let count = |key: &str| fixture.count(&format!("/config/{key}"));
    if fixture.meta["config"]["shared_pos"].as_bool() == Some(true) {
        return Err(fixture.broken("config.shared_pos: an encoder whose blocks share a position table is no umT5"));
    }
    if fixture.meta["config"]["eps"].as_f64().is_some_and(|eps| eps as f32 != EPS) {
        return Err(fixture.broken(format!("config.eps is not umT5's {EPS:e}")));
    }
    Ok(TextConfig {
        vocab: count("vocab")?,
        dim: count("dim")?,
        dim_attn: count("dim_attn")?,
        dim_ffn: count("dim_ffn")?,
        heads: count("num_heads")?,
        layers: count("num_layers")?,
        buckets: count("num_buckets")?,
        max_distance: count("max_dist")?,
    })
}

/// Tensor names, sizes told by shapes, and the names that transformers gives the same tensors.
fn names(fixture: &Fixture, rows: &mut Rows, config: &TextConfig, weights: &Checkpoint) -> Result<(), Error> {
    let checked = weights.check(&config.tensors(), |_| false);
    rows.fact("tensor names and shapes", checked.is_ok(), checked.err().map_or_else(String::new, |error| error.to_string()));
    let found = TextConfig::recognise(weights).map_err(Error::model)?;
    let same = TextConfig { max_distance: config.max_distance, ..found.clone() } == *config;
    rows.fact("configuration told by shapes", same, if same { String::new() } else { format!("{found:?}") });

    let Some(map) = fixture.meta["key_map_official_to_transformers"].as_object() else { return Ok(()) };
    let renamed: Result<HashMap<String, Stored<'_>>, Error> = map
        .iter()
        .map(|(official, other)| {
            let view = weights.take(official).map_err(Error::model)?;
            let name = other.as_str().ok_or_else(|| fixture.broken("a name in key_map_official_to_transformers is no text"))?;
            let dtype = match view.dtype {
                Dtype::Bf16 => safetensors::Dtype::BF16,
                Dtype::F16 => safetensors::Dtype::F16,
                _ => safetensors::Dtype::F32,
            };
            Ok((name.to_owned(), Stored::new(dtype, view.shape.to_vec(), view.bytes).map_err(Error::model)?))
        })
        .collect();
    let file = safetensors::serialize(renamed?, None).map_err(Error::model)?;
    let checked = Checkpoint::from_vec("transformers names", file).and_then(|file| file.check(&config.tensors(), |_| false));
    rows.fact("transformers' names", checked.is_ok(), checked.err().map_or_else(String::new, |error| error.to_string()));
    Ok(())
}

fn tokenizer(fixture: &Fixture) -> Result<PromptTokenizer, Error> {
    let files = fixture.meta["tokenizer"]["files"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let file = files.into_iter().find(|file| file.ends_with("tokenizer.json")).unwrap_or("tokenizer/tokenizer.json");
    PromptTokenizer::open(&fixture.dir.join(file)).map_err(Error::model)
}

/// Ids and masks of the fixture's prompts.
fn tokens(fixture: &Fixture, rows: &mut Rows, io: &Tensors) -> Result<(), Error> {
    let tokenizer = tokenizer(fixture)?;
    let length = fixture.count("/config/seq_len")?;
    let prompts = fixture.meta["prompts"].as_array().ok_or_else(|| fixture.broken("no \"prompts\""))?;
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let text = prompt.as_str().ok_or_else(|| fixture.broken("a prompt is no text"))?;
        let tokens = tokenizer.encode(&clean_prompt(text), length).map_err(Error::model)?;
        let (row, seen) = tokens.padded(length, tokenizer.pad());
        ids.extend(row.into_iter().map(i64::from));
        mask.extend(seen.into_iter().map(i64::from));
    }
    rows.integers("token ids of the prompts", &ids, &io.i64("ids")?, 0.0);
    rows.integers("masks of the prompts", &mask, &io.i64("mask")?, 0.0);
    Ok(())
}

/// Texts with what the official code makes of them.
fn tokenizer_cases(fixture: &Fixture, rows: &mut Rows) -> Result<(), Error> {
    let path = fixture.dir.join("tokenizer_cases.json");
    let text = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let cases: Vec<Value> = serde_json::from_slice(&text)
        .map_err(|error| Error::Format { path: path.clone(), reason: format!("no list of cases: {error}") })?;
    let tokenizer = tokenizer(fixture)?;
    let length = fixture.count("/config/seq_len")?;
    let mut wrong = [const { Vec::new() }; 3];
    for case in &cases {
        let text = case["text"].as_str().ok_or_else(|| Error::Format { path: path.clone(), reason: "a case without \"text\"".into() })?;
        let cleaned = clean_prompt(text);
        let encode = |limit| tokenizer.encode(&cleaned, limit).map(|tokens| Value::from(tokens.ids)).map_err(Error::model);
        let got = [Value::from(cleaned.as_str()), encode(UNLIMITED)?, encode(length)?];
        for ((key, got), wrong) in ["cleaned", "ids", "ids_truncated"].into_iter().zip(got).zip(&mut wrong) {
            if case[key] != got {
                wrong.push(format!("{text:?}: got {got}, want {}", case[key]));
            }
        }
    }
    for (what, wrong) in ["cleaned texts", "token ids", "token ids, truncated"].into_iter().zip(wrong) {
        let note = format!(
            "{} of {} equal{}",
            cases.len() - wrong.len(),
            cases.len(),
            wrong.first().map_or_else(String::new, |first| format!("; {first}"))
        );
        rows.fact(format!("tokenizer cases: {what}"), wrong.is_empty() && !cases.is_empty(), note);
    }
    Ok(())
}

fn positions(fixture: &Fixture, rows: &mut Rows, config: &TextConfig, io: &Tensors) -> Result<(), Error> {
    if !io.has("bucket_rel_pos") {
        return Err(fixture.broken("no tensor bucket_rel_pos"));
    }
    let distances = io.i64("bucket_rel_pos")?;
    let got: Vec<i64> = distances.iter().map(|distance| position_bucket(*distance, config.buckets, config.max_distance) as i64).collect();
    rows.integers("position buckets", &got, &io.i64("bucket")?, 0.0);
    Ok(())
}

/// Recorded ids, one row a prompt, and how many of each are no padding.
struct Prompts {
    length: usize,
    ids: Vec<u32>,
    seen: Vec<usize>,
}

impl Prompts {
    fn read(io: &Tensors, ids: &str, mask: &str) -> Result<Self, Error> {
        let shape = io.shape(ids)?;
        let [_, length] = shape[..] else {
            return Err(Error::Model(format!("{ids} has shape {shape:?}, expected two axes")));
        };
        let mask = io.i64(mask)?;
        let seen = mask.chunks(length).map(|row| row.iter().sum::<i64>() as usize).collect();
        Ok(Self { length, ids: io.i64(ids)?.into_iter().map(|id| id as u32).collect(), seen })
    }

    fn each(&self) -> impl Iterator<Item = (&[u32], usize)> {
        self.ids.chunks(self.length).zip(self.seen.iter().copied())
    }

    /// Of values `[prompts, length, ..]`, those of rows that are no padding.
    fn valid(&self, values: &[f32]) -> Vec<f32> {
        let (prompt, row) = (values.len() / self.seen.len(), values.len() / self.ids.len());
        values.chunks(prompt).zip(&self.seen).flat_map(|(values, seen)| values[..seen * row].iter().copied()).collect()
    }
}

type Encoder<'a> = TextEncoder<'a, Host>;

fn encode(host: &Host, encoder: &Encoder<'_>, ids: &[u32], keys: usize, outs: &mut Vec<Vec<f32>>) -> Result<TextStates, Error> {
    let mut keep = |_, x: &HostTensor| {
        outs.push(x.values.clone());
        Ok(())
    };
    encoder.encode_padded(host, ids, keys, &mut keep).map_err(Error::model)
}

/// The padded form against `hidden_raw` and `act.*`, the form without padding against `context`.
fn states(rows: &mut Rows, host: &Host, encoder: &Encoder<'_>, prompts: &Prompts, io: &Tensors, close: Bound) -> Result<(), Error> {
    let (mut raw, mut context) = (Vec::new(), Vec::new());
    let text_len = io.shape("context")?[1];
    let mut blocks = vec![Vec::new(); encoder.config().layers];
    for (ids, seen) in prompts.each() {
        let mut outs = Vec::new();
        raw.extend(encode(host, encoder, ids, seen, &mut outs)?.values);
        blocks.iter_mut().zip(outs).for_each(|(all, out)| all.extend(out));
        context.extend(encode(host, encoder, &ids[..seen], seen, &mut Vec::new())?.padded(text_len));
    }
    rows.compare("hidden_raw", &raw, &io.f32("hidden_raw")?, close);
    rows.compare("context, encoded without padding", &context, &io.f32("context")?, close);
    for (layer, got) in blocks.iter().enumerate() {
        let name = format!("act.block{layer}_out");
        if io.has(&name) {
            let want = io.f32(&name)?;
            rows.compare(name, &got[..want.len().min(got.len())], &want, close);
        }
    }
    Ok(())
}

fn long_prompt(rows: &mut Rows, host: &Host, encoder: &Encoder<'_>, io: &Tensors, close: Bound) -> Result<(), Error> {
    if !io.has("long_ids") {
        return Ok(());
    }
    let prompts = Prompts::read(io, "long_ids", "long_mask")?;
    let mut got = Vec::new();
    for (ids, seen) in prompts.each() {
        got.extend(encode(host, encoder, &ids[..seen], seen, &mut Vec::new())?.values);
    }
    rows.compare("long_hidden_valid", &got, &io.f32("long_hidden_valid")?, close);
    Ok(())
}

/// Tensors called `pos_bias_blockN_QxK`, `[1, heads, Q, K]`.
fn position_biases(rows: &mut Rows, host: &Host, encoder: &Encoder<'_>, io: &Tensors) -> Result<(), Error> {
    for name in io.names()?.iter().filter(|name| name.starts_with("pos_bias_block")) {
        let shape = io.shape(name)?;
        let layer = name["pos_bias_block".len()..].split('_').next().and_then(|layer| layer.parse().ok()).unwrap_or(0);
        let [1, heads, queries, keys] = shape[..] else {
            return Err(Error::Model(format!("{name} has shape {shape:?}, expected [1, heads, queries, keys]")));
        };
        let bias = encoder.position_bias(host, layer, queries, keys).map_err(Error::model)?.unwrap_or_default();
        let spread: Vec<f32> = bias
            .chunks(queries + keys - 1)
            .take(heads)
            .flat_map(|bias| (0..queries).flat_map(move |query| bias[queries - 1 - query..][..keys].iter().copied()))
            .collect();
        rows.compare(name.as_str(), &spread, &io.f32(name)?, Bound::EXACT);
    }
    Ok(())
}

/// The `.pth` beside the weights, in bf16.
fn open_bf16(fixture: &Fixture) -> Result<Checkpoint, Error> {
    let Some(path) = torch_file(&fixture.dir)? else { return Err(fixture.broken("no .pth file beside it")) };
    Checkpoint::open(&path).map_err(Error::model)
}

/// The `.pth` holds the same numbers rounded to bf16.
fn bf16_file(fixture: &Fixture, rows: &mut Rows, config: &TextConfig, weights: &Checkpoint) -> Result<(), Error> {
    let file = open_bf16(fixture)?;
    file.check(&config.tensors(), |_| false).map_err(Error::model)?;
    let rounded = |view: TensorView<'_>| view.to_bf16();
    let differing: Vec<_> = config
        .tensors()
        .into_iter()
        .filter(|spec| file.get(&spec.name).map(rounded) != weights.get(&spec.name).map(rounded))
        .map(|spec| spec.name)
        .collect();
    let note = format!("{} tensors differ from the rounded weights {differing:?}", differing.len());
    rows.fact(".pth weights", differing.is_empty(), note);
    Ok(())
}

/// The `.pth` run in bf16 from end to end.
fn bf16_states<B: TextBackend>(
    fixture: &Fixture,
    rows: &mut Rows,
    backend: &B,
    config: &TextConfig,
    prompts: &Prompts,
    io: &Tensors,
) -> Result<(), Error> {
    let file = open_bf16(fixture)?;
    let encoder = TextEncoder::load(backend, &file, config).map_err(Error::model)?;
    let mut got = Vec::new();
    for (ids, seen) in prompts.each() {
        got.extend(encoder.encode_padded(backend, ids, seen, &mut |_, _| Ok(())).map_err(Error::model)?.values);
    }
    let exact = got.iter().all(|value| bf16::from_f32(*value).to_f32() == *value);
    rows.fact("bf16 states are bf16 values", exact, "");
    let want = io.f32("hidden_bf16_weights_bf16")?;
    let bound = Bound::relative_l2(fixture.number("/tolerance/bf16_rel_l2")?);
    rows.compare("hidden_bf16_weights_bf16, rows of the prompts", &prompts.valid(&got), &prompts.valid(&want), bound);
    rows.compare("hidden_bf16_weights_bf16, padding too", &got, &want, bound);
    Ok(())
}

fn torch_file(dir: &Path) -> Result<Option<PathBuf>, Error> {
    let io = |source| Error::Io { path: dir.to_path_buf(), source };
    let paths = std::fs::read_dir(dir).map_err(io)?.map(|entry| entry.map(|entry| entry.path()).map_err(io));
    let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pth"));
    paths.sort();
    Ok(paths.into_iter().next())
}
