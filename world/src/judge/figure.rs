//! The figure of one frame: which pixels stand out from the background, in how many regions, and with what colours.

use super::frames::Frame;
use super::ground::median;
use super::silhouette::{Likeness, Silhouette};
use crate::palette::{Rgb, distance};

/// Less than this from the background, in RGB, nothing is a figure; the nearest colour and background are 100 apart.
const LEAST_CONTRAST: f64 = 40.0;
/// Share of the frame's most distant pixels that tells how far a figure is from the background; the smallest has four times as many.
const MOST_DISTANT: f64 = 0.01;
/// Pixels from a mask's edge to its core, where no edge mixes with the background.
const CORE_DEPTH: usize = 2;
/// Pixels that a silhouette's soft edge reaches out of its mask.
const EDGE_DEPTH: usize = 2;

/// What stands out in one frame.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    /// Smoothed colours of every pixel of the mask.
    pub(super) pixels: Vec<Rgb>,
    /// Smoothed colours of the mask's core.
    pub(super) core: Vec<Rgb>,
    /// Share of the mask that its largest region has.
    pub(super) largest_share: f64,
    /// Centre of the largest region over the frame's smaller side, from the upper left corner.
    pub(super) centre: (f64, f64),
    /// Radius of the disc of the largest region's area, over the frame's smaller side.
    pub(super) radius: f64,
    /// How much it looks like each shape.
    pub(super) likeness: Likeness,
}

impl Figure {
    /// The figure before `ground`; none where nothing stands out.
    pub(super) fn find(frame: &Frame<'_>, ground: Rgb) -> Option<Self> {
        let smooth = frame.smoothed();
        let contrast: Vec<f64> = smooth.iter().map(|pixel| distance(*pixel, ground)).collect();
        let top = quantile(&contrast, 1.0 - MOST_DISTANT);
        if top < LEAST_CONTRAST {
            return None;
        }
        let full = median(&mut contrast.iter().copied().filter(|far| *far > 0.5 * top).collect::<Vec<_>>());
        let mask = Mask { height: frame.height, width: frame.width, bits: contrast.iter().map(|far| *far > 0.5 * full).collect() };
        let (largest, region) = mask.largest_region();
        let count = mask.bits.iter().filter(|bit| **bit).count();
        let within = |mask: &Mask| smooth.iter().zip(&mask.bits).filter(|(_, bit)| **bit).map(|(pixel, _)| *pixel).collect::<Vec<_>>();
        let mut core_mask = mask.clone();
        for _ in 0..CORE_DEPTH {
            core_mask = core_mask.spread(false);
        }
        let (pixels, mut core) = (within(&mask), within(&core_mask));
        if core.is_empty() {
            core.clone_from(&pixels);
        }
        let mut near = region;
        for _ in 0..EDGE_DEPTH {
            near = near.spread(true);
        }
        let cover = contrast.iter().zip(&near.bits).map(|(far, bit)| if *bit { far / full } else { 0.0 }).collect();
        let silhouette = Silhouette::of(cover, frame.height, frame.width)?;
        let side = frame.height.min(frame.width) as f64;
        Some(Self {
            pixels,
            core,
            largest_share: largest as f64 / count as f64,
            centre: (silhouette.centre.0 / side, silhouette.centre.1 / side),
            radius: silhouette.radius / side,
            likeness: silhouette.likeness(),
        })
    }
}

/// The value below which a share of `values` lies.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    let at = ((values.len() as f64 * share) as usize).min(values.len() - 1);
    *values.select_nth_unstable_by(at, f64::total_cmp).1
}

/// Chosen pixels of a frame.
#[derive(Debug, Clone)]
struct Mask {
    height: usize,
    width: usize,
    bits: Vec<bool>,
}

impl Mask {
    /// Pixels of the largest region, and the region; pixels touch at sides and corners.
    fn largest_region(&self) -> (usize, Self) {
        let mut label = vec![0usize; self.bits.len()];
        let (mut best, mut best_count) = (0, 0);
        let mut waiting = Vec::new();
        let mut name = 0;
        for start in 0..self.bits.len() {
            if !self.bits[start] || label[start] != 0 {
                continue;
            }
            name += 1;
            label[start] = name;
            waiting.push(start);
            let mut count = 0;
            while let Some(at) = waiting.pop() {
                count += 1;
                for next in self.around(at) {
                    if self.bits[next] && label[next] == 0 {
                        label[next] = name;
                        waiting.push(next);
                    }
                }
            }
            if count > best_count {
                (best, best_count) = (name, count);
            }
        }
        let bits = label.iter().map(|label| *label == best && best != 0).collect();
        (best_count, Self { height: self.height, width: self.width, bits })
    }

    /// The mask with one layer of pixels more (`true`) or fewer (`false`).
    fn spread(&self, value: bool) -> Self {
        let turned = |at: usize| if self.around(at).any(|next| self.bits[next] == value) { value } else { self.bits[at] };
        Self { height: self.height, width: self.width, bits: (0..self.bits.len()).map(turned).collect() }
    }

    /// A pixel and its up to eight neighbours.
    fn around(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        let (row, column, width) = (at / self.width, at % self.width, self.width);
        let rows = row.saturating_sub(1)..=(row + 1).min(self.height - 1);
        let columns = column.saturating_sub(1)..=(column + 1).min(self.width - 1);
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_touch_at_corners_and_the_largest_is_found() {
        let text = ["##...", "##...", "..#..", ".....", "...##"];
        let bits = text.iter().flat_map(|row| row.chars().map(|letter| letter == '#')).collect();
        let mask = Mask { height: 5, width: 5, bits };
        let (count, region) = mask.largest_region();
        assert_eq!((count, region.bits.iter().filter(|bit| **bit).count()), (5, 5));
        assert_eq!(region.spread(true).bits.iter().filter(|bit| **bit).count(), 14);
        assert_eq!(region.spread(false).bits.iter().filter(|bit| **bit).count(), 1);
    }
}
