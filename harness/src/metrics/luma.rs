//! The luma of a frame.

/// Rec. 601 luma of a picture, row by row, in 8-bit levels.
#[derive(Debug, Clone, PartialEq)]
pub struct Luma {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `[height, width]`.
    pub levels: Vec<f64>,
}

impl Luma {
    /// Of `rgb`, `[height, width, 3]`.
    pub fn of(rgb: &[u8], width: usize) -> Self {
        let of_pixel = |[r, g, b]: &[u8; 3]| 0.299 * f64::from(*r) + 0.587 * f64::from(*g) + 0.114 * f64::from(*b);
        let levels: Vec<f64> = rgb.as_chunks::<3>().0.iter().map(of_pixel).collect();
        Self { width, height: levels.len() / width.max(1), levels }
    }

    /// Half as large: means of 2 x 2 pixels; the last row or column of an odd side is left out.
    pub fn halved(&self) -> Self {
        let (width, height) = (self.width / 2, self.height / 2);
        let at = |y: usize, x: usize| self.levels[y * self.width + x];
        let mean = |y: usize, x: usize| (at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1)) / 4.0;
        let levels = (0..height).flat_map(|y| (0..width).map(move |x| (2 * y, 2 * x))).map(|(y, x)| mean(y, x)).collect();
        Self { width, height, levels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_means_of_four_and_an_odd_end_is_left_out() {
        let luma = Luma { width: 5, height: 2, levels: vec![1.0, 3.0, 10.0, 20.0, 99.0, 5.0, 7.0, 30.0, 40.0, 99.0] };
        assert_eq!(luma.halved(), Luma { width: 2, height: 1, levels: vec![4.0, 25.0] });
    }

    #[test]
    fn white_is_255_and_green_is_the_brightest_primary() {
        let luma = Luma::of(&[255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255], 2);
        assert!((luma.levels[0] - 255.0).abs() < 1e-9 && (luma.levels[2] - 0.587 * 255.0).abs() < 1e-9);
        assert_eq!((luma.width, luma.height), (2, 2));
    }
}
