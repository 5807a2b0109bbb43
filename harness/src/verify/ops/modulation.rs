//! What the time does to a transformer's rows: the table of shifts, scales and gates, and rows under it in f32.

use half::bf16;
use turbowan_cuda::ops::modulation::{KERNELS, Modulation, Tables};
use turbowan_reference::elementwise as truth;

use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `shared` 1 adds the same to every chunk.
const TABLE: &[Axis] =
    &[Axis::new("chunks", 1, 6, 1), Axis::new("batch", 1, 8, 1), Axis::new("width", 4, 1536, 4), Axis::choice("shared", 1)];

/// `groups` of rows have a shift and a scale each.
const APPLY: &[Axis] = &[Axis::new("rows", 1, 60, 1), Axis::new("width", 8, 1536, 8), Axis::new("groups", 1, 8, 1)];

/// Two of them.
pub const OPS: [Op; 2] = [
    Op {
        name: "modulation",
        about: "table + e, chunk by chunk, in f32",
        axes: TABLE,
        cases: || Case::cross(&[&[1, 1, 4, 0], &[6, 2, 1536, 0], &[2, 3, 260, 1]], &[6, 3, 132, 0], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        // 1024 values a block
        far: &[Far { shape: &[1, 5, 128, 1], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 8, 1) }],
        prepare: Table::prepare,
    },
    Op {
        name: "modulated-rows-f32",
        about: "x (1 + scale) + shift of bf16 rows, in f32",
        axes: APPLY,
        cases: || Case::cross(&[&[1, 8, 1], &[3, 40, 2], &[7, 1536, 3], &[60, 128, 1]], &[5, 264, 2], &Kind::ALL[1..]),
        tame: as_drawn,
        kernels: |chip| vec![(KERNELS[1].choose)(chip).1],
        far: &[Far { shape: &[5, 128, 5], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 16, 1) }],
        prepare: Rows::prepare,
    },
];

struct Table {
    table: Vec<f32>,
    e: Vec<f32>,
    width: usize,
    is_shared: bool,
}

impl Table {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [chunks, batch, width, shared] = case.sizes();
        let (is_shared, e_chunks) = (shared == 1, if shared == 1 { 1 } else { chunks });
        let e = case.kind.values(batch, e_chunks * width, case.seed);
        Ok(Box::new(Self { table: Kind::Plain.values(chunks, width, case.seed + 1), e, width, is_shared }))
    }

    fn want(&self) -> Vec<f64> {
        truth::modulation(&self.table, &self.e, self.width, self.is_shared)
    }
}

impl Prepared for Table {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let rounded: Vec<f32> = self.want().into_iter().map(|value| value as f32).collect();
        Ok(vec![Output::new("table", self.width, &rounded)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let kernel = Modulation::load(stand.device())?;
        let chunks = self.table.len() / self.width;
        let e_chunks = if self.is_shared { 1 } else { chunks };
        // samples of zeros before those of the case, which has one chunk then
        let (table, e) = (stand.upload(&self.table)?, stand.upload_behind(stand.lead() * e_chunks * self.width, &self.e)?);
        let len = chunks / e_chunks * self.e.len();
        let mut out = stand.room_behind::<f32>(stand.lead() * self.width, len)?;
        stand.launch(|stream| Ok(kernel.table(stream, self.width, table.view(), e.view(), e_chunks, &[], out.view_mut())?))?;
        Ok(vec![Output::new("table", self.width, &stand.results(&out, len)?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let want = self.want();
        Ok(vec![Held::each(&outputs[0], &want, |_, want| 6e-8 * want.abs(), "2^-24 |y|", "one sum")])
    }
}

struct Rows {
    x: (Vec<bf16>, Vec<f32>),
    shift: Vec<f32>,
    scale: Vec<f32>,
    rows_per_group: usize,
    width: usize,
}

impl Rows {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, width, groups] = case.sizes();
        let rows_per_group = rows.div_ceil(groups.clamp(1, rows));
        let table = |more| Kind::Plain.values(rows.div_ceil(rows_per_group), width, case.seed + more);
        Ok(Box::new(Self { x: bf16s(&case.kind.values(rows, width, case.seed)), shift: table(1), scale: table(2), rows_per_group, width }))
    }

    fn table_at(&self, index: usize) -> usize {
        index / self.width / self.rows_per_group * self.width + index % self.width
    }
}

impl Prepared for Rows {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let value = |(index, x): (usize, &f32)| x * (1.0 + self.scale[self.table_at(index)]) + self.shift[self.table_at(index)];
        let rows: Vec<f32> = self.x.1.iter().enumerate().map(value).collect();
        Ok(vec![Output::new("rows", self.width, &rows)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (kernel, before) = (Modulation::load(stand.device())?, stand.lead() * self.width);
        let before_tables = stand.lead() / self.rows_per_group * self.width;
        let x = stand.upload_behind(before, &self.x.0)?;
        let (shift, scale) = (stand.upload_behind(before_tables, &self.shift)?, stand.upload_behind(before_tables, &self.scale)?);
        let mut out = stand.room_behind::<f32>(before, self.x.0.len())?;
        stand.launch(|stream| {
            let tables = Tables { shift: shift.view(), scale: scale.view(), rows_per_group: self.rows_per_group };
            Ok(kernel.apply(stream, self.width, x.view(), tables, out.view_mut())?)
        })?;
        Ok(vec![Output::new("rows", self.width, &stand.results(&out, self.x.0.len())?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let want = truth::modulated(&self.x.1, &self.shift, &self.scale, self.rows_per_group, self.width);
        let allowed = |index: usize, want: f64| {
            let (x, scale) = (f64::from(self.x.1[index]).abs(), f64::from(self.scale[self.table_at(index)]));
            6e-8 * (x * (1.0 + (1.0 + scale).abs()) + x * (1.0 + scale).abs() + want.abs())
        };
        Ok(vec![Held::each(&outputs[0], &want, allowed, "2^-24 of each step", "three roundings to f32")])
    }
}
