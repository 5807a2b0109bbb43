//! The judge on real clips, spoiled ones and bad ones.

#[path = "judge/bad.rs"]
mod bad;
#[path = "judge/spoil.rs"]
mod spoil;

use turbowan_world::{Attributes, Background, Clip, Colour, Frames, Motion, Reading, Shape, Size, Split, Tally, judge};

/// Least accuracy on each attribute of clips that a person reads without fail.
const CLEAR: f64 = 0.97;
/// Least accuracy on the shape where a blur takes up to a seventh of the radius.
const BLURRED: f64 = 0.95;
/// Most that one answer for all clips may reach: the judge and the world make no attribute cheap.
const CONSTANT: f64 = 0.35;

/// Seed of the first clip read; no other test of this crate starts there.
const FIRST: u64 = 10_000;

fn read(rgb: &[u8], side: usize) -> Reading {
    judge(&Frames::new([rgb.len() / (side * side * 3), side, side], rgb).expect("whole frames"))
}

fn tally(name: &str, side: usize, frames: usize, clips: u64, spoil: impl Fn(Vec<u8>, u64) -> Vec<u8>) -> Tally {
    let size = Size::new(side, frames).expect("a size of the world");
    let mut tally = Tally::default();
    for seed in FIRST..FIRST + clips {
        let clip = Clip::draw(Split::All, seed);
        let reading = read(&spoil(clip.frames(size), seed), side);
        tally.add(&clip.attributes, &reading);
    }
    println!("{name}, {side}x{side}, {frames} frames, {clips} clips\n{tally}");
    tally
}

#[test]
fn clips_of_the_first_size_are_read_right() {
    let tally = tally("clean", 64, 17, 400, |rgb, _| rgb);
    assert!(tally.least() > CLEAR && tally.sound() > CLEAR && tally.first_frame() > CLEAR);
}

#[test]
fn clips_of_the_shipped_size_are_read_right() {
    let tally = tally("clean", 128, 33, 32, |rgb, _| rgb);
    assert!(tally.least() > CLEAR && tally.sound() > CLEAR && tally.first_frame() > CLEAR);
}

#[test]
fn other_sizes_are_read_right() {
    for (side, frames, clips) in [(32, 17, 100), (48, 9, 60), (96, 5, 60), (256, 5, 8)] {
        let tally = tally("clean", side, frames, clips, |rgb, _| rgb);
        assert!(tally.least() > CLEAR && tally.sound() > CLEAR, "{side}");
    }
}

#[test]
fn noise_hides_nothing() {
    let tally = tally("noise of 12 levels", 64, 17, 150, |rgb, seed| spoil::noise(&rgb, 12.0, seed));
    assert!(tally.least() > CLEAR && tally.sound() > CLEAR);
}

#[test]
fn a_blur_of_one_or_two_pixels_leaves_every_shape() {
    for sigma in [1.0, 2.0] {
        let tally = tally(&format!("blur of {sigma} pixels"), 64, 17, 100, |rgb, _| spoil::blur(&rgb, 64, sigma));
        assert!(tally.shape.accuracy_of(Shape::Star.index()) >= BLURRED && tally.least() > BLURRED, "{sigma}");
    }
    // What more blur leaves is shown, not promised.
    for sigma in [3.0, 4.0] {
        tally(&format!("blur of {sigma} pixels"), 64, 17, 40, |rgb, _| spoil::blur(&rgb, 64, sigma));
    }
}

#[test]
fn a_blot_is_no_star() {
    // At half the radius no point is left of a star: a judge that still saw one would see them everywhere.
    let size = Size::new(64, 5).unwrap();
    for seed in 0..6 {
        let star = Attributes { shape: Shape::Star, motion: Motion::Still, ..Split::All.draw(seed) };
        let rgb = spoil::blur(&Clip { attributes: star, seed }.frames(size), 64, 7.0);
        assert_ne!(read(&rgb, 64).look.shape, Ok(Shape::Star));
    }
}

#[test]
fn one_altered_attribute_is_read_as_altered() {
    let size = Size::new(64, 17).unwrap();
    for seed in 0..24 {
        let asked = Split::All.draw(seed);
        let other = |index: usize, count: usize| (index + 1 + seed as usize % (count - 1)) % count;
        let altered = [
            Attributes { shape: Shape::ALL[other(asked.shape.index(), 4)], ..asked },
            Attributes { colour: Colour::ALL[other(asked.colour.index(), 6)], ..asked },
            Attributes { background: Background::ALL[other(asked.background.index(), 4)], ..asked },
            Attributes { motion: Motion::ALL[other(asked.motion.index(), 8)], ..asked },
        ];
        for (which, attributes) in altered.into_iter().enumerate() {
            let score = read(&Clip { attributes, seed }.frames(size), 64).score(&asked);
            let right = [score.shape, score.colour, score.background, score.motion];
            assert!((0..4).all(|at| right[at] == (at != which)), "asked {asked}, shown {attributes}: {score:?}");
            assert!(score.sound && !score.passes() && score.count() == 3);
        }
    }
}

#[test]
fn no_constant_answer_is_worth_much() {
    // What is asked settles it; the readings may be any.
    let size = Size::new(32, 5).unwrap();
    let blank = read(&vec![128; 5 * size.frame_len()], 32);
    let mut tally = Tally::default();
    (FIRST..FIRST + 400).for_each(|seed| tally.add(&Split::All.draw(seed), &blank));
    println!(
        "the best constant answers: {}, mean {:.3}",
        tally.attributes().map(|of| format!("{:.3}", of.constant())).join(" "),
        tally.constant()
    );
    assert!(tally.attributes().iter().all(|of| of.constant() < CONSTANT) && tally.constant() < 0.25);
    assert_eq!((tally.passed(), tally.shape.accuracy(), tally.clips()), (0.0, 0.0, 400));
}

#[test]
fn a_shape_that_turns_into_another_is_none() {
    let size = Size::new(64, 17).unwrap();
    let still = Attributes { shape: Shape::Circle, colour: Colour::Blue, background: Background::White, motion: Motion::Still };
    let mut rgb = Clip { attributes: still, seed: 1 }.frames(size);
    let square = Clip { attributes: Attributes { shape: Shape::Square, ..still }, seed: 1 }.frames(size);
    let half = 8 * size.frame_len();
    rgb[half..].copy_from_slice(&square[half..]);
    assert!(read(&rgb, 64).look.shape.is_err());
}

#[test]
fn a_clip_run_backwards_moves_the_other_way() {
    let size = Size::new(64, 17).unwrap();
    for (seed, motion) in Motion::ALL.into_iter().enumerate() {
        let clip = Clip { attributes: Attributes { motion, ..Split::All.draw(seed as u64) }, seed: seed as u64 };
        let backwards: Vec<u8> = clip.frames(size).chunks_exact(size.frame_len()).rev().flatten().copied().collect();
        let want = match motion {
            Motion::Left => Motion::Right,
            Motion::Right => Motion::Left,
            Motion::Up => Motion::Down,
            Motion::Down => Motion::Up,
            Motion::Grow => Motion::Shrink,
            Motion::Shrink => Motion::Grow,
            Motion::Still | Motion::Orbit => motion,
        };
        assert_eq!(read(&backwards, 64).motion, Ok(want));
    }
}
