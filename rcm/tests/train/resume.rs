//! A run broken off and taken up again, and a run on other threads, end in the same bits.

use std::collections::BTreeMap;

use turbowan_rcm::optim::{AdamW, Ema, EmaRate, Group, Method, Muon, Optimiser, gradient};
use turbowan_rcm::resume::{Slice, Values};
use turbowan_rcm::train::{Alternation, Batch, Distillation, Networks, Phase};
use turbowan_rcm::{OwnedParameter, Parameter, Resumable, Stream, Trainable, restore};

use crate::toy::{Toy, data};

/// All that a run of distillation holds.
struct Run {
    student: Toy,
    critic: Toy,
    optimisers: [Optimiser; 2],
    ema: Ema,
    noise: Stream,
    iteration: u64,
}

/// A state written down: floats by their bits.
type Saved = BTreeMap<String, (Vec<u32>, Vec<u64>)>;

impl Run {
    fn new(seed: u64) -> Self {
        let (mut student, mut critic) = (Toy::new(seed, 0.3), Toy::new(seed, 0.3));
        let groups = || {
            let adamw = Group { method: Method::AdamW(AdamW::DISTILLATION), rate: 1.0 };
            vec![adamw, Group { method: Method::Muon(Muon::default()), rate: 2.0 }]
        };
        let choose = |_: &str, shape: &[usize]| Some(usize::from(shape.len() >= 2));
        let optimisers = [&mut student, &mut critic].map(|net| Optimiser::new(groups(), &net.parameters(), choose).unwrap());
        let ema = Ema::new(EmaRate::power_law(0.1).unwrap(), &student.parameters());
        Self { student, critic, optimisers, ema, noise: Stream::new(seed), iteration: 0 }
    }

    fn go(&mut self, iterations: u64) {
        let alternation = Alternation { warm_up: 3, student_every: 3, least_steps: 1, most_steps: 4 };
        let method = Distillation { guidance: 2.0, alternation, ..Default::default() };
        let (mut teacher, labels, negative) = (Toy::new(77, 0.3), vec![0.1, 0.2, -0.3], vec![0.0; 3]);
        for _ in 0..iterations {
            let latents = data(&labels, 5, &mut self.noise);
            let batch = Batch { latents: &latents, condition: &labels, negative: &negative };
            let networks = Networks { student: &mut self.student, critic: &mut self.critic, teacher: &mut teacher };
            method.step(networks, batch, self.iteration, &mut self.noise).unwrap();
            let phase = method.phase(self.iteration).unwrap();
            let (net, optimiser) = match phase {
                Phase::Student { .. } => (&mut self.student, &mut self.optimisers[0]),
                Phase::Critic { .. } => (&mut self.critic, &mut self.optimisers[1]),
            };
            let mut parameters = net.parameters();
            gradient::clip(&mut parameters, 1.0).unwrap();
            optimiser.step(&mut parameters, 1e-2).unwrap();
            gradient::zero(&mut parameters);
            if let Phase::Student { iteration, .. } = phase {
                self.ema.update(&parameters, iteration).unwrap();
            }
            self.iteration += 1;
        }
    }

    fn parts(&self) -> [(&'static str, &dyn Resumable); 4] {
        let [student, critic] = &self.optimisers;
        [("student", student), ("critic", critic), ("ema", &self.ema), ("noise", &self.noise)]
    }

    fn save(&self) -> (Saved, [Vec<OwnedParameter>; 2], u64) {
        let mut saved = Saved::new();
        for (part, state) in self.parts() {
            for slice in state.state() {
                let values = match slice.values {
                    Values::F32(values) => (values.iter().map(|v| v.to_bits()).collect(), vec![]),
                    Values::U64(values) => (vec![], values.to_vec()),
                };
                assert!(saved.insert(format!("{part}/{}", slice.name), values).is_none(), "a name twice");
            }
        }
        (saved, [self.student.tensors.clone(), self.critic.tensors.clone()], self.iteration)
    }

    fn load(&mut self, (saved, [student, critic], iteration): (Saved, [Vec<OwnedParameter>; 2], u64)) {
        (self.student.tensors, self.critic.tensors, self.iteration) = (student, critic, iteration);
        let floats: BTreeMap<&String, Vec<f32>> =
            saved.iter().map(|(name, (bits, _))| (name, bits.iter().map(|bits| f32::from_bits(*bits)).collect())).collect();
        let slices = |part: &str| -> Vec<Slice<'_>> {
            let mine = saved.iter().filter_map(|(name, (_, integers))| {
                let rest = name.strip_prefix(part)?.strip_prefix('/')?;
                let values = if integers.is_empty() { Values::F32(&floats[name]) } else { Values::U64(integers) };
                Some(Slice { name: rest.to_owned(), values })
            });
            mine.collect()
        };
        let [first, second] = &mut self.optimisers;
        restore(first, &slices("student")).unwrap();
        restore(second, &slices("critic")).unwrap();
        restore(&mut self.ema, &slices("ema")).unwrap();
        restore(&mut self.noise, &slices("noise")).unwrap();
    }
}

#[test]
fn a_resumed_run_is_an_unbroken_one_bit_for_bit() {
    let mut whole = Run::new(1);
    whole.go(14);
    for at in [0, 1, 4, 9, 13] {
        let mut first = Run::new(1);
        first.go(at);
        // Another start: everything that matters must come from the state.
        let mut second = Run::new(2);
        second.load(first.save());
        second.go(14 - at);
        assert_eq!(second.save(), whole.save(), "broken at {at}");
    }
    assert_ne!(Run::new(1).save(), whole.save());
}

fn views(owned: &mut [OwnedParameter; 2]) -> [Parameter<'_>; 2] {
    owned.each_mut().map(OwnedParameter::view)
}

#[test]
fn threads_do_not_change_a_bit() {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut run = Run::new(1);
            run.go(8);
            // Tensors of several tasks.
            let (rows, columns) = (96, 700);
            let values = Stream::new(1).normals(rows * columns);
            let mut owned = [OwnedParameter::new("w", [rows, columns], values.clone()), OwnedParameter::new("b", [values.len()], values)];
            let groups = vec![
                Group { method: Method::AdamW(AdamW::ALIGNMENT), rate: 1.0 },
                Group { method: Method::Muon(Muon::default()), rate: 1.0 },
            ];
            let choose = |_: &str, shape: &[usize]| Some(shape.len() - 1);
            let mut optimiser = Optimiser::new(groups, &views(&mut owned), choose).unwrap();
            let mut ema = Ema::new(EmaRate::Constant(0.9), &views(&mut owned));
            for _ in 0..2 {
                owned.iter_mut().for_each(|parameter| parameter.gradient = Stream::new(4).normals(rows * columns));
                let norm = gradient::clip(&mut views(&mut owned), 3.0).unwrap();
                assert!(norm > 3.0);
                optimiser.step(&mut views(&mut owned), 1e-2).unwrap();
                ema.update(&views(&mut owned), 5).unwrap();
            }
            (run.save(), owned, ema)
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}
