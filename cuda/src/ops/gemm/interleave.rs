//! Turning rows into the order in which a tile reads them: all rows of k = 0, all rows of k = 1, and so on.

/// `to[k * to_stride + row] = from[row * from_stride + k]` for `row < rows`, `k < depth`.
///
/// Values are 32-bit words of any kind.
pub(crate) fn interleave<T: Copy>(from: &[T], from_stride: usize, rows: usize, depth: usize, to: &mut [T], to_stride: usize) {
    const { assert!(size_of::<T>() == 4, "a word of 32 bits") };
    if rows == 0 || depth == 0 {
        return;
    }
    assert!(from.len() >= (rows - 1) * from_stride + depth && to.len() >= (depth - 1) * to_stride + rows);
    let (blocked_rows, blocked_depth) = if cfg!(target_arch = "x86_64") { (rows / 4 * 4, depth / 4 * 4) } else { (0, 0) };
    #[cfg(target_arch = "x86_64")]
    for row in (0..blocked_rows).step_by(4) {
        // SAFETY: rows `row .. row + 4` and depths `0 .. blocked_depth` are inside both slices by the check above, and
        // the words have 32 bits.
        unsafe {
            let from = from.as_ptr().add(row * from_stride).cast::<u32>();
            transpose_four_rows(from, from_stride, blocked_depth, to.as_mut_ptr().add(row).cast(), to_stride);
        }
    }
    for row in 0..rows {
        let start = if row < blocked_rows { blocked_depth } else { 0 };
        for k in start..depth {
            to[k * to_stride + row] = from[row * from_stride + k];
        }
    }
}

/// Four rows in blocks of 4 x 4.
///
/// # Safety
/// `depth` is a multiple of 4; `from` holds 4 rows `from_stride` apart of at least `depth` words, `to` `depth` groups
/// of 4 words `to_stride` apart.
#[cfg(target_arch = "x86_64")]
unsafe fn transpose_four_rows(from: *const u32, from_stride: usize, depth: usize, to: *mut u32, to_stride: usize) {
    use std::arch::x86_64::*;
    for k in (0..depth).step_by(4) {
        // SAFETY: inside both buffers by the caller's promise; SSE2 is part of every x86_64.
        unsafe {
            let row = |index: usize| _mm_loadu_si128(from.add(index * from_stride + k).cast());
            let (low01, high01) = (_mm_unpacklo_epi32(row(0), row(1)), _mm_unpackhi_epi32(row(0), row(1)));
            let (low23, high23) = (_mm_unpacklo_epi32(row(2), row(3)), _mm_unpackhi_epi32(row(2), row(3)));
            let store = |index: usize, value| _mm_storeu_si128(to.add((k + index) * to_stride).cast(), value);
            store(0, _mm_unpacklo_epi64(low01, low23));
            store(1, _mm_unpackhi_epi64(low01, low23));
            store(2, _mm_unpacklo_epi64(high01, high23));
            store(3, _mm_unpackhi_epi64(high01, high23));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_lands_in_its_place() {
        for rows in [1, 3, 4, 6, 12, 17] {
            for depth in [1, 2, 4, 7, 16, 33] {
                let from: Vec<u32> = (0..rows * (depth + 2)).map(|v| v as u32).collect();
                let mut to = vec![u32::MAX; depth * (rows + 1)];
                interleave(&from, depth + 2, rows, depth, &mut to, rows + 1);
                for k in 0..depth {
                    for row in 0..rows {
                        assert_eq!(to[k * (rows + 1) + row], from[row * (depth + 2) + k], "{rows} x {depth}");
                    }
                    assert_eq!(to[k * (rows + 1) + rows], u32::MAX, "nothing between the groups is touched");
                }
            }
        }
    }
}
