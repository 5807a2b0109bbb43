//! Where a clip's shape is at any time: centre and radius over the frame's side, time from 0 to 1.

use crate::attributes::{Attributes, Motion};
use crate::random::Random;

/// Radius of a shape that keeps its size, over the side.
const RADIUS: (f64, f64) = (0.20, 0.28);
/// Small end of a growing or shrinking radius.
const SMALL: (f64, f64) = (0.14, 0.16);
/// Large end of a growing or shrinking radius.
const LARGE: (f64, f64) = (0.25, 0.28);
/// Half of the way that a moving shape goes, at most, and the least share of what there is room for.
const TRAVEL: (f64, f64) = (0.21, 0.8);
/// Radius of an orbit, at most, and the least share of what there is room for.
const ORBIT: (f64, f64) = (0.20, 0.85);
/// How far a shape that does not travel along an axis may be from the middle.
const ASIDE: f64 = 0.08;
/// Half the frame less a margin: no outline goes past it, so that no shape is ever cut.
const ROOM: f64 = 0.49;

/// Centre and radius, over the side; the centre is counted from the frame's upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) radius: f64,
}

/// A clip's motion with its numbers drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Path {
    /// Along a straight line, or nowhere, or in size alone.
    Straight { from: Place, to: Place },
    /// Once around the middle.
    Orbit { radius: f64, distance: f64, phase: f64, is_clockwise: bool },
}

impl Path {
    pub(crate) fn draw(attributes: &Attributes, random: &mut Random) -> Self {
        let steady = random.between(RADIUS.0, RADIUS.1);
        let small = random.between(SMALL.0, SMALL.1);
        let large = random.between(LARGE.0, LARGE.1);
        let (start_radius, end_radius) = match attributes.motion {
            Motion::Grow => (small, large),
            Motion::Shrink => (large, small),
            _ => (steady, steady),
        };
        let room = ROOM - attributes.shape.reach() * start_radius.max(end_radius);
        let travel = room.min(TRAVEL.0) * random.between(TRAVEL.1, 1.0);
        let mut aside = || room.min(ASIDE) * random.between(-1.0, 1.0);
        let (aside_x, aside_y) = (aside(), aside());
        let (travel_x, travel_y) = match attributes.motion {
            Motion::Left => (-travel, 0.0),
            Motion::Right => (travel, 0.0),
            Motion::Up => (0.0, -travel),
            Motion::Down => (0.0, travel),
            Motion::Still | Motion::Grow | Motion::Shrink => (0.0, 0.0),
            Motion::Orbit => {
                let distance = room.min(ORBIT.0) * random.between(ORBIT.1, 1.0);
                return Self::Orbit { radius: steady, distance, phase: random.between(0.0, 1.0), is_clockwise: random.below(2) == 0 };
            }
        };
        // A moving shape goes as far on one side of the middle as on the other.
        let x = 0.5 + if travel_x == 0.0 { aside_x } else { 0.0 };
        let y = 0.5 + if travel_y == 0.0 { aside_y } else { 0.0 };
        Self::Straight {
            from: Place { x: x - travel_x, y: y - travel_y, radius: start_radius },
            to: Place { x: x + travel_x, y: y + travel_y, radius: end_radius },
        }
    }

    /// Where the shape is at `time` in `[0, 1]`.
    pub(crate) fn at(&self, time: f64) -> Place {
        match *self {
            Self::Straight { from, to } => {
                let blend = |from: f64, to: f64| from + (to - from) * time;
                Place { x: blend(from.x, to.x), y: blend(from.y, to.y), radius: blend(from.radius, to.radius) }
            }
            Self::Orbit { radius, distance, phase, is_clockwise } => {
                let turns = if is_clockwise { phase + time } else { phase + 1.0 - time };
                let (sin, cos) = sin_cos_turns(turns);
                Place { x: 0.5 + distance * cos, y: 0.5 + distance * sin, radius }
            }
        }
    }
}

/// Sine and cosine of `turns` whole turns, for `turns` in `[0, 4)`: sums and products alone, which IEEE 754 defines to the last bit,
/// where a system's maths library may differ from another's. The quadrant is split off exactly; the error is below `1e-15`.
fn sin_cos_turns(turns: f64) -> (f64, f64) {
    let quarters = turns * 4.0;
    let quadrant = (quarters + 0.5).floor();
    let angle = (quarters - quadrant) * std::f64::consts::FRAC_PI_2;
    let z = angle * angle;
    let sin = angle * (1..=9).rev().fold(1.0, |rest, k| 1.0 - z / f64::from(2 * k * (2 * k + 1)) * rest);
    let cos = (1..=9).rev().fold(1.0, |rest, k| 1.0 - z / f64::from((2 * k - 1) * 2 * k) * rest);
    match quadrant as u32 % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn sine_and_cosine_are_right_all_around() {
        for step in 0..8000 {
            let turns = f64::from(step) / 2000.0;
            let (sin, cos) = sin_cos_turns(turns);
            let (want_sin, want_cos) = (turns * std::f64::consts::TAU).sin_cos();
            // The library's argument, 2 pi turns, is itself rounded.
            assert!((sin - want_sin).abs() < 4e-15 && (cos - want_cos).abs() < 4e-15, "{turns} turns");
        }
    }

    #[test]
    fn no_shape_leaves_the_frame_and_no_motion_is_too_small_to_see() {
        for attributes in Attributes::all() {
            for seed in 0..20 {
                let path = Path::draw(&attributes, &mut Random::new(seed, Stream::Picture));
                let places: Vec<Place> = (0..=16).map(|frame| path.at(f64::from(frame) / 16.0)).collect();
                for place in &places {
                    let reach = attributes.shape.reach() * place.radius;
                    assert!(
                        (reach..=1.0 - reach).contains(&place.x) && (reach..=1.0 - reach).contains(&place.y),
                        "{attributes}: {place:?}"
                    );
                }
                let (first, middle, last) = (places[0], places[8], places[16]);
                let way = |a: Place, b: Place| ((a.x - b.x).powi(2) + (a.y - b.y).powi(2)).sqrt();
                match attributes.motion {
                    Motion::Still => assert_eq!(first, last),
                    Motion::Grow => assert!(last.radius / first.radius > 1.5),
                    Motion::Shrink => assert!(first.radius / last.radius > 1.5),
                    Motion::Orbit => assert!(way(first, last) < 1e-12 && way(first, middle) > 0.26),
                    _ => assert!(way(first, last) > 0.24 && first.radius == last.radius),
                }
            }
        }
    }
}
