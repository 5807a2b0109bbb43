//! Queries and keys as INT8 with one scale a group of rows, in the official `f32` arithmetic.

use turbowan_cuda::host::Isa;
use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::host::vectorised::{self, Vectorised};
use turbowan_cuda::{AttnShape, Element, Error as OperandError, Rounding};

use crate::{Error, Groups, Rule, Sage, Smoothing};

/// INT8 queries or keys of every head, in `[batch * heads, len, head_dim]` order whatever the operand's layout was.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    /// INT8 rows, `[problems, len, head_dim]`.
    pub values: Vec<i8>,
    /// Scales, `[problems, groups.count(len)]`; groups of padding alone have the scale of zeros.
    pub scales: Vec<f32>,
    /// Which group a row belongs to.
    pub groups: Groups,
    /// Rows a head.
    pub len: usize,
}

impl Quantised {
    /// Scale of `row` of head `problem`.
    pub fn scale(&self, problem: usize, row: usize) -> f32 {
        self.scales[problem * self.groups.count(self.len) + self.groups.of(row)]
    }
}

/// Quantises the queries as `sage` says. They are never smoothed.
///
/// # Errors
/// When the operand does not fit `shape`, or a setting cannot be walked.
pub fn quantise_queries<T: Element>(q: &[T], shape: &AttnShape, sage: &Sage) -> Result<Quantised, Error> {
    sage.check()?;
    OperandError::expect_len("queries", q, shape.query_values())?;
    Ok(each_head(shape.problems(), shape.query_len, shape.head_dim, sage.granularity.query_groups(), |problem| {
        let rows = read_head(q, shape, shape.query_offset(problem, 0), shape.query_len, sage.operands);
        quantise_rows(sage.isa, &rows, shape.head_dim, query_factor(sage, shape.head_dim), sage.granularity.query_groups(), sage.rule)
    }))
}

/// Quantises the keys as `sage` says, after subtracting the mean key; `means` (`[problems, head_dim]`) replaces the
/// mean that [`mean_keys`] would find.
///
/// # Errors
/// When an operand does not fit `shape`, or a setting cannot be walked.
pub fn quantise_keys<T: Element>(k: &[T], means: Option<&[f32]>, shape: &AttnShape, sage: &Sage) -> Result<Quantised, Error> {
    sage.check()?;
    OperandError::expect_len("keys", k, shape.key_values())?;
    if let Some(means) = means {
        OperandError::expect_len("mean keys", means, shape.problems() * shape.head_dim)?;
    }
    let width = shape.head_dim;
    Ok(each_head(shape.problems(), shape.key_len, width, sage.granularity.key_groups(), |problem| {
        let mut rows = read_head(k, shape, shape.key_offset(problem, 0), shape.key_len, sage.operands);
        if sage.smoothing != Smoothing::None {
            let mean = match means {
                Some(means) => means[problem * width..][..width].to_vec(),
                None => mean_row::<T>(sage.isa, &rows, width, sage.operands),
            };
            smooth::<T>(sage, &mut rows, &mean);
        }
        quantise_rows(sage.isa, &rows, width, 1.0, sage.granularity.key_groups(), sage.rule)
    }))
}

/// The mean key of every head, `[problems, head_dim]`, rounded to the keys' format.
///
/// # Errors
/// When the operand does not fit `shape`.
pub fn mean_keys<T: Element>(k: &[T], shape: &AttnShape, sage: &Sage) -> Result<Vec<f32>, Error> {
    OperandError::expect_len("keys", k, shape.key_values())?;
    let mut means = vec![0.0; shape.problems() * shape.head_dim];
    let shared = Shared::new(&mut means);
    for_each_task(shape.problems(), |problem| {
        let rows = read_head(k, shape, shape.key_offset(problem, 0), shape.key_len, sage.operands);
        let mean = mean_row::<T>(sage.isa, &rows, shape.head_dim, sage.operands);
        // SAFETY: every problem has its own row.
        unsafe { shared.part(problem * shape.head_dim, shape.head_dim) }.copy_from_slice(&mean);
    });
    Ok(means)
}

/// INT8 rows and scales of one head.
pub(crate) struct Int8Rows {
    /// `[len, width]`.
    pub values: Vec<i8>,
    /// `[groups.count(len)]`; not a number where the group holds a value that is not finite.
    pub scales: Vec<f32>,
}

fn each_head(problems: usize, len: usize, width: usize, groups: Groups, head: impl Fn(usize) -> Int8Rows + Sync) -> Quantised {
    let count = groups.count(len);
    let (mut values, mut scales) = (vec![0; problems * len * width], vec![0.0; problems * count]);
    let (shared_values, shared_scales) = (Shared::new(&mut values), Shared::new(&mut scales));
    for_each_task(problems, |problem| {
        let rows = head(problem);
        // SAFETY: every problem has its own rows and its own scales.
        unsafe {
            shared_values.part(problem * len * width, len * width).copy_from_slice(&rows.values);
            shared_scales.part(problem * count, count).copy_from_slice(&rows.scales);
        }
    });
    Quantised { values, scales, groups, len }
}

/// What multiplies the queries before they are quantised.
pub(crate) fn query_factor(sage: &Sage, head_dim: usize) -> f32 {
    if sage.folds_scale { base_2_scale(head_dim) } else { 1.0 }
}

/// `log2(e) / sqrt(head_dim)`: makes scores base-2 logarithms.
pub(crate) fn base_2_scale(head_dim: usize) -> f32 {
    (1.0 / (head_dim as f64).sqrt() * std::f64::consts::LOG2_E) as f32
}

/// `len` rows of one head, contiguous, as `f32` after the operands' rounding; the first starts at `start`.
pub(crate) fn read_head<T: Element>(from: &[T], shape: &AttnShape, start: usize, len: usize, rounding: Rounding) -> Vec<f32> {
    let (width, stride) = (shape.head_dim, shape.row_stride());
    let mut rows = vec![0.0; len * width];
    for (index, row) in rows.chunks_exact_mut(width).enumerate() {
        T::widen_row(&from[start + index * stride..][..width], row);
    }
    rounding.apply_row(&mut rows);
    rows
}

/// Mean row, rounded to the format of `T` and by `rounding`.
pub(crate) fn mean_row<T: Element>(isa: Isa, rows: &[f32], width: usize, rounding: Rounding) -> Vec<f32> {
    let mut sums = vec![0f64; width];
    vectorised::run(isa, AddRows { rows, sums: &mut sums });
    let len = (rows.len() / width) as f64;
    sums.iter().map(|sum| stored::<T>((sum / len) as f32, rounding)).collect()
}

/// Subtracts the mean row, in the arithmetic of `sage`'s smoothing.
pub(crate) fn smooth<T: Element>(sage: &Sage, rows: &mut [f32], mean: &[f32]) {
    for row in rows.chunks_exact_mut(mean.len()) {
        match sage.smoothing {
            Smoothing::None => {}
            Smoothing::MeanStored => row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean),
            Smoothing::Stored => row.iter_mut().zip(mean).for_each(|(value, mean)| *value = T::narrow(*value - mean).widen()),
        }
    }
    if sage.smoothing == Smoothing::Stored {
        sage.operands.apply_row(rows);
    }
}

fn stored<T: Element>(value: f32, rounding: Rounding) -> f32 {
    T::narrow(rounding.apply(value)).widen()
}

/// Quantises one head's rows times `factor`.
pub(crate) fn quantise_rows(isa: Isa, rows: &[f32], width: usize, factor: f32, groups: Groups, rule: Rule) -> Int8Rows {
    let len = rows.len() / width;
    let mut highest = vec![0u32; groups.count(len)];
    vectorised::run(isa, HighestBits { rows, width, factor, groups, highest: &mut highest });
    let highest: Vec<f32> = highest.iter().map(|bits| f32::from_bits(*bits)).collect();
    let mut values = vec![0; rows.len()];
    vectorised::run(isa, RoundRows { rows, width, factor, groups, rule, highest: &highest, values: &mut values });
    let scales = highest.iter().map(|amax| if amax.is_finite() { rule.scale(*amax) } else { f32::NAN }).collect();
    Int8Rows { values, scales }
}

impl Rule {
    /// Scale of a group whose largest magnitude is `amax`.
    pub(crate) fn scale(self, amax: f32) -> f32 {
        match self {
            Self::HalfAway => amax / 127.0,
            Self::HalfAwayEpsilon => amax / 127.0 + 1e-7,
            Self::HalfEven => amax.max(1e-7) / 127.0,
        }
    }
}

struct AddRows<'a> {
    rows: &'a [f32],
    sums: &'a mut [f64],
}

impl Vectorised for AddRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for row in self.rows.chunks_exact(self.sums.len()) {
            for (sum, value) in self.sums.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
    }
}

/// Largest magnitude of each group, compared as bits: an infinity or what is not a number then beats every number.
struct HighestBits<'a> {
    rows: &'a [f32],
    width: usize,
    factor: f32,
    groups: Groups,
    highest: &'a mut [u32],
}

impl Vectorised for HighestBits<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (index, row) in self.rows.chunks_exact(self.width).enumerate() {
            let highest = row.iter().fold(0, |highest, value| highest.max((value * self.factor).to_bits() & 0x7FFF_FFFF));
            let group = &mut self.highest[self.groups.of(index)];
            *group = (*group).max(highest);
        }
    }
}

struct RoundRows<'a> {
    rows: &'a [f32],
    width: usize,
    factor: f32,
    groups: Groups,
    rule: Rule,
    highest: &'a [f32],
    values: &'a mut [i8],
}

impl Vectorised for RoundRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let rows = self.rows.chunks_exact(self.width).zip(self.values.chunks_exact_mut(self.width));
        for (index, (row, values)) in rows.enumerate() {
            let amax = self.highest[self.groups.of(index)];
            let scale = self.rule.scale(amax);
            let pairs = row.iter().zip(values);
            if !amax.is_finite() || scale == 0.0 {
                // Zeros, or a group that the kernels answer with "not a number".
                continue;
            }
            match self.rule {
                Rule::HalfEven => {
                    let steps = 127.0 * (1.0 / amax.max(1e-7));
                    pairs.for_each(|(from, to)| *to = (from * self.factor * steps).round_ties_even() as i32 as i8);
                }
                Rule::HalfAway | Rule::HalfAwayEpsilon => pairs.for_each(|(from, to)| {
                    let steps = from * self.factor / scale;
                    *to = (steps + if steps >= 0.0 { 0.5 } else { -0.5 }) as i32 as i8;
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::inputs::{Kind, rows};
    use turbowan_reference::sage as oracle;

    fn oracle_rule(rule: Rule) -> oracle::Rule {
        match rule {
            Rule::HalfAway => oracle::Rule::HalfAway,
            Rule::HalfAwayEpsilon => oracle::Rule::HalfAwayEpsilon,
            Rule::HalfEven => oracle::Rule::HalfEven,
        }
    }

    #[test]
    fn every_rule_gives_the_oracle_s_integers_on_every_instruction_set() {
        let grouping = crate::Granularity::PerThread(crate::Tile::SM80);
        for kind in Kind::ALL {
            for len in [1, 8, 67, 130] {
                let values = rows(kind, len, 72, 5);
                let groups = grouping.key_groups();
                let group: Vec<usize> = (0..len).map(|row| groups.of(row)).collect();
                for rule in [Rule::HalfAway, Rule::HalfAwayEpsilon, Rule::HalfEven] {
                    let (want, scales) = oracle::quantise(&values, 72, 0.13, &group, groups.count(len), oracle_rule(rule));
                    for isa in Isa::available() {
                        let got = quantise_rows(isa, &values, 72, 0.13, groups, rule);
                        assert_eq!((got.values, got.scales), (want.clone(), scales.clone()), "{kind:?} {len} {rule:?} {isa:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_marks_its_group() {
        let groups = crate::Granularity::PerBlock(crate::Tile::SM80).key_groups();
        let mut values = rows(Kind::Plain, 70, 64, 5);
        values[64 * 66] = f32::INFINITY;
        let got = quantise_rows(Isa::detect(), &values, 64, 1.0, groups, Rule::HalfAway);
        assert!(got.scales[0].is_finite() && got.scales[1].is_nan());
    }
}
