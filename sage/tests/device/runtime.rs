//! Repeats, streams and graphs: the same bytes however the work is queued.

use turbowan_cuda::AttnShape;
use turbowan_cuda::device::Device;
use turbowan_reference::inputs::Kind;
use turbowan_sage::device::{Format, Keys, Operands, SageAttention, Values};
use turbowan_sage::{Error, Sage};

use crate::on_every_chip;
use crate::problem::{Results, Uploaded};
use crate::twin::{Case, formats, shape};

fn case(format: Format) -> Case {
    Case::of(Kind::Plain, shape(2, 150, 328, 128), Sage::default()).with_format(format)
}

fn each(test: impl Fn(&Device, &SageAttention, &Case)) {
    for device in on_every_chip() {
        let attention = SageAttention::load(&device).unwrap();
        for format in formats(&device) {
            test(&device, &attention, &case(format));
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bits() {
    each(|device, _, case| assert_eq!(case.run(device).unwrap(), case.run(device).unwrap()));
}

#[test]
fn two_streams_do_not_meet() {
    each(|device, attention, case| {
        let (int8, want) = (case.quantised(), case.run(device).unwrap());
        let problem = case.problem(&int8);
        let streams = [device.stream().unwrap(), device.stream().unwrap()];
        let mut queued: Vec<_> =
            streams.iter().map(|stream| (Uploaded::new(stream, &problem).unwrap(), Results::new(stream, &case.shape).unwrap())).collect();
        for (stream, (uploaded, results)) in streams.iter().zip(&mut queued) {
            uploaded.queue(attention, stream, &problem, results).unwrap();
        }
        for (_, results) in &queued {
            assert_eq!(results.outcome().unwrap(), want);
        }
    });
}

#[test]
fn a_recorded_attention_gives_the_bytes_of_a_queued_one() {
    each(|device, attention, case| {
        let (int8, want) = (case.quantised(), case.run(device).unwrap());
        let (problem, stream) = (case.problem(&int8), device.stream().unwrap());
        let (uploaded, mut results) = (Uploaded::new(&stream, &problem).unwrap(), Results::new(&stream, &case.shape).unwrap());
        let mut graph = stream.capture(|stream| uploaded.queue(attention, stream, &problem, &mut results)).unwrap();
        assert_eq!(graph.nodes().len(), 1);
        for _ in 0..2 {
            graph.replay().unwrap();
            assert_eq!(results.outcome().unwrap(), want);
        }
    });
}

#[test]
fn keys_and_values_of_two_forms_are_refused() {
    for device in on_every_chip() {
        let stream = device.stream().unwrap();
        let shape = AttnShape::new(1, 1, 128, 64).unwrap();
        let (sage, attention) = (Sage::default(), SageAttention::load(&device).unwrap());
        let rows = stream.upload(&[0i8; 128 * 64]).unwrap();
        let scales = stream.upload(&[1.0f32; 64]).unwrap();
        let codes = stream.upload(&[0u8; 128 * 64]).unwrap();
        let mut out = stream.allocate(128 * 64).unwrap();
        let (q_scales, k_scales) = (sage.granularity.query_groups().count(128), sage.granularity.key_groups().count(128));
        let mut refused = |k, values| {
            let operands = Operands {
                q: rows.view(),
                q_scales: scales.view().slice(0..q_scales).unwrap(),
                k,
                k_scales: scales.view().slice(0..k_scales).unwrap(),
                values,
                map: None,
                added: None,
            };
            attention.run(&stream, &shape, &sage, false, &operands, out.view_mut(), None).err()
        };
        let tiles = Values::Tiled { tiles: codes.view(), scales: scales.view() };
        assert_eq!(refused(Keys::Rows(rows.view()), tiles), Some(Error::MixedForms { keys: "rows", values: "tiles" }));
        let permuted = Values::Fp8 { permuted: codes.view(), scales: scales.view(), padded_len: 128 };
        assert_eq!(refused(Keys::Tiled(rows.view()), permuted), Some(Error::MixedForms { keys: "tiles", values: "rows" }));
    }
}
