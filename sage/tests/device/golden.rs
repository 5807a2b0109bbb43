//! Against recorded runs of the official code: their integers, scales and values in, their output out.

use std::path::Path;

use half::f16;
use safetensors::SafeTensors;
use turbowan_cuda::AttnShape;
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sage::device::Format;
use turbowan_sage::{Fp8Values, Groups, Quantised, Sage, TOKEN_ORDER, Tile};

use crate::twin::formats;
use crate::{HostValues, Problem, on_every_chip};

/// bf16 output; the recorded Triton run sums in f16 over 64 keys.
const F16_PRODUCT: Bound = Bound::relative_l2(2.5e-3);
/// e4m3 product of the recorded naive run: sums in f32, ours in f16.
const FP8_PRODUCT: Bound = Bound::relative_l2(6e-3);
/// The recorded naive run has the kernel's steps and sums in f32; bf16 against f16 outputs.
const TILED_PRODUCT: Bound = Bound::relative_l2(2.5e-3);

struct Golden<'a>(SafeTensors<'a>);

impl Golden<'_> {
    fn bytes(&self, name: &str) -> &[u8] {
        self.0.tensor(name).unwrap().data()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn f16(&self, name: &str) -> Vec<f16> {
        self.bytes(name).as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect()
    }

    fn rows(&self, variant: &str, operand: &str, groups: Groups, len: usize) -> Quantised {
        let values = self.bytes(&format!("{variant}.{operand}_int8")).iter().map(|byte| byte.cast_signed()).collect();
        Quantised { values, scales: self.f32(&format!("{variant}.{operand}_scale")), groups, len }
    }

    fn fp8(&self, scale_max: &str, padded_len: usize) -> Fp8Values {
        let name = |what: &str| format!("v_fp8_smax{scale_max}.{what}");
        let values = Fp8Values { transposed: self.bytes(&name("transposed_u8")).to_vec(), scales: self.f32(&name("scale")), padded_len };
        assert_eq!(values.permuted(), self.bytes(&name("transposed_permuted_u8")), "tokens in the order {TOKEN_ORDER:?}");
        values
    }
}

#[test]
fn the_official_integers_give_the_official_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sage_op");
    for case in ["d64", "d128_causal"] {
        let bytes = std::fs::read(folder.join(format!("{case}.safetensors"))).unwrap();
        let golden = Golden(SafeTensors::deserialize(&bytes).unwrap());
        let (q, k) = (golden.0.tensor("q").unwrap(), golden.0.tensor("k").unwrap());
        let [batch, heads, query_len, head_dim] = q.shape().try_into().unwrap();
        let shape = AttnShape::cross(batch, heads, query_len, k.shape()[2], head_dim).unwrap();
        let causal = case.contains("causal");
        let values = golden.f16("v");
        for device in on_every_chip() {
            let run = |variant: &str, sage: Sage, values: HostValues<'_>| {
                let q = golden.rows(variant, "q", sage.granularity.query_groups(), shape.query_len);
                let k = golden.rows(variant, "k", sage.granularity.key_groups(), shape.key_len);
                Problem { q: &q, k: &k, values, map: None, added: None, shape, causal, sage }.run(&device).unwrap().out
            };
            for (variant, sage, output) in [
                ("triton_block", Sage::triton_per_block(), "triton_block.out_official_f16"),
                ("thread_sm89", Sage::per_thread(Tile::SM80), "thread_sm89.out_naive_pv_f32"),
                ("cuda_warp", Sage::cuda_per_warp(Tile::SM80), "cuda_warp.out_naive_pv_f32"),
            ] {
                let want: Vec<f32> = golden.f16(output).into_iter().map(f16::to_f32).collect();
                let got = run(variant, sage, HostValues::F16(&values));
                Verdict::of(&got, &want, F16_PRODUCT).demand(&format!("{device:?} {case} {variant}"));
            }
            for (format, scale_max, variant, sage, bound) in [
                (Format::Fp8, "2.25", "thread_sm89", Sage::per_thread(Tile::SM80), FP8_PRODUCT),
                (Format::Tiled, "448.0", "thread_sm90", Sage::per_thread(Tile::SM90), TILED_PRODUCT),
            ] {
                if !formats(&device).contains(&format) {
                    continue;
                }
                let fp8 = golden.fp8(scale_max, shape.key_len.next_multiple_of(64));
                let output = format!("{variant}.out_naive_pv_fp8_smax{scale_max}");
                let want: Vec<f32> = golden.f16(&output).into_iter().map(f16::to_f32).collect();
                let values = if format == Format::Fp8 { HostValues::Fp8(&fp8) } else { HostValues::Tiled(&fp8) };
                Verdict::of(&run(variant, sage, values), &want, bound).demand(&format!("{device:?} {case} {format:?}"));
            }
        }
    }
}
