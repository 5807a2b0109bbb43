//! Linear layers in device memory. Those that read the same rows lie one behind the other, so that one product has them all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, Device, Stream, View};
use turbowan_cuda::ops::gemm_int8::device::DeviceWeight;
use turbowan_cuda::ops::quant::device::QuantBlock;
use turbowan_cuda::ops::quant::{BLOCK, Int8Rule, padded, padded_rows};

use super::tensor::Part;
use crate::Result;
use crate::backend::{LinearForm, LinearParameters, not_int8, weight_sides};

/// Weight and bias in device memory.
#[derive(Debug)]
pub struct DeviceLinear {
    pub(super) out: usize,
    pub(super) input: usize,
    pub(super) weight: Weight,
    bias: Option<Part<bf16>>,
    /// What gates a sum that has no gate, `[out]`.
    pub(super) ones: Arc<Buffer<f32>>,
    pub(super) rounding: Rounding,
}

#[derive(Debug)]
pub(super) enum Weight {
    /// `[out, input]`.
    Bf16(Part<bf16>),
    Int8(Int8Weight),
}

/// `values [out, padded(input)]` with `scales [ceil(out / 128), ceil(input / 128)]`; rows for it are quantised by `rule`.
#[derive(Debug)]
pub(super) struct Int8Weight {
    values: Part<i8>,
    scales: Part<f32>,
    pub rule: Int8Rule,
}

impl DeviceLinear {
    /// Whether it reads int8 rows of 1 x 128 blocks, which norms and attention can write.
    pub(super) fn reads_per_token(&self) -> bool {
        matches!(self.weight, Weight::Int8(Int8Weight { rule: Int8Rule::PerToken, .. }))
    }

    pub(super) fn bias(&self) -> Result<Option<View<'_, bf16>>> {
        self.bias.as_ref().map(Part::view).transpose()
    }

    fn int8_by(&self, rule: Int8Rule) -> Option<&Int8Weight> {
        match &self.weight {
            Weight::Int8(weight) if weight.rule == rule => Some(weight),
            _ => None,
        }
    }

    /// All of `layers` as one, where they were loaded so.
    pub(super) fn joined(layers: [&Self; 3]) -> Option<Self> {
        let [first, ..] = layers;
        let weight = match &first.weight {
            Weight::Bf16(_) => Weight::Bf16(joined(layers, |layer| match &layer.weight {
                Weight::Bf16(weight) => Some(weight),
                Weight::Int8(_) => None,
            })?),
            Weight::Int8(Int8Weight { rule, .. }) => {
                let values = joined(layers, |layer| layer.int8_by(*rule).map(|weight| &weight.values))?;
                let scales = joined(layers, |layer| layer.int8_by(*rule).map(|weight| &weight.scales))?;
                Weight::Int8(Int8Weight { values, scales, rule: *rule })
            }
        };
        let bias = match &first.bias {
            None if layers.iter().all(|layer| layer.bias.is_none()) => None,
            _ => Some(joined(layers, |layer| layer.bias.as_ref())?),
        };
        let (out, ones) = (layers.iter().map(|layer| layer.out).sum(), Arc::clone(&first.ones));
        Some(Self { out, input: first.input, weight, bias, ones, rounding: first.rounding })
    }

    /// The `out` outputs from `from` on, both whole blocks.
    fn part(&self, from: usize, out: usize, ones: Arc<Buffer<f32>>) -> Self {
        let weight = match &self.weight {
            Weight::Bf16(weight) => Weight::Bf16(weight.within(from * self.input, out * self.input)),
            Weight::Int8(Int8Weight { values, scales, rule }) => {
                let (row, block_row) = (padded(self.input), self.input.div_ceil(BLOCK));
                Weight::Int8(Int8Weight {
                    values: values.within(from * row, out * row),
                    scales: scales.within(from / BLOCK * block_row, out / BLOCK * block_row),
                    rule: *rule,
                })
            }
        };
        let bias = self.bias.as_ref().map(|bias| bias.within(from, out));
        Self { out, input: self.input, weight, bias, ones, rounding: self.rounding }
    }
}

/// What `part` takes of each layer, as one.
fn joined<'a, T>(layers: [&'a DeviceLinear; 3], part: impl Fn(&'a DeviceLinear) -> Option<&'a Part<T>>) -> Option<Part<T>>
where
    T: turbowan_cuda::host::aligned::Plain,
{
    let [a, b, c] = layers.map(part);
    Part::joined([a?, b?, c?])
}

impl Int8Weight {
    /// As an int8 product of `layer` reads it.
    pub fn operand(&self, layer: &DeviceLinear) -> Result<DeviceWeight<'_>> {
        Ok(DeviceWeight::new(layer.out, layer.input, self.values.view()?, self.scales.view()?)?)
    }
}

/// Layers of a checkpoint that read the same rows and become one, `[sum of outs, input]`.
struct Given<'a> {
    outs: Vec<usize>,
    input: usize,
    layers: Vec<LinearParameters<'a>>,
}

impl<'a> Given<'a> {
    fn one(parameters: LinearParameters<'a>) -> Result<Self> {
        let (LinearParameters::Float { weight, .. } | LinearParameters::Int8 { weight, .. }) = parameters;
        let [out, input] = weight_sides(&weight)?;
        Ok(Self { outs: vec![out], input, layers: vec![parameters] })
    }

    fn out(&self) -> usize {
        self.outs.iter().sum()
    }

    /// Whether `other` may lie behind it: the blocks of its int8 weight, which it has or will have, end where it does.
    fn may_precede(&self, other: &Self) -> bool {
        let are_alike = |(a, b): (&LinearParameters<'_>, &LinearParameters<'_>)| match (a, b) {
            (LinearParameters::Float { bias: a, .. }, LinearParameters::Float { bias: b, .. })
            | (LinearParameters::Int8 { bias: a, .. }, LinearParameters::Int8 { bias: b, .. }) => a.is_some() == b.is_some(),
            _ => false,
        };
        let has_whole_blocks = |(out, layer): (&usize, &LinearParameters<'_>)| match layer {
            LinearParameters::Float { .. } => out.is_multiple_of(BLOCK),
            LinearParameters::Int8 { scale, .. } => out.is_multiple_of(BLOCK) && scale.len() == out / BLOCK * self.input.div_ceil(BLOCK),
        };
        self.input == other.input
            && self.layers.iter().zip(&other.layers).all(are_alike)
            && self.outs.iter().zip(&self.layers).all(has_whole_blocks)
    }

    fn join(self, other: Self) -> Self {
        let Self { mut outs, input, mut layers } = self;
        outs.extend(other.outs);
        layers.extend(other.layers);
        Self { outs, input, layers }
    }

    /// All biases; none where the layers have none.
    fn bias(&self) -> Option<Vec<bf16>> {
        let of_layer = |layer: &LinearParameters<'_>| {
            let (LinearParameters::Float { bias, .. } | LinearParameters::Int8 { bias, .. }) = layer;
            bias.map(|bias| bias.to_bf16())
        };
        let biases = self.layers.iter().map(of_layer).collect::<Option<Vec<_>>>()?;
        Some(biases.concat())
    }

    /// All float weights, which nobody asks int8 layers for.
    fn float(&self) -> Vec<bf16> {
        let of_layer = |layer: &LinearParameters<'_>| match layer {
            LinearParameters::Float { weight, .. } => weight.to_bf16(),
            LinearParameters::Int8 { .. } => Vec::new(),
        };
        self.layers.iter().flat_map(of_layer).collect()
    }

    /// All int8 weights, their rows padded with zeros, and their scales; none where they are floats.
    fn int8(&self) -> Result<Option<(Vec<i8>, Vec<f32>)>> {
        let (mut values, mut scales) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            let LinearParameters::Int8 { weight, scale, .. } = layer else { return Ok(None) };
            let rows = weight.to_i8().ok_or_else(|| not_int8(weight))?;
            values.extend_from_slice(&padded_rows(&rows, self.input));
            scales.extend(scale.to_f32());
        }
        Ok(Some((values, scales)))
    }
}

/// Takes layers to a device.
#[derive(Debug)]
pub(super) struct Layers {
    quantise: QuantBlock,
    /// Ones by their number: layers of a width share theirs.
    ones: Mutex<HashMap<usize, Arc<Buffer<f32>>>>,
}

impl Layers {
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self { quantise: QuantBlock::load(device)?, ones: Mutex::default() })
    }

    /// Uploads a layer, and quantises its weight there where it is to be int8.
    pub fn one(&self, stream: &Stream, parameters: LinearParameters<'_>, form: LinearForm) -> Result<DeviceLinear> {
        self.upload(stream, &Given::one(parameters)?, form)
    }

    /// Uploads layers that read the same rows, one behind the other where their outputs are whole blocks.
    pub fn three(&self, stream: &Stream, parameters: [LinearParameters<'_>; 3], form: LinearForm) -> Result<[DeviceLinear; 3]> {
        let [a, b, c] = parameters.map(Given::one);
        let (a, b, c) = (a?, b?, c?);
        if !(a.may_precede(&b) && b.may_precede(&c) && c.may_precede(&c)) {
            return Ok([self.upload(stream, &a, form)?, self.upload(stream, &b, form)?, self.upload(stream, &c, form)?]);
        }
        let outs = [a.out(), b.out(), c.out()];
        let all = self.upload(stream, &a.join(b).join(c), form)?;
        let part = |from, out| Ok::<_, crate::Error>(all.part(from, out, self.ones(stream, out)?));
        Ok([part(0, outs[0])?, part(outs[0], outs[1])?, part(outs[0] + outs[1], outs[2])?])
    }

    fn upload(&self, stream: &Stream, given: &Given<'_>, form: LinearForm) -> Result<DeviceLinear> {
        let (out, input) = (given.out(), given.input);
        let weight = match given.int8()? {
            Some((values, scales)) => {
                let (values, scales) = (stream.upload(&values)?.into(), stream.upload(&scales)?.into());
                // a checkpoint that is int8 was tuned with rows in official blocks
                Weight::Int8(Int8Weight { values, scales, rule: Int8Rule::Official })
            }
            None => {
                let values = stream.upload_made(out * input, || given.float())?;
                if form.quantised { self.quantised(stream, &values, out, input)? } else { Weight::Bf16(values.into()) }
            }
        };
        let bias = given.bias().map(|bias| stream.upload(&bias)).transpose()?.map(Part::from);
        let layer = DeviceLinear { out, input, weight, bias, ones: self.ones(stream, out)?, rounding: form.rounding };
        if let Weight::Int8(weight) = &layer.weight {
            weight.operand(&layer)?;
        }
        Ok(layer)
    }

    fn quantised(&self, stream: &Stream, weight: &Buffer<bf16>, out: usize, input: usize) -> Result<Weight> {
        let (mut values, mut scales) =
            (stream.allocate(out * padded(input))?, stream.allocate(out.div_ceil(BLOCK) * input.div_ceil(BLOCK))?);
        self.quantise.run(stream, Int8Rule::Official, weight.view(), out, input, values.view_mut(), scales.view_mut())?;
        Ok(Weight::Int8(Int8Weight { values: values.into(), scales: scales.into(), rule: Int8Rule::PerToken }))
    }

    fn ones(&self, stream: &Stream, count: usize) -> Result<Arc<Buffer<f32>>> {
        let mut ones = self.ones.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match ones.entry(count) {
            Entry::Occupied(there) => Arc::clone(there.get()),
            Entry::Vacant(place) => Arc::clone(place.insert(Arc::new(stream.upload(&vec![1.0; count])?))),
        })
    }
}
