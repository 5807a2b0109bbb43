//! Faults that the emulated device meets on purpose: each told apart, and what works after it.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::device::{Arena, Device, EmulatorOptions, Fault, Stream};
use turbowan_cuda::ops::quant::Int8Rule;
use turbowan_cuda::ops::quant::device::QuantBlock;

fn faulty(fault: Fault) -> Option<(Device, Stream)> {
    let device = crate::said(Device::emulated(EmulatorOptions::default().with_fault(fault)))?;
    let stream = device.stream().unwrap();
    Some((device, stream))
}

/// Three allocations, a copy from the host, a launch and a copy to the host.
fn work(device: &Device, stream: &Stream) -> Result<Vec<f32>, Error> {
    let x = stream.upload(&[bf16::ONE; 256])?;
    let (mut values, mut scales) = (stream.allocate(256)?, stream.allocate(2)?);
    let quantiser = QuantBlock::load(device)?;
    quantiser.run(stream, Int8Rule::PerToken, x.view(), 1, 256, values.view_mut(), scales.view_mut())?;
    scales.to_vec()
}

const WANT: [f32; 2] = [1.0 / 127.0; 2];

#[test]
fn one_allocation_finds_no_memory() {
    for (allocation, bytes) in [(1, 512), (2, 256), (3, 8)] {
        let Some((device, stream)) = faulty(Fault::OutOfMemory { allocation }) else { return };
        assert_eq!(work(&device, &stream), Err(Error::OutOfMemory { bytes }));
        assert_eq!(work(&device, &stream).unwrap(), WANT);
    }
    // the second work's second allocation
    let Some((device, stream)) = faulty(Fault::OutOfMemory { allocation: 5 }) else { return };
    assert_eq!(work(&device, &stream).unwrap(), WANT);
    assert_eq!(work(&device, &device.stream().unwrap()), Err(Error::OutOfMemory { bytes: 256 }));
    assert_eq!(work(&device, &stream).unwrap(), WANT);
}

#[test]
fn one_launch_fails_and_does_nothing() {
    let Some((device, stream)) = faulty(Fault::LaunchFailed { launch: 2 }) else { return };
    assert_eq!(work(&device, &stream).unwrap(), WANT);
    let quantiser = QuantBlock::load(&device).unwrap();
    let x = stream.upload(&[bf16::ONE; 256]).unwrap();
    let (mut values, mut scales) = (stream.zeros::<i8>(256).unwrap(), stream.zeros::<f32>(2).unwrap());
    let mut graph =
        stream.capture(|stream| quantiser.run(stream, Int8Rule::PerToken, x.view(), 1, 256, values.view_mut(), scales.view_mut())).unwrap();
    let failed = graph.replay();
    assert!(matches!(failed, Err(Error::LaunchFailed { kernel: "quant_block_1x128", .. })), "{failed:?}");
    assert_eq!(scales.to_vec().unwrap(), [0.0; 2]);
    graph.replay().unwrap();
    assert_eq!(scales.to_vec().unwrap(), WANT);
}

#[test]
fn a_lost_device_stays_lost() {
    let lost = |outcome: Result<(), Error>| matches!(outcome, Err(Error::DeviceLost { .. }));
    // allocation, copy from the host, two allocations, launch, copy to the host
    for operation in 1..=6 {
        let Some((device, stream)) = faulty(Fault::DeviceLost { operation }) else { return };
        stream.synchronize().unwrap();
        assert!(lost(work(&device, &stream).map(drop)), "operation {operation}");
        assert!(lost(work(&device, &stream).map(drop)));
        assert!(lost(stream.synchronize()) && lost(device.synchronize()) && lost(stream.record().map(drop)));
        assert!(lost(device.stream().unwrap().allocate::<u8>(1).map(drop)));
    }
    let Some((device, stream)) = faulty(Fault::DeviceLost { operation: 7 }) else { return };
    assert_eq!(work(&device, &stream).unwrap(), WANT);
    assert!(lost(work(&device, &stream).map(drop)));
}

#[test]
fn an_arena_is_out_of_reach_of_an_allocation_that_fails() {
    let Some((_, stream)) = faulty(Fault::OutOfMemory { allocation: 3 }) else { return };
    let one = |stream: &Stream| stream.allocate::<u8>(10).map(drop);
    let ((), trace) = stream.trace(one).unwrap();
    let mut arena = Arena::new(&stream, trace.memory().unwrap()).unwrap();
    for _ in 0..3 {
        arena.run(one).unwrap();
    }
    assert_eq!(one(&stream), Err(Error::OutOfMemory { bytes: 10 }));
}
