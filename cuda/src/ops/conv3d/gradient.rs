//! Gradients of a convolution on the host.
//!
//! ```text
//! dx_i[p, c]      += sum_{o, j, k} dy[q, o] * weight[o, c, i, j, k]        q: output pixels whose tap (j, k) reads pixel p
//! dW[o, c, i, j, k] += sum_q dy[q, o] * x_i[p(q, j, k), c]
//! ```
//!
//! The first is a convolution of `dy` with the kernel turned round ([`InputGradient`]): all frames of the window at once,
//! their channels side by side. Where the convolution halves, `dy` is first spread over the pixels that were in the
//! middle of a kernel; where it doubles, the four pixels that were one are summed afterwards. The second is a matrix product whose
//! depth is the pixels; the columns `(j, k, c)` of a frame are gathered panel by panel and never stored whole.
//!
//! Operands may hold several pictures, one after the other: a batch is one call. Sums run in an order that the shapes alone decide.

use super::{Conv3d, ConvShape, ConvThen, Sampling};
use crate::host::par::{Shared, for_each_task};
use crate::host::{Aligned, Isa};
use crate::ops::gemm::gradient::bias_gradient;
use crate::ops::gemm::panel::Panel;
use crate::ops::gemm::tile::{self, TileShape};
use crate::{Error, Rounding};

/// Pixels whose columns are gathered at a time: they stay in an L1 cache.
const PIXELS: usize = 128;

/// A weight as the gradient with respect to the frames reads it.
#[derive(Debug, Clone)]
pub struct InputGradient {
    shape: ConvShape,
    /// `[kt * input, out, 1, kh, kw]`, both sides of the kernel turned round.
    turned: Conv3d,
}

impl InputGradient {
    /// Packs `weight` = `[out, input, kt, kh, kw]`.
    ///
    /// # Errors
    /// As [`Conv3d::pack`].
    pub fn pack(shape: ConvShape, weight: &[f32]) -> Result<Self, Error> {
        shape.check()?;
        Error::expect_len("convolution weight", weight, shape.weight_values())?;
        let ([kt, kh, kw], input, out) = (shape.kernel, shape.input, shape.output);
        let taps = kh * kw;
        let mut turned = vec![0.0; weight.len()];
        for (o, weight) in weight.chunks_exact(input * kt * taps).enumerate() {
            for (c, weight) in weight.chunks_exact(kt * taps).enumerate() {
                for (i, weight) in weight.chunks_exact(taps).enumerate() {
                    let to = &mut turned[((i * input + c) * out + o) * taps..][..taps];
                    to.iter_mut().zip(weight.iter().rev()).for_each(|(to, from)| *to = *from);
                }
            }
        }
        let of_turned = ConvShape { input: out, output: kt * input, kernel: [1, kh, kw], sampling: Sampling::Same };
        Ok(Self { shape, turned: Conv3d::pack(of_turned, &turned, &vec![0.0; kt * input], Rounding::None)? })
    }

    /// Adds to `dx`, one slice a frame of the window, `None` where it is not wanted: each `[images, height, width, input]` for
    /// frames of `size`; `dy` is `[images, height', width', out]`.
    ///
    /// # Errors
    /// When a slice does not fit.
    pub fn run(&self, dy: &[f32], images: usize, size: [usize; 2], dx: &mut [Option<&mut [f32]>]) -> Result<(), Error> {
        let shape = &self.shape;
        let ([height, width], input, kt) = (shape.output_size(size), shape.input, shape.kernel[0]);
        let (in_values, out_values) = (size[0] * size[1] * input, height * width * shape.output);
        Error::expect_len("frames of a convolution", dx, kt)?;
        Error::expect_len("output gradient", dy, images * out_values)?;
        if let (Sampling::Halve, Some(found)) = (shape.sampling, size.into_iter().find(|side| *side < 2)) {
            return Err(Error::Size { what: "side of a frame that is halved", must: "at least 2", found });
        }
        for dx in dx.iter().flatten() {
            Error::expect_len("input gradient", dx, images * in_values)?;
        }
        let dx: Vec<_> = dx.iter_mut().map(|dx| dx.as_deref_mut().map(Shared::new)).collect();
        for_each_task(images, |image| {
            let dy = &dy[image * out_values..][..out_values];
            // SAFETY: every image has its own values of every frame.
            let mut dx: Vec<_> = dx.iter().map(|dx| dx.as_ref().map(|dx| unsafe { dx.part(image * in_values, in_values) })).collect();
            match shape.sampling {
                Sampling::Same => {
                    if let [Some(dx)] = &mut dx[..] {
                        return self.turned.run_checked(&[Some(dy)], size, ConvThen::Add, dx);
                    }
                    self.add(dy, size, 0, &mut dx);
                }
                Sampling::Halve => self.add(&spread(dy, [height, width], size, shape.output), size, 0, &mut dx),
                Sampling::Double => self.add(dy, [height, width], 1, &mut dx),
            }
        });
        Ok(())
    }

    /// Convolves `dy` of `size`, and adds each frame's channels to the pixel that lies `shift` halvings above.
    fn add(&self, dy: &[f32], [height, width]: [usize; 2], shift: usize, dx: &mut [Option<&mut [f32]>]) {
        let (input, all) = (self.shape.input, self.turned.shape().output);
        let mut sums = vec![0.0; height * width * all];
        self.turned.run_checked(&[Some(dy)], [height, width], ConvThen::Store, &mut sums);
        for (i, dx) in dx.iter_mut().enumerate() {
            let Some(dx) = dx else { continue };
            for (line, sums) in sums.chunks_exact(width * all).enumerate() {
                let to = &mut dx[(line >> shift) * (width >> shift) * input..][..(width >> shift) * input];
                for (pixel, sums) in sums.chunks_exact(all).enumerate() {
                    let to = &mut to[(pixel >> shift) * input..][..input];
                    to.iter_mut().zip(&sums[i * input..]).for_each(|(to, sum)| *to += sum);
                }
            }
        }
    }
}

/// `dy` of a halving convolution on the pixels of its input that were in the middle of a kernel, zeros between.
fn spread(dy: &[f32], [height, width]: [usize; 2], size: [usize; 2], channels: usize) -> Vec<f32> {
    let mut canvas = vec![0.0; size[0] * size[1] * channels];
    for line in 0..height {
        for pixel in 0..width {
            let from = &dy[(line * width + pixel) * channels..][..channels];
            canvas[((2 * line + 1) * size[1] + 2 * pixel + 1) * channels..][..channels].copy_from_slice(from);
        }
    }
    canvas
}

/// Adds to `dw` = `[out, input, kt, kh, kw]` and `db` = `[out]` what `dy` = `[images, height', width', out]` gives for a window of frames,
/// each `[images, height, width, input]` of `size`, the oldest first; an absent one counts as zero.
///
/// # Errors
/// When a slice does not fit.
pub fn weight_gradient(
    shape: &ConvShape,
    frames: &[Option<&[f32]>],
    images: usize,
    size: [usize; 2],
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) -> Result<(), Error> {
    shape.check()?;
    let [height, width] = shape.output_size(size);
    let ([kt, kh, kw], input, out) = (shape.kernel, shape.input, shape.output);
    Error::expect_len("frames of a convolution", frames, kt)?;
    for frame in frames.iter().flatten() {
        Error::expect_len("input frame", frame, images * size[0] * size[1] * input)?;
    }
    Error::expect_len("output gradient", dy, images * height * width * out)?;
    Error::expect_len("weight gradient", dw, shape.weight_values())?;
    Error::expect_len("bias gradient", db, out)?;
    if dy.is_empty() {
        return Ok(());
    }
    bias_gradient(dy, db)?;
    let tile = TileShape::of(Isa::detect());
    let rows = tile_rows(out, tile.rows);
    let dy = tiled(dy, out, rows);
    let columns = kh * kw * input;
    let panels = columns.div_ceil(tile.cols);
    let products: Vec<_> = (0..kt).filter_map(|i| frames[i].map(|frame| (i, frame))).collect();
    let values = dy.len() * rows * tile.cols;
    let mut sums = Aligned::<f32>::zeroed(products.len() * panels * values);
    let shared = Shared::new(&mut sums);
    for_each_task(products.len() * panels, |task| {
        let (frame, panel) = (products[task / panels].1, task % panels);
        let product = Product { shape, frame, images, size, out_size: [height, width], rows, dy: &dy };
        // SAFETY: every task has its own sums.
        product.run(panel * tile.cols, unsafe { shared.part(task * values, values) });
    });
    for (task, sums) in sums.chunks_exact(values).enumerate() {
        let (i, first) = (products[task / panels].0, task % panels * tile.cols);
        for (o, sums) in sums.chunks_exact(tile.cols).enumerate().take(out) {
            for (column, sum) in (first..columns).zip(sums) {
                dw[(o * input + column % input) * kt * kh * kw + i * kh * kw + column / input] += sum;
            }
        }
    }
    Ok(())
}

/// Rows of the tiles that `out` channels are cut into: as many as a tile takes, or a little fewer where they then come out even.
fn tile_rows(out: usize, most: usize) -> usize {
    if out <= most {
        return out;
    }
    (most / 2..=most).rev().find(|rows| out.is_multiple_of(*rows)).unwrap_or_else(|| out.div_ceil(out.div_ceil(most)))
}

/// `dy [pixels, out]` as tiles `[pixels, rows]`, zeros past the last channel.
fn tiled(dy: &[f32], out: usize, rows: usize) -> Vec<Vec<f32>> {
    if out == rows {
        return vec![dy.to_vec()];
    }
    let tile = |first: usize| {
        let mut tile = vec![0.0; dy.len() / out * rows];
        let count = rows.min(out - first);
        for (to, from) in tile.chunks_exact_mut(rows).zip(dy.chunks_exact(out)) {
            to[..count].copy_from_slice(&from[first..first + count]);
        }
        tile
    };
    (0..out).step_by(rows).map(tile).collect()
}

/// The gradient of the weights of one frame.
struct Product<'a> {
    shape: &'a ConvShape,
    frame: &'a [f32],
    images: usize,
    size: [usize; 2],
    out_size: [usize; 2],
    rows: usize,
    dy: &'a [Vec<f32>],
}

/// A stretch of a panel: channels `from..from + len` of one tap.
struct Piece {
    tap: [usize; 2],
    from: usize,
    len: usize,
    to: usize,
}

impl Product<'_> {
    /// The panel of columns from `first`: `sums [tiles][rows, tile columns]`.
    fn run(&self, first: usize, sums: &mut [f32]) {
        let isa = Isa::detect();
        let cols = TileShape::of(isa).cols;
        let [height, width] = self.out_size;
        let pieces = self.pieces(first, cols);
        let mut panel = Aligned::<f32>::zeroed(PIXELS * cols);
        let lines = (PIXELS / width).clamp(1, height);
        let mut is_first = true;
        for image in 0..self.images {
            for line in (0..height).step_by(lines) {
                let lines = lines.min(height - line);
                for from in (0..width).step_by(PIXELS) {
                    let count = PIXELS.min(width - from);
                    for row in 0..lines {
                        let to = &mut panel[row * count * cols..][..count * cols];
                        pieces.iter().for_each(|piece| self.gather(image, line + row, from, piece, cols, to));
                    }
                    let (pixels, start) = (lines * count, (image * height + line) * width + from);
                    for (dy, sums) in self.dy.iter().zip(sums.chunks_exact_mut(self.rows * cols)) {
                        tile::multiply(isa, self.rows, pixels, &dy[start * self.rows..], Panel::F32(&panel), sums, is_first);
                    }
                    is_first = false;
                }
            }
        }
    }

    /// Columns `first..first + cols` as stretches whose lengths a vector move takes.
    fn pieces(&self, first: usize, cols: usize) -> Vec<Piece> {
        let ([_, kh, kw], input) = (self.shape.kernel, self.shape.input);
        let end = (first + cols).min(kh * kw * input);
        let mut pieces = Vec::new();
        let mut column = first;
        while column < end {
            let (tap, from) = (column / input, column % input);
            let most = (input - from).min(end - column);
            let len = [16, 8, 4, 2, 1].into_iter().find(|len| *len <= most).unwrap_or(1);
            pieces.push(Piece { tap: [tap / kw, tap % kw], from, len, to: column - first });
            column += len;
        }
        pieces
    }

    /// Copies one piece for the output pixels from `from` of a line; those whose tap lies outside the frame are zero.
    fn gather(&self, image: usize, line: usize, from: usize, piece: &Piece, cols: usize, to: &mut [f32]) {
        match piece.len {
            16 => self.gather_of::<16>(image, line, from, piece, cols, to),
            8 => self.gather_of::<8>(image, line, from, piece, cols, to),
            4 => self.gather_of::<4>(image, line, from, piece, cols, to),
            2 => self.gather_of::<2>(image, line, from, piece, cols, to),
            _ => self.gather_of::<1>(image, line, from, piece, cols, to),
        }
    }

    fn gather_of<const LEN: usize>(&self, image: usize, line: usize, from: usize, piece: &Piece, cols: usize, to: &mut [f32]) {
        let ([_, kh, kw], input) = (self.shape.kernel, self.shape.input);
        // the input pixel of output pixel p: (p * step + tap - border) >> shift
        let (step, border, shift) = match self.shape.sampling {
            Sampling::Same => (1, [kh / 2, kw / 2], 0),
            Sampling::Halve => (2, [0, 0], 0),
            Sampling::Double => (1, [1, 1], 1),
        };
        let place = |axis: usize, p: usize| {
            let at = (p * step + piece.tap[axis]).checked_sub(border[axis])? >> shift;
            (at < self.size[axis]).then_some(at)
        };
        let Some(row) = place(0, line) else {
            return to.chunks_exact_mut(cols).for_each(|to| to[piece.to..piece.to + LEN].fill(0.0));
        };
        let row = &self.frame[(image * self.size[0] + row) * self.size[1] * input..][..self.size[1] * input];
        for (pixel, to) in to.chunks_exact_mut(cols).enumerate() {
            let values: [f32; LEN] = match place(1, from + pixel).and_then(|at| row[at * input + piece.from..].first_chunk::<LEN>()) {
                Some(values) => *values,
                None => [0.0; LEN],
            };
            to[piece.to..piece.to + LEN].copy_from_slice(&values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::inputs::normal;
    use turbowan_reference::metrics::{Bound, Verdict};

    /// Sums of up to some thousand products of size 1, against their own size.
    const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(2e-6), cosine: None };

    fn shapes() -> Vec<(ConvShape, [usize; 2], usize)> {
        use Sampling::{Double, Halve, Same};
        let shape = |channels: [usize; 2], kernel, sampling| ConvShape { input: channels[0], output: channels[1], kernel, sampling };
        vec![
            (shape([3, 8], [3, 3, 3], Same), [6, 5], 2),
            (shape([8, 8], [3, 3, 3], Same), [1, 1], 1),
            (shape([12, 24], [3, 3, 3], Same), [9, 33], 1),
            (shape([33, 13], [3, 3, 3], Same), [4, 4], 3),
            (shape([16, 20], [3, 1, 1], Same), [5, 7], 2),
            (shape([20, 7], [1, 1, 1], Same), [3, 150], 1),
            (shape([5, 8], [1, 3, 3], Halve), [8, 10], 2),
            (shape([5, 8], [1, 3, 3], Halve), [9, 7], 1),
            (shape([6, 3], [1, 3, 3], Double), [4, 5], 2),
        ]
    }

    /// Both gradients by the formula: output pixel q reads input pixel p with the tap (i, j, k).
    fn plain(shape: &ConvShape, x: &[Vec<f32>], weight: &[f32], images: usize, size: [usize; 2], dy: &[f32]) -> (Vec<Vec<f64>>, Vec<f64>) {
        let ([kt, kh, kw], input, out) = (shape.kernel, shape.input, shape.output);
        let [height, width] = shape.output_size(size);
        let source = |side: usize, taps: usize, p: usize, tap: usize| -> Option<usize> {
            let at = match shape.sampling {
                Sampling::Same => (p + tap).checked_sub(taps / 2)?,
                Sampling::Halve => 2 * p + tap,
                Sampling::Double => (p + tap).checked_sub(1)? / 2,
            };
            (at < side).then_some(at)
        };
        let mut dx = vec![vec![0.0; x[0].len()]; kt];
        let mut dw = vec![0.0; weight.len()];
        for (q, dy) in dy.chunks(out).enumerate() {
            let (image, line, pixel) = (q / (height * width), q / width % height, q % width);
            assert!(image < images);
            for j in 0..kh {
                for k in 0..kw {
                    let (Some(row), Some(column)) = (source(size[0], kh, line, j), source(size[1], kw, pixel, k)) else { continue };
                    let p = ((image * size[0] + row) * size[1] + column) * input;
                    for i in 0..kt {
                        for c in 0..input {
                            for (o, dy) in dy.iter().enumerate() {
                                let at = (o * input + c) * kt * kh * kw + (i * kh + j) * kw + k;
                                dx[i][p + c] += f64::from(*dy) * f64::from(weight[at]);
                                dw[at] += f64::from(*dy) * f64::from(x[i][p + c]);
                            }
                        }
                    }
                }
            }
        }
        (dx, dw)
    }

    #[test]
    fn both_gradients_are_those_of_the_formula_added_to_what_was_there() {
        for (shape, size, images) in shapes() {
            let [height, width] = shape.output_size(size);
            let kt = shape.kernel[0];
            let x: Vec<_> = (0..kt).map(|i| normal(images * size[0] * size[1] * shape.input, 1 + i as u64)).collect();
            let (weight, dy) = (normal(shape.weight_values(), 8), normal(images * height * width * shape.output, 9));
            let (want_dx, want_dw) = plain(&shape, &x, &weight, images, size, &dy);
            let case = format!("{shape:?} {size:?}");

            let mut dx = vec![vec![0.0; x[0].len()]; kt];
            let mut parts: Vec<_> = dx.iter_mut().map(|dx| Some(&mut dx[..])).collect();
            let input_gradient = InputGradient::pack(shape, &weight).unwrap();
            input_gradient.run(&dy, images, size, &mut parts).unwrap();
            parts[0] = None;
            input_gradient.run(&dy, images, size, &mut parts).unwrap();
            for (i, (dx, want)) in dx.iter().zip(&want_dx).enumerate() {
                let times = if i == 0 { 1.0 } else { 2.0 };
                Verdict::of(dx, &want.iter().map(|w| times * w).collect::<Vec<_>>(), CLOSE).demand(&format!("{case}, dx of frame {i}"));
            }

            let (mut dw, mut db) = (vec![0.0; weight.len()], vec![0.0; shape.output]);
            let window: Vec<_> = x.iter().map(|x| Some(&x[..])).collect();
            for _ in 0..2 {
                weight_gradient(&shape, &window, images, size, &dy, &mut dw, &mut db).unwrap();
            }
            Verdict::of(&dw, &want_dw.iter().map(|w| 2.0 * w).collect::<Vec<_>>(), CLOSE).demand(&format!("{case}, dW"));
            let want: Vec<f64> =
                (0..shape.output).map(|o| 2.0 * dy.iter().skip(o).step_by(shape.output).map(|v| f64::from(*v)).sum::<f64>()).collect();
            Verdict::of(&db, &want, Bound { relative_l2: Some(1e-5), ..CLOSE }).demand(&format!("{case}, db"));
        }
    }

    #[test]
    fn an_absent_frame_gives_its_weights_nothing() {
        let shape = ConvShape { input: 4, output: 5, kernel: [3, 3, 3], sampling: Sampling::Same };
        let (x, dy) = (normal(3 * 4 * 4, 1), normal(3 * 4 * 5, 2));
        let (mut dw, mut db) = (vec![0.0; shape.weight_values()], vec![0.0; 5]);
        weight_gradient(&shape, &[None, None, Some(&x)], 1, [3, 4], &dy, &mut dw, &mut db).unwrap();
        let of_frame = |i: usize| dw.chunks(27).flat_map(move |taps| taps[9 * i..9 * i + 9].to_vec()).collect::<Vec<_>>();
        assert!(of_frame(0).iter().chain(&of_frame(1)).all(|v| *v == 0.0) && of_frame(2).iter().all(|v| *v != 0.0));
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let shape = ConvShape { input: 16, output: 24, kernel: [3, 3, 3], sampling: Sampling::Same };
        let (x, dy, weight) = (normal(4 * 64 * 16, 1), normal(4 * 64 * 24, 2), normal(shape.weight_values(), 3));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut dw, mut db, mut dx) = (vec![0.0; weight.len()], vec![0.0; 24], vec![0.0; x.len()]);
                weight_gradient(&shape, &[Some(&x[..]); 3], 4, [8, 8], &dy, &mut dw, &mut db).unwrap();
                InputGradient::pack(shape, &weight).unwrap().run(&dy, 4, [8, 8], &mut [None, None, Some(&mut dx)]).unwrap();
                (dw, db, dx)
            })
        };
        assert!(run(1) == run(2) && run(1) == run(5));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let shape = ConvShape { input: 2, output: 3, kernel: [1, 3, 3], sampling: Sampling::Same };
        let gradient = InputGradient::pack(shape, &[0.0; 54]).unwrap();
        assert!(InputGradient::pack(shape, &[0.0; 53]).is_err());
        assert!(gradient.run(&[0.0; 12], 1, [2, 2], &mut [Some(&mut [0.0; 8])]).is_ok());
        assert!(gradient.run(&[0.0; 12], 1, [2, 2], &mut [Some(&mut [0.0; 7])]).is_err());
        assert!(gradient.run(&[0.0; 11], 1, [2, 2], &mut [None]).is_err());
        assert!(gradient.run(&[0.0; 12], 1, [2, 2], &mut []).is_err());
        let weights = |dw: usize, db: usize| {
            weight_gradient(&shape, &[Some(&[0.0; 8])], 1, [2, 2], &[0.0; 12], &mut vec![0.0; dw], &mut vec![0.0; db])
        };
        assert!(weights(54, 3).is_ok() && weights(53, 3).is_err() && weights(54, 2).is_err());
    }
}
