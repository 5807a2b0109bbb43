//! Optimisers and averages against another program's numbers, recurrences and laws.

use turbowan_rcm::optim::muon::orthogonalised;
use turbowan_rcm::optim::{AdamW, Ema, EmaRate, Group, MatrixProduct, Method, Muon, Optimiser, PlainProduct};
use turbowan_rcm::{Error, OwnedParameter, Parameter, Stream};

fn views(owned: &mut [OwnedParameter]) -> Vec<Parameter<'_>> {
    owned.iter_mut().map(OwnedParameter::view).collect()
}

fn all_in(method: Method) -> (Vec<Group>, impl Fn(&str, &[usize]) -> Option<usize>) {
    (vec![Group { method, rate: 1.0 }], |_: &str, _: &[usize]| Some(0))
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() <= bound, "at {i}: got {got}, want {want}");
    }
}

/// Settings, rate, and where `torch.optim.AdamW` (2.15, foreach and fused off) stands after four steps.
const TORCH_ADAMW: [(AdamW, f64, [f64; 5]); 3] = [
    (AdamW { betas: (0.9, 0.999), epsilon: 1e-8, decay: 0.01 }, 1e-2, [0.524755061, -1.2747761, 2.00828862, -0.0171311628, -0.318545699]),
    (AdamW { betas: (0.0, 0.999), epsilon: 1e-8, decay: 0.1 }, 2e-3, [0.499657154, -1.25193834, 1.9987421, -0.00237458665, -0.301404148]),
    (AdamW { betas: (0.5, 0.99), epsilon: 1e-8, decay: 0.0 }, 1e-2, [0.514844179, -1.2704854, 2.00488043, -0.0134568736, -0.313828856]),
];

#[test]
fn adamw_steps_as_torch_does() {
    for (adamw, rate, want) in TORCH_ADAMW {
        let mut owned = [OwnedParameter::new("p", [5], vec![0.5, -1.25, 2.0, 0.0, -0.3])];
        let (groups, choose) = all_in(Method::AdamW(adamw));
        let mut optimiser = Optimiser::new(groups, &views(&mut owned), choose).unwrap();
        for step in 0..4 {
            owned[0].gradient = (0..5).map(|i| ((7 * i + 3 * step) % 11 - 5) as f32 / 4.0).collect();
            optimiser.step(&mut views(&mut owned), rate).unwrap();
        }
        // Two units in the last place of 2.
        assert_close(&owned[0].values, &want, 2.4e-7);
        assert_eq!(optimiser.steps(), 4);
    }
}

/// Shape, and where Muon's equations in f64 (torch; `torch.optim.Muon` agrees to its bf16) stand after three steps.
const TORCH_MUON: [([usize; 2], &[f64]); 2] = [
    (
        [3, 5],
        &[
            -0.73048151,
            -0.00108792,
            0.73861753,
            -0.25351921,
            0.50149848,
            0.49338506,
            -0.49109266,
            0.24477714,
            -0.75697375,
            -0.01578786,
            -0.00300412,
            0.73211574,
            -0.26009123,
            0.49435790,
            -0.51048382,
        ],
    ),
    ([4, 2], &[-0.73624701, 0.00419270, 0.49548310, -0.48831442, -0.00689661, 0.73053313, -0.48737173, 0.24219974]),
];

#[test]
fn muon_steps_as_its_equations_do() {
    for ([rows, columns], want) in TORCH_MUON {
        let matrix = |f: &dyn Fn(i32, i32) -> f32| -> Vec<f32> {
            (0..rows as i32).flat_map(|i| (0..columns as i32).map(move |j| (i, j))).map(|(i, j)| f(i, j)).collect()
        };
        // Axes past the first are one: a convolution kernel is a matrix too.
        let values = matrix(&|i, j| ((5 * i + 3 * j) % 7 - 3) as f32 / 4.0);
        let mut owned = [OwnedParameter::new("w", [rows, 1, columns], values)];
        let (groups, choose) = all_in(Method::Muon(Muon { decay: 0.1, ..Default::default() }));
        let mut optimiser = Optimiser::new(groups, &views(&mut owned), choose).unwrap();
        for step in 0..3 {
            owned[0].gradient = matrix(&|i, j| ((3 * i + 7 * j + 2 * step) % 9 - 4) as f32 / 4.0 + 0.125 * (i * j) as f32);
            optimiser.step(&mut views(&mut owned), 0.02).unwrap();
        }
        assert_close(&owned[0].values, want, 1e-6);
    }
}

/// Singular values after five steps of the quintic lie here, from about 0.01 of the norm on (Jordan et al. state 0.7 to 1.2 about).
const ORTHOGONAL: std::ops::Range<f64> = 0.65..1.25;

#[test]
fn muons_update_is_nearly_orthogonal_wide_or_tall() {
    for [rows, columns] in [[8, 40], [40, 8], [16, 16], [1, 5]] {
        let matrix = Stream::new(3).normals(rows * columns);
        let got = orthogonalised([rows, columns], matrix.clone(), 5, &PlainProduct);
        // Rows of the short side, whose Gram matrix has the squares of the singular values as eigenvalues.
        let (short, long) = (rows.min(columns), rows.max(columns));
        let at = |i: usize, k: usize| f64::from(if rows <= columns { got[i * columns + k] } else { got[k * columns + i] });
        let gram = |i: usize, j: usize| (0..long).map(|k| at(i, k) * at(j, k)).sum::<f64>();
        let trace: f64 = (0..short).map(|i| gram(i, i)).sum::<f64>() / short as f64;
        assert!((ORTHOGONAL.start.powi(2)..ORTHOGONAL.end.powi(2)).contains(&trace), "{rows}x{columns}: mean square {trace}");
        // A random square matrix has a singular value near 0, which five steps need not lift: only the others are held to be near 1.
        if rows != columns {
            for direction in 0..8 {
                let v = Stream::new(direction).exact_normals(short);
                let norm: f64 = v.iter().map(|v| v * v).sum();
                let image: f64 = (0..short).flat_map(|i| (0..short).map(move |j| (i, j))).map(|(i, j)| v[i] * gram(i, j) * v[j]).sum();
                let value = (image / norm).sqrt();
                assert!(ORTHOGONAL.contains(&value), "{rows}x{columns}: a direction is scaled by {value}");
            }
        }
        // It points along the matrix.
        let along: f64 = got.iter().zip(&matrix).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!(along > 0.0);
    }
    assert!(orthogonalised([2, 3], vec![0.0; 6], 5, &PlainProduct).iter().all(|x| *x == 0.0));
}

#[test]
fn a_muon_step_has_the_root_mean_square_of_an_adamw_step() {
    let mut owned = [OwnedParameter::new("w", [32, 128], vec![0.0; 32 * 128])];
    let (groups, choose) = all_in(Method::Muon(Muon::default()));
    let mut optimiser = Optimiser::new(groups, &views(&mut owned), choose).unwrap();
    owned[0].gradient = Stream::new(1).normals(32 * 128);
    optimiser.step(&mut views(&mut owned), 1.0).unwrap();
    let rms = (owned[0].values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / (32.0 * 128.0)).sqrt();
    assert!((0.15..0.25).contains(&rms), "{rms}");
}

#[test]
fn muon_multiplies_with_the_product_it_is_given() {
    struct Nothing;
    impl MatrixProduct for Nothing {
        fn product(&self, [rows, inner, columns]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
            assert_eq!((a.len(), b.len(), out.len()), (rows * inner, inner * columns, rows * columns));
            out.fill(0.0);
        }
    }
    let mut owned = [OwnedParameter::new("w", [2, 3], vec![0.0; 6])];
    let (groups, choose) = all_in(Method::Muon(Muon { momentum: 0.0, ..Default::default() }));
    let mut optimiser = Optimiser::with_product(groups, &views(&mut owned), choose, Nothing).unwrap();
    owned[0].gradient = vec![3.0, 0.0, 0.0, 0.0, 4.0, 0.0];
    optimiser.step(&mut views(&mut owned), 1.0).unwrap();
    // Without products five iterations multiply the unit matrix by 3.4445 each.
    let size = 0.2 * 3f64.sqrt() * 3.4445f64.powi(5);
    assert_close(&owned[0].values, &[-0.6 * size, 0.0, 0.0, 0.0, -0.8 * size, 0.0], 1e-4);
}

#[test]
fn groups_are_chosen_by_name_and_shape_and_what_has_no_group_stays() {
    let mut owned = [
        OwnedParameter::new("blocks.0.weight", [2, 2], vec![1.0; 4]),
        OwnedParameter::new("blocks.0.bias", [2], vec![1.0; 2]),
        OwnedParameter::new("embedding.weight", [2, 2], vec![1.0; 4]),
        OwnedParameter::new("frozen", [1], vec![1.0]),
    ];
    let adamw = AdamW { betas: (0.9, 0.99), epsilon: 1e-8, decay: 0.0 };
    let groups = vec![Group { method: Method::Muon(Muon::default()), rate: 2.0 }, Group { method: Method::AdamW(adamw), rate: 1.0 }];
    let choose = |name: &str, shape: &[usize]| match name {
        "frozen" => None,
        name if name.starts_with("blocks.") && shape.len() >= 2 => Some(0),
        _ => Some(1),
    };
    let mut optimiser = Optimiser::new(groups.clone(), &views(&mut owned), choose).unwrap();
    owned.iter_mut().for_each(|parameter| parameter.gradient.iter_mut().enumerate().for_each(|(i, g)| *g = 1.0 + i as f32));
    optimiser.step(&mut views(&mut owned), 0.1).unwrap();
    assert_close(&owned[1].values, &[0.9, 0.9], 1e-6);
    assert_close(&owned[2].values, &[0.9; 4], 1e-6);
    assert_eq!(owned[3].values, [1.0]);
    assert!(owned[0].values.iter().all(|value| *value != 1.0));
    let refused = |choose: &dyn Fn(&str, &[usize]) -> Option<usize>, owned: &mut [OwnedParameter]| {
        Optimiser::new(groups.clone(), &views(owned), choose).unwrap_err()
    };
    let unknown = Error::UnknownGroup { name: "blocks.0.weight".to_owned(), group: 2, groups: 2 };
    assert_eq!(refused(&|_, _| Some(2), &mut owned), unknown);
    let vector = Error::NotMatrix { name: "blocks.0.bias".to_owned(), shape: vec![2] };
    assert_eq!(refused(&|_, _| Some(0), &mut owned), vector);
    let before = owned.clone();
    assert!(matches!(optimiser.step(&mut views(&mut owned[..3]), 0.1), Err(Error::ForeignParameter { index: 3, .. })));
    owned.swap(0, 2);
    assert!(matches!(optimiser.step(&mut views(&mut owned), 0.1), Err(Error::ForeignParameter { index: 0, .. })));
    owned.swap(0, 2);
    assert_eq!((owned, optimiser.steps()), (before, 1));
}

#[test]
fn an_average_follows_its_recurrence() {
    for rate in [EmaRate::constant(0.98).unwrap(), EmaRate::power_law(0.1).unwrap()] {
        let mut owned = [OwnedParameter::new("p", [2], vec![1.0, -3.0])];
        let mut ema = Ema::new(rate, &views(&mut owned));
        let mut want = [1.0, -3.0];
        for iteration in 0..20 {
            owned[0].values = vec![iteration as f32, 0.5 * iteration as f32 - 3.0];
            ema.update(&views(&mut owned), iteration).unwrap();
            let beta = rate.beta(iteration);
            want = [0, 1].map(|i| beta * want[i] + (1.0 - beta) * f64::from(owned[0].values[i]));
            let got = ema.averages().next().unwrap().1;
            assert_close(got, &want, 1e-5);
        }
        let (live, average) = (owned[0].values.clone(), ema.averages().next().unwrap().1.to_vec());
        ema.swap(&mut views(&mut owned)).unwrap();
        assert_eq!(owned[0].values, average);
        ema.swap(&mut views(&mut owned)).unwrap();
        assert_eq!(owned[0].values, live);
        assert!(matches!(ema.update(&[], 0), Err(Error::ForeignParameter { index: 0, .. })));
    }
}

#[test]
fn the_power_law_has_the_exponents_that_numpy_finds() {
    // max(numpy.roots([1, 7, 16 - s^-2, 12 - s^-2]).real)
    for (width, want) in [(0.05, 16.972198602303447), (0.1, 6.937203937601809), (0.2, 1.8262137798958404)] {
        let EmaRate::PowerLaw { exponent } = EmaRate::power_law(width).unwrap() else { panic!("no power law") };
        assert!((exponent - want).abs() < 1e-12 * want, "width {width}: {exponent}");
    }
    let rate = EmaRate::power_law(EmaRate::OFFICIAL_WIDTH).unwrap();
    assert_eq!(rate.beta(0), 0.0);
    for iteration in [1u64, 10, 1000] {
        let want = (1.0 - 1.0 / (iteration as f64 + 1.0)).powf(7.937203937601809);
        assert!((rate.beta(iteration) - want).abs() < 1e-12);
    }
    for bad in [0.0, -0.1, 0.3, f64::NAN] {
        assert!(EmaRate::power_law(bad).is_err());
    }
    assert!(EmaRate::constant(1.1).is_err());
}
