//! Operations of single values, in `f64`.
//!
//! Sources: the samplers of `rcm/inference` (a step along a velocity), `rcm/networks/wan2pt1.py` (`sinusoidal_embedding_1d`,
//! and the gated sums of a block).

/// `scale * (x + factor * v) + weight * noise`.
pub fn combine(x: &[f64], v: &[f32], noise: Option<&[f32]>, [factor, scale, weight]: [f64; 3]) -> Vec<f64> {
    let noise_at = |index: usize| noise.map_or(0.0, |noise| f64::from(noise[index]));
    x.iter().zip(v).enumerate().map(|(index, (x, v))| scale * (x + factor * f64::from(*v)) + weight * noise_at(index)).collect()
}

/// `x + gate * y` for rows of `width`; row `r` takes row `r / rows_per_gate` of `gate [groups, width]`, or one without a gate.
pub fn gated_sum(x: &[f32], y: &[f32], gate: Option<(&[f32], usize)>, width: usize) -> Vec<f64> {
    let factor =
        |index: usize| gate.map_or(1.0, |(gate, rows_per_gate)| f64::from(gate[index / width / rows_per_gate * width + index % width]));
    x.iter().zip(y).enumerate().map(|(index, (x, y))| f64::from(*x) + factor(index) * f64::from(*y)).collect()
}

/// `[cos(t w_i), sin(t w_i)]` of each time, `[times, 2 * half]`, with `w_i = 10000^(-i / half)`.
pub fn sinusoids(times: &[f32], half: usize) -> Vec<f64> {
    let angle = |t: f32, i: usize| f64::from(t) * 10_000f64.powf(-(i as f64) / half as f64);
    let row = |t: &f32| {
        let angles: Vec<f64> = (0..half).map(|i| angle(*t, i)).collect();
        angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect::<Vec<f64>>()
    };
    times.iter().flat_map(row).collect()
}

/// `table [chunks, width] + e`, `[chunks, batch, width]`; `e` is `[batch, chunks, width]`, or `[batch, width]` for every chunk.
pub fn modulation(table: &[f32], e: &[f32], width: usize, is_shared: bool) -> Vec<f64> {
    let chunks = table.len() / width;
    let e_width = if is_shared { width } else { chunks * width };
    let chunk = |chunk: usize| {
        let start = if is_shared { 0 } else { chunk * width };
        let rows = e.chunks(e_width).flat_map(move |e| &e[start..start + width]);
        rows.enumerate().map(move |(index, e)| f64::from(table[chunk * width + index % width]) + f64::from(*e))
    };
    (0..chunks).flat_map(chunk).collect()
}

/// `x * (1 + scale) + shift` for rows of `width`; row `r` takes row `r / rows_per_group` of `shift` and `scale`.
pub fn modulated(x: &[f32], shift: &[f32], scale: &[f32], rows_per_group: usize, width: usize) -> Vec<f64> {
    let at = |index: usize| index / width / rows_per_group * width + index % width;
    let value = |(index, x): (usize, &f32)| f64::from(*x) * (1.0 + f64::from(scale[at(index)])) + f64::from(shift[at(index)]);
    x.iter().enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_goes_along_the_velocity_and_adds_noise() {
        assert_eq!(combine(&[1.0, 2.0], &[4.0, -2.0], None, [0.5, 2.0, 9.0]), [6.0, 2.0]);
        assert_eq!(combine(&[1.0, 2.0], &[4.0, -2.0], Some(&[1.0, -1.0]), [0.5, 2.0, 9.0]), [15.0, -7.0]);
    }

    #[test]
    fn rows_of_a_group_share_a_gate() {
        let (x, y) = ([1.0; 6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(gated_sum(&x, &y, Some((&[1.0, 0.0, -1.0, 2.0], 2)), 2), [2.0, 1.0, 4.0, 1.0, -4.0, 13.0]);
        assert_eq!(gated_sum(&x, &y, None, 2), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn chunks_of_a_modulation_stand_before_its_samples() {
        let (table, e) = ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0]);
        assert_eq!(modulation(&table, &e, 2, false), [11.0, 22.0, 51.0, 62.0, 33.0, 44.0, 73.0, 84.0]);
        assert_eq!(modulation(&table, &e[..4], 2, true), [11.0, 22.0, 31.0, 42.0, 13.0, 24.0, 33.0, 44.0]);
        assert_eq!(modulated(&[1.0, 2.0, 3.0], &[0.5, -1.0], &[1.0, 0.0], 2, 1), [2.5, 4.5, 2.0]);
    }

    #[test]
    fn the_first_frequency_is_one_and_cosines_come_first() {
        let row = sinusoids(&[0.0, 2.0], 2);
        assert_eq!(row[..4], [1.0, 1.0, 0.0, 0.0]);
        assert_eq!((row[4], row[6], row[7]), (2f64.cos(), 2f64.sin(), 0.02f64.sin()));
    }
}
