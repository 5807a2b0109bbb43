//! What was measured of one clip, as a record keeps it.

use serde::{Deserialize, Serialize};
use turbowan_world::{Answer, Attributes, judge};

use crate::error::Error;
use crate::eval::row::Against;
use crate::metrics::NoReference;
use crate::metrics::likeness::{self, Likeness};
use crate::metrics::lpips::Lpips;
use crate::video::Frames;

/// What the judge read, in names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Read {
    /// The shape, where it can be read.
    pub shape: Option<String>,
    /// The shape's colour.
    pub colour: Option<String>,
    /// The background.
    pub background: Option<String>,
    /// The motion.
    pub motion: Option<String>,
    /// What is wrong with the picture.
    pub faults: Vec<String>,
    /// Whether frame 0 alone shows what was asked for.
    pub first_frame: bool,
}

impl Read {
    fn of(frames: &Frames, asked: &Attributes) -> Result<Self, Error> {
        let shape = [frames.count(), frames.height(), frames.width()];
        let seen = turbowan_world::Frames::new(shape, frames.rgb()).map_err(|error| Error::flag("--resolution", error.to_string()))?;
        let reading = judge(&seen);
        let answer = reading.answer(asked);
        Ok(Self {
            shape: answer.shape.map(|value| value.name().to_owned()),
            colour: answer.colour.map(|value| value.name().to_owned()),
            background: answer.background.map(|value| value.name().to_owned()),
            motion: answer.motion.map(|value| value.name().to_owned()),
            faults: reading.look.faults.iter().map(ToString::to_string).collect(),
            first_frame: answer.first_frame,
        })
    }

    /// As it is counted.
    ///
    /// # Errors
    /// A name that is no value of its attribute.
    pub fn answer(&self) -> Result<Answer, turbowan_world::Error> {
        Ok(Answer {
            shape: self.shape.as_deref().map(str::parse).transpose()?,
            colour: self.colour.as_deref().map(str::parse).transpose()?,
            background: self.background.as_deref().map(str::parse).transpose()?,
            motion: self.motion.as_deref().map(str::parse).transpose()?,
            sound: self.faults.is_empty(),
            first_frame: self.first_frame,
        })
    }
}

/// Likeness to another row's clip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Whose.
    pub against: Against,
    /// How alike.
    #[serde(flatten)]
    pub likeness: Likeness,
}

/// One clip of one row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// What the judge read, where a whole clip of the world was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read: Option<Read>,
    /// What it looks like by itself.
    #[serde(flatten)]
    pub alone: NoReference,
    /// How long its latent was sampled, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub denoising_seconds: Option<f64>,
    /// Likeness to the clips that the row is compared with.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub compared: Vec<Compared>,
    /// Mean squared difference of frame 0 to the picture that was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_frame_mse: Option<f64>,
    /// Why there is no clip.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failed: Option<String>,
}

impl Measured {
    /// Of a video; `others` are what it is compared with, by `lpips` too where there is one, and `given` is the picture that it
    /// was to begin with.
    ///
    /// # Errors
    /// Frames too small for the judge or for LPIPS.
    pub fn of(
        video: &Frames,
        asked: Option<&Attributes>,
        others: &[(Against, &Frames)],
        lpips: Option<&Lpips>,
        given: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let compared = others.iter().map(|(against, other)| {
            let lpips = lpips.map(|lpips| lpips.distance(video, other)).transpose()?;
            Ok::<_, Error>(Compared { against: *against, likeness: Likeness { lpips, ..Likeness::of(video, other) } })
        });
        Ok(Self {
            read: asked.map(|asked| Read::of(video, asked)).transpose()?,
            alone: NoReference::of(video),
            compared: compared.collect::<Result<_, _>>()?,
            first_frame_mse: given.zip(video.iter().next()).map(|(given, first)| likeness::mean_squared(first, given)),
            ..Self::default()
        })
    }

    /// Of a clip that could not be made: nothing of it can be read.
    pub fn failed(reason: String, is_judged: bool) -> Self {
        let unread = Read { faults: vec!["there is no clip".to_owned()], ..Read::default() };
        Self { read: is_judged.then_some(unread), failed: Some(reason), ..Self::default() }
    }
}
