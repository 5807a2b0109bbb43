//! The token grid of a latent: patches, and how they go in and come out.

use crate::config::DitConfig;
use crate::{Error, Result};

/// A latent's size in latent positions: frames, height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Latent frames.
    pub frames: usize,
    /// Latent rows, even.
    pub height: usize,
    /// Latent columns, even.
    pub width: usize,
}

impl Grid {
    /// Positions of one channel of a latent.
    pub fn positions(&self) -> usize {
        self.frames * self.height * self.width
    }

    /// Tokens along time, height and width.
    pub fn tokens_thw(&self) -> [usize; 3] {
        let [t, h, w] = DitConfig::PATCH;
        [self.frames / t, self.height / h, self.width / w]
    }

    /// Tokens of one sample.
    pub fn tokens(&self) -> usize {
        self.tokens_thw().iter().product()
    }

    /// Checks latents, times and text of one call.
    ///
    /// # Errors
    /// [`Error::Setting`] naming what does not fit.
    pub(super) fn check(&self, x: &[f32], batch: usize, config: &DitConfig, text_batch: usize) -> Result<()> {
        let refuse = |what, found: String, must: String| Err(Error::Setting { what, found, must });
        if !self.height.is_multiple_of(2) || !self.width.is_multiple_of(2) || self.positions() == 0 {
            let found = format!("{} x {} x {}", self.frames, self.height, self.width);
            return refuse("latent size", found, "height and width must be even and nothing may be zero".into());
        }
        let expected = batch * config.in_dim * self.positions();
        if batch == 0 || x.len() != expected {
            return refuse("latent", format!("{} values", x.len()), format!("must be {expected} for {batch} samples"));
        }
        if text_batch != 1 && text_batch != batch {
            return refuse("text batch", text_batch.to_string(), format!("must be 1 or {batch}"));
        }
        Ok(())
    }

    /// `[batch, channels, T, H, W]` to rows of `(channel, 1, 2, 2)` features, tokens in `(t, h, w)` order.
    pub(super) fn patches(&self, x: &[f32], batch: usize, channels: usize) -> Vec<f32> {
        let [frames, rows, columns] = self.tokens_thw();
        let mut out = Vec::with_capacity(x.len());
        for sample in 0..batch {
            for t in 0..frames {
                for h in 0..rows {
                    for w in 0..columns {
                        for channel in 0..channels {
                            for dh in 0..2 {
                                let start = self.index(sample * channels + channel, t, 2 * h + dh, 2 * w);
                                out.extend_from_slice(&x[start..start + 2]);
                            }
                        }
                    }
                }
            }
        }
        out
    }

    /// Rows of `(1, 2, 2, channel)` features back to `[batch, channels, T, H, W]`: here the channel is the fastest.
    pub(super) fn unpatches(&self, tokens: &[f32], batch: usize, channels: usize) -> Vec<f32> {
        let [frames, rows, columns] = self.tokens_thw();
        let mut out = vec![0.0; tokens.len()];
        let mut features = tokens.chunks_exact(4 * channels);
        for sample in 0..batch {
            for t in 0..frames {
                for h in 0..rows {
                    for w in 0..columns {
                        let Some(token) = features.next() else { return out };
                        for (patch, values) in token.chunks_exact(channels).enumerate() {
                            for (channel, value) in values.iter().enumerate() {
                                out[self.index(sample * channels + channel, t, 2 * h + patch / 2, 2 * w + patch % 2)] = *value;
                            }
                        }
                    }
                }
            }
        }
        out
    }

    /// `[batch, channels, T, H, W]` to rows of `(1, 2, 2, channel)` features: the transpose of [`Grid::unpatches`], which
    /// takes the gradient of what it made to that of what it read.
    pub(super) fn unpatches_gradient(&self, x: &[f32], batch: usize, channels: usize) -> Vec<f32> {
        let [frames, rows, columns] = self.tokens_thw();
        let mut out = Vec::with_capacity(x.len());
        for sample in 0..batch {
            for t in 0..frames {
                for h in 0..rows {
                    for w in 0..columns {
                        for patch in 0..4 {
                            let at = |channel| self.index(sample * channels + channel, t, 2 * h + patch / 2, 2 * w + patch % 2);
                            out.extend((0..channels).map(|channel| x[at(channel)]));
                        }
                    }
                }
            }
        }
        out
    }

    fn index(&self, plane: usize, t: usize, h: usize, w: usize) -> usize {
        ((plane * self.frames + t) * self.height + h) * self.width + w
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_put_the_channel_first_and_unpatches_put_it_last() {
        let grid = Grid { frames: 1, height: 2, width: 4 };
        let x: Vec<f32> = (0..16).map(|v| v as f32).collect(); // two channels of 2 x 4
        let rows = grid.patches(&x, 1, 2);
        assert_eq!(rows[..8], [0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 12.0, 13.0]);
        let channel_last: Vec<f32> = rows.chunks(8).flat_map(|r| (0..4).flat_map(|p| [r[p], r[4 + p]])).collect();
        assert_eq!(grid.unpatches(&channel_last, 1, 2), x);
        assert_eq!(grid.unpatches_gradient(&x, 1, 2), channel_last);
    }
}
