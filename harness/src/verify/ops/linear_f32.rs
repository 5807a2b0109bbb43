//! Linear layers over rows that stay in f32: the embedding of time and the head.

use half::bf16;
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, gemm};
use turbowan_cuda::ops::linear_f32::{KERNELS, LinearF32, ProductShape};
use turbowan_reference::gemm as truth;

use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

const AXES: &[Axis] = &[Axis::new("rows", 1, 40, 1), Axis::new("out", 1, 300, 1), Axis::new("input", 4, 1200, 4)];

/// One of them.
pub const OPS: [Op; 1] = [Op {
    name: "linear-f32",
    about: "x w^T + bias of f32 rows and a bf16 weight",
    axes: AXES,
    // one row and column, less than a lane has, ragged tiles of 4 rows and 32 columns, a sample's time, a head
    cases: || Case::cross(&[&[1, 1, 4], &[3, 5, 124], &[9, 33, 132], &[1, 300, 1160], &[30, 64, 128]], &[5, 34, 260], &Kind::ALL[1..]),
    tame: as_drawn,
    kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
    far: &[Far { shape: &[4, 32, 128], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 4, 1) }],
    prepare: Product::prepare,
}];

struct Product {
    shape: ProductShape,
    x: Vec<f32>,
    w: (Vec<bf16>, Vec<f32>),
    bias: (Vec<bf16>, Vec<f32>),
}

impl Product {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, columns, depth] = case.sizes();
        let x = case.kind.values(rows, depth, case.seed);
        let scale = (depth as f32).sqrt().recip();
        let w = bf16s(&Kind::Plain.values(columns, depth, case.seed + 1).into_iter().map(|w| w * scale).collect::<Vec<_>>());
        let bias = bf16s(&Kind::Plain.values(1, columns, case.seed + 2));
        Ok(Box::new(Self { shape: ProductShape { rows, columns, depth }, x, w, bias }))
    }
}

impl Prepared for Product {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let ProductShape { rows, columns, depth } = self.shape;
        let mut out = vec![0.0; rows * columns];
        let end = Epilogue { bias: Some(&self.bias.1), ..Epilogue::PLAIN };
        gemm(&self.x, rows, &PackedMatrix::pack(&self.w.0, columns, depth)?, &end, &mut out)?;
        Ok(vec![Output::new("out", columns, &out)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let ProductShape { rows, columns, depth } = self.shape;
        let kernel = LinearF32::load(stand.device())?;
        let (x, w, bias) = (stand.upload_behind(stand.lead() * depth, &self.x)?, stand.upload(&self.w.0)?, stand.upload(&self.bias.0)?);
        let mut out = stand.room_behind::<f32>(stand.lead() * columns, rows * columns)?;
        let shape = ProductShape { rows: stand.lead() + rows, ..self.shape };
        stand.launch(|stream| Ok(kernel.run(stream, shape, x.view(), w.view(), Some(bias.view()), out.view_mut())?))?;
        Ok(vec![Output::new("out", columns, &stand.results(&out, rows * columns)?)])
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let depth = self.shape.depth;
        let want = truth::linear(&self.x, &self.w.1, Some(&self.bias.1), depth);
        let magnitudes = truth::linear_magnitude(&self.x, &self.w.1, Some(&self.bias.1), depth);
        let allowed = |index: usize, _| magnitudes[index] * f64::from(f32::EPSILON) * (depth as f64 / 8.0 + 4.0);
        let why = "each step of a sum rounds to f32; sums of the terms' magnitudes";
        Ok(vec![Held::each(&outputs[0], &want, allowed, "2^-23 (depth / 8 + 4) of the terms", why)])
    }
}
