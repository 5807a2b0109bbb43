//! A case of an operation: a shape, a kind of input and a seed. It is all that is needed to run it again.

use std::fmt;

use turbowan_reference::inputs::{self, Seeded};

use crate::Error;

/// One number of an operation's shape, by the name that a case gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Its name.
    pub name: &'static str,
    /// The least that is drawn.
    pub least: usize,
    /// The most that is drawn.
    pub most: usize,
    /// It is a multiple of this.
    pub step: usize,
}

impl Axis {
    /// An axis from `least` to `most`, in multiples of `step` above zero.
    pub const fn new(name: &'static str, least: usize, most: usize, step: usize) -> Self {
        Self { name, least, most, step }
    }

    /// A choice that a number makes, from 0 to `most`.
    pub const fn choice(name: &'static str, most: usize) -> Self {
        Self { name, least: 0, most, step: 1 }
    }

    /// Anything from its range, every third time beside a multiple of 64, where tiles end.
    fn draw(&self, random: &mut Seeded) -> usize {
        let span = |random: &mut Seeded| self.least + random.below(self.most - self.least + 1);
        let drawn = match random.below(3) {
            0 if self.most > 64 => (span(random) / 64 * 64 + random.below(3)).saturating_sub(1),
            // small ones more often than large ones
            1 => span(random).min(span(random)).min(span(random)),
            _ => span(random),
        };
        (drawn / self.step * self.step).clamp(self.least, self.most)
    }
}

/// Character of an input: each has broken a kernel somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Standard normal.
    Plain,
    /// Some channels 20 times larger: what Wan's keys look like.
    OutlierChannel,
    /// Standard normal plus 5.
    Biased,
    /// One value everywhere.
    Constant,
    /// All zero.
    Zero,
    /// Standard normal, but the first 128 columns of the first 128 rows, or what there is of them, are zero.
    ZeroBlock,
    /// Standard normal times 10,000.
    Large,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [Self::Plain, Self::OutlierChannel, Self::Biased, Self::Constant, Self::Zero, Self::ZeroBlock, Self::Large];

    /// As a case names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::OutlierChannel => "outlier-channel",
            Self::Biased => "biased",
            Self::Constant => "constant",
            Self::Zero => "zero",
            Self::ZeroBlock => "zero-block",
            Self::Large => "large",
        }
    }

    /// `rows * width` values of this kind, row-major.
    pub fn values(self, rows: usize, width: usize, seed: u64) -> Vec<f32> {
        let of = |kind| inputs::rows(kind, rows, width, seed);
        match self {
            Self::Plain => of(inputs::Kind::Plain),
            Self::OutlierChannel => of(inputs::Kind::OutlierChannel),
            Self::Biased => of(inputs::Kind::Biased),
            Self::Constant => of(inputs::Kind::Constant),
            Self::Zero => of(inputs::Kind::Zero),
            Self::ZeroBlock => {
                let mut values = of(inputs::Kind::Plain);
                values.chunks_mut(width.max(1)).take(128).for_each(|row| row[..width.min(128)].fill(0.0));
                values
            }
            Self::Large => of(inputs::Kind::Plain).into_iter().map(|value| value * 1e4).collect(),
        }
    }
}

/// A case. Its shape has one number for each axis of its operation, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// One number an axis.
    pub shape: Vec<usize>,
    /// Character of the input.
    pub kind: Kind,
    /// Seed of the input.
    pub seed: u64,
}

impl Case {
    /// A case with seed 1.
    pub fn new(kind: Kind, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), kind, seed: 1 }
    }

    /// Every shape with standard normal values, and the first of `awkward` with every other kind in `kinds`.
    pub fn cross(shapes: &[&[usize]], awkward: &[usize], kinds: &[Kind]) -> Vec<Self> {
        let plain = shapes.iter().map(|shape| Self::new(Kind::Plain, shape));
        plain.chain(kinds.iter().map(|kind| Self::new(*kind, awkward))).collect()
    }

    /// The shape's numbers, as many as the caller takes.
    pub fn sizes<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|axis| self.shape.get(axis).copied().unwrap_or(1))
    }

    /// A case from anywhere in the ranges of `axes`.
    pub fn draw(axes: &[Axis], random: &mut Seeded) -> Self {
        let shape = axes.iter().map(|axis| axis.draw(random)).collect();
        Self { shape, kind: Kind::ALL[random.below(Kind::ALL.len())], seed: random.bits() % 1_000_000 }
    }

    /// As `--case` takes it.
    pub fn text(&self, op: &str, axes: &[Axis]) -> String {
        format!("op={op} {}", Shown { case: self, axes })
    }

    /// Reads `op=NAME shape=AXIS:N,... kind=KIND seed=N`; the operation's axes come from `axes_of`.
    ///
    /// # Errors
    /// What is missing, unknown or no number, and what there is to choose from.
    pub fn parse(text: &str, axes_of: impl Fn(&str) -> Option<&'static [Axis]>) -> Result<(String, Self), Error> {
        let wrong = |reason: String| Error::flag("--case", reason);
        let (mut op, mut shape, mut kind, mut seed) = (None, None, Kind::Plain, 1);
        for part in text.split_whitespace() {
            match part.split_once('=') {
                Some(("op", name)) => op = Some(name),
                Some(("shape", sizes)) => shape = Some(sizes),
                Some(("kind", name)) => {
                    kind = Kind::ALL
                        .into_iter()
                        .find(|kind| kind.name() == name)
                        .ok_or_else(|| wrong(format!("no kind is called {name:?}; there are {}", Kind::ALL.map(Kind::name).join(", "))))?;
                }
                Some(("seed", number)) => seed = number.parse().map_err(|_| wrong(format!("{number:?} is no seed")))?,
                _ => return Err(wrong(format!("{part:?} is not one of op=, shape=, kind=, seed="))),
            }
        }
        let op = op.ok_or_else(|| wrong("op=NAME is missing".to_owned()))?;
        let axes = axes_of(op).ok_or_else(|| wrong(format!("no operation is called {op:?}; `turbowan verify --list` shows them")))?;
        let given = shape.ok_or_else(|| wrong("shape=AXIS:N,... is missing".to_owned()))?;
        let mut sizes = vec![None; axes.len()];
        let names = || axes.iter().map(|axis| axis.name).collect::<Vec<_>>().join(", ");
        for part in given.split(',') {
            let found = part.split_once(':').and_then(|(name, size)| Some((axes.iter().position(|axis| axis.name == name)?, size)));
            let (axis, size) = found.ok_or_else(|| wrong(format!("{part:?} is no axis of {op}; its axes are {}", names())))?;
            let number: usize = size.parse().map_err(|_| wrong(format!("{part:?}: {size:?} is no number")))?;
            if number == 0 && axes[axis].least > 0 {
                return Err(wrong(format!("{part:?}: {} is at least 1", axes[axis].name)));
            }
            sizes[axis] = Some(number);
        }
        let shape = sizes.into_iter().zip(axes).map(|(size, axis)| size.ok_or_else(|| wrong(format!("{op} needs {} too", axis.name))));
        let shape = shape.collect::<Result<_, _>>()?;
        Ok((op.to_owned(), Self { shape, kind, seed }))
    }
}

/// A case beside the names of its axes.
pub struct Shown<'a> {
    /// The case.
    pub case: &'a Case,
    /// Names of its numbers.
    pub axes: &'a [Axis],
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("shape=")?;
        for (index, (axis, size)) in self.axes.iter().zip(&self.case.shape).enumerate() {
            write!(f, "{}{}:{size}", if index == 0 { "" } else { "," }, axis.name)?;
        }
        write!(f, " kind={} seed={}", self.case.kind.name(), self.case.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: &[Axis] = &[Axis::new("rows", 1, 300, 1), Axis::new("width", 128, 640, 128)];

    #[test]
    fn a_case_is_read_as_it_was_written() {
        let mut random = Seeded::new(4);
        for _ in 0..200 {
            let case = Case::draw(AXES, &mut random);
            assert!((1..=300).contains(&case.shape[0]) && case.shape[1].is_multiple_of(128), "{case:?}");
            let text = case.text("quantise", AXES);
            assert_eq!(Case::parse(&text, |op| (op == "quantise").then_some(AXES)).unwrap(), ("quantise".to_owned(), case), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("shape=rows:1,width:128", "op=NAME"),
            ("op=nothing shape=rows:1", "no operation is called"),
            ("op=quantise", "shape="),
            ("op=quantise shape=rows:1", "needs width too"),
            ("op=quantise shape=rows:1,depth:3", "no axis"),
            ("op=quantise shape=rows:x,width:128", "no number"),
            ("op=quantise shape=rows:1,width:128 kind=odd", "outlier-channel"),
            ("op=quantise shape=rows:1,width:128 seed=-1", "no seed"),
            ("op=quantise shape=rows:1,width:128 colour=red", "not one of"),
        ] {
            let error = Case::parse(text, |op| (op == "quantise").then_some(AXES)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_block_of_zeros_leaves_the_rest() {
        let values = Kind::ZeroBlock.values(130, 256, 1);
        assert!(values.chunks(256).take(128).all(|row| row[..128].iter().all(|v| *v == 0.0) && row[128..].iter().any(|v| *v != 0.0)));
        assert!(values[128 * 256..].iter().any(|v| *v != 0.0));
    }
}
