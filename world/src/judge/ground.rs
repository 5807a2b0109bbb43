//! The background of one frame: what its border shows.

use super::frames::Frame;
use super::reading::Unreadable;
use crate::attributes::Background;
use crate::palette::{Rgb, distance, nearest};

/// The border's depth is the side over this, at least one pixel.
const BORDER: usize = 32;
/// Farther than this from the border's median a border pixel is not background: noise of 12 levels reaches it once in 300 pixels.
const SPREAD: f64 = 45.0;
/// Share of border pixels that must be background. A shape never touches the border, but a generated one may.
const LEAST_SHARE: f64 = 0.75;
/// Farthest that a background may be from its palette entry: less than half of the least distance between two, 154.
const FARTHEST: f64 = 70.0;

/// What lies behind the shape in one frame.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// Median of the border, channel by channel.
    pub(super) rgb: Rgb,
    /// Which background that is.
    pub(super) name: Result<Background, Unreadable>,
}

impl Ground {
    pub(super) fn of(frame: &Frame<'_>) -> Self {
        let border: Vec<Rgb> = frame.border((frame.height.min(frame.width) / BORDER).max(1)).collect();
        let rgb = [0, 1, 2].map(|channel| {
            let mut values: Vec<f64> = border.iter().map(|pixel| pixel[channel]).collect();
            median(&mut values)
        });
        let flat = border.iter().filter(|pixel| distance(**pixel, rgb) < SPREAD).count() as f64 / border.len() as f64;
        let entries = Background::ALL.into_iter().map(|background| (background, background.rgb()));
        let name = match nearest(rgb, entries) {
            _ if flat < LEAST_SHARE => Err(Unreadable::Patchy { share: flat }),
            Some((background, near, _)) if near < FARTHEST => Ok(background),
            _ => Err(Unreadable::StrangeColour { rgb: rgb.map(|value| value as u8) }),
        };
        Self { rgb, name }
    }
}

/// The middle value; 0 of none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(middle, f64::total_cmp).1 }
}
