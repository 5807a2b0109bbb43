//! What a run of training must remember, as named slices: written down and read back, it goes on to the same bits.
//!
//! Optimisers, averages and noise streams are [`Resumable`]. How slices become files is not this crate's business.

use crate::error::Error;

/// A named part of a state, to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice<'a> {
    /// Unique in its owner.
    pub name: String,
    /// The numbers.
    pub values: Values<'a>,
}

/// Numbers of a state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values<'a> {
    /// Moments and averages.
    F32(&'a [f32]),
    /// Counters and seeds.
    U64(&'a [u64]),
}

/// A named part of a state, to be written.
#[derive(Debug)]
pub struct SliceMut<'a> {
    /// Unique in its owner.
    pub name: String,
    /// The numbers.
    pub values: ValuesMut<'a>,
}

/// Numbers of a state, to be written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// Moments and averages.
    F32(&'a mut [f32]),
    /// Counters and seeds.
    U64(&'a mut [u64]),
}

/// Holds a state whose slices have the same names and lengths in every run with the same settings.
pub trait Resumable {
    /// The state, in a fixed order.
    fn state(&self) -> Vec<Slice<'_>>;

    /// The same slices in the same order, to be overwritten.
    fn state_mut(&mut self) -> Vec<SliceMut<'_>>;
}

/// Overwrites `into` with `from`, slice by slice, by name; nothing is written unless everything fits.
///
/// # Errors
/// [`Error::StateMissing`] for a slice that `from` lacks, [`Error::StateForeign`] for one that `into` lacks,
/// [`Error::StateLength`] for one of another length or kind.
pub fn restore(into: &mut (impl Resumable + ?Sized), from: &[Slice<'_>]) -> Result<(), Error> {
    let find = |name: &str| from.iter().find(|slice| slice.name == name).ok_or_else(|| Error::StateMissing { name: name.to_owned() });
    let names: Vec<String> = into.state().into_iter().map(|slice| slice.name).collect();
    if let Some(foreign) = from.iter().find(|slice| !names.contains(&slice.name)) {
        return Err(Error::StateForeign { name: foreign.name.clone() });
    }
    for slice in into.state() {
        let (expected, found) = (shape(slice.values), shape(find(&slice.name)?.values));
        if expected != found {
            return Err(Error::StateLength { name: slice.name, expected, found });
        }
    }
    for slice in into.state_mut() {
        match (slice.values, find(&slice.name)?.values) {
            (ValuesMut::F32(into), Values::F32(from)) => into.copy_from_slice(from),
            (ValuesMut::U64(into), Values::U64(from)) => into.copy_from_slice(from),
            // The kinds were compared above.
            _ => debug_assert!(false, "slice {} changed its kind", slice.name),
        }
    }
    Ok(())
}

/// Kind and length, in words.
fn shape(values: Values<'_>) -> String {
    match values {
        Values::F32(values) => format!("{} f32", values.len()),
        Values::U64(values) => format!("{} u64", values.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two {
        values: Vec<f32>,
        counter: [u64; 1],
    }

    impl Resumable for Two {
        fn state(&self) -> Vec<Slice<'_>> {
            vec![
                Slice { name: "values".to_owned(), values: Values::F32(&self.values) },
                Slice { name: "counter".to_owned(), values: Values::U64(&self.counter) },
            ]
        }

        fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
            vec![
                SliceMut { name: "values".to_owned(), values: ValuesMut::F32(&mut self.values) },
                SliceMut { name: "counter".to_owned(), values: ValuesMut::U64(&mut self.counter) },
            ]
        }
    }

    #[test]
    fn a_state_is_copied_bit_for_bit() {
        let from = Two { values: vec![-0.0, f32::from_bits(0x7FC0_1234)], counter: [u64::MAX] };
        let mut into = Two { values: vec![0.0; 2], counter: [0] };
        restore(&mut into, &from.state()).unwrap();
        assert_eq!(into.counter, from.counter);
        assert!(into.values.iter().zip(&from.values).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn what_does_not_fit_is_named_and_nothing_is_written() {
        let mut into = Two { values: vec![1.0; 2], counter: [4] };
        let long = Two { values: vec![0.0; 3], counter: [0] };
        let refused = Error::StateLength { name: "values".to_owned(), expected: "2 f32".to_owned(), found: "3 f32".to_owned() };
        assert_eq!(restore(&mut into, &long.state()), Err(refused));
        let short = Two { values: vec![0.0; 2], counter: [0] };
        assert_eq!(restore(&mut into, &short.state()[..1]), Err(Error::StateMissing { name: "counter".to_owned() }));
        let mut foreign = long.state();
        foreign.push(Slice { name: "other".to_owned(), values: Values::F32(&[]) });
        assert_eq!(restore(&mut into, &foreign), Err(Error::StateForeign { name: "other".to_owned() }));
        let kind = vec![
            Slice { name: "values".to_owned(), values: Values::F32(&[7.0; 2]) },
            Slice { name: "counter".to_owned(), values: Values::F32(&[1.0]) },
        ];
        assert!(matches!(restore(&mut into, &kind), Err(Error::StateLength { .. })));
        assert_eq!((into.values, into.counter), (vec![1.0; 2], [4]));
    }
}
