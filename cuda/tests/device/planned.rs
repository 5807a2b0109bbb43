//! The device that only plans: it lists what the others do, and refuses what they refuse.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::device::params::QuantBlockParams;
use turbowan_cuda::device::{Buffer, Device, Kernel, Launch, Stream, Swizzle, TensorMap, Tiling, Total, Touched, Trace, Work};
use turbowan_cuda::kernels::QUANT_BLOCK;
use turbowan_cuda::ops::gemm::device::{DeviceMatrix, GemmBf16};
use turbowan_cuda::ops::quant::Int8Rule;
use turbowan_cuda::ops::quant::device::QuantBlock;

use crate::{devices, planned};

const ADA: (u32, u32) = (8, 9);

/// Work of every kind over `rows` rows of `width` values.
fn work(quantiser: &QuantBlock, stream: &Stream, rows: usize, width: usize) -> Result<Vec<f32>, Error> {
    let mut x = stream.zeros::<bf16>(rows * width)?;
    x.view_mut().slice(0..2)?.write(&[bf16::ONE; 2])?;
    let mut values = stream.allocate(rows * width)?;
    let mut scales = stream.allocate(rows * width / 128)?;
    quantiser.run(stream, Int8Rule::PerToken, x.view(), rows, width, values.view_mut(), scales.view_mut())?;
    drop(x);
    let mut copy = stream.allocate(scales.len())?;
    let mut recorded = stream.capture(|_| copy.view_mut().copy_from(scales.view()))?;
    recorded.replay()?;
    copy.to_vec()
}

fn traced(device: &Device, rows: usize, width: usize) -> Trace {
    let (quantiser, stream) = (QuantBlock::load(device).unwrap(), device.stream().unwrap());
    let (scales, trace) = stream.trace(|stream| work(&quantiser, stream, rows, width)).unwrap();
    assert_eq!(scales.len(), rows * width / 128);
    assert_eq!(scales.iter().any(|scale| *scale != 0.0), !device.is_planned(), "a planned device reads zeros");
    trace
}

#[test]
fn it_lists_what_a_device_does() {
    let trace = traced(&planned(ADA), 4, 256);
    let launch = Launch::linear(1, 256).unwrap();
    let operand = |name, bytes, is_written: bool| Touched { name, bytes, is_read: !is_written, is_written };
    let operands = vec![operand("x", 2048, false), operand("values", 1024, true), operand("scales", 32, true)];
    let want = [
        Work::Allocate { bytes: 2048 },
        Work::Fill { bytes: 2048 },
        Work::FromHost { bytes: 4 },
        Work::Allocate { bytes: 1024 },
        Work::Allocate { bytes: 32 },
        Work::Launch { kernel: "quant_block_1x128", launch, operands },
        Work::Free { bytes: 2048, allocation: Some(0) },
        Work::Allocate { bytes: 32 },
        Work::Copy { bytes: 32 },
        Work::ToHost { bytes: 32 },
        Work::Free { bytes: 32, allocation: Some(3) },
        Work::Free { bytes: 32, allocation: Some(2) },
        Work::Free { bytes: 1024, allocation: Some(1) },
    ];
    assert_eq!(trace.works(), want);
    for device in devices() {
        assert_eq!(traced(&device, 4, 256), trace, "{device:?}");
    }
    let memory = trace.memory().unwrap();
    assert_eq!((memory.peak_bytes(), memory.arena_bytes()), (2048 + 1024 + 256, 2048 + 1024 + 256));
    let totals: Vec<_> =
        trace.totals().iter().map(|Total { name, count, moved }| (*name, *count, moved.read_bytes, moved.written_bytes)).collect();
    let want = [
        ("quant_block_1x128", 1, 2048, 1056),
        ("fill", 1, 0, 2048),
        ("copy", 1, 32, 32),
        ("copy to the host", 1, 32, 0),
        ("copy from the host", 1, 0, 4),
    ];
    assert_eq!(totals, want);
}

#[test]
fn it_keeps_the_list_of_a_stream() {
    let device = planned(ADA);
    let (stream, other) = (device.stream().unwrap(), device.stream().unwrap());
    let x = stream.upload(&[1.0f32; 8]).unwrap();
    let (y, inner) = stream.trace(|stream| stream.zeros::<f32>(2)).unwrap();
    drop((x, y));
    let all = stream.planned_work().unwrap();
    let names: Vec<_> = all.works().iter().map(Work::name).collect();
    assert_eq!(names, ["allocate", "copy from the host", "allocate", "fill", "free", "free"]);
    assert_eq!(inner.works(), &all.works()[2..4]);
    assert_eq!(all.works()[5], Work::Free { bytes: 8, allocation: Some(1) });
    assert_eq!(other.planned_work(), Some(Trace::default()));
    drop(stream);
    assert_eq!(device.planned_work(), Some(vec![all, Trace::default()]));
    assert!(devices().iter().all(|device| device.planned_work().is_none() && device.stream().unwrap().planned_work().is_none()));
}

#[test]
fn a_step_larger_than_any_machine_is_planned_without_memory() {
    let (rows, width, layers) = (75_600, 5120, 40);
    let device = planned(ADA);
    let (quantiser, stream) = (QuantBlock::load(&device).unwrap(), device.stream().unwrap());
    let step = |stream: &Stream| -> Result<(), Error> {
        let kept: Vec<Buffer<bf16>> = (0..layers).map(|_| stream.allocate(rows * width)).collect::<Result<_, _>>()?;
        for x in &kept {
            let mut values = stream.allocate(rows * width)?;
            let mut scales = stream.allocate(rows * width / 128)?;
            quantiser.run(stream, Int8Rule::PerToken, x.view(), rows, width, values.view_mut(), scales.view_mut())?;
        }
        // more than the chip has: nothing of it is free
        assert_eq!(device.memory_bytes().unwrap(), Some((0, 24 << 30)));
        Ok(())
    };
    let ((), trace) = stream.trace(step).unwrap();
    let (x, int8) = (rows * width * 2, rows * width + rows * width / 32);
    assert_eq!(trace.memory().unwrap().peak_bytes(), layers * x + int8);
    let total = trace.totals()[0];
    assert_eq!((total.name, total.count), ("quant_block_1x128", layers));
    assert_eq!((total.moved.read_bytes, total.moved.written_bytes), ((layers * x) as u64, (layers * int8) as u64));
    assert_eq!(device.memory_bytes().unwrap(), Some((24 << 30, 24 << 30)));
}

#[test]
fn values_for_a_plan_are_never_made() {
    let upload = |stream: &Stream| stream.upload_made(3, || vec![1.0f32, 2.0, 3.0]);
    let (kept, trace) = planned(ADA).stream().unwrap().trace(upload).unwrap();
    assert_eq!(trace.works(), [Work::Allocate { bytes: 12 }, Work::FromHost { bytes: 12 }]);
    assert_eq!(kept.to_vec().unwrap(), [0.0; 3]);
    let stream = planned(ADA).stream().unwrap();
    assert!(stream.upload_made(1 << 40, || -> Vec<f32> { unreachable!("four terabytes") }).is_ok());
    for device in devices() {
        let stream = device.stream().unwrap();
        let (made, listed) = stream.trace(upload).unwrap();
        assert_eq!((made.to_vec().unwrap(), listed), (vec![1.0, 2.0, 3.0], trace.clone()), "{device:?}");
        assert!(matches!(stream.upload_made(2, || vec![0u8; 3]), Err(Error::Length { expected: 2, found: 3, .. })));
    }
}

#[test]
fn it_refuses_what_the_others_refuse() {
    let device = planned(ADA);
    let (stream, other) = (device.stream().unwrap(), device.stream().unwrap());
    let quantiser = QuantBlock::load(&device).unwrap();
    let (mut values, mut scales) = (stream.allocate::<i8>(256).unwrap(), stream.allocate::<f32>(2).unwrap());
    let x = stream.allocate::<bf16>(257).unwrap();
    let odd = x.view().slice(1..257).unwrap();
    let refused = quantiser.run(&stream, Int8Rule::PerToken, odd, 1, 256, values.view_mut(), scales.view_mut());
    assert!(matches!(refused, Err(Error::Misaligned { what: "x", needed: 16, found: 2 })), "{refused:?}");
    let foreign = other.allocate::<bf16>(256).unwrap();
    let refused = quantiser.run(&stream, Int8Rule::PerToken, foreign.view(), 1, 256, values.view_mut(), scales.view_mut());
    assert!(matches!(refused, Err(Error::OtherStream { what: "x" })), "{refused:?}");
    let foreign = foreign.settle().unwrap();
    quantiser.run(&stream, Int8Rule::PerToken, foreign.view(), 1, 256, values.view_mut(), scales.view_mut()).unwrap();

    let kernel = Kernel::<QuantBlockParams>::load(&device, &QUANT_BLOCK, "quant_block_1x128").unwrap();
    let params = QuantBlockParams {
        x: x.view().address(),
        values: values.view_mut().address(),
        scales: scales.view_mut().address(),
        rows: 1,
        width: 256,
    };
    let launch = Launch::linear(1, 256).unwrap();
    let refused = kernel.launch(&stream, launch, &params, &[x.view().reads("x"), values.view_mut().writes("values")]);
    assert!(matches!(refused, Err(Error::StrayPointer { parameter: "scales", .. })), "{refused:?}");
    let refused = kernel.launch(&stream, launch.with_shared_bytes(100 << 10), &params, &[]);
    assert!(matches!(refused, Err(Error::Launch { what: "shared memory of a block in bytes", .. })), "{refused:?}");
    let elsewhere = devices().into_iter().next().map(|device| device.stream().unwrap());
    if let Some(stream) = elsewhere {
        assert!(matches!(kernel.launch(&stream, launch, &params, &[]), Err(Error::OtherStream { .. })));
    }
    let missing = Kernel::<QuantBlockParams>::load(&device, &QUANT_BLOCK, "nothing");
    let knows_names = QUANT_BLOCK.compiled.is_some() || !turbowan_cuda::device::emulated_kernels().is_empty();
    if knows_names {
        assert!(matches!(missing, Err(Error::NoSuchKernel { file: "quant_block", kernel: "nothing" })), "{missing:?}");
    }
    assert!(matches!(x.view().read(&mut [bf16::ONE; 3]), Err(Error::Length { .. })));
    let works = stream.planned_work().unwrap();
    let launches = works.works().iter().filter(|work| work.launch().is_some()).count();
    assert_eq!(launches, 1, "what is refused is not listed");
}

#[test]
fn a_graph_is_recorded_and_its_replays_are_listed() {
    let device = planned(ADA);
    let (stream, quantiser) = (device.stream().unwrap(), QuantBlock::load(&device).unwrap());
    let x = stream.allocate::<bf16>(256).unwrap();
    let (mut values, mut scales) = (stream.allocate::<i8>(256).unwrap(), stream.allocate::<f32>(2).unwrap());
    let (mut graph, recording) = stream
        .trace(|stream| {
            stream.capture(|stream| {
                scales.view_mut().fill_bytes(0)?;
                assert!(matches!(stream.allocate::<u8>(1), Err(Error::Capturing { .. })));
                quantiser.run(stream, Int8Rule::PerToken, x.view(), 1, 256, values.view_mut(), scales.view_mut())
            })
        })
        .unwrap();
    assert!(recording.works().is_empty(), "{recording:?}");
    let names: Vec<_> = graph.nodes().iter().map(|node| node.name).collect();
    assert_eq!(names, ["fill", "quant_block_1x128"]);
    assert_eq!(graph.nodes()[1].launch, Some(Launch::linear(1, 256).unwrap()));
    let ((), replays) = stream.trace(|_| graph.replay().and_then(|()| graph.replay())).unwrap();
    assert_eq!(replays.works(), [graph.works(), graph.works()].concat());
    let (from, to) = (stream.record().unwrap(), stream.record().unwrap());
    assert_eq!(from.elapsed_ms(&to), Ok(0.0));
    stream.wait(&from).and_then(|()| stream.synchronize()).and_then(|()| device.synchronize()).unwrap();
}

#[test]
fn a_tensor_map_lies_in_planned_memory() {
    let stream = planned((9, 0)).stream().unwrap();
    let x = stream.allocate::<bf16>(1 << 31).unwrap();
    let tiling = Tiling { shape: &[1 << 18, 1 << 13], strides: &[1 << 13], tile: &[128, 64], swizzle: Swizzle::Bytes128 };
    let map = TensorMap::new(x.view(), &tiling).unwrap();
    let mut ends = Vec::new();
    map.addresses("map", &mut |_, address| ends.push(address - x.view().address().addr() as u64));
    assert_eq!(ends, [0, (1 << 32) - 1]);
    let short = Tiling { shape: &[(1 << 18) + 1, 1 << 13], ..tiling };
    assert!(matches!(TensorMap::new(x.view(), &short), Err(Error::Length { .. })));
}

#[test]
fn a_product_through_the_copy_engine_is_planned_for_the_chip() {
    let device = planned((9, 0));
    let (stream, product) = (device.stream().unwrap(), GemmBf16::load(&device).unwrap());
    let (rows, out, width) = (75_600, 13_824, 5120);
    let (x, w) = (stream.allocate::<bf16>(rows * width).unwrap(), stream.allocate::<bf16>(out * width).unwrap());
    let mut y = stream.allocate::<bf16>(rows * out).unwrap();
    let (x, w) = (DeviceMatrix::new(rows, width, x.view()).unwrap(), DeviceMatrix::new(out, width, w.view()).unwrap());
    let ((), trace) = stream.trace(|stream| product.store(stream, x, w, None, y.view_mut(), None)).unwrap();
    let [work] = trace.works() else { panic!("{trace:?}") };
    let launch = work.launch().unwrap();
    assert_eq!(launch.grid, [device.chip().multiprocessors, 1, 1], "a block stays on each multiprocessor");
    assert!(work.name().contains("wgmma") && launch.shared_bytes > 100 << 10, "{work:?}");
    let moved = work.moved();
    assert_eq!((moved.read_bytes, moved.written_bytes), (2 * ((rows + out) * width) as u64, 2 * (rows * out) as u64));
}
