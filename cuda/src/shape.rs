//! The nouns that attention crates share: the shape of an attention problem and the map of kept blocks.

use crate::Error;

/// Order of the axes in which queries, keys, values and outputs lie in memory; a row is `head_dim` contiguous values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadLayout {
    /// `[batch, heads, len, head_dim]`.
    #[default]
    Bhld,
    /// `[batch, len, heads, head_dim]`: what a linear layer writes, read without a transpose.
    Blhd,
}

/// Shape of one attention problem, checked once when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttnShape {
    /// Samples.
    pub batch: usize,
    /// Heads, the same for queries and keys.
    pub heads: usize,
    /// Query rows a head.
    pub query_len: usize,
    /// Key rows a head.
    pub key_len: usize,
    /// Channels a head.
    pub head_dim: usize,
    /// Memory order of all four operands.
    pub layout: HeadLayout,
}

impl AttnShape {
    /// A self-attention shape in `[B, H, L, D]` order.
    ///
    /// # Errors
    /// [`Error::Size`] when an axis is zero.
    pub fn new(batch: usize, heads: usize, len: usize, head_dim: usize) -> Result<Self, Error> {
        Self::cross(batch, heads, len, len, head_dim)
    }

    /// A shape whose queries and keys differ in length, in `[B, H, L, D]` order.
    ///
    /// # Errors
    /// [`Error::Size`] when an axis is zero.
    pub fn cross(batch: usize, heads: usize, query_len: usize, key_len: usize, head_dim: usize) -> Result<Self, Error> {
        for (what, found) in
            [("batch", batch), ("heads", heads), ("query length", query_len), ("key length", key_len), ("head dim", head_dim)]
        {
            if found == 0 {
                return Err(Error::Size { what, must: "at least 1", found });
            }
        }
        Ok(Self { batch, heads, query_len, key_len, head_dim, layout: HeadLayout::Bhld })
    }

    /// The same shape in another memory order.
    pub fn with_layout(self, layout: HeadLayout) -> Self {
        Self { layout, ..self }
    }

    /// Values in the queries (and in the output).
    pub fn query_values(&self) -> usize {
        self.batch * self.heads * self.query_len * self.head_dim
    }

    /// Values in the keys (and in the values).
    pub fn key_values(&self) -> usize {
        self.batch * self.heads * self.key_len * self.head_dim
    }

    /// Heads over the whole batch: the unit of independent work.
    pub fn problems(&self) -> usize {
        self.batch * self.heads
    }

    /// Where query row `row` of problem `problem` (= `batch * heads + head`) starts.
    pub fn query_offset(&self, problem: usize, row: usize) -> usize {
        self.offset(problem, row, self.query_len)
    }

    /// Where key row `row` of problem `problem` starts.
    pub fn key_offset(&self, problem: usize, row: usize) -> usize {
        self.offset(problem, row, self.key_len)
    }

    /// Values from one row of a head to the next.
    pub fn row_stride(&self) -> usize {
        match self.layout {
            HeadLayout::Bhld => self.head_dim,
            HeadLayout::Blhd => self.heads * self.head_dim,
        }
    }

    fn offset(&self, problem: usize, row: usize, len: usize) -> usize {
        match self.layout {
            HeadLayout::Bhld => (problem * len + row) * self.head_dim,
            HeadLayout::Blhd => {
                let (batch, head) = (problem / self.heads, problem % self.heads);
                ((batch * len + row) * self.heads + head) * self.head_dim
            }
        }
    }
}

/// Key blocks that each query block attends to: for every head a list of the same length, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMap {
    block_q: usize,
    block_k: usize,
    query_blocks: usize,
    key_blocks: usize,
    kept: usize,
    lists: Vec<u32>,
}

impl BlockMap {
    /// A map from its lists, `[problems, ceil(query_len / block_q), kept]`, each strictly ascending.
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::Size`] when the lists do not fit the shape or are not ascending.
    pub fn new(shape: &AttnShape, block_q: usize, block_k: usize, kept: usize, lists: Vec<u32>) -> Result<Self, Error> {
        if block_q == 0 || block_k == 0 {
            return Err(Error::Size { what: "block side", must: "at least 1", found: 0 });
        }
        let (query_blocks, key_blocks) = (shape.query_len.div_ceil(block_q), shape.key_len.div_ceil(block_k));
        if kept == 0 || kept > key_blocks {
            return Err(Error::Size { what: "kept blocks", must: "between 1 and the number of key blocks", found: kept });
        }
        Error::expect_len("block map", &lists, shape.problems() * query_blocks * kept)?;
        for list in lists.chunks(kept) {
            let ascending = list.windows(2).all(|pair| pair[0] < pair[1]);
            let last = list[kept - 1] as usize;
            if !ascending || last >= key_blocks {
                return Err(Error::Size { what: "block index", must: "ascending and below the number of key blocks", found: last });
            }
        }
        Ok(Self { block_q, block_k, query_blocks, key_blocks, kept, lists })
    }

    /// Rows of a query block.
    pub fn block_q(&self) -> usize {
        self.block_q
    }

    /// Rows of a key block.
    pub fn block_k(&self) -> usize {
        self.block_k
    }

    /// Query blocks a head.
    pub fn query_blocks(&self) -> usize {
        self.query_blocks
    }

    /// Key blocks a head.
    pub fn key_blocks(&self) -> usize {
        self.key_blocks
    }

    /// Key blocks kept for each query block.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Key blocks that query block `block` of problem `problem` attends to, ascending.
    pub fn list(&self, problem: usize, block: usize) -> &[u32] {
        let start = (problem * self.query_blocks + block) * self.kept;
        &self.lists[start..start + self.kept]
    }

    /// All lists, `[problems, query_blocks, kept]`.
    pub fn lists(&self) -> &[u32] {
        &self.lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_name_the_same_rows() {
        let bhld = AttnShape::cross(2, 3, 5, 7, 4).unwrap();
        let blhd = bhld.with_layout(HeadLayout::Blhd);
        assert_eq!(bhld.query_offset(4, 2), (4 * 5 + 2) * 4);
        assert_eq!(blhd.query_offset(4, 2), ((5 + 2) * 3 + 1) * 4);
        assert_eq!(blhd.key_offset(4, 2), ((7 + 2) * 3 + 1) * 4);
    }

    #[test]
    fn a_map_that_does_not_ascend_is_refused() {
        let shape = AttnShape::new(1, 1, 200, 64).unwrap();
        assert!(BlockMap::new(&shape, 128, 64, 2, vec![0, 1, 2, 3]).is_ok());
        assert!(BlockMap::new(&shape, 128, 64, 2, vec![1, 0, 2, 3]).is_err());
        assert!(BlockMap::new(&shape, 128, 64, 2, vec![0, 1, 2, 4]).is_err());
        assert!(BlockMap::new(&shape, 128, 64, 0, vec![]).is_err());
    }
}
