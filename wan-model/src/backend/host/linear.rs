//! A linear layer on the host: packed once at load, floating point or int8.

use std::fmt;

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, Then, gemm};
use turbowan_cuda::ops::gemm_int8::{PackedInt8, gemm_int8};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight};

use super::super::{LinearForm, LinearParameters, Pointwise, not_int8, weight_sides};
use super::tensor::HostActivation;
use crate::Result;
use crate::checkpoint::Dtype;

/// Weight and bias.
#[derive(Debug)]
pub struct HostLinear {
    weight: Weight,
    bias: Option<Vec<f32>>,
    rounding: Rounding,
}

enum Weight {
    Float(PackedMatrix),
    Int8(PackedInt8),
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(matrix) => write!(f, "float [{}, {}]", matrix.out(), matrix.input()),
            Self::Int8(matrix) => write!(f, "int8 [{}, {}]", matrix.out(), matrix.input()),
        }
    }
}

/// What the product does with its result.
pub(super) fn after(then: Pointwise) -> Then<'static> {
    match then {
        Pointwise::None => Then::Store,
        Pointwise::Gelu => Then::Gelu,
        Pointwise::GeluErf => Then::GeluErf,
        Pointwise::Silu => Then::Silu,
    }
}

impl HostLinear {
    /// Packs a layer. `arithmetic` is the network's: in bf16 weights and bias are rounded as the official code casts them.
    pub(super) fn load(parameters: LinearParameters<'_>, form: LinearForm, arithmetic: Rounding) -> Result<Self> {
        let (weight, bias) = match parameters {
            LinearParameters::Float { weight, bias } => {
                let [out, input] = weight_sides(&weight)?;
                let packed = match (form.quantised, arithmetic, weight.dtype) {
                    (true, _, _) => {
                        let mut values = weight.to_f32();
                        arithmetic.apply_row(&mut values);
                        Weight::Int8(PackedInt8::pack(&QuantizedWeight::quantise(&values, out, input)?))
                    }
                    (false, Rounding::Bf16, _) | (false, Rounding::None, Dtype::Bf16) => {
                        Weight::Float(PackedMatrix::pack(&weight.to_bf16(), out, input)?)
                    }
                    (false, Rounding::None, _) => Weight::Float(PackedMatrix::pack(&weight.to_f32(), out, input)?),
                };
                (packed, bias)
            }
            LinearParameters::Int8 { weight, scale, bias } => {
                let [out, input] = weight_sides(&weight)?;
                let values = weight.to_i8().ok_or_else(|| not_int8(&weight))?;
                (Weight::Int8(PackedInt8::pack(&QuantizedWeight::from_parts(out, input, values, scale.to_f32())?)), bias)
            }
        };
        let bias = bias.map(|bias| {
            let mut values = bias.to_f32();
            arithmetic.apply_row(&mut values);
            values
        });
        Ok(Self { weight, bias, rounding: form.rounding })
    }

    /// Channels that it writes.
    pub fn out(&self) -> usize {
        match &self.weight {
            Weight::Float(matrix) => matrix.out(),
            Weight::Int8(matrix) => matrix.out(),
        }
    }

    pub(super) fn run(&self, x: &HostActivation, then: Then<'_>, out: &mut [f32]) -> Result<()> {
        let epilogue = Epilogue { bias: self.bias.as_deref(), then, rounding: self.rounding };
        let rows = x.rows.rows();
        match &self.weight {
            Weight::Float(matrix) => gemm(&x.rows.values, rows, matrix, &epilogue, out)?,
            Weight::Int8(matrix) => {
                let int8 = match x.int8.get() {
                    Some(int8) => int8,
                    None => {
                        let int8 = Int8Rows::quantise(Int8Rule::Official, &x.rows.values, rows, x.rows.width)?;
                        x.int8.get_or_init(|| int8)
                    }
                };
                gemm_int8(int8, matrix, &epilogue, out)?;
            }
        }
        Ok(())
    }
}
