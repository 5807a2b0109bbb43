//! Operations that only move values.
//!
//! Sources: `rcm/networks/wan2pt1.py` (the patch embedding, a convolution whose stride is its kernel, and `unpatchify`).

/// `out[i] = table[ids[i]]` for rows of `width`.
pub fn embed(table: &[f32], width: usize, ids: &[u32]) -> Vec<f32> {
    ids.iter().flat_map(|id| &table[*id as usize * width..][..width]).copied().collect()
}

/// Where the value of `(channel, dh, dw)` of a token lies in planes `[samples, channels, frames, height, width]`; tokens are in
/// the order of `(sample, t, h, w)`, and `token` counts all of them.
fn place([_, channels, frames, height, width]: [usize; 5], token: usize, channel: usize, dh: usize, dw: usize) -> usize {
    let (rows, columns) = (height / 2, width / 2);
    let (w, h) = (token % columns, token / columns % rows);
    let (t, sample) = (token / columns / rows % frames, token / columns / rows / frames);
    (((sample * channels + channel) * frames + t) * height + 2 * h + dh) * width + 2 * w + dw
}

/// The 1 x 2 x 2 patches of planes as rows of `(channel, dh, dw)`.
pub fn patches(x: &[f32], planes: [usize; 5]) -> Vec<f32> {
    let channels = planes[1];
    let row = |token| (0..channels * 4).map(move |feature| x[place(planes, token, feature / 4, feature / 2 % 2, feature % 2)]);
    (0..x.len() / (channels * 4)).flat_map(row).collect()
}

/// The planes of rows of `(dh, dw, channel)`: the channel is the fastest here.
pub fn unpatches(rows: &[f32], planes: [usize; 5]) -> Vec<f32> {
    let (channels, mut out) = (planes[1], vec![f32::NAN; rows.len()]);
    for (token, row) in rows.chunks(channels * 4).enumerate() {
        for (feature, value) in row.iter().enumerate() {
            let (patch, channel) = (feature / channels, feature % channels);
            out[place(planes, token, channel, patch / 2, patch % 2)] = *value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plane_of_two_patches_is_cut_and_put_together() {
        let planes = [1, 1, 1, 2, 4];
        let x = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(patches(&x, planes), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert_eq!(unpatches(&patches(&x, planes), planes), x);
        // with two channels the rows of one are not the rows of the other
        let two = [1, 2, 1, 2, 2];
        assert_eq!(patches(&x, two), x);
        assert_eq!(unpatches(&x, two), [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    }

    #[test]
    fn rows_are_those_of_their_numbers() {
        assert_eq!(embed(&[1.0, 2.0, 3.0, 4.0], 2, &[1, 1, 0]), [3.0, 4.0, 3.0, 4.0, 1.0, 2.0]);
    }
}
