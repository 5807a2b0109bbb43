//! What may follow attention: the term of low rank, and the int8 output.

use half::bf16;
use turbowan_cuda::device::Device;
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule};
use turbowan_cuda::{AttnShape, Error as OperandError, HeadLayout};
use turbowan_reference::inputs::{Kind, normal};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::sla::FeatureMap;
use turbowan_sage::device::{Feature, Format};
use turbowan_sage::{Error, Sage};

use crate::twin::{Case, formats, shape};
use crate::{ADA, Added, HOPPER, in_all_ways, on_every_chip};

/// Both outputs are rounded to bf16, and phi over its denominator once more, at random over the channels.
const SUM: Bound = Bound::relative_l2(3e-3);

/// A term about as large as the attention: features of keys are a hundredth or so, `z` sums them.
fn added(shape: &AttnShape, feature: Feature, has_bias: bool) -> Added {
    let (dim, problems) = (shape.head_dim, shape.problems());
    let rounded = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let mut state = normal(problems * (dim + 1) * dim, 7);
    for head in state.chunks_mut((dim + 1) * dim) {
        // z is a sum of features, which are not negative
        head[dim * dim..].iter_mut().for_each(|z| *z = z.abs() + 0.1);
    }
    let bias = has_bias.then(|| normal(dim, 8));
    Added { q: rounded(normal(problems * shape.query_len * dim, 9)), state: rounded(state), bias, feature }
}

/// The term in f64, in the shape's layout.
fn term(shape: &AttnShape, added: &Added) -> Vec<f64> {
    let dim = shape.head_dim;
    let feature = match added.feature {
        Feature::Softmax => FeatureMap::Softmax,
        Feature::Elu => FeatureMap::Elu,
        Feature::Relu => FeatureMap::Relu,
    };
    let wide = |values: &[bf16]| values.iter().map(|value| f64::from(value.to_f32())).collect::<Vec<_>>();
    let mut out = vec![0.0; shape.query_values()];
    for problem in 0..shape.problems() {
        let state = wide(&added.state[problem * (dim + 1) * dim..][..(dim + 1) * dim]);
        for row in 0..shape.query_len {
            let phi = feature.apply(&wide(&added.q[(problem * shape.query_len + row) * dim..][..dim]));
            let times = |column: &[f64]| phi.iter().zip(column).map(|(phi, m)| phi * m).sum::<f64>();
            let denominator = times(&state[dim * dim..]) + 1e-5;
            for (channel, out) in out[shape.query_offset(problem, row)..][..dim].iter_mut().enumerate() {
                *out = times(&state[channel * dim..][..dim]) / denominator;
                *out += added.bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]));
            }
        }
    }
    out
}

/// Attention with the term is attention and the term.
fn demand(mut case: Case, device: &Device, term_of: Added) {
    let plain = case.run(device).unwrap();
    let term = term(&case.shape, &term_of);
    let label = format!("{device:?} {:?} {:?} {:?}", case.shape, case.format, term_of.feature);
    case.added = Some(term_of);
    let got = case.run(device).unwrap();
    let want: Vec<f64> = plain.out.iter().zip(&term).map(|(out, term)| f64::from(*out) + term).collect();
    Verdict::of(&got.out, &want, SUM).demand(&label);
    assert_eq!(got.lse, plain.lse, "{label}");
}

#[test]
fn a_term_is_added_at_every_length() {
    for capability in [ADA, HOPPER] {
        for device in in_all_ways(capability) {
            for format in formats(&device) {
                // f16 kernels are the same on both
                if (capability, format) == (HOPPER, Format::F16) {
                    continue;
                }
                for (query_len, key_len) in [(1, 1), (140, 70)] {
                    for head_dim in [64, 128] {
                        let shape = shape(1, query_len, key_len, head_dim);
                        let case = Case::of(Kind::Plain, shape, Sage::default()).with_format(format);
                        demand(case, &device, added(&shape, Feature::Softmax, true));
                    }
                }
            }
        }
    }
}

#[test]
fn every_feature_with_and_without_a_bias() {
    for device in on_every_chip() {
        for format in formats(&device) {
            for (feature, has_bias) in [(Feature::Softmax, false), (Feature::Elu, true), (Feature::Relu, false)] {
                let shape = AttnShape::cross(2, 2, 70, 90, 128).unwrap().with_layout(HeadLayout::Blhd);
                let case = Case::of(Kind::Plain, shape, Sage::default()).with_format(format);
                demand(case, &device, added(&shape, feature, has_bias));
            }
        }
    }
}

#[test]
fn a_row_without_keys_has_the_term_alone() {
    for device in on_every_chip() {
        for format in formats(&device) {
            let shape = shape(1, 300, 300, 128);
            let mut case = Case::of(Kind::Plain, shape, Sage::default()).with_format(format).mapped(128, 64, 1);
            case.causal = true;
            demand(case, &device, added(&shape, Feature::Softmax, true));
        }
    }
}

#[test]
fn a_term_of_zeros_changes_no_bit() {
    for device in on_every_chip() {
        for format in formats(&device) {
            let shape = shape(2, 150, 200, 128);
            let mut case = Case::of(Kind::Plain, shape, Sage::default()).with_format(format);
            let plain = case.run(&device).unwrap();
            let mut nothing = added(&shape, Feature::Softmax, false);
            nothing.state.chunks_mut(129 * 128).for_each(|head| head[..128 * 128].fill(bf16::ZERO));
            case.added = Some(nothing);
            assert_eq!(case.run(&device).unwrap(), plain, "{format:?}");
        }
    }
}

#[test]
fn int8_rows_are_those_of_the_bf16_output() {
    for device in on_every_chip() {
        for format in formats(&device) {
            for query_len in [1, 63, 150] {
                let shape = AttnShape::cross(2, 3, query_len, 133, 128).unwrap().with_layout(HeadLayout::Blhd);
                let mut case = Case::of(Kind::Plain, shape, Sage::default()).with_format(format);
                // a head of zeros: the floor of a scale
                case.v.chunks_mut(128).step_by(3).for_each(|row| row.fill(0.0));
                for term in [None, Some(added(&shape, Feature::Softmax, true))] {
                    case.added = term;
                    let out = case.run(&device).unwrap().out;
                    let want = Int8Rows::quantise(Int8Rule::PerToken, &out, 2 * query_len, 3 * 128).unwrap();
                    let (values, scales) = case.problem(&case.quantised()).run_int8(&device).unwrap();
                    assert!(values == want.values() && scales == want.scales(), "{format:?} {query_len}");
                }
            }
        }
    }
}

#[test]
fn ends_that_do_not_fit_are_refused() {
    for device in on_every_chip() {
        for format in formats(&device) {
            let int8 = |shape: AttnShape| {
                let case = Case::of(Kind::Plain, shape, Sage::default()).with_format(format);
                case.problem(&case.quantised()).run_int8(&device).err()
            };
            assert_eq!(int8(shape(1, 70, 70, 128)), Some(Error::Int8Layout));
            let narrow = shape(1, 70, 70, 64).with_layout(HeadLayout::Blhd);
            assert!(matches!(int8(narrow), Some(Error::Setting { what: "head dim of an int8 output", .. })));

            let shape = shape(1, 70, 70, 128);
            let mut case = Case::of(Kind::Plain, shape, Sage::default()).with_format(format);
            let refused = |case: &Case| match case.run(&device) {
                Err(Error::Operand(OperandError::Length { what, .. })) => what,
                other => panic!("{other:?}"),
            };
            let mut short = added(&shape, Feature::Softmax, true);
            short.state.truncate(128 * 128);
            case.added = Some(short);
            assert_eq!(refused(&case), "state of the added term");
            let mut short = added(&shape, Feature::Softmax, true);
            short.q.truncate(69 * 128);
            case.added = Some(short);
            assert_eq!(refused(&case), "queries of the added term");
            let mut short = added(&shape, Feature::Softmax, true);
            short.bias = Some(vec![0.0; 127]);
            case.added = Some(short);
            assert_eq!(refused(&case), "bias of the added term");
        }
    }
}
