//! Crops of clips of the world, in space and in time: what the autoencoder learns from.
//!
//! Most of a clip is one flat colour, which teaches nothing, and so is the inside of a shape; a share of the crops is therefore centred on a
//! place of the shape's outline.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use turbowan_rcm::Stream;
use turbowan_wan_model::vae::Clip;
use turbowan_world::{Clip as Scene, Size, World};

use crate::error::Error;

/// Crops of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropSettings {
    /// Frames, `4 n + 1`.
    pub frames: usize,
    /// Pixels a side, a multiple of 8.
    pub side: usize,
    /// Crops.
    pub batch: usize,
}

/// Where crops are taken from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) world: World,
    /// Sizes of clips, one as likely as another.
    pub(super) sizes: Vec<Size>,
    /// Share of crops that are centred on an outline.
    pub(super) focused: f64,
}

/// Uniforms that a crop takes: size, start, focus, place on the outline, top, left.
const DRAWS: usize = 6;

impl Source {
    /// Whether every clip can hold the crops.
    pub(super) fn check(&self, crops: CropSettings) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::flag("vae", reason));
        let CropSettings { frames, side, batch } = crops;
        if batch == 0 || side == 0 || !side.is_multiple_of(8) || frames % 4 != 1 {
            return refuse(format!(
                "{batch} crops of {frames} frames of {side} pixels: at least one, of 4 n + 1 frames, a multiple of 8 a side"
            ));
        }
        match self.sizes.iter().find(|size| size.side() < side || size.frames() < frames) {
            Some(size) => {
                refuse(format!("crops of {frames} frames of {side} pixels do not fit clips of {} of {}", size.frames(), size.side()))
            }
            None if self.sizes.is_empty() => refuse("clips: at least one size".to_owned()),
            None => Ok(()),
        }
    }

    /// The crops of clips `first..` of the world, one of each.
    pub(super) fn draw(&self, crops: CropSettings, first: u64, noise: &mut Stream) -> Result<Vec<Clip>, Error> {
        let uniforms = noise.uniforms(crops.batch * DRAWS);
        let draws: Vec<_> = (first..).zip(uniforms.chunks_exact(DRAWS)).collect();
        draws.into_par_iter().map(|(index, draws)| self.crop(crops, &self.world.clip(index), draws)).collect()
    }

    fn crop(&self, crops: CropSettings, scene: &Scene, draws: &[f64]) -> Result<Clip, Error> {
        let CropSettings { frames, side, .. } = crops;
        let below = |draw: f64, count: usize| ((draw * count as f64) as usize).min(count - 1);
        let size = self.sizes[below(draws[0], self.sizes.len())];
        let start = below(draws[1], size.frames() - frames + 1);
        let whole = size.side();
        let mut frame = vec![0.0; size.frame_len()];
        let last = whole - side;
        let (mut top, mut left) = (below(draws[4], last + 1), below(draws[5], last + 1));
        if draws[2] < self.focused {
            scene.frame_signed(size, start + frames / 2, &mut frame)?;
            let outline = outline(&frame, whole);
            if !outline.is_empty() {
                let (y, x) = outline[below(draws[3], outline.len())];
                // Not always in the very middle.
                let aside = |draw: f64, at: usize| (at + below(draw, side / 2 + 1)).saturating_sub(side / 4 + side / 2).min(last);
                (top, left) = (aside(draws[4], y), aside(draws[5], x));
            }
        }
        let mut values = vec![0.0; 3 * frames * side * side];
        for index in 0..frames {
            scene.frame_signed(size, start + index, &mut frame)?;
            for channel in 0..3 {
                for line in 0..side {
                    let from = &frame[(channel * whole + top + line) * whole + left..][..side];
                    values[((channel * frames + index) * side + line) * side..][..side].copy_from_slice(from);
                }
            }
        }
        Ok(Clip::new([3, frames, side, side], values)?)
    }
}

/// Line and column of every pixel of a frame `[3, side, side]` that is background beside one that is not. A shape never touches the
/// frame's corner, so that is where the background's colour is.
fn outline(frame: &[f32], side: usize) -> Vec<(usize, usize)> {
    let plane = side * side;
    let is_ground = |at: usize| (0..3).all(|channel| frame[channel * plane + at] == frame[channel * plane]);
    let mut places = Vec::new();
    for line in 0..side {
        for column in 0..side - 1 {
            let at = line * side + column;
            if is_ground(at) != is_ground(at + 1) {
                places.push((line, column));
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_world::Split;

    const CROPS: CropSettings = CropSettings { frames: 9, side: 32, batch: 40 };

    fn source(focused: f64) -> Source {
        let sizes = vec![Size::new(64, 17).unwrap(), Size::new(128, 33).unwrap()];
        Source { world: World::new(3, Split::Seen), sizes, focused }
    }

    /// Crops that show more than one colour.
    fn lively(focused: f64) -> usize {
        let crops = source(focused).draw(CROPS, 0, &mut Stream::new(2)).unwrap();
        let is_lively = |clip: &&Clip| clip.values[..32 * 32].iter().any(|value| *value != clip.values[0]);
        crops.iter().filter(is_lively).count()
    }

    #[test]
    fn crops_on_outlines_show_a_shape_and_others_often_do_not() {
        let (focused, free) = (lively(1.0), lively(0.0));
        assert!(focused >= 34 && free < focused, "{focused} and {free} of 40");
    }

    #[test]
    fn a_crop_is_a_part_of_its_clip() {
        let one = CropSettings { batch: 1, ..CROPS };
        let source = Source { sizes: vec![Size::new(64, 17).unwrap()], ..source(0.5) };
        for index in 0..6 {
            let crop = &source.draw(one, index, &mut Stream::new(index)).unwrap()[0];
            let video = source.world.clip(index).video(source.sizes[0]);
            let same = |start: usize, top: usize, left: usize| {
                (0..9).all(|frame| {
                    (0..32).all(|line| {
                        let at = ((start + frame) * 64 + top + line) * 64 + left;
                        video[at..at + 32] == crop.values[(frame * 32 + line) * 32..][..32]
                    })
                })
            };
            assert!((0..=8).any(|start| (0..=32).any(|top| (0..=32).any(|left| same(start, top, left)))), "clip {index}");
        }
    }

    #[test]
    fn draws_alone_decide_and_what_does_not_fit_is_refused() {
        let draw = |seed| source(0.5).draw(CROPS, 7, &mut Stream::new(seed)).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for crops in [CropSettings { side: 72, ..CROPS }, CropSettings { frames: 21, ..CROPS }, CropSettings { frames: 8, ..CROPS }] {
            assert!(source(0.5).check(crops).is_err(), "{crops:?}");
        }
        assert!(source(0.5).check(CROPS).is_ok());
    }
}
