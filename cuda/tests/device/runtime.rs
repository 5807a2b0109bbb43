//! Streams, buffers, launches and graphs: what they do and what they refuse.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::device::params::QuantBlockParams;
use turbowan_cuda::device::{Device, EmulatorOptions, Kernel, Launch, Stream};
use turbowan_cuda::kernels::QUANT_BLOCK;
use turbowan_cuda::ops::quant::Int8Rule;
use turbowan_cuda::ops::quant::device::QuantBlock;

use crate::devices;

#[test]
fn a_missing_device_is_an_error_with_a_reason() {
    match Device::open(usize::MAX) {
        Err(Error::NoDriver) => assert!(matches!(Device::count(), Err(Error::NoDriver))),
        Err(Error::NoDevice { ordinal, found, .. }) => assert_eq!((ordinal, Ok(found)), (usize::MAX, Device::count())),
        Err(Error::DriverTooOld { found, needed, .. }) => assert!(found < needed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_whole_and_in_part() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let values: Vec<i32> = (0..1000).collect();
        let mut buffer = stream.upload(&values).unwrap();
        assert_eq!(buffer.to_vec().unwrap(), values);
        assert_eq!(buffer.view().slice(63..65).unwrap().to_vec().unwrap(), [63, 64]);
        buffer.view_mut().slice(998..1000).unwrap().write(&[-1, -2]).unwrap();
        buffer.view_mut().slice(0..3).unwrap().fill_bytes(0).unwrap();
        assert_eq!(buffer.view().slice(996..1000).unwrap().to_vec().unwrap(), [996, 997, -1, -2]);
        assert_eq!(buffer.view().slice(0..5).unwrap().to_vec().unwrap(), [0, 0, 0, 3, 4]);
        let mut other = stream.allocate::<i32>(2).unwrap();
        other.view_mut().copy_from(buffer.view().slice(500..502).unwrap()).unwrap();
        assert_eq!(other.to_vec().unwrap(), [500, 501]);
        assert!(stream.allocate::<f32>(0).unwrap().to_vec().unwrap().is_empty());
        let (from, to) = (stream.record().unwrap(), stream.record().unwrap());
        assert!(from.elapsed_ms(&to).unwrap() >= 0.0);
    }
}

#[test]
fn parts_past_the_end_are_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let mut buffer = stream.allocate::<f32>(10).unwrap();
        assert!(matches!(buffer.view().slice(3..11), Err(Error::OutOfRange { from: 3, to: 11, len: 10, .. })));
        #[allow(clippy::reversed_empty_ranges, reason = "it must be refused")]
        let reversed = buffer.view_mut().slice(4..3).map(drop);
        assert!(matches!(reversed, Err(Error::OutOfRange { .. })));
        assert!(matches!(buffer.view_mut().write(&[0.0; 9]), Err(Error::Length { expected: 10, found: 9, .. })));
        assert!(matches!(buffer.view().read(&mut [0.0; 11]), Err(Error::Length { .. })));
        assert!(stream.allocate::<f64>(usize::MAX / 4).is_err());
    }
}

/// A quantiser with operands of two blocks.
struct Small {
    stream: Stream,
    kernel: Kernel<QuantBlockParams>,
    x: turbowan_cuda::device::Buffer<bf16>,
    values: turbowan_cuda::device::Buffer<i8>,
    scales: turbowan_cuda::device::Buffer<f32>,
}

impl Small {
    fn new(device: &Device) -> Self {
        let stream = device.stream().unwrap();
        let x: Vec<bf16> = (0..256).map(|i| bf16::from_f32(i as f32 - 100.0)).collect();
        Self {
            kernel: Kernel::load(device, &QUANT_BLOCK, "quant_block_1x128").unwrap(),
            x: stream.upload(&x).unwrap(),
            values: stream.allocate(256).unwrap(),
            scales: stream.allocate(2).unwrap(),
            stream,
        }
    }

    fn params(&mut self) -> QuantBlockParams {
        QuantBlockParams {
            x: self.x.view().address(),
            values: self.values.view_mut().address(),
            scales: self.scales.view_mut().address(),
            rows: 1,
            width: 256,
        }
    }
}

#[test]
fn a_parameter_that_points_into_no_operand_is_refused() {
    for device in devices() {
        let mut small = Small::new(&device);
        let (params, launch) = (small.params(), Launch::linear(1, 256).unwrap());
        let mut values = small.values.view_mut();
        let operands = [small.x.view().reads("x"), values.writes("values")];
        let refused = small.kernel.launch(&small.stream, launch, &params, &operands);
        assert!(matches!(refused, Err(Error::StrayPointer { parameter: "scales", .. })), "{refused:?}");
    }
}

#[test]
fn an_operand_off_its_boundary_is_refused() {
    for device in devices() {
        let mut small = Small::new(&device);
        let quantiser = QuantBlock::load(&device).unwrap();
        let x = small.stream.allocate::<bf16>(257).unwrap();
        let (values, scales) = (small.values.view_mut(), small.scales.view_mut());
        let refused = quantiser.run(&small.stream, Int8Rule::PerToken, x.view().slice(1..257).unwrap(), 1, 256, values, scales);
        assert!(matches!(refused, Err(Error::Misaligned { what: "x", needed: 16, found: 2 })), "{refused:?}");
    }
}

#[test]
fn memory_of_another_stream_is_refused_until_it_is_settled() {
    for device in devices() {
        let mut small = Small::new(&device);
        let (quantiser, other) = (QuantBlock::load(&device).unwrap(), device.stream().unwrap());
        let x = other.upload(&small.x.to_vec().unwrap()).unwrap();
        let refused = quantiser.run(&small.stream, Int8Rule::PerToken, x.view(), 1, 256, small.values.view_mut(), small.scales.view_mut());
        assert!(matches!(refused, Err(Error::OtherStream { what: "x" })), "{refused:?}");
        let x = x.settle().unwrap();
        for stream in [&small.stream, &other] {
            let (mut values, mut scales) = (stream.allocate(256).unwrap(), stream.allocate(2).unwrap());
            quantiser.run(stream, Int8Rule::PerToken, x.view(), 1, 256, values.view_mut(), scales.view_mut()).unwrap();
            assert_eq!(scales.to_vec().unwrap(), [100.0 / 127.0, 155.0 / 127.0]);
        }
        drop(x);
        small.stream.synchronize().unwrap();
    }
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    let Ok(device) = Device::emulated(EmulatorOptions::default()) else { return };
    let missing = Kernel::<QuantBlockParams>::load(&device, &QUANT_BLOCK, "nothing");
    assert!(matches!(missing, Err(Error::Emulator { kernel: "nothing", .. })), "{missing:?}");
}

#[test]
fn two_streams_work_side_by_side_and_wait_for_one_another() {
    for device in devices() {
        let (first, second) = (device.stream().unwrap(), device.stream().unwrap());
        let mut buffer = first.allocate::<u8>(1 << 20).unwrap();
        buffer.view_mut().fill_bytes(7).unwrap();
        let written = first.record().unwrap();
        second.wait(&written).unwrap();
        let mut other = second.allocate::<u8>(1 << 20).unwrap();
        let source = buffer.settle().unwrap();
        other.view_mut().copy_from(source.view()).unwrap();
        second.synchronize().unwrap();
        assert!(other.to_vec().unwrap().iter().all(|byte| *byte == 7));
    }
}

#[test]
fn a_replay_repeats_what_was_recorded_and_keeps_its_memory() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let quantiser = QuantBlock::load(&device).unwrap();
        let mut x = stream.upload(&vec![bf16::ONE; 256]).unwrap();
        let (mut values, mut scales) = (stream.allocate(256).unwrap(), stream.allocate(2).unwrap());
        values.view_mut().fill_bytes(9).unwrap();
        let mut copy = stream.allocate::<i8>(256).unwrap();
        let mut graph = stream
            .capture(|stream| {
                quantiser.run(stream, Int8Rule::PerToken, x.view(), 1, 256, values.view_mut(), scales.view_mut())?;
                copy.view_mut().copy_from(values.view())?;
                assert!(matches!(stream.allocate::<u8>(1), Err(Error::Capturing { .. })));
                assert!(matches!(stream.synchronize(), Err(Error::Capturing { .. })));
                assert!(matches!(values.to_vec(), Err(Error::Capturing { .. })));
                Ok::<_, Error>(())
            })
            .unwrap();
        let names: Vec<_> = graph.nodes().iter().map(|node| node.name).collect();
        assert_eq!(names, ["quant_block_1x128", "copy"]);
        assert_eq!(graph.nodes()[0].launch, Some(Launch::linear(1, 256).unwrap()));
        assert!(values.to_vec().unwrap().iter().all(|value| *value == 9), "recording must run nothing");
        for size in [1.0, 3.0] {
            x.view_mut().write(&vec![bf16::from_f32(-size); 256]).unwrap();
            graph.replay().unwrap();
            assert_eq!(copy.to_vec().unwrap(), [-127; 256]);
            assert_eq!(scales.to_vec().unwrap(), [size / 127.0; 2]);
        }
        // the graph still owns the memory of the buffers
        drop((x, values, scales));
        graph.replay().unwrap();
        assert_eq!(copy.to_vec().unwrap(), [-127; 256]);
    }
}

#[test]
fn a_recording_that_fails_leaves_the_stream_usable() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let mut buffer = stream.upload(&[1u8; 4]).unwrap();
        let failed = stream.capture(|_| Err::<(), _>(Error::NoEmulator));
        assert!(matches!(failed, Err(Error::NoEmulator)));
        let nested = stream.capture(|stream| {
            assert!(matches!(stream.capture(|_| Ok::<_, Error>(())), Err(Error::Capturing { .. })));
            buffer.view_mut().fill_bytes(2)
        });
        nested.unwrap().replay().unwrap();
        assert_eq!(buffer.to_vec().unwrap(), [2; 4]);
    }
}

#[test]
fn the_last_blocks_of_a_launch_past_memory_can_be_looked_at() {
    let rows = (1usize << 31) / 128 + 3;
    let first = rows as u64 / 64;
    let Ok(device) = Device::emulated(EmulatorOptions::default().for_blocks(first, 1)) else { return };
    let stream = device.stream().unwrap();
    let Ok(mut x) = stream.zeros::<bf16>(rows * 128) else { return println!("skipped: no addresses") };
    let (mut values, mut scales) = (stream.zeros::<i8>(rows * 128).unwrap(), stream.zeros::<f32>(rows).unwrap());
    x.view_mut().slice((rows - 1) * 128..rows * 128).unwrap().write(&[bf16::from_f32(-2.0); 128]).unwrap();
    let quantiser = QuantBlock::load(&device).unwrap();
    quantiser.run(&stream, Int8Rule::PerToken, x.view(), rows, 128, values.view_mut(), scales.view_mut()).unwrap();
    assert_eq!(values.view().slice((rows - 1) * 128..rows * 128).unwrap().to_vec().unwrap(), [-127; 128]);
    assert_eq!(scales.view().slice(rows - 2..rows).unwrap().to_vec().unwrap(), [1e-8 / 127.0, 2.0 / 127.0]);
    assert_eq!(scales.view().slice(0..1).unwrap().to_vec().unwrap(), [0.0], "the first blocks were left out");
}
