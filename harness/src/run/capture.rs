//! `--capture`: what chosen blocks attend with, as files that `turbowan compare --input` reads.
//!
//! A file has `q`, `k` and `v`, `[batch, tokens, heads, head_dim]`, after their norms and the rotary embedding, in bf16 where
//! that loses nothing and in f32 otherwise; its metadata says where in which run they were seen.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, View, serialize};
use serde::{Deserialize, Serialize};
use turbowan_rcm::{Branch, Expert};
use turbowan_wan_model::backend::Heads;
use turbowan_wan_model::pipeline::AttentionPlace;

use crate::atomic_file;
use crate::error::Error;
use crate::request::Request;

/// Key of the description in a file's metadata.
const DESCRIPTION: &str = "turbowan.capture";

/// Where captured rows were seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Block, from 0.
    pub block: usize,
    /// Blocks of the network.
    pub blocks: usize,
    /// Step, from 0.
    pub step: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Whether the negative prompt was asked under.
    pub negative: bool,
    /// `[batch, tokens, heads, head_dim]`.
    pub shape: [usize; 4],
    /// The model: its seed, or its files.
    pub model: String,
    /// Pixels across and down, and frames.
    pub video: [usize; 3],
    /// How the run attended.
    pub attention: String,
}

/// Which blocks and steps are kept, and where.
#[derive(Debug, Clone)]
pub struct Capture {
    folder: PathBuf,
    blocks: Vec<usize>,
    steps: Vec<usize>,
    total_steps: usize,
    model: String,
    video: [usize; 3],
    attention: String,
}

impl Capture {
    /// Captures into `folder`, which is made, what the two lists choose of a request's blocks and steps.
    ///
    /// # Errors
    /// A list that cannot be read or reaches past the end, a model that cannot be read, or a folder that cannot be made.
    pub fn new(folder: &Path, request: &Request, blocks: &str, steps: &str) -> Result<Self, Error> {
        let layers = request.models.dit(request.mode, Expert::High)?.config.layers;
        let blocks = chosen("--capture_blocks", blocks, layers)?;
        let steps = chosen("--capture_steps", steps, request.num_steps)?;
        std::fs::create_dir_all(folder).map_err(|source| atomic_file::WriteError::of(folder, "make the folder", source))?;
        let model = request.models.transformer_name(request.mode);
        let video = [request.width, request.height, request.num_frames];
        let attention = request.attention.name().to_string();
        Ok(Self { folder: folder.to_owned(), blocks, steps, total_steps: request.num_steps, model, video, attention })
    }

    /// Whether a block is kept.
    pub fn wants(&self, place: AttentionPlace) -> bool {
        self.blocks.contains(&place.block) && self.steps.contains(&place.step)
    }

    /// Writes one file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, place: AttentionPlace, qkv: &[Vec<f32>; 3], heads: Heads) -> Result<(), Error> {
        let Heads { batch, heads, head_dim } = heads;
        let shape = [batch, qkv[0].len() / (batch * heads * head_dim).max(1), heads, head_dim];
        let negative = place.branch == Branch::Unconditional;
        let description = Description {
            block: place.block,
            blocks: place.of,
            step: place.step,
            steps: self.total_steps,
            negative,
            shape,
            model: self.model.clone(),
            video: self.video,
            attention: self.attention.clone(),
        };
        let name = format!("step{:02}-block{:02}{}.safetensors", place.step, place.block, if negative { "-negative" } else { "" });
        let path = self.folder.join(name);
        let text = serde_json::to_string(&description).map_err(|error| Error::broken(&path, error))?;
        let metadata = HashMap::from([(DESCRIPTION.to_owned(), text)]);
        let tensors = ["q", "k", "v"].into_iter().zip(qkv).map(|(name, values)| (name, Rows { shape, values, dtype: format_of(values) }));
        let bytes = serialize(tensors, Some(metadata)).map_err(|error| Error::broken(&path, error))?;
        Ok(atomic_file::write(&path, &bytes)?)
    }
}

/// Numbers below `count` that a list such as `first,middle,7` names, ascending.
fn chosen(flag: &'static str, list: &str, count: usize) -> Result<Vec<usize>, Error> {
    let mut chosen = Vec::new();
    for word in list.split(',').map(str::trim) {
        match word {
            "first" => chosen.push(0),
            "middle" => chosen.push(count / 2),
            "last" => chosen.push(count.saturating_sub(1)),
            "all" => chosen.extend(0..count),
            number => match number.parse::<usize>() {
                Ok(number) if number < count => chosen.push(number),
                Ok(number) => {
                    return Err(Error::flag(flag, format!("there are {count}, from 0 to {}, so no {number}", count.saturating_sub(1))));
                }
                Err(_) => return Err(Error::flag(flag, format!("{word:?} is neither a number nor first, middle, last, all"))),
            },
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// bf16 where every value is one.
fn format_of(values: &[f32]) -> Dtype {
    if values.iter().all(|value| value.to_bits() & 0xFFFF == 0) { Dtype::BF16 } else { Dtype::F32 }
}

struct Rows<'a> {
    shape: [usize; 4],
    values: &'a [f32],
    dtype: Dtype,
}

impl View for Rows<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self.dtype {
            Dtype::BF16 => self.values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            _ => self.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.values.len() * if self.dtype == Dtype::BF16 { 2 } else { 4 }
    }
}

/// Captured rows, read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Captured {
    /// `[batch, tokens, heads, head_dim]` of all three.
    pub shape: [usize; 4],
    /// Queries, keys and values.
    pub qkv: [Vec<f32>; 3],
    /// Where they were seen; none in a file of another program.
    pub description: Option<Description>,
}

impl Captured {
    /// Reads a file with `q`, `k` and `v`, `[batch, tokens, heads, head_dim]` each, in f32, bf16 or f16.
    ///
    /// # Errors
    /// When it cannot be read or is no such file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let broken = |reason: &dyn std::fmt::Display| Error::broken(path, format!("not captured attention: {reason}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(&error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(&error))?;
        let mut shapes = Vec::new();
        let mut rows = |name: &str| -> Result<Vec<f32>, Error> {
            let view = file.tensor(name).map_err(|error| broken(&error))?;
            let shape: [usize; 4] = view
                .shape()
                .try_into()
                .map_err(|_| broken(&format!("{name} has the shape {:?}, not [batch, tokens, heads, head_dim]", view.shape())))?;
            shapes.push(shape);
            let values: Vec<f32> = match view.dtype() {
                Dtype::F32 => view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
                Dtype::BF16 => view.data().as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
                Dtype::F16 => view.data().as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
                other => return Err(broken(&format!("{name} is {other:?}, not f32, bf16 or f16"))),
            };
            match values.iter().position(|value| !value.is_finite()) {
                Some(index) => Err(broken(&format!("value {index} of {name} is not a finite number"))),
                None => Ok(values),
            }
        };
        let qkv = [rows("q")?, rows("k")?, rows("v")?];
        let shape = shapes[0];
        if shapes.iter().any(|other| *other != shape) || shape.contains(&0) {
            return Err(broken(&format!("q, k and v have the shapes {shapes:?}; one shape without an empty axis is needed")));
        }
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get(DESCRIPTION));
        let description = text.map(|text| serde_json::from_str(text)).transpose().map_err(|error| broken(&error))?;
        Ok(Self { shape, qkv, description })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_numbers_and_ends() {
        assert_eq!(chosen("--capture_blocks", "last, first,middle,3", 30).unwrap(), [0, 3, 15, 29]);
        assert_eq!(chosen("--capture_steps", "all,first", 3).unwrap(), [0, 1, 2]);
        assert_eq!(chosen("--capture_steps", "first,middle,last", 1).unwrap(), [0]);
        for list in ["30", "-1", "some", ""] {
            assert!(chosen("--capture_blocks", list, 30).is_err(), "{list}");
        }
    }
}
