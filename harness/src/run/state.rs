//! A run on disk between two steps: the request and the latent, enough to go on to the same bytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View, serialize};
use turbowan_rcm::unipc::History;
use turbowan_wan_model::pipeline::Snapshot;

use crate::atomic_file;
use crate::error::Error;
use crate::request::Request;

/// Key of the request in the file's metadata.
const REQUEST: &str = "turbowan.request";
/// Key of the output's name.
const OUTPUT: &str = "turbowan.save_path";
/// Key of the number of steps done.
const STEP: &str = "turbowan.step";
/// Key of UniPC's last order.
const ORDER: &str = "turbowan.unipc_order";

/// A run that was saved.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedRun {
    /// What was asked for.
    pub request: Request,
    /// Where the video goes.
    pub save_path: PathBuf,
    /// Where the run stands.
    pub snapshot: Snapshot,
}

/// Values as a one-axis tensor.
struct Flat<'a> {
    shape: [usize; 1],
    values: &'a [f64],
}

impl View for Flat<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F64
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

impl SavedRun {
    /// The state file of a video: `clip.mp4` has `clip.mp4.run`.
    pub fn path_beside(video: &Path) -> PathBuf {
        let mut name = video.file_name().unwrap_or_default().to_owned();
        name.push(".run");
        video.with_file_name(name)
    }

    /// Writes the run, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let snapshot = &self.snapshot;
        let mut metadata = HashMap::from([
            (REQUEST.to_owned(), serde_json::to_string(&self.request).map_err(|error| Error::broken(path, error))?),
            (OUTPUT.to_owned(), self.save_path.to_string_lossy().into_owned()),
            (STEP.to_owned(), snapshot.step.to_string()),
        ]);
        let mut tensors = vec![("latent", &snapshot.latent)];
        if let Some(history) = &snapshot.history {
            metadata.insert(ORDER.to_owned(), history.order.to_string());
            tensors.push(("history.start", &history.start));
            tensors.push(("history.clean", &history.clean));
            tensors.extend(history.clean_before.as_ref().map(|values| ("history.clean_before", values)));
        }
        let tensors = tensors.into_iter().map(|(name, values)| (name, Flat { shape: [values.len()], values }));
        let bytes = serialize(tensors, Some(metadata)).map_err(|error| Error::broken(path, error))?;
        Ok(atomic_file::write(path, &bytes)?)
    }

    /// Reads a run back.
    ///
    /// # Errors
    /// When the file cannot be read or is no saved run.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let broken = |reason: &dyn std::fmt::Display| Error::broken(path, format!("not a saved run: {reason}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(&error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(&error))?;
        let metadata = header.metadata().as_ref().ok_or_else(|| broken(&"it carries no request"))?;
        let text = |key: &str| metadata.get(key).ok_or_else(|| broken(&format!("no {key}")));
        let values = |name: &str| -> Result<Option<Vec<f64>>, Error> {
            match file.tensor(name) {
                Ok(view) if view.dtype() == Dtype::F64 => {
                    Ok(Some(view.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()))
                }
                Ok(_) => Err(broken(&format!("{name} is not f64"))),
                Err(_) => Ok(None),
            }
        };
        let history = match (values("history.start")?, values("history.clean")?) {
            (Some(start), Some(clean)) => {
                let order = text(ORDER)?.parse().map_err(|error| broken(&error))?;
                Some(History { start, clean, clean_before: values("history.clean_before")?, order })
            }
            _ => None,
        };
        Ok(Self {
            request: serde_json::from_str(text(REQUEST)?).map_err(|error| broken(&error))?,
            save_path: PathBuf::from(text(OUTPUT)?),
            snapshot: Snapshot {
                step: text(STEP)?.parse().map_err(|error| broken(&error))?,
                latent: values("latent")?.ok_or_else(|| broken(&"no latent"))?,
                history,
            },
        })
    }

    /// Forgets a run that has ended well. A file that is gone already is no error.
    pub fn remove(path: &Path) {
        let _ = std::fs::remove_file(path);
    }
}
