//! Sums over the rows of a matrix, in an order that neither threads nor instruction sets can change.

use std::ops::Range;

use super::par::{Shared, for_each_task};

/// Rows whose sums are kept apart.
const CHUNK_ROWS: usize = 64;

/// Sums over groups of `rows_per_group` rows: `body(rows, sums)` adds the rows `rows`, all of one group, to `sums`
/// (`values` long, zero at first); then `finish(group, sums)` is given the chunks of every group, in order.
///
/// The rows of a group are cut into chunks of fixed length, so the order of additions is a matter of the shape alone.
pub(crate) fn over_rows(
    rows: usize,
    rows_per_group: usize,
    values: usize,
    body: impl Fn(Range<usize>, &mut [f32]) + Sync,
    mut finish: impl FnMut(usize, &[f32]),
) {
    if rows == 0 || values == 0 {
        return;
    }
    let rows_per_group = rows_per_group.min(rows);
    let (groups, chunks) = (rows.div_ceil(rows_per_group), rows_per_group.div_ceil(CHUNK_ROWS));
    let mut partial = vec![0.0; groups * chunks * values];
    let shared = Shared::new(&mut partial);
    for_each_task(groups * chunks, |task| {
        let (group, chunk) = (task / chunks, task % chunks);
        let first = group * rows_per_group + chunk * CHUNK_ROWS;
        let end = (first + CHUNK_ROWS).min((group + 1) * rows_per_group).min(rows);
        if first < end {
            // SAFETY: every task has its own sums.
            body(first..end, unsafe { shared.part(task * values, values) });
        }
    });
    partial.chunks_exact(values).enumerate().for_each(|(task, sums)| finish(task / chunks, sums));
}

/// `total += part`.
pub(crate) fn add(total: &mut [f32], part: &[f32]) {
    total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_added_once_to_its_group() {
        for (rows, rows_per_group) in [(1usize, 1usize), (7, 3), (64, 64), (200, 100), (200, 200), (129, 1000)] {
            let mut seen = vec![0.0; rows.div_ceil(rows_per_group)];
            let body = |rows: Range<usize>, sums: &mut [f32]| rows.for_each(|row| sums[0] += 1.0 + row as f32);
            over_rows(rows, rows_per_group, 1, body, |group, sums| seen[group] += sums[0]);
            let want = |group: usize| (group * rows_per_group..rows.min((group + 1) * rows_per_group)).map(|r| 1.0 + r as f32).sum::<f32>();
            assert_eq!(seen, (0..seen.len()).map(want).collect::<Vec<_>>());
        }
    }
}
