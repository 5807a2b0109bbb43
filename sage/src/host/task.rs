//! One head prepared, and one task of it: a run of query rows over the key tiles that they see.

use std::ops::Range;

use turbowan_cuda::host::Aligned;

use super::panels::{Keys, Queries, ValueTiles, Values, one, padded};
use super::{INT8_ONE, IntegerPanel, Kernel, KeyPanel, LOWEST, PerRow, QueryPanel, ROW_GROUP, RowStats, Running, TILE_K, TILE_Q, Weights};
use crate::ValuePrecision;
use crate::values::round_e4m3;

/// One head, quantised and laid out.
pub(crate) struct Head {
    pub queries: Queries,
    pub keys: Keys,
    pub values: Values,
    pub head_dim: usize,
    pub precision: ValuePrecision,
    /// Tiles that share one running maximum in the e4m3 product.
    pub tiles_per_step: usize,
}

/// What a task gives: rows of the output and their log-sum-exp.
pub(crate) struct Outcome {
    /// `[rows, head_dim]`.
    pub out: Vec<f32>,
    /// Base-2 log-sum-exp of the scores that the kernels saw, `[rows]`.
    pub lse: Vec<f32>,
}

/// `log2(448)` as the official kernels write it, as a factor.
fn fp8_one() -> f32 {
    8.807f32.exp2()
}

impl Head {
    /// Attends query rows `rows` (at most [`TILE_Q`]) to the tiles of `visible`, ascending runs. Under `causal`, row `i`
    /// sees keys up to `i`.
    pub fn attend<K: Kernel>(&self, kernel: K, rows: Range<usize>, visible: &[Range<usize>], causal: bool) -> Outcome {
        let dim = padded(self.head_dim);
        let padded_rows = rows.len().next_multiple_of(ROW_GROUP);
        let mut packed = Aligned::<i8>::zeroed(padded_rows * dim * K::LAYOUT.bytes());
        self.queries.pack(K::LAYOUT, rows.clone(), &mut packed);
        let mut scale = [0.0; TILE_Q];
        scale[..rows.len()].copy_from_slice(&self.queries.scale[rows.clone()]);
        let queries = QueryPanel { values: &packed, scale: &scale, rows: padded_rows, dim };
        let mut out = Aligned::<f32>::zeroed(padded_rows * dim);
        let mut running = Running { highest: [LOWEST; TILE_Q], sum: [0.0; TILE_Q], alpha: [1.0; TILE_Q], beta: [1.0; TILE_Q] };
        let mut stats = RowStats { highest: [LOWEST; TILE_Q], sum: [0.0; TILE_Q] };
        let mut weights = Weights([0.0; TILE_Q * TILE_K]);
        let mut seen = [0; TILE_Q];
        for run in visible {
            for step in (run.start..run.end).step_by(self.tiles_per_step) {
                let step = step..(step + self.tiles_per_step).min(run.end);
                let floor = self.floor(kernel, &queries, &rows, step.clone(), causal, &running.highest, &mut weights, &mut stats);
                for tile in step {
                    let Some(keys) = self.visible_keys(tile, &rows, causal, &mut seen) else { continue };
                    match &self.values.tiles {
                        ValueTiles::Integer { values, scales } => {
                            kernel.score_integers(&queries, keys, &mut weights, &mut stats);
                            kernel.merge(&mut running, &stats);
                            let panel = TILE_K * dim * K::LAYOUT.bytes();
                            let values = IntegerPanel { values: &values[tile * panel..][..panel], scale: &scales[tile * dim..][..dim] };
                            kernel.weigh_integers(&weights, values, padded_rows, &running, &mut out);
                        }
                        ValueTiles::Float(values) => {
                            let floor = floor.as_ref().unwrap_or(&running.highest);
                            kernel.score(&queries, keys, floor, &mut weights, &mut stats);
                            kernel.merge(&mut running, &stats);
                            self.round_weights(&mut weights.0[..padded_rows * TILE_K]);
                            let panel = TILE_K * dim;
                            kernel.weigh(&weights, &values[tile * panel..][..panel], padded_rows, dim, &running, &mut out);
                        }
                    }
                }
            }
        }
        self.finish(&rows, &running, &out, dim)
    }

    /// The largest score of a step of several tiles, found before the first of them is weighed; `None` for one tile.
    #[allow(clippy::too_many_arguments, reason = "the pieces of one task")]
    fn floor<K: Kernel>(
        &self,
        kernel: K,
        queries: &QueryPanel<'_>,
        rows: &Range<usize>,
        step: Range<usize>,
        causal: bool,
        highest: &PerRow,
        weights: &mut Weights,
        stats: &mut RowStats,
    ) -> Option<PerRow> {
        if step.len() < 2 {
            return None;
        }
        let (mut floor, mut seen) = (*highest, [0; TILE_Q]);
        for tile in step {
            if let Some(keys) = self.visible_keys(tile, rows, causal, &mut seen) {
                kernel.score(queries, keys, &floor, weights, stats);
                floor = stats.highest;
            }
        }
        Some(floor)
    }

    /// The keys of a tile; `None` when a causal mask hides all of them from all rows.
    fn visible_keys<'a>(&'a self, tile: usize, rows: &Range<usize>, causal: bool, seen: &'a mut [u32; TILE_Q]) -> Option<KeyPanel<'a>> {
        let (panel, keys) = (self.keys.tile(tile), self.keys.tiles.keys(tile));
        if !causal || keys.end <= rows.start + 1 {
            return Some(panel);
        }
        if keys.start >= rows.end {
            return None;
        }
        for (index, seen) in seen.iter_mut().enumerate() {
            *seen = (rows.start + index + 1).saturating_sub(keys.start).min(TILE_K) as u32;
        }
        Some(KeyPanel { seen: Some(seen), ..panel })
    }

    /// Rounds probabilities to the format they are multiplied in.
    fn round_weights(&self, weights: &mut [f32]) {
        match self.precision {
            ValuePrecision::F32 | ValuePrecision::Int8 => {}
            ValuePrecision::F16 => weights.iter_mut().for_each(|p| *p = half::f16::from_f32(*p).to_f32()),
            ValuePrecision::Fp8 { .. } => {
                let one = fp8_one();
                weights.iter_mut().for_each(|p| *p = round_e4m3(*p * one) / one);
            }
        }
    }

    fn finish(&self, rows: &Range<usize>, running: &Running, sums: &[f32], dim: usize) -> Outcome {
        let width = self.head_dim;
        let mut out = vec![0.0; rows.len() * width];
        let mut lse = vec![f32::NEG_INFINITY; rows.len()];
        for (index, row) in rows.clone().enumerate() {
            let (out, sum) = (&mut out[index * width..][..width], running.sum[index]);
            let finite = self.keys.finite && self.values.finite && self.queries.scale[row].is_finite();
            if !finite || !running.highest[index].is_finite() || !sum.is_finite() {
                out.fill(f32::NAN);
                lse[index] = f32::NAN;
            } else if sum > 0.0 {
                let from = &sums[index * dim..][..width];
                let channels = out.iter_mut().zip(from).zip(self.values.scale.iter().zip(&self.values.mean));
                channels.for_each(|((out, from), (scale, mean))| *out = from / sum * scale + mean);
                lse[index] = running.highest[index] + (sum / one(self.precision)).log2();
            }
        }
        Outcome { out, lse }
    }
}

const _: () = assert!(INT8_ONE <= 255.0 && TILE_Q.is_multiple_of(ROW_GROUP));
