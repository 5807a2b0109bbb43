//! A block map turned round: which query blocks keep a key block, as bits.

use turbowan_cuda::{AttnShape, BlockMap};
use turbowan_sla::device::InverseMap;
use turbowan_sla::device::Map;
use turbowan_sla::device::inverse_map::KERNELS;

use crate::verify::ops::attention::{drawn_map, kept_blocks};
use crate::verify::{Axis, Case, Far, Fault, Held, Op, Output, Place, Prepared, Stand};

const AXES: &[Axis] =
    &[Axis::new("heads", 1, 3, 1), Axis::new("query-blocks", 1, 100, 1), Axis::new("key-blocks", 1, 600, 1), Axis::new("kept", 1, 100, 1)];

/// Rows of a block.
const BLOCK: usize = 64;

/// Query blocks in a word.
const BITS: usize = 32;

/// It is one.
pub const OPS: [Op; 1] = [Op {
    name: "inverse-map",
    about: "for each key block a bit for each query block: whether it keeps it",
    axes: AXES,
    // one of each, a word less one, a word and one more, more key blocks than a block has threads, all kept
    cases: || {
        let shapes: [&[usize]; 7] =
            [&[1, 1, 1, 1], &[2, 31, 3, 2], &[2, 32, 5, 5], &[1, 33, 40, 7], &[1, 5, 300, 1], &[3, 70, 5, 1], &[1, 65, 4200, 300]];
        Case::cross(&shapes, &[1, 1, 1, 1], &[])
    },
    tame: |case| case.shape[3] = case.shape[3].min(case.shape[2]),
    kernels: |chip| KERNELS.iter().map(|kernel| (kernel.choose)(chip).1).collect(),
    // 1024 words a head
    far: &[Far { shape: &[1, 32, 1024, 1], lead: 1 << 21, blocks: (1 << 21, 1) }],
    prepare: Turn::prepare,
}];

struct Turn {
    shape: AttnShape,
    map: BlockMap,
}

impl Turn {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query_blocks, key_blocks, kept] = case.sizes();
        if query_blocks == 0 || key_blocks == 0 {
            return Err(Fault::Case("there are blocks"));
        }
        // the last block of each is ragged
        let shape = AttnShape::cross(1, heads, query_blocks * BLOCK - 1, key_blocks * BLOCK - 1, 64)?;
        Ok(Box::new(Self { map: drawn_map(&shape, (BLOCK, BLOCK), kept, case.seed)?, shape }))
    }

    fn output(&self, words: &[u32]) -> Vec<Output> {
        vec![Output::new("words", self.map.query_blocks().div_ceil(BITS), words)]
    }
}

impl Prepared for Turn {
    /// List by list.
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let (key_blocks, row) = (self.map.key_blocks(), self.map.query_blocks().div_ceil(BITS));
        let mut words = vec![0u32; InverseMap::words(&self.shape, (BLOCK, BLOCK))];
        for problem in 0..self.shape.problems() {
            for block in 0..self.map.query_blocks() {
                for key in self.map.list(problem, block) {
                    words[(problem * key_blocks + *key as usize) * row + block / BITS] |= 1 << (block % BITS);
                }
            }
        }
        Ok(self.output(&words))
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (lead, own) = (stand.lead(), self.shape.problems());
        let (shape, lists) = (AttnShape { heads: lead + self.shape.heads, ..self.shape }, self.map.lists());
        let lists = stand.upload_behind(lead * (lists.len() / own), lists)?;
        let words = InverseMap::words(&self.shape, (BLOCK, BLOCK));
        let mut inverse = stand.room_behind(lead * (words / own), words)?;
        let map = Map { lists: lists.view(), block_q: BLOCK, block_k: BLOCK, kept: self.map.kept() };
        let turn = InverseMap::load(stand.device())?;
        stand.launch(|stream| Ok(turn.run(stream, &shape, &map, inverse.view_mut())?))?;
        Ok(self.output(&stand.results(&inverse, words)?))
    }

    /// Key by key, from the table of all pairs.
    fn hold(&self, outputs: &[Output], _: Place) -> Result<Vec<Held>, Fault> {
        let (query_blocks, key_blocks) = (self.map.query_blocks(), self.map.key_blocks());
        let mut want = Vec::new();
        for problem in 0..self.shape.problems() {
            let kept = kept_blocks(&self.map, problem);
            for key in 0..key_blocks {
                let bits: Vec<bool> = (0..query_blocks).map(|query| kept[query * key_blocks + key]).collect();
                want.extend(bits.chunks(BITS).map(|word| word.iter().rev().fold(0u32, |word, bit| word << 1 | u32::from(*bit))));
            }
        }
        Ok(vec![Held::equal(&outputs[0], &want, "bits are bits")])
    }
}
