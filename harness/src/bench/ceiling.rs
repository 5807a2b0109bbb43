//! What the machine can do at best: measured in the same run, and by the data sheet where the chip is known.

use serde::{Deserialize, Serialize};
use turbowan_cuda::device::Stream;

use super::case::{Linear, Op};
use super::cost::Cost;
use super::device::{self, DeviceClock};
use super::error::Error;
use super::sample::Samples;
use super::{host, host_sample};

/// Values of each array of the host's copy: three arrays are larger than any cache.
const HOST_VALUES: usize = 32 << 20;
/// Bytes of a device's copy.
const DEVICE_BYTES: usize = 1 << 30;
/// Samples of a ceiling.
const REPEAT: usize = 5;
/// Sides of the host's product.
const HOST_PRODUCT: Linear = Linear { rows: 1536, out: 1536, input: 1536 };
/// Sides of a device's product.
const DEVICE_PRODUCT: Linear = Linear { rows: 8192, out: 8192, input: 8192 };

/// Measured ceilings, at the best sample.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes read and written by a copy, 10^9 a second.
    pub copy_gigabytes_per_s: Option<f64>,
    /// The same by `a = b + c * x` (host only).
    pub triad_gigabytes_per_s: Option<f64>,
    /// Our best floating-point product: f32 on the host, bf16 on a device; 10^12 operations a second.
    pub float_tops: Option<f64>,
    /// Our best int8 product.
    pub int8_tops: Option<f64>,
}

/// What the maker says of a chip: dense operations, no sparsity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DataSheet {
    /// The chip as its driver calls it, or a part of that.
    pub chip: &'static str,
    /// bf16 products summed in f32, 10^12 operations a second.
    pub bf16_tops: f64,
    /// int8 products, 10^12 operations a second.
    pub int8_tops: f64,
    /// Memory, 10^9 bytes a second.
    pub gigabytes_per_s: f64,
    /// Where that is written.
    pub source: &'static str,
}

/// The chips that are known; the first whose name is a part of the driver's.
pub const DATA_SHEETS: [DataSheet; 10] = [
    sheet("H200", 989.0, 1979.0, 4800.0, "NVIDIA H200 data sheet, SXM, dense"),
    sheet("H100 PCIe", 756.0, 1513.0, 2000.0, "NVIDIA H100 data sheet, PCIe, dense"),
    sheet("H100 NVL", 835.0, 1671.0, 3900.0, "NVIDIA H100 data sheet, NVL, dense"),
    sheet("H100", 989.0, 1979.0, 3350.0, "NVIDIA H100 data sheet, SXM, dense"),
    sheet("A100-SXM4-80GB", 312.0, 624.0, 2039.0, "NVIDIA A100 data sheet, SXM, dense"),
    sheet("A100-PCIE-40GB", 312.0, 624.0, 1555.0, "NVIDIA A100 data sheet, PCIe, dense"),
    sheet("A100", 312.0, 624.0, 1935.0, "NVIDIA A100 data sheet, 80 GB PCIe, dense"),
    sheet("L40S", 362.0, 733.0, 864.0, "NVIDIA L40S data sheet, dense"),
    sheet("RTX 4090", 165.2, 660.6, 1008.0, "NVIDIA Ada architecture paper, appendix A, dense"),
    sheet("RTX 5090", 209.5, 838.0, 1792.0, "NVIDIA Blackwell RTX architecture paper, appendix A, dense"),
];

const fn sheet(chip: &'static str, bf16_tops: f64, int8_tops: f64, gigabytes_per_s: f64, source: &'static str) -> DataSheet {
    DataSheet { chip, bf16_tops, int8_tops, gigabytes_per_s, source }
}

/// The data sheet of a chip by the driver's name for it.
pub fn data_sheet(name: &str) -> Option<&'static DataSheet> {
    DATA_SHEETS.iter().find(|sheet| name.contains(sheet.chip))
}

/// In which arithmetic an operation's products are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Floating point.
    Float,
    /// int8.
    Int8,
}

impl Arithmetic {
    /// That of an operation; INT8 attention counts as int8, whose product of probabilities and values is at most as fast.
    pub fn of(op: &Op) -> Self {
        match op {
            Op::LinearInt8(_)
            | Op::LinearW8a8(_)
            | Op::AttentionSage(_)
            | Op::AttentionSageSla(_)
            | Op::SelfSage(_)
            | Op::SelfSageSla(_) => Self::Int8,
            _ => Self::Float,
        }
    }
}

/// The least seconds that `cost` can take where `tops` and `gigabytes_per_s` are the ceilings: the roofline.
pub fn least_seconds(cost: &Cost, tops: Option<f64>, gigabytes_per_s: Option<f64>) -> Option<f64> {
    let computing = match (cost.actual, tops) {
        (0, _) => 0.0,
        (operations, tops) => operations as f64 / (tops? * 1e12),
    };
    Some(computing.max(cost.bytes as f64 / (gigabytes_per_s? * 1e9))).filter(|seconds| *seconds > 0.0)
}

impl Measured {
    /// The ceiling of products in an arithmetic.
    pub fn tops(&self, arithmetic: Arithmetic) -> Option<f64> {
        match arithmetic {
            Arithmetic::Float => self.float_tops,
            Arithmetic::Int8 => self.int8_tops,
        }
    }

    /// The host's.
    ///
    /// # Errors
    /// What the products say.
    pub fn host() -> Result<Self, Error> {
        let product = |op: &Op| -> Result<Option<f64>, Error> {
            let mut work = host::prepare(op, None)?;
            host_sample(&mut *work, 1)?;
            let samples = (0..REPEAT).map(|_| host_sample(&mut *work, 1)).collect::<Result<_, _>>()?;
            Ok(rate(op.cost(false).map_or(0, |cost| cost.operations), &Samples(samples), 1e12))
        };
        let (copy, triad) = host_memory();
        let bytes = (HOST_VALUES * size_of::<f32>()) as u64;
        Ok(Self {
            copy_gigabytes_per_s: rate(2 * bytes, &copy, 1e9),
            triad_gigabytes_per_s: rate(3 * bytes, &triad, 1e9),
            float_tops: product(&Op::LinearF32(HOST_PRODUCT))?,
            int8_tops: product(&Op::LinearInt8(HOST_PRODUCT))?,
        })
    }

    /// A device's.
    ///
    /// # Errors
    /// What the products or the driver say.
    pub fn device(stream: &Stream, clock: &mut DeviceClock) -> Result<Self, Error> {
        let copy = rate(2 * DEVICE_BYTES as u64, &clock.copy(DEVICE_BYTES, REPEAT)?, 1e9);
        let mut product = |op: &Op| -> Result<Option<f64>, Error> {
            let mut work = device::prepare(op, stream)?;
            clock.sample(&mut *work)?;
            let samples = (0..REPEAT).map(|_| clock.sample(&mut *work)).collect::<Result<_, _>>()?;
            Ok(rate(op.cost(true).map_or(0, |cost| cost.operations), &Samples(samples), 1e12))
        };
        Ok(Self {
            copy_gigabytes_per_s: copy,
            triad_gigabytes_per_s: None,
            float_tops: product(&Op::LinearBf16(DEVICE_PRODUCT))?,
            int8_tops: product(&Op::LinearInt8(DEVICE_PRODUCT))?,
        })
    }
}

fn rate(count: u64, samples: &Samples, unit: f64) -> Option<f64> {
    Some(count as f64 / samples.summary()?.min / unit)
}

/// Seconds of a copy and of a triad over all threads.
fn host_memory() -> (Samples, Samples) {
    use rayon::prelude::*;
    let chunk = HOST_VALUES.div_ceil(8 * rayon::current_num_threads());
    let mut a = vec![0.0f32; HOST_VALUES];
    let (b, c) = (vec![1.0f32; HOST_VALUES], vec![2.0f32; HOST_VALUES]);
    let mut time = |work: &mut dyn FnMut(&mut [f32])| {
        work(&mut a);
        Samples(
            (0..REPEAT)
                .map(|_| {
                    let started = std::time::Instant::now();
                    work(&mut a);
                    started.elapsed().as_secs_f64()
                })
                .collect(),
        )
    };
    let copy = time(&mut |a| a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).for_each(|(a, b)| a.copy_from_slice(b)));
    let triad = time(&mut |a| {
        a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).zip(c.par_chunks(chunk)).for_each(|((a, b), c)| {
            a.iter_mut().zip(b.iter().zip(c)).for_each(|(a, (b, c))| *a = b + 0.5 * c);
        });
    });
    std::hint::black_box(&a);
    (copy, triad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roofline_is_the_larger_of_two_times() {
        let cost = Cost { operations: 4_000_000_000_000, actual: 2_000_000_000_000, bytes: 1_000_000_000 };
        assert_eq!(least_seconds(&cost, Some(1.0), Some(100.0)), Some(2.0));
        assert_eq!(least_seconds(&cost, Some(1000.0), Some(1.0)), Some(1.0));
        assert_eq!(least_seconds(&Cost::moved(1_000_000_000), None, Some(1.0)), Some(1.0));
        assert_eq!(least_seconds(&cost, None, Some(1.0)), None);
        assert_eq!(least_seconds(&Cost::default(), Some(1.0), Some(1.0)), None);
    }

    #[test]
    fn a_chip_is_known_by_its_drivers_name() {
        for (name, chip) in [
            ("NVIDIA H200", Some("H200")),
            ("NVIDIA H100 80GB HBM3", Some("H100")),
            ("NVIDIA H100 PCIe", Some("H100 PCIe")),
            ("NVIDIA A100-SXM4-80GB", Some("A100-SXM4-80GB")),
            ("NVIDIA GeForce RTX 5090", Some("RTX 5090")),
            ("NVIDIA GeForce GTX 1080", None),
        ] {
            assert_eq!(data_sheet(name).map(|sheet| sheet.chip), chip, "{name}");
        }
    }
}
