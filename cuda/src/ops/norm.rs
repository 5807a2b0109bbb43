//! Norms over the channels of a row, fused with what follows them.
//!
//! ```text
//! layer norm     y = round((x - mean) / sqrt(var + eps)),  z = round(y * (1 + scale) + shift)   or   round(y w + b)
//! RMS norm       y = x / sqrt(mean_c(x^2) + eps) * w
//! channel norm   y = x / max(|x|_2, 1e-12) * sqrt(C) * gamma, then SiLU
//! ```
//!
//! Rows are `f32`, `width` channels each. A row's sums run in sixteen fixed lanes, so a result depends neither on the
//! number of threads nor on the instruction set.

pub mod channel;
pub mod channel_gradient;
pub mod device;
pub mod gradient;

use rayon::prelude::*;

use crate::host::vectorised::{self, Vectorised};
use crate::host::{Isa, math};
use crate::{Error, Rounding};

/// Values of a unit of parallel work: large enough to be worth handing out, small enough to balance.
const CHUNK: usize = 1 << 15;
/// Partial sums of a row.
const LANES: usize = 16;

/// Which variance layer norm divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerNormRule {
    /// The mean squared distance from the mean.
    #[default]
    Standard,
    /// The official fast kernel's: the zero columns that pad a row to a power of two count too,
    /// `(sum (x - mean)^2 + (next_pow2(width) - width) * mean^2) / width`.
    Padded,
}

/// Where RMS norm rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RmsRule {
    /// Before the weight, and after it (`WanRMSNorm`).
    #[default]
    Standard,
    /// Once, at the end (`FastRMSNorm`).
    Fast,
}

/// A layer norm over rows of `width` channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// Channels of a row.
    pub width: usize,
    /// Which variance.
    pub rule: LayerNormRule,
    /// Added to the variance.
    pub eps: f32,
    /// Rounding of the normed row, before any modulation: the number format of the residual stream.
    pub rounding: Rounding,
}

/// Shift and scale of each group of rows, tables of `[groups, width]`; row `r` belongs to group `r / rows_per_group`.
#[derive(Debug, Clone, Copy)]
pub struct Modulation<'a> {
    /// Added last.
    pub shift: &'a [f32],
    /// The row is multiplied by one more than this.
    pub scale: &'a [f32],
    /// Rows that share a group.
    pub rows_per_group: usize,
}

/// An RMS norm over rows of `width` channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNorm {
    /// Channels of a row.
    pub width: usize,
    /// Where it rounds.
    pub rule: RmsRule,
    /// Added to the mean square.
    pub eps: f32,
    /// How it rounds.
    pub rounding: Rounding,
}

/// What follows a channel norm in the same pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelNormThen {
    /// Nothing.
    Nothing,
    /// `y / (1 + exp(-y))`.
    Silu,
}

/// `out = round(LN(x) * (1 + scale) + shift)`; `norm.rounding` is that of `LN(x)`, `rounding` that of the result.
///
/// # Errors
/// When a slice does not fit `norm.width` or the number of rows.
pub fn layer_norm_modulate(
    norm: &LayerNorm,
    x: &[f32],
    modulation: Modulation<'_>,
    rounding: Rounding,
    out: &mut [f32],
) -> Result<(), Error> {
    let rows = rows_of("layer norm input", x, norm.width)?;
    Error::expect_len("layer norm output", out, x.len())?;
    if modulation.rows_per_group == 0 {
        return Err(Error::Size { what: "rows of a modulation group", must: "at least 1", found: 0 });
    }
    let values = rows.div_ceil(modulation.rows_per_group) * norm.width;
    Error::expect_len("modulation shift", modulation.shift, values)?;
    Error::expect_len("modulation scale", modulation.scale, values)?;
    layer_norm_rows(norm, x, out, Affine::Modulate(modulation), rounding);
    Ok(())
}

/// `out = round(LN(x) * weight + bias)`, rounded once, as `norm.rounding`.
///
/// # Errors
/// When a slice does not fit `norm.width`.
pub fn layer_norm_affine(norm: &LayerNorm, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) -> Result<(), Error> {
    rows_of("layer norm input", x, norm.width)?;
    Error::expect_len("layer norm output", out, x.len())?;
    Error::expect_len("layer norm weight", weight, norm.width)?;
    Error::expect_len("layer norm bias", bias, norm.width)?;
    layer_norm_rows(norm, x, out, Affine::Weight { weight, bias }, norm.rounding);
    Ok(())
}

/// `x = RMS(x) * weight`, in place.
///
/// # Errors
/// When a slice does not fit `norm.width`.
pub fn rms_norm(norm: &RmsNorm, x: &mut [f32], weight: &[f32]) -> Result<(), Error> {
    rows_of("RMS norm input", x, norm.width)?;
    Error::expect_len("RMS norm weight", weight, norm.width)?;
    let (isa, norm) = (Isa::detect(), *norm);
    x.par_chunks_mut(chunk(norm.width)).for_each(|x| vectorised::run(isa, RmsRows { norm, x, weight }));
    Ok(())
}

/// `out = then(x / max(|x|, 1e-12) * sqrt(width) * gamma)`; under [`Rounding::Bf16`] every step rounds, as separate
/// operations on bf16 tensors do.
///
/// # Errors
/// When a slice does not fit `width`.
pub fn channel_norm(
    x: &[f32],
    width: usize,
    gamma: &[f32],
    then: ChannelNormThen,
    rounding: Rounding,
    out: &mut [f32],
) -> Result<(), Error> {
    rows_of("channel norm input", x, width)?;
    Error::expect_len("channel norm output", out, x.len())?;
    Error::expect_len("channel norm gamma", gamma, width)?;
    let isa = Isa::detect();
    let chunk = chunk(width);
    out.par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .for_each(|(out, x)| vectorised::run(isa, ChannelRows { x, out, width, gamma, then, rounding }));
    Ok(())
}

fn rows_of(what: &'static str, x: &[f32], width: usize) -> Result<usize, Error> {
    if width == 0 {
        return Err(Error::Size { what: "width of a normed row", must: "at least 1", found: 0 });
    }
    Error::expect_len(what, x, x.len() / width * width)?;
    Ok(x.len() / width)
}

/// Values of a unit of work: whole rows.
fn chunk(width: usize) -> usize {
    (CHUNK / width).max(1) * width
}

#[derive(Clone, Copy)]
enum Affine<'a> {
    Modulate(Modulation<'a>),
    Weight { weight: &'a [f32], bias: &'a [f32] },
}

fn layer_norm_rows(norm: &LayerNorm, x: &[f32], out: &mut [f32], affine: Affine<'_>, rounding: Rounding) {
    let (isa, norm, chunk) = (Isa::detect(), *norm, chunk(norm.width));
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).enumerate().for_each(|(index, (out, x))| {
        let first = index * (chunk / norm.width);
        vectorised::run(isa, LayerNormRows { norm, x, out, affine, rounding, first });
    });
}

/// Adds up `term` over a row in fixed lanes.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += term(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += term(*value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

struct LayerNormRows<'a> {
    norm: LayerNorm,
    x: &'a [f32],
    out: &'a mut [f32],
    affine: Affine<'a>,
    rounding: Rounding,
    /// Index of the first row, for its group.
    first: usize,
}

impl Vectorised for LayerNormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { norm: LayerNorm { width, rule, eps, rounding: normed }, x, out, affine, rounding, first } = self;
        let padding = match rule {
            LayerNormRule::Standard => 0.0,
            LayerNormRule::Padded => (width.next_power_of_two() - width) as f32,
        };
        for (index, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let mean = sum(x, |x| x) / width as f32;
            let squares = sum(x, |x| (x - mean) * (x - mean)) + padding * mean * mean;
            let inverse = 1.0 / (squares / width as f32 + eps).sqrt();
            match affine {
                Affine::Modulate(Modulation { shift, scale, rows_per_group }) => {
                    let at = (first + index) / rows_per_group * width;
                    let (shift, scale) = (&shift[at..at + width], &scale[at..at + width]);
                    for (((out, x), shift), scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
                        *out = rounding.apply(normed.apply((x - mean) * inverse) * (1.0 + scale) + shift);
                    }
                }
                Affine::Weight { weight, bias } => {
                    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                        *out = rounding.apply((x - mean) * inverse * weight + bias);
                    }
                }
            }
        }
    }
}

struct RmsRows<'a> {
    norm: RmsNorm,
    x: &'a mut [f32],
    weight: &'a [f32],
}

impl Vectorised for RmsRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { norm: RmsNorm { width, rule, eps, rounding }, x, weight } = self;
        let before_weight = match rule {
            RmsRule::Standard => rounding,
            RmsRule::Fast => Rounding::None,
        };
        for row in x.chunks_exact_mut(width) {
            let inverse = 1.0 / (sum(row, |x| x * x) / width as f32 + eps).sqrt();
            for (x, weight) in row.iter_mut().zip(weight) {
                *x = rounding.apply(before_weight.apply(*x * inverse) * weight);
            }
        }
    }
}

struct ChannelRows<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    width: usize,
    gamma: &'a [f32],
    then: ChannelNormThen,
    rounding: Rounding,
}

impl Vectorised for ChannelRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, out, width, gamma, then, rounding } = self;
        let root = (width as f32).sqrt();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let length = rounding.apply(sum(x, |x| x * x).sqrt());
            // not `max`, which would hide a value that is not a number
            let length = if length < 1e-12 { rounding.apply(1e-12) } else { length };
            for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
                *out = rounding.apply(rounding.apply(rounding.apply(x / length) * root) * gamma);
            }
            if then == ChannelNormThen::Silu {
                for out in out {
                    *out = rounding.apply(math::silu(*out));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::inputs::{self, Kind};
    use turbowan_reference::metrics::{Bound, Verdict};
    use turbowan_reference::norm as truth;

    /// Rows and widths that leave tails: one row, odd widths, a prime, a real width.
    const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 5), (7, 97), (2, 160), (5, 1536), (40, 96)];
    /// A mean of 5 beside a deviation of 1 costs two digits of the 24 bits.
    const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(3e-6), cosine: None };

    fn tables(width: usize, groups: usize) -> (Vec<f32>, Vec<f32>) {
        (inputs::normal(width * groups, 5), inputs::normal(width * groups, 6))
    }

    #[test]
    fn layer_norm_matches_the_oracle_under_both_rules() {
        for (rows, width) in SHAPES {
            for kind in [Kind::Plain, Kind::OutlierChannel, Kind::Biased, Kind::Zero] {
                for (rule, is_padded) in [(LayerNormRule::Standard, false), (LayerNormRule::Padded, true)] {
                    let x = inputs::rows(kind, rows, width, 1);
                    let rows_per_group = rows.div_ceil(2);
                    let (shift, scale) = tables(width, rows.div_ceil(rows_per_group));
                    let norm = LayerNorm { width, rule, eps: 1e-6, rounding: Rounding::None };
                    let mut out = vec![0.0; x.len()];
                    let modulation = Modulation { shift: &shift, scale: &scale, rows_per_group };
                    layer_norm_modulate(&norm, &x, modulation, Rounding::None, &mut out).unwrap();
                    let want = truth::layer_norm_modulate(&x, width, is_padded, 1e-6, (&shift, &scale, rows_per_group));
                    Verdict::of(&out, &want, CLOSE).demand(&format!("{rows} x {width} {kind:?} {rule:?}"));
                }
            }
        }
    }

    #[test]
    fn layer_norm_with_weight_and_bias_matches_the_oracle() {
        let (rows, width) = (5, 97);
        let x = inputs::rows(Kind::OutlierChannel, rows, width, 1);
        let (weight, bias) = tables(width, 1);
        let norm = LayerNorm { width, rule: LayerNormRule::Standard, eps: 1e-6, rounding: Rounding::None };
        let mut out = vec![0.0; x.len()];
        layer_norm_affine(&norm, &x, &weight, &bias, &mut out).unwrap();
        let less_one: Vec<f32> = weight.iter().map(|w| w - 1.0).collect();
        let want = truth::layer_norm_modulate(&x, width, false, 1e-6, (&bias, &less_one, rows));
        Verdict::of(&out, &want, CLOSE).demand("affine");
    }

    #[test]
    fn layer_norm_rounds_the_normed_row_before_it_is_modulated() {
        let (rows, width) = (4, 96);
        let x = inputs::normal(rows * width, 1);
        let (shift, scale) = tables(width, 1);
        let modulation = Modulation { shift: &shift, scale: &scale, rows_per_group: rows };
        let mut norm = LayerNorm { width, rule: LayerNormRule::Standard, eps: 1e-6, rounding: Rounding::Bf16 };
        let (mut out, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        layer_norm_modulate(&norm, &x, modulation, Rounding::Bf16, &mut out).unwrap();
        let zeros = vec![0.0; width];
        norm.rounding = Rounding::None;
        let nothing = Modulation { shift: &zeros, scale: &zeros, rows_per_group: rows };
        layer_norm_modulate(&norm, &x, nothing, Rounding::None, &mut plain).unwrap();
        for (index, (out, y)) in out.iter().zip(plain).enumerate() {
            let y = Rounding::Bf16.apply(y);
            assert_eq!(*out, Rounding::Bf16.apply(y * (1.0 + scale[index % width]) + shift[index % width]));
        }
    }

    #[test]
    fn rms_norm_matches_the_oracle_and_its_rules_differ_only_in_rounding() {
        for (rows, width) in SHAPES {
            let x = inputs::rows(Kind::OutlierChannel, rows, width, 1);
            let weight = inputs::normal(width, 2);
            let want = truth::rms_norm(&x, width, 1e-6, &weight);
            let norm = |rule, rounding| {
                let mut y = x.clone();
                rms_norm(&RmsNorm { width, rule, eps: 1e-6, rounding }, &mut y, &weight).unwrap();
                y
            };
            Verdict::of(&norm(RmsRule::Standard, Rounding::None), &want, CLOSE).demand("standard");
            assert_eq!(norm(RmsRule::Fast, Rounding::None), norm(RmsRule::Standard, Rounding::None));
            for rule in [RmsRule::Fast, RmsRule::Standard] {
                // half a unit of bf16's 8 bits a rounding
                Verdict::of(&norm(rule, Rounding::Bf16), &want, Bound::relative_l2(4e-3)).demand("bf16");
            }
        }
    }

    #[test]
    fn channel_norm_matches_the_oracle_with_and_without_silu() {
        for (rows, width) in SHAPES {
            for kind in Kind::ALL {
                let x = inputs::rows(kind, rows, width, 1);
                let gamma = inputs::normal(width, 2);
                let mut out = vec![0.0; x.len()];
                let mut want = truth::channel_norm(&x, width, &gamma);
                channel_norm(&x, width, &gamma, ChannelNormThen::Nothing, Rounding::None, &mut out).unwrap();
                Verdict::of(&out, &want, CLOSE).demand("plain");
                want.iter_mut().for_each(|y| *y = truth::silu(*y));
                channel_norm(&x, width, &gamma, ChannelNormThen::Silu, Rounding::None, &mut out).unwrap();
                Verdict::of(&out, &want, CLOSE).demand("silu");
                channel_norm(&x, width, &gamma, ChannelNormThen::Silu, Rounding::Bf16, &mut out).unwrap();
                Verdict::of(&out, &want, Bound::relative_l2(1e-2)).demand("silu, bf16");
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (rows, width) = (9, 101);
        let x = inputs::normal(rows * width, 1);
        let gamma = inputs::normal(width, 2);
        let by = |isa| {
            let mut out = vec![0.0f32; x.len()];
            let (then, rounding) = (ChannelNormThen::Silu, Rounding::None);
            vectorised::run(isa, ChannelRows { x: &x, out: &mut out, width, gamma: &gamma, then, rounding });
            let mut y = x.clone();
            let norm = RmsNorm { width, rule: RmsRule::Standard, eps: 1e-6, rounding: Rounding::Bf16 };
            vectorised::run(isa, RmsRows { norm, x: &mut y, weight: &gamma });
            (out, y)
        };
        for isa in Isa::available() {
            assert_eq!(by(isa), by(Isa::Scalar), "{isa:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_a_number_stays_one() {
        let mut out = [0.0; 2];
        channel_norm(&[f32::NAN, 1.0], 2, &[1.0, 1.0], ChannelNormThen::Silu, Rounding::Bf16, &mut out).unwrap();
        assert!(out.iter().all(|y| y.is_nan()));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let norm = LayerNorm { width: 4, rule: LayerNormRule::Standard, eps: 1e-6, rounding: Rounding::None };
        let modulation = Modulation { shift: &[0.0; 4], scale: &[0.0; 4], rows_per_group: 1 };
        let refused = layer_norm_modulate(&norm, &[0.0; 8], modulation, Rounding::None, &mut [0.0; 8]);
        assert_eq!(refused, Err(Error::Length { what: "modulation shift", expected: 8, found: 4 }));
        let modulation = Modulation { rows_per_group: 0, ..modulation };
        assert!(layer_norm_modulate(&norm, &[0.0; 4], modulation, Rounding::None, &mut [0.0; 4]).is_err());
        assert!(layer_norm_affine(&norm, &[0.0; 7], &[0.0; 4], &[0.0; 4], &mut [0.0; 7]).is_err());
        let rms = RmsNorm { width: 0, rule: RmsRule::Fast, eps: 1e-6, rounding: Rounding::None };
        assert!(rms_norm(&rms, &mut [], &[]).is_err());
        assert!(channel_norm(&[0.0; 4], 2, &[0.0; 3], ChannelNormThen::Silu, Rounding::None, &mut [0.0; 4]).is_err());
    }
}
