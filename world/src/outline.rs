//! Outlines: how far a point is from a shape's edge.

use crate::attributes::Shape;

/// Half a square's side over the radius: about the area of the disc.
const SQUARE: f64 = 0.88;
/// Distance of a triangle's corners from its centre over the radius.
const TRIANGLE: f64 = 1.2;
/// Distance of a star's points from its centre over the radius.
const STAR: f64 = 1.2;
/// Distance of a star's notches from its centre over that of its points. A pentagram has 0.382; its thin arms vanish under a
/// blur of 2 pixels in a 64-pixel frame, these stay (measured in `tests/judge.rs`).
const NOTCH: f64 = 0.5;

/// Sines and cosines of the star's half sector, 36 degrees, and of 72 degrees.
const SIN_36: f64 = 0.587_785_252_292_473_1;
const COS_36: f64 = 0.809_016_994_374_947_5;
const SIN_72: f64 = 0.951_056_516_295_153_5;
const COS_72: f64 = 0.309_016_994_374_947_45;
/// Half the square root of 3.
const SIN_60: f64 = 0.866_025_403_784_438_6;

impl Shape {
    /// Farthest that the outline of radius 1 reaches from its centre along either axis.
    pub(crate) fn reach(self) -> f64 {
        match self {
            Self::Circle => 1.0,
            Self::Square => SQUARE,
            Self::Triangle => TRIANGLE,
            Self::Star => STAR,
        }
    }

    /// Signed distance of a point from the outline of radius 1 about the origin, negative inside; `y` points down, as rows do.
    pub(crate) fn distance(self, x: f64, y: f64) -> f64 {
        match self {
            Self::Circle => (x * x + y * y).sqrt() - 1.0,
            Self::Square => square(x, y),
            Self::Triangle => triangle(x, y),
            Self::Star => star(x, y),
        }
    }
}

fn square(x: f64, y: f64) -> f64 {
    let (x, y) = (x.abs() - SQUARE, y.abs() - SQUARE);
    let (out_x, out_y) = (x.max(0.0), y.max(0.0));
    (out_x * out_x + out_y * out_y).sqrt() + x.max(y).min(0.0)
}

/// The triangle is mirrored onto its right half: a slanted side and half of the base.
fn triangle(x: f64, y: f64) -> f64 {
    let x = x.abs();
    let apex = (0.0, -TRIANGLE);
    let corner = (TRIANGLE * SIN_60, TRIANGLE * 0.5);
    let edge = to_segment((x, y), apex, corner).min(to_segment((x, y), corner, (0.0, corner.1)));
    let is_inside = y < corner.1 && cross(apex, corner, (x, y)) > 0.0;
    if is_inside { -edge } else { edge }
}

/// Five sectors of 72 degrees, each symmetric: the point is turned into the top sector, then mirrored onto its right half, where the
/// outline is one segment from the tip to the notch.
fn star(x: f64, y: f64) -> f64 {
    let (mut x, mut y) = (x.abs(), y);
    // Sector 1 is centred 72 degrees from the top, sector 2 at 144; a sector ends 36 degrees from its centre.
    for _ in 0..2 {
        // Past the ray at 36 degrees from the top (direction (sin 36, -cos 36)): turn back by 72 degrees.
        if x * COS_36 + y * SIN_36 > 0.0 {
            (x, y) = (x * COS_72 + y * SIN_72, -x * SIN_72 + y * COS_72);
        }
    }
    let x = x.abs();
    let tip = (0.0, -STAR);
    let notch = (STAR * NOTCH * SIN_36, -STAR * NOTCH * COS_36);
    let edge = to_segment((x, y), tip, notch);
    if cross(tip, notch, (x, y)) > 0.0 { -edge } else { edge }
}

/// Positive where `point` is to the right of the way from `from` to `to`, with rows downward.
fn cross(from: (f64, f64), to: (f64, f64), point: (f64, f64)) -> f64 {
    (to.0 - from.0) * (point.1 - from.1) - (to.1 - from.1) * (point.0 - from.0)
}

/// Distance of a point from a segment.
fn to_segment(point: (f64, f64), from: (f64, f64), to: (f64, f64)) -> f64 {
    let (way_x, way_y) = (to.0 - from.0, to.1 - from.1);
    let (x, y) = (point.0 - from.0, point.1 - from.1);
    let share = ((x * way_x + y * way_y) / (way_x * way_x + way_y * way_y)).clamp(0.0, 1.0);
    let (x, y) = (x - share * way_x, y - share * way_y);
    (x * x + y * y).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Area of an outline of radius 1, by counting points of a fine grid.
    fn area(shape: Shape) -> f64 {
        const STEPS: i32 = 600;
        let at = |step: i32| 1.5 * (f64::from(step) + 0.5) / f64::from(STEPS);
        let inside =
            (-STEPS..STEPS).flat_map(|y| (-STEPS..STEPS).map(move |x| (x, y))).filter(|&(x, y)| shape.distance(at(x), at(y)) < 0.0);
        inside.count() as f64 * (1.5 / f64::from(STEPS)) * (1.5 / f64::from(STEPS))
    }

    #[test]
    fn areas_are_those_of_the_figures() {
        let want = [
            (Shape::Circle, std::f64::consts::PI),
            (Shape::Square, 4.0 * SQUARE * SQUARE),
            (Shape::Triangle, 1.5 * SIN_60 * TRIANGLE * TRIANGLE),
            (Shape::Star, 5.0 * NOTCH * SIN_36 * STAR * STAR),
        ];
        for (shape, want) in want {
            let got = area(shape);
            assert!((got - want).abs() < 0.01, "{shape}: {got}, want {want}");
        }
    }

    #[test]
    fn no_distance_changes_faster_than_the_way() {
        let at = |step: i32| f64::from(step) * 0.037;
        for shape in Shape::ALL {
            for y in -60..60 {
                for x in -60..60 {
                    let here = shape.distance(at(x), at(y));
                    let right = shape.distance(at(x + 1), at(y));
                    let below = shape.distance(at(x), at(y + 1));
                    assert!((here - right).abs() <= 0.037_001 && (here - below).abs() <= 0.037_001, "{shape} at {x} {y}");
                    let reach = at(x).abs().max(at(y).abs());
                    assert!(here >= 0.0 || reach <= shape.reach(), "{shape} reaches {reach}");
                }
            }
        }
    }

    #[test]
    fn a_star_looks_the_same_from_its_five_sides() {
        for step in 1..40 {
            let (x, y) = (f64::from(step) * 0.04, -0.7);
            let turned = (x * COS_72 - y * SIN_72, x * SIN_72 + y * COS_72);
            let (here, there) = (Shape::Star.distance(x, y), Shape::Star.distance(turned.0, turned.1));
            assert!((here - there).abs() < 1e-12, "{here} {there}");
        }
        assert!(Shape::Star.distance(0.0, -STAR).abs() < 1e-12);
        assert!(Shape::Star.distance(0.0, STAR * NOTCH).abs() < 1e-12);
    }
}
