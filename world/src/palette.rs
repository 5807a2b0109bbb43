//! Colours in 8-bit RGB.

use crate::attributes::{Background, Colour};

/// Red, green, blue, each in `[0, 255]`.
pub(crate) type Rgb = [f64; 3];

/// Most that a clip's colour departs from its palette entry, in each channel.
pub(crate) const JITTER: f64 = 5.0;

impl Colour {
    /// Its palette entry, 8-bit RGB; a clip's own colour is within 5 of it in each channel.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [225, 40, 45],
            Self::Green => [40, 180, 70],
            Self::Blue => [45, 85, 230],
            Self::Yellow => [245, 215, 50],
            Self::Purple => [150, 55, 200],
            Self::Orange => [250, 135, 30],
        }
    }
}

impl Background {
    /// Its palette entry, 8-bit RGB; a clip's own background is within 5 of it in each channel.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Black => [15, 15, 20],
            Self::White => [240, 240, 240],
            Self::Gray => [128, 128, 128],
            Self::Cyan => [90, 205, 225],
        }
    }
}

/// Euclidean distance in RGB.
pub(crate) fn distance(a: Rgb, b: Rgb) -> f64 {
    (0..3).map(|channel| (a[channel] - b[channel]) * (a[channel] - b[channel])).sum::<f64>().sqrt()
}

/// Distance of `rgb` from the segment between `from` and `to`: what no mixture of the two explains.
pub(crate) fn off_segment(rgb: Rgb, from: Rgb, to: Rgb) -> f64 {
    let along: f64 = (0..3).map(|c| (rgb[c] - from[c]) * (to[c] - from[c])).sum();
    let length: f64 = (0..3).map(|c| (to[c] - from[c]) * (to[c] - from[c])).sum();
    let share = if length > 0.0 { (along / length).clamp(0.0, 1.0) } else { 0.0 };
    distance(rgb, [0, 1, 2].map(|c| from[c] + share * (to[c] - from[c])))
}

/// Nearest of `entries` to `rgb`, its distance, and the distance of the second.
pub(crate) fn nearest<T: Copy>(rgb: Rgb, entries: impl Iterator<Item = (T, [u8; 3])>) -> Option<(T, f64, f64)> {
    let mut best: Option<(T, f64)> = None;
    let mut second = f64::INFINITY;
    for (value, entry) in entries {
        let far = distance(rgb, entry.map(f64::from));
        match best {
            Some((_, near)) if far >= near => second = second.min(far),
            _ => {
                second = best.map_or(second, |(_, near)| near);
                best = Some((value, far));
            }
        }
    }
    best.map(|(value, near)| (value, near, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_stands_out_from_every_background() {
        for colour in Colour::ALL {
            for background in Background::ALL {
                let apart = distance(colour.rgb().map(f64::from), background.rgb().map(f64::from));
                assert!(apart > 100.0, "{colour} on {background}: {apart}");
            }
        }
    }

    #[test]
    fn the_nearest_entry_is_found_with_its_rival() {
        let entries = || Colour::ALL.into_iter().map(|colour| (colour, colour.rgb()));
        let (colour, near, second) = nearest([220.0, 45.0, 45.0], entries()).unwrap();
        assert_eq!(colour, Colour::Red);
        assert!(near < 8.0 && second > 80.0, "{near} {second}");
    }

    #[test]
    fn a_mixture_lies_on_the_segment() {
        let (from, to) = ([0.0, 0.0, 0.0], [200.0, 0.0, 0.0]);
        assert_eq!(off_segment([90.0, 0.0, 0.0], from, to), 0.0);
        assert_eq!(off_segment([90.0, 60.0, 0.0], from, to), 60.0);
        assert_eq!(off_segment([0.0, 3.0, 4.0], from, from), 5.0);
    }
}
