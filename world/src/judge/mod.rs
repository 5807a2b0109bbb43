//! The judge: RGB frames in, attributes out. It never sees a caption, a seed or a model.
//!
//! Frame by frame: the background is the median of the border; the figure is what is at least half as far from it as most of what stands out;
//! its largest region has a centre, a radius and an outline that is compared with each shape at several degrees of roundness. Over
//! all frames: the colour is what most pixels of the figure's core are nearest to, the shape is the one that the outlines overlap most, the
//! motion follows from the track of centre and radius. Lengths are shares of the frame's smaller side, so that no size is special.
//! Whatever is doubtful is [`Unreadable`] with its reason, and a picture may have a [`Fault`] whatever it shows.
//!
//! Share of real 17-frame 64x64 clips read right (radius of shapes 9 to 18 pixels), 100 to 3000 clips a row:
//!
//! ```text
//!                   shape  colour  background  motion  without fault  frame 0 alone
//! as drawn           1.00    1.00     1.00      1.00       1.00           1.00
//! noise, 12 levels   1.00    1.00     1.00      1.00       1.00           1.00
//! blur, 1 pixel      1.00    1.00     1.00      1.00       1.00           1.00
//! blur, 2 pixels     1.00    1.00     1.00      1.00       1.00           1.00
//! blur, 3 pixels     1.00    1.00     1.00      1.00       0.995          0.98
//! blur, 4 pixels     0.925   0.94     1.00      1.00       0.895          0.845
//! ```
//!
//! At 4 pixels a third of the stars is unreadable, at 5 and more a star is read as the round blot that a person sees. So a right shape does not
//! mean a sharp picture: hold an autoencoder to its PSNR as well.

mod figure;
mod frames;
mod ground;
mod reading;
mod silhouette;
mod tally;
mod track;

pub use frames::Frames;
pub use reading::{Answer, Fault, Look, Reading, Score, Unreadable};
pub use tally::{Confusion, Tally};

use crate::attributes::{Background, Colour, Shape};
use crate::palette::{Rgb, nearest, off_segment};
use figure::Figure;
use ground::Ground;
use silhouette::Likeness;

/// Farthest that a shape's colour may be from its palette entry: less than half of the least distance between two, 82, and a little
/// more, as the second condition already keeps it nearer to one than to the other.
const FARTHEST_COLOUR: f64 = 60.0;
/// The nearest colour must be nearer than this share of the second's distance.
const CLEARLY_NEARER: f64 = 0.75;
/// Share of the core's pixels that must be nearest to one colour, and of frames that must show one background and one shape.
const AGREE: f64 = 0.7;
/// Least overlap with the nearest shape.
const LEAST_LIKENESS: f64 = 0.78;
/// Least lead of the nearest shape's overlap over the second's.
const LEAST_LEAD: f64 = 0.01;
/// Share of a frame's figure that its largest region must have.
const WHOLE: f64 = 0.9;
/// Share of frames that may be in pieces.
const PIECES: f64 = 0.1;
/// Share of the figure's pixels that may have another hue.
const FOREIGN: f64 = 0.1;
/// Distance from all mixtures of background and shape colour past which a pixel has another hue.
const OTHER_HUE: f64 = 50.0;

/// Reads a clip of any size and length.
pub fn judge(frames: &Frames<'_>) -> Reading {
    let sights: Vec<Sight> = frames
        .iter()
        .map(|frame| {
            let ground = Ground::of(&frame);
            let figure = Figure::find(&frame, ground.rgb);
            Sight { ground, figure }
        })
        .collect();
    let figures: Vec<Option<&Figure>> = sights.iter().map(|sight| sight.figure.as_ref()).collect();
    let mut look = look(&sights);
    let first_frame = self::look(&sights[..1]);
    if !first_frame.stands_alone() {
        look.faults.push(Fault::FirstFrame);
    }
    Reading { look, motion: track::motion(&figures), first_frame }
}

/// What one frame shows.
struct Sight {
    ground: Ground,
    figure: Option<Figure>,
}

/// What some frames show together.
fn look(sights: &[Sight]) -> Look {
    let seen: Vec<(&Figure, Rgb)> = sights.iter().filter_map(|sight| Some((sight.figure.as_ref()?, sight.ground.rgb))).collect();
    let mut faults = Vec::new();
    if seen.len() < sights.len() {
        faults.push(Fault::Vanishes { frames: sights.len() - seen.len() });
    }
    let broken = seen.iter().filter(|(figure, _)| figure.largest_share < WHOLE).count();
    if broken as f64 > PIECES * sights.len() as f64 {
        let share = seen.iter().map(|(figure, _)| figure.largest_share).fold(1.0, f64::min);
        faults.push(Fault::InPieces { frames: broken, share });
    }
    if seen.is_empty() {
        let none = Unreadable::NoFigure { frames: sights.len() };
        return Look { shape: Err(none), colour: Err(none), background: background(sights), faults };
    }
    let (colour, rgb) = colour(&seen);
    if let Some(rgb) = rgb {
        let pixels: usize = seen.iter().map(|(figure, _)| figure.pixels.len()).sum();
        let is_foreign = |ground: Rgb| move |pixel: &&Rgb| off_segment(**pixel, ground, rgb) > OTHER_HUE;
        let foreign: usize = seen.iter().map(|(figure, ground)| figure.pixels.iter().filter(is_foreign(*ground)).count()).sum();
        let share = foreign as f64 / pixels as f64;
        if share > FOREIGN {
            faults.push(Fault::ForeignHue { share });
        }
    }
    Look { shape: shape(&seen), colour, background: background(sights), faults }
}

/// The background that most frames show.
fn background(sights: &[Sight]) -> Result<Background, Unreadable> {
    let count = |background: Background| sights.iter().filter(|sight| sight.ground.name == Ok(background)).count();
    let most = Background::ALL.into_iter().max_by_key(|background| count(*background));
    let strange = sights.iter().find_map(|sight| sight.ground.name.err());
    match (most, strange) {
        (Some(most), _) if count(most) as f64 >= AGREE * sights.len() as f64 => Ok(most),
        (_, Some(strange)) => Err(strange),
        (most, None) => Err(Unreadable::Mixed { share: most.map_or(0, count) as f64 / sights.len() as f64 }),
    }
}

/// The colour that most core pixels are nearest to, and their mean.
fn colour(seen: &[(&Figure, Rgb)]) -> (Result<Colour, Unreadable>, Option<Rgb>) {
    let entries = || Colour::ALL.into_iter().map(|colour| (colour, colour.rgb()));
    let mut votes = [(0usize, [0.0; 3]); Colour::ALL.len()];
    for pixel in seen.iter().flat_map(|(figure, _)| &figure.core) {
        if let Some((colour, _, _)) = nearest(*pixel, entries()) {
            let (count, sum) = &mut votes[colour.index()];
            *count += 1;
            (0..3).for_each(|channel| sum[channel] += pixel[channel]);
        }
    }
    let all: usize = votes.iter().map(|(count, _)| count).sum();
    let Some(&(count, sum)) = votes.iter().max_by_key(|(count, _)| *count).filter(|(count, _)| *count > 0) else {
        return (Err(Unreadable::NoFigure { frames: seen.len() }), None);
    };
    let rgb = sum.map(|sum| sum / count as f64);
    let share = count as f64 / all as f64;
    let colour = match nearest(rgb, entries()) {
        _ if share < AGREE => Err(Unreadable::Mixed { share }),
        Some((colour, near, second)) if near < FARTHEST_COLOUR && near < CLEARLY_NEARER * second => Ok(colour),
        _ => Err(Unreadable::StrangeColour { rgb: rgb.map(|value| value as u8) }),
    };
    (colour, Some(rgb))
}

/// The shape that the frames' outlines overlap most, larger figures counting for more.
fn shape(seen: &[(&Figure, Rgb)]) -> Result<Shape, Unreadable> {
    let weight: f64 = seen.iter().map(|(figure, _)| figure.radius).sum();
    let mean: Likeness =
        Shape::ALL.map(|shape| seen.iter().map(|(figure, _)| figure.likeness[shape.index()] * figure.radius).sum::<f64>() / weight);
    let mut order = Shape::ALL;
    order.sort_by(|a, b| mean[b.index()].total_cmp(&mean[a.index()]));
    let [first, second] = [order[0], order[1]];
    let (best, lead) = (mean[first.index()], mean[first.index()] - mean[second.index()]);
    let is_best = |likeness: &Likeness| likeness.iter().all(|other| *other <= likeness[first.index()]);
    let share = seen.iter().filter(|(figure, _)| is_best(&figure.likeness)).count() as f64 / seen.len() as f64;
    match () {
        () if best < LEAST_LIKENESS => Err(Unreadable::Unlike { overlap: best }),
        () if lead < LEAST_LEAD => Err(Unreadable::Between { first, second }),
        () if share < AGREE => Err(Unreadable::Mixed { share }),
        () => Ok(first),
    }
}
