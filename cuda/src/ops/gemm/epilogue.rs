//! What happens to a product before it is stored: bias, rounding, activation, residual.

use super::tile::TileShape;
use crate::host::par::Shared;
use crate::host::vectorised::{self, Vectorised};
use crate::host::{Isa, math};
use crate::{Error, Rounding};

/// What is done with `product + bias`.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Store it.
    Store,
    /// Store its GELU, tanh form.
    Gelu,
    /// Store its GELU, exact form.
    GeluErf,
    /// Store its SiLU.
    Silu,
    /// Add it to what `out` holds.
    Add,
    /// Add `gate * it` to what `out` holds.
    AddGated {
        /// `[groups, n]`.
        gate: &'a [f32],
        /// Rows of the product that share a row of `gate`: row `r` takes `gate[r / rows_per_group]`.
        rows_per_group: usize,
    },
}

/// The end of a product.
///
/// With [`Rounding::Bf16`] every step rounds as a bf16 tensor operation would: `product + bias` once, then the
/// activation of that, or the product with the gate, or the sum with `out`.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// `[n]`, added to every row.
    pub bias: Option<&'a [f32]>,
    /// What is done with the sum.
    pub then: Then<'a>,
    /// How each step rounds.
    pub rounding: Rounding,
}

impl Epilogue<'_> {
    /// Store the bare product in `f32`.
    pub const PLAIN: Self = Self { bias: None, then: Then::Store, rounding: Rounding::None };

    /// Checks bias and gate against a product `[rows, cols]`.
    pub(crate) fn check(&self, rows: usize, cols: usize) -> Result<(), Error> {
        if let Some(bias) = self.bias {
            Error::expect_len("bias", bias, cols)?;
        }
        if let Then::AddGated { gate, rows_per_group } = self.then {
            if rows_per_group == 0 {
                return Err(Error::Size { what: "rows that share a gate", must: "at least 1", found: 0 });
            }
            Error::expect_len("gate", gate, rows.div_ceil(rows_per_group) * cols)?;
        }
        Ok(())
    }
}

/// Rows and columns of the output that a tile covers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TilePlace {
    pub row: usize,
    pub rows: usize,
    pub col: usize,
    pub cols: usize,
}

/// An epilogue with the output it writes to.
pub(crate) struct Finish<'a> {
    pub isa: Isa,
    pub epilogue: &'a Epilogue<'a>,
    /// Whether the product is rounded before the bias is added, as where the official code adds it in a second step.
    pub rounds_before_bias: bool,
    /// Columns of the output.
    pub width: usize,
    pub out: Shared<'a, f32>,
}

impl Finish<'_> {
    /// Finishes one tile, `acc` = `[place.rows, tile columns of the instruction set]`.
    ///
    /// # Safety
    /// No other tile at the same place is being finished.
    pub unsafe fn tile(&self, acc: &[f32], place: TilePlace) {
        match TileShape::of(self.isa).cols {
            32 => vectorised::run(self.isa, TileEnd::<32> { finish: self, acc, place }),
            16 => vectorised::run(self.isa, TileEnd::<16> { finish: self, acc, place }),
            _ => vectorised::run(self.isa, TileEnd::<8> { finish: self, acc, place }),
        }
    }

    /// # Safety
    /// No other tile at the same place is being finished.
    #[inline(always)]
    unsafe fn tile_of<const COLS: usize>(&self, acc: &[f32], place: TilePlace) {
        let bias = self.epilogue.bias.map(|bias| padded::<COLS>(&bias[place.col..place.col + place.cols]));
        for (row, acc) in acc.as_chunks::<COLS>().0.iter().take(place.rows).enumerate() {
            let row = place.row + row;
            // SAFETY: the caller finishes every tile once, so nothing else refers to this part of the row.
            let to = unsafe { self.out.part(row * self.width + place.col, place.cols) };
            if let Ok(to) = <&mut [f32; COLS]>::try_from(&mut *to) {
                self.row(acc, bias.as_ref(), row, place, to);
            } else {
                let mut wide = padded::<COLS>(to);
                self.row(acc, bias.as_ref(), row, place, &mut wide);
                to.copy_from_slice(&wide[..place.cols]);
            }
        }
    }

    #[inline(always)]
    fn row<const COLS: usize>(&self, acc: &[f32; COLS], bias: Option<&[f32; COLS]>, row: usize, place: TilePlace, to: &mut [f32; COLS]) {
        let round = |values: &mut [f32; COLS]| self.epilogue.rounding.apply_row(values);
        let mut values = *acc;
        if let Some(bias) = bias {
            if self.rounds_before_bias {
                round(&mut values);
            }
            values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
        round(&mut values);
        match self.epilogue.then {
            Then::Store => *to = values,
            Then::Gelu => to.iter_mut().zip(&values).for_each(|(to, value)| *to = math::gelu_tanh(*value)),
            Then::GeluErf => to.iter_mut().zip(&values).for_each(|(to, value)| *to = math::gelu_erf(*value)),
            Then::Silu => to.iter_mut().zip(&values).for_each(|(to, value)| *to = math::silu(*value)),
            Then::Add => to.iter_mut().zip(&values).for_each(|(to, value)| *to += value),
            Then::AddGated { gate, rows_per_group } => {
                let start = row / rows_per_group * self.width + place.col;
                let gate = padded::<COLS>(&gate[start..start + place.cols]);
                values.iter_mut().zip(&gate).for_each(|(value, gate)| *value *= gate);
                round(&mut values);
                to.iter_mut().zip(&values).for_each(|(to, value)| *to += value);
            }
        }
        round(to);
    }
}

/// [`Finish::tile_of`] as a loop that is compiled for each instruction set. Whoever makes one promises that no other
/// tile at the same place is being finished.
struct TileEnd<'a, const COLS: usize> {
    finish: &'a Finish<'a>,
    acc: &'a [f32],
    place: TilePlace,
}

impl<const COLS: usize> Vectorised for TileEnd<'_, COLS> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        // SAFETY: whoever made the value promised it.
        unsafe { self.finish.tile_of::<COLS>(self.acc, self.place) }
    }
}

/// At most `COLS` values, and zeros after them.
#[inline(always)]
fn padded<const COLS: usize>(values: &[f32]) -> [f32; COLS] {
    if let Ok(full) = <&[f32; COLS]>::try_from(values) {
        return *full;
    }
    let mut wide = [0.0; COLS];
    wide[..values.len()].copy_from_slice(values);
    wide
}
