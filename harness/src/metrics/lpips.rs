//! LPIPS: distance of two pictures in the features of AlexNet (Zhang and others, 2018, version 0.1), by weights that the user
//! brings; none are shipped.
//!
//! ```text
//! d = sum over 5 layers of  mean over places of  sum over channels of  w_c (a_c / |a| - b_c / |b|)^2
//! ```
//! Pictures are scaled to [-1, 1], then shifted and divided by the constants of the official code. It follows what people call
//! alike better than PSNR, was fitted to photographs in patches of 64 pixels, and is fidelity, not quality.

use std::path::Path;

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, gemm};
use turbowan_wan_model::Error as ModelError;
use turbowan_wan_model::checkpoint::{Checkpoint, TensorSource};
use turbowan_wan_model::config::TensorSpec;

use crate::error::Error;
use crate::video::Frames;

/// Shifts and divisors of the channels in [-1, 1] (lpips, `ScalingLayer`).
const SCALING: [[f32; 3]; 2] = [[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]];
/// Added to a place's length before it divides (lpips, `normalize_tensor`).
const LEAST_LENGTH: f64 = 1e-10;
/// Smallest side whose last layer still has a place.
const LEAST_SIDE: usize = 35;
/// A pool's window and step.
const POOL: [usize; 2] = [3, 2];

/// A convolution of AlexNet.
struct Shape {
    /// As `lpips.LPIPS(net="alex").state_dict()` calls it.
    name: &'static str,
    input: usize,
    out: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    /// Whether its input is pooled before.
    is_pooled: bool,
}

const LAYERS: [Shape; 5] = [
    Shape { name: "net.slice1.0", input: 3, out: 64, kernel: 11, stride: 4, padding: 2, is_pooled: false },
    Shape { name: "net.slice2.3", input: 64, out: 192, kernel: 5, stride: 1, padding: 2, is_pooled: true },
    Shape { name: "net.slice3.6", input: 192, out: 384, kernel: 3, stride: 1, padding: 1, is_pooled: true },
    Shape { name: "net.slice4.8", input: 384, out: 256, kernel: 3, stride: 1, padding: 1, is_pooled: false },
    Shape { name: "net.slice5.10", input: 256, out: 256, kernel: 3, stride: 1, padding: 1, is_pooled: false },
];

/// The network.
pub struct Lpips {
    layers: Vec<Layer>,
}

struct Layer {
    weight: PackedMatrix,
    bias: Vec<f32>,
    /// Of the channels in the distance.
    weights: Vec<f32>,
}

/// Values with channels innermost, `[height, width, channels]`.
struct Features {
    height: usize,
    width: usize,
    channels: usize,
    values: Vec<f32>,
}

impl Lpips {
    /// From the state of `lpips.LPIPS(net="alex")`, saved by `torch.save` or as safetensors.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not that network.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = Checkpoint::open(path)?;
        let specs = LAYERS.iter().enumerate().flat_map(|(index, layer)| {
            [
                TensorSpec::new(format!("{}.weight", layer.name), &[layer.out, layer.input, layer.kernel, layer.kernel]),
                TensorSpec::new(format!("{}.bias", layer.name), &[layer.out]),
                TensorSpec::new(format!("lin{index}.model.1.weight"), &[1, layer.out, 1, 1]),
            ]
        });
        // the same weights are there a second time as a list, beside the scaling's constants
        file.check(&specs.collect::<Vec<_>>(), |name| name.starts_with("lins.") || name.starts_with("scaling_layer."))?;
        let load = |(index, layer): (usize, &Shape)| -> Result<Layer, Error> {
            let values = |name: String| Ok::<_, Error>(file.take(&name)?.to_f32());
            let weight = values(format!("{}.weight", layer.name))?;
            Ok(Layer {
                weight: PackedMatrix::pack(&weight, layer.out, layer.input * layer.kernel * layer.kernel).map_err(ModelError::from)?,
                bias: values(format!("{}.bias", layer.name))?,
                weights: values(format!("lin{index}.model.1.weight"))?,
            })
        };
        Ok(Self { layers: LAYERS.iter().enumerate().map(load).collect::<Result<_, _>>()? })
    }

    /// Mean over the frames of two videos of one size and length.
    ///
    /// # Errors
    /// Frames smaller than 35 pixels.
    pub fn distance(&self, a: &Frames, b: &Frames) -> Result<f64, Error> {
        let (width, height) = (a.width(), a.height());
        if width.min(height) < LEAST_SIDE {
            return Err(Error::flag("--lpips", format!("{width}x{height} pixels are too few: both sides need {LEAST_SIDE}")));
        }
        let mut sum = 0.0;
        for (frame_a, frame_b) in a.iter().zip(b.iter()) {
            let mut pair = [frame_a, frame_b].map(|rgb| Features::of(rgb, width));
            for (shape, layer) in LAYERS.iter().zip(&self.layers) {
                for features in &mut pair {
                    let input = if shape.is_pooled { &features.pooled() } else { &*features };
                    *features = layer.run(shape, input)?;
                }
                sum += layer.distance(&pair);
            }
        }
        Ok(sum / a.count() as f64)
    }
}

impl Layer {
    /// `relu(x * w + b)`.
    fn run(&self, shape: &Shape, x: &Features) -> Result<Features, Error> {
        let side = |side: usize| (side + 2 * shape.padding - shape.kernel) / shape.stride + 1;
        let (height, width, kernel) = (side(x.height), side(x.width), shape.kernel);
        let mut windows = vec![0.0; height * width * x.channels * kernel * kernel];
        for (place, window) in windows.chunks_exact_mut(x.channels * kernel * kernel).enumerate() {
            let corner = [place / width, place % width].map(|at| (at * shape.stride).wrapping_sub(shape.padding));
            for (at, value) in window.iter_mut().enumerate() {
                let (channel, row, column) = (at / (kernel * kernel), at / kernel % kernel, at % kernel);
                let (y, column) = (corner[0].wrapping_add(row), corner[1].wrapping_add(column));
                if y < x.height && column < x.width {
                    *value = x.values[(y * x.width + column) * x.channels + channel];
                }
            }
        }
        let mut values = vec![0.0; height * width * shape.out];
        let end = Epilogue { bias: Some(&self.bias), rounding: Rounding::None, ..Epilogue::PLAIN };
        gemm(&windows, height * width, &self.weight, &end, &mut values).map_err(ModelError::from)?;
        values.iter_mut().for_each(|value| *value = value.max(0.0));
        Ok(Features { height, width, channels: shape.out, values })
    }

    /// Weighted squared difference of the directions of two places' channels, mean over places.
    fn distance(&self, [a, b]: &[Features; 2]) -> f64 {
        let length = |place: &[f32]| place.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() + LEAST_LENGTH;
        let of_place = |(a, b): (&[f32], &[f32])| {
            let (length_a, length_b) = (length(a), length(b));
            let squared = |(a, b): (&f32, &f32)| (f64::from(*a) / length_a - f64::from(*b) / length_b).powi(2);
            a.iter().zip(b).map(squared).zip(&self.weights).map(|(squared, weight)| squared * f64::from(*weight)).sum::<f64>()
        };
        let places = a.values.chunks_exact(a.channels).zip(b.values.chunks_exact(b.channels));
        places.map(of_place).sum::<f64>() / (a.height * a.width) as f64
    }
}

impl Features {
    /// Of a picture `[height, width, 3]`.
    fn of(rgb: &[u8], width: usize) -> Self {
        let [shift, divisor] = SCALING;
        let scaled = |(at, level): (usize, &u8)| (f32::from(*level) / 127.5 - 1.0 - shift[at % 3]) / divisor[at % 3];
        let values: Vec<f32> = rgb.iter().enumerate().map(scaled).collect();
        Self { height: values.len() / 3 / width.max(1), width, channels: 3, values }
    }

    /// The greatest of each channel in windows of 3 x 3, two apart.
    fn pooled(&self) -> Self {
        let [window, step] = POOL;
        let side = |side: usize| (side - window) / step + 1;
        let (height, width) = (side(self.height), side(self.width));
        let mut values = vec![f32::NEG_INFINITY; height * width * self.channels];
        for (place, greatest) in values.chunks_exact_mut(self.channels).enumerate() {
            let (top, left) = (place / width * step, place % width * step);
            for at in (0..window * window).map(|at| (top + at / window) * self.width + left + at % window) {
                let seen = &self.values[at * self.channels..(at + 1) * self.channels];
                greatest.iter_mut().zip(seen).for_each(|(greatest, value)| *greatest = greatest.max(*value));
            }
        }
        Self { height, width, channels: self.channels, values }
    }
}

#[cfg(test)]
mod tests {
    use turbowan_wan_model::checkpoint::{Dtype, TensorView, write_safetensors};

    use super::*;
    use crate::video::FrameRate;

    /// Numbers of a tensor, small and of both signs.
    fn drawn(seed: u32, count: usize, size: f32) -> Vec<f32> {
        let number = |at: u32| ((at.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).wrapping_mul(2_246_822_519) >> 8) as f32;
        (0..count as u32).map(|at| (number(at) / (1 << 24) as f32 - 0.5) * size).collect()
    }

    struct Tensor {
        name: String,
        shape: Vec<usize>,
        values: Vec<f32>,
    }

    /// A network of random numbers.
    fn random() -> Vec<Tensor> {
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: Vec<usize>, size: f32, least: f32| {
            let values = drawn(tensors.len() as u32 + 1, shape.iter().product(), size);
            tensors.push(Tensor { name, shape, values: values.iter().map(|value| value.max(least)).collect() });
        };
        for (index, layer) in LAYERS.iter().enumerate() {
            let inputs = (layer.input * layer.kernel * layer.kernel) as f32;
            add(format!("{}.weight", layer.name), vec![layer.out, layer.input, layer.kernel, layer.kernel], 4.0 / inputs.sqrt(), -1e9);
            add(format!("{}.bias", layer.name), vec![layer.out], 0.1, -1e9);
            add(format!("lin{index}.model.1.weight"), vec![1, layer.out, 1, 1], 1.0, 0.0);
        }
        tensors
    }

    fn write(path: &Path, tensors: &[Tensor]) {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
        let views: Vec<_> = tensors
            .iter()
            .zip(&bytes)
            .map(|(tensor, bytes)| (tensor.name.as_str(), TensorView { dtype: Dtype::F32, shape: &tensor.shape, bytes }))
            .collect();
        let mut file = std::fs::File::create(path).unwrap();
        write_safetensors(&mut file, &views, &Default::default()).unwrap();
    }

    fn picture(seed: u32) -> Frames {
        let rgb = drawn(seed, 36 * 39 * 3, 255.0).iter().map(|value| (value + 127.5) as u8).collect();
        Frames::new(39, 36, FrameRate::WAN, rgb).unwrap()
    }

    /// Channels outermost, loops in the order of the formula, f64.
    fn oracle(tensors: &[Tensor], a: &Frames, b: &Frames) -> f64 {
        type Planes = (Vec<Vec<f64>>, usize, usize);
        let tensor = |name: &str| tensors.iter().find(|tensor| tensor.name == name).unwrap().values.clone();
        let start = |frames: &Frames| -> Planes {
            let plane = |c: usize| {
                let level =
                    |pixel: &[u8; 3]| (f64::from(pixel[c]) / 255.0 * 2.0 - 1.0 - f64::from(SCALING[0][c])) / f64::from(SCALING[1][c]);
                frames.rgb().as_chunks::<3>().0.iter().map(level).collect()
            };
            ((0..3).map(plane).collect(), frames.height(), frames.width())
        };
        let pool = |(planes, height, width): Planes| -> Planes {
            let (h, w) = ((height - 3) / 2 + 1, (width - 3) / 2 + 1);
            let at =
                |plane: &[f64], y: usize, x: usize| (0..9).map(|i| plane[(2 * y + i / 3) * width + 2 * x + i % 3]).fold(f64::MIN, f64::max);
            (planes.iter().map(|plane| (0..h * w).map(|i| at(plane, i / w, i % w)).collect()).collect(), h, w)
        };
        let conv = |layer: &Shape, (planes, height, width): Planes| -> Planes {
            let (weight, bias) = (tensor(&format!("{}.weight", layer.name)), tensor(&format!("{}.bias", layer.name)));
            let k = layer.kernel;
            let side = |side: usize| (side + 2 * layer.padding - k) / layer.stride + 1;
            let (h, w) = (side(height), side(width));
            let value = |out: usize, y: usize, x: usize| {
                let mut sum = f64::from(bias[out]);
                for (c, plane) in planes.iter().enumerate() {
                    for i in 0..k * k {
                        let (row, column) =
                            ((y * layer.stride + i / k).checked_sub(layer.padding), (x * layer.stride + i % k).checked_sub(layer.padding));
                        if let (Some(row), Some(column)) = (row, column)
                            && row < height
                            && column < width
                        {
                            sum += plane[row * width + column] * f64::from(weight[(out * layer.input + c) * k * k + i]);
                        }
                    }
                }
                sum.max(0.0)
            };
            ((0..layer.out).map(|out| (0..h * w).map(|i| value(out, i / w, i % w)).collect()).collect(), h, w)
        };
        let (mut one, mut other, mut sum) = (start(a), start(b), 0.0);
        for (index, layer) in LAYERS.iter().enumerate() {
            if layer.is_pooled {
                (one, other) = (pool(one), pool(other));
            }
            (one, other) = (conv(layer, one), conv(layer, other));
            let weights = tensor(&format!("lin{index}.model.1.weight"));
            let places = one.1 * one.2;
            for place in 0..places {
                let length = |planes: &Planes| planes.0.iter().map(|plane| plane[place].powi(2)).sum::<f64>().sqrt() + 1e-10;
                let (length_one, length_other) = (length(&one), length(&other));
                let channels = one.0.iter().zip(&other.0).zip(&weights);
                sum += channels.map(|((a, b), w)| f64::from(*w) * (a[place] / length_one - b[place] / length_other).powi(2)).sum::<f64>()
                    / places as f64;
            }
        }
        sum
    }

    #[test]
    fn a_random_network_measures_what_the_formula_says() {
        let folder = tempfile::tempdir().unwrap();
        let (path, tensors) = (folder.path().join("alex.safetensors"), random());
        write(&path, &tensors);
        let lpips = Lpips::open(&path).unwrap();
        let (a, b) = (picture(7), picture(8));
        let (got, want) = (lpips.distance(&a, &b).unwrap(), oracle(&tensors, &a, &b));
        assert!(want > 1e-3 && (got - want).abs() < 1e-4 * want, "{got} {want}");
        assert_eq!(lpips.distance(&a, &a).unwrap(), 0.0);
    }

    #[test]
    fn another_network_and_pictures_too_small_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let mut tensors = random();
        write(&path, &tensors);
        let lpips = Lpips::open(&path).unwrap();
        let small = Frames::new(34, 64, FrameRate::WAN, vec![0; 34 * 64 * 3]).unwrap();
        assert!(lpips.distance(&small, &small).unwrap_err().to_string().contains("35"));
        tensors.remove(2);
        write(&path, &tensors);
        assert!(Lpips::open(&path).err().unwrap().to_string().contains("lin0"));
    }
}
