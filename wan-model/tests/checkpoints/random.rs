//! Random bytes, random cuts and random flips: never a panic, never memory far beyond the file.

use proptest::prelude::*;
use turbowan_wan_model::checkpoint::{Checkpoint, TensorSource};

use crate::forge::{Pickle, Zip, floats, good_torch, line, safetensors};
use crate::memory::measured;

/// Memory for messages and small tables, whatever the file.
const SMALL: usize = 1 << 16;
/// As for the forged files.
const PER_BYTE: usize = 160;

/// Opens a file and touches everything in it.
fn touch(bytes: &[u8]) {
    let copy = bytes.to_vec();
    let (_, most, _) = measured(|| {
        let Ok(checkpoint) = Checkpoint::from_vec("random", copy) else { return };
        for name in checkpoint.names() {
            let view = checkpoint.get(name).unwrap();
            assert_eq!(view.shape.iter().product::<usize>() * view.dtype.bytes(), view.bytes.len());
            assert_eq!(view.to_f32().len(), view.len());
        }
        let _ = checkpoint.kind(None).map(|kind| kind.model());
        let _ = checkpoint.check(&[], |_| false).map_err(|error| error.to_string());
    });
    assert!(most <= SMALL + PER_BYTE * bytes.len(), "held {most} bytes for a file of {}", bytes.len());
}

/// Good files: every instruction and every header field that matters stands in one of them.
fn good() -> [Vec<u8>; 3] {
    let tensors = format!(
        "{{\"__metadata__\":{{\"format\":\"pt\"}},{},{}}}",
        line("blocks.0.modulation", "F32", "[1,2,3]", 0, 24),
        line("time_projection.1.weight", "BF16", "[2,2]", 24, 32)
    );
    let pickle = Pickle::new()
        .raw(b"\x95\x10\0\0\0\0\0\0\0}\x94(")
        .text("state_dict")
        .global("collections", "OrderedDict")
        .raw(b")R(")
        .text("view")
        .rebuilt(|pickle| pickle.storage("FloatStorage", "0", 6), 1, &[2, 2], &[1, 2])
        .text("same")
        .global("torch._utils", "_rebuild_parameter")
        .raw(b"(")
        .tensor("HalfStorage", "1", 2, &[2], &[1])
        .raw(b"\x88N\x85\x85tR")
        .raw(b"u}b\x8c\x04step\x8a\x01\x07\x8c\x04list]N\x85au")
        .stop();
    let nested = Zip::torch(&pickle, &[("0", &floats(6)), ("1", &[0, 60, 0, 188])]).build();
    [good_torch(), safetensors(&tensors, &floats(8)), nested]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        touch(&bytes);
    }

    #[test]
    fn random_headers_never_panic(header in "[\\[\\]{}\":,0-9a-zF_ ]{0,200}", data in proptest::collection::vec(any::<u8>(), 0..64)) {
        touch(&safetensors(&header, &data));
        touch(&safetensors(&format!("{{{header}}}"), &data));
    }

    #[test]
    fn random_pickles_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        touch(&Zip::torch(&bytes, &[("0", &floats(6))]).build());
    }

    #[test]
    fn random_allowed_instructions_never_panic(ops in proptest::collection::vec(0usize..40, 0..200)) {
        const PLAIN: &[u8] = b"(012N\x88\x89)\x85\x86\x87t]lae}dsuRbQ\x94";
        let pickle = ops.iter().fold(Pickle::new(), |pickle, op| match op {
            0..=24 => pickle.raw(&[PLAIN[op % PLAIN.len()]]),
            25 => pickle.text("w"),
            26 => pickle.text("storage"),
            27 => pickle.text("0"),
            28 => pickle.global("torch._utils", "_rebuild_tensor_v2"),
            29 => pickle.global("torch._utils", "_rebuild_parameter"),
            30 => pickle.global("collections", "OrderedDict"),
            31 => pickle.global("torch", "FloatStorage"),
            32 => pickle.storage("FloatStorage", "0", 6),
            33 => pickle.sizes(&[2, 3]),
            34 => pickle.sizes(&[3, 1]),
            35 => pickle.tensor("FloatStorage", "0", 6, &[3, 2], &[1, 3]),
            36 => pickle.int(0),
            37 => pickle.raw(b"q\x01"),
            38 => pickle.raw(b"h\x01"),
            _ => pickle.raw(b"}(").text("w").tensor("FloatStorage", "0", 6, &[6], &[1]).raw(b"u"),
        });
        touch(&Zip::torch(&pickle.stop(), &[("0", &floats(6))]).build());
    }

    #[test]
    fn flipped_files_never_panic(which in 0usize..3, flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = good()[which].clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        touch(&bytes);
    }

    #[test]
    fn cut_and_joined_files_never_panic(which in 0usize..3, cut in any::<prop::sample::Index>(), again in any::<prop::sample::Index>()) {
        let bytes = good()[which].clone();
        let (cut, again) = (cut.index(bytes.len()), again.index(bytes.len()));
        touch(&[&bytes[..cut], &bytes[again..]].concat());
    }

    #[test]
    fn what_is_read_the_safetensors_crate_reads_alike(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)) {
        let mut bytes = good()[1].clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(ours) = Checkpoint::from_vec("flipped", bytes.clone()) {
            let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            prop_assert_eq!(ours.names().count(), theirs.len());
            for (name, view) in theirs.iter() {
                let got = ours.get(name).unwrap();
                prop_assert_eq!((got.shape, got.bytes), (view.shape(), view.data()));
            }
        }
    }
}

#[test]
fn the_good_files_are_good() {
    for bytes in good() {
        Checkpoint::from_vec("good", bytes).unwrap();
    }
    let [_, _, nested] = good();
    let checkpoint = Checkpoint::from_vec("nested.pth", nested).unwrap();
    assert_eq!(checkpoint.get("view").unwrap().to_f32(), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(checkpoint.get("same").unwrap().to_f32(), [1.0, -1.0]);
    assert!(checkpoint.notes().iter().any(|note| note.contains("\"state_dict\"")), "{:?}", checkpoint.notes());
}
