//! Statements over many rows: one round trip for hundreds of them, with real parameters.

use mysql::{Conn, Error, Params, Value, prelude::Queryable};

/// The most rows of one statement: what lars-reporter writes at once by default, so that this is one round trip.
/// With nine columns that is far below the 65,535 parameters a statement may have, and some 40 KiB, below any
/// server's `max_allowed_packet`.
pub(super) const ROWS_MAX: usize = 500;

/// Cuts rows into batches, the larger ones first, whose sizes are [`ROWS_MAX`] halved so and so often. Each size
/// is a statement of its own that has to be prepared; so there are only nine of them, prepared once per
/// connection.
pub(super) fn batches<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut sizes =
            std::iter::successors(Some(ROWS_MAX), |size| Some(size / 2)).take_while(|&size| size > 0);
        let size = sizes.find(|&size| size <= rows.len())?;
        let (batch, rest) = rows.split_at(size);
        rows = rest;
        Some(batch)
    })
}

/// `part`, `times` times, with `separator` between.
pub(super) fn repeated(part: &str, separator: &str, times: usize) -> String {
    vec![part; times].join(separator)
}

/// Executes a statement for all rows, a batch at a time. `sql` makes the text for so many rows, `values`
/// adds the parameters of one.
pub(super) fn execute<T>(
    conn: &mut Conn,
    rows: &[T],
    sql: impl Fn(usize) -> String,
    values: impl Fn(&T, &mut Vec<Value>),
) -> Result<(), Error> {
    for batch in batches(rows) {
        conn.exec_drop(sql(batch.len()), parameters(batch, &values))?;
    }
    Ok(())
}

/// The parameters of a batch.
pub(super) fn parameters<T>(batch: &[T], values: impl Fn(&T, &mut Vec<Value>)) -> Params {
    let mut all = Vec::new();
    for row in batch {
        values(row, &mut all);
    }
    Params::Positional(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_of_batches() {
        let sizes = |rows: usize| batches(&vec![(); rows]).map(<[()]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(0), [0usize; 0]);
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(7), [7]);
        assert_eq!(sizes(14), [7, 7]);
        assert_eq!(sizes(499), [250, 125, 62, 62]);
        assert_eq!(sizes(500), [500]);
        assert_eq!(sizes(1_030), [500, 500, 15, 15]);
    }

    proptest! {
        #[test]
        fn batches_are_the_rows_in_their_order(rows in prop::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert_eq!(batches(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        }
    }
}
