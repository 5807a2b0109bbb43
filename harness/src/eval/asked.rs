//! What a model is asked for: captions of the world with their clips, or the prompts of a file.

use std::path::Path;

use turbowan_world::{Attributes, Clip, Prompt, Split, World};

use crate::error::Error;
use crate::eval::settings::{Settings, Source};

/// Keeps an evaluation's clips apart from those of training, whose seeds are small numbers too.
const EVALUATION: u64 = 0x6576_616c_7561_7465;
/// Longest file of prompts that is read, in bytes.
const LONGEST_FILE: u64 = 16 << 20;

/// One thing to ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The prompt.
    pub prompt: String,
    /// What it names, where it names a whole clip of the world.
    pub attributes: Option<Attributes>,
    /// A real clip of that.
    pub clip: Option<Clip>,
    /// Whose noise its videos are made from, in every row.
    pub seed: u64,
}

impl Asked {
    /// Whether training never sees the combination.
    pub fn is_held_out(&self) -> bool {
        self.attributes.is_some_and(|attributes| attributes.is_held_out())
    }
}

/// All of it, in order.
///
/// # Errors
/// A file of prompts that cannot be read or has none.
pub fn all(settings: &Settings) -> Result<Vec<Asked>, Error> {
    match &settings.source {
        Source::World { captions, held_out } => Ok(of_world(settings.seed, *captions, *held_out)),
        Source::Prompts(file) => {
            let prompts = prompts_of(&file.path)?;
            Ok(prompts.iter().zip(settings.seed..).map(|(prompt, seed)| of_prompt(prompt, seed)).collect())
        }
        Source::Seeds { prompts, seeds } => {
            Ok(prompts.iter().flat_map(|prompt| seeds.iter().map(|seed| of_prompt(prompt, *seed))).collect())
        }
    }
}

/// Held-out captions lie evenly among the others, so that a part of an evaluation is a small one.
fn of_world(seed: u64, captions: usize, held_out: usize) -> Vec<Asked> {
    let world = |split| World::new(seed ^ EVALUATION, split);
    (0..captions)
        .map(|index| {
            let is_held_out = (index + 1) * held_out / captions != index * held_out / captions;
            let (world, index) = (world(if is_held_out { Split::HeldOut } else { Split::Seen }), index as u64);
            let clip = world.clip(index);
            Asked { prompt: world.caption(index, 0), attributes: Some(clip.attributes), clip: Some(clip), seed: seed.wrapping_add(index) }
        })
        .collect()
}

fn of_prompt(prompt: &str, seed: u64) -> Asked {
    Asked { prompt: prompt.to_owned(), attributes: Prompt::parse(prompt).attributes(), clip: None, seed }
}

/// The prompts of a file.
///
/// # Errors
/// When it cannot be read, or none is in it.
pub fn prompts_of(path: &Path) -> Result<Vec<String>, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > LONGEST_FILE {
        return Err(Error::broken(path, format!("{bytes} bytes are more than the {LONGEST_FILE} that are read as prompts")));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let prompts: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if prompts.is_empty() {
        return Err(Error::broken(path, "no prompt is in it; one stands on each line"));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_name_their_clips_and_the_held_out_ones_are_spread() {
        let asked = of_world(1, 40, 10);
        for one in &asked {
            assert_eq!(Prompt::parse(&one.prompt).attributes(), one.attributes);
            assert_eq!(one.clip.unwrap().attributes, one.attributes.unwrap());
        }
        for quarter in asked.chunks(4) {
            assert_eq!(quarter.iter().filter(|one| one.is_held_out()).count(), 1);
        }
        assert_eq!(asked, of_world(1, 40, 10));
        assert_ne!(asked, of_world(2, 40, 10));
    }

    #[test]
    fn a_file_has_a_prompt_a_line_and_those_of_the_world_can_be_judged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, "a red star moves up on a white canvas\n\n  a cat on a sofa \n").unwrap();
        let prompts = prompts_of(&path).unwrap();
        assert_eq!(prompts, ["a red star moves up on a white canvas", "a cat on a sofa"]);
        assert_eq!(prompts.iter().map(|prompt| of_prompt(prompt, 0).attributes.is_some()).collect::<Vec<_>>(), [true, false]);
        std::fs::write(&path, " \n").unwrap();
        assert!(prompts_of(&path).unwrap_err().to_string().contains("each line"));
    }
}
