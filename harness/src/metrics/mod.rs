//! Measures of videos that need no captions, in 8-bit levels where they have a unit.
//!
//! *Likeness* compares two videos of the same noise: it says what an approximation changes, not how good a video is. The
//! others read one video alone, and each says one thing: none of them is quality either, and what is asked for decides which
//! way is better (a video that should move has more motion than one that should not).

pub mod likeness;
pub mod look;
pub mod lpips;
mod luma;
pub mod motion;

use serde::{Deserialize, Serialize};

use crate::video::Frames;

/// Measures of one video alone; none where it cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct NoReference {
    /// Mean change from frame to frame, in levels: [`motion::motion`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub motion: Option<f64>,
    /// The same of the background alone: [`motion::flicker`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flicker: Option<f64>,
    /// What is left of the change when blocks are moved to where they fit, in levels: [`motion::warp_error`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warp_error: Option<f64>,
    /// Variance of the Laplacian, in squared levels: [`look::sharpness`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sharpness: Option<f64>,
    /// How far the mean colour goes from the first frame's, in levels: [`look::colour_drift`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub colour_drift: Option<f64>,
    /// Share of pixels at the end of their range: [`look::clipped`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clipped: Option<f64>,
}

impl NoReference {
    /// What each of [`NoReference::values`] is called.
    pub const NAMES: [&str; 6] = ["motion", "flicker", "warp error", "sharpness", "colour drift", "clipped"];

    /// Of a video.
    pub fn of(video: &Frames) -> Self {
        Self {
            motion: motion::motion(video),
            flicker: motion::flicker(video),
            warp_error: motion::warp_error(video),
            sharpness: look::sharpness(video),
            colour_drift: look::colour_drift(video),
            clipped: Some(look::clipped(video)),
        }
    }

    /// All of them, in the order of [`NoReference::NAMES`].
    pub fn values(&self) -> [Option<f64>; 6] {
        [self.motion, self.flicker, self.warp_error, self.sharpness, self.colour_drift, self.clipped]
    }
}
