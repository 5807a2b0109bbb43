//! What a figure's outline looks like, whatever its size and place.
//!
//! A silhouette is drawn on a grid whose unit is the radius of the disc of the same area, centred on its centre of mass, and compared
//! with every shape at three degrees of roundness: as drawn, and as a blur of 0.12 and of 0.24 of its radius leaves it. Two silhouettes are
//! alike as far as they overlap: the sum of the lesser covers over the sum of the greater.

use std::sync::OnceLock;

use crate::attributes::Shape;

/// Cells along a side of the grid.
const GRID: usize = 36;
/// Half the grid's side in units of the equal disc's radius: a triangle's corner is at 1.56.
const WINDOW: f64 = 1.8;
/// Side and radius, in pixels, of the pictures that templates are made from.
const TEMPLATE: (usize, f64) = (96, 30.0);
/// Passes of the weights 1 2 1 (variance one half each) that round a template: deviations of 0, 3.6 and 7.2 of 30 pixels.
const ROUNDINGS: [usize; 3] = [0, 26, 104];

/// How much a silhouette looks like each shape, in `[0, 1]`, by the shape's index.
pub(super) type Likeness = [f64; Shape::ALL.len()];

/// A figure freed of size and place.
#[derive(Debug, Clone)]
pub(super) struct Silhouette {
    /// Centre of mass, in pixels.
    pub(super) centre: (f64, f64),
    /// Radius of the disc of the same area, in pixels.
    pub(super) radius: f64,
    cells: Vec<f64>,
}

impl Silhouette {
    /// The silhouette of `cover`, the share of each pixel that the figure has; none where it is empty.
    pub(super) fn of(mut cover: Vec<f64>, height: usize, width: usize) -> Option<Self> {
        // Steeper about one half: noise in background and core goes, the outline stays.
        cover.iter_mut().for_each(|share| *share = ((*share - 0.25) * 2.0).clamp(0.0, 1.0));
        let (mut area, mut x, mut y) = (0.0, 0.0, 0.0);
        for (index, share) in cover.iter().enumerate() {
            area += share;
            x += share * ((index % width) as f64 + 0.5);
            y += share * ((index / width) as f64 + 0.5);
        }
        if area < 1.0 {
            return None;
        }
        let (centre, radius) = ((x / area, y / area), (area / std::f64::consts::PI).sqrt());
        let at = |row: isize, column: isize| {
            let is_inside = (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
            if is_inside { cover[row as usize * width + column as usize] } else { 0.0 }
        };
        let step = 2.0 * WINDOW / GRID as f64;
        let offset = |cell: usize| ((cell as f64 + 0.5) * step - WINDOW) * radius;
        let mut cells = Vec::with_capacity(GRID * GRID);
        for row in 0..GRID {
            for column in 0..GRID {
                let (x, y) = (centre.0 + offset(column) - 0.5, centre.1 + offset(row) - 0.5);
                let (left, top) = (x.floor(), y.floor());
                let (share_x, share_y) = (x - left, y - top);
                let (left, top) = (left as isize, top as isize);
                let upper = at(top, left) * (1.0 - share_x) + at(top, left + 1) * share_x;
                let lower = at(top + 1, left) * (1.0 - share_x) + at(top + 1, left + 1) * share_x;
                cells.push(upper * (1.0 - share_y) + lower * share_y);
            }
        }
        Some(Self { centre, radius, cells })
    }

    /// Overlap with each shape at the roundness that fits best.
    pub(super) fn likeness(&self) -> Likeness {
        Shape::ALL.map(|shape| templates(shape).iter().map(|template| overlap(&self.cells, template)).fold(0.0, f64::max))
    }
}

/// Sum of the lesser over sum of the greater.
fn overlap(a: &[f64], b: &[f64]) -> f64 {
    let (lesser, greater) = a.iter().zip(b).fold((0.0, 0.0), |(lesser, greater), (a, b)| (lesser + a.min(*b), greater + a.max(*b)));
    lesser / greater
}

/// A shape's grids, from sharp to round.
fn templates(shape: Shape) -> &'static [Vec<f64>] {
    static ALL: OnceLock<[Vec<Vec<f64>>; Shape::ALL.len()]> = OnceLock::new();
    let all = ALL.get_or_init(|| Shape::ALL.map(|shape| ROUNDINGS.iter().map(|&passes| template(shape, passes)).collect()));
    &all[shape.index()]
}

fn template(shape: Shape, passes: usize) -> Vec<f64> {
    let (side, radius) = TEMPLATE;
    let offset = |index: usize| (index as f64 + 0.5 - side as f64 / 2.0) / radius;
    let cover = |index: usize| (0.5 - shape.distance(offset(index % side), offset(index / side)) * radius).clamp(0.0, 1.0);
    let mut picture: Vec<f64> = (0..side * side).map(cover).collect();
    for _ in 0..passes {
        for stride in [1, side] {
            let old = picture.clone();
            let at = |index: usize| old.get(index).copied().unwrap_or(0.0);
            for (index, value) in picture.iter_mut().enumerate() {
                *value = (at(index.wrapping_sub(stride)) + 2.0 * at(index) + at(index + stride)) / 4.0;
            }
        }
    }
    Silhouette::of(picture, side, side).map(|silhouette| silhouette.cells).unwrap_or_default()
}
