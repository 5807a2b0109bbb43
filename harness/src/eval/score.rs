//! Many measured clips of one row, counted.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use turbowan_world::Tally;
use turbowan_world::judge::Confusion;

use crate::bench::sample::Samples;
use crate::eval::asked::Asked;
use crate::eval::measured::Measured;
use crate::eval::row::Against;
use crate::metrics::likeness::psnr;

/// 97.5% of a normal distribution lie below it.
const NORMAL_95: f64 = 1.959_963_985;

/// A share with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Right ones.
    pub right: usize,
    /// All of them.
    pub of: usize,
}

impl Share {
    /// The share, or nothing of none.
    pub fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.right as f64 / self.of as f64)
    }

    /// Wilson's interval, 95%: where the true share lies.
    pub fn interval(self) -> [f64; 2] {
        if self.of == 0 {
            return [0.0, 1.0];
        }
        let (n, p, z2) = (self.of as f64, self.right as f64 / self.of as f64, NORMAL_95 * NORMAL_95);
        let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let reach = NORMAL_95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        [(centre - reach).max(0.0), (centre + reach).min(1.0)]
    }

    fn json(self) -> Value {
        json!({ "share": self.value(), "right": self.right, "of": self.of, "interval_95": self.interval() })
    }
}

/// What the judge read of many clips.
#[derive(Debug, Clone, Default)]
pub struct Adherence {
    /// The confusions of all attributes.
    pub tally: Tally,
    all_four: usize,
    passed: usize,
    sound: usize,
    first_frame: usize,
}

impl Adherence {
    fn add(&mut self, asked: &Asked, measured: &Measured) {
        // A record is checked when it is read, so a name in it is one that the world has.
        let (Some(attributes), Some(Ok(answer))) = (&asked.attributes, measured.read.as_ref().map(|read| read.answer())) else { return };
        self.tally.count(attributes, &answer);
        let is_right = turbowan_world::Answer { sound: true, ..answer }.passes(attributes);
        self.all_four += usize::from(is_right);
        self.passed += usize::from(is_right && answer.sound);
        self.sound += usize::from(answer.sound);
        self.first_frame += usize::from(answer.first_frame);
    }

    fn share(&self, right: usize) -> Share {
        Share { right, of: self.tally.clips() }
    }

    /// An attribute's share read right: shape, colour, background, motion.
    pub fn attributes(&self) -> [Share; 4] {
        self.tally.attributes().map(|confusion| self.share((0..confusion.values.len()).map(|value| confusion.counts[value][value]).sum()))
    }

    /// All four attributes right, whatever the picture's faults.
    pub fn all_four(&self) -> Share {
        self.share(self.all_four)
    }

    /// All four right, and no fault.
    pub fn passed(&self) -> Share {
        self.share(self.passed)
    }

    /// No fault.
    pub fn sound(&self) -> Share {
        self.share(self.sound)
    }

    /// Frame 0 alone right.
    pub fn first_frame(&self) -> Share {
        self.share(self.first_frame)
    }

    /// Clips read.
    pub fn clips(&self) -> usize {
        self.tally.clips()
    }

    fn json(&self) -> Value {
        let attributes: serde_json::Map<_, _> = self
            .tally
            .attributes()
            .iter()
            .zip(self.attributes())
            .map(|(confusion, share)| (confusion.attribute.to_owned(), share.json()))
            .collect();
        json!({
            "clips": self.clips(),
            "attributes": attributes,
            "mean": (self.clips() > 0).then(|| self.tally.mean()),
            "all_four": self.all_four().json(),
            "no_fault": self.sound().json(),
            "all_four_and_no_fault": self.passed().json(),
            "first_frame": self.first_frame().json(),
        })
    }
}

/// A running mean.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    /// The mean, or nothing of none.
    pub fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Likeness to another row: the PSNR is that of the mean squared difference over all clips, so that one equal clip does not
/// make it infinite.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Alike {
    mse: Mean,
    ssim: Mean,
    ms_ssim: Mean,
    lpips: Mean,
}

impl Alike {
    /// In dB, infinite where all clips are equal; nothing of none.
    pub fn psnr(self) -> Option<f64> {
        self.mse.value().map(psnr)
    }

    /// Mean structural similarity.
    pub fn ssim(self) -> Option<f64> {
        self.ssim.value()
    }

    /// Mean structural similarity over five scales.
    pub fn ms_ssim(self) -> Option<f64> {
        self.ms_ssim.value()
    }

    /// Mean LPIPS.
    pub fn lpips(self) -> Option<f64> {
        self.lpips.value()
    }
}

/// Everything that is said of a row.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    /// Over all captions.
    pub all: Adherence,
    /// Over those whose combination training never sees.
    pub held_out: Adherence,
    /// Measures of the clips alone, in the order of `metrics::NoReference::NAMES`.
    pub alone: [Mean; 6],
    /// Likeness to what the row is compared with.
    pub compared: BTreeMap<Against, Alike>,
    /// Mean squared difference of frame 0 to the picture that was given.
    pub first_frame_mse: Mean,
    /// How long each clip's latent was sampled.
    pub denoising: Samples,
    /// Clips that could not be made.
    pub failed: usize,
}

impl Scores {
    /// Of clips and what was asked for.
    pub fn of<'a>(clips: impl Iterator<Item = (&'a Asked, &'a Measured)>) -> Self {
        let mut scores = Self::default();
        for (asked, clip) in clips {
            scores.all.add(asked, clip);
            if asked.is_held_out() {
                scores.held_out.add(asked, clip);
            }
            scores.alone.iter_mut().zip(clip.alone.values()).for_each(|(mean, value)| mean.add(value));
            scores.first_frame_mse.add(clip.first_frame_mse);
            scores.denoising.0.extend(clip.denoising_seconds);
            scores.failed += usize::from(clip.failed.is_some());
            for compared in &clip.compared {
                let alike = scores.compared.entry(compared.against).or_default();
                alike.mse.add(Some(compared.likeness.mse));
                alike.ssim.add(Some(compared.likeness.ssim));
                alike.ms_ssim.add(compared.likeness.ms_ssim);
                alike.lpips.add(compared.likeness.lpips);
            }
        }
        scores
    }

    /// As a JSON object. A PSNR of equal videos is null with `equal` true.
    pub fn json(&self) -> Value {
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        let [motion, flicker, warp_error, sharpness, colour_drift, clipped] = self.alone.map(Mean::value);
        let compared: serde_json::Map<_, _> = self
            .compared
            .iter()
            .map(|(against, alike)| {
                let value = json!({
                    "psnr_db": finite(alike.psnr()),
                    "ssim": alike.ssim(),
                    "ms_ssim": alike.ms_ssim(),
                    "lpips": alike.lpips(),
                    "equal": alike.mse.value() == Some(0.0),
                });
                (against.name().to_owned(), value)
            })
            .collect();
        json!({
            "adherence": self.all.json(),
            "held_out": self.held_out.json(),
            "shapes": confusion(&self.all.tally.shape),
            "motion_levels": motion,
            "background_flicker_levels": flicker,
            "warp_error_levels": warp_error,
            "sharpness_squared_levels": sharpness,
            "colour_drift_levels": colour_drift,
            "clipped_share": clipped,
            "fidelity": compared,
            "first_frame_psnr_db": finite(self.first_frame_mse.value().map(psnr)),
            "denoising_seconds": self.denoising.summary(),
            "failed": self.failed,
        })
    }
}

fn confusion(of: &Confusion) -> Value {
    json!({ "asked": of.values, "read": of.values.iter().copied().chain(["unread"]).collect::<Vec<_>>(), "counts": of.counts })
}

/// What the best constant answers get right: an accuracy near it says that nothing was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constant {
    /// Shape, colour, background, motion.
    pub attributes: [f64; 4],
    /// One combination for every caption.
    pub all_four: f64,
}

impl Constant {
    /// Of what was asked for; nothing where nothing can be judged.
    pub fn of<'a>(asked: impl Iterator<Item = &'a Asked>) -> Option<Self> {
        let mut tally = Tally::default();
        let mut combinations = BTreeMap::new();
        for attributes in asked.filter_map(|one| one.attributes) {
            tally.count(&attributes, &turbowan_world::Answer::default());
            *combinations.entry(attributes).or_insert(0usize) += 1;
        }
        let most = combinations.values().max()?;
        let attributes = tally.attributes().map(Confusion::constant);
        Some(Self { attributes, all_four: *most as f64 / tally.clips() as f64 })
    }

    /// As a JSON object.
    pub fn json(&self) -> Value {
        let [shape, colour, background, motion] = self.attributes;
        json!({ "shape": shape, "colour": colour, "background": background, "motion": motion, "all_four": self.all_four })
    }
}

#[cfg(test)]
mod tests {
    use turbowan_world::{Background, Colour, Motion, Shape};

    use super::*;
    use crate::eval::measured::{Compared, Read};
    use crate::metrics::likeness::Likeness;

    fn asked(shape: Shape, motion: Motion) -> Asked {
        let attributes = turbowan_world::Attributes { shape, colour: Colour::Red, background: Background::Black, motion };
        Asked { prompt: String::new(), attributes: Some(attributes), clip: None, seed: 0 }
    }

    fn read(shape: &str, motion: &str, faults: usize) -> Measured {
        let read = Read {
            shape: Some(shape.into()),
            colour: Some("red".into()),
            background: Some("black".into()),
            motion: Some(motion.into()),
            faults: vec!["fault".into(); faults],
            first_frame: false,
        };
        Measured { read: Some(read), ..Measured::default() }
    }

    #[test]
    fn intervals_are_wilsons() {
        let [low, high] = Share { right: 45, of: 50 }.interval();
        // p = 0.9, n = 50: (0.9 + 1.9207 / 50 -+ 1.96 sqrt(0.09 / 50 + 3.8415 / 10000)) / (1 + 3.8415 / 50)
        assert!((low - 0.7864).abs() < 1e-4 && (high - 0.9565).abs() < 1e-4, "{low} {high}");
        let [low, high] = Share { right: 20, of: 20 }.interval();
        assert!((low - 0.8389).abs() < 1e-4 && high == 1.0, "{low} {high}");
        assert_eq!(Share { right: 0, of: 0 }.interval(), [0.0, 1.0]);
    }

    #[test]
    fn rows_count_attributes_all_four_and_the_held_out_apart() {
        // The circle that moves left is held out (its sum of indices is 0), the others are not.
        let asked = [asked(Shape::Circle, Motion::Left), asked(Shape::Star, Motion::Up), asked(Shape::Star, Motion::Left)];
        let clips = [read("circle", "left", 0), read("star", "up", 1), read("circle", "left", 0)];
        let scores = Scores::of(asked.iter().zip(&clips));
        let right = |adherence: &Adherence| adherence.attributes().map(|share| share.right);
        assert_eq!((right(&scores.all), scores.all.all_four().right, scores.all.passed().right), ([2, 3, 3, 3], 2, 1));
        assert_eq!((scores.held_out.clips(), right(&scores.held_out)), (1, [1, 1, 1, 1]));
        assert_eq!(scores.all.tally.shape.counts[3], [1, 0, 0, 1, 0]);
        let constant = Constant::of(asked.iter()).unwrap();
        assert_eq!((constant.attributes, constant.all_four), ([2.0 / 3.0, 1.0, 1.0, 2.0 / 3.0], 1.0 / 3.0));
        assert_eq!(Constant::of([].iter()), None);
    }

    #[test]
    fn one_equal_clip_does_not_make_all_equal() {
        let compared = |mse: f64| Measured {
            compared: vec![Compared { against: Against::Dense, likeness: Likeness { mse, ssim: 1.0, ms_ssim: None, lpips: None } }],
            ..Measured::default()
        };
        let one = asked(Shape::Star, Motion::Up);
        let of = |clips: &[Measured]| Scores::of(clips.iter().map(|clip| (&one, clip))).compared[&Against::Dense].psnr().unwrap();
        assert!((of(&[compared(0.0), compared(200.0)]) - psnr(100.0)).abs() < 1e-12);
        assert!(of(&[compared(0.0)]).is_infinite());
    }

    #[test]
    fn a_clip_that_could_not_be_made_is_wrong_in_everything() {
        let scores = Scores::of([(&asked(Shape::Star, Motion::Up), &Measured::failed("not finite".into(), true))].into_iter());
        assert_eq!((scores.failed, scores.all.clips(), scores.all.all_four().right, scores.all.sound().right), (1, 1, 0, 0));
    }
}
