//! The choice of key blocks: the largest pooled scores of each query block.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_reference::sla::{Head, pooled_scores};
use turbowan_sla::device::{BlockSelect, KERNELS, Pooled};
use turbowan_sla::{Density, block_map};

use super::attention::{Heads, shape_of};
use super::{FAR_ROWS, HALF_STEP};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

/// `percent` is the share of key blocks that is kept.
const AXES: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 1500, 1),
    Axis::new("key", 1, 3000, 1),
    Axis::new("dim", 16, 256, 16),
    Axis::new("percent", 1, 100, 1),
];

/// Rows of a block.
const BLOCKS: (usize, usize) = (128, 64);

/// It is one.
pub const OPS: [Op; 1] = [Op {
    name: "block-select",
    about: "the key blocks of the largest scores mean(q) . mean(k - mean k), ascending",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 8] = [
            &[1, 1, 1, 16, 100],
            &[2, 300, 300, 32, 1],
            &[1, 1, 40, 128, 50],
            &[3, 129, 1000, 128, 10],
            &[1, 2100, 640, 64, 50],
            &[1, 300, 3000, 128, 10],
            &[1, 257, 130, 256, 100],
            &[2, 1000, 2500, 128, 25],
        ];
        Case::cross(&shapes, &[2, 300, 1000, 128, 20], &Kind::ALL[1..])
    },
    tame: |_| {},
    kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
    // 16 key blocks of 128 channels a head
    far: &[Far { shape: &[1, 128, 1024, 128, 20], lead: FAR_ROWS / 16, blocks: (FAR_ROWS as u64 / 16, 1) }],
    prepare: Select::prepare,
}];

struct Select {
    heads: Heads,
    density: Density,
    /// `[problems, query blocks, key blocks]`, and how far bf16 may move each.
    scores: Vec<f64>,
    moves: Vec<f64>,
}

impl Select {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, percent] = case.sizes();
        let density = Density::new(percent as f64 / 100.0).ok_or(Fault::Case("a percentage lies between 1 and 100"))?;
        let shape = shape_of(heads, query, key, dim, false)?;
        let mut heads = Heads::draw(case.kind, shape, case.seed);
        Rounding::Bf16.apply_row(&mut heads.q);
        Rounding::Bf16.apply_row(&mut heads.k);
        let (mut scores, mut moves) = (Vec::new(), Vec::new());
        for problem in 0..shape.problems() {
            let wide = |rows: Vec<f32>| rows.into_iter().map(f64::from).collect::<Vec<_>>();
            let [q, k, _] = heads.head(problem).map(wide);
            let head = Head { query_len: query, key_len: key, dim };
            scores.extend(pooled_scores(&q, &k, head, BLOCKS.0, BLOCKS.1));
            let (pooled_q, pooled_k) = (pooled(&q, dim, BLOCKS.0, false), pooled(&k, dim, BLOCKS.1, true));
            for q in pooled_q.chunks(dim) {
                let size = |k: &[f64]| q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum::<f64>();
                moves.extend(pooled_k.chunks(dim).map(|k| 4.0 * HALF_STEP * size(k) + 1e-9));
            }
        }
        Ok(Box::new(Self { heads, density, scores, moves }))
    }

    fn key_blocks(&self) -> usize {
        self.heads.shape.key_len.div_ceil(BLOCKS.1)
    }

    fn query_blocks(&self) -> usize {
        self.heads.shape.query_len.div_ceil(BLOCKS.0)
    }

    fn output(&self, lists: &[u32]) -> Vec<Output> {
        vec![Output::new("lists", self.density.blocks(self.key_blocks()), lists)]
    }
}

/// Means of the rows of each block, in f64; of keys, less the mean of all rows.
fn pooled(rows: &[f64], dim: usize, block: usize, is_smoothed: bool) -> Vec<f64> {
    let mean = |rows: &[f64], channel: usize| rows.iter().skip(channel).step_by(dim).sum::<f64>() / (rows.len() / dim) as f64;
    let whole: Vec<f64> = (0..dim).map(|channel| if is_smoothed { mean(rows, channel) } else { 0.0 }).collect();
    rows.chunks(block * dim).flat_map(|part| (0..dim).map(|channel| mean(part, channel) - whole[channel]).collect::<Vec<_>>()).collect()
}

impl Prepared for Select {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let map = block_map(&self.heads.q, &self.heads.k, &self.heads.shape, BLOCKS, self.density, Rounding::Bf16)?;
        Ok(self.output(map.lists()))
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let shape = &self.heads.shape;
        let (mut q, mut k) = (Vec::new(), Vec::new());
        for problem in 0..shape.problems() {
            let wide = |rows: Vec<f32>| rows.into_iter().map(f64::from).collect::<Vec<_>>();
            let [queries, keys, _] = self.heads.head(problem).map(wide);
            q.extend(pooled(&queries, shape.head_dim, BLOCKS.0, false));
            k.extend(pooled(&keys, shape.head_dim, BLOCKS.1, true));
        }
        let narrow = |rows: &[f64]| rows.iter().map(|row| bf16::from_f64(*row)).collect::<Vec<_>>();
        // whole heads of zeros come first
        let (own, lead) = (shape.problems(), stand.lead());
        let behind = |values: usize| lead * (values / own);
        let (q, k) = (stand.upload_behind(behind(q.len()), &narrow(&q))?, stand.upload_behind(behind(k.len()), &narrow(&k))?);
        let (problems, query_blocks, key_blocks) = (lead + own, self.query_blocks(), self.key_blocks());
        let len = own * query_blocks * self.density.blocks(key_blocks);
        let mut lists = stand.room_behind::<u32>(behind(len), len)?;
        let pooled = Pooled { q: q.view(), k: k.view(), problems, query_blocks, key_blocks, head_dim: shape.head_dim };
        let kernel = BlockSelect::load(stand.device())?;
        stand.launch(|stream| Ok(kernel.run(stream, pooled, self.density, lists.view_mut())?))?;
        Ok(self.output(&stand.results(&lists, len)?))
    }

    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let (blocks, kept) = (self.key_blocks(), self.density.blocks(self.key_blocks()));
        let lists = &outputs[0].values;
        let ascending =
            lists.chunks(kept).all(|list| list.windows(2).all(|pair| pair[0] < pair[1]) && list.iter().all(|block| *block < blocks as f64));
        let is_whole = lists.len() == self.scores.len() / blocks * kept;
        let mut worse = 0;
        for (row, list) in lists.chunks(kept).enumerate() {
            let at = |block: usize| (self.scores[row * blocks + block], self.moves[row * blocks + block]);
            let is_kept = |block: usize| list.contains(&(block as f64));
            // the least that a kept score may have been, against the most that a dropped one was
            let least = (0..blocks).filter(|block| is_kept(*block)).map(|block| at(block).0 + at(block).1).fold(f64::INFINITY, f64::min);
            let most =
                (0..blocks).filter(|block| !is_kept(*block)).map(|block| at(block).0 - at(block).1).fold(f64::NEG_INFINITY, f64::max);
            worse += usize::from(least < most);
        }
        Ok(vec![
            Held::fact("lists ascend", ascending && is_whole, "a list has the number that was asked for, each block once"),
            Held::few("lists that miss a larger score", worse, lists.len() / kept, 0, "pooled rows and scores round to bf16"),
        ])
    }
}
