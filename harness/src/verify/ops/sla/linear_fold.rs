//! The projection folded into the sums of the linear branch.

use half::bf16;
use turbowan_sla::device::linear::{Fold, KERNELS, LinearFold, folded};

use super::wide;
use crate::verify::ops::HALF_STEP;
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

/// `fold` 0 is none, 1 the way forward, 2 the way back; `extra` rows follow those that are read.
const AXES: &[Axis] = &[Axis::new("heads", 1, 4, 1), Axis::new("dim", 64, 128, 64), Axis::choice("fold", 2), Axis::choice("extra", 2)];

/// Heads of 65 rows of 64 channels before a case whose offsets lie past 2^31.
const FAR_HEADS: usize = (1 << 31) / (65 * 64) + 1;

/// It is one.
pub const OPS: [Op; 1] = [Op {
    name: "linear-fold",
    about: "bf16((H W^T)^T), or of H W, and z: what rows of the linear branch are multiplied with",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 5] = [&[1, 64, 0, 0], &[3, 64, 1, 1], &[1, 128, 2, 1], &[1, 128, 0, 2], &[2, 128, 1, 0]];
        Case::cross(&shapes, &[1, 64, 2, 1], &Kind::ALL[1..])
    },
    tame: |_| {},
    kernels: |chip| vec![(KERNELS[2].choose)(chip).1],
    // four blocks a head
    far: &[Far { shape: &[2, 64, 1, 0], lead: FAR_HEADS, blocks: (4 * FAR_HEADS as u64, 8) }],
    prepare: Folded::prepare,
}];

struct Folded {
    heads: usize,
    dim: usize,
    fold: usize,
    state: Vec<f32>,
    weight: Vec<f32>,
    want: Vec<f64>,
    sizes: Vec<f64>,
}

impl Folded {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, dim, fold, extra] = case.sizes();
        let state = case.kind.values(heads * (dim + 1 + extra), dim, case.seed);
        let weight: Vec<f32> = Kind::Plain.values(dim, dim, case.seed + 1).into_iter().map(|w| w / (dim as f32).sqrt()).collect();
        let (mut want, mut sizes) = (Vec::new(), Vec::new());
        let exact = wide(&weight);
        for head in wide(&state).chunks((dim + 1 + extra) * dim) {
            for column in 0..dim {
                for row in head.chunks(dim).take(dim) {
                    let terms: Vec<f64> = match fold {
                        0 => vec![row[column]],
                        1 => row.iter().zip(&exact[column * dim..]).map(|(h, w)| h * w).collect(),
                        _ => row.iter().zip(exact.iter().skip(column).step_by(dim)).map(|(h, w)| h * w).collect(),
                    };
                    want.push(terms.iter().sum());
                    sizes.push(terms.iter().map(|term| term.abs()).sum());
                }
            }
            want.extend(&head[dim * dim..][..dim]);
            sizes.extend(&[0.0; 128][..dim]);
        }
        Ok(Box::new(Self { heads, dim, fold, state, weight, want, sizes }))
    }

    fn twin(&self) -> Vec<bf16> {
        let weight = [None, Some((self.weight.as_slice(), true)), Some((self.weight.as_slice(), false))][self.fold.min(2)];
        folded(&self.state, self.dim, self.heads, weight)
    }
}

impl Prepared for Folded {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        Ok(vec![Output::new("folded", self.dim, &self.twin())])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (lead, len) = (stand.lead(), self.want.len());
        let state = stand.upload_behind(lead * (self.state.len() / self.heads), &self.state)?;
        let weight = stand.upload(&self.weight)?;
        let mut out = stand.room_behind::<bf16>(lead * (len / self.heads), len)?;
        let fold = [Fold::Plain, Fold::Transposed(weight.view()), Fold::Straight(weight.view())][self.fold.min(2)];
        let kernel = LinearFold::load(stand.device())?;
        stand.launch(|stream| Ok(kernel.run(stream, self.dim, state.view(), fold, out.view_mut())?))?;
        Ok(vec![Output::new("folded", self.dim, &stand.results(&out, len)?)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let allowed = |index: usize, want: f64| 1.01 * HALF_STEP * want.abs() + self.dim as f64 * 6e-8 * self.sizes[index];
        let mut held =
            vec![Held::each(&outputs[0], &self.want, allowed, "2^-8 |y| + D 2^-24 |H||W|", "a sum in f32, then rounded to bf16")];
        if place != Place::Host {
            held.push(
                Held::equal(&outputs[0], &self.twin(), "the same operations in the same order as the host's").called("bits of the twin"),
            );
        }
        Ok(held)
    }
}
