//! `turbowan merge BASE TARGET DIFF_BASE -w WEIGHT --out FILE`: what fine-tuning changed, carried over to another model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use half::{bf16, f16};
use serde_json::json;
use turbowan_rcm::merge::{Action, MergePlan, Tensors};
use turbowan_wan_model::checkpoint::{Checkpoint, Dtype, TensorSource, TensorView, write_safetensors};

use crate::atomic_file::{self, AtomicFile};
use crate::error::Error;

/// Writes `BASE + WEIGHT (TARGET - DIFF_BASE)`: so a student distilled from one model lends its few steps to another fine-tuned one.
#[derive(Debug, Args)]
pub struct Merge {
    /// The model that is changed.
    pub base: PathBuf,
    /// The model that was fine-tuned or distilled.
    pub target: PathBuf,
    /// The model that the target was made from.
    pub diff_base: PathBuf,
    /// How much of the difference is added.
    #[arg(short = 'w', long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub weight: f32,
    /// The .safetensors file to write; number formats are the base's.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Refuse models whose shapes differ, instead of keeping the base's values there.
    #[arg(long)]
    pub strict: bool,
}

/// Key of the metadata under which our files state what shapes cannot show.
const STATED: &str = "turbowan.config";

/// Runs the command.
///
/// # Errors
/// Files that cannot be read, hold whole numbers, or have nothing in common; a file that cannot be written.
pub fn run(args: &Merge) -> Result<(), Error> {
    if !args.weight.is_finite() {
        return Err(Error::flag("--weight", format!("{} is no finite number", args.weight)));
    }
    let [base, target, diff_base] = [Model::open(&args.base)?, Model::open(&args.target)?, Model::open(&args.diff_base)?];
    let plan = MergePlan::new(&base, &target, &diff_base);
    let plan = if args.strict { plan.strict()? } else { plan };
    let count = |action| plan.actions.values().filter(|found| **found == action).count();
    if count(Action::Blend) == 0 {
        return Err(Error::broken(&args.target, "it shares no tensor with both bases; are these three models of one kind?"));
    }
    atomic_file::check(&args.out)?;
    let mut merged = Vec::with_capacity(plan.actions.len());
    plan.run(&base, &target, &diff_base, args.weight, |name, values| {
        let from = if plan.actions.get(name) == Some(&Action::TakeTarget) { &target } else { &base };
        merged.push(from.narrowed(name, &values)?);
        Ok::<(), Error>(())
    })?;
    let mut metadata = BTreeMap::from([("turbowan.merge".to_owned(), args.described())]);
    metadata.extend(base.0.metadata().get(STATED).map(|stated| (STATED.to_owned(), stated.clone())));
    let tensors: Vec<_> = merged.iter().map(Merged::view).collect();
    let mut file = AtomicFile::create(&args.out)?;
    write_safetensors(&mut file, &tensors, &metadata).map_err(|error| Error::broken(&args.out, error))?;
    file.commit()?;
    let (blended, taken, kept) = (count(Action::Blend), count(Action::TakeTarget), count(Action::KeepBase));
    println!("{}: {blended} tensors changed, {taken} taken from the target, {kept} kept from the base", args.out.display());
    plan.mismatches.iter().for_each(|misfit| println!("kept, for shapes differ: {}", misfit.name));
    plan.unmatched.iter().for_each(|name| println!("kept, for it is not in all three: {name}"));
    Ok(())
}

impl Merge {
    fn described(&self) -> String {
        let hash = |path: &Path| Checkpoint::open(path).map(|file| file.content_hash()).unwrap_or_default();
        let [base, target, diff_base] = [&self.base, &self.target, &self.diff_base].map(|path| hash(path));
        json!({ "base": base, "target": target, "diff_base": diff_base, "weight": self.weight }).to_string()
    }
}

/// A float model.
struct Model(Checkpoint);

impl Model {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = Checkpoint::open(path)?;
        let is_float = |name: &&str| matches!(file.dtype(name), Some(Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64));
        if let Some(name) = file.names().find(|name| !is_float(name)) {
            return Err(Error::broken(path, format!("{name} holds whole numbers, which cannot be added; take the float weights")));
        }
        Ok(Self(file))
    }

    /// `values` in the number format that the tensor has here; f64 becomes f32, which the sum was in.
    fn narrowed(&self, name: &str, values: &[f32]) -> Result<Merged, Error> {
        let shape = self.0.take(name)?.shape.to_vec();
        let (dtype, bytes) = match self.0.dtype(name) {
            Some(Dtype::Bf16) => (Dtype::Bf16, values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()),
            Some(Dtype::F16) => (Dtype::F16, values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()),
            _ => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        };
        Ok(Merged { name: name.to_owned(), dtype, shape, bytes })
    }
}

impl Tensors for Model {
    type Error = Error;

    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.0.names().map(|name| (name.to_owned(), self.0.shape(name).unwrap_or_default().to_vec())).collect()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        Ok(self.0.take(name)?.to_f32())
    }
}

/// A tensor of the result.
struct Merged {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Merged {
    fn view(&self) -> (&str, TensorView<'_>) {
        (&self.name, TensorView { dtype: self.dtype, shape: &self.shape, bytes: &self.bytes })
    }
}

#[cfg(test)]
mod tests {
    use turbowan_wan_model::backend::tape::Parameters;

    use super::*;

    /// A file of tensors: name, shape, values, number format.
    fn file(folder: &Path, name: &str, tensors: &[(&str, &[usize], &[f32], Dtype)]) -> PathBuf {
        let mut parameters = Parameters::default();
        tensors.iter().for_each(|(name, shape, values, _)| parameters.push((*name).to_owned(), shape.to_vec(), values.to_vec()));
        let format = |name: &str| tensors.iter().find(|(known, ..)| *known == name).map_or(Dtype::F32, |(.., dtype)| *dtype);
        let mut bytes = Vec::new();
        let metadata = BTreeMap::from([(STATED.to_owned(), "{\"heads\":2}".to_owned())]);
        parameters.stored(format).write(&mut bytes, &metadata).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn merge(folder: &Path, weight: f32, strict: bool) -> Merge {
        let base = file(folder, "base", &[("a", &[2], &[1.0, 2.0], Dtype::Bf16), ("b", &[2], &[5.0, 6.0], Dtype::F32)]);
        let target = file(
            folder,
            "target",
            &[("a", &[2], &[3.0, 5.0], Dtype::F32), ("b", &[1], &[0.0], Dtype::F32), ("proj_l", &[1], &[0.25], Dtype::F32)],
        );
        let diff_base = file(folder, "diff", &[("a", &[2], &[2.0, 1.0], Dtype::F32), ("b", &[2], &[0.0, 0.0], Dtype::F32)]);
        Merge { base, target, diff_base, weight, out: folder.join("out.safetensors"), strict }
    }

    #[test]
    fn a_difference_is_added_in_the_base_s_number_formats() {
        let folder = tempfile::tempdir().unwrap();
        let args = merge(folder.path(), 0.5, false);
        run(&args).unwrap();
        let out = Checkpoint::open(&args.out).unwrap();
        let found: Vec<_> = out.names().map(|name| (name, out.take(name).unwrap().to_f32(), out.dtype(name).unwrap())).collect();
        let want = [("a", vec![1.5, 4.0], Dtype::Bf16), ("b", vec![5.0, 6.0], Dtype::F32), ("proj_l", vec![0.25], Dtype::F32)];
        assert_eq!(found, want);
        assert_eq!(out.metadata()[STATED], "{\"heads\":2}");
        assert!(out.metadata()["turbowan.merge"].contains("\"weight\":0.5"));
        let again = std::fs::read(&args.out).unwrap();
        run(&args).unwrap();
        assert_eq!(std::fs::read(&args.out).unwrap(), again);
    }

    #[test]
    fn what_cannot_be_merged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(run(&merge(folder.path(), 0.5, true)).unwrap_err().to_string().contains("cannot merge b"));
        assert!(run(&merge(folder.path(), f32::NAN, false)).is_err());
        let mut args = merge(folder.path(), 1.0, false);
        args.target = file(folder.path(), "other", &[("z", &[1], &[0.0], Dtype::F32)]);
        assert!(run(&args).unwrap_err().to_string().contains("one kind"));
        let whole = TensorView { dtype: Dtype::I8, shape: &[1], bytes: &[3] };
        let mut bytes = Vec::new();
        write_safetensors(&mut bytes, &[("a", whole)], &BTreeMap::new()).unwrap();
        args.target = folder.path().join("int8");
        std::fs::write(&args.target, bytes).unwrap();
        assert!(run(&args).unwrap_err().to_string().contains("whole numbers"));
        assert!(!args.out.exists());
    }
}
