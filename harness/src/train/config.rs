//! A run's configuration: `[run]` for the frame, and a table of the stage's name for what learns.
//!
//! ```toml
//! [run]
//! steps = 2000
//! seed = 1
//!
//! [vae]
//! width = 8
//! ```
//! What is left out has the stage's default, also inside an inner table; what is unknown is refused by name. The file that a run keeps has
//! every default written out.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Learner;
use crate::error::Error;

/// What the frame is told, whatever learns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Steps of the whole run; learning rates are spread over them.
    pub steps: u64,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Steps from a line of metrics to the next.
    pub log_every: u64,
    /// Steps from a checkpoint to the next.
    pub checkpoint_every: u64,
    /// Steps from a look to the next; 0 for one look, at the end.
    pub look_every: u64,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { steps: 1000, seed: 1, log_every: 10, checkpoint_every: 200, look_every: 0 }
    }
}

/// Settings of `[run]` that a run may be taken up again with in another value: they say when, not what.
const FREE: [&str; 4] = ["steps", "log_every", "checkpoint_every", "look_every"];

/// Settings of a stage: a table of its configuration, whose every field has a default.
pub trait StageSettings: Serialize + DeserializeOwned + Default + PartialEq {
    /// Name of the stage, which is that of its table.
    const STAGE: &'static str;

    /// What learns, before its first step.
    ///
    /// # Errors
    /// Settings that cannot be; files that cannot be read.
    fn learner(&self, run: &RunSettings) -> Result<Box<dyn Learner>, Error>;
}

/// The whole configuration of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Config<S> {
    /// The frame's.
    pub run: RunSettings,
    /// The stage's.
    pub stage: S,
}

impl<S: StageSettings> Config<S> {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no configuration of this stage: the key is named.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|reason| Error::broken(path, reason))
    }

    /// Reads the text of a file; the reason for a refusal is one clear sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let one_line = |error: toml::de::Error| error.message().replace('\n', " ");
        let mut table: toml::Table = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let mut take = |name: &str| table.remove(name).unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
        let (run, stage) = (take("run"), take(S::STAGE));
        if let Some(foreign) = table.keys().next() {
            return Err(format!("[{foreign}] is neither [run] nor [{}], the tables of this stage", S::STAGE));
        }
        let run: RunSettings = run.try_into().map_err(|error| format!("[run]: {}", one_line(error)))?;
        if run.steps == 0 || run.log_every == 0 || run.checkpoint_every == 0 {
            return Err("[run]: steps, log_every and checkpoint_every are at least 1".to_owned());
        }
        let mut whole = toml::Value::try_from(S::default()).map_err(|error| error.to_string())?;
        merge(&mut whole, stage);
        let stage = whole.try_into().map_err(|error| format!("[{}]: {}", S::STAGE, one_line(error)))?;
        Ok(Self { run, stage })
    }

    /// The configuration with every default written out.
    ///
    /// # Errors
    /// A setting that TOML has no word for, such as a seed of 2^63 or more.
    pub fn text(&self) -> Result<String, Error> {
        toml::to_string(&self.table()?).map_err(|error| Error::broken(Path::new("config.toml"), error))
    }

    /// The first setting that keeps a run of `other` from being continued under this configuration: its name and both values.
    ///
    /// # Errors
    /// As [`Config::text`].
    pub fn difference(&self, other: &Self) -> Result<Option<String>, Error> {
        let (mut new, mut old) = (self.table()?, other.table()?);
        for table in [&mut new, &mut old] {
            if let Some(run) = table.get_mut("run").and_then(toml::Value::as_table_mut) {
                FREE.iter().for_each(|name| drop(run.remove(*name)));
            }
        }
        Ok(first_difference("", &toml::Value::Table(new), &toml::Value::Table(old)))
    }

    fn table(&self) -> Result<toml::Table, Error> {
        let refuse = |error: toml::ser::Error| Error::broken(Path::new("config.toml"), error);
        let mut table = toml::Table::new();
        table.insert("run".to_owned(), toml::Value::try_from(&self.run).map_err(refuse)?);
        table.insert(S::STAGE.to_owned(), toml::Value::try_from(&self.stage).map_err(refuse)?);
        Ok(table)
    }
}

/// Puts what is set over what is there, table by table.
fn merge(whole: &mut toml::Value, set: toml::Value) {
    match (whole, set) {
        (toml::Value::Table(whole), toml::Value::Table(set)) => {
            for (key, value) in set {
                match whole.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => drop(whole.insert(key, value)),
                }
            }
        }
        (whole, set) => *whole = set,
    }
}

fn first_difference(name: &str, new: &toml::Value, old: &toml::Value) -> Option<String> {
    let (toml::Value::Table(new_table), toml::Value::Table(old_table)) = (new, old) else {
        return (new != old).then(|| format!("{name} is {new}, the run was started with {old}"));
    };
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    let gone = old_table.keys().find(|key| !new_table.contains_key(*key));
    let gone = gone.map(|key| format!("{} is not set, the run was started with {}", inner(key), old_table[key]));
    let changed = new_table.iter().find_map(|(key, value)| match old_table.get(key) {
        Some(old) => first_difference(&inner(key), value, old),
        None => Some(format!("{} is {value}, the run was started without it", inner(key))),
    });
    changed.or(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Toy {
        width: usize,
        start: Option<String>,
        inner: RunSettings,
    }

    impl Default for Toy {
        fn default() -> Self {
            Self { width: 2, start: None, inner: RunSettings { seed: 7, ..RunSettings::default() } }
        }
    }

    impl StageSettings for Toy {
        const STAGE: &'static str = "toy";

        fn learner(&self, _: &RunSettings) -> Result<Box<dyn Learner>, Error> {
            Err(Error::flag("toy", "it does not learn"))
        }
    }

    fn parse(text: &str) -> Result<Config<Toy>, String> {
        Config::parse(text)
    }

    #[test]
    fn defaults_are_written_out_and_read_back() {
        let config = parse("[toy]\nwidth = 3\n").unwrap();
        let text = config.text().unwrap();
        assert!(text.contains("steps = 1000") && text.contains("width = 3"), "{text}");
        assert_eq!(parse(&text), Ok(config));
    }

    #[test]
    fn an_inner_table_keeps_the_defaults_of_its_stage() {
        let config = parse("[toy.inner]\nsteps = 5\n").unwrap();
        assert_eq!((config.stage.inner.seed, config.stage.inner.steps, config.run.seed), (7, 5, 1));
        assert!(parse("[toy.inner]\nstep = 5\n").unwrap_err().contains("step"));
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (text, name) in
            [("[run]\nstep = 1\n", "step"), ("[toy]\nwide = 1\n", "wide"), ("[other]\n", "[other]"), ("[run]\nsteps = 0", "at least 1")]
        {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(name), "{reason}");
        }
    }

    #[test]
    fn only_what_is_learnt_may_not_change() {
        let config = |text| parse(text).unwrap();
        let old = config("[toy]\nwidth = 3\n");
        let free = config("[run]\nsteps = 7\nlog_every = 1\ncheckpoint_every = 2\nlook_every = 3\n[toy]\nwidth = 3\n");
        assert_eq!(free.difference(&old).unwrap(), None);
        let wide = config("[toy]\nwidth = 4\n").difference(&old).unwrap().unwrap();
        assert_eq!(wide, "toy.width is 4, the run was started with 3");
        let start = config("[toy]\nwidth = 3\nstart = \"a\"\n");
        assert!(start.difference(&old).unwrap().is_some_and(|text| text.contains("toy.start")));
        assert!(old.difference(&start).unwrap().is_some_and(|text| text.contains("toy.start")));
        assert!(config("[run]\nseed = 2\n[toy]\nwidth = 3\n").difference(&old).unwrap().is_some_and(|text| text.contains("run.seed")));
    }
}
