//! Draws for training: normals and uniforms of any count, one counter.
//!
//! Every value is a function of (seed, draw, element) and nothing else, as in the `native` module, so a stream is two integers: saved and
//! restored, it goes on with the same bytes.

use rayon::prelude::*;

use super::native;
use crate::resume::{Resumable, Slice, SliceMut, Values, ValuesMut};

/// Values that one task fills; even, since values come in pairs.
const CHUNK: usize = 1 << 12;

/// A seeded stream of draws of any lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Seed and number of the next draw.
    state: [u64; 2],
}

impl Stream {
    /// The stream of a seed, before its first draw.
    pub fn new(seed: u64) -> Self {
        Self { state: [seed, 0] }
    }

    /// Draws made so far.
    pub fn draws(&self) -> u64 {
        self.state[1]
    }

    /// The next draw: `count` standard normals, rounded to f32.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        let [seed, draw] = self.next();
        let mut values = vec![0.0; count];
        let chunks = values.par_chunks_mut(CHUNK).enumerate();
        chunks.for_each(|(chunk, values)| native::fill_from(seed, draw, (chunk * CHUNK / 2) as u64, values));
        values
    }

    /// The next draw: `count` standard normals in f64.
    pub fn exact_normals(&mut self, count: usize) -> Vec<f64> {
        let [seed, draw] = self.next();
        (0..count).map(|element| native::normal_pair(seed, draw, element as u64 / 2)[element % 2]).collect()
    }

    /// The next draw: `count` uniforms in the open interval `(0, 1)`.
    pub fn uniforms(&mut self, count: usize) -> Vec<f64> {
        let [seed, draw] = self.next();
        (0..count).map(|element| native::uniform(seed, draw, element as u64)).collect()
    }

    fn next(&mut self) -> [u64; 2] {
        let now = self.state;
        self.state[1] += 1;
        now
    }
}

impl Resumable for Stream {
    fn state(&self) -> Vec<Slice<'_>> {
        vec![Slice { name: "noise".to_owned(), values: Values::U64(&self.state) }]
    }

    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        vec![SliceMut { name: "noise".to_owned(), values: ValuesMut::U64(&mut self.state) }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{NoiseKind, NoiseSource};

    #[test]
    fn a_draw_is_that_of_the_native_source_however_it_is_cut_into_tasks() {
        let count = 3 * CHUNK + 5;
        let mut source = NoiseSource::seeded(NoiseKind::Native, 3);
        let mut stream = Stream::new(3);
        for _ in 0..2 {
            let mut want = vec![0.0; count];
            source.fill(&mut want).unwrap();
            assert_eq!(stream.normals(count), want);
        }
        let exact: Vec<f32> = Stream::new(3).exact_normals(7).into_iter().map(|value| value as f32).collect();
        assert_eq!(exact, Stream::new(3).normals(7));
    }

    #[test]
    fn uniforms_fill_the_open_unit_interval_evenly() {
        let values = Stream::new(5).uniforms(100_000);
        assert!(values.iter().all(|u| *u > 0.0 && *u < 1.0));
        let mean = values.iter().sum::<f64>() / 1e5;
        let square = values.iter().map(|u| u * u).sum::<f64>() / 1e5;
        // Five standard errors.
        assert!((mean - 0.5).abs() < 0.0046 && (square - 1.0 / 3.0).abs() < 0.0048, "mean {mean}, square {square}");
        for tenth in 0..10 {
            let count = values.iter().filter(|u| (**u * 10.0) as usize == tenth).count();
            assert!((9_500..10_500).contains(&count), "{count} of 100000 in tenth {tenth}");
        }
    }

    #[test]
    fn a_stream_goes_on_from_its_state() {
        let mut stream = Stream::new(9);
        stream.normals(3);
        let mut other = Stream::new(0);
        crate::resume::restore(&mut other, &stream.state()).unwrap();
        assert_eq!(other, stream);
        assert_eq!(other.uniforms(4), stream.uniforms(4));
        assert_eq!(other.draws(), 2);
    }
}
