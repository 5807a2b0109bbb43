//! The motion of a clip: what centre and radius do from frame to frame.

use super::figure::Figure;
use super::reading::Unreadable;
use crate::attributes::Motion;

/// Fewest frames that show a motion.
const LEAST_FRAMES: usize = 5;
/// Most frames in which nothing stands out, as a share.
const LOST: f64 = 0.1;
/// A radius at least this many times another has grown; the world's grow 1.56 times or more.
const GROWN: f64 = 1.35;
/// A radius at most this many times another is the same.
const SAME_SIZE: f64 = 1.15;
/// Least way, over the side, of a shape that moves; the world's go 0.246 or more.
const MOVED: f64 = 0.15;
/// Most way of a shape that stays.
const STAYED: f64 = 0.06;
/// Most way across a motion, as a share of the way along it.
const ACROSS: f64 = 0.4;
/// Most of the way walked over the way from end to end: more is back and forth.
const DETOUR: f64 = 1.4;
/// Least width and height of an orbit, over the side; the world's have 0.26 or more.
const ORBIT: f64 = 0.17;
/// Least turning about the middle of an orbit, in turns.
const TURNED: f64 = 0.75;

/// The motion that a clip's figures show; `None` where a frame has none.
pub(super) fn motion(figures: &[Option<&Figure>]) -> Result<Motion, Unreadable> {
    if figures.len() < LEAST_FRAMES {
        return Err(Unreadable::TooFewFrames { frames: figures.len() });
    }
    let seen: Vec<&Figure> = figures.iter().copied().flatten().collect();
    let lost = figures.len() - seen.len();
    if lost as f64 > LOST * figures.len() as f64 {
        return Err(Unreadable::NoFigure { frames: lost });
    }
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else { return Err(Unreadable::NoFigure { frames: lost }) };
    let (width, height) = (range(seen.iter().map(|figure| figure.centre.0)), range(seen.iter().map(|figure| figure.centre.1)));
    if width > ORBIT && height > ORBIT {
        return if turns(&seen) >= TURNED { Ok(Motion::Orbit) } else { Err(Unreadable::Wandering) };
    }
    let (x, y) = (last.centre.0 - first.centre.0, last.centre.1 - first.centre.1);
    let way = x.abs().max(y.abs());
    let ratio = last.radius / first.radius;
    if ratio.max(1.0 / ratio) > GROWN {
        return match () {
            () if way > MOVED => Err(Unreadable::Wandering),
            () if ratio > 1.0 => Ok(Motion::Grow),
            () => Ok(Motion::Shrink),
        };
    }
    let walked: f64 = seen.windows(2).map(|pair| step(pair[0], pair[1])).sum();
    match () {
        () if way > MOVED && (x.abs().min(y.abs()) > ACROSS * way || walked > DETOUR * way) => Err(Unreadable::Wandering),
        () if way > MOVED && x.abs() > y.abs() => Ok(if x < 0.0 { Motion::Left } else { Motion::Right }),
        () if way > MOVED => Ok(if y < 0.0 { Motion::Up } else { Motion::Down }),
        () if width.max(height) > MOVED => Err(Unreadable::Wandering),
        () if width.max(height) < STAYED && ratio.max(1.0 / ratio) < SAME_SIZE => Ok(Motion::Still),
        () => Err(Unreadable::Slight { way, ratio }),
    }
}

fn range(values: impl Iterator<Item = f64>) -> f64 {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    high - low
}

fn step(from: &Figure, to: &Figure) -> f64 {
    let (x, y) = (to.centre.0 - from.centre.0, to.centre.1 - from.centre.1);
    (x * x + y * y).sqrt()
}

/// Turns about the middle of the track, either way.
fn turns(seen: &[&Figure]) -> f64 {
    let count = seen.len() as f64;
    let (x, y) = seen.iter().fold((0.0, 0.0), |(x, y), figure| (x + figure.centre.0 / count, y + figure.centre.1 / count));
    let angles: Vec<f64> = seen.iter().map(|figure| (figure.centre.1 - y).atan2(figure.centre.0 - x) / std::f64::consts::TAU).collect();
    let turned: f64 = angles.windows(2).map(|pair| pair[1] - pair[0] - (pair[1] - pair[0]).round()).sum();
    turned.abs()
}
