//! The choice of key blocks: on every device the lists of the host twin.

use half::bf16;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::{AttnShape, BlockMap, Error, Rounding};
use turbowan_reference::inputs::{Kind, Seeded, rows as input};
use turbowan_sla::device::{BlockSelect, Pooled};
use turbowan_sla::{Density, block_map, pooled_scores};

use crate::{bf16s, devices, devices_in_all_ways};

/// Pooled rows of each head, `[problems, blocks, head_dim]`, by the steps that the official code takes in bf16.
fn pooled(x: &[f32], problems: usize, block: usize, head_dim: usize, is_smoothed: bool) -> Vec<f32> {
    let mut pooled = Vec::new();
    for head in x.chunks(x.len() / problems) {
        let len = head.len() / head_dim;
        let mut head = head.to_vec();
        if is_smoothed {
            for dim in 0..head_dim {
                let sum: f64 = (0..len).map(|row| f64::from(head[row * head_dim + dim])).sum();
                let mean = Rounding::Bf16.apply((sum / len as f64) as f32);
                (0..len).for_each(|row| head[row * head_dim + dim] = Rounding::Bf16.apply(head[row * head_dim + dim] - mean));
            }
        }
        for rows in head.chunks(block * head_dim) {
            let count = (rows.len() / head_dim) as f32;
            let sum = |dim| rows.iter().skip(dim).step_by(head_dim).fold(0.0f32, |sum, value| sum + value);
            pooled.extend((0..head_dim).map(|dim| Rounding::Bf16.apply(sum(dim) / count)));
        }
    }
    pooled
}

/// Lists of pooled rows: `[problems, query blocks, kept]`.
fn select(device: &Device, q: &[f32], k: &[f32], shape: &AttnShape, density: Density) -> Result<Vec<u32>, Error> {
    let stream = device.stream()?;
    let (problems, head_dim) = (shape.problems(), shape.head_dim);
    let (q, k) = (stream.upload(&bf16s(q))?, stream.upload(&bf16s(k))?);
    let mut lists = stream.allocate(problems * shape.query_len * density.blocks(shape.key_len))?;
    let (query_blocks, key_blocks) = (shape.query_len, shape.key_len);
    let rows = Pooled { q: q.view(), k: k.view(), problems, query_blocks, key_blocks, head_dim };
    BlockSelect::load(device)?.run(&stream, rows, density, lists.view_mut())?;
    lists.to_vec()
}

/// A share that keeps just `kept` of the blocks.
fn keeping(kept: usize, blocks: usize) -> Density {
    let density = Density::new((kept as f64 + 0.5).min(blocks as f64) / blocks as f64).unwrap();
    assert_eq!(density.blocks(blocks), kept);
    density
}

#[test]
fn ragged_sequences_choose_the_blocks_of_the_host_map() {
    // problems, queries, keys, head dim: block counts past a tile of 16 rows, a warp's 256 keys, an mma's 8
    let shapes = [[1, 1, 1, 16], [2, 300, 300, 32], [1, 2100, 640, 64], [3, 129, 1000, 128], [1, 40, 4200, 128], [1, 257, 130, 256]];
    let (mut moved, mut all) = (0, 0);
    for device in devices_in_all_ways() {
        for [problems, queries, keys, head_dim] in shapes {
            let shape = AttnShape::cross(1, problems, queries, keys, head_dim).unwrap();
            for (kind, block) in
                [(Kind::Plain, (128, 64)), (Kind::OutlierChannel, (128, 16)), (Kind::Biased, (64, 64)), (Kind::Zero, (32, 16))]
            {
                let rows = |count, seed| -> Vec<f32> { bf16s(&input(kind, count, head_dim, seed)).iter().map(|x| x.to_f32()).collect() };
                let (q, k) = (rows(problems * queries, 1), rows(problems * keys, 2));
                let (pooled_q, pooled_k) = (pooled(&q, problems, block.0, head_dim, false), pooled(&k, problems, block.1, head_dim, true));
                let (query_blocks, key_blocks) = (queries.div_ceil(block.0), keys.div_ceil(block.1));
                let blocks = AttnShape::cross(1, problems, query_blocks, key_blocks, head_dim).unwrap();
                let scores = pooled_scores(&q, &k, &shape, block, Rounding::Bf16).unwrap();
                for density in [keeping(1, key_blocks), Density::new(0.1).unwrap(), Density::new(0.5).unwrap(), Density::DENSE] {
                    let what = format!("{device:?} {problems} x {queries} x {keys} x {head_dim} {kind:?} {density:?}");
                    let lists = select(&device, &pooled_q, &pooled_k, &blocks, density).unwrap();
                    let got = BlockMap::new(&shape, block.0, block.1, density.blocks(key_blocks), lists).unwrap();
                    let want = block_map(&q, &k, &shape, block, density, Rounding::Bf16).unwrap();
                    for (row, scores) in scores.chunks(key_blocks).enumerate() {
                        let (problem, block) = (row / query_blocks, row % query_blocks);
                        let (got, want) = (got.list(problem, block), want.list(problem, block));
                        demand_largest(scores, got, &format!("{what} row {row}"));
                        moved += usize::from(got != want);
                        all += 1;
                    }
                }
            }
        }
    }
    println!("{moved} of {all} lists differ from the host map's");
    assert!(moved * 100 <= all, "{moved} of {all} lists differ from the host map's");
}

/// The least score that was kept is at most a unit of bf16 below the largest that was not: the sums run in another order.
fn demand_largest(scores: &[f32], list: &[u32], what: &str) {
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    for (block, score) in scores.iter().enumerate() {
        match list.binary_search(&(block as u32)) {
            Ok(_) => least = least.min(*score),
            Err(_) => most = most.max(*score),
        }
    }
    let largest = scores.iter().fold(0.0f32, |largest, score| largest.max(score.abs()));
    assert!(least + (most.abs() / 128.0).max(largest * 1e-5) >= most, "{what}: kept {least}, left {most}");
}

/// Scores without a rounding error: what is chosen must be what the host chooses, ties and all. Keys come in pairs of
/// opposite sign, so that their mean is zero.
#[test]
fn exact_scores_choose_exactly_the_blocks_of_the_host_map() {
    for device in devices_in_all_ways() {
        for (query_blocks, key_blocks, span) in [(1, 2, 3), (17, 64, 2), (5, 300, 5), (33, 514, 1)] {
            let (problems, head_dim) = (2, 16);
            let shape = AttnShape::cross(1, problems, query_blocks, key_blocks, head_dim).unwrap();
            let mut random = Seeded::new(9);
            let mut whole = |count: usize| -> Vec<f32> { (0..count).map(|_| random.below(2 * span + 1) as f32 - span as f32).collect() };
            let q = whole(problems * query_blocks * head_dim);
            let mut k = whole(problems * key_blocks * head_dim);
            for head in k.chunks_mut(key_blocks * head_dim) {
                let (first, second) = head.split_at_mut(key_blocks / 2 * head_dim);
                second.iter_mut().zip(first).for_each(|(second, first)| *second = -*first);
            }
            for kept in [1, key_blocks / 3 + 1, key_blocks - 1, key_blocks] {
                let density = keeping(kept, key_blocks);
                let got = select(&device, &q, &k, &shape, density).unwrap();
                let want = block_map(&q, &k, &shape, (1, 1), density, Rounding::Bf16).unwrap();
                assert_eq!(got, want.lists(), "{device:?} {query_blocks} x {key_blocks} keeps {kept}");
            }
        }
    }
}

#[test]
fn scores_that_are_no_numbers_or_endless_come_in_order() {
    let endless = [1.0, f32::INFINITY, -3.0, f32::NAN, f32::NEG_INFINITY, 3e38, 0.0, -0.0, f32::NAN, 1e-40];
    let shape = AttnShape::cross(1, 1, 1, endless.len(), 16).unwrap();
    let mut k = vec![0.0; endless.len() * 16];
    k.iter_mut().step_by(16).zip(endless).for_each(|(k, value)| *k = value);
    let mut q = vec![0.0; 16];
    q[0] = 1.0;
    for device in devices() {
        for (kept, want) in [vec![3], vec![3, 8], vec![1, 3, 8], vec![1, 3, 5, 8], vec![0, 1, 3, 5, 8]]
            .into_iter()
            .enumerate()
            .map(|(n, want)| (n + 1, want))
        {
            assert_eq!(select(&device, &q, &k, &shape, keeping(kept, 10)).unwrap(), want, "{device:?}");
        }
        assert_eq!(select(&device, &q, &k, &shape, keeping(9, 10)).unwrap(), [0, 1, 2, 3, 5, 6, 7, 8, 9], "{device:?}");
    }
}

#[test]
fn no_heads_are_no_work_and_what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let kernel = BlockSelect::load(&device).unwrap();
        let x = stream.upload(&[bf16::ONE; 64]).unwrap();
        let mut lists = stream.allocate::<u32>(4).unwrap();
        let good = Pooled { q: x.view(), k: x.view(), problems: 2, query_blocks: 2, key_blocks: 2, head_dim: 16 };
        let mut run = |pooled| kernel.run(&stream, pooled, Density::new(0.5).unwrap(), lists.view_mut());
        run(good).unwrap();
        assert!(matches!(run(Pooled { query_blocks: 3, ..good }), Err(Error::Length { what: "pooled queries", .. })));
        assert!(matches!(run(Pooled { key_blocks: 4, ..good }), Err(Error::Length { what: "pooled keys", .. })));
        assert!(matches!(run(Pooled { key_blocks: 0, ..good }), Err(Error::Size { what: "key blocks", .. })));
        assert!(matches!(run(Pooled { head_dim: 24, ..good }), Err(Error::Size { what: "head dim of pooled rows", .. })));
        assert!(matches!(run(Pooled { head_dim: 272, ..good }), Err(Error::Size { .. })));
        assert!(matches!(run(Pooled { problems: usize::MAX, ..good }), Err(Error::Length { .. })));
        let (none, mut nothing) = (stream.allocate::<bf16>(0).unwrap(), stream.allocate::<u32>(0).unwrap());
        let empty = Pooled { q: none.view(), k: none.view(), problems: 0, ..good };
        kernel.run(&stream, empty, Density::DENSE, nothing.view_mut()).unwrap();
    }
}

#[test]
fn more_blocks_than_a_chip_can_hold_are_refused() {
    let Ok(device) = Device::emulated(EmulatorOptions::default().for_capability((8, 9))) else { return };
    let shape = AttnShape::cross(1, 1, 1, 3073, 16).unwrap();
    let refused = select(&device, &[0.0; 16], &vec![0.0; 3073 * 16], &shape, Density::DENSE);
    assert!(matches!(refused, Err(Error::Launch { .. })), "{refused:?}");
    let fits = AttnShape::cross(1, 1, 1, 3072, 16).unwrap();
    let lists = select(&device, &[0.0; 16], &vec![0.0; 3072 * 16], &fits, Density::DENSE).unwrap();
    assert!(lists.iter().enumerate().all(|(index, block)| index == *block as usize));
}
