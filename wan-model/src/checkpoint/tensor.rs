//! A tensor as a file holds it: a name, a number format, a shape and its bytes.

use half::{bf16, f16};
use turbowan_cuda::Element;

/// Number formats that checkpoints use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// 64-bit float.
    F64,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// Its usual short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::Bool => "bool",
        }
    }
}

/// A view of a tensor in a checkpoint: row-major, little-endian, `shape.product() * dtype.bytes()` bytes, unaligned.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Number format.
    pub dtype: Dtype,
    /// Shape, slowest axis first; empty for a scalar.
    pub shape: &'a [usize],
    /// The values.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The values as `f32`, rounded to nearest where they do not fit.
    pub fn to_f32(&self) -> Vec<f32> {
        let bytes = self.bytes;
        match self.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).widen()).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::I8 => bytes.iter().map(|b| f32::from(*b as i8)).collect(),
            Dtype::U8 | Dtype::Bool => bytes.iter().map(|b| f32::from(*b)).collect(),
            Dtype::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
            Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
        }
    }

    /// The values as bf16, rounded to nearest where they do not fit.
    pub fn to_bf16(&self) -> Vec<bf16> {
        match self.dtype {
            Dtype::Bf16 => self.bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b)).collect(),
            _ => self.to_f32().into_iter().map(bf16::from_f32).collect(),
        }
    }

    /// Which value, by its number, is the first that is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<usize> {
        match self.dtype {
            Dtype::F32 => first_of(self.bytes, |bytes| !f32::from_le_bytes(bytes).is_finite()),
            Dtype::F16 => first_of(self.bytes, |bytes| !f16::from_le_bytes(bytes).is_finite()),
            Dtype::Bf16 => first_of(self.bytes, |bytes| !bf16::from_le_bytes(bytes).is_finite()),
            Dtype::F64 => first_of(self.bytes, |bytes| !f64::from_le_bytes(bytes).is_finite()),
            Dtype::I8 | Dtype::U8 | Dtype::I32 | Dtype::I64 | Dtype::Bool => None,
        }
    }

    /// The values as signed bytes, if that is what they are.
    pub fn to_i8(&self) -> Option<Vec<i8>> {
        (self.dtype == Dtype::I8).then(|| self.bytes.iter().map(|b| *b as i8).collect())
    }
}

/// The first value of `N` bytes that is `wanted`.
fn first_of<const N: usize>(bytes: &[u8], wanted: impl Fn([u8; N]) -> bool) -> Option<usize> {
    // a run is looked at to its end, which is vector code
    const RUN: usize = 1024;
    let values = bytes.as_chunks().0;
    let run = values.chunks(RUN).position(|run| run.iter().fold(false, |found, value| found | wanted(*value)))?;
    let within = values[run * RUN..].iter().position(|value| wanted(*value))?;
    Some(run * RUN + within)
}

/// Where a network's tensors come from, by official name.
pub trait TensorSource {
    /// The tensor called `name`.
    fn get(&self, name: &str) -> Option<TensorView<'_>>;

    /// The tensor called `name`, or an error that names it.
    ///
    /// # Errors
    /// [`crate::Error::Misfits`] when there is none. A loader checks a whole file first
    /// (so that every misfit is listed at once) and uses this afterwards.
    fn take(&self, name: &str) -> crate::Result<TensorView<'_>> {
        self.get(name).ok_or_else(|| crate::Error::Misfits {
            path: "checkpoint".into(),
            misfits: vec![crate::error::Misfit::Missing { name: name.to_owned(), expected: Vec::new() }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_no_number_is_found_in_every_format() {
        let find = |dtype: Dtype, values: &[f32]| {
            let bytes: Vec<u8> = match dtype {
                Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
                Dtype::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
            };
            TensorView { dtype, shape: &[values.len()], bytes: &bytes }.first_not_finite()
        };
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
            let mut values = vec![-60_000.0; 5000];
            assert_eq!((find(dtype, &values), find(dtype, &[])), (None, None), "{dtype:?}");
            for (at, value) in [(4999, f32::NAN), (1024, f32::INFINITY), (1023, f32::NEG_INFINITY), (0, f32::NAN)] {
                values[at] = value;
                assert_eq!(find(dtype, &values), Some(at), "{dtype:?}");
            }
        }
        assert_eq!(TensorView { dtype: Dtype::I8, shape: &[2], bytes: &[0x7f, 0xff] }.first_not_finite(), None);
    }
}
