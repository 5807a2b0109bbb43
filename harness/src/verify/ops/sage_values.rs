//! Values as attention reads them: e4m3 with a scale a channel, in channels or in tiles, and f16.

use half::{bf16, f16};
use turbowan_cuda::AttnShape;
use turbowan_reference::sage as truth;
use turbowan_sage::device::prepare::{E4m3Values, Half, KERNELS, QuantValues, ValueLayout};
use turbowan_sage::{Fp8Values, Sage, quantise_values, tiled_len};

use super::attention::{AfterZeros, Heads, shape_of};
use super::sage_quantise::{narrowed, stored};
use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// The largest of a channel becomes 2.25, or with `largest` 448; `f16` values are f16 rather than bf16.
const E4M3: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("len", 1, 400, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("largest", 1),
    Axis::choice("f16", 1),
    Axis::choice("tokens-first", 1),
];

const F16: &[Axis] = &[Axis::new("count", 8, 20_000, 8)];

/// The largest e4m3 values.
const SCALE_MAX: [f32; 2] = [2.25, 448.0];
/// Values are padded to a multiple of so many tokens.
const PAD: usize = 64;

/// In e4m3 and in f16.
pub const OPS: [Op; 2] = [
    Op {
        name: "sage-quantise-values",
        about: "e4m3 values, tokens innermost, the largest of each channel becoming 2.25 or 448",
        axes: E4M3,
        cases: || {
            let shapes: [&[usize]; 6] = [
                &[1, 1, 64, 0, 0, 0],
                &[2, 65, 128, 1, 1, 1],
                &[1, 328, 128, 0, 0, 0],
                &[1, 600, 64, 1, 0, 0],
                &[3, 64, 64, 1, 1, 0],
                &[1, 129, 128, 0, 1, 0],
            ];
            Case::cross(&shapes, &[1, 150, 128, 0, 0, 0], &Kind::ALL[1..])
        },
        tame: as_drawn,
        // a chip without e4m3 takes the f16 values below in their place
        kernels: |chip| {
            let kernels = KERNELS[4..6].iter().map(|kernel| (kernel.choose)(chip).1).collect::<Vec<_>>();
            if kernels.contains(&"value_f16") { Vec::new() } else { kernels }
        },
        far: &[Far { shape: &[2, 64, 128, 1, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) }],
        prepare: Codes::prepare,
    },
    Op {
        name: "sage-values-f16",
        about: "bf16 values as f16, each the nearest",
        axes: F16,
        cases: || Case::cross(&[&[8], &[72], &[8192], &[20_000]], &[1200], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[6].choose)(chip).1],
        // a block casts 8192 values
        far: &[Far { shape: &[8192], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 1) }],
        prepare: Cast::prepare,
    },
];

struct Codes {
    heads: Heads,
    is_f16: bool,
    scale_max: f32,
    want: Fp8Values,
}

impl Codes {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, len, dim, largest, is_f16, tokens_first] = case.sizes();
        let heads = Heads::draw(case.kind, shape_of(heads, 1, len, dim, tokens_first == 1)?, case.seed);
        let heads = stored(heads, is_f16 == 1).1;
        let scale_max = *SCALE_MAX.get(largest).ok_or(Fault::Case("largest is 0 or 1"))?;
        let mut want = Fp8Values { transposed: Vec::new(), scales: Vec::new(), padded_len: len.next_multiple_of(PAD) };
        for problem in 0..heads.shape.problems() {
            let values = truth::quantise_values(&heads.keys(&heads.v, problem), dim, scale_max, PAD);
            want.transposed.extend(values.transposed);
            want.scales.extend(values.scales);
        }
        Ok(Box::new(Self { heads, is_f16: is_f16 == 1, scale_max, want }))
    }

    fn on_host<T: Half>(&self) -> Result<Vec<Output>, Fault> {
        let got = quantise_values(&narrowed::<T>(&self.heads.v), &self.heads.shape, self.scale_max, PAD, &Sage::default())?;
        Ok(vec![Output::new("codes", got.padded_len, &got.transposed), Output::new("scales", 1, &got.scales)])
    }

    fn on<T: Half>(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let own = &self.heads.shape;
        let AttnShape { key_len, head_dim: dim, .. } = *own;
        let after = AfterZeros::new(own, stand.lead());
        let (values, channels) = (narrowed::<T>(&self.heads.v), own.problems() * dim);
        let values = stand.upload_behind(after.behind(values.len()), &values)?;
        let kernels = QuantValues::load(stand.device())?;
        let padded_len = self.want.padded_len;
        let layouts = [
            ("permuted", ValueLayout::Channels { padded_len }, channels * padded_len),
            ("tiles", ValueLayout::Tiles, tiled_len(own.problems(), key_len, dim)),
        ];
        let mut outputs = Vec::new();
        for (name, layout, count) in layouts {
            let mut codes = stand.room_behind::<u8>(after.behind(count), count)?;
            let mut scales = stand.room_behind::<f32>(after.behind(channels), channels)?;
            let mut amax = stand.room_behind::<u32>(after.behind(channels), channels)?;
            stand.launch(|stream| {
                let out = E4m3Values { values: codes.view_mut(), layout, scales: scales.view_mut(), amax: amax.view_mut() };
                Ok(kernels.e4m3(stream, values.view(), &after.shape, self.scale_max, out)?)
            })?;
            outputs.push(Output::new(name, padded_len, &stand.results(&codes, count)?));
            outputs.push(Output::new("scales", 1, &stand.results(&scales, channels)?));
        }
        Ok(outputs)
    }
}

impl Prepared for Codes {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        if self.is_f16 { self.on_host::<f16>() } else { self.on_host::<bf16>() }
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        if self.is_f16 { self.on::<f16>(stand) } else { self.on::<bf16>(stand) }
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let why = "the scale and the rounding to e4m3 are defined";
        let AttnShape { key_len, head_dim, .. } = self.heads.shape;
        let held = outputs.iter().map(|output| match output.name {
            "codes" => Held::equal(output, &self.want.transposed, why),
            "permuted" => Held::equal(output, &self.want.permuted(), why),
            "tiles" => Held::equal(output, &self.want.tiled(head_dim, key_len), "the same, elsewhere"),
            _ => Held::equal(output, &self.want.scales, why),
        });
        Ok(held.collect())
    }
}

struct Cast {
    values: Vec<bf16>,
    want: Vec<f32>,
}

impl Cast {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [count] = case.sizes();
        let (values, wide) = bf16s(&case.kind.values(count / 8, 8, case.seed));
        Ok(Box::new(Self { values, want: wide.into_iter().map(|value| truth::Stored::F16.round(value)).collect() }))
    }
}

impl Prepared for Cast {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let values: Vec<f16> = self.values.iter().map(|value| f16::from_f32(value.to_f32())).collect();
        Ok(vec![Output::new("values", 8, &values)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        // so many times the case's own values come first
        let before = stand.lead() * self.values.len();
        let values = stand.upload_behind(before, &self.values)?;
        let mut out = stand.room_behind::<f16>(before, self.values.len())?;
        let kernels = QuantValues::load(stand.device())?;
        stand.launch(|stream| Ok(kernels.f16(stream, values.view(), out.view_mut())?))?;
        Ok(vec![Output::new("values", 8, &stand.results(&out, self.values.len())?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        Ok(vec![Held::equal(&outputs[0], &self.want, "one rounding")])
    }
}
