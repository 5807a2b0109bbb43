//! Many readings counted: what an evaluation reports.

use std::fmt;

use super::reading::{Answer, Reading};
use crate::attributes::{Attributes, Background, Colour, Motion, Shape};

/// A confusion matrix of one attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    /// The attribute.
    pub attribute: &'static str,
    /// Its values, in the order of their indices.
    pub values: Vec<&'static str>,
    /// `counts[asked][read]`; the last column counts what could not be read.
    pub counts: Vec<Vec<usize>>,
}

impl Confusion {
    fn new(attribute: &'static str, values: Vec<&'static str>) -> Self {
        let counts = vec![vec![0; values.len() + 1]; values.len()];
        Self { attribute, values, counts }
    }

    fn add(&mut self, asked: usize, read: Option<usize>) {
        self.counts[asked][read.unwrap_or(self.values.len())] += 1;
    }

    fn total(&self) -> usize {
        self.counts.iter().flatten().sum()
    }

    /// Share read right; 0 of none.
    pub fn accuracy(&self) -> f64 {
        share((0..self.values.len()).map(|value| self.counts[value][value]).sum(), self.total())
    }

    /// Share of those asked with one value, by its index, that are read right; 0 of none.
    pub fn accuracy_of(&self, value: usize) -> f64 {
        share(self.counts[value][value], self.counts[value].iter().sum())
    }

    /// Share that the best constant answer gets right: an accuracy near it says that nothing was learned.
    pub fn constant(&self) -> f64 {
        share(self.counts.iter().map(|row| row.iter().sum()).max().unwrap_or(0), self.total())
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl fmt::Display for Confusion {
    /// Rows are asked, columns are read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: String = self.values.iter().chain([&"unread"]).map(|value| format!(" {value:>8}")).collect();
        writeln!(f, "{:<10}{columns}   right {:.3}, constant {:.3}", self.attribute, self.accuracy(), self.constant())?;
        for (value, row) in self.values.iter().zip(&self.counts) {
            let row: String = row.iter().map(|count| format!(" {count:>8}")).collect();
            writeln!(f, "{value:>10}{row}")?;
        }
        Ok(())
    }
}

/// Readings of many clips against what was asked of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Shapes.
    pub shape: Confusion,
    /// Colours.
    pub colour: Confusion,
    /// Backgrounds.
    pub background: Confusion,
    /// Motions.
    pub motion: Confusion,
    clips: usize,
    sound: usize,
    first_frame: usize,
    passed: usize,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            shape: Confusion::new("shape", Shape::ALL.map(Shape::name).to_vec()),
            colour: Confusion::new("colour", Colour::ALL.map(Colour::name).to_vec()),
            background: Confusion::new("background", Background::ALL.map(Background::name).to_vec()),
            motion: Confusion::new("motion", Motion::ALL.map(Motion::name).to_vec()),
            clips: 0,
            sound: 0,
            first_frame: 0,
            passed: 0,
        }
    }
}

impl Tally {
    /// Counts one reading.
    pub fn add(&mut self, asked: &Attributes, reading: &Reading) {
        self.count(asked, &reading.answer(asked));
    }

    /// Counts what a reading came down to.
    pub fn count(&mut self, asked: &Attributes, answer: &Answer) {
        self.clips += 1;
        self.sound += usize::from(answer.sound);
        self.first_frame += usize::from(answer.first_frame);
        self.passed += usize::from(answer.passes(asked));
        self.shape.add(asked.shape.index(), answer.shape.map(Shape::index));
        self.colour.add(asked.colour.index(), answer.colour.map(Colour::index));
        self.background.add(asked.background.index(), answer.background.map(Background::index));
        self.motion.add(asked.motion.index(), answer.motion.map(Motion::index));
    }

    /// Clips counted.
    pub fn clips(&self) -> usize {
        self.clips
    }

    /// The four attributes: shape, colour, background, motion.
    pub fn attributes(&self) -> [&Confusion; 4] {
        [&self.shape, &self.colour, &self.background, &self.motion]
    }

    /// Mean accuracy of the four attributes. Never judge by it alone: three learned attributes hide a fourth.
    pub fn mean(&self) -> f64 {
        self.attributes().map(Confusion::accuracy).iter().sum::<f64>() / 4.0
    }

    /// Accuracy of the attribute where it is least.
    pub fn least(&self) -> f64 {
        self.attributes().map(Confusion::accuracy).into_iter().fold(1.0, f64::min)
    }

    /// Mean of what the best constant answers to the four attributes get right.
    pub fn constant(&self) -> f64 {
        self.attributes().map(Confusion::constant).iter().sum::<f64>() / 4.0
    }

    /// Share of clips without a fault.
    pub fn sound(&self) -> f64 {
        share(self.sound, self.clips)
    }

    /// Share of clips whose first frame alone is read right.
    pub fn first_frame(&self) -> f64 {
        share(self.first_frame, self.clips)
    }

    /// Share of clips with all four attributes right and no fault.
    pub fn passed(&self) -> f64 {
        share(self.passed, self.clips)
    }
}

impl fmt::Display for Tally {
    /// The four matrices, then one line on all clips.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attributes().into_iter().try_for_each(|confusion| write!(f, "{confusion}"))?;
        let (passed, sound, first) = (self.passed(), self.sound(), self.first_frame());
        write!(f, "{} clips: passed {passed:.3}, without fault {sound:.3}, first frame {first:.3}", self.clips)
    }
}
