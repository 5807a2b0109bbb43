//! Whose turn it is, against the official rules worked out by hand.

use turbowan_rcm::Error;
use turbowan_rcm::train::{Alternation, Phase};

fn student(iteration: u64, simulation_steps: Option<usize>) -> Phase {
    Phase::Student { iteration, simulation_steps }
}

fn critic(iteration: u64, simulation_steps: usize) -> Phase {
    Phase::Critic { iteration, simulation_steps }
}

#[test]
fn the_student_has_the_warm_up_and_then_one_turn_in_five() {
    let turns = Alternation::default();
    let phase = |iteration| turns.phase(iteration, true).unwrap();
    for iteration in [0, 1, 500, 999] {
        assert_eq!(phase(iteration), student(iteration, None));
    }
    // effective = 1000 + (i - 1000) / 5, effective_fake = i - effective - 1, steps = effective % 4 + 1.
    let want = [
        student(1000, Some(1)),
        critic(0, 1),
        critic(1, 2),
        critic(2, 3),
        critic(3, 4),
        student(1001, Some(2)),
        critic(4, 1),
        critic(5, 2),
        critic(6, 3),
        critic(7, 4),
        student(1002, Some(3)),
    ];
    assert_eq!((1000..1011).map(phase).collect::<Vec<_>>(), want);
}

#[test]
fn student_and_critic_count_every_iteration_once() {
    for (warm_up, student_every) in [(0, 2), (0, 5), (7, 3), (10, 10), (3, 1)] {
        let turns = Alternation { warm_up, student_every, least_steps: 1, most_steps: 4 };
        let (mut students, mut critics) = (0, 0);
        for iteration in 0..200 {
            match turns.phase(iteration, true).unwrap() {
                Phase::Student { iteration, .. } => {
                    assert_eq!(iteration, students);
                    students += 1;
                }
                Phase::Critic { iteration, .. } => {
                    assert_eq!(iteration, critics);
                    critics += 1;
                }
            }
        }
        assert_eq!(students + critics, 200);
        assert_eq!(critics == 0, student_every == 1);
    }
}

#[test]
fn without_a_critic_every_turn_is_the_students() {
    for iteration in [0, 999, 1001, 5000] {
        assert_eq!(Alternation::default().phase(iteration, false), Ok(student(iteration, None)));
    }
}

#[test]
fn simulations_have_the_counts_that_are_asked_for() {
    let steps = |least_steps, most_steps| {
        let turns = Alternation { warm_up: 0, student_every: 2, least_steps, most_steps };
        let phase = |iteration| match turns.phase(iteration, true).unwrap() {
            Phase::Student { simulation_steps, .. } => simulation_steps.unwrap(),
            Phase::Critic { simulation_steps, .. } => simulation_steps,
        };
        (0..6).map(phase).collect::<Vec<_>>()
    };
    assert_eq!(steps(4, 4), [4; 6]);
    assert_eq!(steps(2, 4), [2, 2, 3, 3, 4, 4]);
}

#[test]
fn the_tangent_warms_up_in_a_straight_line() {
    let turns = Alternation::default();
    assert_eq!([0, 250, 1000, 9000].map(|iteration| turns.tangent(iteration)), [0.0, 0.25, 1.0, 1.0]);
    assert_eq!(Alternation { warm_up: 0, ..turns }.tangent(0), 1.0);
}

#[test]
fn turns_of_nothing_are_refused() {
    let official = Alternation::default();
    for turns in [
        Alternation { student_every: 0, ..official },
        Alternation { most_steps: 0, ..official },
        Alternation { least_steps: 0, ..official },
        Alternation { least_steps: 5, ..official },
    ] {
        assert!(matches!(turns.phase(0, true), Err(Error::OutOfRange { .. })));
    }
}
