//! The loops around the tile: tasks, depth blocks, borders, and the store.

use std::cell::RefCell;

use super::packed::Phase;
use super::tile::{Extent, Segment, TileShape, multiply};
use super::{Conv3d, ConvThen};
use crate::host::Aligned;
use crate::host::par::{Shared, for_each_task};
use crate::host::vectorised::{self, Vectorised};

/// Bytes of a panel that are multiplied at a time: they stay in an L2 cache while the tiles of a task pass by.
const PANEL_BYTES: usize = 384 << 10;
/// Tiles of a task, about: enough that fetching the panel is a small share.
const TASK_TILES: usize = 64;
/// Tasks that each thread should find at least, so that an uneven pace evens out.
const TASKS_PER_THREAD: usize = 6;

#[derive(Default)]
struct Scratch {
    sums: Aligned<f32>,
    borders: Vec<f32>,
    segments: Vec<Segment>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Conv3d {
    /// [`Conv3d::run`] once its operands have been checked.
    pub(super) fn run_checked(&self, frames: &[Option<&[f32]>], size: [usize; 2], then: ConvThen, out: &mut [f32]) {
        let out_size = self.shape.output_size(size);
        let out = Shared::new(out);
        for phase in &self.phases {
            Pass { conv: self, phase, frames, size, out_size, then, out }.run();
        }
    }
}

/// One phase of a convolution over one output frame.
struct Pass<'a> {
    conv: &'a Conv3d,
    phase: &'a Phase,
    frames: &'a [Option<&'a [f32]>],
    size: [usize; 2],
    out_size: [usize; 2],
    then: ConvThen,
    out: Shared<'a, f32>,
}

/// A tile of a phase: `pixels` of output line `line`.
#[derive(Clone)]
struct Place {
    line: usize,
    pixels: std::ops::Range<usize>,
}

impl Pass<'_> {
    fn run(&self) {
        let tile = TileShape::of(self.conv.isa);
        let [lines, width] = self.out_size.map(|n| n / self.phase.out_step);
        let line_tiles = width.div_ceil(tile.rows);
        let panels = self.conv.shape.output.div_ceil(tile.cols);
        let wanted = (rayon::current_num_threads() * TASKS_PER_THREAD).div_ceil(panels);
        let blocks = (lines * line_tiles).div_ceil(TASK_TILES).max(wanted).min(lines);
        for_each_task(blocks * panels, |task| {
            let (block, panel) = (task / panels, task % panels);
            let lines = block * lines / blocks..(block + 1) * lines / blocks;
            let places = lines.flat_map(|line| {
                (0..line_tiles).map(move |t| Place { line, pixels: t * width / line_tiles..(t + 1) * width / line_tiles })
            });
            SCRATCH.with_borrow_mut(|scratch| self.task(places, panel, scratch));
        });
    }

    /// All tiles of a task for one panel of output channels.
    fn task(&self, places: impl Iterator<Item = Place> + Clone, panel: usize, scratch: &mut Scratch) {
        let tile = TileShape::of(self.conv.isa);
        let [kt, kh, kw] = self.phase.kernel;
        let depth = kw * self.conv.shape.input;
        let weights = &self.conv.panels[self.phase.start + panel * self.phase.panel..][..self.phase.panel];
        let first_col = panel * tile.cols;
        let cols = tile.cols.min(self.conv.shape.output - first_col);
        let at_once = (PANEL_BYTES / (depth * tile.cols * size_of::<f32>())).clamp(1, kt * kh);
        let sums = scratch.sums.at_least(places.clone().count() * TileShape::MOST);
        for first in (0..kt * kh).step_by(at_once) {
            let last = (first + at_once).min(kt * kh);
            for (place, sums) in places.clone().zip(sums.chunks_exact_mut(TileShape::MOST)) {
                let extent = Extent {
                    rows: place.pixels.len(),
                    pixel_stride: self.phase.in_step * self.conv.shape.input,
                    depth,
                    is_narrow: 2 * cols <= tile.cols,
                    is_first: first == 0,
                };
                self.gather(&place, first..last, weights, &mut scratch.borders, &mut scratch.segments);
                // SAFETY: the instruction set was checked when the weight was packed; `gather` made segments whose pixels
                // and weights reach as far as the extent; `sums` is aligned, as each of its chunks is a whole number of lines.
                unsafe { multiply(self.conv.isa, &scratch.segments, extent, sums.as_mut_ptr()) };
                if last == kt * kh {
                    let end = TileEnd { pass: self, sums, place, first_col, cols };
                    match tile.cols {
                        32 => vectorised::run(self.conv.isa, Ended::<32>(end)),
                        16 => vectorised::run(self.conv.isa, Ended::<16>(end)),
                        _ => vectorised::run(self.conv.isa, Ended::<8>(end)),
                    }
                }
            }
        }
    }

    /// The segments of kernel lines `lines` (frame * kh + line) that a tile needs; absent frames and lines outside the frame
    /// add nothing. Stretches that leave the line on the left or right are copied to `borders` with their zeros.
    fn gather(&self, place: &Place, lines: std::ops::Range<usize>, weights: &[f32], borders: &mut Vec<f32>, segments: &mut Vec<Segment>) {
        let (phase, channels) = (self.phase, self.conv.shape.input);
        let [_, kh, kw] = phase.kernel;
        let [height, width] = self.size;
        let line_weights = weights.len() / (phase.kernel[0] * kh);
        let left = (place.pixels.start * phase.in_step) as isize + phase.first[1];
        let reach = (place.pixels.len() - 1) * phase.in_step + kw;
        // columns of the frame under the tile, and where they start in its stretch
        let (from, to) = (left.clamp(0, width as isize) as usize, (left + reach as isize).clamp(0, width as isize) as usize);
        let skipped = (from as isize - left) as usize;
        let is_inside = to - from == reach;
        segments.clear();
        borders.clear();
        borders.resize(if is_inside { 0 } else { lines.len() * reach * channels }, 0.0);
        let mut spare = borders.chunks_exact_mut(reach * channels);
        for line in lines {
            let row = (place.line * phase.in_step) as isize + phase.first[0] + (line % kh) as isize;
            let Some(frame) = self.frames[line / kh] else { continue };
            let Some(row) = usize::try_from(row).ok().filter(|row| *row < height) else { continue };
            let pixels = &frame[(row * width + from) * channels..(row * width + to) * channels];
            let pixels = match spare.next() {
                Some(spare) if !is_inside => {
                    spare[skipped * channels..][..pixels.len()].copy_from_slice(pixels);
                    spare.as_ptr()
                }
                _ => pixels.as_ptr(),
            };
            segments.push(Segment { pixels, weights: weights[line * line_weights..].as_ptr() });
        }
    }
}

/// What remains of a tile once its sums are complete: bias, rounding, the residual, and the store.
struct TileEnd<'a> {
    pass: &'a Pass<'a>,
    sums: &'a [f32],
    place: Place,
    first_col: usize,
    cols: usize,
}

/// [`TileEnd`] for panels of `COLS` columns, compiled for each instruction set.
struct Ended<'a, const COLS: usize>(TileEnd<'a>);

impl<const COLS: usize> Vectorised for Ended<'_, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let TileEnd { pass, sums, place, first_col, cols } = self.0;
        let (conv, phase) = (pass.conv, pass.phase);
        let mut bias = [0.0; COLS];
        bias[..cols].copy_from_slice(&conv.bias[first_col..first_col + cols]);
        let line = place.line * phase.out_step + phase.out_first[0];
        for (pixel, sums) in place.pixels.zip(sums.as_chunks::<COLS>().0) {
            let pixel = line * pass.out_size[1] + pixel * phase.out_step + phase.out_first[1];
            // SAFETY: every pixel belongs to one tile of one phase, and a panel's channels to one task.
            let out = unsafe { pass.out.part(pixel * conv.shape.output + first_col, cols) };
            let mut values = [0.0; COLS];
            for ((value, sum), bias) in values.iter_mut().zip(sums).zip(&bias) {
                *value = conv.rounding.apply(sum + bias);
            }
            if pass.then == ConvThen::Add {
                for (value, out) in values.iter_mut().zip(out.iter()) {
                    *value = conv.rounding.apply(*value + *out);
                }
            }
            out.copy_from_slice(&values[..cols]);
        }
    }
}
