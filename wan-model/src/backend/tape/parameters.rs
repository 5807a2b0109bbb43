//! What a network learns: named values with their gradients, in a fixed order.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::Arc;

use half::{bf16, f16};
use turbowan_cuda::ops::gemm::PackedMatrix;

use crate::checkpoint::{Dtype, TensorSource, TensorView, write_safetensors};
use crate::config::TensorSpec;
use crate::error::Misfit;
use crate::{Error, Result};

/// One named tensor that learns, or is held fixed.
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    values: Arc<Vec<f32>>,
    gradient: Vec<f32>,
    learns: bool,
    /// The values as the product reads them, and as the gradient of its input does; none since they last changed.
    packed: [Option<Arc<PackedMatrix>>; 2],
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parameter").field("name", &self.name).field("shape", &self.shape).field("learns", &self.learns).finish()
    }
}

impl Parameter {
    /// Official name, e.g. `blocks.0.self_attn.q.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape, slowest axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The sum of gradients since they were last set to zero; empty where it does not learn.
    pub fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Whether gradients are worked out for it.
    pub fn learns(&self) -> bool {
        self.learns
    }

    /// The values to be changed, in place; layers read the new ones from now on.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.values_and_gradient().0
    }

    /// Values and gradient, both to be changed: what an optimiser takes.
    pub fn values_and_gradient(&mut self) -> (&mut [f32], &mut [f32]) {
        let (_, _, values, gradient) = self.parts_mut();
        (values, gradient)
    }

    /// Name, shape, values and gradient, the last two to be changed.
    pub fn parts_mut(&mut self) -> (&str, &[usize], &mut [f32], &mut [f32]) {
        self.packed = [None, None];
        let values: &mut Vec<f32> = Arc::make_mut(&mut self.values);
        (&self.name, &self.shape, values, &mut self.gradient)
    }

    /// The gradient to be changed: to be clipped, or averaged.
    pub fn gradient_mut(&mut self) -> &mut [f32] {
        &mut self.gradient
    }

    /// Whether gradients are worked out from now on; they start at zero.
    pub fn set_learns(&mut self, learns: bool) {
        self.learns = learns;
        self.gradient.clear();
        self.gradient.resize(if learns { self.values.len() } else { 0 }, 0.0);
    }
}

/// All parameters of a network, in the order of the official `state_dict`.
#[derive(Debug, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
    by_name: HashMap<String, usize>,
}

impl Parameters {
    /// Reads the tensors `specs` from a checkpoint, widened to `f32`; all of them learn.
    ///
    /// # Errors
    /// [`Error::Misfits`] with every tensor that is missing or holds another number of values, or is not floating point.
    pub fn read(source: &dyn TensorSource, specs: &[TensorSpec]) -> Result<Self> {
        let (mut parameters, mut misfits) = (Self::default(), Vec::new());
        for TensorSpec { name, shape } in specs {
            match source.get(name) {
                None => misfits.push(Misfit::Missing { name: name.clone(), expected: shape.clone() }),
                Some(found) if found.len() != shape.iter().product::<usize>() => {
                    misfits.push(Misfit::Shape { name: name.clone(), expected: shape.clone(), found: found.shape.to_vec() });
                }
                Some(found) if !matches!(found.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64) => {
                    misfits.push(Misfit::Dtype { name: name.clone(), expected: "floating point", found: found.dtype.name() });
                }
                Some(found) => parameters.push(name.clone(), shape.clone(), found.to_f32()),
            }
        }
        if misfits.is_empty() { Ok(parameters) } else { Err(Error::Misfits { path: "checkpoint".into(), misfits }) }
    }

    /// Adds a parameter that learns, or replaces the one of that name.
    pub fn push(&mut self, name: String, shape: Vec<usize>, values: Vec<f32>) {
        let gradient = vec![0.0; values.len()];
        let parameter = Parameter { name, shape, values: Arc::new(values), gradient, learns: true, packed: [None, None] };
        match self.by_name.get(&parameter.name) {
            Some(index) => self.list[*index] = parameter,
            None => {
                self.by_name.insert(parameter.name.clone(), self.list.len());
                self.list.push(parameter);
            }
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.list.iter()
    }

    /// All of them, in order, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Parameter> {
        self.list.iter_mut()
    }

    /// Name, shape, values and gradient of those that learn, in order, the last two to be changed.
    pub fn learning_mut(&mut self) -> impl Iterator<Item = (&str, &[usize], &mut [f32], &mut [f32])> {
        self.list.iter_mut().filter(|parameter| parameter.learns).map(Parameter::parts_mut)
    }

    /// The one called `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.by_name.get(name).map(|index| &self.list[*index])
    }

    /// The one called `name`, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Parameter> {
        self.by_name.get(name).map(|index| &mut self.list[*index])
    }

    /// Values that learn.
    pub fn learning_values(&self) -> usize {
        self.list.iter().map(|parameter| parameter.gradient.len()).sum()
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        self.list.iter_mut().for_each(|parameter| parameter.gradient.fill(0.0));
    }

    /// Lets only those learn whose name `choose` picks.
    pub fn learn_only(&mut self, choose: impl Fn(&str) -> bool) {
        for parameter in &mut self.list {
            let learns = choose(&parameter.name);
            if learns != parameter.learns {
                parameter.set_learns(learns);
            }
        }
    }

    /// A copy as a checkpoint holds it, each tensor in the number format that `format` names (`f32` for one that is not
    /// floating point of 16 or 32 bits).
    pub fn stored(&self, format: impl Fn(&str) -> Dtype) -> StoredParameters {
        let tensor = |parameter: &Parameter| {
            let (dtype, bytes) = narrowed(&parameter.values, format(&parameter.name));
            Stored { name: parameter.name.clone(), shape: parameter.shape.clone(), dtype, bytes }
        };
        StoredParameters { tensors: self.list.iter().map(tensor).collect(), by_name: self.by_name.clone() }
    }

    /// Checks that names and shapes are, in order, those of `other`.
    pub(crate) fn check_like(&self, other: &Self) -> Result<()> {
        let shape = |parameter: &Parameter| parameter.shape.clone();
        let mut misfits = Vec::new();
        for (index, wanted) in other.list.iter().enumerate() {
            match self.list.get(index).filter(|found| found.name == wanted.name) {
                None => misfits.push(Misfit::Missing { name: wanted.name.clone(), expected: shape(wanted) }),
                Some(found) if found.shape != wanted.shape => {
                    misfits.push(Misfit::Shape { name: wanted.name.clone(), expected: shape(wanted), found: shape(found) });
                }
                Some(_) => {}
            }
        }
        if misfits.is_empty() { Ok(()) } else { Err(Error::Misfits { path: "parameters".into(), misfits }) }
    }

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn at(&self, index: usize) -> &Parameter {
        &self.list[index]
    }

    pub(super) fn values_of(&self, index: usize) -> Arc<Vec<f32>> {
        Arc::clone(&self.list[index].values)
    }

    /// The gradient of one, taken out while it is added to; see [`Parameters::put_gradient`].
    pub(super) fn take_gradient(&mut self, index: usize) -> Vec<f32> {
        std::mem::take(&mut self.list[index].gradient)
    }

    pub(super) fn put_gradient(&mut self, index: usize, gradient: Vec<f32>) {
        self.list[index].gradient = gradient;
    }

    pub(super) fn packed(&self, index: usize, side: Side) -> Option<Arc<PackedMatrix>> {
        self.list[index].packed[side as usize].clone()
    }

    /// Keeps what was packed from `values`, unless they have changed since.
    pub(super) fn keep_packed(&mut self, index: usize, side: Side, values: &Arc<Vec<f32>>, packed: Arc<PackedMatrix>) {
        let parameter = &mut self.list[index];
        if Arc::ptr_eq(&parameter.values, values) {
            parameter.packed[side as usize] = Some(packed);
        }
    }
}

/// The two ways in which a weight `[out, input]` is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// For the product with it.
    Forward,
    /// For the gradient of the product's input.
    Backward,
}

/// A copy of parameters, as a checkpoint holds them.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredParameters {
    tensors: Vec<Stored>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug, Clone, PartialEq)]
struct Stored {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Stored {
    fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: &self.shape, bytes: &self.bytes }
    }
}

impl StoredParameters {
    /// Writes them as a safetensors file under their official names.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: &mut impl Write, metadata: &BTreeMap<String, String>) -> io::Result<()> {
        let tensors: Vec<_> = self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.view())).collect();
        write_safetensors(out, &tensors, metadata)
    }
}

impl TensorSource for StoredParameters {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.by_name.get(name).map(|index| self.tensors[*index].view())
    }
}

fn narrowed(values: &[f32], dtype: Dtype) -> (Dtype, Vec<u8>) {
    let bytes = match dtype {
        Dtype::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        _ => return (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    };
    (dtype, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    fn two() -> Parameters {
        let mut parameters = Parameters::default();
        parameters.push("b.weight".into(), vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        parameters.push("a.bias".into(), vec![2], vec![0.1, -0.2]);
        parameters
    }

    #[test]
    fn what_is_written_is_read_back_in_the_order_that_was_asked_for() {
        let mut file = Vec::new();
        two().stored(|_| Dtype::F32).write(&mut file, &BTreeMap::new()).unwrap();
        let checkpoint = Checkpoint::from_vec("memory.safetensors", file).unwrap();
        let specs = [TensorSpec::new("b.weight", &[2, 2]), TensorSpec::new("a.bias", &[2])];
        let read = Parameters::read(&checkpoint, &specs).unwrap();
        for (a, b) in read.iter().zip(two().iter()) {
            assert_eq!((a.name(), a.shape(), a.values()), (b.name(), b.shape(), b.values()));
        }
        let narrow = two().stored(|name| if name == "a.bias" { Dtype::F32 } else { Dtype::Bf16 });
        assert_eq!(narrow.get("b.weight").unwrap().dtype, Dtype::Bf16);
        assert_eq!(narrow.get("a.bias").unwrap().to_f32(), [0.1, -0.2]);
    }

    #[test]
    fn every_misfit_is_named() {
        let source = two().stored(|_| Dtype::F32);
        let specs = [TensorSpec::new("c", &[1]), TensorSpec::new("b.weight", &[3]), TensorSpec::new("a.bias", &[2])];
        assert!(matches!(Parameters::read(&source, &specs), Err(Error::Misfits { misfits, .. }) if misfits.len() == 2));
    }

    #[test]
    fn what_does_not_learn_has_no_gradient() {
        let mut parameters = two();
        parameters.learn_only(|name| name == "a.bias");
        assert_eq!(parameters.learning_values(), 2);
        assert!(parameters.get("b.weight").unwrap().gradient().is_empty());
        let learning: Vec<_> = parameters.learning_mut().map(|(name, shape, ..)| (name.to_owned(), shape.to_vec())).collect();
        assert_eq!(learning, [("a.bias".to_owned(), vec![2])]);
        parameters.get_mut("a.bias").unwrap().gradient_mut()[0] = 3.0;
        parameters.zero_gradients();
        assert_eq!(parameters.get("a.bias").unwrap().gradient(), [0.0, 0.0]);
    }
}
