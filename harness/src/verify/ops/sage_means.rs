//! The mean key that smooths keys, and what means and sums of blocks of rows are held to.

use half::{bf16, f16};
use turbowan_reference::sage as truth;
use turbowan_sage::Sage;
use turbowan_sage::device::prepare::{Half, KERNELS, MeanKeys, sums_len};
use turbowan_sage::mean_keys;

use super::FAR_ROWS;
use super::attention::{AfterZeros, Heads, shape_of};
use super::sage_quantise::{half_step, narrowed, stored};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `f16` keys are f16 rather than bf16.
const MEANS: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("len", 1, 700, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("f16", 1),
    Axis::choice("tokens-first", 1),
];

/// The mean key.
pub const OPS: [Op; 1] = [Op {
    name: "sage-mean-key",
    about: "the mean key of each head, by sums over 64 keys",
    axes: MEANS,
    cases: || {
        let shapes: [&[usize]; 5] =
            [&[1, 1, 64, 0, 0], &[2, 65, 128, 1, 1], &[1, 328, 128, 0, 0], &[3, 64, 64, 1, 0], &[1, 4485, 64, 0, 0]];
        Case::cross(&shapes, &[2, 150, 128, 0, 0], &Kind::ALL[1..])
    },
    tame: as_drawn,
    kernels: |chip| KERNELS[1..3].iter().map(|kernel| (kernel.choose)(chip).1).collect(),
    // of the two kernels the first, whose blocks are a head each
    far: &[Far { shape: &[2, 64, 128, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) }],
    prepare: Mean::prepare,
}];

/// Exact means of blocks of one head's rows, and of their magnitudes.
pub(super) fn block_means(rows: &[f32], dim: usize, block_rows: usize) -> Vec<(f64, f64)> {
    let mean = |block: &[f32], channel: usize| {
        let values = block.iter().skip(channel).step_by(dim).map(|value| f64::from(*value));
        let (sum, size) = values.fold((0.0, 0.0), |(sum, size), value| (sum + value, size + value.abs()));
        let count = (block.len() / dim) as f64;
        (sum / count, size / count)
    };
    rows.chunks(block_rows * dim).flat_map(|block| (0..dim).map(move |channel| mean(block, channel))).collect()
}

/// Exact sums over every 64 of one head's rows, and of their magnitudes.
pub(super) fn block_sums(rows: &[f32], dim: usize) -> Vec<(f64, f64)> {
    let of_block = |block: &[f32]| {
        let count = (block.len() / dim) as f64;
        block_means(block, dim, 64).into_iter().map(move |(mean, size)| (mean * count, size * count))
    };
    rows.chunks(64 * dim).flat_map(of_block).collect()
}

/// Holds means that were summed in f32 and rounded once, by at most `half_step` of themselves.
pub(super) fn hold_means(got: &Output, want: &[(f64, f64)], half_step: f64) -> Held {
    let means: Vec<f64> = want.iter().map(|(mean, _)| *mean).collect();
    let allowed = |index: usize, mean: f64| half_step * 1.01 * mean.abs() + 1e-6 * want[index].1;
    Held::each(got, &means, allowed, "half a step + 1e-6 of the rows", "a sum of 128 rows in f32, rounded once")
}

struct Mean {
    heads: Heads,
    stored: truth::Stored,
    want: Vec<f32>,
    /// Sums of every 64 keys, and of their magnitudes.
    sums: Vec<(f64, f64)>,
}

impl Mean {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, len, dim, is_f16, tokens_first] = case.sizes();
        let (stored, heads) = stored(Heads::draw(case.kind, shape_of(heads, 1, len, dim, tokens_first == 1)?, case.seed), is_f16 == 1);
        let (mut want, mut sums) = (Vec::new(), Vec::new());
        for problem in 0..heads.shape.problems() {
            let keys = heads.keys(&heads.k, problem);
            want.extend(truth::mean_row(&keys, dim, stored));
            sums.extend(block_sums(&keys, dim));
        }
        Ok(Box::new(Self { heads, stored, want, sums }))
    }

    fn on<T: Half>(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let own = &self.heads.shape;
        let after = AfterZeros::new(own, stand.lead());
        let (k, dim) = (narrowed::<T>(&self.heads.k), own.head_dim);
        let k = stand.upload_behind(after.behind(k.len()), &k)?;
        let mut sums = stand.room_behind(after.behind(sums_len(own)), sums_len(own))?;
        let mut means = stand.room_behind(after.behind(self.want.len()), self.want.len())?;
        let kernels = MeanKeys::load(stand.device())?;
        stand.launch(|stream| Ok(kernels.run(stream, k.view(), &after.shape, sums.view_mut(), means.view_mut())?))?;
        let mut outputs = vec![Output::new("sums", dim, &stand.results(&sums, sums_len(own))?)];
        if stand.lead() == 0 {
            outputs.push(Output::new("means", dim, &stand.results(&means, self.want.len())?));
        }
        Ok(outputs)
    }
}

impl Prepared for Mean {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let (k, shape, sage) = (&self.heads.k, &self.heads.shape, Sage::default());
        let means = match self.stored {
            truth::Stored::F16 => mean_keys(&narrowed::<f16>(k), shape, &sage)?,
            _ => mean_keys(&narrowed::<bf16>(k), shape, &sage)?,
        };
        Ok(vec![Output::new("means", shape.head_dim, &means)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        if self.stored == truth::Stored::F16 { self.on::<f16>(stand) } else { self.on::<bf16>(stand) }
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let held = outputs.iter().map(|output| match (output.name, place) {
            ("sums", _) => hold_sums(output, &self.sums),
            (_, Place::Host) => Held::equal(output, &self.want, "sums in f64, rounded once"),
            _ => {
                let unit = 2.0 * half_step(self.stored);
                let why = "sums in f32 may fall on the other side of a tie";
                Held::each(output, &self.want, |_, want| unit * want.abs(), "a unit in the last place", why)
            }
        });
        Ok(held.collect())
    }
}

/// Holds sums of 64 rows in f32 to the exact ones, each beside the sum of its magnitudes.
pub(super) fn hold_sums(got: &Output, want: &[(f64, f64)]) -> Held {
    let sums: Vec<f64> = want.iter().map(|(sum, _)| *sum).collect();
    Held::each(got, &sums, |index, _| 1e-6 * want[index].1, "1e-6 of the magnitudes", "a few f32 roundings on the way of a row")
}
