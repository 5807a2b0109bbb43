//! Small networks: one that learns, and closed forms for data drawn from `N(MEAN + label, SPREAD^2)`.

use turbowan_rcm::{Error, OwnedParameter, Parameter, Trainable, VelocityNet};

pub const MEAN: f64 = 0.7;
pub const SPREAD: f64 = 0.4;

/// Hidden units of the toy.
const HIDDEN: usize = 3;
/// Chebyshev polynomials of the time in its affine part.
const POLYNOMIALS: usize = 8;
/// Weights: of the hidden units' inputs and outputs, slopes, offsets, weights of the label.
pub const WEIGHTS: usize = 4 * HIDDEN + HIDDEN + 3 * POLYNOMIALS;

/// `sum_j out_j tanh(in_j . (x, u, c, 1)) + sum_k T_k(2 u - 1) (slope_k x + offset_k + label_k c)`, value by value, in f64.
///
/// With the value come its derivatives by `x` and `u`; `each` receives that by each weight.
pub fn toy(weights: &[f64], x: f64, time: f64, label: f64, mut each: impl FnMut(usize, f64)) -> [f64; 3] {
    let u = time / 1000.0;
    let (mut value, mut by_x, mut by_u) = (0.0, 0.0, 0.0);
    for unit in 0..HIDDEN {
        let w = &weights[4 * unit..4 * unit + 4];
        let out = weights[4 * HIDDEN + unit];
        let h = (w[0] * x + w[1] * u + w[2] * label + w[3]).tanh();
        let slope = out * (1.0 - h * h);
        value += out * h;
        by_x += slope * w[0];
        by_u += slope * w[1];
        each(4 * HIDDEN + unit, h);
        [x, u, label, 1.0].into_iter().enumerate().for_each(|(i, input)| each(4 * unit + i, slope * input));
    }
    let [slopes, offsets, labels] = [0, 1, 2].map(|part| 5 * HIDDEN + part * POLYNOMIALS);
    // Values and derivatives of two neighbours: T_{k+1} = 2 z T_k - T_{k-1}.
    let z = 2.0 * u - 1.0;
    let ([mut power, mut by_power], [mut next, mut by_next]) = ([1.0, 0.0], [z, 2.0]);
    for k in 0..POLYNOMIALS {
        let affine = weights[slopes + k] * x + weights[offsets + k] + weights[labels + k] * label;
        value += power * affine;
        by_x += power * weights[slopes + k];
        by_u += by_power * affine;
        each(slopes + k, power * x);
        each(offsets + k, power);
        each(labels + k, power * label);
        let after = [2.0 * z * next - power, 4.0 * next + 2.0 * z * by_next - by_power];
        ([power, by_power], [next, by_next]) = ([next, by_next], after);
    }
    [value, by_x, by_u / 1000.0]
}

/// The toy as a network that learns; the condition is one label a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Toy {
    pub tensors: Vec<OwnedParameter>,
}

impl Toy {
    /// Weights of a fixed pattern, other ones for each `seed`; `size` 0 leaves the hidden units silent and all else zero.
    pub fn new(seed: u64, size: f64) -> Self {
        let normals = turbowan_rcm::Stream::new(seed).exact_normals(WEIGHTS);
        let mut weights = normals.into_iter().map(|z| (size * z) as f32);
        let mut tensor =
            |name: &str, shape: &[usize]| OwnedParameter::new(name, shape, weights.by_ref().take(shape.iter().product()).collect());
        let tensors = vec![
            tensor("hidden.weight", &[HIDDEN, 4]),
            tensor("hidden.out", &[HIDDEN]),
            tensor("slope", &[POLYNOMIALS]),
            tensor("offset", &[POLYNOMIALS]),
            tensor("label", &[POLYNOMIALS]),
        ];
        Self { tensors }
    }

    pub fn weights(&self) -> Vec<f64> {
        self.tensors.iter().flat_map(|tensor| tensor.values.iter().map(|w| f64::from(*w))).collect()
    }

    pub fn gradient(&self) -> Vec<f64> {
        self.tensors.iter().flat_map(|tensor| tensor.gradient.iter().map(|g| f64::from(*g))).collect()
    }

    fn each(x: &[f32], times: &[f64], labels: &[f64], mut body: impl FnMut(usize, f64, f64, f64)) {
        assert_eq!(times.len(), labels.len());
        let len = x.len() / times.len();
        x.iter().enumerate().for_each(|(i, x)| body(i, f64::from(*x), times[i / len], labels[i / len]));
    }
}

impl VelocityNet for Toy {
    type Error = Error;
    type Condition = Vec<f64>;

    fn forward(&mut self, x: &[f32], times: &[f64], labels: &Vec<f64>) -> Result<Vec<f32>, Error> {
        let (weights, mut out) = (self.weights(), Vec::new());
        Self::each(x, times, labels, |_, x, time, label| out.push(toy(&weights, x, time, label, |_, _| ())[0] as f32));
        Ok(out)
    }
}

impl Trainable for Toy {
    type Saved = (Vec<f32>, Vec<f64>, Vec<f64>);

    fn forward_saved(&mut self, x: &[f32], times: &[f64], labels: &Vec<f64>) -> Result<(Vec<f32>, Self::Saved), Error> {
        Ok((self.forward(x, times, labels)?, (x.to_vec(), times.to_vec(), labels.clone())))
    }

    fn backward(&mut self, (x, times, labels): Self::Saved, gradient: &[f32]) -> Result<(), Error> {
        let (weights, mut sums) = (self.weights(), vec![0.0; WEIGHTS]);
        Self::each(&x, &times, &labels, |i, x, time, label| {
            toy(&weights, x, time, label, |weight, slope| sums[weight] += f64::from(gradient[i]) * slope);
        });
        let all = self.tensors.iter_mut().flat_map(|tensor| &mut tensor.gradient);
        all.zip(sums).for_each(|(gradient, sum)| *gradient += sum as f32);
        Ok(())
    }

    fn tangent(&mut self, x: &[f32], dx: &[f32], times: &[f64], dt: &[f64], labels: &Vec<f64>) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let (weights, len, mut out, mut slope) = (self.weights(), x.len() / times.len(), Vec::new(), Vec::new());
        Self::each(x, times, labels, |i, x, time, label| {
            let [value, by_x, by_time] = toy(&weights, x, time, label, |_, _| ());
            out.push(value as f32);
            slope.push((by_x * f64::from(dx[i]) + by_time * dt[i / len]) as f32);
        });
        Ok((out, slope))
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.tensors.iter_mut().map(OwnedParameter::view).collect()
    }
}

/// Value, derivative by `x` and by `u` of a closed form at `(x, u, label)`.
pub type Form = fn(f64, f64, f64) -> [f64; 3];

/// A network without weights that keeps the last gradient it was given. `tangents` says whether it has its own.
pub struct Closed {
    pub form: Form,
    pub tangents: bool,
    pub received: Vec<f32>,
}

impl Closed {
    pub fn new(form: Form) -> Self {
        Self { form, tangents: true, received: Vec::new() }
    }

    fn at(&self, x: &[f32], times: &[f64], labels: &[f64]) -> Vec<[f64; 3]> {
        let len = x.len() / times.len();
        x.iter().enumerate().map(|(i, x)| (self.form)(f64::from(*x), times[i / len] / 1000.0, labels[i / len])).collect()
    }
}

impl VelocityNet for Closed {
    type Error = Error;
    type Condition = Vec<f64>;

    fn forward(&mut self, x: &[f32], times: &[f64], labels: &Vec<f64>) -> Result<Vec<f32>, Error> {
        Ok(self.at(x, times, labels).into_iter().map(|[value, ..]| value as f32).collect())
    }
}

impl Trainable for Closed {
    type Saved = ();

    fn forward_saved(&mut self, x: &[f32], times: &[f64], labels: &Vec<f64>) -> Result<(Vec<f32>, ()), Error> {
        Ok((self.forward(x, times, labels)?, ()))
    }

    fn backward(&mut self, (): (), gradient: &[f32]) -> Result<(), Error> {
        self.received = gradient.to_vec();
        Ok(())
    }

    fn tangent(&mut self, x: &[f32], dx: &[f32], times: &[f64], dt: &[f64], labels: &Vec<f64>) -> Result<(Vec<f32>, Vec<f32>), Error> {
        if !self.tangents {
            return turbowan_rcm::trainable::central_tangent(self, x, dx, times, dt, labels);
        }
        let len = x.len() / times.len();
        let each = self.at(x, times, labels).into_iter().enumerate();
        Ok(each.map(|(i, [v, by_x, by_u])| (v as f32, (by_x * f64::from(dx[i]) + by_u * dt[i / len] / 1000.0) as f32)).unzip())
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        Vec::new()
    }
}

/// Deviation of the noisy latent at `u`, and its derivative.
fn deviation(u: f64) -> [f64; 2] {
    let sd = ((1.0 - u).powi(2) * SPREAD * SPREAD + u * u).sqrt();
    [sd, (u - (1.0 - u) * SPREAD * SPREAD) / sd]
}

/// What an undistilled model learns: the mean velocity, `(u - (1 - u) s^2) / sd^2 (x - (1 - u) m) - m`.
pub fn diffusion(x: f64, u: f64, label: f64) -> [f64; 3] {
    let mean = MEAN + label;
    let [sd, sd_by_u] = deviation(u);
    let (top, centred) = (u - (1.0 - u) * SPREAD * SPREAD, x - (1.0 - u) * mean);
    let gain = top / (sd * sd);
    let gain_by_u = (1.0 + SPREAD * SPREAD) / (sd * sd) - 2.0 * top * sd_by_u / sd.powi(3);
    [gain * centred - mean, gain, gain_by_u * centred + gain * mean]
}

/// What a distilled model learns: straight to the end of the path, `m + s (x - (1 - u) m) / sd`.
pub fn consistent(x: f64, u: f64, label: f64) -> [f64; 3] {
    let mean = MEAN + label;
    let [sd, sd_by_u] = deviation(u);
    let z = (x - (1.0 - u) * mean) / sd;
    let clean = mean + SPREAD * z;
    let (clean_by_x, clean_by_u) = (SPREAD / sd, SPREAD * (mean - z * sd_by_u) / sd);
    let v = (x - clean) / u;
    [v, (1.0 - clean_by_x) / u, -(clean_by_u + v) / u]
}

/// `count` clean latents for each label.
pub fn data(labels: &[f64], len: usize, noise: &mut turbowan_rcm::Stream) -> Vec<f32> {
    let z = noise.exact_normals(labels.len() * len);
    z.iter().enumerate().map(|(i, z)| (MEAN + labels[i / len] + SPREAD * z) as f32).collect()
}
