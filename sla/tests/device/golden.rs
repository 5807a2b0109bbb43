//! Against recorded runs of the official module: its operands and its lists in, its sparse branch and its gradients out.

use std::path::Path;

use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::sla as oracle;
use turbowan_sla::device::Scores;

use crate::case::{Case, shape};
use crate::{attend, attend_backward, devices};

/// What the recording's `meta.json` allows between bf16 and f32 runs of the module.
const RECORDED: Bound = Bound::relative_l2(0.01);

struct Golden<'a>(SafeTensors<'a>);

impl Golden<'_> {
    fn values(&self, name: &str) -> Vec<f32> {
        let tensor = self.0.tensor(name).unwrap();
        match tensor.dtype() {
            Dtype::BF16 => tensor.data().as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            _ => tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        }
    }

    fn lists(&self, name: &str) -> Vec<u32> {
        self.0.tensor(name).unwrap().data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    /// The operands, rounded to bf16 as the official module casts them, and the recorded map.
    fn case(&self, share: &str, shape: AttnShape, block_q: usize) -> Case {
        let operand = |name| {
            let mut values = self.values(name);
            Rounding::Bf16.apply_row(&mut values);
            values
        };
        let lists = self.lists(&format!("softmax.topk{share}.lut_sorted"));
        let kept = lists.len() / shape.query_len.div_ceil(block_q);
        let map = BlockMap::new(&shape, block_q, 64, kept, lists).unwrap();
        let (q, k, v) = (operand("q"), operand("k"), operand("v"));
        Case { q, k, v, shape, map: Some(map), scores: Scores::default(), shares_keys: false }
    }

    /// Gradients of the linear branch in f64, from the recorded operands.
    fn linear_gradients(&self, head: oracle::Head) -> oracle::LinearGradients {
        let wide = |name| self.values(name).into_iter().map(f64::from).collect::<Vec<_>>();
        let projection = oracle::Projection { weight: &wide("proj_l.weight"), bias: &wide("proj_l.bias") };
        oracle::linear_backward(&wide("q"), &wide("k"), &wide("v"), &wide("grad_out"), head, oracle::FeatureMap::Softmax, projection)
    }

    /// The linear branch in f64, from the recorded operands.
    fn linear(&self, head: oracle::Head) -> Vec<f64> {
        let wide = |name| self.values(name).into_iter().map(f64::from).collect::<Vec<_>>();
        let projection = oracle::Projection { weight: &wide("proj_l.weight"), bias: &wide("proj_l.bias") };
        projection.apply(&oracle::linear_branch(&wide("q"), &wide("k"), &wide("v"), head, oracle::FeatureMap::Softmax))
    }
}

fn with_golden(case: &str, check: impl FnOnce(Golden<'_>)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sla_op");
    let bytes = std::fs::read(folder.join(format!("{case}.safetensors"))).unwrap();
    check(Golden(SafeTensors::deserialize(&bytes).unwrap()));
}

fn sum(sparse: &[f32], linear: &[f64]) -> Vec<f64> {
    sparse.iter().zip(linear).map(|(sparse, linear)| f64::from(*sparse) + linear).collect()
}

#[test]
fn the_official_lists_give_the_official_output() {
    with_golden("d64_l197", |golden| {
        for device in devices() {
            let got = attend::run(&golden.case("0.5", shape(1, 197, 197, 64), 64), &device).unwrap();
            Verdict::of(&got.out, &golden.values("softmax.topk0.5.out_sparse_branch"), RECORDED).demand("the sparse branch");
        }
    });
    // only the sum of both branches was recorded, in f32
    with_golden("d128_l700_bq128", |golden| {
        for device in devices() {
            let case = golden.case("0.5", shape(1, 700, 700, 128), 128);
            let got = attend::run(&case, &device).unwrap();
            Verdict::of(&sum(&got.out, &golden.linear(case.head())), &golden.values("softmax.topk0.5.out"), RECORDED)
                .demand("both branches");
        }
    });
}

#[test]
fn the_official_gradients_are_the_sparse_ones_and_the_linear_branchs() {
    with_golden("d64_l197", |golden| {
        for device in devices() {
            let case = golden.case("0.5", shape(1, 197, 197, 64), 64);
            let got = attend_backward::run(&case, &golden.values("grad_out"), &device).unwrap();
            let linear = golden.linear_gradients(case.head());
            for (got, linear, name) in [(got.q, linear.q, "q"), (got.k, linear.k, "k"), (got.v, linear.v, "v")] {
                let want = golden.values(&format!("softmax.topk0.5.grad.{name}"));
                let verdict = Verdict::of(&sum(&got, &linear), &want, RECORDED);
                verdict.demand(&format!("gradient of {name}"));
                // the linear branch alone is not it
                assert!(!RECORDED.allows(&Verdict::of(&linear, &want, RECORDED).distance), "the gradient of {name} is the linear branch's");
            }
        }
    });
}
