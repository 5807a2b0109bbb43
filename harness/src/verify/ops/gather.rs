//! Operations that only move values: rows of a table, patches of a latent and back.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::gather::device::{Embedding, KERNELS, Patches, PlaneValues, Table};
use turbowan_cuda::ops::gather::{Planes, embed};
use turbowan_reference::gather as truth;
use turbowan_reference::inputs::Seeded;

use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `bf16` 1 has the table in bf16, 0 in f32.
const TABLE: &[Axis] = &[Axis::new("ids", 1, 60, 1), Axis::new("rows", 1, 60, 1), Axis::new("width", 8, 1024, 8), Axis::choice("bf16", 1)];

/// `f64` 1 has a sampler's state, 0 what a network is told beside it; `beside` other channels come before those of the planes,
/// and one after them.
const PATCH: &[Axis] = &[
    Axis::new("samples", 1, 2, 1),
    Axis::new("channels", 1, 20, 1),
    Axis::new("frames", 1, 3, 1),
    Axis::new("height", 2, 10, 2),
    Axis::new("width", 2, 14, 2),
    Axis::new("beside", 0, 20, 1),
    Axis::choice("f64", 1),
];

/// Samples of 128 values, and so are their rows: 32 threads a sample.
const FAR: &[Far] = &[Far { shape: &[2, 2, 1, 8, 8, 0, 0], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 8, 1) }];

/// The table, and both ways of the patches.
pub const OPS: [Op; 3] = [
    Op {
        name: "embedding",
        about: "rows of a table by their numbers, in bf16",
        axes: TABLE,
        cases: || Case::cross(&[&[1, 1, 8, 0], &[23, 19, 40, 1], &[5, 7, 1024, 0]], &[13, 60, 136, 1], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        // the table's rows lie as far out as the result's
        far: &[Far { shape: &[5, 3, 128, 1], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 16, 1) }],
        prepare: Lookup::prepare,
    },
    Op {
        name: "patchify",
        about: "planes as rows of (channel, 1, 2, 2) features among others, in bf16",
        cases: || {
            let shapes: [&[usize]; 4] =
                [&[1, 1, 1, 2, 2, 0, 0], &[2, 3, 3, 6, 10, 4, 1], &[1, 16, 2, 4, 8, 20, 0], &[1, 20, 1, 10, 14, 0, 1]];
            Case::cross(&shapes, &[2, 5, 2, 4, 6, 1, 1], &Kind::ALL[1..])
        },
        kernels: |chip| vec![(KERNELS[1].choose)(chip).1],
        ..patch(|case| Latent::prepare(case, true))
    },
    Op {
        name: "unpatchify",
        about: "planes of rows of (1, 2, 2, channel) features",
        cases: || {
            let shapes: [&[usize]; 3] = [&[1, 1, 1, 2, 2, 0, 0], &[2, 3, 3, 6, 10, 0, 0], &[1, 16, 2, 4, 8, 0, 0]];
            Case::cross(&shapes, &[2, 5, 2, 4, 6, 0, 0], &Kind::ALL[1..])
        },
        tame: |case| (case.shape[5], case.shape[6]) = (0, 0),
        kernels: |chip| vec![(KERNELS[2].choose)(chip).1],
        ..patch(|case| Latent::prepare(case, false))
    },
];

const fn patch(prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>) -> Op {
    Op { name: "", about: "", axes: PATCH, cases: Vec::new, tame: as_drawn, kernels: |_| Vec::new(), far: FAR, prepare }
}

struct Lookup {
    table: Vec<f32>,
    narrow: Option<Vec<bf16>>,
    width: usize,
    ids: Vec<u32>,
}

impl Lookup {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [ids, rows, width, is_bf16] = case.sizes();
        let table = case.kind.values(rows, width, case.seed);
        let (narrow, rounded) = bf16s(&table);
        let mut random = Seeded::new(case.seed + 1);
        let ids = (0..ids).map(|_| random.below(rows) as u32).collect();
        let (narrow, table) = if is_bf16 == 1 { (Some(narrow), rounded) } else { (None, table) };
        Ok(Box::new(Self { table, narrow, width, ids }))
    }
}

impl Prepared for Lookup {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        Ok(vec![Output::new("rows", self.width, &embed(&self.table, self.width, &self.ids)?)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let kernel = Embedding::load(stand.device())?;
        let (lead, before, len) = (stand.lead(), stand.lead() * self.width, self.ids.len() * self.width);
        let ids: Vec<u32> = self.ids.iter().map(|id| id + lead as u32).collect();
        let (ids, mut out) = (stand.upload_behind(lead, &ids)?, stand.room_behind::<bf16>(before, len)?);
        if let Some(narrow) = &self.narrow {
            let table = stand.upload_behind(before, narrow)?;
            stand.launch(|stream| Ok(kernel.run(stream, Table::Bf16(table.view()), self.width, ids.view(), out.view_mut())?))?;
        } else {
            let table = stand.upload_behind(before, &self.table)?;
            stand.launch(|stream| Ok(kernel.run(stream, Table::F32(table.view()), self.width, ids.view(), out.view_mut())?))?;
        }
        Ok(vec![Output::new("rows", self.width, &stand.results(&out, len)?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let mut want = truth::embed(&self.table, self.width, &self.ids);
        Rounding::Bf16.apply_row(&mut want);
        Ok(vec![Held::equal(&outputs[0], &want, "values are only rounded to bf16")])
    }
}

struct Latent {
    planes: Planes,
    x: Vec<f32>,
    beside: usize,
    is_f64: bool,
    /// From planes to rows, or back.
    to_rows: bool,
}

impl Latent {
    fn prepare(case: &Case, to_rows: bool) -> Result<Box<dyn Prepared>, Fault> {
        let [samples, channels, frames, height, width, beside, is_f64] = case.sizes();
        let planes = Planes { samples, channels, frames, height, width };
        let x = case.kind.values(samples * channels * frames * height, width, case.seed);
        Ok(Box::new(Self { planes, x, beside, is_f64: is_f64 == 1, to_rows }))
    }

    /// Features of a row of these channels alone.
    fn features(&self) -> usize {
        4 * self.planes.channels
    }

    fn output<T: Into<f64> + Copy>(&self, values: &[T]) -> Output {
        if self.to_rows { Output::new("rows", self.features(), values) } else { Output::new("planes", self.planes.width, values) }
    }
}

/// What the rows of other channels hold before, and after.
const OTHERS: f32 = 7.0;

impl Prepared for Latent {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let moved = if self.to_rows { self.planes.patches(&self.x)? } else { self.planes.unpatches(&self.x)? };
        Ok(vec![self.output(&moved)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let kernel = Patches::load(stand.device())?;
        let planes = Planes { samples: stand.lead() + self.planes.samples, ..self.planes };
        let (before, len) = (planes.values() - self.planes.values(), self.x.len());
        if !self.to_rows {
            let (rows, mut out) = (stand.upload_behind(before, &self.x)?, stand.room_behind::<f32>(before, len)?);
            stand.launch(|stream| Ok(kernel.undo(stream, &planes, rows.view(), out.view_mut())?))?;
            return Ok(vec![self.output(&stand.results(&out, len)?)]);
        }
        let all = self.planes.channels + if self.beside > 0 { self.beside + 1 } else { 0 };
        let (rows, first) = (self.planes.samples * self.planes.tokens(), self.beside);
        let others = vec![bf16::from_f32(OTHERS); rows * 4 * all];
        let mut out = stand.upload_behind(stand.lead() * self.planes.tokens() * 4 * all, &others)?;
        if self.is_f64 {
            let x: Vec<f64> = self.x.iter().map(|x| f64::from(*x)).collect();
            let x = stand.upload_behind(before, &x)?;
            stand.launch(|stream| Ok(kernel.run(stream, &planes, PlaneValues::F64(x.view()), all, first, out.view_mut())?))?;
        } else {
            let x = stand.upload_behind(before, &self.x)?;
            stand.launch(|stream| Ok(kernel.run(stream, &planes, PlaneValues::F32(x.view()), all, first, out.view_mut())?))?;
        }
        let out = stand.results(&out, others.len())?;
        let ours = 4 * first..4 * first + self.features();
        let of = |is_ours: bool| -> Vec<bf16> {
            let kept = |(index, value): (usize, &bf16)| (ours.contains(&(index % (4 * all))) == is_ours).then_some(*value);
            out.iter().enumerate().filter_map(kept).collect()
        };
        Ok(vec![self.output(&of(true)), Output::new("features of others", 4, &of(false))])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let planes = [self.planes.samples, self.planes.channels, self.planes.frames, self.planes.height, self.planes.width];
        let want = if self.to_rows {
            let mut rows = truth::patches(&self.x, planes);
            Rounding::Bf16.apply_row(&mut rows);
            rows
        } else {
            truth::unpatches(&self.x, planes)
        };
        let mut held = vec![Held::equal(&outputs[0], &want, "values only move, rows are rounded to bf16")];
        held.extend(outputs.get(1).map(|others| Held::equal(others, &vec![OTHERS; others.values.len()], "they are another call's")));
        Ok(held)
    }
}
