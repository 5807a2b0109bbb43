//! The rows of an evaluation: real clips, their reconstructions, and videos made in one configuration each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::request::{AttentionChoice, Precision};

/// Most few-step steps, and most guided ones.
const MOST_STEPS: [usize; 2] = [4, 1000];

/// Whose transformer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Net {
    /// The model that is evaluated.
    Model,
    /// The undistilled one beside it.
    Teacher,
}

/// How a video is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steps {
    /// Few steps without guidance.
    Few(usize),
    /// Euler steps with guidance.
    Guided(usize),
}

/// How the videos of a row are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Whose transformer runs.
    pub net: Net,
    /// How it is sampled.
    pub steps: Steps,
    /// How it attends to itself.
    pub attention: AttentionChoice,
    /// Arithmetic.
    pub precision: Precision,
    /// int8 linears.
    pub quant_linear: bool,
    /// Noise level of the first step, where rows differ in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sigma_max: Option<f64>,
    /// Few steps without new noise between them, where rows differ in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ode: Option<bool>,
}

impl Configuration {
    /// Dense attention in f32: what the approximations of the same network stand for.
    pub fn dense(self) -> Self {
        Self { attention: AttentionChoice::Original, precision: Precision::F32, quant_linear: false, ..self }
    }

    /// How it is sampled, in words.
    pub fn sampling(&self) -> String {
        let (kind, steps) = match self.steps {
            Steps::Few(steps) => ("", steps),
            Steps::Guided(steps) => ("guided ", steps),
        };
        let sigma_max = self.sigma_max.map_or(String::new(), |sigma_max| format!(", sigma {sigma_max}"));
        let sampler = self.ode.map_or("", |ode| if ode { ", ode" } else { ", sde" });
        format!("{steps} {kind}{}{sigma_max}{sampler}", if steps == 1 { "step" } else { "steps" })
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.net, self.steps) {
            (Net::Model, _) => "",
            (Net::Teacher, Steps::Few(_)) => "undistilled, ",
            (Net::Teacher, Steps::Guided(_)) => "teacher, ",
        })?;
        let arithmetic = Arithmetic { precision: self.precision, quant_linear: self.quant_linear };
        write!(f, "{}, {}, {arithmetic}", self.sampling(), self.attention.name())
    }
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// The clips that the captions describe: the judge's own accuracy, and what the measures say of the truth.
    Real,
    /// Real clips through the autoencoder and back.
    Reconstructed(Precision),
    /// Videos of one configuration.
    Made(Configuration),
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real => f.write_str("real clips"),
            Self::Reconstructed(precision) => write!(f, "reconstructions, {}", precision.name()),
            Self::Made(configuration) => configuration.fmt(f),
        }
    }
}

/// What a row is compared with, clip by clip, under the same noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The clips that were reconstructed.
    Real,
    /// The dense teacher's videos.
    Teacher,
    /// The videos of the same steps with dense attention in f32.
    Dense,
}

impl Against {
    /// As a column is headed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Teacher => "teacher",
            Self::Dense => "dense f32",
        }
    }
}

/// The rows that row `index` is compared with.
pub fn references(rows: &[Row], index: usize) -> Vec<(Against, usize)> {
    let at = |wanted: &dyn Fn(&Row) -> bool| rows.iter().position(wanted).filter(|found| *found != index);
    let found = match rows[index] {
        Row::Real => vec![],
        Row::Reconstructed(_) => vec![(Against::Real, at(&|row| *row == Row::Real))],
        Row::Made(own) => {
            let is_teacher =
                |row: &Row| matches!(row, Row::Made(c) if c.net == Net::Teacher && matches!(c.steps, Steps::Guided(_)) && *c == c.dense());
            // weights that are int8 in their file have no float row
            let dense = [false, true].map(|quant_linear| Row::Made(Configuration { quant_linear, ..own.dense() }));
            let dense = dense.iter().find_map(|dense| rows.iter().position(|row| row == dense)).filter(|found| *found != index);
            vec![(Against::Teacher, at(&is_teacher)), (Against::Dense, dense)]
        }
    };
    found.into_iter().filter_map(|(against, row)| Some((against, row?))).collect()
}

/// A word of `--steps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepsWord {
    /// The model itself.
    Own(Steps),
    /// The dense teacher, with guidance.
    Teacher(usize),
}

/// Reads `--steps`: `4`, `guided:50` or `teacher:50`, with commas between them.
///
/// # Errors
/// A word that is none of these.
pub fn steps(list: &str) -> Result<Vec<StepsWord>, Error> {
    words(list)
        .map(|word| {
            let number = |text: &str, most: usize| match text.parse::<usize>() {
                Ok(steps) if (1..=most).contains(&steps) => Ok(steps),
                _ => Err(Error::flag(
                    "--steps",
                    format!("{word:?} is neither 1 to 4, nor guided:N or teacher:N with N from 1 to {}", MOST_STEPS[1]),
                )),
            };
            match word.split_once(':') {
                None => Ok(StepsWord::Own(Steps::Few(number(word, MOST_STEPS[0])?))),
                Some(("guided", count)) => Ok(StepsWord::Own(Steps::Guided(number(count, MOST_STEPS[1])?))),
                Some(("teacher", count)) => Ok(StepsWord::Teacher(number(count, MOST_STEPS[1])?)),
                Some(_) => number("", 0).map(StepsWord::Teacher),
            }
        })
        .collect()
}

/// Reads `--attention`: `original`, `sage`, `sla` or `sagesla`, the last two also with their share, as `sla:0.3`; without it they
/// keep `topk`.
///
/// # Errors
/// A word that is none of these, or a share outside (0, 1].
pub fn attention(list: &str, topk: f64) -> Result<Vec<AttentionChoice>, Error> {
    words(list)
        .map(|word| {
            let (name, share) = word.split_once(':').map_or((word, None), |(name, share)| (name, Some(share)));
            let topk = match share.map(str::parse::<f64>) {
                None => Some(topk),
                Some(share) => share.ok().filter(|share| *share > 0.0 && *share <= 1.0),
            };
            match (name, topk) {
                ("original", Some(_)) if share.is_none() => Ok(AttentionChoice::Original),
                ("sage", Some(_)) if share.is_none() => Ok(AttentionChoice::Sage),
                ("sla", Some(topk)) => Ok(AttentionChoice::Sla(topk)),
                ("sagesla", Some(topk)) => Ok(AttentionChoice::SageSla(topk)),
                _ => Err(Error::flag(
                    "--attention",
                    format!("{word:?} is none of original, sage, sla:SHARE, sagesla:SHARE with a share in (0, 1]"),
                )),
            }
        })
        .collect()
}

/// The numbers of a row: activations, and whether linears are int8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// Activations.
    pub precision: Precision,
    /// int8 linears.
    pub quant_linear: bool,
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.precision.name(), if self.quant_linear { "+w8a8" } else { "" })
    }
}

/// Reads `--precision`: `bf16` or `f32`, each also with `+w8a8` for int8 linears.
///
/// # Errors
/// A word that is none of these.
pub fn arithmetic(list: &str) -> Result<Vec<Arithmetic>, Error> {
    words(list)
        .map(|word| {
            let (name, quant_linear) = word.strip_suffix("+w8a8").map_or((word, false), |name| (name, true));
            let precision = match name {
                "bf16" => Precision::Bf16,
                "f32" => Precision::F32,
                _ => return Err(Error::flag("--precision", format!("{word:?} is none of bf16, f32, bf16+w8a8, f32+w8a8"))),
            };
            Ok(Arithmetic { precision, quant_linear })
        })
        .collect()
}

/// The words of a list.
pub fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// What rows are made of: the first of each list is the base.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Steps.
    pub steps: Vec<StepsWord>,
    /// Ways of self-attention.
    pub attention: Vec<AttentionChoice>,
    /// Arithmetics.
    pub arithmetic: Vec<Arithmetic>,
    /// Every way of attention with every arithmetic at every number of steps, instead of one change at a time.
    pub cross: bool,
    /// Whether there is an undistilled transformer: it is the control of every few-step row.
    pub has_teacher: bool,
}

impl Choices {
    /// The rows, each once: teachers first, then the model's, its controls beside them, then what changes, and the dense
    /// f32 row that all of that stands for.
    pub fn rows(&self) -> Vec<Row> {
        let own: Vec<Steps> =
            self.steps.iter().filter_map(|word| if let StepsWord::Own(steps) = word { Some(*steps) } else { None }).collect();
        let (attention, arithmetic) = (self.attention[0], self.arithmetic[0]);
        let made = |net, steps, attention, Arithmetic { precision, quant_linear }| {
            Row::Made(Configuration { net, steps, attention, precision, quant_linear, sigma_max: None, ode: None })
        };
        let exact = Arithmetic { precision: Precision::F32, quant_linear: false };
        let mut rows = Vec::new();
        for word in &self.steps {
            if let StepsWord::Teacher(steps) = word {
                rows.push(made(Net::Teacher, Steps::Guided(*steps), AttentionChoice::Original, exact));
            }
        }
        for steps in &own {
            rows.push(made(Net::Model, *steps, attention, arithmetic));
            if self.has_teacher && matches!(steps, Steps::Few(_)) {
                rows.push(made(Net::Teacher, *steps, AttentionChoice::Original, Arithmetic { quant_linear: false, ..arithmetic }));
            }
        }
        if self.cross {
            for steps in &own {
                for attention in &self.attention {
                    rows.extend(self.arithmetic.iter().map(|arithmetic| made(Net::Model, *steps, *attention, *arithmetic)));
                }
            }
        } else if let Some(steps) = own.first() {
            if self.attention.len() + self.arithmetic.len() > 2 {
                rows.push(made(Net::Model, *steps, AttentionChoice::Original, exact));
            }
            rows.extend(self.attention.iter().map(|attention| made(Net::Model, *steps, *attention, arithmetic)));
            rows.extend(self.arithmetic.iter().map(|arithmetic| made(Net::Model, *steps, attention, *arithmetic)));
        }
        unique(rows)
    }
}

/// Each row once, in the order in which they come.
pub fn unique(rows: Vec<Row>) -> Vec<Row> {
    let mut unique: Vec<Row> = Vec::new();
    rows.into_iter().for_each(|row| {
        if !unique.contains(&row) {
            unique.push(row)
        }
    });
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(steps_list: &str, attention_list: &str, precision_list: &str) -> Choices {
        let (steps, attention, arithmetic) =
            (steps(steps_list).unwrap(), attention(attention_list, 0.1).unwrap(), arithmetic(precision_list).unwrap());
        Choices { steps, attention, arithmetic, cross: false, has_teacher: true }
    }

    fn names(rows: &[Row]) -> Vec<String> {
        rows.iter().map(Row::to_string).collect()
    }

    #[test]
    fn one_thing_changes_at_a_time_and_controls_stand_beside_students() {
        let rows = choices("teacher:50,4,1", "sagesla,original,sla:0.3", "bf16,f32+w8a8").rows();
        let want = [
            "teacher, 50 guided steps, original, f32",
            "4 steps, sagesla 0.1, bf16",
            "undistilled, 4 steps, original, bf16",
            "1 step, sagesla 0.1, bf16",
            "undistilled, 1 step, original, bf16",
            "4 steps, original, f32",
            "4 steps, original, bf16",
            "4 steps, sla 0.3, bf16",
            "4 steps, sagesla 0.1, f32+w8a8",
        ];
        assert_eq!(names(&rows), want);
        let crossed = Choices { cross: true, has_teacher: false, ..choices("4,2", "original,sage", "bf16,f32") }.rows();
        assert_eq!(crossed.len(), 8);
    }

    #[test]
    fn rows_are_compared_with_the_teacher_and_with_what_they_stand_for() {
        let rows = choices("teacher:9,guided:7,4", "original", "f32,bf16").rows();
        assert_eq!(names(&rows)[1], "7 guided steps, original, f32");
        let of = |name: &str| references(&rows, names(&rows).iter().position(|known| known == name).unwrap());
        assert_eq!(of("7 guided steps, original, f32"), [(Against::Teacher, 0)]);
        assert_eq!(of("7 guided steps, original, bf16"), [(Against::Teacher, 0), (Against::Dense, 1)]);
        assert_eq!(of("teacher, 9 guided steps, original, f32"), []);
        let rows = [Row::Real, Row::Reconstructed(Precision::Bf16)];
        assert_eq!((references(&rows, 0), references(&rows, 1)), (vec![], vec![(Against::Real, 0)]));
    }

    #[test]
    fn words_that_cannot_be_are_refused_with_those_that_can() {
        for list in ["5", "0", "teacher", "euler:3", "guided:1001", "4,,2"] {
            assert!(steps(list).unwrap_err().to_string().contains("guided:N"), "{list}");
        }
        for list in ["dense", "sla:0", "sla:1.5", "sage:0.5", "sla:x"] {
            assert!(attention(list, 0.1).unwrap_err().to_string().contains("SHARE"), "{list}");
        }
        assert!(arithmetic("f16").is_err() && arithmetic("w8a8").is_err());
    }
}
