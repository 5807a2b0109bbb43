//! A planned sequence of allocations, run again in one arena.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::device::{Arena, Buffer, Device, MemoryEvent, Stream, Work};
use turbowan_cuda::ops::quant::Int8Rule;
use turbowan_cuda::ops::quant::device::QuantBlock;

use crate::{devices, planned};

const ROWS: usize = 3;
const WIDTH: usize = 256;

/// Quantises `x` by rows and by blocks, with memory that comes and goes; the scales of both leave it.
fn step(quantiser: &QuantBlock, stream: &Stream, x: &Buffer<bf16>) -> Result<[Buffer<f32>; 2], Error> {
    let mut copy = stream.allocate::<bf16>(x.len())?;
    copy.view_mut().copy_from(x.view())?;
    let mut rows = stream.zeros::<f32>(ROWS * WIDTH / 128)?;
    let mut blocks = stream.allocate::<f32>(WIDTH / 128)?;
    for (rule, scales) in [(Int8Rule::PerToken, &mut rows), (Int8Rule::Official, &mut blocks)] {
        let mut values = stream.allocate::<i8>(x.len())?;
        quantiser.run(stream, rule, copy.view(), ROWS, WIDTH, values.view_mut(), scales.view_mut())?;
    }
    Ok([rows, blocks])
}

fn input(seed: usize) -> Vec<bf16> {
    (0..ROWS * WIDTH).map(|i| bf16::from_f32((i * 37 % 101 + seed) as f32)).collect()
}

fn read(scales: &[Buffer<f32>; 2]) -> [Vec<f32>; 2] {
    [0, 1].map(|index| scales[index].to_vec().unwrap())
}

fn ready(device: &Device) -> (Stream, QuantBlock, Buffer<bf16>) {
    let stream = device.stream().unwrap();
    let x = stream.upload(&input(0)).unwrap();
    (stream, QuantBlock::load(device).unwrap(), x)
}

/// The arena of a step, planned on a device that executes nothing.
fn arena(stream: &Stream) -> Arena {
    let (planner, quantiser, x) = ready(&planned(stream.device().chip().capability));
    let (scales, trace) = planner.trace(|stream| step(&quantiser, stream, &x)).unwrap();
    drop(scales);
    Arena::new(stream, trace.memory().unwrap()).unwrap()
}

#[test]
fn a_step_in_an_arena_has_the_same_results_and_allocates_nothing() {
    for device in devices() {
        let (stream, quantiser, mut x) = ready(&device);
        let mut arena = arena(&stream);
        assert!(arena.plan().arena_bytes() < 4 * ROWS * WIDTH + 4 * 256, "both int8 buffers have one place: {arena:?}");
        for seed in 0..3 {
            x.view_mut().write(&input(seed)).unwrap();
            let want = read(&step(&quantiser, &stream, &x).unwrap());
            let (got, trace) = stream.trace(|_| arena.run(|stream| step(&quantiser, stream, &x))).unwrap();
            assert_eq!(read(&got), want);
            let allocates = |work: &&Work| matches!(work, Work::Allocate { .. } | Work::Free { .. });
            assert_eq!(trace.works().iter().find(allocates), None);
        }
    }
}

#[test]
fn a_graph_records_a_step_in_an_arena_and_outlives_it() {
    for device in devices() {
        let (stream, quantiser, mut x) = ready(&device);
        let mut arena = arena(&stream);
        let mut kept = None;
        let mut graph = stream
            .capture(|_| {
                kept = Some(arena.run(|stream| step(&quantiser, stream, &x))?);
                Ok::<_, Error>(())
            })
            .unwrap();
        let scales = kept.unwrap();
        drop(arena);
        for seed in [5, 9] {
            x.view_mut().write(&input(seed)).unwrap();
            let want = read(&step(&quantiser, &stream, &x).unwrap());
            graph.replay().unwrap();
            assert_eq!(read(&scales), want);
        }
        drop((scales, x));
        graph.replay().unwrap();
        stream.synchronize().unwrap();
    }
}

#[test]
fn a_sequence_that_departs_is_told_where() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let events = |bytes: &[usize]| bytes.iter().map(|bytes| MemoryEvent::Allocate { bytes: *bytes }).collect::<Vec<_>>();
        let planned = |stream: &Stream| -> Result<(Buffer<u8>, Buffer<f32>), Error> {
            drop(stream.allocate::<u8>(100)?);
            Ok((stream.allocate(300)?, stream.allocate(5)?))
        };
        let (kept, trace) = stream.trace(planned).unwrap();
        drop(kept);
        let plan = trace.memory().unwrap();
        assert_eq!(plan.events(), [&events(&[100])[..], &[MemoryEvent::Free { allocation: 0 }], &events(&[300, 20])].concat());
        let mut arena = Arena::new(&stream, plan).unwrap();
        let departure = |at, expected, found| Some(Error::ArenaDeparture { at, of: 4, expected, found });
        let [first, second, third] = [100, 300, 20].map(|bytes| Some(MemoryEvent::Allocate { bytes }));
        let freed = Some(MemoryEvent::Free { allocation: 0 });

        let larger = arena.run(|stream| stream.allocate::<u8>(101).map(drop)).err();
        assert_eq!(larger, departure(0, first, Some(MemoryEvent::Allocate { bytes: 101 })));
        let longer = arena.run(|stream| Ok::<_, Error>((stream.allocate::<u8>(100)?, stream.allocate::<u8>(300)?))).err();
        assert_eq!(longer, departure(1, freed, second));
        let shorter = arena.run(|stream| planned(stream).map(drop)).err();
        assert_eq!(shorter, departure(4, None, Some(MemoryEvent::Free { allocation: 1 })), "the first of the two is dropped first");
        let less = arena.run(|stream| stream.allocate::<u8>(100).map(drop)).err();
        assert_eq!(less, departure(2, second, None));
        let more = arena.run(|stream| Ok::<_, Error>((planned(stream)?, stream.allocate::<f32>(5)?))).err();
        assert_eq!(more, departure(4, None, third));
        // what follows a departure is refused with it, even where it would fit
        let followed = arena.run(|stream| {
            drop(stream.allocate::<u8>(100)?);
            assert!(stream.allocate::<u8>(7).is_err());
            planned(stream)
        });
        assert_eq!(followed.err(), departure(2, second, Some(MemoryEvent::Allocate { bytes: 7 })));

        let (bytes, numbers) = arena.run(planned).unwrap();
        assert_eq!((bytes.len(), numbers.len()), (300, 5));
        let text = departure(2, second, None).unwrap().to_string();
        assert!(text.contains("event 2 of the 4") && text.contains("300 bytes") && text.contains("came to the end"), "{text}");
    }
}

#[test]
fn an_arena_serves_no_run_while_buffers_of_the_last_one_live() {
    for device in devices() {
        let (stream, quantiser, x) = ready(&device);
        let mut first = arena(&stream);
        let mut second = arena(&stream);
        let kept = first.run(|stream| step(&quantiser, stream, &x)).unwrap();
        let busy = |outcome: Result<(), Error>| matches!(outcome, Err(Error::ArenaBusy { .. }));
        assert!(busy(first.run(|stream| step(&quantiser, stream, &x).map(drop))));
        let [rows, blocks] = kept;
        drop(rows);
        assert!(busy(first.run(|stream| step(&quantiser, stream, &x).map(drop))));
        assert!(matches!(blocks.settle(), Err(Error::InArena { .. })));
        assert!(busy(first.run(|stream| second.run(|_| step(&quantiser, stream, &x)).map(drop))));
        drop(first.run(|stream| step(&quantiser, stream, &x)).unwrap());
        drop(second.run(|stream| step(&quantiser, stream, &x)).unwrap());
        // outside of a run, memory is the device's again
        let (_, trace) = stream.trace(|stream| stream.allocate::<u8>(1)).unwrap();
        assert_eq!(trace.works()[0], Work::Allocate { bytes: 1 });
    }
}

#[test]
fn a_run_that_fails_leaves_arena_and_stream_usable() {
    for device in devices() {
        let (stream, quantiser, x) = ready(&device);
        let mut arena = arena(&stream);
        let want = read(&step(&quantiser, &stream, &x).unwrap());
        let failed = arena.run(|stream| {
            let _alive = stream.allocate::<bf16>(x.len())?;
            Err::<(), _>(Error::NoDriver)
        });
        assert_eq!(failed, Err(Error::NoDriver));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = arena.run(|stream| -> Result<(), Error> {
                let _alive = stream.allocate::<bf16>(x.len())?;
                panic!("in the midst of a run")
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(read(&arena.run(|stream| step(&quantiser, stream, &x)).unwrap()), want);
    }
}

#[test]
fn what_nobody_wrote_is_seen_in_an_arena_too() {
    for device in devices().into_iter().filter(Device::is_emulated) {
        let stream = device.stream().unwrap();
        let one = |stream: &Stream| stream.allocate::<f32>(100);
        let (buffer, trace) = stream.trace(one).unwrap();
        drop(buffer);
        let mut arena = Arena::new(&stream, trace.memory().unwrap()).unwrap();
        let mut buffer = arena.run(one).unwrap();
        buffer.view_mut().write(&[1.0; 100]).unwrap();
        drop(buffer);
        assert!(arena.run(one).unwrap().to_vec().unwrap().iter().all(|value| value.is_nan()));
    }
}
