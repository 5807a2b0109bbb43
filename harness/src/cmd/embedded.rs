//! What a user should know before the embedded model makes a video.

use turbowan_rcm::Expert;
use turbowan_world::{Background, Colour, Motion, Prompt, Shape};

use crate::request::{Models, Request};

/// One remark: that the weights are random, or that the prompt is outside the world that the model learned. None where a
/// checkpoint runs, or the embedded model can make all of the prompt.
pub(super) fn remark(request: &Request) -> Option<String> {
    let Models::Embedded { trained, .. } = &request.models else { return None };
    if !trained.contains_key(Models::part(request.mode, Expert::High).name()) {
        return Some(format!("the embedded model has random weights and shows texture; {ELSEWHERE}"));
    }
    let warning = Prompt::parse(&request.prompt).warning()?;
    Some(format!("the embedded model knows one moving shape and nothing else ({warning}); {}; {ELSEWHERE}", world()))
}

/// The way out.
const ELSEWHERE: &str = "for anything else name a Wan checkpoint: --model_dir DIR";

/// What it understands, in one clause.
fn world() -> String {
    format!(
        "it understands a {} in {}, on {}, that goes {}",
        listed(&Shape::ALL.map(Shape::name)),
        listed(&Colour::ALL.map(Colour::name)),
        listed(&Background::ALL.map(Background::name)),
        listed(&Motion::ALL.map(|motion| match motion {
            Motion::Still => "nowhere",
            Motion::Grow => "larger",
            Motion::Shrink => "smaller",
            Motion::Orbit => "around",
            straight => straight.name(),
        })),
    )
}

/// `a, b or c`.
fn listed(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        few => few.join(""),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::request::{AttentionChoice, Mode, Precision, SamplerChoice};

    fn request(prompt: &str, trained: &[&str]) -> Request {
        let trained: BTreeMap<_, _> = trained.iter().map(|part| ((*part).to_owned(), String::new())).collect();
        Request {
            mode: Mode::T2v,
            prompt: prompt.to_owned(),
            negative_prompt: String::new(),
            image: None,
            clip: None,
            models: Models::Embedded { seed: 1, trained },
            width: 128,
            height: 128,
            num_frames: 33,
            fps: 16,
            num_samples: 1,
            grid: false,
            seed: 1,
            rng: "native".to_owned(),
            num_steps: 4,
            sigma_max: 80.0,
            boundary: None,
            sampler: SamplerChoice::Rcm { ode: false },
            attention: AttentionChoice::Original,
            precision: Precision::Bf16,
            quant_linear: false,
            default_norm: false,
        }
    }

    #[test]
    fn a_prompt_of_the_world_needs_no_remark() {
        assert_eq!(remark(&request("a red ball moves left on a white background", &["t2v", "vae", "text"])), None);
    }

    #[test]
    fn another_prompt_is_told_what_is_not_understood_what_is_and_the_way_out() {
        let said = remark(&request("a cat on a white sofa", &["t2v"])).unwrap();
        for expected in ["\"cat\" is unknown", "no motion", "circle, square, triangle or star", "larger, smaller or around", "--model_dir"]
        {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn random_weights_are_said_whatever_the_prompt() {
        for prompt in ["a red ball moves left on a white background", "a cat"] {
            let said = remark(&request(prompt, &["vae", "text"])).unwrap();
            assert!(said.contains("random weights") && said.contains("--model_dir"), "{said}");
        }
    }
}
