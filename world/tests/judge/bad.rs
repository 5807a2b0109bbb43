//! Clips that fail, each for its own reason.

use turbowan_world::judge::{Fault, Unreadable};
use turbowan_world::{Attributes, Background, Clip, Colour, Frames, Motion, Shape, Size, judge};

use crate::{read, spoil};

const SIDE: usize = 64;
const LEN: usize = SIDE * SIDE * 3;

const ASKED: Attributes = Attributes { shape: Shape::Circle, colour: Colour::Red, background: Background::Black, motion: Motion::Still };

fn frames(attributes: Attributes, seed: u64) -> Vec<u8> {
    Clip { attributes, seed }.frames(Size::new(SIDE, 17).expect("a size of the world"))
}

/// 17 frames of one colour.
fn flat(colour: [u8; 3]) -> Vec<u8> {
    colour.into_iter().cycle().take(17 * LEN).collect()
}

/// The only fault, or the faults as they are.
fn only_fault(rgb: &[u8]) -> Fault {
    let reading = read(rgb, SIDE);
    let faults: Vec<_> = reading.look.faults.iter().filter(|fault| **fault != Fault::FirstFrame).collect();
    assert_eq!(faults.len(), 1, "{reading}");
    assert!(!reading.score(&ASKED).passes());
    *faults[0]
}

#[test]
fn two_shapes_are_in_pieces() {
    let mut rgb = flat([15, 15, 20]);
    spoil::disc(&mut rgb, SIDE, (0.28, 0.4), 0.2, Colour::Red.rgb());
    assert!(read(&rgb, SIDE).score(&ASKED).passes(), "one disc alone passes: {}", read(&rgb, SIDE));
    spoil::disc(&mut rgb, SIDE, (0.75, 0.6), 0.14, Colour::Red.rgb());
    let fault = only_fault(&rgb);
    assert!(matches!(fault, Fault::InPieces { frames: 17, share } if (0.6..0.75).contains(&share)), "{fault:?}");
    assert!(read(&rgb, SIDE).look.faults.contains(&Fault::FirstFrame));
}

#[test]
fn a_patch_of_another_hue_is_foreign() {
    for hue in [Colour::Green.rgb(), Colour::Yellow.rgb(), [250, 250, 250], [160, 0, 160]] {
        let mut rgb = flat([15, 15, 20]);
        spoil::disc(&mut rgb, SIDE, (0.5, 0.5), 0.24, Colour::Red.rgb());
        let (mut small, mut large) = (rgb.clone(), rgb);
        spoil::disc(&mut small, SIDE, (0.52, 0.5), 0.05, hue);
        assert!(read(&small, SIDE).look.faults.is_empty(), "4% is forgiven: {}", read(&small, SIDE));
        spoil::disc(&mut large, SIDE, (0.52, 0.5), 0.11, hue);
        let fault = only_fault(&large);
        assert!(matches!(fault, Fault::ForeignHue { share } if (0.1..0.3).contains(&share)), "{hue:?}: {fault:?}");
    }
}

#[test]
fn a_shape_of_two_colours_has_none() {
    let mut rgb = flat([240, 240, 240]);
    spoil::disc(&mut rgb, SIDE, (0.5, 0.5), 0.24, Colour::Blue.rgb());
    for (index, pixel) in rgb.chunks_exact_mut(3).enumerate() {
        if index % SIDE < SIDE / 2 && pixel[0] < 100 {
            pixel.copy_from_slice(&Colour::Red.rgb());
        }
    }
    let reading = read(&rgb, SIDE);
    assert!(matches!(reading.look.colour, Err(Unreadable::Mixed { share }) if share < 0.6), "{reading}");
    assert!(matches!(only_fault(&rgb), Fault::ForeignHue { share } if share > 0.3));
}

#[test]
fn noise_shows_nothing() {
    let mut draw = spoil::uniform(3);
    let grey: Vec<u8> = (0..17 * LEN / 3).flat_map(|_| [(draw() * 256.0) as u8; 3]).collect();
    let reading = read(&grey, SIDE);
    assert!(matches!(reading.look.background, Err(Unreadable::Patchy { .. })), "{reading}");
    assert_eq!((reading.attributes(), reading.score(&ASKED).sound), (None, false));
    let reading = read(&spoil::noise(&flat([128; 3]), 12.0, 5), SIDE);
    assert_eq!(reading.look.background, Ok(Background::Gray));
    assert_eq!(reading.look.shape, Err(Unreadable::NoFigure { frames: 17 }));
    assert_eq!(reading.motion, Err(Unreadable::NoFigure { frames: 17 }));
    assert_eq!(reading.look.faults, [Fault::Vanishes { frames: 17 }, Fault::FirstFrame]);
}

#[test]
fn one_frame_shows_no_motion() {
    let rgb = &frames(ASKED, 1)[..LEN];
    let reading = read(rgb, SIDE);
    assert_eq!(reading.motion, Err(Unreadable::TooFewFrames { frames: 1 }));
    let score = reading.score(&ASKED);
    assert!(score.count() == 3 && score.first_frame && score.sound && !score.passes());
}

#[test]
fn a_spoiled_first_frame_is_told_apart() {
    let mut rgb = frames(ASKED, 2);
    rgb[..LEN].copy_from_slice(&flat([90, 205, 225])[..LEN]);
    let reading = read(&rgb, SIDE);
    let score = reading.score(&ASKED);
    assert!(score.count() == 4 && !score.first_frame && !score.passes(), "{reading}");
    assert!(reading.look.faults.contains(&Fault::FirstFrame));
    // Readable, but another colour: no fault of the picture, wrong all the same.
    let mut rgb = frames(ASKED, 2);
    rgb[..LEN].copy_from_slice(&frames(Attributes { colour: Colour::Green, ..ASKED }, 2)[..LEN]);
    let score = read(&rgb, SIDE).score(&ASKED);
    assert!(score.count() == 4 && score.sound && !score.first_frame);
}

#[test]
fn a_way_that_is_no_motion_is_wandering() {
    let left = frames(Attributes { motion: Motion::Left, ..ASKED }, 4);
    let shuffled: Vec<u8> = (0..17).flat_map(|frame| left[frame * 7 % 17 * LEN..][..LEN].to_vec()).collect();
    assert_eq!(read(&shuffled, SIDE).motion, Err(Unreadable::Wandering));
    let half: Vec<u8> = (0..17).flat_map(|frame| left[(frame / 4 + 6) * LEN..][..LEN].to_vec()).collect();
    let motion = read(&half, SIDE).motion;
    assert!(matches!(motion, Err(Unreadable::Slight { .. })), "{motion:?}");
}

#[test]
fn strange_colours_and_outlines_are_named() {
    let mut rgb = flat([15, 15, 20]);
    spoil::disc(&mut rgb, SIDE, (0.5, 0.5), 0.24, [238, 88, 37]);
    assert!(matches!(read(&rgb, SIDE).look.colour, Err(Unreadable::StrangeColour { .. })), "half way from red to orange");
    let mut rgb = flat([150, 90, 60]);
    spoil::disc(&mut rgb, SIDE, (0.5, 0.5), 0.24, Colour::Blue.rgb());
    assert!(matches!(read(&rgb, SIDE).look.background, Err(Unreadable::StrangeColour { rgb: [150, 90, 60] })));
    // A bar of four discs side by side.
    let mut rgb = flat([240, 240, 240]);
    for x in [0.25, 0.4, 0.55, 0.7] {
        spoil::disc(&mut rgb, SIDE, (x, 0.5), 0.1, Colour::Purple.rgb());
    }
    assert!(matches!(read(&rgb, SIDE).look.shape, Err(Unreadable::Unlike { overlap }) if overlap < 0.75));
}

#[test]
fn what_is_no_clip_is_refused() {
    let rgb = [0; 64 * 64 * 3];
    assert!(Frames::new([0, 64, 64], &[]).is_err());
    assert!(Frames::new([1, 8, 64], &rgb[..8 * 64 * 3]).is_err());
    assert!(Frames::new([2, 64, 64], &rgb).is_err());
    assert!(Frames::new([usize::MAX, 64, 64], &rgb).is_err());
    assert!(judge(&Frames::new([1, 64, 64], &rgb).unwrap()).attributes().is_none());
}
