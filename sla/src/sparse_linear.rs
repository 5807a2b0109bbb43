//! The two branches together.

use std::borrow::Cow;

use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, BlockMap, Rounding};

use crate::attend::{Attend, Keys, attend, attend_with_lse};
use crate::linear::{LinearBranch, Projection, add_linear_branch};
use crate::{Density, Error, FeatureMap, block_map};

/// Sparse-linear attention: `o = o_s + (o_l Wᵀ + b)`.
#[derive(Debug, Clone, Copy)]
pub struct SparseLinear<'a> {
    /// Share of key blocks kept for each query block.
    pub density: Density,
    /// Rows of a query block.
    pub block_q: usize,
    /// Rows of a key block.
    pub block_k: usize,
    /// φ of the linear branch.
    pub features: FeatureMap,
    /// `proj_l`, one for all heads.
    pub projection: Projection<'a>,
    /// Number format of the operands and the result. The block map is chosen in it.
    pub outer: Rounding,
    /// Number format inside both branches: the official module casts its operands to bf16 whatever they come in.
    pub inner: Rounding,
    /// Instruction set of the loops.
    pub isa: Isa,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Key blocks of each query block.
    pub map: BlockMap,
    /// The sparse branch, in the layout of the queries.
    pub sparse: Vec<f32>,
    /// Base-2 logarithm of each query's softmax denominator, `[batch * heads, query_len]`.
    pub lse: Vec<f32>,
}

impl SparseLinear<'_> {
    /// The block map for these queries and keys.
    ///
    /// # Errors
    /// As [`block_map()`].
    pub fn map(&self, q: &[f32], k: &[f32], shape: &AttnShape) -> Result<BlockMap, Error> {
        block_map(q, k, shape, (self.block_q, self.block_k), self.density, self.outer)
    }

    /// The output, in the layout and shape of the queries.
    ///
    /// # Errors
    /// When an operand does not fit `shape`.
    pub fn forward(&self, q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape) -> Result<Vec<f32>, Error> {
        self.check(q, k, v, shape)?;
        let map = self.map(q, k, shape)?;
        let [q, k, v] = [q, k, v].map(|values| self.inside(values));
        let mut out = attend(&q, &k, &v, shape, &self.sparse(&map))?;
        self.add_linear(&q, &k, &v, shape, &mut out)?;
        Ok(out)
    }

    /// As [`SparseLinear::forward`], keeping what [`SparseLinear::backward`] needs.
    ///
    /// # Errors
    /// As [`SparseLinear::forward`].
    pub fn forward_saved(&self, q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape) -> Result<(Vec<f32>, Saved), Error> {
        self.check(q, k, v, shape)?;
        let map = self.map(q, k, shape)?;
        let [q, k, v] = [q, k, v].map(|values| self.inside(values));
        let sparse = attend_with_lse(&q, &k, &v, shape, &self.sparse(&map))?;
        let mut out = sparse.out.clone();
        self.add_linear(&q, &k, &v, shape, &mut out)?;
        Ok((out, Saved { map, sparse: sparse.out, lse: sparse.lse }))
    }

    pub(crate) fn check(&self, q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape) -> Result<(), Error> {
        turbowan_cuda::Error::expect_len("queries", q, shape.query_values())?;
        turbowan_cuda::Error::expect_len("keys", k, shape.key_values())?;
        turbowan_cuda::Error::expect_len("values", v, shape.key_values())?;
        self.projection.check(shape.head_dim)
    }

    fn sparse<'b>(&self, map: &'b BlockMap) -> Attend<'b> {
        Attend { keys: Keys::Listed(map), rounding: self.inner, isa: self.isa, ..Attend::default() }
    }

    fn add_linear(&self, q: &[f32], k: &[f32], v: &[f32], shape: &AttnShape, out: &mut [f32]) -> Result<(), Error> {
        let linear = LinearBranch { features: self.features, projection: Some(self.projection), rounding: self.inner, isa: self.isa };
        add_linear_branch(q, k, v, shape, &linear, out)?;
        if self.inner == Rounding::None {
            self.outer.apply_row(out);
        }
        Ok(())
    }

    /// An operand as the branches read it.
    pub(crate) fn inside<'b>(&self, values: &'b [f32]) -> Cow<'b, [f32]> {
        if self.inner == Rounding::None || self.outer == Rounding::Bf16 {
            return Cow::Borrowed(values);
        }
        let mut values = values.to_vec();
        self.inner.apply_row(&mut values);
        Cow::Owned(values)
    }
}
