//! `turbowan report host`: a CPU's report from nothing. This program's own commands are run one after the other, each writes its
//! record, and the page is made from these: nothing is measured that a user could not measure by the same commands.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::error::Error;

/// A command of this program, and where what it prints goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it measures.
    pub what: &'static str,
    /// Its command line, without the program.
    pub arguments: Vec<String>,
    /// The file that its output is; none where it writes its record itself.
    pub output: Option<PathBuf>,
}

/// The steps of a report in a folder: operations, the truth, and what the embedded model makes of `captions` captions.
pub fn steps(out: &Path, captions: usize) -> Vec<Step> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let record = out.join("eval.jsonl").display().to_string();
    let captions = captions.to_string();
    let evaluation =
        ["eval", "--captions", &captions, "--steps", "4,2,1", "--attention", "sagesla,sla", "--precision", "bf16,f32", "--record", &record];
    vec![
        Step {
            what: "operations, timed",
            arguments: words(&["bench", "--suite", "report", "--json"]),
            output: Some(out.join("bench.jsonl")),
        },
        Step {
            what: "operations, held to the truth",
            arguments: words(&["verify", "--device", "host", "--json"]),
            output: Some(out.join("verify.jsonl")),
        },
        Step { what: "what the model makes of captions", arguments: words(&evaluation), output: None },
    ]
}

/// Runs the steps; those that failed are named. With `peers`, the folder of their scripts, ours and PyTorch's are timed in turns
/// first, while the machine is idle.
///
/// # Errors
/// A folder that holds records already, a program that cannot be started, or Ctrl-C.
pub fn measure(out: &Path, captions: usize, peers: Option<&Path>) -> Result<Vec<&'static str>, Error> {
    let begun = Instant::now();
    let read = |source| Error::Read { path: out.to_owned(), source };
    std::fs::create_dir_all(out).map_err(read)?;
    let mut entries = std::fs::read_dir(out).map_err(read)?;
    if entries.any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "jsonl"))) {
        return Err(Error::broken(out, "holds records already; name a new folder, or make the page of these by `turbowan report bench`"));
    }
    let program = std::env::current_exe().map_err(|source| Error::Read { path: PathBuf::from("this program"), source })?;
    let mut failed = Vec::new();
    let mut run = |what: &'static str, command: &mut Command| -> Result<(), Error> {
        println!("{what} ({:.0} s so far)", begun.elapsed().as_secs_f64());
        let path = PathBuf::from(command.get_program());
        let status = command.status().map_err(|source| Error::Read { path, source })?;
        match status.code() {
            Some(0) => {}
            // Ctrl-C reached the step too
            Some(130) | None => return Err(Error::StoppedEarly),
            Some(_) => failed.push(what),
        }
        Ok(())
    };
    if let Some(folder) = peers {
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut asked = Command::new(&python);
        asked.args(["-c", "import torch, diffusers, safetensors"]).stdout(Stdio::null()).stderr(Stdio::null());
        if asked.status().is_ok_and(|status| status.success()) {
            let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
            let mut pairs = Command::new("bash");
            pairs.arg(folder.join("pair_host.sh")).arg(out).env("TURBOWAN", &program).env("THREADS", threads).stdout(Stdio::null());
            run("ours and PyTorch's in turns", &mut pairs)?;
        } else {
            println!("no peers: {python} has no torch, diffusers and safetensors (pip install torch diffusers safetensors)");
        }
    }
    for step in steps(out, captions) {
        let mut command = Command::new(&program);
        command.args(&step.arguments);
        match &step.output {
            Some(path) => {
                let file = File::create(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                command.stdout(file);
            }
            None => {
                command.stdout(Stdio::null());
            }
        }
        run(step.what, &mut command)?;
    }
    println!("measured in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;
    use crate::cmd::{bench::Bench, eval::Eval, verify::Verify};

    #[test]
    fn every_step_is_a_command_line_that_its_command_takes() {
        let steps = steps(Path::new("out"), 5);
        for step in &steps {
            let command = match step.arguments[0].as_str() {
                "bench" => Bench::augment_args(Command::new("bench")),
                "verify" => Verify::augment_args(Command::new("verify")),
                "eval" => Eval::augment_args(Command::new("eval")),
                other => panic!("{other} is no command"),
            };
            command.try_get_matches_from(&step.arguments).unwrap();
        }
        assert!(
            steps.iter().filter(|step| step.output.is_some()).count() == 2 && steps[2].arguments.contains(&"out/eval.jsonl".to_owned())
        );
    }

    #[test]
    fn records_are_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bench.jsonl"), "").unwrap();
        assert!(measure(folder.path(), 1, None).unwrap_err().to_string().contains("holds records already"));
    }
}
