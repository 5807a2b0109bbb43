//! Functions of single values behind a product, and the search for values that are none.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::activation::{self, Activate, Function};
use turbowan_cuda::ops::finite::{self, FirstNotFinite, Values};
use turbowan_reference::gemm as truth;

use super::{HALF_STEP, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `function` 0 and 1 are GELU in its tanh and its exact form, 2 SiLU.
const FUNCTION: &[Axis] = &[Axis::new("values", 8, 6000, 8), Axis::choice("function", 2), Axis::choice("bf16", 1)];

/// `faults` values are no numbers.
const SEARCH: &[Axis] = &[Axis::new("values", 8, 6000, 8), Axis::choice("faults", 3), Axis::choice("bf16", 1)];

/// Two of them: 8 values a thread, 2048 a block.
pub const OPS: [Op; 2] = [
    Op {
        name: "activation",
        about: "GELU or SiLU of every value",
        axes: FUNCTION,
        cases: || {
            Case::cross(
                &[&[8, 0, 0], &[2056, 1, 0], &[4096, 2, 0], &[24, 2, 0], &[2048, 0, 1], &[40, 1, 1]],
                &[1032, 0, 1],
                &Kind::ALL[1..],
            )
        },
        tame: as_drawn,
        kernels: |chip| vec![(activation::KERNELS[0].choose)(chip).1],
        far: &[Far { shape: &[1024, 0, 0], lead: 1 << 31, blocks: (1 << 20, 1) }],
        prepare: Activated::prepare,
    },
    Op {
        name: "first-not-finite",
        about: "the first chunk of 8 values with one that is infinite or no number",
        axes: SEARCH,
        cases: || Case::cross(&[&[8, 0, 0], &[8, 1, 1], &[2056, 1, 0], &[6000, 3, 1]], &[4096, 2, 0], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(finite::KERNELS[0].choose)(chip).1],
        far: &[Far { shape: &[1024, 2, 1], lead: 1 << 31, blocks: (1 << 20, 1) }],
        prepare: Search::prepare,
    },
];

struct Activated {
    function: Function,
    x: (Vec<bf16>, Vec<f32>),
    is_bf16: bool,
}

impl Activated {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [values, function, is_bf16] = case.sizes();
        let function = [Function::Gelu, Function::GeluErf, Function::Silu][function.min(2)];
        let values = case.kind.values(1, values, case.seed);
        let x = if is_bf16 == 1 { bf16s(&values) } else { (Vec::new(), values) };
        Ok(Box::new(Self { function, x, is_bf16: is_bf16 == 1 }))
    }

    fn on_host(&self) -> Vec<f32> {
        let rounding = if self.is_bf16 { Rounding::Bf16 } else { Rounding::None };
        self.x.1.iter().map(|x| rounding.apply(self.function.apply(*x))).collect()
    }
}

impl Prepared for Activated {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        Ok(vec![Output::new("values", self.x.1.len(), &self.on_host())])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (kernel, before, count) = (Activate::load(stand.device())?, stand.lead(), self.x.1.len());
        if self.is_bf16 {
            let mut x = stand.upload_behind(before, &self.x.0)?;
            stand.launch(|stream| Ok(kernel.in_place(stream, self.function, x.view_mut())?))?;
            return Ok(vec![Output::new("values", count, &stand.results(&x, count)?)]);
        }
        let (x, mut out) = (stand.upload_behind(before, &self.x.1)?, stand.room_behind::<f32>(before, count)?);
        stand.launch(|stream| Ok(kernel.run_f32(stream, self.function, x.view(), out.view_mut())?))?;
        Ok(vec![Output::new("values", count, &stand.results(&out, count)?)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let oracle = |x: &f32| match self.function {
            Function::Gelu => truth::gelu_tanh(f64::from(*x)),
            Function::GeluErf => truth::gelu_erf(f64::from(*x)),
            Function::Silu => truth::silu(f64::from(*x)),
        };
        let want: Vec<f64> = self.x.1.iter().map(oracle).collect();
        let allowed = |index: usize, want: f64| {
            let (x, stored) = (f64::from(self.x.1[index]).abs(), if self.is_bf16 { 1.01 * HALF_STEP } else { 0.0 });
            // far below zero a function is the product of x and a small share
            1e-6 * x.min(20.0) + (1e-6 + stored) * want.abs()
        };
        let why = "a dozen roundings of a share of x, in bf16 one more";
        let mut held = vec![Held::each(&outputs[0], &want, allowed, "1e-6 (|x| + |y|), in bf16 2^-8 |y|", why)];
        if place != Place::Host {
            let why = "multiplications, additions and true divisions";
            held.push(Held::equal(&outputs[0], &self.on_host(), why).called("values, to the host's bits"));
        }
        Ok(held)
    }
}

struct Search {
    x: (Vec<bf16>, Vec<f32>),
    is_bf16: bool,
}

impl Search {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [values, faults, is_bf16] = case.sizes();
        let mut x = case.kind.values(1, values, case.seed);
        for fault in 0..faults {
            let value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][fault % 3];
            x[(case.seed as usize * 977 + fault * 4099 + 5) % values] = value;
        }
        Ok(Box::new(Self { x: bf16s(&x), is_bf16: is_bf16 == 1 }))
    }

    /// The chunk, or -1.
    fn want(&self) -> f64 {
        self.x.1.iter().position(|x| !x.is_finite()).map_or(-1.0, |at| (at / 8) as f64)
    }
}

impl Prepared for Search {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        Ok(vec![Output::new("chunk", 1, &[self.want()])])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (kernel, before) = (FirstNotFinite::load(stand.device())?, stand.lead());
        let mut found = stand.upload(&[0u32])?;
        if self.is_bf16 {
            let x = stand.upload_behind(before, &self.x.0)?;
            stand.launch(|stream| Ok(kernel.look(stream, Values::Bf16(x.view()), found.view_mut())?))?;
        } else {
            let x = stand.upload_behind(before, &self.x.1)?;
            stand.launch(|stream| Ok(kernel.look(stream, Values::F32(x.view()), found.view_mut())?))?;
        }
        let code = stand.results(&found, 1)?[0];
        let chunk = if code == 0 { -1.0 } else { f64::from(u32::MAX - code) - (before / 8) as f64 };
        Ok(vec![Output::new("chunk", 1, &[chunk])])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        Ok(vec![Held::equal(&outputs[0], &[self.want()], "a value is a number or it is not")])
    }
}
