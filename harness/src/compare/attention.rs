//! Two ways of self-attention on the same queries, keys and values, on the host as a network runs them.

use std::fmt;
use std::path::Path;

use turbowan_cuda::Rounding;
use turbowan_reference::inputs::{self, Kind};
use turbowan_reference::metrics::Distance;
use turbowan_sla::Density;
use turbowan_wan_model::attention::{Attention, SlaProjection, Sparsity};
use turbowan_wan_model::backend::Heads;
use turbowan_wan_model::backend::host::{Host, HostTensor};

use super::{Pair, timed};
use crate::error::Error;
use crate::run::capture::Captured;

/// A way to attend, as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// Dense, floating point.
    Original,
    /// Dense, INT8.
    Sage,
    /// Sparse, floating point, with this share of key blocks.
    Sla(f64),
    /// Sparse, INT8, with this share of key blocks.
    SageSla(f64),
}

impl Way {
    /// `dense`, `original`, `sage`, `sla`, `sla:0.2`, `sagesla`, `sagesla:0.2`; none for another word.
    ///
    /// # Errors
    /// A share that is none.
    pub fn parse(word: &str, topk: f64) -> Result<Option<Self>, Error> {
        let (name, share) = match word.split_once(':') {
            Some((name, share)) => {
                (name, share.parse().map_err(|_| Error::flag("compare", format!("{share:?} is no share of key blocks")))?)
            }
            None => (word, topk),
        };
        let way = match name {
            "dense" | "original" => Self::Original,
            "sage" => Self::Sage,
            "sla" => Self::Sla(share),
            "sagesla" => Self::SageSla(share),
            _ => return Ok(None),
        };
        match way {
            Self::Original | Self::Sage if word != name => {
                Err(Error::flag("compare", format!("{name} keeps every block; {word:?} cannot be")))
            }
            Self::Sla(share) | Self::SageSla(share) if Density::new(share).is_none() => {
                Err(Error::flag("compare", format!("{share} is not a share in (0, 1]")))
            }
            way => Ok(Some(way)),
        }
    }

    fn attention(self, rounding: Rounding) -> Attention {
        // a share was checked when it was read
        let sparsity = |share| Sparsity { inner: rounding, ..Sparsity::official(Density::new(share).unwrap_or(Density::DENSE)) };
        match self {
            Self::Original => Attention::Original,
            Self::Sage => Attention::Sage,
            Self::Sla(share) => Attention::Sla(sparsity(share)),
            Self::SageSla(share) => Attention::SageSla(sparsity(share)),
        }
    }

    /// Whether it has a linear branch.
    pub fn is_sparse(self) -> bool {
        matches!(self, Self::Sla(_) | Self::SageSla(_))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Original => f.write_str("original"),
            Self::Sage => f.write_str("sage"),
            Self::Sla(share) => write!(f, "sla:{share}"),
            Self::SageSla(share) => write!(f, "sagesla:{share}"),
        }
    }
}

/// Queries, keys and values, `[batch, tokens, heads, head_dim]`.
#[derive(Debug, Clone)]
pub struct Input {
    /// Where they come from.
    pub name: String,
    /// `[batch, tokens, heads, head_dim]`.
    pub shape: [usize; 4],
    /// Queries, keys and values.
    pub qkv: [Vec<f32>; 3],
}

impl Input {
    /// Drawn ones: standard normal, or with outlier channels in queries and keys as Wan has them.
    pub fn drawn(is_outlier: bool, shape @ [batch, tokens, heads, head_dim]: [usize; 4], seed: u64) -> Self {
        let kind = if is_outlier { Kind::OutlierChannel } else { Kind::Plain };
        let rows = |kind, more| inputs::rows(kind, batch * tokens * heads, head_dim, seed + more);
        let name = if is_outlier { "outlier channels" } else { "random" };
        Self { name: name.to_owned(), shape, qkv: [rows(kind, 0), rows(kind, 1), rows(Kind::Plain, 2)] }
    }

    /// Those of a file that `--capture` wrote.
    ///
    /// # Errors
    /// When it is no such file.
    pub fn captured(path: &Path) -> Result<Self, Error> {
        let Captured { shape, qkv, description } = Captured::load(path)?;
        let name = description.map_or_else(
            || path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            |seen| format!("block {} of {}, step {} of {}", seen.block, seen.blocks, seen.step, seen.steps),
        );
        Ok(Self { name, shape, qkv })
    }
}

/// `way` on an input; the linear branch of a sparse one is left out, for its projection is a part of a trained model.
///
/// # Errors
/// A shape that cannot be attended.
pub fn attend(input: &Input, way: Way, rounding: Rounding) -> Result<Vec<f32>, Error> {
    let [batch, _, heads, head_dim] = input.shape;
    let qkv = input.qkv.clone().map(|mut values| {
        rounding.apply_row(&mut values);
        HostTensor { width: heads * head_dim, values }
    });
    let none = SlaProjection { weight: vec![0.0; head_dim * head_dim], bias: vec![0.0; head_dim] };
    let projection = way.is_sparse().then_some(&none);
    let heads = Heads { batch, heads, head_dim };
    let out = Host { rounding }.self_attention(qkv.each_ref(), heads, &way.attention(rounding), projection)?;
    Ok(out.rows.values)
}

/// A against B on one input.
///
/// # Errors
/// A shape that cannot be attended.
pub fn compare(input: &Input, ways: [Way; 2], rounding: Rounding, runs: usize) -> Result<Pair, Error> {
    let (a, a_ms) = timed(runs, || attend(input, ways[0], rounding))?;
    let (b, b_ms) = timed(runs, || attend(input, ways[1], rounding))?;
    let [batch, tokens, heads, head_dim] = input.shape;
    let what = format!("{}: {batch} x {tokens} x {heads} x {head_dim}", input.name);
    let (head, error) = worst_head(&a, &b, heads, head_dim);
    let worst = format!("head {head}: rel L2 {error:.2e}");
    Ok(Pair { what, distance: Distance::between(&a, &b), worst, milliseconds: [Some(a_ms), Some(b_ms)] })
}

/// The head whose relative L2 is largest.
fn worst_head(a: &[f32], b: &[f32], heads: usize, head_dim: usize) -> (usize, f64) {
    let of = |values: &[f32], head: usize| -> Vec<f32> {
        values.chunks(heads * head_dim).flat_map(|row| row[head * head_dim..(head + 1) * head_dim].to_vec()).collect()
    };
    let errors = (0..heads).map(|head| (head, Distance::between(&of(a, head), &of(b, head)).relative_l2));
    errors.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_ways() {
        let way = |word| Way::parse(word, 0.1);
        assert_eq!(way("dense").unwrap(), Some(Way::Original));
        assert_eq!(way("sla").unwrap(), Some(Way::Sla(0.1)));
        assert_eq!(way("sagesla:0.25").unwrap(), Some(Way::SageSla(0.25)));
        assert_eq!(way("host").unwrap(), None);
        for word in ["sla:0", "sla:2", "sla:much", "sage:0.1", "sagesla:-1"] {
            assert!(way(word).is_err(), "{word}");
        }
    }

    #[test]
    fn all_blocks_are_dense_attention_and_few_are_not() {
        for is_outlier in [false, true] {
            let input = Input::drawn(is_outlier, [1, 200, 2, 64], 3);
            let all = compare(&input, [Way::Sla(1.0), Way::Original], Rounding::None, 1).unwrap();
            assert!(all.distance.relative_l2 < 1e-6, "{all:?}");
            let few = compare(&input, [Way::Sla(0.1), Way::Original], Rounding::None, 1).unwrap();
            assert!(few.distance.relative_l2 > 0.05 && few.milliseconds[0].is_some(), "{few:?}");
        }
    }

    #[test]
    fn the_worst_head_is_the_one_that_is_off() {
        let b: Vec<f32> = (0..24).map(|i| 1.0 + i as f32).collect();
        let mut a = b.clone();
        a[4] += 0.5; // token 0, head 1 of three, channel 0 of four
        assert_eq!(worst_head(&a, &b, 3, 4).0, 1);
    }
}
