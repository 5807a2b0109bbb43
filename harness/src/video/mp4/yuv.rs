//! RGB to the planes that H.264 codes.
//!
//! BT.709, limited range (luma 16 to 235, chroma 16 to 240), 4:2:0:
//!
//! ```text
//! Y' = 0.2126 R' + 0.7152 G' + 0.0722 B'      Y  =  16 + 219 Y'
//! Cb = (B' - Y') / 1.8556                     Cb = 128 + 224 Cb
//! Cr = (R' - Y') / 1.5748                     Cr = 128 + 224 Cr
//! ```
//!
//! A chroma sample sits on the even column, halfway between two rows, where H.264 says it is when the stream says nothing:
//! weights 1 2 1 along the row, 1 1 down. All of it in integers, so the bytes are the same on every machine.

/// One picture as three planes; rows are tight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planes {
    /// Coded width: even, at least [`SMALLEST_SIDE`].
    pub width: usize,
    /// Coded height: even, at least [`SMALLEST_SIDE`].
    pub height: usize,
    /// `[height, width]`.
    pub luma: Vec<u8>,
    /// Cb, `[height / 2, width / 2]`.
    pub blue: Vec<u8>,
    /// Cr, `[height / 2, width / 2]`.
    pub red: Vec<u8>,
}

/// The encoder takes no picture that is smaller than a macroblock.
pub const SMALLEST_SIDE: usize = 16;

/// Fraction bits of the matrix.
const FRACTION: u32 = 16;

/// Rows of the matrix for R, G, B in 0..=255, in units of `2^-FRACTION`; each chroma row sums to 0, the luma row to 219/255.
const LUMA: [i32; 3] = [11966, 40254, 4064];
const BLUE: [i32; 3] = [-6596, -22189, 28785];
const RED: [i32; 3] = [28785, -26145, -2640];

/// A side as it is coded: 4:2:0 wants it even. The picture's last row and column are repeated up to it.
pub fn coded_side(side: usize) -> usize {
    side.next_multiple_of(2).max(SMALLEST_SIDE)
}

impl Planes {
    /// Black planes for pictures of `width` x `height`.
    pub fn new(width: usize, height: usize) -> Self {
        let (width, height) = (coded_side(width), coded_side(height));
        let chroma = width * height / 4;
        Self { width, height, luma: vec![16; width * height], blue: vec![128; chroma], red: vec![128; chroma] }
    }

    /// Converts `rgb`, `[height, width, 3]` of the size that the planes were made for.
    pub fn fill(&mut self, rgb: &[u8], width: usize, height: usize) {
        debug_assert_eq!(rgb.len(), width * height * 3);
        debug_assert_eq!((self.width, self.height), (coded_side(width), coded_side(height)));
        for (y, luma) in self.luma.chunks_exact_mut(self.width).enumerate() {
            let row = &rgb[y.min(height - 1) * width * 3..][..width * 3];
            for (out, pixel) in luma.iter_mut().zip(row.as_chunks::<3>().0) {
                *out = weigh(LUMA, pixel.map(i32::from), 16, 0);
            }
            let last = luma[width - 1];
            luma[width..].fill(last);
        }
        let half = self.width / 2;
        for (y, (blue, red)) in self.blue.chunks_exact_mut(half).zip(self.red.chunks_exact_mut(half)).enumerate() {
            let rows = [2 * y, 2 * y + 1].map(|y| &rgb[y.min(height - 1) * width * 3..][..width * 3]);
            for (x, (blue, red)) in blue.iter_mut().zip(red).enumerate() {
                let mut sum = [0_i32; 3];
                for (weight, x) in [(1, (2 * x).saturating_sub(1)), (2, 2 * x), (1, 2 * x + 1)] {
                    let x = x.min(width - 1) * 3;
                    for channel in 0..3 {
                        sum[channel] += weight * (i32::from(rows[0][x + channel]) + i32::from(rows[1][x + channel]));
                    }
                }
                *blue = weigh(BLUE, sum, 128, 3);
                *red = weigh(RED, sum, 128, 3);
            }
        }
    }
}

/// `offset + weights . values / 2^(FRACTION + shift)`, rounded; in range by the matrix, the clamp is for the last unit.
fn weigh(weights: [i32; 3], values: [i32; 3], offset: i32, shift: u32) -> u8 {
    let bits = FRACTION + shift;
    let sum = weights[0] * values[0] + weights[1] * values[1] + weights[2] * values[2];
    (offset + ((sum + (1 << (bits - 1))) >> bits)).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in floating point.
    fn oracle([r, g, b]: [u8; 3]) -> [f64; 3] {
        let [r, g, b] = [r, g, b].map(|value| f64::from(value) / 255.0);
        let luma = 0.2126 * r + 0.7152 * g + 0.0722 * b;
        [16.0 + 219.0 * luma, 128.0 + 224.0 * (b - luma) / 1.8556, 128.0 + 224.0 * (r - luma) / 1.5748]
    }

    #[test]
    fn flat_colours_match_the_definition() {
        // Rounding to a byte is half a unit, the matrix's own rounding less than a hundredth.
        const BOUND: f64 = 0.51;
        let mut planes = Planes::new(16, 16);
        for r in (0..=255).step_by(51) {
            for g in (0..=255).step_by(17) {
                for b in (0..=255).step_by(51) {
                    let colour = [r as u8, g as u8, b as u8];
                    planes.fill(&colour.repeat(256), 16, 16);
                    for (got, want) in [planes.luma[37], planes.blue[9], planes.red[63]].into_iter().zip(oracle(colour)) {
                        assert!((f64::from(got) - want).abs() < BOUND, "{colour:?}: {got} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn grey_has_no_colour() {
        let mut planes = Planes::new(16, 16);
        for grey in 0..=255 {
            planes.fill(&[grey; 768], 16, 16);
            assert!(planes.blue.iter().chain(&planes.red).all(|&value| value == 128));
        }
    }

    #[test]
    fn odd_and_tiny_pictures_repeat_their_edge() {
        let rgb: Vec<u8> = (0..5 * 3 * 3).map(|index| (index * 5) as u8).collect();
        let mut planes = Planes::new(5, 3);
        planes.fill(&rgb, 5, 3);
        assert_eq!((planes.width, planes.height), (16, 16));
        for y in 0..16 {
            let row = &planes.luma[y * 16..][..16];
            assert!(row[5..].iter().all(|&value| value == row[4]));
            assert_eq!(row, &planes.luma[y.min(2) * 16..][..16]);
        }
        assert_eq!([1, 16, 17, 480, 481].map(coded_side), [16, 16, 18, 480, 482]);
    }
}
