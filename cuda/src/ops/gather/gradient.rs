//! The gradient of an embedding table, on the host.

use super::check_ids;
use crate::Error;

/// `dtable[ids[r]] += dy[r]`, rows in order; `dtable` is `[rows, width]`.
///
/// # Errors
/// [`Error::Length`] when `dy` is not a row an id, [`Error::Size`] for an id that the table does not have.
pub fn embedding_gradient(ids: &[u32], dy: &[f32], width: usize, dtable: &mut [f32]) -> Result<(), Error> {
    if width == 0 {
        return Err(Error::Size { what: "width of a table's row", must: "at least 1", found: 0 });
    }
    Error::expect_len("table gradient", dtable, dtable.len() / width * width)?;
    Error::expect_len("gradient of gathered rows", dy, ids.len() * width)?;
    check_ids(ids, dtable.len() / width)?;
    for (id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
        let row = &mut dtable[*id as usize * width..][..width];
        row.iter_mut().zip(dy).for_each(|(sum, value)| *sum += value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_id_are_added_and_others_left() {
        let mut dtable = [10.0; 6];
        embedding_gradient(&[2, 0, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, &mut dtable).unwrap();
        assert_eq!(dtable, [13.0, 14.0, 10.0, 10.0, 16.0, 18.0]);
        assert!(embedding_gradient(&[3], &[0.0; 2], 2, &mut dtable).is_err());
        assert!(embedding_gradient(&[1], &[0.0; 3], 2, &mut dtable).is_err());
        assert!(embedding_gradient(&[1], &[], 0, &mut dtable).is_err());
    }
}
