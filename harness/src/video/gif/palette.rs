//! A frame in 256 colours.
//!
//! Colours are counted in cells of 4 x 4 x 4 levels. The cells begin as one box; the box with the largest squared error along one axis
//! is cut there at its mean, until there are 256; then each colour moves to the mean of the cells that are nearest to it, a few times
//! (k-means). Pixels take the nearest colour after an ordered dither one step wide, where a step is what a uniform quantiser with the same
//! error would have; an ordered dither stands still from frame to frame where the picture does. A frame of at most 256 colours keeps them.

use std::collections::BTreeSet;

/// Colours that a GIF frame can have.
const COLOURS: usize = 256;

/// Bits of each channel that tell one cell from another.
const CELL_BITS: u32 = 6;
const CELLS: usize = 1 << (3 * CELL_BITS);

/// Rounds of k-means.
const ROUNDS: usize = 3;

/// An 8 x 8 Bayer matrix, 0 to 63.
const BAYER: [[u8; 8]; 8] = bayer();

pub(super) type Rgb = [u8; 3];

/// Keeps its tables from frame to frame.
pub(super) struct Quantiser {
    /// For each cell: pixels, and the sum of each channel over them.
    counts: Vec<[u32; 4]>,
    /// For each cell, the index of its nearest colour, or [`UNKNOWN`].
    nearest: Vec<u16>,
}

const UNKNOWN: u16 = u16::MAX;

/// The pixels of one cell.
#[derive(Clone, Copy)]
struct Cell {
    mean: [f32; 3],
    pixels: f32,
}

/// Neighbouring cells, `cells[start..end]`.
struct Region {
    start: usize,
    end: usize,
    /// The axis along which cutting helps most.
    axis: usize,
    /// Mean along that axis.
    mean: f32,
    /// Squared error along that axis, over all pixels.
    error: f32,
}

impl Quantiser {
    pub(super) fn new() -> Self {
        Self { counts: vec![[0; 4]; CELLS], nearest: vec![UNKNOWN; CELLS] }
    }

    /// Colours for `rgb`, `[H, width, 3]`, and the index of each pixel's colour, `[H, width]`.
    pub(super) fn quantise(&mut self, rgb: &[u8], width: usize) -> (Vec<Rgb>, Vec<u8>) {
        let (pixels, _) = rgb.as_chunks::<3>();
        if let Some(colours) = few_colours(pixels) {
            let index = |pixel: &Rgb| colours.binary_search(pixel).unwrap_or(0) as u8;
            let indices = pixels.iter().map(index).collect();
            return (colours, indices);
        }
        let mut cells = self.count(pixels);
        let mut colours = cut(&mut cells);
        let mut squared_error = 0.0;
        for _ in 0..ROUNDS {
            squared_error = settle(&cells, &mut colours);
        }
        let per_channel = squared_error / (3.0 * pixels.len() as f32);
        // A uniform quantiser of step s has a mean squared error of s * s / 12.
        let step = (12.0 * per_channel).sqrt();
        let colours: Vec<Rgb> = colours.iter().map(|colour| colour.map(|value| value.round().clamp(0.0, 255.0) as u8)).collect();
        let indices = self.dither(pixels, width, &colours, step);
        (colours, indices)
    }

    fn count(&mut self, pixels: &[Rgb]) -> Vec<Cell> {
        self.counts.fill([0; 4]);
        for pixel in pixels {
            let count = &mut self.counts[cell_of(*pixel)];
            count[0] += 1;
            (0..3).for_each(|channel| count[channel + 1] += u32::from(pixel[channel]));
        }
        let full = self.counts.iter().filter(|count| count[0] > 0);
        full.map(|&[pixels, r, g, b]| Cell { mean: [r, g, b].map(|sum| sum as f32 / pixels as f32), pixels: pixels as f32 }).collect()
    }

    fn dither(&mut self, pixels: &[Rgb], width: usize, colours: &[Rgb], step: f32) -> Vec<u8> {
        self.nearest.fill(UNKNOWN);
        let offsets = BAYER.map(|row| row.map(|rank| ((f32::from(rank) - 31.5) / 64.0 * step).round() as i32));
        let shifted = |(place, pixel): (usize, &Rgb)| {
            let (y, x) = (place / width, place % width);
            // Each channel has the matrix at another place, so that the offsets seldom add up to a visible dot.
            std::array::from_fn(|channel| {
                let offset = offsets[(y + 3 * channel) % 8][(x + 5 * channel) % 8];
                (i32::from(pixel[channel]) + offset).clamp(0, 255) as u8
            })
        };
        let nearest = &mut self.nearest;
        let index = |pixel: Rgb| {
            let known = &mut nearest[cell_of(pixel)];
            if *known == UNKNOWN {
                *known = nearest_to(centre_of(pixel), colours) as u16;
            }
            *known as u8
        };
        pixels.iter().enumerate().map(shifted).map(index).collect()
    }
}

/// The colours in order, when a palette holds them all.
fn few_colours(pixels: &[Rgb]) -> Option<Vec<Rgb>> {
    let mut colours = BTreeSet::new();
    let mut last = None;
    for pixel in pixels {
        if last != Some(pixel) && colours.insert(*pixel) && colours.len() > COLOURS {
            return None;
        }
        last = Some(pixel);
    }
    Some(colours.into_iter().collect())
}

/// Cuts the cells into at most [`COLOURS`] boxes and returns their means.
fn cut(cells: &mut [Cell]) -> Vec<[f32; 3]> {
    let mut regions = vec![Region::of(cells, 0, cells.len())];
    while regions.len() < COLOURS {
        let worst = (0..regions.len()).max_by(|&a, &b| regions[a].error.total_cmp(&regions[b].error)).unwrap_or(0);
        let Region { start, end, axis, mean, error } = regions[worst];
        if error <= 0.0 {
            break;
        }
        let middle = start + partition(&mut cells[start..end], |cell| cell.mean[axis] <= mean);
        if middle == start || middle == end {
            // Rounding hid the difference; there is nothing left to part.
            regions[worst].error = 0.0;
            continue;
        }
        regions[worst] = Region::of(cells, start, middle);
        regions.push(Region::of(cells, middle, end));
    }
    regions.iter().map(|region| mean_of(&cells[region.start..region.end])).collect()
}

impl Region {
    fn of(cells: &[Cell], start: usize, end: usize) -> Self {
        let mean = mean_of(&cells[start..end]);
        let mut errors = [0.0; 3];
        for cell in &cells[start..end] {
            (0..3).for_each(|axis| errors[axis] += cell.pixels * (cell.mean[axis] - mean[axis]) * (cell.mean[axis] - mean[axis]));
        }
        let axis = if errors[0] > errors[1].max(errors[2]) { 0 } else { if errors[1] >= errors[2] { 1 } else { 2 } };
        Self { start, end, axis, mean: mean[axis], error: errors[axis] }
    }
}

fn mean_of(cells: &[Cell]) -> [f32; 3] {
    let mut sum = [0.0_f64; 4];
    for cell in cells {
        sum[3] += f64::from(cell.pixels);
        (0..3).for_each(|axis| sum[axis] += f64::from(cell.pixels) * f64::from(cell.mean[axis]));
    }
    [sum[0], sum[1], sum[2]].map(|value| (value / sum[3]) as f32)
}

/// Moves each colour to the mean of its cells; returns the squared error before the move, over all pixels and channels.
fn settle(cells: &[Cell], colours: &mut [[f32; 3]]) -> f32 {
    let mut sums = vec![[0.0_f64; 4]; colours.len()];
    let mut squared_error = 0.0_f64;
    for cell in cells {
        let distance =
            |colour: &[f32; 3]| (0..3).map(|axis| (colour[axis] - cell.mean[axis]) * (colour[axis] - cell.mean[axis])).sum::<f32>();
        let mut best = (0, f32::INFINITY);
        for (index, colour) in colours.iter().enumerate() {
            let found = distance(colour);
            if found < best.1 {
                best = (index, found);
            }
        }
        let sum = &mut sums[best.0];
        sum[3] += f64::from(cell.pixels);
        (0..3).for_each(|axis| sum[axis] += f64::from(cell.pixels) * f64::from(cell.mean[axis]));
        squared_error += f64::from(cell.pixels) * f64::from(best.1);
    }
    for (colour, sum) in colours.iter_mut().zip(&sums) {
        if sum[3] > 0.0 {
            *colour = [sum[0], sum[1], sum[2]].map(|value| (value / sum[3]) as f32);
        }
    }
    squared_error as f32
}

/// Puts what is `first` before what is not; returns how many are.
fn partition(cells: &mut [Cell], first: impl Fn(&Cell) -> bool) -> usize {
    let mut count = 0;
    for index in 0..cells.len() {
        if first(&cells[index]) {
            cells.swap(index, count);
            count += 1;
        }
    }
    count
}

fn nearest_to(pixel: Rgb, colours: &[Rgb]) -> usize {
    let distance = |colour: &Rgb| (0..3).map(|axis| (i32::from(colour[axis]) - i32::from(pixel[axis])).pow(2)).sum::<i32>();
    (0..colours.len()).min_by_key(|&index| distance(&colours[index])).unwrap_or(0)
}

fn cell_of([r, g, b]: Rgb) -> usize {
    let [r, g, b] = [r, g, b].map(|value| usize::from(value >> (8 - CELL_BITS)));
    (r << (2 * CELL_BITS)) | (g << CELL_BITS) | b
}

/// The middle of the cell that a colour lies in.
fn centre_of(pixel: Rgb) -> Rgb {
    const CELL: u8 = 1 << (8 - CELL_BITS);
    pixel.map(|value| value / CELL * CELL + CELL / 2)
}

/// Doubling: each quarter of the next matrix is four times the last, plus 0, 2, 3, 1.
const fn bayer() -> [[u8; 8]; 8] {
    let mut matrix = [[0; 8]; 8];
    let mut y = 0;
    while y < 8 {
        let mut x = 0;
        while x < 8 {
            let (mut rank, mut bit) = (0, 0);
            while bit < 3 {
                let (dx, dy) = ((x >> bit) & 1, (y >> bit) & 1);
                rank |= (((dx ^ dy) << 1) | dy) << (2 * (2 - bit));
                bit += 1;
            }
            matrix[y][x] = rank as u8;
            x += 1;
        }
        y += 1;
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dither_has_every_rank_once_and_begins_as_bayers() {
        let mut ranks: Vec<u8> = BAYER.concat();
        assert_eq!(BAYER[0], [0, 32, 8, 40, 2, 34, 10, 42]);
        ranks.sort_unstable();
        assert!(ranks.into_iter().eq(0..64));
    }

    #[test]
    fn few_colours_are_kept_as_they_are() {
        let rgb: Vec<u8> = (0..256 * 4).flat_map(|place| [(place % 256) as u8, 7, 255 - (place % 256) as u8]).collect();
        let (colours, indices) = Quantiser::new().quantise(&rgb, 64);
        let shown: Vec<u8> = indices.iter().flat_map(|&index| colours[usize::from(index)]).collect();
        assert_eq!((colours.len(), shown == rgb), (256, true));
    }

    #[test]
    fn one_colour_makes_a_palette_of_one() {
        let (colours, indices) = Quantiser::new().quantise(&[9; 30], 5);
        assert_eq!((colours, indices), (vec![[9; 3]], vec![0; 10]));
    }

    #[test]
    fn many_colours_stay_near_in_the_mean_of_a_neighbourhood() {
        // Two smooth ramps over 64 x 64: 4096 colours. The eye takes the mean over the 8 x 8 of the dither.
        const BOUND: f32 = 2.0;
        let rgb: Vec<u8> = (0..64 * 64).flat_map(|place| [(place % 64 * 4) as u8, (place / 64 * 4) as u8, 128]).collect();
        let (colours, indices) = Quantiser::new().quantise(&rgb, 64);
        assert!(colours.len() <= 256);
        for (top, left) in [(0, 0), (8, 16), (24, 40), (56, 56)] {
            for channel in 0..3 {
                let places = (0..64).map(|k| (top + k / 8) * 64 + left + k % 8);
                let error: i32 = places
                    .map(|place| i32::from(colours[usize::from(indices[place])][channel]) - i32::from(rgb[place * 3 + channel]))
                    .sum();
                assert!((error as f32 / 64.0).abs() < BOUND, "{top},{left} channel {channel}: {}", error as f32 / 64.0);
            }
        }
    }
}
