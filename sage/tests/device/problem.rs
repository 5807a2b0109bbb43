//! One problem on the host, quantised, and its way over a device.

use half::{bf16, f16};
use turbowan_cuda::device::{Buffer, Device, Stream};
use turbowan_cuda::{AttnShape, BlockMap};
use turbowan_sage::device::{Added as DeviceAdded, Feature, Keys, Map, Operands, Output, SageAttention, Values};
use turbowan_sage::{Error, Fp8Values, Quantised, Sage};

/// Values on the host.
#[derive(Clone, Copy)]
pub enum HostValues<'a> {
    F16(&'a [f16]),
    Fp8(&'a Fp8Values),
    /// The same, to be tiled with the keys.
    Tiled(&'a Fp8Values),
}

/// An added term on the host.
#[derive(Clone)]
pub struct Added {
    /// `[problems, query_len, head_dim]`.
    pub q: Vec<bf16>,
    /// `[problems, head_dim + 1, head_dim]`.
    pub state: Vec<bf16>,
    /// `[head_dim]`.
    pub bias: Option<Vec<f32>>,
    pub feature: Feature,
}

#[derive(Clone, Copy)]
pub struct Problem<'a> {
    pub q: &'a Quantised,
    pub k: &'a Quantised,
    pub values: HostValues<'a>,
    pub map: Option<&'a BlockMap>,
    pub added: Option<&'a Added>,
    pub shape: AttnShape,
    pub causal: bool,
    pub sage: Sage,
}

/// Output and log-sum-exp.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub out: Vec<f32>,
    pub lse: Vec<f32>,
}

impl Problem<'_> {
    /// With a bf16 output.
    pub fn run(&self, device: &Device) -> Result<Outcome, Error> {
        let stream = device.stream()?;
        let (uploaded, mut results) = (Uploaded::new(&stream, self)?, Results::new(&stream, &self.shape)?);
        uploaded.queue(&SageAttention::load(device)?, &stream, self, &mut results)?;
        results.outcome()
    }

    /// With an int8 output: values and scales.
    pub fn run_int8(&self, device: &Device) -> Result<(Vec<i8>, Vec<f32>), Error> {
        let stream = device.stream()?;
        let uploaded = Uploaded::new(&stream, self)?;
        let mut values = stream.allocate::<i8>(self.shape.query_values())?;
        let mut scales = stream.allocate::<f32>(self.shape.problems() * self.shape.query_len)?;
        let out = Output::Int8 { values: values.view_mut(), scales: scales.view_mut() };
        let (operands, attention) = (uploaded.operands(self), SageAttention::load(device)?);
        attention.run(&stream, &self.shape, &self.sage, self.causal, &operands, out, None)?;
        Ok((values.to_vec()?, scales.to_vec()?))
    }
}

/// A problem's operands on a device.
pub struct Uploaded {
    q: Buffer<i8>,
    q_scales: Buffer<f32>,
    k: Buffer<i8>,
    k_scales: Buffer<f32>,
    v_f16: Buffer<f16>,
    v_e4m3: Buffer<u8>,
    v_scales: Buffer<f32>,
    lists: Buffer<u32>,
    added_q: Buffer<bf16>,
    added_state: Buffer<bf16>,
    added_bias: Buffer<f32>,
}

/// Its results on a device.
pub struct Results {
    out: Buffer<bf16>,
    lse: Buffer<f32>,
}

impl Results {
    pub fn new(stream: &Stream, shape: &AttnShape) -> Result<Self, Error> {
        Ok(Self { out: stream.allocate(shape.query_values())?, lse: stream.allocate(shape.problems() * shape.query_len)? })
    }

    pub fn outcome(&self) -> Result<Outcome, Error> {
        Ok(Outcome { out: self.out.to_vec()?.into_iter().map(bf16::to_f32).collect(), lse: self.lse.to_vec()? })
    }
}

impl Uploaded {
    pub fn new(stream: &Stream, problem: &Problem<'_>) -> Result<Self, Error> {
        let shape = &problem.shape;
        let k = match problem.values {
            HostValues::Tiled(_) => problem.k.tiled(shape.head_dim),
            _ => problem.k.values.clone(),
        };
        let (v_f16, v_e4m3, v_scales) = match problem.values {
            HostValues::F16(values) => (values.to_vec(), vec![], vec![]),
            HostValues::Fp8(values) => (vec![], values.permuted(), values.scales.clone()),
            HostValues::Tiled(values) => (vec![], values.tiled(shape.head_dim, shape.key_len), values.scales.clone()),
        };
        let added = problem.added;
        Ok(Self {
            q: stream.upload(&problem.q.values)?,
            q_scales: stream.upload(&problem.q.scales)?,
            k: stream.upload(&k)?,
            k_scales: stream.upload(&problem.k.scales)?,
            v_f16: stream.upload(&v_f16)?,
            v_e4m3: stream.upload(&v_e4m3)?,
            v_scales: stream.upload(&v_scales)?,
            lists: stream.upload(problem.map.map_or(&[], BlockMap::lists))?,
            added_q: stream.upload(added.map_or(&[], |added| &added.q))?,
            added_state: stream.upload(added.map_or(&[], |added| &added.state))?,
            added_bias: stream.upload(added.and_then(|added| added.bias.as_deref()).unwrap_or(&[]))?,
        })
    }

    fn operands(&self, problem: &Problem<'_>) -> Operands<'_> {
        let values = match problem.values {
            HostValues::F16(_) => Values::F16(self.v_f16.view()),
            HostValues::Fp8(values) => {
                Values::Fp8 { permuted: self.v_e4m3.view(), scales: self.v_scales.view(), padded_len: values.padded_len }
            }
            HostValues::Tiled(_) => Values::Tiled { tiles: self.v_e4m3.view(), scales: self.v_scales.view() },
        };
        Operands {
            q: self.q.view(),
            q_scales: self.q_scales.view(),
            k: if matches!(problem.values, HostValues::Tiled(_)) { Keys::Tiled(self.k.view()) } else { Keys::Rows(self.k.view()) },
            k_scales: self.k_scales.view(),
            values,
            map: problem.map.map(|map| Map { lists: self.lists.view(), block_q: map.block_q(), block_k: map.block_k(), kept: map.kept() }),
            added: problem.added.map(|added| DeviceAdded {
                q: self.added_q.view(),
                state: self.added_state.view(),
                bias: added.bias.as_ref().map(|_| self.added_bias.view()),
                feature: added.feature,
            }),
        }
    }

    /// Queues the attention; allocates nothing.
    pub fn queue(&self, attention: &SageAttention, stream: &Stream, problem: &Problem<'_>, results: &mut Results) -> Result<(), Error> {
        let (out, lse) = (results.out.view_mut(), Some(results.lse.view_mut()));
        attention.run(stream, &problem.shape, &problem.sage, problem.causal, &self.operands(problem), out, lse)
    }
}
