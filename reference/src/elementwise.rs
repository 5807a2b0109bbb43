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
    fn the_first_frequency_is_one_and_cosines_come_first() {
        let row = sinusoids(&[0.0, 2.0], 2);
        assert_eq!(row[..4], [1.0, 1.0, 0.0, 0.0]);
        assert_eq!((row[4], row[6], row[7]), (2f64.cos(), 2f64.sin(), 0.02f64.sin()));
    }
}
