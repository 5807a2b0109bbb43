//! The host twins as they are timed.

mod attention;
mod convolution;
mod linear;
mod naive;
mod network;
mod rows;
mod training;

use std::path::Path;

use super::case::Op;
use super::error::Error;
use super::work::Work;

pub(super) use attention::{Operands, PROJECTION, check_lists, ends, kept, linear_rows, random_map, shape_of, wide};
pub(super) use convolution::check_lines;
pub(super) use linear::int8_rows;
pub(super) use rows::{EPS, check_quantised, turned};

/// Makes the operands of an operation. `pair` is a folder with a peer's weights, latent and video, for the autoencoder.
///
/// # Errors
/// A shape that the operation refuses.
pub fn prepare(op: &Op, pair: Option<&Path>) -> Result<Box<dyn Work>, Error> {
    Ok(match op {
        Op::LinearF32(shape) => Box::new(linear::Floats::f32(shape)?),
        Op::LinearBf16(shape) => Box::new(linear::Floats::bf16(shape)?),
        Op::LinearInt8(shape) => Box::new(linear::Int8::new(shape, false)?),
        Op::LinearW8a8(shape) => Box::new(linear::Int8::new(shape, true)?),
        Op::AttentionDense(_) | Op::AttentionSage(_) | Op::AttentionSageF32(_) => attention::kernel(op)?,
        Op::SelfOriginal(_) | Op::SelfSage(_) | Op::SelfSla(_) | Op::SelfSageSla(_) => attention::whole(op)?,
        Op::SlaBackward(shape) => Box::new(attention::Backward::new(shape)?),
        Op::BlockMap(shape) => Box::new(attention::Map::new(shape)?),
        Op::NormLayer(shape) => Box::new(rows::LayerNorms::new(shape)),
        Op::NormRms(shape) => Box::new(rows::RmsNorms::new(shape)),
        Op::NormChannel(shape) => Box::new(rows::ChannelNorms::new(shape)),
        Op::NormRmsRope(shape) => Box::new(rows::Turned::new(shape, true)?),
        Op::Rope(shape) => Box::new(rows::Turned::new(shape, false)?),
        Op::QuantiseOfficial(shape) | Op::QuantisePerToken(shape) => Box::new(rows::Quantised::new(op, shape)?),
        Op::Conv3d(shape) => Box::new(convolution::Frames::new(shape)?),
        Op::BlockF32(shape) | Op::BlockW8a8(shape) | Op::BlockSage(shape) | Op::BlockSageSla(shape) => {
            Box::new(network::DitBlock::new(op, shape)?)
        }
        Op::DecodeF32(shape) => Box::new(network::Decoder::new(shape, turbowan_cuda::Rounding::None, pair)?),
        Op::DecodeBf16(shape) => Box::new(network::Decoder::new(shape, turbowan_cuda::Rounding::Bf16, pair)?),
        Op::TextTiny(shape) => Box::new(network::TextEncoding::new(shape)?),
        Op::TrainDit(shape) => Box::new(training::Repeated::new(training::DitStep::new(shape)?)),
        Op::TrainVae(shape) => Box::new(training::Repeated::new(training::VaeStep::new(shape)?)),
        Op::GenerateTiny(shape) => Box::new(network::Generating::new(shape)?),
        Op::AttentionSageSla(_)
        | Op::AttentionBackward(_)
        | Op::LinearBranch(_)
        | Op::PrepareQk(_)
        | Op::PrepareKeys(_)
        | Op::PrepareValues(_)
        | Op::ResidualGate(_)
        | Op::TextAttention(_) => return Err(Error::case(&op.name(), "only a kernel does it; --device cuda runs those")),
    })
}

/// The plain operation of our own that does the same, where there is one.
pub fn naive(op: &Op) -> Option<Box<dyn Work>> {
    Some(match op {
        Op::LinearF32(shape) | Op::LinearBf16(shape) | Op::LinearInt8(shape) | Op::LinearW8a8(shape) => Box::new(naive::Linear::new(shape)),
        Op::AttentionDense(shape)
        | Op::AttentionSage(shape)
        | Op::AttentionSageF32(shape)
        | Op::SelfOriginal(shape)
        | Op::SelfSage(shape)
        | Op::SelfSla(shape)
        | Op::SelfSageSla(shape) => Box::new(naive::Attention::new(shape)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::case;
    use super::*;

    /// The smoke suite at a fraction of its sizes is not the smoke suite; these are its operations on shapes that a debug
    /// build checks in a second.
    const SMALL: &str = include_str!("small.toml");

    #[test]
    fn every_operation_of_the_host_holds_its_bound() {
        for case in case::parse(Path::new("small.toml"), SMALL).unwrap() {
            let mut work = prepare(&case.op, None).unwrap();
            work.run().unwrap();
            let check = work.check(case.bound.rows, case.bound.bound()).unwrap();
            assert!(check.verdict.passes() && check.values > 0, "{}: {}", case.name, check.verdict);
            // what is in place is put back, so that a second run gives the same
            work.run().unwrap();
            let again = work.check(case.bound.rows, case.bound.bound()).unwrap();
            assert_eq!(check.verdict.distance, again.verdict.distance, "{}", case.name);
            if let Some(mut naive) = naive(&case.op) {
                naive.run().unwrap();
                let bound = turbowan_reference::metrics::Bound::relative_l2(1e-4);
                let check = naive.check(case.bound.rows, bound).unwrap();
                assert!(check.verdict.passes(), "naive {}: {}", case.name, check.verdict);
            }
        }
    }
}
