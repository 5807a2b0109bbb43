//! A run on disk between two steps: the learner's whole state and the frame's, in one safetensors file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View, serialize};
use serde::{Deserialize, Serialize};
use turbowan_rcm::resume::{SliceMut, ValuesMut};

use super::Learner;
use super::journal::Sums;
use crate::atomic_file;
use crate::error::Error;

/// Key of the frame's state in the file's metadata. It is the only one, so that one state is one file, byte for byte.
const PLACE: &str = "turbowan.train";

/// Where a run stands, beside what its learner knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Name of the stage.
    pub stage: String,
    /// The configuration, as TOML.
    pub config: String,
    /// Steps done, skipped ones among them.
    pub steps: u64,
    /// Steps whose numbers were none.
    pub skipped: u64,
    /// Those of them in a row up to now.
    pub skipped_in_a_row: u64,
    /// Metrics since the last line that was written.
    pub pending: Sums,
}

/// Numbers as a one-axis tensor.
struct Flat<'a> {
    shape: [usize; 1],
    values: ValuesMut<'a>,
}

impl<'a> Flat<'a> {
    fn of(values: ValuesMut<'a>) -> Self {
        let len = match &values {
            ValuesMut::F32(values) => values.len(),
            ValuesMut::U64(values) => values.len(),
        };
        Self { shape: [len], values }
    }
}

impl View for Flat<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            ValuesMut::F32(_) => Dtype::F32,
            ValuesMut::U64(_) => Dtype::U64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match &self.values {
            ValuesMut::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ValuesMut::U64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        match &self.values {
            ValuesMut::F32(values) => size_of_val(&**values),
            ValuesMut::U64(values) => size_of_val(&**values),
        }
    }
}

/// Writes the file, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn save(path: &Path, place: &Place, learner: &mut dyn Learner) -> Result<(), Error> {
    let refuse = |error: &dyn std::fmt::Display| Error::broken(path, error);
    let text = serde_json::to_string(place).map_err(|error| refuse(&error))?;
    let metadata = HashMap::from([(PLACE.to_owned(), text)]);
    let tensors = learner.state_mut().into_iter().map(|SliceMut { name, values }| (name, Flat::of(values)));
    let bytes = serialize(tensors, Some(metadata)).map_err(|error| refuse(&error))?;
    Ok(atomic_file::write(path, &bytes)?)
}

/// A file that was read, not yet put into a learner.
pub struct Saved {
    bytes: Vec<u8>,
    /// Where the run stood.
    pub place: Place,
}

impl Saved {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is no checkpoint of a training.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let broken = |reason: &dyn std::fmt::Display| Error::broken(path, format!("not a checkpoint of a training: {reason}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(&error))?;
        let place = header.metadata().as_ref().and_then(|metadata| metadata.get(PLACE));
        let place = place.ok_or_else(|| broken(&format!("its metadata has no {PLACE}")))?;
        let place = serde_json::from_str(place).map_err(|error| broken(&error))?;
        Ok(Self { bytes, place })
    }

    /// Overwrites the learner's state; nothing is written unless everything fits.
    ///
    /// # Errors
    /// The first tensor that is missing, foreign, or of another length or kind.
    pub fn restore(&self, path: &Path, learner: &mut dyn Learner) -> Result<(), Error> {
        let broken = |reason: String| Error::broken(path, reason);
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| broken(error.to_string()))?;
        let mut slices = learner.state_mut();
        let expected: Vec<String> = slices.iter().map(|slice| slice.name.clone()).collect();
        if let Some(foreign) = file.names().into_iter().find(|name| !expected.iter().any(|known| known == name)) {
            return Err(broken(format!("{foreign} is no part of this stage's state")));
        }
        let mut parts = Vec::with_capacity(slices.len());
        for slice in &slices {
            let view = file.tensor(&slice.name).map_err(|_| broken(format!("{} is missing", slice.name)))?;
            let (dtype, len) = match &slice.values {
                ValuesMut::F32(values) => (Dtype::F32, values.len()),
                ValuesMut::U64(values) => (Dtype::U64, values.len()),
            };
            if view.dtype() != dtype || view.shape() != [len] {
                let found = format!("{:?} {:?}", view.dtype(), view.shape());
                return Err(broken(format!("{} is {found}, not {dtype:?} [{len}]", slice.name)));
            }
            parts.push(view.data());
        }
        for (slice, bytes) in slices.iter_mut().zip(parts) {
            match &mut slice.values {
                ValuesMut::F32(values) => {
                    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
                }
                ValuesMut::U64(values) => {
                    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = u64::from_le_bytes(*bytes));
                }
            }
        }
        Ok(())
    }
}
