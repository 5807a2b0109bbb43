//! Causal 3-D convolution over channels-last frames, in `f64`.
//!
//! Source: `CausalConv3d` and `Resample` in `rcm/tokenizers/wan2pt1.py`.

/// A convolution: `weight` is `[out, input, kt, kh, kw]`, `bias` is `[out]`.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// Weight, row-major.
    pub weight: &'a [f32],
    /// Bias.
    pub bias: &'a [f32],
    /// Time, height and width of the kernel.
    pub kernel: [usize; 3],
    /// Steps in time, height and width.
    pub stride: [usize; 3],
    /// Zero lines above, below, left and right of a frame. Time is never padded: the frames given include the past.
    pub border: [usize; 4],
}

/// `y[t, h, w, o] = bias[o] + sum x[t st + i, h sh + j - top, w sw + k - left, c] * weight[o, c, i, j, k]`.
///
/// `x` is `[time, height, width, channels]`. Returns the output and its `[time, height, width]`.
pub fn conv3d(x: &[f32], [time, height, width]: [usize; 3], channels: usize, conv: &Conv<'_>) -> (Vec<f64>, [usize; 3]) {
    let ([kt, kh, kw], [st, sh, sw], [top, bottom, left, right]) = (conv.kernel, conv.stride, conv.border);
    let size = [(time - kt) / st + 1, (height + top + bottom - kh) / sh + 1, (width + left + right - kw) / sw + 1];
    let mut out = Vec::with_capacity(size.iter().product::<usize>() * conv.bias.len());
    for place in 0..size.iter().product::<usize>() {
        let (t, h, w) = (place / (size[1] * size[2]), place / size[2] % size[1], place % size[2]);
        for (o, bias) in conv.bias.iter().enumerate() {
            let mut sum = f64::from(*bias);
            for tap in 0..kt * kh * kw {
                let (i, j, k) = (tap / (kh * kw), tap / kw % kh, tap % kw);
                let (row, column) = ((h * sh + j).wrapping_sub(top), (w * sw + k).wrapping_sub(left));
                if row >= height || column >= width {
                    continue;
                }
                let pixel = (((t * st + i) * height + row) * width + column) * channels;
                for c in 0..channels {
                    sum += f64::from(x[pixel + c]) * f64::from(conv.weight[(o * channels + c) * kt * kh * kw + tap]);
                }
            }
            out.push(sum);
        }
    }
    (out, size)
}

/// Every pixel four times: `y[h, w] = x[h / 2, w / 2]` (nearest-exact upsampling by two) of a frame `[height, width, channels]`.
pub fn double(x: &[f32], height: usize, width: usize, channels: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(4 * x.len());
    for h in 0..2 * height {
        for w in 0..2 * width {
            let pixel = (h / 2 * width + w / 2) * channels;
            out.extend_from_slice(&x[pixel..pixel + channels]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_one_tap_shifts_the_frame() {
        let x: Vec<f32> = (1..=6).map(|v| v as f32).collect();
        let mut weight = [0.0; 9];
        weight[1] = 1.0; // the pixel above
        let conv = Conv { weight: &weight, bias: &[10.0], kernel: [1, 3, 3], stride: [1; 3], border: [1; 4] };
        let (y, size) = conv3d(&x, [1, 2, 3], 1, &conv);
        assert_eq!((y, size), (vec![10.0, 10.0, 10.0, 11.0, 12.0, 13.0], [1, 2, 3]));
    }

    #[test]
    fn time_stride_and_lower_right_border_give_the_sizes_of_the_official_downsampler() {
        let conv = Conv { weight: &[1.0; 3], bias: &[0.0], kernel: [3, 1, 1], stride: [2, 1, 1], border: [0; 4] };
        assert_eq!(conv3d(&[1.0; 5], [5, 1, 1], 1, &conv), (vec![3.0, 3.0], [2, 1, 1]));
        let conv = Conv { weight: &[1.0; 9], bias: &[0.0], kernel: [1, 3, 3], stride: [1, 2, 2], border: [0, 1, 0, 1] };
        assert_eq!(conv3d(&[1.0; 16], [1, 4, 4], 1, &conv), (vec![9.0, 6.0, 6.0, 4.0], [1, 2, 2]));
    }

    #[test]
    fn doubling_repeats_pixels_and_lines() {
        assert_eq!(double(&[1.0, 2.0], 1, 2, 1), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
    }
}
