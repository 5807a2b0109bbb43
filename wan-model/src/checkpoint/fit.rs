//! Whether a checkpoint is the network that is asked for: everything that does not fit, at once.

use std::collections::HashSet;

use super::{Checkpoint, Dtype, TensorSource, TensorView};
use crate::config::TensorSpec;
use crate::error::Misfit;
use crate::{Error, Result};

/// Rows and columns that share one scale of an int8 weight.
const QUANT_BLOCK: usize = 128;

impl Checkpoint {
    /// Holds the file to the tensors of a network.
    ///
    /// A `NAME.weight` of two axes may also be there as `NAME.int8_weight` with `NAME.scale`, as `-quant` checkpoints have
    /// it. Tensors that nobody asked for are misfits too, unless `may_be_extra` says yes to their name.
    ///
    /// # Errors
    /// [`Error::Misfits`] with every missing, misshapen, wrongly typed and unknown tensor.
    pub fn check(&self, expected: &[TensorSpec], may_be_extra: impl Fn(&str) -> bool) -> Result<()> {
        let mut misfits = Vec::new();
        let mut known = HashSet::new();
        for spec in expected {
            known.insert(spec.name.clone());
            match self.get(&spec.name) {
                Some(found) => misfits.extend(misfit(&spec.name, &spec.shape, found)),
                None => self.check_quantised(spec, &mut known, &mut misfits),
            }
        }
        for name in self.names() {
            if !known.contains(name) && !may_be_extra(name) {
                misfits.push(Misfit::Extra { name: name.to_owned() });
            }
        }
        if misfits.is_empty() { Ok(()) } else { Err(Error::Misfits { path: self.path().to_path_buf(), misfits }) }
    }

    /// Holds `NAME.int8_weight` and `NAME.scale` to the shape of the `NAME.weight` they stand for.
    fn check_quantised(&self, spec: &TensorSpec, known: &mut HashSet<String>, misfits: &mut Vec<Misfit>) {
        let missing = || Misfit::Missing { name: spec.name.clone(), expected: spec.shape.clone() };
        let (Some(layer), &[rows, columns]) = (spec.name.strip_suffix(".weight"), &spec.shape[..]) else {
            return misfits.push(missing());
        };
        let (weight, scale) = (format!("{layer}.int8_weight"), format!("{layer}.scale"));
        let Some(found) = self.get(&weight) else {
            return misfits.push(missing());
        };
        misfits.extend(misfit(&weight, &spec.shape, found));
        let blocks = vec![rows.div_ceil(QUANT_BLOCK), columns.div_ceil(QUANT_BLOCK)];
        match self.get(&scale) {
            Some(found) => misfits.extend(misfit(&scale, &blocks, found)),
            None => misfits.push(Misfit::Missing { name: scale.clone(), expected: blocks }),
        }
        known.extend([weight, scale]);
    }
}

fn misfit(name: &str, shape: &[usize], found: TensorView<'_>) -> Option<Misfit> {
    if found.shape != shape {
        return Some(Misfit::Shape { name: name.to_owned(), expected: shape.to_vec(), found: found.shape.to_vec() });
    }
    let (fits, expected) = if name.ends_with(".int8_weight") {
        (found.dtype == Dtype::I8, "i8")
    } else {
        (matches!(found.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64), "a floating-point format")
    };
    (!fits).then(|| Misfit::Dtype { name: name.to_owned(), expected, found: found.dtype.name() })
}
