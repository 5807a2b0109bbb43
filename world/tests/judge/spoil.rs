//! Ways to spoil frames, `[frames, height, width, 3]` with equal sides.

/// Gaussian blur of each frame, edges continued.
pub fn blur(rgb: &[u8], side: usize, sigma: f64) -> Vec<u8> {
    let reach = (3.0 * sigma).ceil() as isize;
    let weights: Vec<f64> = (-reach..=reach).map(|at| (-0.5 * (at as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = Vec::with_capacity(rgb.len());
    for frame in rgb.chunks_exact(side * side * 3) {
        let mut rows: Vec<f64> = frame.iter().copied().map(f64::from).collect();
        for is_column in [false, true] {
            let old = rows.clone();
            for (index, value) in rows.iter_mut().enumerate() {
                let (pixel, channel) = (index / 3, index % 3);
                let (row, column) = (pixel / side, pixel % side);
                let clamp = |at: usize, by: isize| at.saturating_add_signed(by).min(side - 1);
                let at = |by: isize| if is_column { clamp(row, by) * side + column } else { row * side + clamp(column, by) };
                *value = (-reach..=reach).zip(&weights).map(|(by, weight)| weight * old[at(by) * 3 + channel]).sum::<f64>() / sum;
            }
        }
        out.extend(rows.iter().map(|value| value.round() as u8));
    }
    out
}

/// Normal noise of a deviation in 8-bit levels, each value by itself.
pub fn noise(rgb: &[u8], sigma: f64, seed: u64) -> Vec<u8> {
    let mut draw = uniform(seed);
    rgb.iter()
        .map(|value| {
            // The sum of twelve uniform draws has variance 1 and mean 6.
            let normal = (0..12).map(|_| draw()).sum::<f64>() - 6.0;
            (f64::from(*value) + sigma * normal).round().clamp(0.0, 255.0) as u8
        })
        .collect()
}

/// Uniform draws in `[0, 1)`, by a linear congruence modulo 2^64 (Knuth's constants).
pub fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    }
}

/// Paints a disc in every frame; centre and radius over the side.
pub fn disc(rgb: &mut [u8], side: usize, centre: (f64, f64), radius: f64, colour: [u8; 3]) {
    for frame in rgb.chunks_exact_mut(side * side * 3) {
        for (pixel, value) in frame.chunks_exact_mut(3).enumerate() {
            let at = |index: usize| (index as f64 + 0.5) / side as f64;
            let (x, y) = (at(pixel % side) - centre.0, at(pixel / side) - centre.1);
            if x * x + y * y < radius * radius {
                value.copy_from_slice(&colour);
            }
        }
    }
}
