//! Rotary embedding over time, height and width, in `f64`.
//!
//! Source: `VideoRopePosition3DEmb` in `rcm/networks/wan2pt1.py`.

/// Angles of every token of a `[time, height, width]` grid, `[tokens, head_dim / 2]`.
///
/// A head's channels are split `head_dim - 2 s | s | s` with `s = (head_dim / 6) * 2` between the three axes; channel pair
/// `i` of an axis of `d` channels turns by `position / 10000^(2 i / d)`.
pub fn angles([time, height, width]: [usize; 3], head_dim: usize) -> Vec<f64> {
    let space = head_dim / 6 * 2;
    let axes = [head_dim - 2 * space, space, space];
    let mut out = Vec::with_capacity(time * height * width * head_dim / 2);
    for t in 0..time {
        for h in 0..height {
            for w in 0..width {
                for (position, dim) in [t, h, w].into_iter().zip(axes) {
                    out.extend((0..dim / 2).map(|i| position as f64 / 10_000f64.powf(2.0 * i as f64 / dim as f64)));
                }
            }
        }
    }
    out
}

/// Rotates interleaved pairs: `(a, b) -> (a cos - b sin, a sin + b cos)`. `x` is `[rows, heads * head_dim]`, row `r` takes
/// row `r % tokens` of `angles`.
pub fn rotate(x: &[f32], heads: usize, head_dim: usize, angles: &[f64]) -> Vec<f64> {
    let (half, width) = (head_dim / 2, heads * head_dim);
    let tokens = angles.len() / half;
    let mut out = vec![0.0; x.len()];
    for pair in 0..x.len() / 2 {
        let (row, within) = (pair * 2 / width, pair * 2 % width);
        let angle = angles[row % tokens * half + within % head_dim / 2];
        let (a, b) = (f64::from(x[2 * pair]), f64::from(x[2 * pair + 1]));
        out[2 * pair] = a * angle.cos() - b * angle.sin();
        out[2 * pair + 1] = a * angle.sin() + b * angle.cos();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_is_not_turned_and_no_pair_changes_length() {
        let angles = angles([2, 2, 3], 16);
        let x: Vec<f32> = (0..12 * 32).map(|i| (i % 7) as f32 - 3.0).collect();
        let y = rotate(&x, 2, 16, &angles);
        assert!(x[..32].iter().zip(&y).all(|(x, y)| f64::from(*x) == *y));
        for pair in 0..x.len() / 2 {
            let before = f64::from(x[2 * pair]).hypot(f64::from(x[2 * pair + 1]));
            assert!((before - y[2 * pair].hypot(y[2 * pair + 1])).abs() < 1e-12);
        }
    }
}
