//! [`Index`]: where in the table a module is.
//!
//! An open-addressed table of positions: a lookup reads a slot, and the row that it names. Two steps that do not depend
//! on how many modules there are, and lookups that follow each other wait for memory together.

/// A slot that names no row.
const FREE: u32 = u32::MAX;

/// Finds the rows of a table that does not change, by a 64-bit number in which their names spread.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// A power of two of them, or none.
    slots: Box<[u32]>,
}

impl Index {
    /// What a row costs at most: there are up to three slots for each.
    #[cfg(test)]
    pub(super) const BYTES_PER_MODULE_MAX: usize = 3 * size_of::<u32>();

    /// Of rows whose names spread so, from the first one on.
    ///
    /// # Panics
    /// If there are as many rows as 32 bits can number.
    pub(super) fn of(rows: impl ExactSizeIterator<Item = u64>) -> Self {
        assert!(rows.len() < FREE as usize, "rows are numbered with 32 bits");
        if rows.len() == 0 {
            return Self::default();
        }
        let mut slots = vec![FREE; (rows.len() + rows.len() / 2 + 1).next_power_of_two()].into_boxed_slice();
        let mask = slots.len() - 1;
        for (row, spread) in (0..).zip(rows) {
            let mut at = spread as usize & mask;
            while slots[at] != FREE {
                at = (at + 1) & mask;
            }
            slots[at] = row;
        }
        Self { slots }
    }

    /// The row whose name spreads so and which `is_it`.
    pub(super) fn find(&self, spread: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = spread as usize & mask;
        // A third of the slots is free, so this ends.
        while self.slots[at] != FREE {
            let row = self.slots[at] as usize;
            if is_it(row) {
                return Some(row);
            }
            at = (at + 1) & mask;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_and_nothing_else() {
        for rows in [0u64, 1, 2, 3, 1_000, 1_365, 1_366] {
            // Some of them want the same slot.
            let names: Vec<u64> = (0..rows).map(|n| n / 2 * 7_919).collect();
            let index = Index::of(names.iter().copied());
            for (row, &name) in names.iter().enumerate() {
                assert_eq!(index.find(name, |at| at == row), Some(row), "of {rows}");
            }
            assert_eq!(index.find(1, |_| false), None);
            assert!(index.slots.len() <= 3 * rows as usize + 1, "{} slots for {rows}", index.slots.len());
        }
    }
}
