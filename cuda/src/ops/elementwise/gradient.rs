//! Activations that stand alone, gates, and their gradients, on the host.
//!
//! ```text
//! y = f(z)               dz = dy f'(z)                         f: GELU in both forms, SiLU
//! y = up gelu(gate)      dup = dy gelu(gate),  dgate = dy up gelu'(gate)
//! x += g y               dy = g dx,  dg = sum over the rows of a group of dx y
//! ```
//!
//! [`Activation::apply`] gives the bits that a product with the activation in its end gives.

use std::ops::Range;

use crate::Error;
use crate::host::par::{Shared, for_each_task};
use crate::host::vectorised::{self, Vectorised};
use crate::host::{Isa, math, sums};

/// Values of a unit of parallel work.
const CHUNK: usize = 1 << 14;

/// A function of single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU, tanh form.
    Gelu,
    /// GELU, exact form.
    GeluErf,
    /// SiLU.
    Silu,
}

impl Activation {
    /// `y = f(z)`.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ.
    pub fn apply(self, z: &[f32], y: &mut [f32]) -> Result<(), Error> {
        Error::expect_len("activated values", z, y.len())?;
        in_chunks(y, |range, y| match self {
            Self::Gelu => vectorised::run(Isa::detect(), Each { z: &z[range], y, f: |z, _| math::gelu_tanh(z) }),
            Self::GeluErf => vectorised::run(Isa::detect(), Each { z: &z[range], y, f: |z, _| math::gelu_erf(z) }),
            Self::Silu => vectorised::run(Isa::detect(), Each { z: &z[range], y, f: |z, _| math::silu(z) }),
        });
        Ok(())
    }

    /// `dy = dy f'(z)`, in place: the gradient with respect to `z`.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ.
    pub fn gradient(self, z: &[f32], dy: &mut [f32]) -> Result<(), Error> {
        Error::expect_len("activated values", z, dy.len())?;
        in_chunks(dy, |range, y| match self {
            Self::Gelu => vectorised::run(Isa::detect(), Each { z: &z[range], y, f: |z, dy| dy * math::gelu_tanh_slope(z) }),
            Self::GeluErf => vectorised::run(Isa::detect(), Each { z: &z[range], y, f: |z, dy| dy * math::gelu_erf_slope(z) }),
            Self::Silu => vectorised::run(Isa::detect(), Each { z: &z[range], y, f: |z, dy| dy * math::silu_slope(z) }),
        });
        Ok(())
    }
}

/// Gradients of `y = up gelu(gate)` (tanh form): `dgate` of what `dy` is given; `dy` becomes that of `up`.
///
/// # Errors
/// [`Error::Length`] when the lengths differ.
pub fn gelu_gate_gradient(gate: &[f32], up: &[f32], dy: &mut [f32]) -> Result<Vec<f32>, Error> {
    Error::expect_len("gate", gate, dy.len())?;
    Error::expect_len("gated values", up, dy.len())?;
    let mut dgate = vec![0.0; dy.len()];
    let shared = Shared::new(&mut dgate);
    in_chunks(dy, |range, dy| {
        // SAFETY: every chunk has its own values.
        let dgate = unsafe { shared.part(range.start, range.len()) };
        vectorised::run(Isa::detect(), GeluGate { gate: &gate[range.clone()], up: &up[range], dy, dgate });
    });
    Ok(dgate)
}

/// `x += gate y` by rows: `gate` is `[groups, width]`, row `r` of group `r / rows_per_group`.
///
/// # Errors
/// [`Error::Length`] or [`Error::Size`] when the operands do not fit.
pub fn add_gated(x: &mut [f32], y: &[f32], gate: &[f32], rows_per_group: usize, width: usize) -> Result<(), Error> {
    check_gate(x, y, gate, rows_per_group, width)?;
    let rows = (CHUNK / width).max(1);
    in_chunks_of(rows * width, x, |range, x| {
        let first = range.start / width;
        vectorised::run(Isa::detect(), AddGated { x, y: &y[range], gate, rows_per_group, width, first });
    });
    Ok(())
}

/// Gradients of [`add_gated`] for `dx`, the gradient of its result: that of `y`, and `dgate [groups, width]` is added to.
///
/// # Errors
/// As [`add_gated`].
pub fn add_gated_gradient(
    dx: &[f32],
    y: &[f32],
    gate: &[f32],
    rows_per_group: usize,
    width: usize,
    dgate: Option<&mut [f32]>,
) -> Result<Vec<f32>, Error> {
    check_gate(dx, y, gate, rows_per_group, width)?;
    let mut dy = vec![0.0; dx.len()];
    add_gated(&mut dy, dx, gate, rows_per_group, width)?;
    if let Some(dgate) = dgate {
        Error::expect_len("gate gradient", dgate, gate.len())?;
        let body = |rows: Range<usize>, sums: &mut [f32]| {
            let range = rows.start * width..rows.end * width;
            vectorised::run(Isa::detect(), AddProducts { a: &dx[range.clone()], b: &y[range], sums });
        };
        sums::over_rows(dx.len() / width, rows_per_group, width, body, |group, sums| sums::add(&mut dgate[group * width..], sums));
    }
    Ok(dy)
}

fn check_gate(x: &[f32], y: &[f32], gate: &[f32], rows_per_group: usize, width: usize) -> Result<(), Error> {
    if width == 0 || rows_per_group == 0 {
        return Err(Error::Size { what: "width or rows of a gated sum", must: "at least 1", found: 0 });
    }
    Error::expect_len("rows of a gated sum", x, x.len() / width * width)?;
    Error::expect_len("summand", y, x.len())?;
    Error::expect_len("gate", gate, (x.len() / width).div_ceil(rows_per_group) * width)
}

/// Runs `body(range, values)` over chunks of `values`.
fn in_chunks(values: &mut [f32], body: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    in_chunks_of(CHUNK, values, body);
}

fn in_chunks_of(chunk: usize, values: &mut [f32], body: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    let (len, shared) = (values.len(), Shared::new(values));
    for_each_task(len.div_ceil(chunk), |task| {
        let range = task * chunk..len.min((task + 1) * chunk);
        // SAFETY: every task has its own chunk.
        let part = unsafe { shared.part(range.start, range.len()) };
        body(range, part);
    });
}

/// `y = f(z, y)`.
struct Each<'a, F> {
    z: &'a [f32],
    y: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Vectorised for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.y.iter_mut().zip(self.z).for_each(|(y, z)| *y = (self.f)(*z, *y));
    }
}

struct GeluGate<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    dy: &'a mut [f32],
    dgate: &'a mut [f32],
}

impl Vectorised for GeluGate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (((dy, dgate), gate), up) in self.dy.iter_mut().zip(self.dgate).zip(self.gate).zip(self.up) {
            *dgate = *dy * up * math::gelu_tanh_slope(*gate);
            *dy *= math::gelu_tanh(*gate);
        }
    }
}

struct AddGated<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
    gate: &'a [f32],
    rows_per_group: usize,
    width: usize,
    first: usize,
}

impl Vectorised for AddGated<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (row, (x, y)) in self.x.chunks_exact_mut(self.width).zip(self.y.chunks_exact(self.width)).enumerate() {
            let gate = &self.gate[(self.first + row) / self.rows_per_group * self.width..][..self.width];
            x.iter_mut().zip(y).zip(gate).for_each(|((x, y), gate)| *x += y * gate);
        }
    }
}

/// Adds the products of two blocks of rows, column by column.
struct AddProducts<'a> {
    a: &'a [f32],
    b: &'a [f32],
    sums: &'a mut [f32],
}

impl Vectorised for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.sums.len();
        for (a, b) in self.a.chunks_exact(width).zip(self.b.chunks_exact(width)) {
            self.sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gemm::{Epilogue, PackedMatrix, Then, gemm};
    use turbowan_reference::inputs::normal;
    use turbowan_reference::metrics::{Bound, Verdict};
    use turbowan_reference::slope::{self, weighted};
    use turbowan_reference::{gemm as truth, umt5};

    /// A few roundings of values of about 1.
    const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(1e-6), cosine: None };

    #[test]
    fn slopes_of_activations_match_differences_of_the_oracle() {
        type Case = (Activation, fn(f64) -> f64);
        let cases: [Case; 3] =
            [(Activation::Gelu, truth::gelu_tanh), (Activation::GeluErf, truth::gelu_erf), (Activation::Silu, truth::silu)];
        let (z, dy) = (slope::grid(&normal(97, 1)), normal(97, 2));
        for (activation, oracle) in cases {
            let loss = |z: &[f32]| weighted(&z.iter().map(|z| oracle(f64::from(*z))).collect::<Vec<_>>(), &dy);
            let mut got = dy.clone();
            activation.gradient(&z, &mut got).unwrap();
            Verdict::of(&got, &slope::gradient(&z, loss), CLOSE).demand(&format!("{activation:?}"));
        }
    }

    #[test]
    fn an_activation_gives_the_bits_of_a_product_that_ends_in_it() {
        let (x, weight) = (normal(70 * 33, 1), normal(130 * 33, 2));
        let packed = PackedMatrix::pack(&weight, 130, 33).unwrap();
        let run = |then| {
            let mut out = vec![0.0; 70 * 130];
            gemm(&x, 70, &packed, &Epilogue { then, ..Epilogue::PLAIN }, &mut out).unwrap();
            out
        };
        let z = run(Then::Store);
        for (activation, then) in [(Activation::Gelu, Then::Gelu), (Activation::GeluErf, Then::GeluErf), (Activation::Silu, Then::Silu)] {
            let mut y = vec![0.0; z.len()];
            activation.apply(&z, &mut y).unwrap();
            assert_eq!(y, run(then), "{activation:?}");
        }
        let (gate, start) = (normal(7 * 130, 3), normal(70 * 130, 4));
        let (mut want, mut got) = (start.clone(), start);
        let epilogue = Epilogue { then: Then::AddGated { gate: &gate, rows_per_group: 10 }, ..Epilogue::PLAIN };
        gemm(&x, 70, &packed, &epilogue, &mut want).unwrap();
        add_gated(&mut got, &z, &gate, 10, 130).unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn gradients_of_both_gates_match_differences_of_the_oracle() {
        let (rows, width, per_group) = (7, 11, 3);
        let [y, gate, dx] = [(rows * width, 1), (3 * width, 2), (rows * width, 3)].map(|(len, seed)| slope::grid(&normal(len, seed)));
        let sum = |y: &[f32], gate: &[f32]| -> f64 {
            let gated = |at: usize| f64::from(y[at]) * f64::from(gate[at / width / per_group * width + at % width]);
            (0..y.len()).map(|at| gated(at) * f64::from(dx[at])).sum()
        };
        let mut dgate = vec![0.0; gate.len()];
        let dy = add_gated_gradient(&dx, &y, &gate, per_group, width, Some(&mut dgate)).unwrap();
        Verdict::of(&dy, &slope::gradient(&y, |y| sum(y, &gate)), CLOSE).demand("summand");
        Verdict::of(&dgate, &slope::gradient(&gate, |gate| sum(&y, gate)), CLOSE).demand("gate");

        let (gate, up) = (slope::grid(&normal(77, 4)), slope::grid(&normal(77, 5)));
        let mut dup = dx.clone();
        let dgate = gelu_gate_gradient(&gate, &up, &mut dup).unwrap();
        let loss = |gate: &[f32], up: &[f32]| weighted(&umt5::gelu_gate(gate, up), &dx);
        Verdict::of(&dgate, &slope::gradient(&gate, |gate| loss(gate, &up)), CLOSE).demand("GELU's gate");
        Verdict::of(&dup, &slope::gradient(&up, |up| loss(&gate, up)), CLOSE).demand("gated values");
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        assert!(Activation::Gelu.apply(&[0.0; 3], &mut [0.0; 2]).is_err());
        assert!(Activation::Gelu.gradient(&[0.0; 3], &mut [0.0; 2]).is_err());
        assert!(gelu_gate_gradient(&[0.0; 3], &[0.0; 2], &mut [0.0; 3]).is_err());
        assert!(add_gated(&mut [0.0; 6], &[0.0; 6], &[0.0; 3], 2, 3).is_ok());
        assert!(add_gated(&mut [0.0; 6], &[0.0; 6], &[0.0; 3], 1, 3).is_err());
        assert!(add_gated(&mut [0.0; 6], &[0.0; 6], &[0.0; 3], 0, 3).is_err());
        assert!(add_gated_gradient(&[0.0; 6], &[0.0; 6], &[0.0; 3], 2, 3, Some(&mut [0.0; 2])).is_err());
    }
}
