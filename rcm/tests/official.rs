//! Numbers printed by the official programs, held beside ours.

#![allow(clippy::unwrap_used)] // a test panics on what it did not expect

use std::ops::ControlFlow;

use turbowan_rcm::{Branch, Call, Denoiser, Error, Guidance, NoiseKind, NoiseSource, Solver, Teacher};

/// FNV-1a over the bits of a draw: one number that changes when any bit does.
fn fingerprint(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Two draws of `count` from `torch.Generator("cpu").manual_seed(seed)`, one after the other, by torch 2.13.0: their fingerprint.
const TORCH_CPU: [(u64, usize, u64); 12] = [
    (0, 1, 0xA74F_8872_418A_EDEC),
    (7, 2, 0xA95E_3854_0C7F_46DC),
    (42, 7, 0x94FC_2139_91B3_ED19),
    (0, 15, 0x6CA5_21CA_6496_EB81),
    (7, 16, 0xD253_0CFF_D606_8F2D),
    (42, 17, 0x005F_8D38_6EEA_84B5),
    (0, 31, 0x2965_12FB_F93B_27AA),
    (7, 33, 0xC719_D750_1AAE_5874),
    (42, 1000, 0x4EDF_CE76_CCEA_7D9D),
    (7, 14336, 0x2739_1119_2D8D_D7ED),
    (123_456_789_012, 20001, 0x905E_FCC1_E19A_6383),
    (0, 65536, 0x542D_0B23_D96F_DFF9),
];

#[test]
fn torch_s_cpu_generator_is_met_bit_for_bit() {
    for (seed, count, want) in TORCH_CPU {
        let mut source = NoiseSource::seeded(NoiseKind::TorchCpu, seed);
        let mut values = vec![0.0; 2 * count];
        let (first, second) = values.split_at_mut(count);
        source.fill(first).unwrap();
        source.fill(second).unwrap();
        assert_eq!(fingerprint(&values), want, "seed {seed}, {count} values, which begin {:?}", &values[..count.min(4)]);
    }
}

/// `c(x, u) = tanh(0.7 x) + 0.3 u x - 0.2`, and half of it without the prompt.
struct Toy;

impl Denoiser for Toy {
    type Latent = Vec<f64>;
    type Error = Error;

    fn velocity(&mut self, latent: &Vec<f64>, call: Call) -> Result<Vec<f64>, Error> {
        let weight = if call.branch == Branch::Conditional { 1.0 } else { 0.5 };
        Ok(latent.iter().map(|x| weight * ((0.7 * x).tanh() + call.time.share() * 0.3 * x - 0.2)).collect())
    }
}

/// Ends of `FlowEulerSampler` and `FlowUniPCMultistepSampler` (rcm/samplers) at sigma_max 80, shift 5, guidance 3.
const TEACHER: [(Solver, usize, [f64; 4]); 8] = [
    (Solver::Euler, 1, [-0.062022158, 1.267088542, -0.524334518, 0.274502404]),
    (Solver::Euler, 2, [0.119892310, 0.679005514, -0.039035969, 0.245259106]),
    (Solver::Euler, 5, [0.243084671, 0.181594020, 0.418502849, 0.229107034]),
    (Solver::Euler, 20, [0.287789288, -0.004581945, 0.637743862, 0.225591430]),
    (Solver::UniPc, 1, [-0.062022113, 1.267088363, -0.524334322, 0.274502398]),
    (Solver::UniPc, 3, [0.188410903, 0.406627082, 0.209538837, 0.235783117]),
    (Solver::UniPc, 5, [0.245536853, 0.171215530, 0.446409614, 0.228830466]),
    (Solver::UniPc, 20, [0.296145533, -0.038360364, 0.680099455, 0.224804344]),
];

#[test]
fn the_teacher_ends_where_the_official_samplers_end() {
    // Theirs keep times in f32, where 1 - u loses 5 digits near the start.
    const F32_TIMES: f64 = 2e-6;
    for (solver, steps, want) in TEACHER {
        let teacher = Teacher::new(solver, steps, 80.0, 5.0, Guidance::uniform(3.0)).unwrap();
        let mut noise = NoiseSource::recorded(vec![vec![0.5, -1.25, 2.0, 0.125]]);
        let start = teacher.start(vec![0.0; 4], &mut noise).unwrap();
        let got = teacher.run(start, &mut Toy, |_| ControlFlow::Continue(())).unwrap().into_state().latent;
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < F32_TIMES, "{solver:?}, {steps} steps: got {got}, want {want}");
        }
    }
}
