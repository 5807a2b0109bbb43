//! Operations of single values: a sampler's step, a gated sum, the embedding of times.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::elementwise::device::{CombineStep, Embedded, KERNELS, ResidualGate, Sinusoids};
use turbowan_cuda::ops::elementwise::{Combine, residual_gate, sinusoids, time_frequencies};
use turbowan_reference::elementwise as truth;

use super::{FAR_ROWS, HALF_STEP, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `noise` 1 adds noise; `scaled` 0 leaves the sum as it is.
const STEP: &[Axis] = &[Axis::new("values", 1, 3000, 1), Axis::choice("noise", 1), Axis::choice("scaled", 1)];

/// `groups` of rows have a gate each; 0 is a sum without one.
const SUM: &[Axis] = &[Axis::new("rows", 1, 60, 1), Axis::new("width", 8, 1536, 8), Axis::new("groups", 0, 8, 1)];

/// `half` frequencies of each time.
const TIMES: &[Axis] = &[Axis::new("times", 1, 40, 1), Axis::new("half", 1, 300, 1), Axis::choice("bf16", 1)];

/// Three of them.
pub const OPS: [Op; 3] = [
    Op {
        name: "sampler-step",
        about: "scale (x + factor v) + weight noise of f64 states",
        axes: STEP,
        // less than a thread's four, a thread and one more value, a block and one more
        cases: || Case::cross(&[&[1, 0, 0], &[3, 1, 1], &[5, 1, 0], &[1025, 0, 1], &[2048, 1, 1]], &[130, 1, 1], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        far: &[Far { shape: &[700, 0, 1], lead: 1 << 31, blocks: (1 << 21, 1) }],
        prepare: Step::prepare,
    },
    Op {
        name: "gated-sum",
        about: "x + gate y in bf16",
        axes: SUM,
        cases: || Case::cross(&[&[1, 8, 1], &[3, 40, 0], &[7, 1536, 3], &[60, 128, 1]], &[5, 264, 2], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[2].choose)(chip).1],
        far: &[Far { shape: &[5, 128, 5], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 16, 1) }],
        prepare: Sum::prepare,
    },
    Op {
        name: "time-embedding",
        about: "cos(t w) and sin(t w) with w = 10000^(-i / half)",
        axes: TIMES,
        cases: || Case::cross(&[&[1, 1, 0], &[3, 129, 0], &[5, 50, 1], &[2, 128, 1]], &[6, 128, 0], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[3].choose)(chip).1],
        far: &[Far { shape: &[2, 64, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 2, 1) }],
        prepare: Times::prepare,
    },
];

/// Two numbers of a schedule.
const FACTOR: f64 = -0.937_5 / 3.0;
const SCALE: f64 = 1.0 - 0.833_333_333_3;

struct Step {
    step: Combine,
    x: Vec<f64>,
    v: Vec<f32>,
    noise: Option<Vec<f32>>,
}

impl Step {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [values, noise, scaled] = case.sizes();
        let draw = |more| case.kind.values(1, values, case.seed + more);
        // a state has more bits than a velocity
        let x = draw(0).iter().zip(draw(1)).map(|(a, b)| f64::from(*a) + f64::from(b) * 1e-9).collect();
        let step = Combine { factor: FACTOR, scale: if scaled == 1 { SCALE } else { 1.0 }, weight: if noise == 1 { 0.8 } else { 0.0 } };
        Ok(Box::new(Self { step, x, v: draw(2), noise: (noise == 1).then(|| draw(3)) }))
    }

    fn on_host(&self) -> Result<Vec<f64>, Fault> {
        let mut x = self.x.clone();
        self.step.apply(&mut x, &self.v, self.noise.as_deref())?;
        Ok(x)
    }
}

impl Prepared for Step {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        Ok(vec![Output::new("state", self.x.len(), &self.on_host()?)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (kernel, before) = (CombineStep::load(stand.device())?, stand.lead());
        let (mut x, v) = (stand.upload_behind(before, &self.x)?, stand.upload_behind(before, &self.v)?);
        let noise = self.noise.as_ref().map(|noise| stand.upload_behind(before, noise)).transpose()?;
        stand.launch(|stream| Ok(kernel.run(stream, self.step, x.view_mut(), v.view(), noise.as_ref().map(|noise| noise.view()))?))?;
        Ok(vec![Output::new("state", self.x.len(), &stand.results(&x, self.x.len())?)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let Combine { factor, scale, weight } = self.step;
        let want = truth::combine(&self.x, &self.v, self.noise.as_deref(), [factor, scale, weight.into()]);
        let allowed = |index: usize, _| {
            let noise = self.noise.as_ref().map_or(0.0, |noise| f64::from(weight * noise[index]).abs());
            let sum = scale.abs() * (self.x[index].abs() + (factor * f64::from(self.v[index])).abs());
            2.0 * f64::EPSILON * (sum + noise) + 6e-8 * noise + 1e-300
        };
        let why = "four roundings to f64, and one of the noise to f32";
        let mut held = vec![Held::each(&outputs[0], &want, allowed, "2^-51 of the terms + 2^-24 |noise|", why)];
        if place != Place::Host {
            held.push(Held::equal(&outputs[0], &self.on_host()?, "every operation rounds once").called("state, to the host's bits"));
        }
        Ok(held)
    }
}

struct Sum {
    x: (Vec<bf16>, Vec<f32>),
    y: (Vec<bf16>, Vec<f32>),
    gate: Option<Vec<f32>>,
    width: usize,
    rows_per_gate: usize,
}

impl Sum {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, width, groups] = case.sizes();
        let [x, y] = [0, 1].map(|more| bf16s(&case.kind.values(rows, width, case.seed + more)));
        let rows_per_gate = rows.div_ceil(groups.clamp(1, rows));
        let gate = (groups > 0).then(|| Kind::Plain.values(rows.div_ceil(rows_per_gate), width, case.seed + 2));
        Ok(Box::new(Self { x, y, gate, width, rows_per_gate }))
    }

    fn gate(&self) -> Option<(&[f32], usize)> {
        self.gate.as_deref().map(|gate| (gate, self.rows_per_gate))
    }
}

impl Prepared for Sum {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let mut x = self.x.1.clone();
        residual_gate(&mut x, &self.y.1, self.gate(), self.width)?;
        Ok(vec![Output::new("rows", self.width, &x)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (kernel, before) = (ResidualGate::load(stand.device())?, stand.lead() * self.width);
        let (mut x, y) = (stand.upload_behind(before, &self.x.0)?, stand.upload_behind(before, &self.y.0)?);
        let before_gates = stand.lead() / self.rows_per_gate * self.width;
        let gate = self.gate.as_ref().map(|gate| stand.upload_behind(before_gates, gate)).transpose()?;
        stand.launch(|stream| {
            let gate = gate.as_ref().map(|gate| (gate.view(), self.rows_per_gate));
            Ok(kernel.run(stream, x.view_mut(), y.view(), gate, self.width)?)
        })?;
        Ok(vec![Output::new("rows", self.width, &stand.results(&x, self.x.0.len())?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let want = truth::gated_sum(&self.x.1, &self.y.1, self.gate(), self.width);
        let allowed = |index: usize, want: f64| {
            let product = (want - f64::from(self.x.1[index])).abs();
            1.01 * HALF_STEP * (product + want.abs())
        };
        let why = "the product rounds to bf16, and the sum";
        Ok(vec![Held::each(&outputs[0], &want, allowed, "2^-8 (|gate y| + |out|)", why)])
    }
}

struct Times {
    times: Vec<f32>,
    half: usize,
    is_bf16: bool,
}

impl Times {
    /// Up to 1000, as a network's are; of the kinds the large ones are up to 40,000.
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [times, half, is_bf16] = case.sizes();
        let span = if case.kind == Kind::Large { 1.0 } else { 250.0 };
        let times = case.kind.values(1, times, case.seed).iter().map(|t| (t * span).abs()).collect();
        Ok(Box::new(Self { times, half, is_bf16: is_bf16 == 1 }))
    }
}

impl Prepared for Times {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let mut out = sinusoids(&self.times, &time_frequencies(self.half));
        if self.is_bf16 {
            Rounding::Bf16.apply_row(&mut out);
        }
        Ok(vec![Output::new("turns", 2 * self.half, &out)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (kernel, width) = (Sinusoids::load(stand.device())?, 2 * self.half);
        let times = stand.upload_behind(stand.lead(), &self.times)?;
        let frequencies = stand.upload(&time_frequencies(self.half))?;
        let (before, len) = (stand.lead() * width, self.times.len() * width);
        if self.is_bf16 {
            let mut out = stand.room_behind::<bf16>(before, len)?;
            stand.launch(|stream| Ok(kernel.run(stream, times.view(), frequencies.view(), Embedded::Bf16(out.view_mut()))?))?;
            return Ok(vec![Output::new("turns", width, &stand.results(&out, len)?)]);
        }
        let mut out = stand.room_behind::<f32>(before, len)?;
        stand.launch(|stream| Ok(kernel.run(stream, times.view(), frequencies.view(), Embedded::F32(out.view_mut()))?))?;
        Ok(vec![Output::new("turns", width, &stand.results(&out, len)?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let want = truth::sinusoids(&self.times, self.half);
        let stored = if self.is_bf16 { 1.01 * HALF_STEP } else { 6e-8 };
        let allowed = |index: usize, want: f64| {
            let time = f64::from(self.times[index / (2 * self.half)]);
            stored * want.abs() + 2.0 * f64::EPSILON * time + 1e-15
        };
        let why = "the angle and its reduction in f64, then one rounding";
        Ok(vec![Held::each(&outputs[0], &want, allowed, "2^-24 |y| + 2^-51 t, in bf16 2^-8 |y|", why)])
    }
}
