//! Operands are checked once, at the door.

use turbowan_cuda::{AttnShape, Error as OperandError, HeadLayout};

use super::operands::{Keys, Operands, Output, Values};
use super::variant::{Format, TILE_K};
use crate::{Error, Groups, tiled_len};

/// That operands and output fit the shape; which kernels can read them.
pub(super) fn check(
    shape: &AttnShape,
    causal: bool,
    operands: &Operands<'_>,
    output: &Output<'_>,
    queries: Groups,
    keys: Groups,
) -> Result<Format, Error> {
    if ![64, 128].contains(&shape.head_dim) {
        return Err(setting("head dim", "64 or 128", shape.head_dim));
    }
    if causal && shape.query_len != shape.key_len {
        return Err(Error::CausalLengths { query_len: shape.query_len, key_len: shape.key_len });
    }
    word("key tiles", shape.key_len.div_ceil(TILE_K))?;
    whole("key rows of a scale", keys.runs().0)?;
    let problems = shape.problems();
    expect("queries", operands.q.len(), shape.query_values())?;
    expect("query scales", operands.q_scales.len(), problems * queries.count(shape.query_len))?;
    expect("key scales", operands.k_scales.len(), problems * keys.count(shape.key_len))?;
    let format = check_keys_and_values(shape, operands)?;
    if let Some(map) = &operands.map {
        whole("query rows of a block", map.block_q)?;
        if format == Format::Tiled && !map.block_q.is_multiple_of(128) {
            return Err(setting("query rows of a block over tiled keys", "a multiple of 128", map.block_q));
        }
        whole("key rows of a block", map.block_k)?;
        if map.kept == 0 || map.kept > shape.key_len.div_ceil(map.block_k) {
            return Err(setting("kept blocks", "between 1 and the number of key blocks", map.kept));
        }
        expect("block map", map.lists.len(), problems * shape.query_len.div_ceil(map.block_q) * map.kept)?;
    }
    if let Some(added) = &operands.added {
        expect("queries of the added term", added.q.len(), shape.query_values())?;
        expect("state of the added term", added.state.len(), problems * (shape.head_dim + 1) * shape.head_dim)?;
        if let Some(bias) = &added.bias {
            expect("bias of the added term", bias.len(), shape.head_dim)?;
        }
    }
    check_output(shape, output)?;
    Ok(format)
}

fn check_keys_and_values(shape: &AttnShape, operands: &Operands<'_>) -> Result<Format, Error> {
    let problems = shape.problems();
    let tile_values = tiled_len(problems, shape.key_len, shape.head_dim);
    match (&operands.k, &operands.values) {
        (Keys::Rows(keys), Values::F16(values)) => {
            expect("keys", keys.len(), shape.key_values())?;
            expect("values", values.len(), shape.key_values())?;
            Ok(Format::F16)
        }
        (Keys::Rows(keys), Values::Fp8 { permuted, scales, padded_len }) => {
            expect("keys", keys.len(), shape.key_values())?;
            whole("padded keys of a channel", *padded_len)?;
            if *padded_len < shape.key_len {
                return Err(setting("padded keys of a channel", "at least the number of keys", *padded_len));
            }
            expect("values", permuted.len(), problems * shape.head_dim * padded_len)?;
            expect("value scales", scales.len(), problems * shape.head_dim)?;
            Ok(Format::Fp8)
        }
        (Keys::Tiled(keys), Values::Tiled { tiles, scales }) => {
            expect("keys", keys.len(), tile_values)?;
            expect("values", tiles.len(), tile_values)?;
            expect("value scales", scales.len(), problems * shape.head_dim)?;
            Ok(Format::Tiled)
        }
        (Keys::Rows(_), Values::Tiled { .. }) => Err(Error::MixedForms { keys: "rows", values: "tiles" }),
        (Keys::Tiled(_), _) => Err(Error::MixedForms { keys: "tiles", values: "rows" }),
    }
}

fn check_output(shape: &AttnShape, output: &Output<'_>) -> Result<(), Error> {
    match output {
        Output::Bf16(out) => expect("output", out.len(), shape.query_values())?,
        Output::Int8 { values, scales } => {
            if shape.head_dim != 128 {
                return Err(setting("head dim of an int8 output", "128, the quantiser's block", shape.head_dim));
            }
            if shape.layout != HeadLayout::Blhd {
                return Err(Error::Int8Layout);
            }
            expect("int8 output", values.len(), shape.query_values())?;
            expect("scales of the output", scales.len(), shape.problems() * shape.query_len)?;
        }
    }
    Ok(())
}

fn whole(what: &'static str, rows: usize) -> Result<(), Error> {
    let is_whole = rows > 0 && rows.is_multiple_of(TILE_K);
    if is_whole { Ok(()) } else { Err(setting(what, "a positive multiple of 64", rows)) }
}

pub(super) fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), OperandError> {
    if found == expected { Ok(()) } else { Err(OperandError::Length { what, expected, found }) }
}

pub(super) fn setting(what: &'static str, must: &'static str, found: usize) -> Error {
    Error::Setting { what, must, found: found as f64 }
}

pub(super) fn word(what: &'static str, value: usize) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| setting(what, "below 2^32", value))
}
