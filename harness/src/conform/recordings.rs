//! What a fixture recorded inside a transformer, and what was seen there.

use turbowan_reference::metrics::Bound;
use turbowan_wan_model::Error as ModelError;
use turbowan_wan_model::attention::Sparsity;
use turbowan_wan_model::backend::host::{HostTensor, block_map};
use turbowan_wan_model::backend::{Backend, Heads};
use turbowan_wan_model::dit::{Observer, Place};

use super::{Error, Rows, Tensors};

/// Holds recorded activations and block maps to what the network shows.
#[derive(Default)]
pub(super) struct Recordings {
    /// `(place, name in the fixture, values)`.
    pub activations: Vec<(Place, String, Vec<f32>)>,
    got: Vec<(String, Vec<f32>)>,
    /// The sparsity whose block maps are kept.
    sparsity: Option<Sparsity>,
    /// Key blocks of every block that was seen.
    pub lists: Vec<Vec<i64>>,
}

impl Recordings {
    /// The recorded activations whose names begin with `prefix`.
    pub fn of(io: &Tensors, prefix: &str, layers: usize) -> Result<Self, Error> {
        let mut activations = Vec::new();
        let places = [(Place::Patches, "patch_embedding_out".to_owned()), (Place::Head, "head_out".to_owned())];
        let blocks = (0..layers).map(|index| (Place::Block(index), format!("block{index}_out")));
        for (place, name) in places.into_iter().chain(blocks) {
            let name = format!("{prefix}{name}");
            if io.has(&name) {
                activations.push((place, name.clone(), io.f32(&name)?));
            }
        }
        Ok(Self { activations, ..Self::default() })
    }

    /// Nothing recorded; the block maps of a sparsity are kept.
    pub fn of_maps(sparsity: Sparsity) -> Self {
        Self { sparsity: Some(sparsity), ..Self::default() }
    }

    /// Holds what was seen to them.
    pub fn compare(&self, rows: &mut Rows, bound: Bound) {
        for (_, name, want) in &self.activations {
            match self.got.iter().find(|(got, _)| got == name) {
                Some((_, got)) => rows.compare(name, got, want, bound),
                None => rows.fact(name, false, "never seen"),
            }
        }
    }
}

impl<B: Backend> Observer<B> for Recordings {
    fn see(&mut self, backend: &B, place: Place, rows: &B::Tensor) -> turbowan_wan_model::Result<()> {
        for (at, name, _) in &self.activations {
            if *at == place {
                self.got.push((name.clone(), backend.download(rows)?));
            }
        }
        Ok(())
    }

    fn wants_attention(&mut self, _: usize) -> bool {
        self.sparsity.is_some()
    }

    fn see_attention(&mut self, backend: &B, _: usize, qkv: [&B::Tensor; 3], heads: Heads) -> turbowan_wan_model::Result<()> {
        if let Some(sparsity) = &self.sparsity {
            let width = heads.heads * heads.head_dim;
            let [q, k] = [qkv[0], qkv[1]].map(|rows| Ok::<_, ModelError>(HostTensor { width, values: backend.download(rows)? }));
            let map = block_map(backend.rounding(), &q?, &k?, heads, sparsity)?;
            self.lists.push(map.lists().iter().map(|block| i64::from(*block)).collect());
        }
        Ok(())
    }
}
