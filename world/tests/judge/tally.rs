//! Readings counted against what was shown.

use std::fmt;

use turbowan_world::{Attributes, Background, Colour, Motion, Reading, Shape};

/// A confusion matrix of one attribute: rows are shown, columns are read, the last column is unreadable.
#[derive(Debug, Clone)]
struct Matrix {
    name: &'static str,
    values: Vec<&'static str>,
    counts: Vec<Vec<usize>>,
}

impl Matrix {
    fn new(name: &'static str, values: Vec<&'static str>) -> Self {
        let counts = vec![vec![0; values.len() + 1]; values.len()];
        Self { name, values, counts }
    }

    fn add(&mut self, shown: usize, read: Option<usize>) {
        self.counts[shown][read.unwrap_or(self.values.len())] += 1;
    }

    fn accuracy(&self) -> f64 {
        let right: usize = (0..self.values.len()).map(|value| self.counts[value][value]).sum();
        right as f64 / self.counts.iter().flatten().sum::<usize>() as f64
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: String = self.values.iter().chain([&"unread"]).map(|value| format!(" {value:>8}")).collect();
        writeln!(f, "  {:<10}{columns}   right {:.3}", self.name, self.accuracy())?;
        for (value, row) in self.values.iter().zip(&self.counts) {
            let row: String = row.iter().map(|count| format!(" {count:>8}")).collect();
            writeln!(f, "  {value:>10}{row}")?;
        }
        Ok(())
    }
}

/// Many readings.
#[derive(Debug, Clone)]
pub struct Tally {
    matrices: [Matrix; 4],
    clips: usize,
    sound: usize,
    first_frame: usize,
}

impl Default for Tally {
    fn default() -> Self {
        let matrices = [
            Matrix::new("shape", Shape::ALL.map(Shape::name).to_vec()),
            Matrix::new("colour", Colour::ALL.map(Colour::name).to_vec()),
            Matrix::new("background", Background::ALL.map(Background::name).to_vec()),
            Matrix::new("motion", Motion::ALL.map(Motion::name).to_vec()),
        ];
        Self { matrices, clips: 0, sound: 0, first_frame: 0 }
    }
}

impl Tally {
    /// Counts one reading.
    pub fn add(&mut self, shown: &Attributes, reading: &Reading) {
        let score = reading.score(shown);
        self.clips += 1;
        self.sound += usize::from(score.sound);
        self.first_frame += usize::from(score.first_frame);
        let [shape, colour, background, motion] = &mut self.matrices;
        shape.add(shown.shape.index(), reading.look.shape.ok().map(Shape::index));
        colour.add(shown.colour.index(), reading.look.colour.ok().map(Colour::index));
        background.add(shown.background.index(), reading.look.background.ok().map(Background::index));
        motion.add(shown.motion.index(), reading.motion.ok().map(Motion::index));
    }

    /// Accuracy on the attribute where it is least.
    pub fn least(&self) -> f64 {
        self.matrices.iter().map(Matrix::accuracy).fold(1.0, f64::min)
    }

    /// Share of clips of a shape whose shape is read right.
    pub fn shape_of(&self, shape: Shape) -> f64 {
        let row = &self.matrices[0].counts[shape.index()];
        row[shape.index()] as f64 / row.iter().sum::<usize>() as f64
    }

    /// Share of clips without a fault.
    pub fn sound(&self) -> f64 {
        self.sound as f64 / self.clips as f64
    }

    /// Share of clips whose first frame alone is read right.
    pub fn first_frame(&self) -> f64 {
        self.first_frame as f64 / self.clips as f64
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matrices.iter().try_for_each(|matrix| write!(f, "{matrix}"))?;
        write!(f, "  sound {:.3}, first frame {:.3}", self.sound(), self.first_frame())
    }
}
