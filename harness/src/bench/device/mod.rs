//! The kernels as they are timed: events around each launch, operands in several copies so that none lies in the cache by
//! chance, and the cache overwritten between two samples.
//!
//! Every operation here also runs on the emulator, which is how it is tested; the emulator is never timed.

mod attention;
mod branch;
mod convolution;
mod exact;
mod gradients;
mod linear;
mod prepare;
mod rows;
mod sides;
mod text;
mod whole;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream};

use super::case::Op;
use super::error::Error;
use super::sample::Samples;
use super::work::Work;

/// Copies of the operands: enough that all of them are larger than any cache, and no more.
pub const MOST_SLOTS: usize = 4;
/// Memory that the copies may take together.
const SLOT_BYTES: u64 = 8 << 30;

/// Makes the operands of an operation on a device.
///
/// # Errors
/// An operation that has no kernel, a shape that a kernel refuses, or what the driver says.
pub fn prepare(op: &Op, stream: &Stream) -> Result<Box<dyn Work>, Error> {
    let slots = slots(op.cost(true).map_or(0, |cost| cost.bytes), stream.device().chip().l2_bytes);
    Ok(match op {
        Op::LinearBf16(shape) => Box::new(linear::Bf16::new(shape, stream, slots)?),
        Op::LinearInt8(shape) => Box::new(linear::Int8::new(shape, stream, slots)?),
        Op::QuantiseOfficial(shape) | Op::QuantisePerToken(shape) => Box::new(rows::Quantised::new(op, shape, stream, slots)?),
        Op::NormLayer(shape) => Box::new(rows::LayerNorms::new(shape, stream, slots)?),
        Op::NormRmsRope(shape) => Box::new(rows::Turned::new(shape, stream, slots)?),
        Op::BlockMap(shape) => Box::new(attention::Map::new(shape, stream, slots)?),
        Op::NormChannel(shape) => Box::new(rows::ChannelNorms::new(shape, stream, slots)?),
        Op::ResidualGate(shape) => Box::new(rows::Gated::new(shape, stream, slots)?),
        Op::PrepareQk(shape) => Box::new(prepare::Qk::new(shape, stream, slots)?),
        Op::PrepareKeys(shape) => Box::new(prepare::KeyRows::new(shape, stream, slots)?),
        Op::PrepareValues(shape) => Box::new(prepare::ValueRows::new(shape, stream, slots)?),
        Op::AttentionSage(shape) => Box::new(attention::Sage::new(shape, false, stream, slots)?),
        Op::AttentionSageSla(shape) => Box::new(attention::Sage::new(shape, true, stream, slots)?),
        Op::AttentionDense(shape) => Box::new(exact::Exact::new(shape, stream, slots)?),
        Op::AttentionBackward(shape) => Box::new(exact::Backward::new(shape, false, stream, slots)?),
        Op::SlaBackward(shape) => Box::new(exact::Backward::new(shape, true, stream, slots)?),
        Op::LinearBranch(shape) => Box::new(branch::Alone::new(shape, stream, slots)?),
        Op::SelfSageSla(shape) => Box::new(whole::Whole::new(shape, stream, slots)?),
        Op::TextAttention(shape) => Box::new(text::Text::new(shape, stream, slots)?),
        Op::Conv3d(shape) => Box::new(convolution::Frames::new(shape, stream, slots)?),
        other => return Err(Error::case(&other.name(), "no kernel of this program does it on a device yet")),
    })
}

/// How many copies of `bytes` of operands: until all but one are larger than the cache, within the memory they may take.
fn slots(bytes: u64, l2_bytes: u64) -> usize {
    let wanted = 1 + l2_bytes.div_ceil(bytes.max(1));
    let room = (SLOT_BYTES / bytes.max(1)).max(1);
    wanted.min(room).min(MOST_SLOTS as u64) as usize
}

/// Values on the device, one buffer a slot, all with the same content.
fn copies<T: turbowan_cuda::host::aligned::Plain>(stream: &Stream, values: &[T], slots: usize) -> Result<Vec<Buffer<T>>, Error> {
    (0..slots).map(|_| Ok(stream.upload(values)?)).collect()
}

/// Unset values on the device, one buffer a slot.
fn room<T: turbowan_cuda::host::aligned::Plain>(stream: &Stream, len: usize, slots: usize) -> Result<Vec<Buffer<T>>, Error> {
    (0..slots).map(|_| Ok(stream.allocate(len)?)).collect()
}

/// Which slot's turn it is.
#[derive(Debug, Default)]
struct Turn {
    next: usize,
    last: usize,
}

impl Turn {
    fn take(&mut self, slots: usize) -> usize {
        self.last = self.next;
        self.next = (self.next + 1) % slots.max(1);
        self.last
    }
}

fn to_f32(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

/// The clock of a device.
pub struct DeviceClock {
    stream: Stream,
    /// Larger than the cache; written between two samples.
    cache: Buffer<u8>,
    fill: u8,
}

impl DeviceClock {
    /// A clock for the work of one stream.
    ///
    /// # Errors
    /// [`Error::Device`] for the emulator, or what the driver says.
    pub fn new(stream: &Stream) -> Result<Self, Error> {
        let device = stream.device();
        if device.is_emulated() {
            return Err(Error::Device(
                "the emulator is never timed: it runs a kernel's threads as fibers on the processor and checks every access, so that its time says nothing of a GPU's".to_owned(),
            ));
        }
        let bytes = (2 * device.chip().l2_bytes as usize).max(64 << 20);
        Ok(Self { stream: stream.clone(), cache: stream.allocate(bytes)?, fill: 0 })
    }

    /// Seconds of one run, by events on its stream, after the cache was overwritten.
    ///
    /// # Errors
    /// What the work or the driver says.
    pub fn sample(&mut self, work: &mut dyn Work) -> Result<f64, Error> {
        self.fill = self.fill.wrapping_add(1);
        self.cache.view_mut().fill_bytes(self.fill)?;
        let before = self.stream.record()?;
        work.run()?;
        let after = self.stream.record()?;
        after.synchronize()?;
        Ok(f64::from(before.elapsed_ms(&after)?) / 1e3)
    }

    /// Seconds of `repeat` copies of `bytes` bytes from one buffer to another: the bandwidth that can be had here.
    ///
    /// # Errors
    /// What the driver says.
    pub fn copy(&mut self, bytes: usize, repeat: usize) -> Result<Samples, Error> {
        struct Copy {
            from: Buffer<u8>,
            to: Buffer<u8>,
        }
        impl Work for Copy {
            fn run(&mut self) -> Result<Option<std::time::Duration>, Error> {
                self.to.view_mut().copy_from(self.from.view())?;
                Ok(None)
            }
            fn check(&mut self, _: usize, _: turbowan_reference::metrics::Bound) -> Result<super::work::Check, Error> {
                Err(Error::case("copy", "is not checked"))
            }
        }
        let mut copy = Copy { from: self.stream.allocate(bytes)?, to: self.stream.allocate(bytes)? };
        copy.from.view_mut().fill_bytes(1)?;
        (0..repeat + 2).map(|_| self.sample(&mut copy)).collect::<Result<Vec<_>, _>>().map(|all| Samples(all[2..].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::case;
    use super::*;
    use turbowan_cuda::device::{Device, EmulatorOptions};

    const SMALL: &str = include_str!("small.toml");

    #[test]
    fn every_operation_of_a_device_holds_its_bound_on_the_emulator_and_is_not_timed_there() {
        // values in 16 bits, in 8 bits, and in tiles with the kernels of warpgroups
        for capability in [(8, 0), (8, 9), (9, 0)] {
            let Ok(device) = Device::emulated(EmulatorOptions::default().for_capability(capability)) else {
                return println!("skipped: no emulator");
            };
            let stream = device.stream().unwrap();
            for case in case::parse(Path::new("small.toml"), SMALL).unwrap() {
                let mut work = prepare(&case.op, &stream).unwrap();
                for _ in 0..2 {
                    work.run().unwrap();
                    let check = work.check(case.bound.rows, case.bound.bound()).unwrap();
                    assert!(check.verdict.passes() && check.values > 0, "{capability:?} {}: {}", case.name, check.verdict);
                }
            }
            let refused = DeviceClock::new(&stream).err().unwrap().to_string();
            assert!(refused.starts_with("the emulator is never timed"), "{refused}");
        }
    }

    #[test]
    fn the_report_states_the_shared_memory_that_launchers_ask_for() {
        use crate::report::kernels::shared::{Dynamic, dynamic};
        // large shared memory, small, warpgroups: each has kernels of its own
        for capability in [(8, 0), (8, 9), (9, 0)] {
            let Ok(device) = Device::emulated(EmulatorOptions::default().for_capability(capability)) else {
                return println!("skipped: no emulator");
            };
            let stream = device.stream().unwrap();
            for case in case::parse(Path::new("small.toml"), SMALL).unwrap() {
                let mut work = prepare(&case.op, &stream).unwrap();
                let graph = stream.capture(|_| work.run().map(|_| ())).unwrap();
                for (kernel, launch) in graph.nodes().iter().filter_map(|node| Some((node.name, node.launch?))) {
                    match dynamic(kernel) {
                        Dynamic::Always(bytes) => assert_eq!(bytes, launch.shared_bytes, "{kernel}"),
                        Dynamic::At(bytes, _) => assert!(bytes >= launch.shared_bytes && launch.shared_bytes > 0, "{kernel}"),
                        Dynamic::NotStated => panic!("{kernel} asks for {} bytes; the report has no line for it", launch.shared_bytes),
                    }
                }
            }
        }
    }

    #[test]
    fn copies_outgrow_the_cache_and_not_the_memory() {
        let l2 = 50 << 20;
        assert_eq!(slots(1 << 20, l2), MOST_SLOTS);
        assert_eq!(slots(50 << 20, l2), 2);
        assert_eq!(slots(1 << 30, l2), 2);
        assert_eq!(slots(6 << 30, l2), 1);
        assert_eq!(slots(1 << 20, 0), 1);
        let mut turn = Turn::default();
        assert_eq!([turn.take(2), turn.take(2), turn.take(2), turn.take(1)], [0, 1, 0, 1]);
    }
}
