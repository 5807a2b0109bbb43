//! The block map made on a device, from queries and keys to lists: `sage` smooths, pools and quantises, `sla` chooses.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

use std::path::Path;

use half::bf16;
use safetensors::SafeTensors;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::inputs::{Kind, rows as input};
use turbowan_sage::device::prepare::{Int8Rows, Layout, MeanKeys, PooledRows, QuantRows, sums_len};
use turbowan_sage::{Sage, kernels};
use turbowan_sla::device::{BlockSelect, Pooled};
use turbowan_sla::{Density, block_map, pooled_scores};

fn devices() -> Vec<Device> {
    let has_code = kernels::ALL.iter().chain(turbowan_sla::kernels::ALL).all(|file| file.compiled.is_some());
    let emulated = EmulatorOptions::all().into_iter().map(Device::emulated);
    let devices = emulated.chain(has_code.then(|| Device::open(0)));
    devices.filter_map(|device| device.inspect_err(|why| println!("skipped: {why}")).ok()).collect()
}

/// The map of queries and keys in `[problems, len, head_dim]`, by the launchers that a model calls.
fn device_map(
    device: &Device,
    q: &[bf16],
    k: &[bf16],
    shape: &AttnShape,
    (block_q, block_k): (usize, usize),
    density: Density,
) -> BlockMap {
    let stream = device.stream().unwrap();
    let (problems, head_dim) = (shape.problems(), shape.head_dim);
    let (query_blocks, key_blocks) = (shape.query_len.div_ceil(block_q), shape.key_len.div_ceil(block_k));
    let sage = Sage::sagesla(block_q, block_k);
    let (q, k) = (stream.upload(q).unwrap(), stream.upload(k).unwrap());
    let mut sums = stream.allocate(sums_len(shape)).unwrap();
    let mut means = stream.allocate(problems * head_dim).unwrap();
    MeanKeys::load(device).unwrap().run(&stream, k.view(), shape, sums.view_mut(), means.view_mut()).unwrap();

    let (mut q_values, mut k_values) = (stream.allocate(q.len()).unwrap(), stream.allocate(k.len()).unwrap());
    let mut q_scales = stream.allocate(problems * sage.granularity.query_groups().count(shape.query_len)).unwrap();
    let mut k_scales = stream.allocate(problems * sage.granularity.key_groups().count(shape.key_len)).unwrap();
    let (mut pooled_q, mut pooled_k) =
        (stream.allocate(problems * query_blocks * head_dim).unwrap(), stream.allocate(problems * key_blocks * head_dim).unwrap());
    let quantiser = QuantRows::load(device).unwrap();
    let pooled = Some(PooledRows { means: pooled_q.view_mut(), rows: block_q });
    let out = Int8Rows { values: q_values.view_mut(), layout: Layout::Rows, scales: q_scales.view_mut(), pooled };
    quantiser.queries(&stream, q.view(), shape, &sage, out).unwrap();
    let pooled = Some(PooledRows { means: pooled_k.view_mut(), rows: block_k });
    let out = Int8Rows { values: k_values.view_mut(), layout: Layout::Rows, scales: k_scales.view_mut(), pooled };
    quantiser.keys(&stream, k.view(), Some(means.view()), shape, &sage, out).unwrap();

    let kept = density.blocks(key_blocks);
    let mut lists = stream.allocate(problems * query_blocks * kept).unwrap();
    let pooled = Pooled { q: pooled_q.view(), k: pooled_k.view(), problems, query_blocks, key_blocks, head_dim };
    BlockSelect::load(device).unwrap().run(&stream, pooled, density, lists.view_mut()).unwrap();
    BlockMap::new(shape, block_q, block_k, kept, lists.to_vec().unwrap()).unwrap()
}

fn widened(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

#[test]
fn the_map_is_the_recorded_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sage_op");
    let bytes = std::fs::read(folder.join("sagesla_d64.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("meta_sagesla.json")).unwrap()).unwrap();
    let density = Density::new(meta["cases"]["sagesla_d64"]["config"]["topk"].as_f64().unwrap()).unwrap();
    let tensor = |name: &str| golden.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b)).collect::<Vec<_>>();
    let (q, k) = (tensor("q"), tensor("k"));
    let [batch, heads, len, head_dim] = golden.tensor("q").unwrap().shape().try_into().unwrap();
    let shape = AttnShape::new(batch, heads, len, head_dim).unwrap();
    for device in devices() {
        for (arch, blocks) in [("sm80_89_120", (128, 64)), ("sm90", (64, 128))] {
            let map = device_map(&device, &q, &k, &shape, blocks, density);
            let mut cells = vec![0u8; map.query_blocks() * map.key_blocks()];
            for (list, row) in map.lists().chunks(map.kept()).zip(cells.chunks_mut(map.key_blocks())) {
                list.iter().for_each(|block| row[*block as usize] = 1);
            }
            assert_eq!(cells, golden.tensor(&format!("{arch}.sparse_map")).unwrap().data(), "{device:?} {arch}");
        }
    }
}

/// A block that one map has and the other has not is one whose score is at a tie to a unit of bf16: pooled sums run in
/// another order.
#[test]
fn the_map_is_that_of_the_host() {
    let (mut moved, mut all) = (0, 0);
    for device in devices() {
        for (len, head_dim, blocks, kind) in
            [(1, 64, (128, 64), Kind::Plain), (700, 64, (64, 64), Kind::Biased), (517, 128, (128, 64), Kind::OutlierChannel)]
        {
            let shape = AttnShape::new(1, 2, len, head_dim).unwrap();
            let draw = |seed| input(kind, 2 * len, head_dim, seed).into_iter().map(bf16::from_f32).collect::<Vec<_>>();
            let (q, k) = (draw(1), draw(2));
            let scores = pooled_scores(&widened(&q), &widened(&k), &shape, blocks, Rounding::Bf16).unwrap();
            for share in [0.1, 0.5, 1.0] {
                let density = Density::new(share).unwrap();
                let got = device_map(&device, &q, &k, &shape, blocks, density);
                let want = block_map(&widened(&q), &widened(&k), &shape, blocks, density, Rounding::Bf16).unwrap();
                let rows = scores.chunks(want.key_blocks()).zip(got.lists().chunks(got.kept())).zip(want.lists().chunks(want.kept()));
                for ((scores, got), want) in rows {
                    let least = got.iter().map(|block| scores[*block as usize]).fold(f32::INFINITY, f32::min);
                    let left = |block: &usize| !got.contains(&(*block as u32));
                    let most = (0..scores.len()).filter(left).map(|block| scores[block]).fold(f32::NEG_INFINITY, f32::max);
                    let largest = scores.iter().fold(0.0f32, |largest, score| largest.max(score.abs()));
                    assert!(least + (most.abs() / 128.0).max(largest / 256.0) >= most, "{device:?} {len}: kept {least}, left {most}");
                    moved += usize::from(got != want);
                    all += 1;
                }
            }
        }
    }
    println!("{moved} of {all} lists differ from the host map's");
    assert!(moved * 100 <= all, "{moved} of {all} lists differ from the host map's");
}
