//! The pickle machine, as far as tensors need it: values go onto a stack, into a memo and into containers.
//!
//! It resolves six names and calls nothing: `_rebuild_tensor_v2` and `_rebuild_parameter` become a description of a view,
//! a storage's persistent id becomes its key and length, `OrderedDict` becomes a dictionary. Any other name is refused
//! where it appears. Containers live in one arena, so that a value is a number and shared or circular ones cost nothing.

use super::pickle::{Op, Opcodes};
use super::{MAX_RANK, Read};
use crate::checkpoint::tensor::Dtype;

/// Most containers, stack values and memo entries: a tensor takes about ten, the largest network here two thousand tensors.
const MAX_VALUES: usize = 1 << 18;

/// A value: itself, or its number in the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    Known(Known),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// The names that mean something here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Known {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Dtype),
}

impl Known {
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::Bf16),
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "CharStorage") => Self::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "BoolStorage") => Self::Storage(Dtype::Bool),
            _ => return None,
        })
    }
}

/// A storage as its persistent id names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StorageId<'a> {
    /// Number format of its values.
    pub dtype: Dtype,
    /// Its entry below `data/`.
    pub key: &'a str,
    /// Values in it.
    pub values: usize,
}

/// A view of a storage, not yet held against the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorId<'a> {
    pub storage: StorageId<'a>,
    /// First value.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In values.
    pub strides: Vec<usize>,
}

/// What a pickle describes.
#[derive(Debug, Default)]
pub(crate) struct Machine<'a> {
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: std::collections::HashMap<u32, Value<'a>>,
    sequences: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<StorageId<'a>>,
    tensors: Vec<TensorId<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs a whole pickle; gives the arena and the value it leaves.
    pub fn run(bytes: &'a [u8]) -> Read<(Self, Value<'a>)> {
        let mut machine = Self::default();
        let mut opcodes = Opcodes::of(bytes);
        loop {
            let at = opcodes.position();
            let op = opcodes.next()?;
            if op == Op::Stop {
                let root = machine.pop()?;
                return Ok((machine, root));
            }
            machine.step(op).map_err(|reason| format!("{reason} (byte {at} of the pickle)"))?;
            let arena = machine.sequences.len() + machine.dicts.len() + machine.storages.len() + machine.tensors.len();
            if [machine.stack.len(), machine.marks.len(), machine.memo.len(), arena].into_iter().any(|used| used > MAX_VALUES) {
                return Err(format!("the pickle describes more than {MAX_VALUES} values"));
            }
        }
    }

    /// Entries of a dictionary.
    pub fn dict(&self, number: usize) -> &[(Value<'a>, Value<'a>)] {
        &self.dicts[number]
    }

    /// A described tensor.
    pub fn tensor(&self, number: usize) -> &TensorId<'a> {
        &self.tensors[number]
    }

    fn pop(&mut self) -> Read<Value<'a>> {
        // Values below the topmost mark belong to whoever set it.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle takes a value from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "the pickle takes a value from an empty stack".into())
    }

    fn top(&self) -> Read<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "the pickle looks at an empty stack".into())
    }

    fn above_mark(&mut self) -> Read<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or("the pickle closes a mark that it never set")?;
        Ok(self.stack.split_off(mark))
    }

    fn new_sequence(&mut self, values: Vec<Value<'a>>) -> usize {
        self.sequences.push(values);
        self.sequences.len() - 1
    }

    fn new_dict(&mut self, flat: &[Value<'a>]) -> Read<Value<'a>> {
        self.dicts.push(pairs(flat)?);
        Ok(Value::Dict(self.dicts.len() - 1))
    }

    fn step(&mut self, op: Op<'a>) -> Read<()> {
        let value = match op {
            Op::Nothing | Op::Stop => return Ok(()),
            Op::Mark => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            Op::Pop => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
                return Ok(());
            }
            Op::PopMark => {
                self.above_mark()?;
                return Ok(());
            }
            Op::Duplicate => self.top()?,
            Op::None => Value::None,
            Op::Bool(yes) => Value::Bool(yes),
            Op::Int(value) => Value::Int(value),
            Op::Float => Value::Float,
            Op::Text(text) => Value::Text(text),
            Op::Tuple => {
                let values = self.above_mark()?;
                Value::Tuple(self.new_sequence(values))
            }
            Op::TupleOf(len) => {
                let mut values = [Value::None; 3];
                for value in values[..len].iter_mut().rev() {
                    *value = self.pop()?;
                }
                Value::Tuple(self.new_sequence(values[..len].to_vec()))
            }
            Op::EmptyList => Value::List(self.new_sequence(Vec::new())),
            Op::List => {
                let values = self.above_mark()?;
                Value::List(self.new_sequence(values))
            }
            Op::Append => {
                let value = self.pop()?;
                return self.extend_list(vec![value]);
            }
            Op::Appends => {
                let values = self.above_mark()?;
                return self.extend_list(values);
            }
            Op::EmptyDict => self.new_dict(&[])?,
            Op::Dict => {
                let flat = self.above_mark()?;
                self.new_dict(&flat)?
            }
            Op::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.extend_dict(&[key, value]);
            }
            Op::SetItems => {
                let flat = self.above_mark()?;
                return self.extend_dict(&flat);
            }
            Op::Global(module, name) => known(module, name)?,
            Op::StackGlobal => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => known(module, name)?,
                _ => return Err("the pickle names a class by something that is no text".into()),
            },
            Op::Reduce => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.reduce(callee, arguments)?
            }
            // State of an object: for `OrderedDict` it is bookkeeping of torch's modules, and is left out.
            Op::Build => {
                self.pop()?;
                return match self.top()? {
                    Value::Dict(_) => Ok(()),
                    _ => Err("the pickle sets the state of something that is no dictionary".into()),
                };
            }
            Op::PersistentId => {
                let id = self.pop()?;
                self.persistent(id)?
            }
            Op::Put(slot) => {
                self.memo.insert(slot, self.top()?);
                return Ok(());
            }
            Op::Memoize => {
                let slot = u32::try_from(self.memo.len()).map_err(|_| "the pickle remembers too many values")?;
                self.memo.insert(slot, self.top()?);
                return Ok(());
            }
            Op::Get(slot) => *self.memo.get(&slot).ok_or_else(|| format!("the pickle recalls value {slot}, which it never stored"))?,
        };
        self.stack.push(value);
        Ok(())
    }

    fn extend_list(&mut self, values: Vec<Value<'a>>) -> Read<()> {
        match self.top()? {
            Value::List(list) => self.sequences[list].extend(values),
            _ => return Err("the pickle appends to something that is no list".into()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, flat: &[Value<'a>]) -> Read<()> {
        match self.top()? {
            Value::Dict(dict) => self.dicts[dict].extend(pairs(flat)?),
            _ => return Err("the pickle sets an entry of something that is no dictionary".into()),
        }
        Ok(())
    }

    fn tuple(&self, value: Value<'a>, what: &str) -> Read<&[Value<'a>]> {
        match value {
            Value::Tuple(tuple) => Ok(&self.sequences[tuple]),
            _ => Err(format!("{what}: expected a tuple")),
        }
    }

    fn reduce(&mut self, callee: Value<'a>, arguments: Value<'a>) -> Read<Value<'a>> {
        let arguments = self.tuple(arguments, "arguments")?;
        match (callee, arguments) {
            (Value::Known(Known::OrderedDict), []) => self.new_dict(&[]),
            (Value::Known(Known::OrderedDict), _) => Err("an OrderedDict with arguments".into()),
            // Data, whether a gradient is wanted, hooks.
            (Value::Known(Known::RebuildParameter), [tensor @ Value::Tensor(_), Value::Bool(_), ..]) if arguments.len() <= 3 => Ok(*tensor),
            (Value::Known(Known::RebuildParameter), _) => Err("_rebuild_parameter with other arguments than a tensor and a flag".into()),
            // Storage, offset, shape, strides, whether a gradient is wanted, hooks, and from some versions on metadata.
            (
                Value::Known(Known::RebuildTensor),
                [Value::Storage(storage), Value::Int(offset), shape @ Value::Tuple(_), strides @ Value::Tuple(_), rest @ ..],
            ) if (1..=3).contains(&rest.len()) => {
                let offset = usize::try_from(*offset).map_err(|_| format!("a tensor at offset {offset}"))?;
                let (shape, strides) = (self.sizes(*shape, "shape")?, self.sizes(*strides, "strides")?);
                let storage = self.storages[*storage];
                self.tensors.push(TensorId { storage, offset, shape, strides });
                Ok(Value::Tensor(self.tensors.len() - 1))
            }
            (Value::Known(Known::RebuildTensor), _) => Err(format!(
                "_rebuild_tensor_v2 with {} arguments that are not storage, offset, shape, strides, flag, hooks",
                arguments.len()
            )),
            _ => Err("the pickle calls something that is no tensor, parameter or dictionary".into()),
        }
    }

    fn sizes(&self, value: Value<'a>, what: &str) -> Read<Vec<usize>> {
        let values = self.tuple(value, what)?;
        if values.len() > MAX_RANK {
            return Err(format!("a tensor of {} axes, more than {MAX_RANK}", values.len()));
        }
        let size = |value: &Value<'a>| match value {
            Value::Int(size) => usize::try_from(*size).map_err(|_| format!("a tensor whose {what} holds {size}")),
            _ => Err(format!("a tensor whose {what} holds something that is no integer")),
        };
        values.iter().map(size).collect()
    }

    /// `("storage", type, key, device, values)`, with an optional `None` that old versions add.
    fn persistent(&mut self, id: Value<'a>) -> Read<Value<'a>> {
        let parts = self.tuple(id, "persistent id")?;
        match parts.strip_suffix(&[Value::None]).unwrap_or(parts) {
            [Value::Text("storage"), Value::Known(Known::Storage(dtype)), Value::Text(key), Value::Text(_), Value::Int(values)] => {
                let values = usize::try_from(*values).map_err(|_| format!("a storage of {values} values"))?;
                let storage = StorageId { dtype: *dtype, key, values };
                self.storages.push(storage);
                Ok(Value::Storage(self.storages.len() - 1))
            }
            other => Err(format!("a persistent id of {} parts that is not (\"storage\", type, key, device, values)", other.len())),
        }
    }
}

fn known<'a>(module: &str, name: &str) -> Read<Value<'a>> {
    Known::of(module, name).map(Value::Known).ok_or_else(|| {
        let (module, name) = (module.escape_debug(), name.escape_debug());
        format!(
            "the pickle names `{module}.{name}`, and only tensors in plain dictionaries are read; nothing was executed. \
             Where the file is trusted, save its state_dict as .safetensors"
        )
    })
}

fn pairs<'a>(flat: &[Value<'a>]) -> Read<Vec<(Value<'a>, Value<'a>)>> {
    match flat.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
        _ => Err("the pickle gives a key without a value".into()),
    }
}
